"""SuperGLUE as it is distributed (https://super.gluebenchmark.com, Wang et al. 2019), and ANLI (Nie et al. 2020).

    task = load_superglue("superglue/copa", data_dir)
    template = find_template(task.name, "NAME", templates_dir)      # template_folders.py
    worded = examples(task, "train", template, seed)                # wording.py: prompt, target, choices, answer, ...

The bare name "rte" is GLUE's; "superglue/rte" is this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datasets import Features

from sinkd.errors import SinkdError
from sinkd.tasks import glue, metrics, submission
from sinkd.tasks import superglue_rows as rows
from sinkd.tasks.folders import find_folder, plain
from sinkd.tasks.metrics import Scorer
from sinkd.tasks.source import FileSource, HubSource
from sinkd.tasks.submission import Submission
from sinkd.tasks.superglue_rows import LineParser
from sinkd.tasks.task import Task

DEFAULT_FOLDER = Path("datas", "superglue")
PREFIXES = ("superglue/", "super_glue/")
FILES = {
    "train": ("train.jsonl",),
    "dev": ("val.jsonl", "validation.jsonl", "dev.jsonl"),
    "test": ("test.jsonl",),
}
HUB = "aps/super_glue"
ANLI_HUB = "facebook/anli"


@dataclass(frozen=True)
class SuperGlue:
    """An entry of the registry.

    Attributes:
        folder: Name in the official archive, and of the submission file.
        labels: Label names in id order; () if the entities of a row are its labels.
        parse: Converts a line of its files to rows.
        metric: The score that selects the best model.
        words: The labels as written in a submission, in id order; empty if they are the same.
        lines: Formats a submission that is not one label per row.
    """

    folder: str
    labels: tuple[str, ...]
    features: Features
    parse: LineParser
    scorer: Scorer = metrics.accuracy
    metric: str = "accuracy"
    words: tuple[str | int, ...] = ()
    lines: Submission | None = None


F1A, F1 = metrics.multirc, metrics.record
TRUE, TITLE_TRUE = ("false", "true"), ("False", "True")

# fmt: off
SUPERGLUE = {
    "boolq": SuperGlue("BoolQ", rows.TRUTH, rows.BOOLQ, rows.boolq, words=TRUE),
    "cb": SuperGlue("CB", rows.NLI, rows.CB, rows.cb, metrics.macro_f1),
    "copa": SuperGlue("COPA", rows.CHOICES, rows.COPA, rows.copa, words=(0, 1)),
    "multirc": SuperGlue("MultiRC", rows.TRUTH, rows.MULTIRC, rows.multirc, F1A, "f1a", lines=submission.multirc),
    "record": SuperGlue("ReCoRD", (), rows.RECORD, rows.record, F1, "f1", lines=submission.record),
    "rte": SuperGlue("RTE", rows.BINARY_NLI, rows.RTE, rows.rte),
    "wic": SuperGlue("WiC", rows.TRUTH, rows.WIC, rows.wic, words=TRUE),
    "wsc": SuperGlue("WSC", rows.TRUTH, rows.WSC, rows.wsc, words=TITLE_TRUE),
    "anli/r1": SuperGlue("R1", rows.ANLI, rows.ANLI_COLUMNS, rows.anli),
    "anli/r2": SuperGlue("R2", rows.ANLI, rows.ANLI_COLUMNS, rows.anli),
    "anli/r3": SuperGlue("R3", rows.ANLI, rows.ANLI_COLUMNS, rows.anli),
}
# fmt: on


def wordings(known: str) -> str:
    """Return the folder of a task's templates in promptsource: super_glue/copa, super_glue/wsc.fixed, anli."""
    return known.partition("/")[0] if "/" in known else f"super_glue/{'wsc.fixed' if known == 'wsc' else known}"


def _known(name: str) -> str | None:
    """Return the registry's name for a name without prefix: "CoPA", "wsc.fixed", "anli_r1", "train_r1"."""
    wanted = plain(name).removesuffix("fixed")
    for known in SUPERGLUE:
        r = known.partition("/")[2]
        if wanted == plain(known) or (r and wanted.removeprefix("anli") in (r, f"train{r}", f"dev{r}", f"test{r}")):
            return known
    return None


