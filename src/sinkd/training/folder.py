"""The folder of a run: one command at a time works in it, and it holds nothing but this run."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sinkd.errors import SinkdError
from sinkd.training.arguments import TaskArguments
from sinkd.training.checkpoint import PARTIAL, is_partial
from sinkd.training.manifest import describe, read_manifest
from sinkd.training.outcome import Outcome, read_outcome
from sinkd.training.resumable import BEST

logger = logging.getLogger(__name__)

LOCK = ".lock"


@contextmanager
def locked(folder: Path, writer: bool) -> Iterator[None]:
    """Keep other commands out of the folder. The system frees the lock of a process that is killed."""
    if not writer:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SinkdError(f"another command works in {folder}; wait for its end, or choose another folder") from None
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)  # while it is held, so that nobody locks it and then finds it gone
        lock.release()


def claim(folder: Path, args: TaskArguments, inputs: dict[str, str]) -> Outcome | None:
    """Write the run's manifest, or return its outcome if the folder holds it already.

    Args:
        folder: The output folder.
        args: The run's settings.
        inputs: Fingerprints of everything else that decides the run.

    Raises:
        SinkdError: The folder holds another run, or files that are no run's.
    """
    manifest = describe(args, inputs)
    earlier = read_manifest(folder)
    if earlier is not None and not args.overwrite:
        difference = manifest.same_run(earlier)
        if difference is not None:
            raise SinkdError(f"{folder} holds another run ({difference}); choose another folder, or --overwrite")
        finished = read_outcome(folder)
        if finished is not None and args.should_save:
            logger.info("%s holds this very run, finished earlier; --overwrite runs it again", folder)
        return finished
    if not args.should_save:
        return None
    if earlier is not None:
        clear(folder)
    elif folder.is_dir() and not all(
        path.name == LOCK or is_partial(path, "manifest.json") for path in folder.iterdir()
    ):
        several = "runs of several seeds" if any(folder.glob("seed-*/manifest.json")) else "no run"
        raise SinkdError(f"{folder} is not empty and holds {several}; choose another folder")
    manifest.write(folder)
    return None


def clear(folder: Path) -> None:
    """Remove what a run wrote, and nothing else; its manifest stays until the next run's replaces it."""
    checkpoints = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    for path in [*checkpoints, folder / BEST, folder / PARTIAL, folder / "runs"]:
        shutil.rmtree(path, ignore_errors=True)
    for name in ("metrics.json", "results.csv", "model.safetensors", "README.md"):
        (folder / name).unlink(missing_ok=True)


def keep_inputs(args: TaskArguments) -> None:
    """Refuse to write a run over a model that it starts from."""
    for name in ("model_path", "teacher_path", "student_path"):
        path = getattr(args, name, None)
        if path is not None and Path(path).resolve() == Path(args.output_dir).resolve():
            raise SinkdError(f"--output_dir and --{name} are one folder, {path}; choose another for the results")
