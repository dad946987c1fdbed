"""`sinkd evaluate`: score a trained model on a task's dev set, as its training run did."""

from collections.abc import Sequence

from sinkd.cli.command import load_named_task, show_plan
from sinkd.errors import SinkdError
from sinkd.report import Table, show
from sinkd.training.arguments import ModelArguments, TaskArguments
from sinkd.training.inference import Model
from sinkd.training.settings import READING, resolve_settings


def main(argv: Sequence[str]) -> None:
    """Run a command line."""
    args = resolve_settings(ModelArguments, argv, "sinkd evaluate", trained=READING)
    if not show_plan(args):
        evaluate(args, args.model("model_path"))


def evaluate(args: TaskArguments, path: str) -> None:
    """Score the model at `path`, and show the scores."""
    task = load_named_task(args)
    if not task.dev_splits:
        raise SinkdError(f"{task.name} has no dev set; sinkd predict writes its answers")
    scores = Model.load(path, task, args).scores()
    seconds = scores.pop("runtime")
    rows_per_second = scores.pop("samples_per_second")
    table = Table(f"{path} on {task.name}", [*scores, "rows/s", "seconds"])
    table.add(*(f"{value:.4f}" for value in scores.values()), f"{rows_per_second:.0f}", f"{seconds:.1f}")
    show(table)
