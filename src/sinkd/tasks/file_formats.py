"""Tables as a stream of records, one mapping from column name to value per row.

- Lines of TSV and JSON lines end at ``\\n`` alone (a ``\\r`` before it is dropped). Sentences of real corpora contain
  form feeds, lone carriage returns and Unicode line separators, at which the usual line readers break.
- CSV is quoted as in RFC 4180. In TSV a quote is an ordinary character, unless the file is quoted as pandas writes it.
- A bad row does not end the stream. It is yielded as an error, and the caller decides whether to stop or to skip it.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from sinkd.errors import SinkdError, first_sentence
from sinkd.tasks.quoting import is_quoted
from sinkd.tasks.text_file import decode, text_lines

logger = logging.getLogger(__name__)

Record = dict[str, Any]
Fields = Iterator[tuple[int, "list[str] | SinkdError"]]
T = TypeVar("T")

SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
DELIMITERS = {"csv": ",", "tsv": "\t"}
# Further ones, for a file whose own does not fit. Spreadsheets write ; where the comma is for decimals.
OTHER_DELIMITERS = (";", "\t", ",", "|")
PEEK = 20  # lines that tell the delimiter of a file without header
FIELD_LIMIT = 1 << 24  # characters in a CSV field: a stray quote must not swallow a whole file into memory


@dataclass(frozen=True)
class FileFormat:
    """How the files of a table are written.

    Attributes:
        name: "tsv", "csv", "jsonl" or "parquet"; "" to follow a file's suffix, before .gz if there is one.
        quoting: Whether quotes enclose fields: "none", "minimal", or "auto" (CSV: yes; TSV: as the file looks).
        encoding: Encoding of files without a byte order mark.
        headerless: Column names of a csv or tsv file without header line.
    """

    name: str = ""
    quoting: str = "auto"
    encoding: str = "utf-8"
    headerless: tuple[str, ...] = ()

    def of(self, path: Path) -> str:
        """Return a file's format: "tsv", "csv", "jsonl" or "parquet"."""
        suffix = path.with_suffix("").suffix if path.suffix.lower() == ".gz" else path.suffix
        return self.name or SUFFIXES.get(suffix.lower(), "tsv")

    def place(self, path: Path, number: int) -> str:
        """Return where a row is, for messages."""
        return f"{path}, {'row' if self.of(path) == 'parquet' else 'line'} {number}"


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


def lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Yield a file's lines, for `decode`, with their numbers from 1, without line ends and trailing blank lines."""
    blank: list[int] = []
    for number, line in enumerate(text_lines(path, encoding), start=1):
        line = line.removesuffix("\n").removesuffix("\r")
        if not line:
            blank.append(number)
            continue
        yield from ((skipped, "") for skipped in blank)
        blank.clear()
        yield number, line


def _record(fields: list[str], columns: tuple[str, ...]) -> Record:
    if tuple(fields) == columns:  # two files in one
        raise SinkdError("found the header again, expected a row")
    if len(fields) != len(columns):
        shown = excerpt("\t".join(fields))
        expected = f"expected {len(columns)} ({', '.join(columns)})"
        raise SinkdError(f"found {len(fields)} column{'s' * (len(fields) != 1)} in {shown}, {expected}")
    return dict(zip(columns, fields, strict=True))


def _unquoted(path: Path, delimiter: str, encoding: str) -> Fields:
    for number, line in lines(path, encoding):
        yield number, attempt(lambda line: decode(line, encoding).split(delimiter), line)


