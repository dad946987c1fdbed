"""Checkpoints that are whole or absent.

A checkpoint is written aside and renamed, so a run that is killed while saving finds the one before. What a kill leaves
half-written is swept at the next start.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

ASIDE = ".writing"


@contextmanager
def written_aside(target: Path, writer: bool = True) -> Iterator[Path]:
    """A folder to fill that becomes `target` when the block ends, and is left behind when it fails.

    `writer`: whether this process renames; the others only fill. Everything is on disk before the name appears.
    """
    aside = target.parent / ASIDE / target.name
    if writer:
        shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True, exist_ok=True)
    yield aside
    if writer:
        for path in aside.rglob("*"):
            if path.is_file():
                _flush(path)
        replaced = target.parent / ASIDE / f"{target.name}.replaced"
        shutil.rmtree(replaced, ignore_errors=True)
        if target.exists():
            target.rename(replaced)
        aside.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)
        with suppress(OSError):  # another process may be writing another folder
            aside.parent.rmdir()


def sweep(folder: Path) -> None:
    """Remove what killed writers left in `folder`; put back what was about to be replaced."""
    aside = folder / ASIDE
    for replaced in aside.glob("*.replaced"):
        original = folder / replaced.name.removesuffix(".replaced")
        if not original.exists():
            replaced.rename(original)
    shutil.rmtree(aside, ignore_errors=True)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run's folder."""
    found = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    return None if found is None else Path(found)


def write_text(path: Path, text: str) -> None:
    """Replace a small file at once, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    _flush(aside)
    os.replace(aside, path)


def is_aside(path: Path, name: str) -> bool:
    """Is this what a killed `write_text` left of the file `name`?"""
    return path.name.startswith(f".{name}.")


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
