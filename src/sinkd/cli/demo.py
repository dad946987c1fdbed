"""`sinkd demo`: the whole way in minutes, on a corpus that the package makes itself.

A corpus is written in CoLA's layout, a vocabulary is learned from it, a teacher is fine-tuned, and one much smaller
student is distilled several ways. Nothing here is the demo's own but the corpus: data, training and evaluation are
those of `sinkd finetune`, `sinkd distill` and `sinkd evaluate`.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sinkd.cli.command import load_named_task
from sinkd.cli.workers import distill_all
from sinkd.errors import SinkdError
from sinkd.models import train_tokenizer, write_encoder
from sinkd.report import RunProgress, Table, show
from sinkd.tasks import Task, write_corpus
from sinkd.training.arguments import FinetuneArguments, TaskArguments
from sinkd.training.checkpoint import write_text
from sinkd.training.inference import Model, megabytes, parameters, rows_per_second
from sinkd.training.outcome import Summary
from sinkd.training.parser import ArgumentParser
from sinkd.training.run import finetune
from sinkd.training.settings import resolve_settings

# How many sentences without labels there are for one of them with a label.
UNLABELED = 2


def objectives(unlabeled: Path) -> dict[str, list[str]]:
    """What is compared: what a student is called, and the flags that make it. `unlabeled` holds text without labels."""
    matching = ["--distill_loss", "kd+sinkhorn_hidden"]
    more = ["--unlabeled_file", str(unlabeled), "--num_train_epochs", "4"]  # as many steps, over more sentences
    return {
        "labels alone": ["--distill_loss", "ce"],
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
    """Sizes at which the demo's task is neither trivial nor hopeless, found by trying."""

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
    parser.add_argument("--output_dir", default="experiments/demo", help="where everything is written")
    parser.add_argument("--seeds", default="0,1,2", help="students' seeds, with commas")
    parser.add_argument("--train_rows", type=int, default=4000, help="sentences to train on")
    parser.add_argument("--dev_rows", type=int, default=1000, help="sentences to evaluate on")
    parser.add_argument("--overwrite", action="store_true", help="start afresh where a demo has run before")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    given = parser.parse_args(argv)
    if given.train_rows < 100 or given.dev_rows < 50:
        raise SinkdError("the demo needs at least 100 training rows and 50 dev rows to have something to show")
    run(Path(given.output_dir), given.seeds, given.train_rows, given.dev_rows, given.overwrite)


def run(folder: Path, seeds: str, train_rows: int, dev_rows: int, overwrite: bool = False) -> None:
    """Run the demo in `folder`, print its table, and write it there as Markdown."""
    recipe = Recipe()
    more = UNLABELED * train_rows
    data = write_corpus(folder / f"data-{train_rows}-{dev_rows}", train_rows, dev_rows, n_unlabeled=more)
    common = ["--task_name", "cola", "--data_dir", str(data), *recipe.shared_flags]
    common += ["--overwrite"] if overwrite else []

    def arguments(kind: type[TaskArguments], name: str, *flags: str) -> TaskArguments:
        return resolve_settings(kind, [*common, "--output_dir", str(folder / name), *flags], "sinkd demo")

    task = load_named_task(arguments(FinetuneArguments, "data", "--seeds", seeds))
    sizes = f"{train_rows:,} sentences to train on, {more:,} more without labels, {dev_rows:,} to evaluate on"
    print(f"corpus: {sizes}, in {data}", flush=True)
    tokenizer = train_tokenizer(task.read("train")["text"], recipe.vocabulary)
    starts = {}
    for role, (layers, width, heads) in {"teacher": recipe.teacher, "student": recipe.student}.items():
        starts[role] = str(write_encoder(folder / f"{role}-start", tokenizer, layers=layers, width=width, heads=heads))

    teacher_args = arguments(FinetuneArguments, "teacher", "--model_path", starts["teacher"], *recipe.teacher_flags)
    taught = finetune(teacher_args, task, [RunProgress("teacher", task.metric)])
    teacher = taught.outcomes[0].folder
    paths = ["--teacher_path", teacher, "--student_path", starts["student"], "--seeds", seeds]
    flags = [*common, *paths, *recipe.student_flags, *recipe.distill_flags]
    jobs = {
        name: [*flags, "--output_dir", str(folder / _slug(name)), *own]
        for name, own in objectives(data / "unlabeled.txt").items()
    }
    learned = distill_all(jobs, "sinkd demo")
    results = {"teacher": taught} | {f"student, {name}": summary for name, summary in learned.items()}
    table = tabulate(results, task, arguments(FinetuneArguments, "speed"))
    print(flush=True)
    show(table)
    write_text(folder / "README.md", f"{table.markdown()}\n{table.note}\n")


def tabulate(results: dict[str, Summary], task: Task, args: TaskArguments) -> Table:
    """The comparison, a line a way of training: size, dev score with its spread over seeds, speed."""
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


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower()).strip("-").replace("--", "-")
