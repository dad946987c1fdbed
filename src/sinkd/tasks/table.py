"""Tasks from a user's own tables: csv, tsv or jsonl files with one or two text columns and a label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from sinkd.errors import SinkdError
from sinkd.tasks import metrics, submission
from sinkd.tasks.layout import Layout
from sinkd.tasks.source import TableSource
from sinkd.tasks.task import Task

KINDS = ("auto", "classification", "regression")
MOST_LABELS = 10_000  # more distinct values than this are numbers or keys, not classes


def table_task(
    train_file: str | Path | None = None,
    dev_file: str | Path | None = None,
    test_file: str | Path | None = None,
    *,
    text_columns: Sequence[str],
    label_column: str | None = None,
    labels: Sequence[str] = (),
    kind: str = "auto",
    bad_rows: str = "error",
) -> Task:
    """Make a task from a user's own files.

    The suffix determines the format: .csv (header, quoted as in RFC 4180), .jsonl or .json (an object per line); any
    other file has a header and tab-separated columns, without quoting.

    Scores are accuracy and macro F1, best by accuracy; for regression Pearson's and Spearman's correlation, best by
    Spearman's.

    Args:
        train_file: Rows to train on; None if all text to train on is in another file, without labels.
        dev_file: Rows to evaluate on; None to evaluate nothing.
        test_file: Rows to predict.
        text_columns: One column, or two for pairs.
        label_column: A class, as word or number, or a score. The test file may lack it, and the training file if the
            dev file has it; None if no file has labels.
        labels: The classes in id order. By default those of the training file (of the dev file, if the training file
            has none), sorted: as numbers if all are integers, else as words.
        kind: "classification", "regression", or "auto": regression if every label of that file is a number and at
            least one has a fraction (3.5), else classification.
        bad_rows: "error" stops at a bad row with file and line; "skip" leaves it out and counts it.

    Raises:
        SinkdError: if a file or column is missing, the kind is unknown, the labels are not known, or there is one class
            or too many.
    """
    if kind not in KINDS:
        raise SinkdError(f"found kind {kind!r}, expected one of {', '.join(KINDS)}")
    if len(text_columns) not in (1, 2):
        raise SinkdError(f"found {len(text_columns)} text columns ({', '.join(text_columns)}), expected one or two")
    if dev_file is not None and not label_column:
        raise SinkdError(f"nothing can be evaluated on {dev_file} without labels; name their column by --label_column")
    layout = Layout(tuple(text_columns), label_column or "", format="")
    given = {"train": train_file, "dev": dev_file, "test": test_file}
    files = {split: Path(file) for split, file in given.items() if file is not None}
    if train_file is not None and not files["train"].is_file():
        raise SinkdError(f"no train file: looked for {train_file}")
    unlabelled = frozenset(["train"] if _lacks_labels(files, layout) else [])
    told = next((files[split] for split in ("train", "dev") if split in files and split not in unlabelled), None)
    if labels:
        classes = _checked(labels, kind)
    elif kind == "regression":
        classes = ()
    elif told is not None:
        found = _label_words(told, layout)
        classes = () if kind == "auto" and _has_fractions(found) else _sorted(found, told, layout.label)
    else:
        raise SinkdError("no file has labels; name them, as in --labels negative,positive, or --table_kind regression")
    words = {label: number for number, label in enumerate(classes)}
    name = f"table/{_short_name(files)}"
    return Task(
        name=name,
        labels=classes,
        metric="accuracy" if classes else "spearman",
        source=TableSource(name, files, layout, words, unlabelled=unlabelled),
        scorer=metrics.macro_f1 if classes else metrics.correlation,
        submission=submission.table(classes) if classes else submission.score_table(),
        submissions={"test": "predictions.tsv"},
        bad_rows=bad_rows,
    )


def _lacks_labels(files: Mapping[str, Path], layout: Layout) -> bool:
    """Return whether the training file has no labels; a column that the dev file lacks too is a wrong name."""
    if "train" not in files or not layout.label:
        return True
    return "dev" in files and not layout.has_labels(files["train"]) and layout.has_labels(files["dev"])


def _short_name(files: Mapping[str, Path]) -> str:
    """Return a name for the task. A name such as train.csv does not describe it; the folder's name does."""
    if not files:
        return "text"
    path = next(iter(files.values()))
    return path.stem if path.stem not in files else path.resolve().parent.name


def _checked(labels: Sequence[str], kind: str) -> tuple[str, ...]:
    """Return the labels that a user names."""
    if kind == "regression":
        raise SinkdError(f"found the labels {', '.join(labels)} and kind regression; give one of them")
    if len(labels) < 2 or len(set(labels)) < len(labels) or not all(labels):
        raise SinkdError(f"found the labels {', '.join(map(repr, labels))}, expected two or more different ones")
    return tuple(labels)


def _label_words(path: Path, layout: Layout) -> set[str]:
    """Return the distinct labels of the good rows; `Task.read` reports bad rows."""
    rows = (row for _, row in layout.examples(path, lambda word: word))
    return {row["label"] for row in rows if isinstance(row, dict) and row["label"]}


def _has_fractions(words: set[str]) -> bool:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return False
    return all(map(math.isfinite, numbers)) and any(not number.is_integer() for number in numbers)


def _sorted(words: set[str], path: Path, column: str) -> tuple[str, ...]:
    if len(words) < 2 or len(words) > MOST_LABELS:
        found = f"found {len(words):,} different label{'s' * (len(words) != 1)} in column {column!r} of {path}"
        raise SinkdError(f"{found}, expected 2 to {MOST_LABELS:,} classes, or scores and --table_kind regression")
    try:
        return tuple(sorted(words, key=lambda word: (int(word), word)))
    except ValueError:
        return tuple(sorted(words))
