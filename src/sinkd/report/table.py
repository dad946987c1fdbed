"""Tables: drawn in a terminal, as aligned plain lines in a pipe, as Markdown in a file."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable


@dataclass
class Table:
    """A title, column heads, and rows of text cells of the same number; the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    note: str = ""

    def add(self, *cells: object) -> None:
        """Append a row; floats get three decimals."""
        self.rows.append([f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells])

    def markdown(self) -> str:
        """The rows as a GitHub Markdown table."""
        head, *rows = (
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in [self.columns, *self.rows]
        )
        rule = "|" + "---|" + "---:|" * (len(self.columns) - 1)
        return "\n".join([head, rule, *rows]) + "\n"

    def plain(self) -> str:
        """Title, aligned rows and note, for pipes and logs."""
        lines = [self.columns, *self.rows]
        first, *others = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = ["  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]).rstrip() for row in lines]
        return "\n".join([self.title, *aligned, *([self.note] if self.note else [])])


def show(table: Table) -> None:
    """Print a table to standard output, drawn if it is a terminal."""
    if not sys.stdout.isatty():
        print(table.plain(), flush=True)
        return
    # escape: brackets in a path are not markup
    drawn = RichTable(title=escape(table.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    drawn.caption, drawn.caption_justify = escape(table.note), "left"
    for i, column in enumerate(table.columns):
        drawn.add_column(escape(column), justify="left" if i == 0 else "right", style="cyan" if i == 0 else "")
    for row in table.rows:
        drawn.add_row(*map(escape, row))
    Console().print(drawn)
