"""`sinkd demo`: from text to a student in minutes, on a generated corpus.

The demo writes a corpus in CoLA's layout, learns a vocabulary from it, fine-tunes a teacher, and distils one much
smaller student in several ways. Only the corpus is special: data, training and evaluation are those of
`sinkd finetune`, `sinkd distill` and `sinkd evaluate`.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sinkd.cli.command import load_named_task
from sinkd.errors import SinkdError
from sinkd.models import train_tokenizer, write_encoder
from sinkd.report import Table, show, show_trials
from sinkd.sweep.local_pool import cores, run_local
from sinkd.sweep.trial import Trial
from sinkd.tasks import Task, write_corpus
from sinkd.training.arguments import FinetuneArguments, TaskArguments
from sinkd.training.checkpoint import write_text
from sinkd.training.inference import Model, megabytes, parameters, rows_per_second
from sinkd.training.outcome import Outcome, Summary, read_outcome
from sinkd.training.parser import ArgumentParser
from sinkd.training.settings import resolve_settings

# Unlabelled sentences per labelled sentence.
UNLABELED = 2
# Trials at a time: each loads PyTorch, about 500 MB.
MOST = 4
ALONE = "labels alone"


def objectives(unlabeled: Path) -> dict[str, list[str]]:
    """The flags of the students to compare, by name; `unlabeled` is a file of unlabelled text."""
    matching = ["--distill_loss", "kd+sinkhorn_hidden"]
    more = ["--unlabeled_file", str(unlabeled), "--num_train_epochs", "4"]  # as many steps, over more sentences
    return {
        ALONE: ["--distill_loss", "ce"],
        "kd": ["--distill_loss", "kd"],
        "kd+sinkhorn (l1)": ["--distill_loss", "kd+sinkhorn", "--sinkhorn_cost", "l1"],
        "kd+sinkhorn (Lorentz)": ["--distill_loss", "kd+sinkhorn", "--sinkhorn_cost", "lorentz"],
        "kd+matching": matching,
        "kd, more text": ["--distill_loss", "kd", *more],
        "kd+matching, more text": [*matching, *more],
    }


def _training(rows: int, epochs: int, rate: float) -> tuple[str, ...]:
    sizes = "--per_device_train_batch_size", str(rows), "--num_train_epochs", str(epochs)
    return (*sizes, "--learning_rate", str(rate))


@dataclass(frozen=True)
class Recipe:
    """Sizes for which the demo's task is neither trivial nor hopeless, found by experiment."""

    vocabulary: int = 1000
    teacher: tuple[int, int, int] = (2, 128, 4)  # layers, width, heads
    student: tuple[int, int, int] = (1, 64, 2)
    shared_flags: tuple[str, ...] = ("--per_device_eval_batch_size", "250", "--warmup_steps", "0.1")
    teacher_flags: tuple[str, ...] = _training(rows=32, epochs=12, rate=7e-4)
    student_flags: tuple[str, ...] = _training(rows=64, epochs=12, rate=1.5e-3)
    distill_flags: tuple[str, ...] = ("--alpha", "0.9", "--beta", "0.8", "--temperature", "2.0")


def main(argv: Sequence[str]) -> None:
    """Parse a command line and run it."""
    parser = ArgumentParser(prog="sinkd demo", description=__doc__.split("\n\n")[1])
    parser.add_argument("--output_dir", default="experiments/demo", help="folder for all results")
    parser.add_argument("--seeds", default="0,1,2", help="students' seeds, separated by commas")
    parser.add_argument("--train_rows", type=int, default=4000, help="sentences to train on")
    parser.add_argument("--dev_rows", type=int, default=1000, help="sentences to evaluate on")
    parser.add_argument("--overwrite", action="store_true", help="replace the results of an earlier demo")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    given = parser.parse_args(argv)
    if given.train_rows < 100 or given.dev_rows < 50:
        raise SinkdError("the demo needs at least 100 training rows and 50 dev rows to have something to show")
    run(Path(given.output_dir), given.seeds, given.train_rows, given.dev_rows, given.overwrite)


