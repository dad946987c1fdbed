"""Text files as records: one mapping from column name to value for each row, read as a stream.

- Lines end at ``\\n`` alone (a ``\\r`` before it is dropped): sentences of real corpora hold form feeds, lone carriage
  returns and Unicode line separators, which the usual line readers break at.
- TSV has no quoting; a quote is a character like any other. CSV quotes as RFC 4180 does.
- A bad row does not end the stream: it comes out as the error that tells what is wrong with it, and the reader of the
  stream decides whether that stops the work or drops the row.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sinkd.errors import SinkdError

Record = dict[str, Any]
Numbered = Iterator[tuple[int, "Record | SinkdError"]]

BOM = b"\xef\xbb\xbf"
FIELD_LIMIT = 1 << 24  # characters in a CSV field: a stray quote must not swallow a whole file into memory


def excerpt(text: object, width: int = 60) -> str:
    """The text as an error message shows it: quoted, on one line, cut to `width` characters."""
    shown = repr(text)
    return shown if len(shown) <= width else shown[: width - 4] + "..." + shown[0]


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines of a file with their numbers from 1; without BOM, line ends, and blank lines at the end of the file."""
    with path.open("rb") as file:
        blank: list[int] = []
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(BOM)
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if not line:
                blank.append(number)
                continue
            yield from ((skipped, b"") for skipped in blank)
            blank.clear()
            yield number, line


def decode(line: bytes) -> str:
    """Strict UTF-8; SinkdError names the byte and its place."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"found byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line"
        raise SinkdError(f"{found}, expected UTF-8 text") from None


def _table(fields: list[str], columns: tuple[str, ...]) -> Record:
    if len(fields) != len(columns):
        shown = excerpt("\t".join(fields))
        expected = f"expected {len(columns)} ({', '.join(columns)})"
        raise SinkdError(f"found {len(fields)} column{'s' * (len(fields) != 1)} in {shown}, {expected}")
    return dict(zip(columns, fields, strict=True))


def _tsv(path: Path) -> Iterator[tuple[int, list[str] | SinkdError]]:
    for number, line in lines(path):
        try:
            yield number, decode(line).split("\t")
        except SinkdError as error:
            yield number, error


def _csv(path: Path) -> Iterator[tuple[int, list[str] | SinkdError]]:
    csv.field_size_limit(FIELD_LIMIT)
    with path.open("r", encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        while True:
            number = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield number, SinkdError(f"found broken CSV ({error}), expected fields quoted as in RFC 4180")
                continue
            if not fields:  # a blank line is no row of a CSV file
                continue
            try:
                decode("\t".join(fields).encode("utf-8", errors="surrogateescape"))
            except SinkdError as error:
                yield number, error
            else:
                yield number, fields


def _jsonl(path: Path) -> Numbered:
    for number, line in lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(decode(line))
            if not isinstance(record, dict):
                raise SinkdError(f"found {excerpt(record)}, expected a JSON object")
            yield number, record
        except json.JSONDecodeError as error:
            yield (
                number,
                SinkdError(f"found broken JSON ({error.msg} at column {error.colno}), expected one object a line"),
            )
        except SinkdError as error:
            yield number, error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
            yield number, SinkdError(f"found JSON that cannot be read ({error}), expected one object a line")


def records(path: Path, format: str, needed: tuple[str, ...], headerless: tuple[str, ...] = ()) -> Numbered:
    """Rows of a file, each with its line number: a record, or the error that says why it is none.

    Parameters
    ----------
    format : "tsv", "csv" or "jsonl".
    needed : columns that the header must name (tsv and csv).
    headerless : column names of a file without header (tsv). A first line that names all of `needed` is a header still.

    Raises
    ------
    SinkdError : no such file; a header without one of the needed columns.
    """
    if not path.is_file():
        raise SinkdError(f"no file {path}")
    if format == "jsonl":
        yield from _jsonl(path)
        return
    columns: tuple[str, ...] = ()
    for number, fields in _csv(path) if format == "csv" else _tsv(path):
        if not columns:
            if not isinstance(fields, SinkdError) and set(needed) <= set(fields):
                columns = tuple(fields)
                continue
            if not headerless:
                if isinstance(fields, SinkdError):
                    raise SinkdError(f"{path}, line {number}: {fields}")
                header, wanted = excerpt(", ".join(fields), 200), " and ".join(map(repr, needed))
                raise SinkdError(f"{path}, line {number}: found the header {header}, expected columns {wanted}")
            columns = headerless
        if isinstance(fields, SinkdError):
            yield number, fields
            continue
        try:
            yield number, _table(fields, columns)
        except SinkdError as error:
            yield number, error


def names_columns(path: Path, needed: tuple[str, ...]) -> bool:
    """Whether the first line of a TSV is a header that names these columns."""
    if not path.is_file():
        return False
    first = next(lines(path), (1, b""))[1]
    return {column.encode() for column in needed} <= set(first.split(b"\t"))
