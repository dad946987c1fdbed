"""One table in three formats."""

import io
import sys

import pytest

from sinkd.report import Table, show


@pytest.fixture
def table() -> Table:
    table = Table("What was [learned] in a/b", ["", "mcc", "rows/s"], note="in [O]")
    table.add("kd", 0.12345, 1200)
    table.add("kd+sinkhorn", "-0.5", "[7]")
    return table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_are_aligned(table):
    assert table.plain().splitlines() == [
        "What was [learned] in a/b",
        "               mcc  rows/s",
        "kd           0.123    1200",
        "kd+sinkhorn   -0.5     [7]",
        "in [O]",
    ]


def test_without_rows_and_note_there_is_the_title_and_the_head():
    assert Table("empty", ["name", "value"]).plain() == "empty\nname  value"


def test_markdown_is_a_table_of_github(table):
    assert (
        table.markdown()
        == "|  | mcc | rows/s |\n|---|---:|---:|\n| kd | 0.123 | 1200 |\n| kd+sinkhorn | -0.5 | [7] |\n"
    )
    bar = Table("", ["a|b"])
    bar.add("c|d")
    assert bar.markdown() == "| a\\|b |\n|---|\n| c\\|d |\n"


def test_a_row_of_another_length_is_refused_when_shown(table):
    table.add("short")
    with pytest.raises(ValueError, match="zip"):
        table.plain()


def test_a_pipe_gets_plain_lines(table, capsys):
    show(table)
    shown = capsys.readouterr()
    assert shown.out == table.plain() + "\n"
    assert shown.err == ""


def test_a_terminal_gets_a_drawn_table_with_every_cell(table, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    show(table)
    drawn = screen.getvalue()
    for cell in ("What was [learned] in a/b", "kd+sinkhorn", "0.123", "[7]", "in [O]", "rows/s"):
        assert cell in drawn
    assert "──" in drawn
