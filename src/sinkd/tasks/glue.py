"""GLUE as it is distributed: https://gluebenchmark.com, Wang et al. 2019.

Label orders are those of the published system, so that its teachers fit: MNLI is contradiction, entailment, neutral.
A file may hold a label's name or its number, except in MNLI and AX, where two orders of numbers are in use and a number
would be a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sinkd.errors import SinkdError
from sinkd.tasks import metrics, submission
from sinkd.tasks.folders import find_folder, plain
from sinkd.tasks.layout import GLUE_FORMAT, Layout
from sinkd.tasks.metrics import Scorer
from sinkd.tasks.source import TableSource
from sinkd.tasks.task import Task

ENTAILMENT = ("entailment", "not_entailment")
NLI = ("contradiction", "entailment", "neutral")
SPLITS = ("train", "dev", "test")
MNLI_SPLITS = ("train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched")
STS_RANGE = (0.0, 5.0)


@dataclass(frozen=True)
class Glue:
    """An entry of the registry.

    Attributes:
        folder: Name in GLUE's own archive, and of the submission file.
        labels: Label names in id order; () for regression.
        metric: The score that selects the best model.
        numbers: Submissions write label numbers, not names.
    """

    folder: str
    labels: tuple[str, ...]
    layout: Layout
    scorer: Scorer
    metric: str
    numbers: bool = False
    files: Mapping[str, str] = field(default_factory=lambda: {split: f"{split}.tsv" for split in SPLITS})
    other_names: tuple[str, ...] = ()


_SENTENCE = Layout(("sentence",), "label")
_COLA_FORMAT = replace(GLUE_FORMAT, headerless=("source", "label", "mark", "sentence"))
_COLA = Layout(("sentence",), "label", format=_COLA_FORMAT)
_MRPC = Layout(("#1 String", "#2 String"), "Quality")
_STS = Layout(("sentence1", "sentence2"), "score")
_QQP = Layout(("question1", "question2"), "is_duplicate", index="id")
_MNLI = Layout(("sentence1", "sentence2"), "gold_label", open_label="-")
_MNLI_FILES = {split: f"{split}.tsv" for split in MNLI_SPLITS}
_QNLI = Layout(("question", "sentence"), "label")
_NLI = Layout(("sentence1", "sentence2"), "label")

# fmt: off
TASKS = {
    "cola": Glue("CoLA", ("unacceptable", "acceptable"), _COLA, metrics.matthews, "mcc", numbers=True),
    "sst-2": Glue("SST-2", ("negative", "positive"), _SENTENCE, metrics.accuracy, "accuracy", numbers=True),
    "mrpc": Glue("MRPC", ("not_equivalent", "equivalent"), _MRPC, metrics.binary_f1, "f1", numbers=True),
    "sts-b": Glue("STS-B", (), _STS, metrics.correlation, "spearman"),
    "qqp": Glue("QQP", ("not_duplicate", "duplicate"), _QQP, metrics.binary_f1, "accuracy", numbers=True),
    "mnli": Glue("MNLI", NLI, _MNLI, metrics.accuracy, "accuracy", files=_MNLI_FILES),
    "qnli": Glue("QNLI", ENTAILMENT, _QNLI, metrics.accuracy, "accuracy"),
    "rte": Glue("RTE", ENTAILMENT, _NLI, metrics.accuracy, "accuracy"),
    "wnli": Glue("WNLI", ("not_entailment", "entailment"), _NLI, metrics.accuracy, "accuracy", numbers=True),
    "ax": Glue("AX", NLI, _NLI, metrics.matthews, "mcc", files={"test": "diagnostic.tsv"}, other_names=("diagnostic",)),
}
# fmt: on

SUBMISSIONS = {"test": "", "test_matched": "-m", "test_mismatched": "-mm"}


def task_name(name: str) -> str:
    """Return the registry's name for "CoLA", "glue/cola", "sst2" ...

    Raises:
        SinkdError: if the task is unknown; lists the known names.
    """
    wanted = plain(name.removeprefix("glue/"))
    for known, glue in TASKS.items():
        if wanted in (plain(known), *glue.other_names):
            return known
    raise SinkdError(f"found task {name!r}, expected one of {', '.join(TASKS)}")


def load_task(name: str, data_dir: str | Path, bad_rows: str = "error") -> Task:
    """Load a GLUE task from the folder that holds its files.

    Args:
        name: cola, sst-2, mrpc, sts-b, qqp, mnli, qnli, rte, wnli or ax, in any spelling ("glue/cola", "CoLA", "sst2").
        data_dir: A folder with the task's folder in it (CoLA, COLA, cola ...), or the task's folder itself.
        bad_rows: "error" stops at a bad row with file and line; "skip" leaves it out and counts it.

    Raises:
        SinkdError: if the task is unknown (the names are listed), or there is no such folder (the places are listed).
    """
    known = task_name(name)
    glue = TASKS[known]
    names = dict.fromkeys((glue.folder, glue.folder.upper(), known, *glue.other_names))
    others = [other for task, entry in TASKS.items() for other in (task, *entry.other_names)]
    folder, places = find_folder(Path(data_dir), names, others, glue.files.values())
    if folder is None:
        sought = ", ".join(glue.files.values())
        raise SinkdError(f"no files of glue/{known} ({sought}); looked in {', '.join(map(str, places))}")
    numbers = [str(label) for label in range(len(glue.labels))]
    words = {label: number for number, label in enumerate(glue.labels)}
    if glue.labels != NLI:
        words |= {number: int(number) for number in numbers}
    if glue.labels:
        score_range, lines = None, submission.table(numbers if glue.numbers else glue.labels)
    else:
        score_range, lines = STS_RANGE, submission.score_table(*STS_RANGE)
    files = {split: folder / file for split, file in glue.files.items()}
    return Task(
        name=f"glue/{known}",
        labels=glue.labels,
        metric=glue.metric,
        source=TableSource(f"glue/{known}", files, glue.layout, words, score_range),
        scorer=glue.scorer,
        submission=lines,
        submissions={split: f"{glue.folder}{suffix}.tsv" for split, suffix in SUBMISSIONS.items()},
        bad_rows=bad_rows,
    )
