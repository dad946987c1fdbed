"""Tables and progress: what a person sees of a run."""

from sinkd.report.bar import Bar, board, is_terminal
from sinkd.report.progress import RunProgress
from sinkd.report.table import Table, show

__all__ = ["Bar", "RunProgress", "Table", "board", "is_terminal", "show"]
