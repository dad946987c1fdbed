"""Tables and progress: what a person sees of a run."""

from sinkd.report.progress import RunProgress, show_trials
from sinkd.report.table import Table, show

__all__ = ["RunProgress", "Table", "show", "show_trials"]