def superglue_name(name: str) -> str:
    """Return the registry's name for "superglue/copa", "super_glue/wsc.fixed", "COPA", "anli/r1" ...

    Raises:
        SinkdError: if the task is unknown; lists the known names.
    """
    bare = name.lower()
    for prefix in PREFIXES:
        bare = bare.removeprefix(prefix)
    known = _known(bare)
    if known is None:
        raise SinkdError(f"found task {name!r}, expected one of {', '.join(map(_full_name, SUPERGLUE))}")
    return known


def _full_name(known: str) -> str:
    return known if "/" in known else f"superglue/{known}"


def names_superglue(name: str) -> bool:
    """Return whether a name means one of these tasks: it has their prefix, or is a bare name that GLUE lacks."""
    if name.lower().startswith(PREFIXES):
        return True
    return _known(name) is not None and name.lower() not in glue.TASKS


def load_superglue(name: str, data_dir: str | Path | None = None, bad_rows: str = "error") -> Task:
    """Load a task of SuperGLUE or ANLI, from the folder that holds its files or from the hub.

    Args:
        name: boolq, cb, copa, multirc, record, rte, wic, wsc, anli/r1, anli/r2 or anli/r3, in any spelling
            ("superglue/copa", "super_glue/wsc.fixed", "COPA", "anli_r1").
        data_dir: A folder with the task's folder in it (COPA, copa; anli_v1.0/R1), or the task's folder itself. None:
            datas/superglue if it has the task, else the hub, which is asked when a split is first read.
        bad_rows: "error" stops at a bad line with file, line and field; "skip" leaves it out and counts it.

    Raises:
        SinkdError: if the task is unknown (lists the names), or `data_dir` lacks its files (lists the places).
    """
    known = superglue_name(name)
    entry, name = SUPERGLUE[known], _full_name(known)
    others = [place for other in SUPERGLUE if other != known for place in _places(other)]
    candidates = [file for files in FILES.values() for file in files]
    folder, places = find_folder(Path(data_dir or DEFAULT_FOLDER), _places(known), others, candidates)
    if folder is None and data_dir is not None:
        raise SinkdError(f"no files of {name} ({_sought()}); looked in {', '.join(map(str, places))}")
    return Task(
        name=name,
        labels=entry.labels,
        metric=entry.metric,
        source=_hub(known) if folder is None else _files(known, folder),
        scorer=entry.scorer,
        submission=entry.lines or submission.labels(entry.words or entry.labels),
        choices=True,
        submissions={"test": f"{known.replace('/', '-') if '/' in known else entry.folder}.jsonl"},
        bad_rows=bad_rows,
    )


def _sought() -> str:
    return ", ".join(" or ".join(names) for names in FILES.values())


def _places(known: str) -> list[str]:
    """Return the possible names of the task's folder, below the folder of all tasks."""
    folder = SUPERGLUE[known].folder
    if "/" not in known:
        return [folder, "WSC.fixed"] if known == "wsc" else [folder]
    return [folder, *(f"{anli}/{folder}" for anli in ("anli", "anli_v1.0", "anli_v1.0/anli_v1.0")), f"anli_{folder}"]


def _files(known: str, folder: Path) -> FileSource:
    candidates = {split: [folder / name for name in names] for split, names in FILES.items()}
    files = {split: next((path for path in paths if path.is_file()), None) for split, paths in candidates.items()}
    looked = {split: " or ".join(map(str, paths)) for split, paths in candidates.items()}
    entry, there = SUPERGLUE[known], {split: path for split, path in files.items() if path is not None}
    return FileSource(_full_name(known), there, entry.features, entry.parse, looked)


def _hub(known: str) -> HubSource:
    entry, name = SUPERGLUE[known], _full_name(known)
    advice = f"put the files of {name} into {DEFAULT_FOLDER / _places(known)[0]} ({_sought()}), or give their folder"
    if "/" in known:
        r = known.partition("/")[2]
        return HubSource(name, {}, ANLI_HUB, None, {split: f"{split}_{r}" for split in FILES}, entry.features, advice)
    splits = {"train": "train", "dev": "validation", "test": "test"}
    return HubSource(name, {}, HUB, wordings(known).partition("/")[2], splits, entry.features, advice)
