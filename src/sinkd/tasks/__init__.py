"""What there is to learn: files in, examples and a score out."""

from sinkd.tasks.cache import cache_dir
from sinkd.tasks.collate import Collator
from sinkd.tasks.encode import encode
from sinkd.tasks.glue import TASKS, load_task
from sinkd.tasks.grammar import write_corpus
from sinkd.tasks.table import table_task
from sinkd.tasks.task import Task, read_unlabeled

__all__ = [
    "TASKS",
    "Collator",
    "Task",
    "cache_dir",
    "encode",
    "load_task",
    "read_unlabeled",
    "table_task",
    "write_corpus",
]
