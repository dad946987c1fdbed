"""`sinkd finetune`: train a teacher, by cross-entropy or squared error."""

from collections.abc import Sequence

from sinkd.cli.command import load_named_task, settle_output, show_plan, show_summary
from sinkd.cli.predict import predict_after
from sinkd.exchange.card import publish
from sinkd.report import RunProgress
from sinkd.training.arguments import FinetuneArguments
from sinkd.training.run import finetune
from sinkd.training.settings import resolve_settings


def main(argv: Sequence[str]) -> None:
    """Run a command line."""
    args = resolve_settings(FinetuneArguments, argv, "sinkd finetune")
    settle_output(args)
    if not show_plan(args):
        run(args)


def run(args: FinetuneArguments) -> None:
    """Train, write the model card, show the result, and predict the test set if requested."""
    task = load_named_task(args)
    summary = finetune(args, task, [RunProgress("finetune", task.metric if task.dev_splits else None)])
    publish(args, task, summary)
    show_summary(f"{args.model_path} on {task.name}", summary)
    predict_after(args, task, summary.outcomes)
