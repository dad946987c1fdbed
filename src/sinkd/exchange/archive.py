"""ZIP and tar archives, unpacked without trust: looked through before a byte is written; one bad entry refuses all."""

import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from sinkd.errors import SinkdError
from sinkd.exchange.transfer import CHUNK, writing

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    LZMAError,
    NotImplementedError,
    EOFError,
    RuntimeError,
    OSError,
)


class _Entry(NamedTuple):
    """What an archive says of a member: its name, whether it is a folder, or anything but folder or file, and bytes."""

    name: str
    is_folder: bool
    is_odd: bool
    size: int
    open: Callable[[], IO[bytes]]


def is_archive(path: Path) -> bool:
    """By its name: some weights are ZIP archives too."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def unpack(archive: Path, folder: Path, files: Mapping[str, str] | None, limit: int) -> list[Path]:
    """Write files of an archive into `folder`, and return their paths.

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
        with _opened(archive) as members:
            entries = _safe_entries(members, archive, limit)
            wanted = {name: name for name in entries} if files is None else dict(files)
            missing = sorted(wanted.keys() - entries.keys())
            if missing:
                raise SinkdError(f"{archive} lacks {missing[0]}")
            remaining = limit
            for name, target in wanted.items():
                path = aside / target
                with writing(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("wb") as file:
                        for chunk in _contents(entries[name], archive):
                            remaining -= len(chunk)
                            if remaining < 0:
                                raise _swells(archive, limit)
                            file.write(chunk)
        written = []
        for target in wanted.values():
            path = folder / target
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(aside / target, path)
            written.append(path)
        return written
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise SinkdError(f"{archive} cannot be unpacked ({error}); delete it and try again") from error


def _contents(entry: _Entry, archive: Path) -> Iterator[bytes]:
    with _reading(archive), entry.open() as source:
        while chunk := source.read(CHUNK):
            yield chunk


def _swells(archive: Path, limit: int) -> SinkdError:
    return SinkdError(f"{archive} unpacks to more than {limit:,} bytes, and is refused")


@contextmanager
def _opened(archive: Path) -> Iterator[Iterator[_Entry]]:
    """The members of a ZIP or a tar archive."""
    with ExitStack() as stack:
        with _reading(archive):
            if not zipfile.is_zipfile(archive) and tarfile.is_tarfile(archive):
                members = _tar_entries(stack.enter_context(tarfile.open(archive)))
            else:
                members = _zip_entries(stack.enter_context(zipfile.ZipFile(archive)))
        yield members


def _zip_entries(archive: zipfile.ZipFile) -> Iterator[_Entry]:
    for entry in archive.infolist():
        kind = stat.S_IFMT(entry.external_attr >> 16)
        is_odd = kind not in (0, stat.S_IFREG, stat.S_IFDIR)
        # What a ZIP says of its sizes binds nobody: they are counted as they come.
        yield _Entry(entry.filename, entry.is_dir(), is_odd, 0, partial(archive.open, entry))


def _tar_entries(archive: tarfile.TarFile) -> Iterator[_Entry]:
    def contents(entry: tarfile.TarInfo) -> IO[bytes]:
        file = archive.extractfile(entry)
        assert file is not None
        return file

    for entry in archive:
        is_odd = not (entry.isreg() or entry.isdir())
        yield _Entry(entry.name, entry.isdir(), is_odd, entry.size, partial(contents, entry))


def _safe_entries(members: Iterator[_Entry], archive: Path, limit: int) -> dict[str, _Entry]:
    """The files of an archive by name, where none of its entries is dangerous."""
    entries: dict[str, _Entry] = {}
    announced = 0
    with _reading(archive):
        for entry in members:
            name, place = entry.name, PurePosixPath(entry.name)
            if (
                place.is_absolute()
                or ".." in place.parts
                or any(character in name for character in "\\:\0")
                or not name.strip("/")
            ):
                raise SinkdError(f'{archive} is refused: its entry "{name}" leads out of the folder')
            if entry.is_odd:
                raise SinkdError(f'{archive} is refused: its entry "{name}" is a link or a device, and no file')
            # Looking for the next member of a compressed tar unpacks this one.
            announced += entry.size
            if announced > limit:
                raise _swells(archive, limit)
            if entry.is_folder:
                continue
            if str(place) in entries:
                raise SinkdError(f'{archive} is refused: it holds "{name}" twice')
            entries[str(place)] = entry
    return entries
