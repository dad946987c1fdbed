"""Unpack untrusted ZIP and tar archives: all entries are checked before a byte is written.

The standard library's filters rename or skip entries that lead out of the folder, and do not limit the size.
"""

import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from sinkd.errors import SinkdError, writing
from sinkd.exchange.transfer import CHUNK, scratch

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
DAMAGED = (
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
    """A member of an archive; `special`: neither file nor folder; `size`: bytes that a tar announces, 0 for a ZIP."""

    name: str
    is_folder: bool
    is_special: bool
    size: int
    open: Callable[[], IO[bytes] | None]


def is_archive(path: Path) -> bool:
    """Decide by name, since some weight files are ZIP archives too."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def unpack(archive: Path, folder: Path, files: Mapping[str, str] | None, limit: int) -> list[Path]:
    """Extract files from an archive into `folder`, all of them or none, and return their paths.

    Args:
        files: Path in the archive -> path in `folder`; None for all files, under their own names.
        limit: Maximum total bytes, independent of the sizes that the archive announces.

    Raises:
        SinkdError: if the archive is damaged, lacks a file, unpacks to more than `limit`, or has an entry that leads
            out of the folder, is a link or a device, or occurs twice.
    """
    with scratch(folder) as place, _opened(archive) as members:
        entries = _checked(members, archive, limit)
        wanted = {name: name for name in entries} if files is None else files
        missing = sorted(wanted.keys() - entries.keys())
        if missing:
            raise SinkdError(f"{archive} lacks {missing[0]}")
        remaining = limit
        for name, target in wanted.items():
            with writing(place / target):
                (place / target).parent.mkdir(parents=True, exist_ok=True)
                with (place / target).open("wb") as file:
                    for chunk in _contents(entries[name], archive):
                        remaining -= len(chunk)
                        if remaining < 0:
                            raise _too_large(archive, limit)
                        file.write(chunk)
        for target in wanted.values():
            with writing(folder / target):
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                os.replace(place / target, folder / target)
    return [folder / target for target in wanted.values()]


def _contents(entry: _Entry, archive: Path) -> Iterator[bytes]:
    with _reading(archive):
        source = entry.open()
        assert source is not None  # it is for links and folders
        with source:
            while chunk := source.read(CHUNK):
                yield chunk


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise SinkdError(f"{archive} cannot be unpacked ({error}); delete it and try again") from error


@contextmanager
def _opened(archive: Path) -> Iterator[Iterator[_Entry]]:
    with _reading(archive):
        is_tar = not zipfile.is_zipfile(archive) and tarfile.is_tarfile(archive)
        opened = tarfile.TarFile.open(archive) if is_tar else zipfile.ZipFile(archive)
    with opened:
        yield _tar_entries(opened) if isinstance(opened, tarfile.TarFile) else _zip_entries(opened)


def _zip_entries(archive: zipfile.ZipFile) -> Iterator[_Entry]:
    for entry in archive.infolist():
        kind = stat.S_IFMT(entry.external_attr >> 16)
        is_special = kind not in (0, stat.S_IFREG, stat.S_IFDIR)
        yield _Entry(entry.filename, entry.is_dir(), is_special, 0, partial(archive.open, entry))


def _tar_entries(archive: tarfile.TarFile) -> Iterator[_Entry]:
    for entry in archive:
        is_special = not (entry.isreg() or entry.isdir())
        yield _Entry(entry.name, entry.isdir(), is_special, entry.size, partial(archive.extractfile, entry))


def _checked(members: Iterator[_Entry], archive: Path, limit: int) -> dict[str, _Entry]:
    """The files of an archive by name. Raises SinkdError for a dangerous entry."""
    entries: dict[str, _Entry] = {}
    announced = 0
    with _reading(archive):
        for entry in members:
            name, place = entry.name, PurePosixPath(entry.name)
            outside = place.is_absolute() or ".." in place.parts or not name.strip("/")
            if outside or any(character in name for character in "\\:\0"):
                raise SinkdError(f'{archive} is refused: its entry "{name}" leads out of the folder')
            if entry.is_special:
                raise SinkdError(f'{archive} is refused: its entry "{name}" is a link or a device, not a file')
            # Finding the next member of a compressed tar unpacks everything before it.
            announced += entry.size
            if announced > limit:
                raise _too_large(archive, limit)
            if entry.is_folder:
                continue
            if str(place) in entries:
                raise SinkdError(f'{archive} is refused: it holds "{name}" twice')
            entries[str(place)] = entry
    return entries


def _too_large(archive: Path, limit: int) -> SinkdError:
    return SinkdError(f"{archive} is refused: it unpacks to more than {limit:,} bytes")
