"""Text files as a stream of records, one mapping from column name to value per row.

- Lines end at ``\\n`` alone (a ``\\r`` before it is dropped). Sentences of real corpora contain form feeds, lone
  carriage returns and Unicode line separators, at which the usual line readers break.
- TSV has no quoting: a quote is an ordinary character. CSV is quoted as in RFC 4180.
- A bad row does not end the stream. It is yielded as an error, and the caller decides whether to stop or to skip it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sinkd.errors import SinkdError

Record = dict[str, Any]
T = TypeVar("T")

BOM = b"\xef\xbb\xbf"
FIELD_LIMIT = 1 << 24  # characters in a CSV field: a stray quote must not swallow a whole file into memory


def excerpt(text: object, width: int = 60) -> str:
    """Quote a value for an error message, on one line of at most `width` characters."""
    shown = repr(text)
    return shown if len(shown) <= width else shown[: width - 4] + "..." + shown[0]


def attempt(parse: Callable[..., T], found: Any, *args: Any) -> T | SinkdError:
    """Return `parse(found, *args)`, or the SinkdError that it raised or that `found` is, so that a stream goes on."""
    if isinstance(found, SinkdError):
        return found
    try:
        return parse(found, *args)
    except SinkdError as error:
        return error


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield a file's lines with their numbers from 1, without BOM, line ends and trailing blank lines."""
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
    """Decode strict UTF-8; the SinkdError names the byte and its position."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"found byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line"
        raise SinkdError(f"{found}, expected UTF-8 text") from None


def _record(fields: list[str], columns: tuple[str, ...]) -> Record:
    if len(fields) != len(columns):
        shown = excerpt("\t".join(fields))
        expected = f"expected {len(columns)} ({', '.join(columns)})"
        raise SinkdError(f"found {len(fields)} column{'s' * (len(fields) != 1)} in {shown}, {expected}")
    return dict(zip(columns, fields, strict=True))


def _tsv(path: Path) -> Iterator[tuple[int, list[str] | SinkdError]]:
    for number, line in lines(path):
        yield number, attempt(lambda line: decode(line).split("\t"), line)


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
            if fields:  # a blank line of a CSV file is not a row
                text = "\t".join(fields).encode("utf-8", errors="surrogateescape")
                wrong = attempt(decode, text)
                yield number, wrong if isinstance(wrong, SinkdError) else fields


def _object(line: bytes) -> Record:
    text = decode(line)
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        found = f"found broken JSON ({error.msg} at column {error.colno})"
        raise SinkdError(f"{found}, expected one object per line") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        raise SinkdError(f"found JSON that cannot be read ({error}), expected one object per line") from None
    if not isinstance(record, dict):
        raise SinkdError(f"found {excerpt(record)}, expected a JSON object")
    return record


def records(
    path: Path, format: str, needed: tuple[str, ...], headerless: tuple[str, ...] = ()
) -> Iterator[tuple[int, Record | SinkdError]]:
    """Yield the rows of a file with their line numbers: a record, or the error that describes a bad row.

    Args:
        path: The file.
        format: "tsv", "csv" or "jsonl".
        needed: Columns that the header must name (tsv and csv).
        headerless: Column names of a file without header (tsv). A first line that names all of `needed` still counts as
            a header.

    Raises:
        SinkdError: for a missing file, or a header without one of the needed columns.
    """
    if not path.is_file():
        raise SinkdError(f"no file {path}")
    if format == "jsonl":
        yield from ((number, attempt(_object, line)) for number, line in lines(path) if line.strip())
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
        yield number, attempt(_record, fields, columns)


def names_columns(path: Path, needed: tuple[str, ...]) -> bool:
    """Return whether the first line of a TSV is a header that names these columns."""
    if not path.is_file():
        return False
    first = next(lines(path), (1, b""))[1]
    return {column.encode() for column in needed} <= set(first.split(b"\t"))
