"""Whether a TSV is quoted. Nothing in the file says so; the way that it uses quotes does.

pandas and spreadsheets put a field that holds a quote, a tab or a line end in quotes, and double the quotes inside.
GLUE's files and most corpora of sentences do not: there a quote is a character like any other.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from sinkd.tasks.text_file import text_lines

logger = logging.getLogger(__name__)

QUOTINGS = ("auto", "none", "minimal")
FOR_EACH_AGAINST = 10  # a file is quoted if only one row in ten uses quotes otherwise: a stray one does not decide
LONGEST = 1000  # lines of one row; a quote that is open for longer was not meant to open a field

_QUOTED = r'"[^"]*(?:""[^"]*)*"'
_CELL = rf'(?:{_QUOTED}|[^"\t]*)'
CELL = re.compile(_QUOTED)
ROW = re.compile(rf"{_CELL}(?:\t{_CELL})*")


def is_quoted(path: Path, encoding: str) -> bool:
    """Return whether the fields of a TSV are quoted, and log it where quotes might be read in both ways.

    It is quoted if its header is, or if it has fields that only a writer who quotes makes: with doubled quotes inside,
    with a tab, or with a line end. Rows that such a writer does not make, as with a quote in the middle of an unquoted
    field, count against it.
    """
    stat = path.stat()
    return _is_quoted(path.resolve(), encoding, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _is_quoted(path: Path, encoding: str, size: int, changed: int) -> bool:
    columns = proofs = cells = against = 0
    for number, row in enumerate(_rows(text_lines(path, encoding))):
        columns = columns or len(CELL.sub("", row).split("\t"))
        if '"' not in row:
            continue
        if not ROW.fullmatch(row) or len(CELL.sub("", row).split("\t")) != columns:
            against += 1
            continue
        found = CELL.findall(row)
        proofs += any(map(_proves, found)) or (number == 0 and len(found) == columns > 1)
        cells += len(found)
    quoted = proofs > FOR_EACH_AGAINST * against
    if quoted:
        logger.info("%s: %d fields are in quotes, which are taken off (--quoting none keeps them)", path, cells)
    elif cells:
        say = logger.warning if cells > against else logger.info
        say("%s: %d fields are in quotes, which are kept as text (--quoting minimal takes them off)", path, cells)
    return quoted


def _proves(cell: str) -> bool:
    """Whether only a writer who quotes makes this field. With tab and line end, it may be two quotes of two rows."""
    found = [mark in cell[1:-1] for mark in ("\t", "\n", '""')]
    return any(found) and not all(found[:2])


def _rows(lines: Iterator[str]) -> Iterator[str]:
    """Yield rows as a quoted file has them: a line end inside quotes does not end a row."""
    row: list[str] = []
    inside = False
    for line in lines:
        row.append(line)
        inside ^= line.count('"') % 2 == 1
        if not inside or len(row) == LONGEST:
            yield "".join(row).removesuffix("\n").removesuffix("\r")
            row, inside = [], False
    if row:
        yield "".join(row)
