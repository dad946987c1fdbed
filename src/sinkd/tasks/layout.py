"""The columns of a task's files, and how their rows become examples."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import islice
from pathlib import Path

from sinkd.errors import SinkdError
from sinkd.tasks.file_formats import FileFormat, Record, attempt, excerpt, lines, names_columns, records
from sinkd.tasks.text_file import decode

TEXTS = ("text", "text_pair")
GLUE_FORMAT = FileFormat("tsv", quoting="none")
HALF = re.compile("[\ud800-\udfff]")  # half a character, which JSON can express and UTF-8 cannot
UNWRITABLE = re.compile("[\t\n\r\ud800-\udfff]")  # what a line of predictions cannot hold

# Line number and example; None for a row to leave out, an error for a bad row.
Examples = Iterator[tuple[int, "Record | SinkdError | None"]]


@dataclass(frozen=True)
class Layout:
    """The columns of a task's files.

    Attributes:
        text: One column, or two for pairs.
        label: Column of the label, which files without labels lack; "" if no file has one.
        index: Column copied into submissions; rows are numbered from 0 if a file lacks it.
        open_label: Label of rows on which the annotators did not agree. They are left out.
    """

    text: tuple[str, ...]
    label: str
    index: str = "index"
    open_label: str | None = None
    format: FileFormat = GLUE_FORMAT

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the texts once read: text, or text and text_pair."""
        return TEXTS[: len(self.text)]

    def examples(self, path: Path, label: Callable[[str], object] | None) -> Examples:
        """Yield rows as text[, text_pair][, label], index.

        Args:
            label: Converts a word to a label; None leaves labels out.
        """
        needed = self.text if label is None else (*self.text, self.label)
        rows = records(path, self.format, tuple(dict.fromkeys(needed)), (self.index,))
        for position, (number, found) in enumerate(rows):
            yield number, attempt(self._example, found, position, label)

    def has_labels(self, path: Path) -> bool:
        """Return whether the label's column is in a file's header, or (JSON lines) in one of its rows."""
        found = records(path, self.format, self.text, (self.label,))
        rows = (row for _, row in found if not isinstance(row, SinkdError))
        return any(self.label in row for row in (rows if self.format.of(path) == "jsonl" else islice(rows, 1)))

    def texts(self, path: Path) -> Examples:
        """Yield rows as text[, text_pair].

        A TSV whose first line names the text columns is read by them. Any other TSV has one sentence per line, tabs
        included, or for pairs two columns without a header. Other formats have the task's text columns.
        """
        tsv = self.format.of(path) == "tsv"
        if tsv and len(self.text) == 1 and not names_columns(path, self.format, self.text):
            for number, line in lines(path, self.format.encoding):
                yield (
                    number,
                    attempt(lambda line: self._texts({self.text[0]: decode(line, self.format.encoding)}), line),
                )
        else:
            format = self.format if not tsv else replace(self.format, headerless=self.text)
            for number, found in records(path, format, self.text):
                yield number, attempt(self._texts, found)

    def _texts(self, found: Record) -> Record:
        row = {}
        for name, column in zip(self.names, self.text, strict=True):
            text = found.get(column)
            if not isinstance(text, str):
                value = "no" if column not in found else f"{'null' if text is None else excerpt(text)} in"
                raise SinkdError(f"found {value} column {column!r}, expected text")
            if not text.strip():
                raise SinkdError(f"found an empty sentence in column {column!r}, expected text")
            if not text.isascii() and HALF.search(text):
                raise SinkdError(f"found half a character in column {column!r}, {excerpt(text)}, expected whole ones")
            row[name] = text
        return row

    def _example(self, found: Record, position: int, label: Callable[[str], object] | None) -> Record | None:
        row = self._texts(found)
        if label is not None:
            if found.get(self.label) is None:
                raise SinkdError(f"found no {self.label!r} in {excerpt(found)}, expected a label")
            word = label_word(found[self.label], self.label)
            if word == self.open_label:
                return None
            row["label"] = label(word)
        index = found.get(self.index)
        row["index"] = str(position if index is None else index)
        if index is not None and UNWRITABLE.search(row["index"]):
            raise SinkdError(f"found {excerpt(index)} in column {self.index!r}, expected text on one line")
        return row


def label_word(value: object, column: str) -> str:
    """Return a label as text: strings without surrounding space, other values as JSON.

    Raises:
        SinkdError: if the value is no word and no number.
    """
    if isinstance(value, str | Decimal):  # Parquet has decimal numbers
        return str(value).strip()
    if not isinstance(value, int | float):
        raise SinkdError(f"found {excerpt(value)} in column {column!r}, expected one label, a word or a number")
    return json.dumps(value)
