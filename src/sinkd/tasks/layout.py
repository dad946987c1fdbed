"""The columns of a task's files, and how their rows become examples."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sinkd.errors import SinkdError
from sinkd.tasks.file_formats import Record, attempt, decode, excerpt, lines, names_columns, records

FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".json": "jsonl"}
TEXTS = ("text", "text_pair")

# Line number and example; None for a row to leave out, an error for a bad row.
Examples = Iterator[tuple[int, "Record | SinkdError | None"]]


@dataclass(frozen=True)
class Layout:
    """The columns of a task's files.

    Attributes:
        text: One column, or two for pairs.
        label: Column of the label, which files without labels lack; "" if no file has one.
        index: Column copied into submissions; rows are numbered from 0 if a file lacks it.
        headerless: Column names of a file without a header line.
        open_label: Label of rows on which the annotators did not agree. They are left out.
        format: "tsv", "csv", "jsonl", or "" to follow the file's suffix.
    """

    text: tuple[str, ...]
    label: str
    index: str = "index"
    headerless: tuple[str, ...] = ()
    open_label: str | None = None
    format: str = "tsv"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the texts once read: text, or text and text_pair."""
        return TEXTS[: len(self.text)]

    def examples(self, path: Path, label: Callable[[str], object] | None) -> Examples:
        """Yield rows as text[, text_pair][, label], index.

        Args:
            path: The file.
            label: Converts a word to a label; None leaves labels out.
        """
        needed = self.text if label is None else (*self.text, self.label)
        rows = records(path, self._format(path), needed, self.headerless)
        for position, (number, found) in enumerate(rows):
            yield number, attempt(self._example, found, position, label)

    def has_labels(self, path: Path) -> bool:
        """Return whether the label's column is in a file's header, or (JSON lines) in one of its rows."""
        format = self._format(path)
        rows = (row for _, row in records(path, format, self.text, self.headerless) if not isinstance(row, SinkdError))
        return any(self.label in row for row in (rows if format == "jsonl" else islice(rows, 1)))

    def texts(self, path: Path) -> Examples:
        """Yield rows as text[, text_pair].

        A TSV whose first line names the text columns is read by them. Any other TSV has one sentence per line, tabs
        included, or for pairs two columns without a header. CSV and JSON lines have the task's text columns.
        """
        format = self._format(path)
        if format == "tsv" and len(self.text) == 1 and not names_columns(path, self.text):
            for number, line in lines(path):
                yield number, attempt(lambda line: self._texts({self.text[0]: decode(line)}), line)
        else:
            headerless = self.text if format == "tsv" else ()
            for number, found in records(path, format, self.text, headerless):
                yield number, attempt(self._texts, found)

    def _format(self, path: Path) -> str:
        return self.format or FORMATS.get(path.suffix.lower(), "tsv")

    def _texts(self, found: Record) -> Record:
        row = {}
        for name, column in zip(self.names, self.text, strict=True):
            text = found.get(column)
            if not isinstance(text, str):
                found_it = "no" if text is None else "other than text in"
                raise SinkdError(f"found {found_it} column {column!r}, expected text")
            if not text.strip():
                raise SinkdError(f"found an empty sentence in column {column!r}, expected text")
            row[name] = text
        return row

    def _example(self, found: Record, position: int, label: Callable[[str], object] | None) -> Record | None:
        row = self._texts(found)
        if label is not None:
            if found.get(self.label) is None:
                raise SinkdError(f"found no {self.label!r} in {excerpt(found)}, expected a label")
            word = label_word(found[self.label])
            if word == self.open_label:
                return None
            row["label"] = label(word)
        row["index"] = str(found.get(self.index, position))
        return row


def label_word(value: object) -> str:
    """Return a label as text: strings without surrounding space, other values as JSON."""
    return value.strip() if isinstance(value, str) else json.dumps(value)
