"""The folder of a run: it belongs to one run and is used by one command at a time."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sinkd.errors import FULL, SinkdError, writing
from sinkd.models.seal import SEAL
from sinkd.training.arguments import TaskArguments
from sinkd.training.checkpoint import PARTIAL, is_partial
from sinkd.training.manifest import describe, read_manifest
from sinkd.training.outcome import Outcome, read_outcome
from sinkd.training.resumable import BEST

logger = logging.getLogger(__name__)

LOCK = ".lock"


@contextmanager
def locked(folder: Path, writer: bool) -> Iterator[None]:
    """Lock the folder against other commands. The system releases the lock of a killed process."""
    if not writer:
        yield
        return
    lock = FileLock(folder / LOCK)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            said = f"another command is using {folder}; wait until it ends, or choose another folder"
            raise SinkdError(said) from None
    try:
        with writing(folder, FULL):
            yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)  # before the release, so that no process locks a deleted file
        lock.release()


def claim(folder: Path, args: TaskArguments, inputs: dict[str, str]) -> Outcome | None:
    """Write the run's manifest into its output folder, or return its outcome if it finished there earlier.

    Args:
        inputs: Fingerprints of everything else that determines the run.

    Raises:
        SinkdError: if the folder contains another run, or files that belong to no run.
    """
    manifest = describe(args, inputs)
    earlier = read_manifest(folder)
    if earlier is not None and not args.overwrite:
        difference = manifest.same_run(earlier)
        if difference is not None:
            raise SinkdError(f"{folder} holds another run ({difference}); choose another folder, or --overwrite")
        finished = read_outcome(folder)
        if finished is not None and args.should_save:
            logger.info("%s holds this run, finished earlier; --overwrite runs it again", folder)
        return finished
    if not args.should_save:
        return None
    if earlier is not None:
        clear(folder)
    elif any(path.name != LOCK and not is_partial(path, "manifest.json") for path in folder.glob("*")):
        several = "runs of several seeds" if any(folder.glob("seed-*/manifest.json")) else "no run"
        raise SinkdError(f"{folder} is not empty and holds {several}; choose another folder")
    manifest.write(folder)
    return None


def clear(folder: Path) -> None:
    """Remove a run's own files, except the manifest, which the next run replaces."""
    checkpoints = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    for path in [*checkpoints, folder / BEST, folder / PARTIAL, folder / "runs"]:
        shutil.rmtree(path, ignore_errors=True)
    for name in ("metrics.json", "results.csv", "model.safetensors", "README.md", SEAL):
        (folder / name).unlink(missing_ok=True)


def keep_inputs(args: TaskArguments) -> None:
    """Raise SinkdError if the run would overwrite a model that it starts from."""
    models = [(name, getattr(args, name, None)) for name in ("model_path", "student_path")]
    models += [("teacher_path", path) for path in getattr(args, "teacher_path", None) or ()]
    for name, path in models:
        if path is not None and Path(path).resolve() == Path(args.output_dir).resolve():
            raise SinkdError(f"--output_dir and --{name} are the same folder, {path}; choose another for the results")
