"""The templates of promptsource (Bach et al. 2022), fetched from the package index: `sinkd prompts --fetch`.

Its package refuses every Python above 3.9 and brings a web application along, so it is downloaded and not installed:
only the YAML files are taken out of the archive, each read and written by its name, with a bound on their size. They
lie in the cache folder; a folder that is there is whole.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from sinkd.errors import SinkdError
from sinkd.tasks.cache import cache_dir

VERSION = "0.2.3"
LARGEST_FILE = 1 << 20  # the largest of its files has 30 kB
LARGEST_FOLDER = 32 << 20
MOST_FILES = 5000


def promptsource_dir() -> Path:
    """Where its templates lie once they were fetched."""
    return cache_dir() / f"promptsource-{VERSION}"


def fetch() -> Path:
    """Download the archive with pip and unpack its templates, unless they are there. Returns their folder.

    Raises SinkdError where pip cannot download it, with pip's reason.
    """
    folder = promptsource_dir()
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory() as download:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        wanted = ["--ignore-requires-python", "--dest", download, f"promptsource=={VERSION}"]
        done = subprocess.run([*pip, *wanted], capture_output=True, text=True)
        archives = sorted(Path(download).glob("promptsource-*"))
        if done.returncode != 0 or not archives:
            reason = (done.stderr.strip().splitlines() or ["no archive came"])[-1]
            raise SinkdError(
                f"pip cannot download promptsource=={VERSION} ({reason}); the package index must be in reach"
            )
        return unpack(archives[0], folder)


def unpack(archive: Path, folder: Path) -> Path:
    """Write the templates of promptsource's archive, a source distribution or a wheel, into `folder`.

    Nothing else of the archive is written, and nothing outside `folder`: links and names that leave it are refused. The
    folder appears when it is whole.

    Raises SinkdError for a file that is no archive, or holds no templates, too many or too large ones.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        written = size = 0
        for name, content in _members(archive):
            place = _place(name)
            if place is None:
                continue
            written, size = written + 1, size + len(content)
            if written > MOST_FILES or size > LARGEST_FOLDER:
                limit = f"{MOST_FILES} files of {LARGEST_FOLDER >> 20} MB in all"
                raise SinkdError(f"{archive.name} holds more than the expected {limit}; it is not unpacked")
            path = aside / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if not written:
            raise SinkdError(f"{archive.name} holds no templates, expected promptsource/templates/.../templates.yaml")
        aside.chmod(0o755)
        try:
            os.rename(aside, folder)
        except OSError:  # another process was sooner
            if not folder.is_dir():
                raise
        return folder
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _place(name: str) -> PurePosixPath | None:
    """Where a member of the archive goes: what follows promptsource/templates/; None for any other member."""
    parts = PurePosixPath(name).parts
    for start in (0, 1):  # a wheel has the package at its root, a source distribution in a folder
        if parts[start : start + 2] == ("promptsource", "templates") and parts[-1].endswith(".yaml"):
            inner = PurePosixPath(*parts[start + 2 :])
            if ".." in inner.parts or "\\" in name or ":" in name or "\0" in name:
                raise SinkdError(f"the archive names a file {name!r} outside of its folder; it is not unpacked")
            return inner
    return None


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the plain YAML files in an archive, one at a time."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                for item in wheel.infolist():
                    if item.filename.endswith(".yaml"):
                        with wheel.open(item) as file:
                            yield item.filename, _bounded(file.read(LARGEST_FILE + 1), item.filename)
            return
        with tarfile.open(archive) as tar:
            for member in tar:
                if not member.name.endswith(".yaml"):
                    continue
                inside = tar.extractfile(member) if member.isreg() else None
                if inside is None:
                    raise SinkdError(f"{archive.name} holds {member.name!r} as a link or device; it is not unpacked")
                yield member.name, _bounded(inside.read(LARGEST_FILE + 1), member.name)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise SinkdError(f"{archive.name} is not a whole archive ({error}); fetch it again") from error


def _bounded(content: bytes, name: str) -> bytes:
    if len(content) > LARGEST_FILE:
        raise SinkdError(f"the archive's file {name!r} has more than {LARGEST_FILE >> 10} kB; it is not unpacked")
    return content
