"""`sinkd export`: export a trained model to other runtimes, and check that its answers are the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sinkd.cli.command import load_named_task, show_plan
from sinkd.errors import SinkdError
from sinkd.exchange.onnx import export
from sinkd.models import find_checkpoint
from sinkd.report import show
from sinkd.tasks import Task
from sinkd.training.arguments import FinetuneArguments
from sinkd.training.parser import flag
from sinkd.training.settings import DATA, named_task, resolve_settings


@dataclass
class ExportArguments(FinetuneArguments):
    """The flags of `sinkd evaluate`, and the output format."""

    trains = False

    format: Literal["onnx"] = flag("onnx", "The output format.")
    quantize: Literal["none", "int8"] = flag(
        "none", "int8: also write it with int8 weights. Both are scored on the dev set."
    )


def main(argv: Sequence[str]) -> None:
    """Parse a command line, `sinkd export MODEL ...`, and run it."""
    argv = ["--model_path", *argv] if argv and not argv[0].startswith("-") else list(argv)
    args = resolve_settings(ExportArguments, argv, "sinkd export", trained=("max_seq_length", *DATA))
    if show_plan(args):
        return
    path = args.model_path
    if path is None:
        raise SinkdError("the model is missing; name the folder of a trained model, as in: sinkd export MODEL")
    folder = Path(find_checkpoint(path, "--model_path"))
    if not args.output_dir and not folder.is_dir():
        raise SinkdError(f"--output_dir is missing; name a folder for the export of {path}")
    show(export(path, _task(args), args, Path(args.output_dir or folder / "onnx"), args.quantize == "int8"))


def _task(args: ExportArguments) -> Task | None:
    """The task to score on; None if none is named, or if its run's data is gone and no score is needed."""
    must_score = args.quantize != "none"
    task = None
    if named_task(vars(args)) is not None or args.own_table:
        try:
            task = load_named_task(args)
            if not task.choices and not all(task.files[split].is_file() for split in task.dev_splits):
                raise SinkdError(f"{task.name} lacks a dev file; looked for {task.files[task.dev_splits[0]]}")
        except SinkdError:
            if must_score:
                raise
            return None
    if task is not None and task.choices:
        raise SinkdError(f"{task.name} is answered by a language model, but sinkd export writes encoders only")
    if task is not None and task.dev_splits:
        return task
    if must_score:
        raise SinkdError("--quantize int8 is scored before and after; name a task with a dev set by --task_name")
    return None
