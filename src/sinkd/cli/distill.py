"""`sinkd distill`: a student, under an objective that a teacher takes part in."""

from collections.abc import Sequence

from sinkd.cli import generative
from sinkd.cli.command import load_named_task, settle_output, show_plan, show_summary
from sinkd.cli.testing import predict_after
from sinkd.report import RunProgress
from sinkd.training.arguments import DistillationArguments
from sinkd.training.outcome import Summary
from sinkd.training.parser import parse_arguments
from sinkd.training.run import distill


def main(argv: Sequence[str]) -> None:
    """Parse a command line and run it."""
    args = parse_arguments(
        DistillationArguments, argv, "sinkd distill", output_dir="", **generative.settings(argv, generative.STUDENT)
    )
    settle_output(args, "student")
    if not show_plan(args):
        run(args)


def run(args: DistillationArguments) -> Summary:
    """Train, show the result, and predict the test set where asked."""
    objective = args.parse_objective()
    task = load_named_task(args)
    progress = RunProgress(args.distill_loss, task.metric)
    summary = distill(args, task, [progress], progress.teacher_rows)
    show_summary(f"{args.student_path} on {task.name}, {objective}", summary)
    predict_after(args, task, summary)
    return summary