def _quoted(path: Path, delimiter: str, encoding: str) -> Fields:
    csv.field_size_limit(FIELD_LIMIT)
    reader = csv.reader(text_lines(path, encoding, newline=""), delimiter=delimiter, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = "a quote that is never closed" if "unexpected end of data" in str(error) else error
            yield number, SinkdError(f"found broken CSV ({reason}), expected fields quoted as in RFC 4180")
            continue
        if fields:  # a blank line of a quoted file is not a row
            wrong = attempt(decode, delimiter.join(fields), encoding)
            yield number, wrong if isinstance(wrong, SinkdError) else fields


def _fields(path: Path, format: FileFormat, needed: tuple[str, ...]) -> Fields:
    """Yield the rows of a csv or tsv file, its header among them."""
    mark = _delimiter(path, format, needed)
    quoted = format.quoting == "minimal" or (
        format.quoting == "auto" and (mark != "\t" or format.of(path) == "csv" or is_quoted(path, format.encoding))
    )
    return (_quoted if quoted else _unquoted)(path, mark, format.encoding)


def _delimiter(path: Path, format: FileFormat, needed: tuple[str, ...]) -> str:
    """Return what separates a file's fields: its format's delimiter, unless the header or all lines fit another."""
    usual = DELIMITERS[format.of(path)]
    head = [line for _, line in islice(lines(path, format.encoding), PEEK)]
    for mark in (usual, *OTHER_DELIMITERS):
        rows = [_split(line, mark) for line in head]
        fits = [len(fields) == len(format.headerless) for fields in rows]
        if rows and (set(needed) <= set(rows[0]) or (any(fits) if mark == usual else all(fits))):
            if mark != usual:
                logger.info("%s: %r separates its fields", path, mark)
            return mark
    return usual


def _split(line: str, mark: str) -> list[str]:
    """The fields of one line, quoted or not."""
    try:
        return next(csv.reader([line], delimiter=mark), [])
    except csv.Error:  # a carriage return, or a field beyond the limit
        return line.split(mark)


def _object(line: str, encoding: str) -> Record:
    text = decode(line, encoding)
    try:
        record = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        found = f"found broken JSON ({error.msg} at column {error.colno})"
        raise SinkdError(f"{found}, expected one object per line") from None
    except SinkdError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        raise SinkdError(f"found JSON that cannot be read ({error}), expected one object per line") from None
    if not isinstance(record, dict):
        raise SinkdError(f"found {excerpt(record)}, expected a JSON object per line")
    return record


def _unique(pairs: list[tuple[str, Any]]) -> Record:
    record = dict(pairs)
    if len(record) < len(pairs):
        _check_unique([name for name, _ in pairs], record)
    return record


def _check_unique(names: Sequence[str], needed: Sequence[str] | Record) -> None:
    """Raise SinkdError if a needed column has a name that another column has too."""
    for name in needed:
        places = [str(place) for place, other in enumerate(names, start=1) if other == name]
        if len(places) > 1:
            raise SinkdError(f"found column {name!r} in places {' and '.join(places)}, expected it once")


def _parquet(path: Path, needed: tuple[str, ...], wanted: Sequence[str]) -> Iterator[tuple[int, Record]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _check_header(path, 1, names, needed)
            columns = [name for name in wanted if name in names]
            number = 0
            for batch in file.iter_batches(batch_size=1000, columns=columns):
                for record in batch.select(columns).to_pylist():
                    number += 1
                    yield number, record
    except SinkdError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError, TypeError, MemoryError) as error:
        raise SinkdError(f"{path} is no Parquet file, or a damaged one ({first_sentence(error)})") from error


def _check_header(path: Path, line: int, names: Sequence[str], needed: tuple[str, ...]) -> None:
    if not set(needed) <= set(names):
        header, wanted = excerpt(", ".join(names), 200), " and ".join(map(repr, needed))
        raise SinkdError(f"{path}, line {line}: found the header {header}, expected columns {wanted}")
    found = attempt(_check_unique, names, needed)
    if isinstance(found, SinkdError):
        raise SinkdError(f"{path}, line {line}: {found}")


def records(
    path: Path, format: FileFormat, needed: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Iterator[tuple[int, Record | SinkdError]]:
    """Yield the rows of a file with their line numbers: a record, or the error that describes a bad row.

    Args:
        needed: Columns that the header must name, once each. A first line that names all of them is a header, also if
            the format has names for a file without.
        optional: Further columns to read, where a file has them. Other columns may be left out.

    Raises:
        SinkdError: for a missing file, one that is not text, or a header without one of the needed columns.
    """
    if not path.is_file():
        raise SinkdError(f"no file {path}")
    name = format.of(path)
    if name == "parquet":
        yield from _parquet(path, needed, (*needed, *optional))
        return
    if name == "jsonl":
        rows = ((number, line) for number, line in lines(path, format.encoding) if line.strip())
        yield from ((number, attempt(_object, line, format.encoding)) for number, line in rows)
        return
    columns: tuple[str, ...] = ()
    for number, fields in _fields(path, format, needed):
        if not columns:
            if not isinstance(fields, SinkdError) and set(needed) <= set(fields):
                _check_header(path, number, fields, (*needed, *set(optional).intersection(fields)))
                columns = tuple(fields)
                continue
            if not format.headerless:
                if isinstance(fields, SinkdError):
                    raise SinkdError(f"{path}, line {number}: {fields}")
                _check_header(path, number, fields, needed)
            columns = format.headerless
        yield number, attempt(_record, fields, columns)


def names_columns(path: Path, format: FileFormat, needed: tuple[str, ...]) -> bool:
    """Return whether the first line of a TSV is a header that names these columns, in quotes or not."""
    first = next(lines(path, format.encoding), (1, ""))[1]
    return set(needed) <= {column.removeprefix('"').removesuffix('"') for column in first.split("\t")}
