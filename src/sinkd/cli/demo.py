"""`sinkd demo`: a small student with and without a teacher, on real text, in minutes.

The demo fetches a pretrained encoder of six layers and movie-review snippets. It fine-tunes the encoder on few labels,
and teaches two of its layers in several ways. Training and evaluation are those of `sinkd finetune` and
`sinkd distill`.
"""

import argparse
import csv
import math
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev

import torch

from sinkd.cli.command import load_named_task
from sinkd.errors import SinkdError
from sinkd.exchange.packages import MINILM, Package
from sinkd.exchange.snippets import DEV, MORE, SNIPPETS, TRAIN, write_table, write_tables
from sinkd.report import Table, show, show_trials
from sinkd.sweep.local_pool import cores, run_local
from sinkd.sweep.trial import Trial
from sinkd.tasks import table_task
from sinkd.training.arguments import FinetuneArguments, TaskArguments
from sinkd.training.checkpoint import write_text
from sinkd.training.inference import Model, megabytes, parameters
from sinkd.training.outcome import Outcome, read_outcome
from sinkd.training.parser import ArgumentParser
from sinkd.training.settings import resolve_settings

# Trials at a time: each loads PyTorch, about 500 MB.
MOST = 4
LEAST_ROWS = 100
ALONE = "student, labels alone"
# Chosen on a part of the rows to train on.
SHARED = "--per_device_eval_batch_size 100 --eval_strategy no --save_strategy no --report_to none".split()
TEACHER = "--learning_rate 1e-4 --num_train_epochs 4".split()
STUDENT = "--keep_layers 2 --learning_rate 2e-4 --per_device_train_batch_size 32 --temperature 2".split()
FEW = "--num_train_epochs 8".split()  # over the rows with labels
MUCH = "--num_train_epochs 1".split()  # over all text: as many steps


def objectives(more: Path) -> dict[str, list[str]]:
    """The students' flags, by row of the table; `more` is a file of text without labels."""
    text = ["--unlabeled_file", str(more), *MUCH]
    return {
        ALONE: ["--distill_loss", "ce", *FEW],
        "student, kd": ["--distill_loss", "kd", *FEW],
        "student, kd, more text": ["--distill_loss", "kd", *text],
        "student, kd+sinkhorn (Lorentz), more text": ["--distill_loss", "kd+sinkhorn", *text],
        "student, kd+matching, more text": ["--distill_loss", "kd+sinkhorn_hidden", *text],
    }


def parser() -> ArgumentParser:
    """The flags."""
    parser = demo_parser("sinkd demo", __doc__)
    parser.add_argument(
        "--data", help="your own table (csv, tsv, jsonl, parquet) with columns text and label, for the snippets"
    )
    return parser


def main(argv: Sequence[str]) -> None:
    """Parse a command line and run it."""
    given = parse(parser(), argv)
    run(Path(given.output_dir), demo_tables(given), given.seeds, given.overwrite)


def run(folder: Path, data: Path, seeds: str, overwrite: bool) -> None:
    """Train the teacher and the students on the tables in `data`, print their comparison, and write it as Markdown."""
    encoder = fetched(MINILM, Path("models"))
    teacher, alone, *students = trials(folder, data, encoder, ["--overwrite"] * overwrite, seeds)
    seed_list = alone.settings().seed_list  # an error before anything is trained
    run_trials([teacher, alone], folder)  # a student of labels alone need not wait for the teacher
    run_trials(students, folder)
    results = {teacher.name: [outcome_of(teacher.folder)]}
    for student in (alone, *students):
        results[student.name] = [outcome_of(student.folder / f"seed-{seed}") for seed in seed_list]
    args = resolve_settings(FinetuneArguments, [*table_flags(data), *SHARED], "sinkd demo")
    table = tabulate(results, speeds([outcomes[0] for outcomes in results.values()], args))
    table.note = describe(data)
    print(flush=True)
    show(table)
    write_text(folder / "README.md", f"{table.markdown()}\n{table.note}\n")


def trials(folder: Path, data: Path, encoder: Path, common: Sequence[str], seeds: str) -> list[Trial]:
    """The command lines of the demo: the teacher, the student of labels alone, the other students."""
    common = [*table_flags(data), *SHARED, *common]

    def trial(name: str, command: str, *flags: str) -> Trial:
        place = folder / slug(name.removeprefix("student, "))
        return Trial(name, command, (*common, *flags, "--output_dir", str(place)), place)

    teacher = trial("teacher", "finetune", "--model_path", str(encoder), *TEACHER)
    learning = ["--student_path", str(encoder), "--seeds", seeds, *STUDENT]
    taught = ["--teacher_path", str(teacher.folder)]
    students = [
        trial(name, "distill", *learning, *own, *(taught if name != ALONE else []))
        for name, own in objectives(data / MORE).items()
    ]
    return [teacher, *students]


def tabulate(results: Mapping[str, Sequence[Outcome]], speeds: Mapping[int, float]) -> Table:
    """The comparison: size, accuracy, and what each model gains over a student of labels alone with the same seed.

    `speeds` are sentences per second by the number of parameters.
    """
    table = Table(
        "What the student learned",
        ["", "parameters", "MB", "accuracy", "gain over labels alone", "sentences/s"],
    )
    alone = accuracies(results[ALONE])
    for name, outcomes in results.items():
        scores, folder = accuracies(outcomes), Path(outcomes[0].folder)
        gain = f"{fmean(scores) - fmean(alone):+.1f}"
        if len(scores) > 1:
            gain += f" (at least {min(own - other for own, other in zip(scores, alone, strict=True)):+.1f})"
        size = parameters(folder)
        table.add(
            name,
            f"{size:,}",
            f"{megabytes(folder):.0f}",
            with_spread(scores),
            "" if name == ALONE else gain,
            f"{speeds[size]:,.0f}",
        )
    return table


