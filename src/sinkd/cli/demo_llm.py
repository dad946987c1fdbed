"""`sinkd demo-llm`: a small classifier from a language model's answers, without a single label.

The demo fetches a language model of 135M parameters, an encoder of 22M and movie-review snippets. It asks the language
model for each snippet's sentiment, and trains the encoder on the answers: as they are, and balanced to even classes.
Labels serve to evaluate alone. Asking, training and evaluation are those of `sinkd evaluate` and `sinkd distill`.
"""

from collections.abc import Sequence
from pathlib import Path

from sinkd.cli.command import load_named_task
from sinkd.cli.demo import (
    SHARED,
    accuracies,
    cut_tables,
    demo_parser,
    fetched,
    outcome_of,
    parse,
    run_trials,
    slug,
    speeds,
    with_spread,
)
from sinkd.exchange.packages import MINILM, SMOLLM2
from sinkd.exchange.snippets import DEV, MORE, SNIPPETS
from sinkd.report import Table, show
from sinkd.sweep.trial import Trial
from sinkd.training.arguments import ModelArguments
from sinkd.training.checkpoint import write_text
from sinkd.training.inference import Model, megabytes, parameters
from sinkd.training.outcome import Outcome
from sinkd.training.parser import ArgumentParser
from sinkd.training.settings import resolve_settings

TEXTS, DEV_ROWS = 4000, 1000
PROMPT = "Review: {{text}} The sentiment of this movie review is"
ANSWERS = "negative ||| positive"  # in the order of the labels
STUDENT = "--learning_rate 1e-4 --num_train_epochs 2 --per_device_train_batch_size 32 --temperature 1".split()
# By row of the table.
PRIORS = {"student, balanced answers": "uniform", "student, raw answers": "none"}


def parser() -> ArgumentParser:
    """The flags."""
    return demo_parser("sinkd demo-llm", __doc__)


def main(argv: Sequence[str]) -> None:
    """Parse a command line and run it."""
    given = parse(parser(), argv)
    most = max(TEXTS, DEV_ROWS) if given.rows is None else given.rows
    data = fetched(SNIPPETS, Path("datas"))
    folder = Path(given.output_dir)
    cut = cut_tables(data, folder, min(TEXTS, most), min(DEV_ROWS, most))
    run(folder, cut, given.seeds, given.overwrite)


def run(folder: Path, data: Path, seeds: str, overwrite: bool) -> None:
    """Ask the language model, train the students on `data`, print the comparison, and write it as Markdown."""
    teacher, encoder = (fetched(package, Path("models")) for package in (SMOLLM2, MINILM))
    students = trials(folder, data, teacher, encoder, ["--overwrite"] * overwrite, seeds)
    seed_list = students[0].settings().seed_list  # an error before anything is asked
    run_trials(students, folder, at_once=1)  # the first asks the teacher, the second finds its answers
    results = {
        student.name: [outcome_of(student.folder / f"seed-{seed}") for seed in seed_list] for student in students
    }
    reading = [*_dev_flags(data), *SHARED]
    args = resolve_settings(ModelArguments, [*reading, "--prompt", PROMPT, "--answers", ANSWERS], "sinkd demo-llm")
    task = load_named_task(args)
    asked = Model.load(str(teacher), task, args)
    size = sum(parameter.numel() for parameter in asked.trainer.model.parameters())
    args = resolve_settings(ModelArguments, reading, "sinkd demo-llm")
    speed = speeds([outcomes[0] for outcomes in results.values()], args)
    table = tabulate(asked.scores(), size, teacher, results, speed)
    texts = (data / MORE).read_text(encoding="utf-8").count("\n")
    table.note = f"{texts:,} sentences without labels; accuracy in percent of {len(task.read('dev')):,} others"
    print(flush=True)
    show(table)
    write_text(folder / "README.md", f"{table.markdown()}\n{table.note}\n")


def trials(folder: Path, data: Path, teacher: Path, encoder: Path, common: Sequence[str], seeds: str) -> list[Trial]:
    """The students' command lines."""
    asking = ["--teacher_path", str(teacher), "--teacher_prompt", PROMPT, "--teacher_answers", ANSWERS]
    learning = ["--student_path", str(encoder), "--unlabeled_file", str(data / MORE), *STUDENT, "--seeds", seeds]
    planned = []
    for name, prior in PRIORS.items():
        place = folder / slug(name)
        flags = [*_dev_flags(data), *SHARED, *common, *asking, *learning, "--class_prior", prior]
        planned.append(Trial(name, "distill", (*flags, "--output_dir", str(place)), place))
    return planned


def tabulate(
    raw: dict[str, float], size: int, teacher: Path, results: dict[str, list[Outcome]], speeds: dict[int, float]
) -> Table:
    """The comparison of the language model, of `size` parameters and with the scores `raw`, with its students."""
    table = Table("What the language model taught", ["", "parameters", "MB", "accuracy", "sentences/s"])
    disk = sum(path.stat().st_size for path in teacher.glob("*.gguf")) / 1e6
    balanced = results[next(iter(PRIORS))][0].teacher_scores
    for name, scores in {"language model, zero-shot": raw, "language model, balanced": balanced}.items():
        accuracy = f"{100 * scores['accuracy']:.1f}"
        table.add(name, f"{size:,}", f"{disk:.0f}", accuracy, f"{raw['samples_per_second']:,.0f}")
    for name, outcomes in results.items():
        folder = Path(outcomes[0].folder)
        count = parameters(folder)
        cells = f"{count:,}", f"{megabytes(folder):.0f}", with_spread(accuracies(outcomes)), f"{speeds[count]:,.0f}"
        table.add(name, *cells)
    return table


def _dev_flags(data: Path) -> list[str]:
    return ["--dev_file", str(data / DEV), "--text_columns", "text", "--label_column", "label"]
