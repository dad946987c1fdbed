"""Files from the network: fetched in pieces that survive a cut connection, checked whole, unpacked without trust.

A transfer writes `NAME.part` beside its target and renames it when size and checksum are right; started again it goes
on from there. An archive is looked through before anything of it is written: one bad entry refuses it all.
"""

import http.client
import os
import shutil
import stat
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

import sinkd
from sinkd.errors import SinkdError
from sinkd.tasks.cache import file_hash

CHUNK = 1 << 16
ATTEMPTS = 5  # in a row that bring nothing
TIMEOUT = 30.0  # seconds without a byte
_BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


def fetch(url: str, target: Path, size: int | None = None, sha256: str | None = None, pause: float = 1.0) -> Path:
    """The file at `url` as `target`; one that is there already, and whole, stays.

    Parameters
    ----------
    size, sha256 : what the file must have, where that is known; without a size, what the server announces.
    pause : seconds before the first repetition; they double.

    Raises
    ------
    SinkdError : no connection, and how to do it by hand; a file of another size or content.
    """
    if target.is_file():
        _check(target, url, size, sha256)
        return target
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    by_hand = f"fetch {url} by hand, put it at {target}, and give the same command again"
    failures = 0
    with tqdm(desc=target.name, unit="B", unit_scale=True, total=size, delay=1, disable=None, leave=False) as bar:
        while True:
            before = _size(part)
            try:
                if _continue(url, part, size, bar):
                    break
                reason = "the connection was cut"
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code not in (408, 416, 429):
                    raise SinkdError(f"{url} is not there (HTTP {error.code}); {by_hand}") from error
                if error.code == 416:  # what is there is not a beginning of the file
                    part.unlink(missing_ok=True)
                reason = f"HTTP {error.code}"
            except _BROKEN as error:
                reason = str(getattr(error, "reason", None) or error) or type(error).__name__
            failures = 0 if _size(part) > before else failures + 1
            if failures >= ATTEMPTS:
                raise SinkdError(f"{url} cannot be reached ({reason}); {by_hand}")
            time.sleep(min(pause * 2**failures, 30.0))
    try:
        _check(part, url, size, sha256)
    except SinkdError:
        part.unlink()
        raise
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
    return target


def _continue(url: str, part: Path, size: int | None, bar: tqdm) -> bool:
    """Append to `part` what the server still has; True where that is all."""
    have = _size(part)
    if size is not None and have == size:
        return True
    headers = {"User-Agent": f"sinkd/{sinkd.__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        start = have if goes_on else 0
        announced = answer.headers.get("Content-Length")
        total = size if size is not None else start + int(announced) if announced else None
        bar.total, bar.n = total, start
        with part.open("ab" if goes_on else "wb") as file:
            while chunk := answer.read(CHUNK):
                start += len(chunk)
                if total is not None and start > total:
                    part.unlink()
                    raise SinkdError(f"{url} sends more than {total:,} bytes, and is not the file that is known")
                file.write(chunk)
                bar.update(len(chunk))
    return total is None or start == total


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check(path: Path, url: str, size: int | None, sha256: str | None) -> None:
    found = path.stat().st_size
    if size is not None and found != size:
        raise SinkdError(f"{path} has {found:,} bytes, and {url} should have {size:,}; delete it and try again")
    if sha256 is not None and (digest := file_hash(path)) != sha256:
        raise SinkdError(f"{path} is not the file that is known as {url}: its SHA-256 is {digest}, not {sha256}")


def unpack(archive: Path, folder: Path, files: Mapping[str, str] | None, limit: int) -> list[Path]:
    """Write files of a ZIP archive into `folder`, and return their paths.

    Parameters
    ----------
    files : path in the archive -> path in `folder`; None for all, as they are called there.
    limit : bytes that they may come to, whatever the archive says about itself.

    Raises
    ------
    SinkdError : no archive; an entry that leads out of the folder, is a link, or is there twice; a file that is
        missing; more than `limit`. Nothing is left behind then.
    """
    aside = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _safe_entries(opened, archive)
            wanted = {name: name for name in entries} if files is None else dict(files)
            missing = sorted(wanted.keys() - entries.keys())
            if missing:
                raise SinkdError(f"{archive} lacks {missing[0]}")
            remaining = limit
            for name, target in wanted.items():
                path = aside / target
                path.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(entries[name]) as source, path.open("wb") as file:
                    while chunk := source.read(CHUNK):
                        remaining -= len(chunk)
                        if remaining < 0:
                            raise SinkdError(f"{archive} unpacks to more than {limit:,} bytes, and is refused")
                        file.write(chunk)
        written = []
        for target in wanted.values():
            path = folder / target
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(aside / target, path)
            written.append(path)
        return written
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError, OSError) as error:
        raise SinkdError(f"{archive} cannot be unpacked ({error}); delete it and try again") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _safe_entries(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The files of an archive by name, where none of its entries is dangerous."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename
        place = PurePosixPath(name)
        if (
            place.is_absolute()
            or ".." in place.parts
            or "\\" in name
            or ":" in name
            or "\0" in name
            or not name.strip("/")
        ):
            raise SinkdError(f'{path} is refused: its entry "{name}" leads out of the folder')
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise SinkdError(f'{path} is refused: its entry "{name}" is a link or a device, and no file')
        if entry.is_dir():
            continue
        if name in entries:
            raise SinkdError(f'{path} is refused: it holds "{name}" twice')
        entries[name] = entry
    return entries
