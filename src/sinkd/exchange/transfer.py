"""Files from the network: fetched in pieces that survive a cut connection, and checked whole.

A transfer writes `NAME.part` beside its target and renames it when size and checksum are right; started again it goes
on from there.
"""

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm.auto import tqdm

import sinkd
from sinkd.errors import SinkdError, first_sentence
from sinkd.tasks.cache import file_hash

CHUNK = 1 << 16
ATTEMPTS = 5  # in a row that bring nothing
TIMEOUT = 30.0  # seconds without a byte


class _Cut(Exception):
    """The connection broke while the file came."""


def fetch(url: str, target: Path, size: int, sha256: str, pause: float = 1.0) -> Path:
    """The file at `url` as `target`; one that is there already, and whole, stays.

    Parameters
    ----------
    size, sha256 : bytes and checksum that the file must have.
    pause : seconds before the first repetition; they double.

    Raises
    ------
    SinkdError : no connection, and how to do it by hand; a file of another size or content; a disk that takes no more.
    """
    if target.is_file():
        _check(target, url, size, sha256, "delete it and give the same command again")
        return target
    part = target.with_name(f"{target.name}.part")
    with writing(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    by_hand = f"fetch {url} by hand, put it at {target}, and give the same command again"
    failures, most = 0, _size(part)
    with tqdm(desc=target.name, unit="B", unit_scale=True, total=size, delay=1, disable=None, leave=False) as bar:
        while _size(part) != size:
            try:
                _continue(url, part, size, bar)
                reason = "the connection was cut"
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code not in (408, 416, 429):
                    raise SinkdError(f"{url} is not there (HTTP {error.code}); {by_hand}") from error
                if error.code == 416:  # what is there is not a beginning of the file
                    part.unlink(missing_ok=True)
                reason = f"HTTP {error.code}"
            except (_Cut, OSError, http.client.HTTPException) as error:
                reason = first_sentence(error)
            if _size(part) == size:
                break
            # A server that knows no ranges begins anew each time: what counts is more than there ever was.
            failures = 0 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures >= ATTEMPTS:
                raise SinkdError(f"{url} cannot be reached ({reason}); {by_hand}")
            time.sleep(min(pause * 2**failures, 30.0))
    try:
        _check(part, url, size, sha256, f"it is removed; give the same command again, or {by_hand}")
    except SinkdError:
        part.unlink()
        raise
    with writing(target):
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    return target


def _continue(url: str, part: Path, size: int, bar: tqdm) -> None:
    """Append to `part` what the server still has."""
    have = _size(part)
    headers = {"User-Agent": f"sinkd/{sinkd.__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        bar.n = start = have if goes_on else 0
        with writing(part), part.open("ab" if goes_on else "wb") as file:
            while chunk := _read(answer):
                start += len(chunk)
                if start > size:
                    part.unlink()
                    raise SinkdError(f"{url} sends more than {size:,} bytes, and is not the file that is known")
                file.write(chunk)
                bar.update(len(chunk))


def _read(answer: http.client.HTTPResponse) -> bytes:
    """Told apart from what writing raises: both are the system's errors."""
    try:
        return answer.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(first_sentence(error)) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises SinkdError for a disk that is full, a folder that may not be written to, or is no folder."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or first_sentence(error)
        raise SinkdError(
            f"{path} cannot be written ({reason}); make room or name another folder, and give the same command again"
        ) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check(path: Path, url: str, size: int, sha256: str, advice: str) -> None:
    found = path.stat().st_size
    if found != size:
        raise SinkdError(f"{path} has {found:,} bytes, and {url} should have {size:,}; {advice}")
    digest = file_hash(path)
    if digest != sha256:
        raise SinkdError(
            f"{path} is not the file that is known as {url}: its SHA-256 is {digest}, not {sha256}; {advice}"
        )
