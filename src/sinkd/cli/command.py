"""Shared by the commands: load the task of the settings, and show settings and results."""

import os
from pathlib import Path

from transformers.utils import logging as transformers_logging

from sinkd.errors import SinkdError
from sinkd.report import Table, show
from sinkd.tasks import Task, load_superglue, load_task, names_superglue, table_task
from sinkd.tasks.glue import task_name
from sinkd.tasks.superglue import superglue_name
from sinkd.training.arguments import DistillationArguments, TaskArguments
from sinkd.training.outcome import Summary
from sinkd.training.settings import named_task

NO_TASK = "--task_name is missing; name a task, or your own table by --train_file and --text_columns"


def load_named_task(args: TaskArguments) -> Task:
    """Load the task, or the user's table, that the settings name, with the score that selects the best model."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    return _task(args).selected_by(args.metric_for_best_model)


def _task(args: TaskArguments) -> Task:
    name = named_task(vars(args))
    if not args.own_table:
        if name is None:
            raise SinkdError(NO_TASK)
        if names_superglue(name):
            data_dir = None if args.data_dir == TaskArguments.data_dir else args.data_dir
            return load_superglue(name, data_dir, bad_rows=args.bad_rows)
        return load_task(name, args.data_dir, bad_rows=args.bad_rows)
    if name is not None:
        raise SinkdError(f"--task_name {name} and flags of your own table name two tasks; give one of them")
    if args.text_columns is None:
        raise SinkdError("your own table also needs --text_columns")
    return table_task(
        args.train_file,
        args.dev_file,
        args.test_file,
        text_columns=_names(args.text_columns),
        label_column=args.label_column,
        labels=_names(args.labels or ""),
        kind=args.table_kind,
        bad_rows=args.bad_rows,
        quoting=args.quoting,
        encoding=args.encoding,
        column_names=_names(args.column_names or ""),
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")] if text else []


def settle_output(args: TaskArguments) -> None:
    """Set a missing `--output_dir` to the published system's folder."""
    if args.output_dir:
        return
    name = named_task(vars(args))
    if name is None and not args.own_table:
        raise SinkdError(NO_TASK)
    if name is None:
        raise SinkdError("--output_dir is missing; name a folder for the results")
    task = superglue_name(name).replace("/", "-") if names_superglue(name) else task_name(name)
    args.output_dir = str(Path("experiments", f"exp_distill_{task}", args.exp_name or args.role))


def show_summary(title: str, summary: Summary) -> None:
    """Print the results: a line per seed, and mean and spread over several seeds."""
    if int(os.environ.get("RANK", "0")) != 0:
        return
    first = summary.outcomes[0]
    several = len(summary.outcomes) > 1
    folder = Path(first.folder).parent if several else first.folder
    if summary.mean is None:
        told = "nothing was evaluated, since there is no dev set; "
    elif several:
        told = f"{first.metric}: mean {summary.mean:.4f}, spread {summary.spread:.4f}; "
    else:
        told = ""
    table = Table(title, ["seed", *first.scores, "rows/s", "seconds"], note=f"{told}in {folder}")
    for outcome in summary.outcomes:
        scores = (f"{value:.4f}" for value in outcome.scores.values())
        table.add(outcome.seed, *scores, f"{outcome.samples_per_second:.0f}", f"{outcome.seconds:.0f}")
    show(table)


def show_plan(args: TaskArguments) -> bool:
    """Print the settings if `--dry_run` is given, and return whether it is."""
    if args.dry_run:
        if isinstance(args, DistillationArguments):
            print(f"objective: {args.parse_objective()}")
        for name, value in sorted(args.to_dict().items()):
            if value is not None and not name.endswith("_token"):  # the hub's token is secret
                print(f"{name}: {' '.join(map(str, value)) if isinstance(value, list) else value}")
    return args.dry_run
