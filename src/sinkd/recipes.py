"""The published settings: YAML files, named by their paths below recipes/ without the suffix: `glue/cola-student`."""

from pathlib import Path

from sinkd.errors import unknown

_PACKAGE = Path(__file__).resolve().parent


def folder() -> Path:
    """Return the folder of the recipes: in the installed package, else at the repository's root."""
    carried = _PACKAGE / "_recipes"
    return carried if carried.is_dir() else _PACKAGE.parents[1] / "recipes"


def names() -> list[str]:
    """Return the names of all recipes in alphabetical order: `["glue/cola-student", "glue/cola-teacher", ...]`."""
    root = folder()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def find(name: str) -> Path:
    """Return the file of a recipe. Raises SinkdError with the nearest name if there is none of that name."""
    known = names()
    if name not in known:
        raise unknown(f'"{name}" is no recipe in {folder()}', name, known)
    return folder() / f"{name}.yaml"
