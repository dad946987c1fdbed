"""Arrow files on disk: built once, memory-mapped ever after.

- A file is written aside, sealed and renamed: whoever finds it finds it whole. A lock lets one process build while
  others, started at the same moment, wait for its file.
- The seal behind the Arrow stream holds size, CRC-32 and notes. Arrow alone reads a truncated stream as a shorter one,
  without a word; the seal tells, and the file is built anew.
- Nothing here is ever stale: the name is a hash of all that the content depends on. Deleting the folder is always safe.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Features
from datasets.arrow_writer import ArrowWriter
from filelock import FileLock
from tqdm.auto import tqdm

from sinkd.errors import SinkdError

logger = logging.getLogger(__name__)

BATCH = 1000  # rows that are Python objects at one time
MAGIC = b"sinkd1\r\n"
CHUNK = 1 << 20

Batches = Callable[[], Iterator[dict[str, Any]]]


def cache_dir() -> Path:
    """Where Arrow files lie: $SINKD_CACHE, else ~/.cache/sinkd."""
    return Path(os.environ.get("SINKD_CACHE") or Path.home() / ".cache" / "sinkd")


def key_of(*parts: object) -> str:
    """64 hexadecimal digits from the repr of the parts: numbers, strings, and tuples or dataclasses of them."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes; read again only when its size or time of change differs."""
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
    """The data set under `key`, built from `batches()` if it is not on disk yet.

    Parameters
    ----------
    key : hash of everything that the rows depend on; becomes the data set's fingerprint.
    features : column names and types.
    batches : returns an iterator of {column: values}, a bounded number of rows each.
    notes : JSON values that `batches` fills while it runs; filled from the file where there is one.
    title : what a terminal's progress bar says when the work takes longer than a few seconds.

    Raises
    ------
    SinkdError : the cache folder cannot be written. What `batches` raises passes through and leaves no file behind.
    """
    path = cache_dir() / key[:2] / f"{key}.arrow"
    with _locked(path):
        kept = _unseal(path)
        if kept is None:
            if path.exists():
                logger.warning("%s is damaged and is built anew", path)
            _build(path, key, features, batches, notes, title)
        else:
            notes.update(kept)
    return Dataset.from_file(str(path))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The lock of a file to be; other processes wait for it, and the system frees it when its holder dies."""
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise SinkdError(f"cannot write in {path.parent} ({error.strerror}): point SINKD_CACHE elsewhere") from error
    try:
        yield
    finally:
        lock.release()


def _build(path: Path, key: str, features: Features, batches: Batches, notes: dict[str, Any], title: str) -> None:
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with (
            ArrowWriter(path=str(aside), features=features, fingerprint=key) as writer,
            tqdm(desc=title, unit=" rows", unit_scale=True, delay=3, disable=None, leave=False) as bar,
        ):
            for batch in batches():
                writer.write_batch(batch)
                bar.update(len(next(iter(batch.values()))))
            writer.finalize()
        _seal(aside, notes)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _checksum(path: Path, size: int) -> int:
    checksum = 0
    with path.open("rb") as file:
        while size > 0 and (chunk := file.read(min(CHUNK, size))):
            checksum = zlib.crc32(chunk, checksum)
            size -= len(chunk)
    return checksum


def _seal(path: Path, notes: dict[str, Any]) -> None:
    size = path.stat().st_size
    seal = json.dumps({"size": size, "crc32": _checksum(path, size), "notes": notes}).encode()
    with path.open("ab") as file:
        file.write(seal + len(seal).to_bytes(8, "little") + MAGIC)
        file.flush()
        os.fsync(file.fileno())


def _unseal(path: Path) -> dict[str, Any] | None:
    """Notes of a whole file; None for one that is absent, cut or altered."""
    tail = 8 + len(MAGIC)
    try:
        total = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, total - tail))
            end = file.read()
            length = int.from_bytes(end[:8], "little")
            if len(end) != tail or end[8:] != MAGIC or length > total - tail:
                return None
            file.seek(total - tail - length)
            seal = json.loads(file.read(length))
        size = total - tail - length
        whole = seal["size"] == size and seal["crc32"] == _checksum(path, size)
        return dict(seal["notes"]) if whole else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
