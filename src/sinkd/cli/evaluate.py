"""`sinkd evaluate`: the scores of a trained model on a task's dev set, as its training run reported them."""

from collections.abc import Sequence

from sinkd.cli.command import load_named_task, show_plan, trained_settings
from sinkd.errors import SinkdError
from sinkd.report import Table, show
from sinkd.training.arguments import FinetuneArguments, TaskArguments
from sinkd.training.inference import Model
from sinkd.training.parser import parse_arguments


def main(argv: Sequence[str]) -> None:
    """Parse a command line and run it."""
    args = parse_arguments(FinetuneArguments, argv, "sinkd evaluate", **trained_settings(argv))
    if show_plan(args):
        return
    if args.model_path is None:
        raise SinkdError("--model_path is missing; name the folder of a trained model")
    evaluate(args, args.model_path)


def evaluate(args: TaskArguments, path: str) -> dict[str, float]:
    """Score the model in `path`, and show it."""
    task = load_named_task(args)
    if not task.dev_splits:
        raise SinkdError(f"{task.name} has no dev set; sinkd predict writes its answers")
    scores = Model.load(path, task, args).scores()
    seconds = scores.pop("runtime")
    rows_per_second = scores.pop("samples_per_second")
    table = Table(f"{path} on {task.name}", [*scores, "rows/s", "seconds"])
    table.add(*(f"{value:.4f}" for value in scores.values()), f"{rows_per_second:.0f}", f"{seconds:.1f}")
    show(table)
    return scores
