"""SuperGLUE as it is distributed (https://super.gluebenchmark.com, Wang et al. 2019), and ANLI (Nie et al. 2020).

    task = load_superglue("superglue/copa", data_dir)
    template = find_template(task.name, "NAME", templates_dir)      # template_folders.py
    worded = examples(task, "train", template, seed)                # wording.py: prompt, target, choices, answer, ...

`names_superglue` tells whether a task's name is one of these: bare "rte" is GLUE's, "superglue/rte" is this one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datasets import Features

from sinkd.errors import SinkdError
from sinkd.tasks import glue, metrics, submission
from sinkd.tasks import superglue_rows as rows
from sinkd.tasks.metrics import Scorer
from sinkd.tasks.source import FileSource, HubSource, Source
from sinkd.tasks.submission import Submission
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
    """One line of the registry.

    folder : the name in the official archive and of the submission file.
    words : what a submission writes for each label, in id order; the labels themselves where it is empty.
    lines : a submission of the task's own shape.
    """

    folder: str
    labels: tuple[str, ...]
    features: Features
    parse: rows.LineParser
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
    """The folder of a task's templates, as promptsource calls it; below super_glue as the hub names the task."""
    return known.partition("/")[0] if "/" in known else f"super_glue/{'wsc.fixed' if known == 'wsc' else known}"


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _known(name: str) -> str | None:
    """The registry's name for a name without prefix, in any spelling: "CoPA", "wsc.fixed", "anli_r1", "train_r1"."""
    wanted = _plain(name).removesuffix("fixed")
    for known in SUPERGLUE:
        r = known.partition("/")[2]
        if wanted == _plain(known) or (r and wanted.removeprefix("anli") in (r, f"train{r}", f"dev{r}", f"test{r}")):
            return known
    return None


def superglue_name(name: str) -> str:
    """The registry's name for "superglue/copa", "super_glue/wsc.fixed", "COPA", "anli/r1" ...; here "rte" is this RTE.

    Raises SinkdError, with the names there are, for an unknown one.
    """
    bare = name.lower()
    for prefix in PREFIXES:
        bare = bare.removeprefix(prefix)
    known = _known(bare)
    if known is None:
        raise SinkdError(f"found task {name!r}, expected one of {', '.join(map(full_name, SUPERGLUE))}")
    return known


def full_name(known: str) -> str:
    """What a task calls itself: superglue/copa, anli/r1."""
    return known if "/" in known else f"superglue/{known}"


def names_superglue(name: str) -> bool:
    """Whether a task's name means one of these tasks: any with its prefix; a bare one that GLUE does not have."""
    if name.lower().startswith(PREFIXES):
        return True
    return _known(name) is not None and name.lower() not in glue.TASKS


def load_superglue(name: str, data_dir: str | Path | None = None, bad_rows: str = "error") -> Task:
    """A task of SuperGLUE or ANLI, from the folder that holds its files or from the hub.

    Args:
        name: boolq, cb, copa, multirc, record, rte, wic, wsc, anli/r1, anli/r2 or anli/r3, in any spelling
            ("superglue/copa", "super_glue/wsc.fixed", "COPA", "anli_r1").
        data_dir: A folder with the task's folder in it (COPA, copa; anli_v1.0/R1), or the task's folder itself. None:
            datas/superglue if it has the task, else the hub, which is asked when a split is first read.
        bad_rows: "error" stops at a bad line with file, line and field; "skip" leaves it out and counts it.

    Raises:
        SinkdError: The task is unknown (the names are listed), or data_dir lacks its files (with all that was looked
            for).
    """
    known = superglue_name(name)
    entry = SUPERGLUE[known]
    folder, looked = _folder(known, Path(data_dir) if data_dir is not None else DEFAULT_FOLDER)
    if folder is None and data_dir is not None:
        raise SinkdError(f"no files of {full_name(known)} ({_sought()}); looked in {', '.join(map(str, looked))}")
    return Task(
        name=full_name(known),
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


def _folder(known: str, data_dir: Path) -> tuple[Path | None, list[Path]]:
    """The task's folder in data_dir, in any spelling, or data_dir itself; and where it was looked for."""
    looked = [data_dir / name for name in _places(known)]
    plain = {_plain(str(place)) for place in _places(known)}
    looked += sorted(found for found in _folders(data_dir) if _plain(str(found.relative_to(data_dir))) in plain)
    others = {_plain(place) for other in SUPERGLUE if other != known for place in _places(other)} - plain
    if _plain(data_dir.resolve().name) not in others:
        looked.append(data_dir)
    looked = list(dict.fromkeys(looked))
    for folder in looked:
        if any((folder / file).is_file() for names in FILES.values() for file in names):
            return folder, looked
    return None, looked


def _places(known: str) -> list[str]:
    """What the task's folder may be called, below the folder of all tasks."""
    folder = SUPERGLUE[known].folder
    if "/" not in known:
        return [folder, *(["WSC.fixed"] if known == "wsc" else [])]
    return [folder, f"anli/{folder}", f"anli_v1.0/{folder}", f"anli_v1.0/anli_v1.0/{folder}", known]


def _folders(data_dir: Path) -> Iterator[Path]:
    """The folders in data_dir, and in those of them that are called after ANLI."""
    if data_dir.is_dir():
        for found in data_dir.iterdir():
            if found.is_dir():
                yield found
                if _plain(found.name).startswith("anli"):
                    yield from (inner for inner in found.iterdir() if inner.is_dir())


def _files(known: str, folder: Path) -> Source:
    there = {split: [folder / name for name in names if (folder / name).is_file()] for split, names in FILES.items()}
    files = {split: found[0] for split, found in there.items() if found}
    looked = {split: " or ".join(str(folder / name) for name in names) for split, names in FILES.items()}
    return FileSource(full_name(known), files, SUPERGLUE[known].features, SUPERGLUE[known].parse, looked)


def _hub(known: str) -> Source:
    entry, name = SUPERGLUE[known], full_name(known)
    advice = f"put the files of {name} into {DEFAULT_FOLDER / _places(known)[0]} ({_sought()}), or give their folder"
    if "/" in known:
        r = known.partition("/")[2]
        return HubSource(name, ANLI_HUB, None, {split: f"{split}_{r}" for split in FILES}, entry.features, advice)
    named = {"train": "train", "dev": "validation", "test": "test"}
    return HubSource(name, HUB, wordings(known).partition("/")[2], named, entry.features, advice)
