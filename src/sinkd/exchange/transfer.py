"""Download files: an interrupted transfer resumes, and only a checked file gets its name.

A transfer writes `NAME.part` next to its target, and renames it once size and checksum match.
"""

import http.client
import os
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm.auto import tqdm

import sinkd
from sinkd.errors import SinkdError, first_sentence, writing
from sinkd.tasks.arrow_cache import file_hash

CHUNK = 1 << 16
ATTEMPTS = 5  # attempts in a row without progress
TIMEOUT = 30.0  # seconds without a byte


def fetch(url: str, target: Path, size: int, sha256: str, pause: float = 1.0) -> Path:
    """Download `url` to `target`, unless a correct file already exists.

    Args:
        size: Required size in bytes.
        sha256: Required checksum.
        pause: Seconds before the first retry; doubled each time.

    Raises:
        SinkdError: if there is no connection (the message says what to fetch by hand), the file has the wrong size or
            content, or the disk is full.
    """
    if target.is_file():
        _check(target, url, size, sha256, "delete it and run the same command again")
        return target
    part = target.with_name(f"{target.name}.part")
    with writing(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    by_hand = f"fetch {url} by hand, put it at {target}, and run the same command again"
    failures, most = 0, _size(part)
    with tqdm(desc=target.name, unit="B", unit_scale=True, total=size, delay=1, disable=None, leave=False) as bar:
        while _size(part) != size:
            try:
                _resume(url, part, size, bar)
                break
            except (OSError, http.client.HTTPException) as error:
                reason, code = first_sentence(error), getattr(error, "code", 0)
                if code == 416:  # the part is longer than the file
                    part.unlink(missing_ok=True)
                elif 400 <= code < 500 and code not in (408, 429):
                    raise SinkdError(f"{url} is not there ({reason}); {by_hand}") from error
            # A server without ranges starts over each time: only a new maximum of bytes is progress.
            failures = 0 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures >= ATTEMPTS:
                raise SinkdError(f"{url} cannot be reached ({reason}); {by_hand}")
            time.sleep(min(pause * 2**failures, 30.0))
    try:
        _check(part, url, size, sha256, f"it has been removed; run the same command again, or {by_hand}")
    except SinkdError:
        part.unlink()
        raise
    with writing(target):
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    return target


def _resume(url: str, part: Path, size: int, bar: tqdm) -> None:
    """Append the missing bytes to `part`."""
    have = _size(part)
    headers = {"User-Agent": f"sinkd/{sinkd.__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        bar.n = have = have if resumed else 0
        with writing(part), part.open("ab" if resumed else "wb") as file:
            while chunk := _read(answer):
                have += len(chunk)
                if have > size:
                    part.unlink()
                    raise SinkdError(f"{url} sends more than {size:,} bytes, so it is not the expected file")
                file.write(chunk)
                bar.update(len(chunk))
    if have < size:
        raise http.client.HTTPException("the connection was cut")


def _read(answer: http.client.HTTPResponse) -> bytes:
    """Read a chunk. Converts a broken connection's OSError, to tell it from a full disk's."""
    try:
        return answer.read(CHUNK)
    except OSError as error:
        raise http.client.HTTPException(first_sentence(error)) from error


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A temporary path near `folder`, to move into place once complete; removed when the block ends."""
    with writing(folder):
        if not folder.parent.exists():
            folder.parent.mkdir(parents=True)
        place = TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent)
    with place as home:
        yield Path(home, folder.name)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check(path: Path, url: str, size: int, sha256: str, advice: str) -> None:
    if _size(path) != size:
        raise SinkdError(f"{path} has {_size(path):,} bytes, but {url} should have {size:,}; {advice}")
    if (found := file_hash(path)) != sha256:
        raise SinkdError(f"{path} is not the expected file from {url}: its SHA-256 is {found}, not {sha256}; {advice}")
