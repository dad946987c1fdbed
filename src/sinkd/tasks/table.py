"""Tasks from a user's own tables: csv, tsv, jsonl or parquet, with one or two text columns and a label."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from sinkd.errors import SinkdError
from sinkd.tasks import metrics, submission
from sinkd.tasks.file_formats import FileFormat, excerpt
from sinkd.tasks.label_column import alike, classes, finite, in_order, lists, numbers, present, spellings, written
from sinkd.tasks.layout import UNWRITABLE, Layout
from sinkd.tasks.quoting import QUOTINGS
from sinkd.tasks.source import TableSource
from sinkd.tasks.task import SKIPPING, Task
from sinkd.tasks.text_file import known

logger = logging.getLogger(__name__)

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
    quoting: str = "auto",
    encoding: str = "utf-8",
    column_names: Sequence[str] = (),
) -> Task:
    """Make a task from a user's own files.

    The suffix determines the format: .csv (header, quoted as in RFC 4180), .jsonl or .json (an object per line),
    .parquet; any other file has a header and tab-separated columns. Text may be compressed by gzip.

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
            has none), sorted: as numbers if all are numbers, else as words. What stands for a missing label (N/A, None)
            is a class only if it is named here.
        kind: "classification", "regression", or "auto". If most labels of that file are numbers, another label is a bad
            row; with a fraction among them (3.5) it is regression. Everything else is classification.
        bad_rows: "error" stops at the first bad row with file and line; "skip" leaves bad rows out and counts them.
        quoting: Whether quotes enclose fields: "none", "minimal", or "auto" (CSV: yes; TSV: if the file looks so).
        encoding: Encoding of files that do not begin with a byte order mark.
        column_names: All columns of csv and tsv files without header line. Files with one are read by it.

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
    if len({*text_columns, label_column}) <= len(text_columns):
        found = f"found the text columns {', '.join(text_columns)} and the label column {label_column}"
        raise SinkdError(f"{found}, expected different ones")
    if quoting not in QUOTINGS:
        raise SinkdError(f"found quoting {quoting!r}, expected one of {', '.join(QUOTINGS)}")
    needed = {*text_columns, *filter(None, [label_column])}
    if column_names and (len(set(column_names)) < len(column_names) or not needed <= set(column_names)):
        wanted = " and ".join(map(repr, sorted(needed)))
        raise SinkdError(f"found column names {', '.join(column_names)}, expected different ones, {wanted} among them")
    format = FileFormat(quoting=quoting, encoding=known(encoding), headerless=tuple(column_names))
    layout = Layout(tuple(text_columns), label_column or "", format=format)
    given = {"train": train_file, "dev": dev_file, "test": test_file}
    files = {split: Path(file) for split, file in given.items() if file is not None}
    if train_file is not None and not files["train"].is_file():
        raise SinkdError(f"no train file: looked for {train_file}")
    unlabelled = frozenset(["train"] if _lacks_labels(files, layout) else [])
    told = next((files[split] for split in ("train", "dev") if split in files and split not in unlabelled), None)
    if labels:
        names = _checked(labels, kind)
    elif kind == "regression":
        names = ()
    elif told is not None:
        names = _classes(told, layout, kind, bad_rows)
    else:
        raise SinkdError("no file has labels; name them, as in --labels negative,positive, or --table_kind regression")
    words = {label: number for number, label in enumerate(names)}
    name = f"table/{_short_name(files)}"
    return Task(
        name=name,
        labels=names,
        metric="accuracy" if names else "spearman",
        source=TableSource(name, files, layout, words, unlabelled=unlabelled),
        scorer=metrics.macro_f1 if names else metrics.correlation,
        submission=submission.table(names) if names else submission.scores,
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
    if len(labels) < 2 or len(set(labels)) < len(labels) or not all(labels) or UNWRITABLE.search("".join(labels)):
        raise SinkdError(f"found the labels {', '.join(map(repr, labels))}, expected two or more different ones")
    return tuple(labels)


def _classes(path: Path, layout: Layout, kind: str, bad_rows: str) -> tuple[str, ...]:
    """Return the classes that the good rows of a file have; () for scores.

    Raises:
        SinkdError: for the first bad row, unless bad rows are to be skipped; or for one class, or too many.
    """
    column = f"in column {layout.label!r}"
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}  # label -> its first line
    bad: list[tuple[int, str]] = []  # the first bad row; and of labels that are none, the first of each
    for line, row in layout.examples(path, lambda word: word if word in first else present(word, layout.label)):
        if isinstance(row, SinkdError):
            bad = bad or [(line, str(row))]
        elif row is not None:
            counts[row["label"]] += 1
            first.setdefault(row["label"], line)
    numeric = numbers(counts) if kind == "auto" else set()
    if kind == "auto" and not numeric and (odd := written(counts)):
        line, word = min((first[word], word) for word in odd)
        raise SinkdError(
            f"{layout.format.place(path, line)}: found {excerpt(word)} {column}, expected numbers with a decimal point "
            "and no other sign, as 1.5, or --table_kind classification for classes of such names"
        )
    words = numeric or classes(counts)
    expected = "a number as in most rows, or --table_kind classification" if numeric else "one; --labels names classes"
    none = [word for word in counts if words.isdisjoint(spellings(word))]
    bad += [(first[word], f"found label {excerpt(word)} {column}, expected {expected}") for word in none]
    several = lists(counts) if kind == "auto" else set()
    one = "expected one label, not several (or --table_kind classification)"
    bad += [(first[word], f"found {excerpt(word)} {column}, {one}") for word in several]
    words = words - several
    stop = [f"{layout.format.place(path, line)}: {reason}" for line, reason in sorted(bad)[:1]]
    if stop and bad_rows == "error":
        raise SinkdError(f"{stop[0]} {SKIPPING}")
    if any(not finite(word).is_integer() for word in numeric):
        return ()
    if not words:
        raise SinkdError("; the first bad row is ".join([f"found no row with a label in {path}", *stop]))
    if not 2 <= len(words) <= MOST_LABELS:
        found = f"found {len(words):,} different label{'s' * (len(words) != 1)} {column} of {path}"
        wanted = f"expected 2 to {MOST_LABELS:,} classes, or scores and --table_kind regression"
        raise SinkdError("; the first bad row is ".join([f"{found}, {wanted}", *stop]))
    if same := alike(words):
        shown = " and ".join(map(excerpt, same))
        logger.warning("%s: the classes %s %s look alike; were they meant to be one?", path, shown, column)
    return in_order(words)
