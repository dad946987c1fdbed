"""The published settings, one YAML file each: where they lie and what they are called.

A recipe's name is its place under recipes/ without the ending: `glue/cola-student`. In a repository the files are at
the root; an installed package carries them inside.
"""

import difflib
from pathlib import Path

from sinkd.errors import SinkdError

_PACKAGE = Path(__file__).resolve().parent


def folder() -> Path:
    """The folder of the recipes: the installed package's own, else the repository's."""
    carried = _PACKAGE / "_recipes"
    return carried if carried.is_dir() else _PACKAGE.parents[1] / "recipes"


def names() -> list[str]:
    """All recipes in alphabetical order, `["glue/cola-student", "glue/cola-teacher", ...]`."""
    root = folder()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def find(name: str) -> Path:
    """The file of the recipe `name`. Raises SinkdError, with the nearest names, where there is none."""
    known = names()
    if name not in known:
        likely = difflib.get_close_matches(name, known, n=3) or known
        raise SinkdError(f'there is no recipe "{name}" in {folder()}; there are {", ".join(likely)}')
    return folder() / f"{name}.yaml"
