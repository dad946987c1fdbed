"""The tables of docs/reliability.md, which hold what the tests of this folder see.

`WRITE_PAGE=1 python -m pytest -n 0 tests/reliability` writes them again.
"""

import os
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"


class PageTable:
    """A table of the page, whose first column is a key: the rows between its title and the next blank line.

    Args:
        title: The header's first cell, which names the table.
    """

    def __init__(self, title: str):
        self.title = title
        self.seen: dict[str, str] = {}

    def see(self, key: str, *cells: str) -> None:
        """Compare a row with the page's, or keep it to be written."""
        row = "| " + " | ".join(cell.replace("|", "\\|") for cell in (key, *cells)) + " |"
        self.seen[key] = row
        assert "WRITE_PAGE" in os.environ or row in self._split()[1], f"docs/reliability.md lacks this row:\n{row}"

    def end(self, keys: list[str]) -> None:
        """Check that the page has these rows and no others; or write them, if all were seen."""
        before, rows, after = self._split()
        if "WRITE_PAGE" in os.environ and self.seen.keys() >= set(keys):
            rows = [self.seen[key] for key in keys]
            PAGE.write_text("\n".join([*before, *rows, *after]) + "\n", encoding="utf-8")
        assert [row[2:].split(" | ")[0].replace("\\|", "|") for row in rows] == keys

    def _split(self) -> tuple[list[str], list[str], list[str]]:
        """The page's lines before the table's rows, the rows, and the lines after them."""
        lines = PAGE.read_text(encoding="utf-8").splitlines()
        first = next(number for number, line in enumerate(lines) if line.startswith(f"| {self.title} |")) + 2
        last = next((number for number in range(first, len(lines)) if not lines[number].startswith("|")), len(lines))
        return lines[:first], lines[first:last], lines[last:]
