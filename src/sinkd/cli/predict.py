"""`sinkd predict`: a trained model's answers for a task's test set, in the format of GLUE's or SuperGLUE's server."""

from collections.abc import Sequence
from pathlib import Path

from sinkd.cli.command import load_named_task, show_plan, trained_settings
from sinkd.errors import SinkdError
from sinkd.training.arguments import FinetuneArguments
from sinkd.training.inference import Model
from sinkd.training.parser import parse_arguments


def main(argv: Sequence[str]) -> None:
    """Parse a command line and run it."""
    args = parse_arguments(FinetuneArguments, argv, "sinkd predict", output_dir="", **trained_settings(argv))
    if show_plan(args):
        return
    if args.model_path is None:
        raise SinkdError("--model_path is missing; name the folder of a trained model")
    task = load_named_task(args)
    if not task.test_splits:
        raise SinkdError(f"{task.name} has no test file; give one by --test_file")
    folder = Path(args.output_dir or args.model_path)
    for path in Model.load(args.model_path, task, args).write_submissions(folder):
        print(f"wrote {path}")
