"""GLUE as it is distributed: https://gluebenchmark.com, Wang et al. 2019.

Label orders are those of the published system, so that its teachers fit: MNLI is contradiction, entailment, neutral.
A file may hold a label's name or its number, except in MNLI and AX, where two orders of numbers are in use and a number
would be a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sinkd.errors import SinkdError
from sinkd.tasks import metrics, submission
from sinkd.tasks.layout import Layout
from sinkd.tasks.metrics import Scorer
from sinkd.tasks.source import TableSource
from sinkd.tasks.task import Task

ENTAILMENT = ("entailment", "not_entailment")
NLI = ("contradiction", "entailment", "neutral")
SPLITS = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}
MNLI_SPLITS = {
    "train": "train.tsv",
    "dev_matched": "dev_matched.tsv",
    "dev_mismatched": "dev_mismatched.tsv",
    "test_matched": "test_matched.tsv",
    "test_mismatched": "test_mismatched.tsv",
}

AX_SPLITS = (("test", "diagnostic.tsv"),)
SCORES = (0.0, 5.0)  # the scale of STS-B


@dataclass(frozen=True)
class Glue:
    """One line of the registry. `folder` is the name in GLUE's own archive and of the submission file."""

    folder: str
    labels: tuple[str, ...]
    layout: Layout
    scorer: Scorer
    metric: str
    numbers: bool = False  # whether submissions have label numbers, as the training file has
    splits: tuple[tuple[str, str], ...] = tuple(SPLITS.items())
    other_names: tuple[str, ...] = ()


_COLA = Layout(("sentence",), "label", headerless=("source", "label", "mark", "sentence"))
_NLI = Layout(("sentence1", "sentence2"), "label")
_MNLI = Layout(("sentence1", "sentence2"), "gold_label", open_label="-")
_QQP = Layout(("question1", "question2"), "is_duplicate", index="id")

_SST = Layout(("sentence",), "label")
_MRPC = Layout(("#1 String", "#2 String"), "Quality")
_STS = Layout(("sentence1", "sentence2"), "score")
_QNLI = Layout(("question", "sentence"), "label")

# fmt: off
TASKS = {
    "cola": Glue("CoLA", ("unacceptable", "acceptable"), _COLA, metrics.matthews, "mcc", numbers=True),
    "sst-2": Glue("SST-2", ("negative", "positive"), _SST, metrics.accuracy, "accuracy", numbers=True),
    "mrpc": Glue("MRPC", ("not_equivalent", "equivalent"), _MRPC, metrics.binary_f1, "f1", numbers=True),
    "sts-b": Glue("STS-B", (), _STS, metrics.correlation, "spearman"),
    "qqp": Glue("QQP", ("not_duplicate", "duplicate"), _QQP, metrics.binary_f1, "accuracy", numbers=True),
    "mnli": Glue("MNLI", NLI, _MNLI, metrics.accuracy, "accuracy", splits=tuple(MNLI_SPLITS.items())),
    "qnli": Glue("QNLI", ENTAILMENT, _QNLI, metrics.accuracy, "accuracy"),
    "rte": Glue("RTE", ENTAILMENT, _NLI, metrics.accuracy, "accuracy"),
    "wnli": Glue("WNLI", ("not_entailment", "entailment"), _NLI, metrics.accuracy, "accuracy", numbers=True),
    "ax": Glue("AX", NLI, _NLI, metrics.matthews, "mcc", splits=AX_SPLITS, other_names=("diagnostic",)),
}
# fmt: on

SUBMISSIONS = {"test": "", "test_matched": "-m", "test_mismatched": "-mm"}


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def task_name(name: str) -> str:
    """The registry's name for "CoLA", "glue/cola", "sst2" ...; SinkdError lists the names for an unknown one."""
    wanted = _plain(name.removeprefix("glue/"))
    for known, glue in TASKS.items():
        if wanted in (_plain(known), *glue.other_names):
            return known
    raise SinkdError(f"found task {name!r}, expected one of {', '.join(TASKS)}")


def _folder(name: str, glue: Glue, data_dir: Path) -> Path:
    """The task's folder in data_dir, in any spelling, or data_dir itself."""
    names = dict.fromkeys((glue.folder, glue.folder.upper(), name, *glue.other_names))
    plain = {_plain(known) for known in names}
    looked = [data_dir / known for known in names]
    if data_dir.is_dir():
        looked += sorted(found for found in data_dir.iterdir() if found.is_dir() and _plain(found.name) in plain)
        others = {_plain(known) for other in TASKS for known in (other, *TASKS[other].other_names)} - plain
        if _plain(data_dir.resolve().name) not in others:
            looked.append(data_dir)
    looked = list(dict.fromkeys(looked))
    for folder in looked:
        if any((folder / file).is_file() for _, file in glue.splits):
            return folder
    files = ", ".join(file for _, file in glue.splits)
    raise SinkdError(f"no files of glue/{name} ({files}); looked in {', '.join(str(folder) for folder in looked)}")


def load_task(name: str, data_dir: str | Path, bad_rows: str = "error") -> Task:
    """A GLUE task from the folder that holds its files.

    Args:
        name: cola, sst-2, mrpc, sts-b, qqp, mnli, qnli, rte, wnli or ax, in any spelling ("glue/cola", "CoLA", "sst2").
        data_dir: A folder with the task's folder in it (CoLA, COLA, cola ...), or the task's folder itself.
        bad_rows: "error" stops at a bad row with file and line; "skip" leaves it out and counts it.

    Raises:
        SinkdError: The task is unknown (the names are listed), or there is no such folder (with all that was looked
            for).
    """
    known = task_name(name)
    glue = TASKS[known]
    folder = _folder(known, glue, Path(data_dir))
    name = f"glue/{known}"
    numbers = tuple(str(label) for label in range(len(glue.labels)))
    readable = {} if glue.labels == NLI else {number: int(number) for number in numbers}
    words = {label: number for number, label in enumerate(glue.labels)} | readable
    files = {split: folder / file for split, file in glue.splits}
    if glue.labels:
        scale, lines = None, submission.table(numbers if glue.numbers else glue.labels)
    else:
        scale, lines = SCORES, submission.score_table(*SCORES)
    return Task(
        name=name,
        labels=glue.labels,
        metric=glue.metric,
        source=TableSource(name, files, glue.layout, words, scale),
        scorer=glue.scorer,
        submission=lines,
        submissions={
            split: f"{glue.folder}{SUBMISSIONS[split]}.tsv" for split, _ in glue.splits if split in SUBMISSIONS
        },
        bad_rows=bad_rows,
    )
