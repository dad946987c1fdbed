"""Tasks: files in, examples and scores out."""

from sinkd.tasks.arrow_cache import cache_dir
from sinkd.tasks.collate import Collator
from sinkd.tasks.encode import encode
from sinkd.tasks.glue import TASKS, load_task
from sinkd.tasks.superglue import SUPERGLUE, load_superglue, names_superglue
from sinkd.tasks.table import table_task
from sinkd.tasks.task import Task, read_unlabeled
from sinkd.tasks.template import Template
from sinkd.tasks.template_folders import find_template, templates
from sinkd.tasks.wording import examples

__all__ = [
    "SUPERGLUE",
    "TASKS",
    "Collator",
    "Task",
    "Template",
    "cache_dir",
    "encode",
    "examples",
    "find_template",
    "load_superglue",
    "load_task",
    "names_superglue",
    "read_unlabeled",
    "table_task",
    "templates",
]
