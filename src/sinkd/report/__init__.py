"""Tables and progress of runs, for people."""

from sinkd.report.progress import RunProgress, show_trials
from sinkd.report.table import Table, show

__all__ = ["RunProgress", "Table", "show", "show_trials"]
