"""Tasks from a user's own tables: csv, tsv or jsonl files with one or two text columns and a label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from sinkd.errors import SinkdError
from sinkd.tasks import metrics, submission
from sinkd.tasks.layout import Layout
from sinkd.tasks.source import TableSource
from sinkd.tasks.task import Task

KINDS = ("auto", "classification", "regression")
MOST_LABELS = 10_000  # more distinct values than this are numbers or keys, not classes


def table_task(
    train_file: str | Path,
    dev_file: str | Path,
    test_file: str | Path | None = None,
    *,
    text_columns: Sequence[str],
    label_column: str,
    kind: str = "auto",
    bad_rows: str = "error",
) -> Task:
    """Make a task from a user's own files.

    The suffix determines the format: .csv (header, quoted as in RFC 4180), .jsonl or .json (an object per line); any
    other file has a header and tab-separated columns, without quoting.

    Classes are the labels of the training file, sorted: as numbers if all are integers, else as words. Scores are
    accuracy and macro F1, best by accuracy; for regression Pearson's and Spearman's correlation, best by Spearman's.

    Args:
        train_file: Rows to train on.
        dev_file: Rows to evaluate on.
        test_file: Rows to predict.
        text_columns: One column, or two for pairs.
        label_column: A class, as word or number, or a score. The test file may lack it.
        kind: "classification", "regression", or "auto": regression if every label of the training file is a number and
            at least one has a fraction (3.5), else classification.
        bad_rows: "error" stops at a bad row with file and line; "skip" leaves it out and counts it.

    Raises:
        SinkdError: if a file or column is missing, the kind is unknown, or the training file has one class or too many.
    """
    if kind not in KINDS:
        raise SinkdError(f"found kind {kind!r}, expected one of {', '.join(KINDS)}")
    if len(text_columns) not in (1, 2):
        raise SinkdError(f"found {len(text_columns)} text columns ({', '.join(text_columns)}), expected one or two")
    layout = Layout(tuple(text_columns), label_column, format="")
    train = Path(train_file)
    if not train.is_file():
        raise SinkdError(f"no train file: looked for {train}")
    found = set() if kind == "regression" else _label_words(train, layout)
    regression = kind == "regression" or (kind == "auto" and _has_fractions(found))
    labels = () if regression else _sorted(found, train, label_column)
    files = {"train": train, "dev": Path(dev_file)} | ({} if test_file is None else {"test": Path(test_file)})
    # A name such as train.csv does not describe the task; the folder's name does.
    short = train.stem if train.stem != "train" else train.resolve().parent.name
    words = {label: number for number, label in enumerate(labels)}
    return Task(
        name=f"table/{short}",
        labels=labels,
        metric="spearman" if regression else "accuracy",
        source=TableSource(f"table/{short}", files, layout, words),
        scorer=metrics.correlation if regression else metrics.macro_f1,
        submission=submission.score_table() if regression else submission.table(labels),
        submissions={"test": "predictions.tsv"},
        bad_rows=bad_rows,
    )


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
