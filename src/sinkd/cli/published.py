"""The published system's entry points, `main_glue.py` and `main_glue_distill.py`, onto finetune, distill and evaluate.

What their command lines leave silent is taken from the task's recipe, and results land where they used to land.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from sinkd import recipes
from sinkd.cli import distill as distill_command
from sinkd.cli import finetune as finetune_command
from sinkd.cli.command import load_named_task, settle_output, show_plan, typed_value
from sinkd.cli.evaluate import evaluate
from sinkd.cli.main import guarded
from sinkd.cli.testing import predict_after
from sinkd.errors import SinkdError
from sinkd.tasks.glue import task_name
from sinkd.training.arguments import DistillationArguments, FinetuneArguments, TaskArguments
from sinkd.training.outcome import Summary, read_outcome
from sinkd.training.parser import parse_arguments

ArgumentsT = TypeVar("ArgumentsT", bound=TaskArguments)


def finetune() -> int:
    """`main_glue.py`: the exit status of its command line."""
    return guarded(lambda: _main(FinetuneArguments, sys.argv[1:], "main_glue.py", "teacher"), sys.argv[1:])


def distill() -> int:
    """`main_glue_distill.py`: the exit status of its command line."""
    return guarded(lambda: _main(DistillationArguments, sys.argv[1:], "main_glue_distill.py", "student"), sys.argv[1:])


def _main(kind: type[ArgumentsT], argv: Sequence[str], prog: str, role: str) -> None:
    args = parse_arguments(kind, argv, prog, recipe=_recipe(argv, role), output_dir="")
    settle_output(args, role)
    if show_plan(args):
        return
    if not (args.do_train or args.do_eval or args.do_test or args.do_predict):
        raise SinkdError("nothing to do: give --do_train, --do_eval or --do_test")
    if args.do_train:
        (finetune_command if isinstance(args, FinetuneArguments) else distill_command).run(args)
        return
    # Without --do_train the model is the one that an earlier --do_train left in the run's folder.
    summary = _finished(args)
    if args.do_eval:
        for outcome in summary.outcomes:
            evaluate(args, outcome.folder)
    predict_after(args, load_named_task(args), summary)


def _recipe(argv: Sequence[str], role: str) -> Path | None:
    """The recipe of the task on the command line, where there is one."""
    task = typed_value(argv, "--task_name")
    if task is None:
        return None
    name = f"glue/{task_name(task)}-{role}"
    return recipes.find(name) if name in recipes.names() else None


def _finished(args: TaskArguments) -> Summary:
    """What earlier runs of the same command line left, one for each of its seeds."""
    root = Path(args.output_dir)
    folders = [root] if args.seeds is None else [root / f"seed-{seed}" for seed in args.seed_list]
    outcomes = []
    for folder in folders:
        outcome = read_outcome(folder)
        if outcome is None:
            raise SinkdError(f"{folder} holds no finished run; run the same command with --do_train first")
        outcomes.append(outcome)
    return Summary(outcomes)
