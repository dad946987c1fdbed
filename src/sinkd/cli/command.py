"""What commands share: the task that the flags name, and how a summary is shown."""

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from sinkd.errors import SinkdError
from sinkd.report import Table, show
from sinkd.tasks import load_superglue, load_task, names_superglue, table_task
from sinkd.tasks.glue import task_name
from sinkd.tasks.superglue import superglue_name
from sinkd.training.arguments import DistillationArguments, TaskArguments
from sinkd.training.kind import AnyTask
from sinkd.training.manifest import read_manifest
from sinkd.training.outcome import Summary

# How the run that made a model read and worded its task, and in which precision it answered.
READING = "max_seq_length max_length target_max_length input_eos length_normalize bf16 fp16".split()
READING += ["template_name", "templates_dir"]


def load_named_task(args: TaskArguments) -> AnyTask:
    """The task that `--task_name` or the user's own table names."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    own = {"--train_file": args.train_file, "--dev_file": args.dev_file}
    own |= {"--text_columns": args.text_columns, "--label_column": args.label_column}
    if not any([*own.values(), args.test_file]):
        chosen = choice_task_name(args)
        if chosen is not None:
            ours = None if args.data_dir == TaskArguments.data_dir else args.data_dir
            return load_superglue(chosen, ours, bad_rows=args.bad_rows)
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


def choice_task_name(args: TaskArguments) -> str | None:
    """The task of chosen answers that the flags name, as in super_glue/copa; None where they name another, or none."""
    if args.dataset_name is None:
        return args.task_name if args.task_name is not None and names_superglue(args.task_name) else None
    if args.task_name is not None:
        raise SinkdError(
            f"--task_name {args.task_name} and --dataset_name {args.dataset_name} name two tasks; give one"
        )
    if args.dataset_config_name is None:
        return args.dataset_name
    return f"{args.dataset_name}/{args.dataset_config_name}"


def typed_value(argv: Sequence[str], flag: str) -> str | None:
    """What a command line gives for a flag, before it is parsed; None where it does not."""
    values = [value for name, value in pairwise(argv) if name == flag]
    values += [word.partition("=")[2] for word in argv if word.startswith(f"{flag}=")]
    return values[-1] if values else None


def trained_settings(argv: Sequence[str]) -> dict[str, Any]:
    """The settings of the run that made `--model_path` on which its scores depend: lengths, and the wording."""
    path = typed_value(argv, "--model_path")
    manifest = None if path is None else read_manifest(Path(path))
    return {} if manifest is None else {name: manifest.settings[name] for name in READING if name in manifest.settings}


def settle_output(args: TaskArguments, name: str) -> None:
    """Where no `--output_dir` is given, results land as in the published system; `name`: where no `--exp_name` is."""
    if args.output_dir:
        return
    chosen = choice_task_name(args)
    if chosen is None and args.task_name is None and args.train_file is None:
        raise SinkdError("--task_name is missing; name a task, or your own table by --train_file and --dev_file")
    if chosen is None and args.task_name is None:
        raise SinkdError("--output_dir is missing; name a folder for the results")
    task = superglue_name(chosen).replace("/", "-") if chosen else task_name(args.task_name or "")
    args.output_dir = str(Path("experiments", f"exp_distill_{task}", args.exp_name or name))


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
            if value is not None and not name.endswith("_token"):  # of the hub, a secret
                print(f"{name}: {value}")
    return args.dry_run
