"""What a benchmark says of itself, and where its tables go."""

import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from benchmarks import device

from sinkd.report import Table, show


def machine() -> str:
    """The device and the versions that a figure depends on."""
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    versions["Python"] = platform.python_version()
    return ", ".join([device.described(), *(f"{name} {version}" for name, version in versions.items())])


def publish(name: str, out: Path | None, *tables: Table, **content: Any) -> None:
    """Print the tables, once to be read and once in Markdown, and write `content` as JSON.

    Args:
        name: The benchmark's module, whose command line stands in the file.
        out: The JSON file; None writes none.
        tables: What to print.
        content: What to write beside the command and the machine.
    """
    for table in tables:
        show(table)
        print(f"\n{table.markdown()}", flush=True)
    write(name, out, **content)


def write(name: str, out: Path | None, **content: Any) -> None:
    """The last part of `publish`: the JSON alone."""
    if out is not None:
        head = {"command": " ".join([f"python -m benchmarks.{name}", *sys.argv[1:]]), "machine": machine()}
        out.write_text(json.dumps(head | content, indent=1) + "\n")