def run(folder: Path, seeds: str, train_rows: int, dev_rows: int, overwrite: bool = False) -> None:
    """Run the demo in `folder`, print its table, and write it as Markdown."""
    recipe = Recipe()
    more = UNLABELED * train_rows
    data = write_corpus(folder / f"data-{train_rows}-{dev_rows}", train_rows, dev_rows, n_unlabeled=more)
    common = ["--task_name", "cola", "--data_dir", str(data), *recipe.shared_flags]
    args = resolve_settings(FinetuneArguments, [*common, "--seeds", seeds, "--output_dir", str(folder)], "sinkd demo")
    common += ["--overwrite"] if overwrite else []
    task = load_named_task(args)
    sizes = f"{train_rows:,} sentences to train on, {more:,} more without labels, {dev_rows:,} to evaluate on"
    print(f"corpus: {sizes}, in {data}", flush=True)
    tokenizer = train_tokenizer(task.read("train")["text"], recipe.vocabulary)
    starts = {}
    for role, (layers, width, heads) in {"teacher": recipe.teacher, "student": recipe.student}.items():
        starts[role] = str(write_encoder(folder / f"{role}-start", tokenizer, layers=layers, width=width, heads=heads))

    def trial(name: str, command: str, *flags: str) -> Trial:
        place = folder / _slug(name)
        return Trial(name, command, (*common, *flags, "--output_dir", str(place)), place)

    teacher = trial("teacher", "finetune", "--model_path", starts["teacher"], *recipe.teacher_flags)
    learning = ["--student_path", starts["student"], "--seeds", seeds, *recipe.student_flags, *recipe.distill_flags]
    taught = ["--teacher_path", str(teacher.folder)]
    alone, *students = (
        trial(name, "distill", *learning, *(taught if name != ALONE else []), *own)
        for name, own in objectives(data / "unlabeled.txt").items()
    )
    run_trials([teacher, alone], folder)  # a student trained on labels only need not wait for the teacher
    run_trials(students, folder)
    outcomes = {"teacher": Summary([_outcome(teacher.folder)])}
    for student in (alone, *students):
        outcomes[f"student, {student.name}"] = Summary([_outcome(student.folder / f"seed-{n}") for n in args.seed_list])
    table = tabulate(outcomes, task, args)
    print(flush=True)
    show(table)
    write_text(folder / "README.md", f"{table.markdown()}\n{table.note}\n")


def run_trials(trials: Sequence[Trial], folder: Path) -> None:
    """Run trials side by side, at most MOST at a time; if one fails, the others stop too."""
    resources = {"num_cpus": math.ceil(cores() / MOST), "num_gpus": 1 / MOST if torch.cuda.is_available() else 0}
    with show_trials(len(trials)) as progress:

        def ended(trial: Trial, reason: str) -> None:
            if reason:
                raise SinkdError(f"{trial.name}: {reason} (log: {trial.log(folder / 'logs')})")
            progress.ended(trial.name)

        run_local(trials, resources, folder / "logs", ended, lambda trial, line: progress.line(trial.name, line))


def tabulate(results: dict[str, Summary], task: Task, args: TaskArguments) -> Table:
    """The comparison, one line per way of training: size, dev score with its spread over seeds, speed."""
    columns = ["", "parameters", "MB on disk", f"dev {task.metric}", "spread", "sentences/s"]
    table = Table("What the student learned", columns)
    speeds: dict[str, list[float]] = {}
    models = {name: Model.load(summary.outcomes[0].folder, task, args) for name, summary in results.items()}
    for name, model in models.items():
        speeds.setdefault(name.split(",")[0], []).append(rows_per_second(model))
    for name, summary in results.items():
        trained = models[name].trainer.model
        table.add(
            name,
            f"{parameters(trained):,}",
            f"{megabytes(Path(summary.outcomes[0].folder)):.2f}",
            f"{summary.mean:.3f}",
            f"{summary.spread:.3f}" if len(summary.outcomes) > 1 else "one run",
            f"{statistics.median(speeds[name.split(',')[0]]):,.0f}",
        )
    return table


def _outcome(folder: Path) -> Outcome:
    outcome = read_outcome(folder)
    if outcome is None:
        raise SinkdError(f"{folder / 'metrics.json'} cannot be read; --overwrite starts the demo again")
    return outcome


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower()).strip("-").replace("--", "-")
