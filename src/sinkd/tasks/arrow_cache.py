"""A cache of Arrow files, built once and memory-mapped afterwards.

- A file is written under a temporary name and renamed. A lock lets one process build while others wait.
- A seal, a JSON file next to it, contains its SHA-256 and notes. Arrow reads a truncated stream as a shorter one,
  without an error; the checksum detects this, and the file is rebuilt.
- Files are never stale: the name is a hash of everything the content depends on. The folder can always be deleted.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, Features
from datasets.arrow_writer import ArrowWriter
from filelock import FileLock
from tqdm.auto import tqdm

from sinkd.errors import FULL, SinkdError, first_sentence

logger = logging.getLogger(__name__)

BATCH = 1000  # rows held as Python objects at a time
CHUNK = 1 << 20

Batches = Callable[[], Iterator[dict[str, Any]]]


def cache_dir() -> Path:
    """Return the cache folder: $SINKD_CACHE, else ~/.cache/sinkd."""
    return Path(os.environ.get("SINKD_CACHE") or Path.home() / ".cache" / "sinkd")


def key_of(*parts: object) -> str:
    """Return 64 hexadecimal digits from the repr of numbers, strings, and tuples or dataclasses of them."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file; it is read again only if its size or modification time changed."""
    stat = path.stat()
    return _file_hash(path.resolve(), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _file_hash(path: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def cached(key: str, features: Features, batches: Batches, notes: dict[str, Any], title: str) -> Dataset:
    """Return the data set under `key`, built from `batches()` if it is not on disk yet.

    Args:
        key: Hash of everything that the rows depend on; becomes the data set's fingerprint.
        batches: Returns an iterator of {column: values}, a bounded number of rows each.
        notes: JSON values that `batches` fills while it runs; read from the file if there is one.
        title: Title of the progress bar, which is shown if building takes longer than three seconds.

    Raises:
        SinkdError: if the cache folder cannot be written. Errors of `batches` pass through and leave no file behind.
    """
    path = cache_dir() / key[:2] / f"{key}.arrow"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock")).acquire()  # the system releases it if its holder dies
    except OSError as error:
        raise _unwritable(path, error) from error
    with lock:
        kept = _notes(path)
        if kept is None:
            if path.exists():
                logger.warning("%s is damaged, or of an earlier version, and is built again", path)
            try:
                _build(path, key, features, batches, notes, title)
            except OSError as error:
                if error.errno not in FULL:  # one of `batches`
                    raise
                raise _unwritable(path, error) from error
        else:
            notes.update(kept)
    return Dataset.from_file(str(path))


def _unwritable(path: Path, error: OSError) -> SinkdError:
    reason = error.strerror or first_sentence(error)
    return SinkdError(f"cannot write in {path.parent} ({reason}): make room, or point SINKD_CACHE elsewhere")


def batched(rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> Iterator[dict[str, list[Any]]]:
    """Yield rows as {column: values}, BATCH rows at a time."""
    rows, columns = iter(rows), list(columns)
    while batch := list(itertools.islice(rows, BATCH)):
        yield {name: [row[name] for row in batch] for name in columns}


def _build(path: Path, key: str, features: Features, batches: Batches, notes: dict[str, Any], title: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with (
            ArrowWriter(path=str(temporary), features=features, fingerprint=key) as writer,
            tqdm(desc=title, unit=" rows", unit_scale=True, delay=3, disable=None, leave=False) as bar,
        ):
            for batch in batches():
                writer.write_batch(batch)
                bar.update(len(next(iter(batch.values()))))
            writer.finalize()
        os.replace(temporary, path)
        temporary.write_text(json.dumps({"sha256": file_hash(path), "notes": notes}), encoding="utf-8")
        os.replace(temporary, path.with_suffix(".json"))
    finally:
        temporary.unlink(missing_ok=True)


def _notes(path: Path) -> dict[str, Any] | None:
    """Return the notes of a complete file; None if it is absent, truncated or altered."""
    try:
        seal = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return dict(seal["notes"]) if seal["sha256"] == file_hash(path) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