def speeds(outcomes: Sequence[Outcome], args: TaskArguments) -> dict[int, float]:
    """Sentences per second of one model of each size, by its number of parameters; nothing else runs meanwhile."""
    task = load_named_task(args)
    models = {parameters(Path(outcome.folder)): outcome.folder for outcome in outcomes}
    return {size: Model.load(path, task, args).scores()["samples_per_second"] for size, path in models.items()}


def describe(data: Path) -> str:
    """Say how many rows of which kind the tables in `data` have."""
    train, dev = (len(_rows(data / name)) for name in (TRAIN, DEV))
    more = (data / MORE).read_text(encoding="utf-8").count("\n")
    return f"{train:,} sentences with labels, {more:,} more without; accuracy in percent of {dev:,} others"


def accuracies(outcomes: Sequence[Outcome]) -> list[float]:
    """The accuracy of each run in percent."""
    return [100 * outcome.scores["accuracy"] for outcome in outcomes]


def with_spread(scores: Sequence[float]) -> str:
    """The mean, and the sample standard deviation of several scores."""
    return f"{fmean(scores):.1f}" + (f" ± {stdev(scores):.1f}" if len(scores) > 1 else "")


# What the demos share


def demo_parser(prog: str, docstring: str) -> ArgumentParser:
    """The flags that all demos have."""
    parser = ArgumentParser(prog=prog, description=docstring.split("\n\n")[1])
    parser.add_argument("--output_dir", help="folder for all results (default: below experiments)")
    parser.add_argument("--rows", type=int, help="use at most this many rows of each kind, for a quick look")
    parser.add_argument("--seeds", default="0", help="students' seeds, separated by commas")
    parser.add_argument("--overwrite", action="store_true", help="replace the results of an earlier demo")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    return parser


def parse(parser: ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse a demo's flags. Results of fewer rows have a folder of their own."""
    given = parser.parse_args(argv)
    if given.rows is not None and given.rows < LEAST_ROWS:
        raise SinkdError(f"--rows is {given.rows}; the demo needs at least {LEAST_ROWS}")
    if given.output_dir is None:
        given.output_dir = f"experiments/{parser.prog.split()[-1]}{'' if given.rows is None else f'-{given.rows}'}"
    return given


def demo_tables(given: argparse.Namespace) -> Path:
    """The folder with the tables that the demo's flags ask for, made if need be."""
    if given.data is None:
        data = fetched(SNIPPETS, Path("datas"))
    else:
        task = table_task(given.data, given.data, text_columns=["text"], label_column="label", kind="classification")
        rows = task.read("train")
        if len(rows) < 10 * LEAST_ROWS:
            raise SinkdError(f"{given.data} has {len(rows):,} rows; the demo needs at least {10 * LEAST_ROWS:,}")
        data = Path(given.output_dir, "data")
        write_tables([(row["text"], task.labels[row["label"]]) for row in rows], data)
    return data if given.rows is None else cut_tables(data, Path(given.output_dir), given.rows, given.rows)


def cut_tables(data: Path, folder: Path, texts: int, rows: int) -> Path:
    """Copy the first texts without labels, and the first rows of the other tables, to a folder below `folder`."""
    cut = folder / f"data-{texts}-{rows}"
    for name in (TRAIN, DEV):
        write_table(cut / name, _rows(data / name)[:rows])
    with (data / MORE).open(encoding="utf-8") as lines:
        write_text(cut / MORE, "".join(islice(lines, texts)))
    return cut


def fetched(package: Package, root: Path) -> Path:
    """The folder of a package's files; fetches them if they are missing."""
    if not package.is_complete(root):
        print(f"fetching {package.plan(root)[0]}", flush=True)
        package.fetch(root)
    return root / package.folder


def table_flags(data: Path) -> list[str]:
    """The flags that name the tables to train on and to evaluate on."""
    files = ["--train_file", str(data / TRAIN), "--dev_file", str(data / DEV)]
    return [*files, "--text_columns", "text", "--label_column", "label"]


def run_trials(trials: Sequence[Trial], folder: Path, at_once: int = MOST) -> None:
    """Run trials side by side, so many at a time, and share the cores; if one fails, the others stop too."""
    share = 1 / at_once if torch.cuda.is_available() else 0
    resources = {"num_cpus": math.ceil(cores() / at_once), "num_gpus": share}
    with show_trials(len(trials)) as progress:

        def ended(trial: Trial, reason: str) -> None:
            if reason:
                raise SinkdError(f"{trial.name}: {reason} (log: {trial.log(folder / 'logs')})")
            progress.ended(trial.name)

        run_local(trials, resources, folder / "logs", ended, lambda trial, line: progress.line(trial.name, line))


def outcome_of(folder: Path) -> Outcome:
    """The result of a finished run."""
    outcome = read_outcome(folder)
    if outcome is None:
        raise SinkdError(f"{folder / 'metrics.json'} cannot be read; --overwrite starts the demo again")
    return outcome


def slug(name: str) -> str:
    """A folder's name for a row of a table: "kd+matching, more text" is kd-matching-more-text."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())


def _rows(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file)]
