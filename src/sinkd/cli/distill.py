"""`sinkd distill`: train a student to match a teacher."""

import logging
from collections.abc import Sequence

from sinkd.cli.command import load_named_task, settle_output, show_plan, show_summary
from sinkd.cli.predict import predict_after
from sinkd.exchange.card import publish
from sinkd.report import RunProgress
from sinkd.training.advice import advice
from sinkd.training.arguments import DistillationArguments
from sinkd.training.run import distill
from sinkd.training.settings import resolve_settings

logger = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> None:
    """Run a command line."""
    args = resolve_settings(DistillationArguments, argv, "sinkd distill")
    settle_output(args)
    if not show_plan(args):
        run(args)


def run(args: DistillationArguments) -> None:
    """Train, write the model card, show the result, and predict the test set if requested."""
    task = load_named_task(args)
    objective = args.objective_for(task)
    if args.should_log:
        for sentence in advice(args, task, objective):
            logger.info(sentence)
    progress = RunProgress(args.distill_loss, task.metric if task.dev_splits else None)
    summary = distill(args, task, [progress], progress.teacher_rows)
    publish(args, task, summary)
    show_summary(f"{args.student_path} on {task.name}, {objective}", summary)
    predict_after(args, task, summary.outcomes)
