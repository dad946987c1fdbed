"""`sinkd evaluate`: score a trained model on a task's dev set, as its training run did."""

import time
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
        evaluate(args, args.model("model_path"), args.class_prior)


def evaluate(args: TaskArguments, path: str, class_prior: str | None = None) -> None:
    """Score the model at `path`, and show the scores; with a prior also those of its answers balanced to it."""
    task = load_named_task(args)
    if not task.dev_splits:
        raise SinkdError(f"{task.name} has no dev set; sinkd predict writes its answers")
    model = Model.load(path, task, args)
    model.family.refuse(args)
    started = time.perf_counter()
    answers = model.answers()
    seconds = time.perf_counter() - started
    rows_per_second = sum(map(len, answers.values())) / seconds
    scores = model.family.dev_scores(answers)
    balanced = model.balanced(answers, class_prior)
    names = ["answers"] if balanced else []
    table = Table(f"{path} on {task.name}", [*names, *scores, "rows/s", "seconds"])
    values = (f"{value:.4f}" for value in scores.values())
    table.add(*["raw"] * bool(balanced), *values, f"{rows_per_second:.0f}", f"{seconds:.1f}")
    if balanced:
        table.add("balanced", *(f"{value:.4f}" for value in model.family.dev_scores(balanced).values()), "", "")
    show(table)
