"""`sinkd finetune`: a teacher, by plain cross-entropy or squared error."""

from collections.abc import Sequence

from sinkd.cli import generative
from sinkd.cli.command import load_named_task, settle_output, show_plan, show_summary
from sinkd.cli.testing import predict_after
from sinkd.report import RunProgress
from sinkd.training.arguments import FinetuneArguments
from sinkd.training.outcome import Summary
from sinkd.training.parser import parse_arguments
from sinkd.training.run import finetune


def main(argv: Sequence[str]) -> None:
    """Parse a command line and run it."""
    args = parse_arguments(
        FinetuneArguments, argv, "sinkd finetune", output_dir="", **generative.settings(argv, generative.TEACHER)
    )
    settle_output(args, "teacher")
    if not show_plan(args):
        run(args)


def run(args: FinetuneArguments) -> Summary:
    """Train, show the result, and predict the test set where asked."""
    task = load_named_task(args)
    summary = finetune(args, task, [RunProgress("finetune", task.metric)])
    show_summary(f"{args.model_path} on {task.name}", summary)
    predict_after(args, task, summary)
    return summary
