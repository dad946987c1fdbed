"""What commands share: the task that the flags name, and how a summary is shown."""

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from sinkd.errors import SinkdError
from sinkd.report import Table, show
from sinkd.tasks import Task, load_task, table_task
from sinkd.tasks.glue import task_name
from sinkd.training.arguments import DistillationArguments, TaskArguments
from sinkd.training.manifest import read_manifest
from sinkd.training.outcome import Summary


def load_named_task(args: TaskArguments) -> Task:
    """The task that `--task_name` or the user's own table names."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    own = {"--train_file": args.train_file, "--dev_file": args.dev_file}
    own |= {"--text_columns": args.text_columns, "--label_column": args.label_column}
    if not any([*own.values(), args.test_file]):
        if args.task_name is None:
            raise SinkdError("--task_name is missing; name a task, or your own table by --train_file and --dev_file")
        return load_task(args.task_name, args.data_dir, bad_rows=args.bad_rows)
    if args.task_name is not None:
        raise SinkdError(f"--task_name {args.task_name} and flags of your own table name two tasks; give one of them")
    missing = [flag for flag, value in own.items() if not value]
    if missing:
        raise SinkdError(f"your own table also needs {' and '.join(missing)}")
    train_file, dev_file, text_columns, label_column = filter(None, own.values())
    return table_task(
        train_file,
        dev_file,
        args.test_file,
        text_columns=[column.strip() for column in text_columns.split(",")],
        label_column=label_column,
        kind=args.table_kind,
        bad_rows=args.bad_rows,
    )


def typed_value(argv: Sequence[str], flag: str) -> str | None:
    """What a command line gives for a flag, before it is parsed; None where it does not."""
    values = [value for name, value in pairwise(argv) if name == flag]
    values += [word.partition("=")[2] for word in argv if word.startswith(f"{flag}=")]
    return values[-1] if values else None


def trained_settings(argv: Sequence[str]) -> dict[str, Any]:
    """The settings of the run that made `--model_path` on which its scores depend: where inputs were cut."""
    path = typed_value(argv, "--model_path")
    manifest = None if path is None else read_manifest(Path(path))
    return {} if manifest is None else {"max_seq_length": manifest.settings["max_seq_length"]}


def settle_output(args: TaskArguments, name: str) -> None:
    """Where no `--output_dir` is given, results land as in the published system; `name`: where no `--exp_name` is."""
    if args.output_dir:
        return
    if args.task_name is None and args.train_file is None:
        raise SinkdError("--task_name is missing; name a task, or your own table by --train_file and --dev_file")
    if args.task_name is None:
        raise SinkdError("--output_dir is missing; name a folder for the results")
    args.output_dir = str(Path("experiments", f"exp_distill_{task_name(args.task_name)}", args.exp_name or name))


def show_summary(title: str, summary: Summary) -> None:
    """Print what the runs of a command came to, a line a seed, and mean and spread over several."""
    if int(os.environ.get("RANK", "0")) != 0:
        return
    first = summary.outcomes[0]
    table = Table(title, ["seed", *first.scores, "rows/s", "seconds"], note=f"in {first.folder}")
    for outcome in summary.outcomes:
        scores = (f"{value:.4f}" for value in outcome.scores.values())
        table.add(outcome.seed, *scores, f"{outcome.samples_per_second:.0f}", f"{outcome.seconds:.0f}")
    if len(summary.outcomes) > 1:
        folder = Path(first.folder).parent
        table.note = f"{first.metric}: mean {summary.mean:.4f}, spread {summary.spread:.4f}; in {folder}"
    show(table)


def show_plan(args: TaskArguments) -> bool:
    """For `--dry_run`: print what the flags come to; True where that is all there is to do."""
    if args.dry_run:
        if isinstance(args, DistillationArguments):
            print(f"objective: {args.parse_objective()}")
        for name, value in sorted(args.to_dict().items()):
            if value is not None and "token" not in name:
                print(f"{name}: {value}")
    return args.dry_run
