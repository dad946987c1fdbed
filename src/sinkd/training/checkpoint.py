"""Atomic checkpoints: complete or absent.

A checkpoint is written to a partial folder that is renamed at the end, so a run that is killed while saving still has
the previous checkpoint. The next start removes partial folders. A seal of checksums tells a checkpoint that was damaged
later.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from sinkd.errors import writing
from sinkd.models.seal import damaged, seal

logger = logging.getLogger(__name__)

PARTIAL = ".writing"


@contextmanager
def written_whole(target: Path, writer: bool = True) -> Iterator[Path]:
    """Write a folder atomically: a partial folder replaces `target` when the block ends without an error.

    Args:
        target: The folder to write; it appears once all its files are on disk.
        writer: True in the one process that renames the folder, if several fill it.

    Yields:
        The partial folder.

    Raises:
        SinkdError: if it cannot be written; the earlier folder stays.
    """
    partial = target.parent / PARTIAL / target.name
    if writer:
        shutil.rmtree(partial, ignore_errors=True)
    with writing(target):
        partial.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
        except SafetensorError as error:
            raise OSError(str(error)) from error
        if writer:
            _complete(partial, target)


def _complete(partial: Path, target: Path) -> None:
    """Seal a partial folder, and put it in the place of `target`."""
    seal(partial)
    for path in partial.rglob("*"):
        if path.is_file():
            _flush(path)
    replaced = partial.with_name(f"{target.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        target.rename(replaced)
    partial.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)
    with suppress(OSError):  # another process may be writing another folder
        partial.parent.rmdir()


def remove_partial(folder: Path) -> None:
    """Remove partial folders that killed runs left in `folder`, and restore folders that they were replacing."""
    for replaced in (folder / PARTIAL).glob("*.replaced"):
        original = folder / replaced.name.removesuffix(".replaced")
        if not original.exists():
            replaced.rename(original)
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a run's folder that is whole, or None. A damaged one is logged."""
    named = {path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-"): path for path in folder.glob("checkpoint-*")}
    numbered = {int(number): path for number, path in named.items() if number.isdecimal() and path.is_dir()}
    for _, path in sorted(numbered.items(), reverse=True):
        if (broken := damaged(path)) is None:
            return path
        logger.warning("%s is not as it was written; the run goes on from the checkpoint before it", broken)
    return None


def write_text(path: Path, text: str) -> None:
    """Write or replace a small file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    _flush(partial)
    os.replace(partial, path)


def is_partial(path: Path, name: str) -> bool:
    """True for a file that a killed `write_text` of `name` left behind."""
    return path.name.startswith(f".{name}.")


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
