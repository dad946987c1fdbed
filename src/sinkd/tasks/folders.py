"""Find the folder of a task's files, in any spelling."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path


def plain(name: str) -> str:
    """Return the letters and digits of a name in lower case: "SST-2" and "sst_2" are the same name."""
    return "".join(character for character in name.lower() if character.isalnum())


def find_folder(
    data_dir: Path, names: Iterable[str], others: Iterable[str], files: Iterable[str]
) -> tuple[Path | None, list[Path]]:
    """Find the folder that holds a task's files: below `data_dir`, or `data_dir` itself.

    Args:
        data_dir: The folder that the user names.
        names: Possible names of the task's folder below it, such as "CoLA" or "anli/R1", in any spelling.
        others: Names of other tasks' folders; a `data_dir` with such a name is not used for this task.
        files: File names, at least one of which the folder must contain.

    Returns:
        The folder, or None; and all places that were searched.
    """
    names, files = list(names), list(files)
    places = [data_dir / name for name in names]
    places += [place for name in names for place in _spelled(data_dir, name)]
    if plain(data_dir.resolve().name) not in set(map(plain, others)) - set(map(plain, names)):
        places.append(data_dir)
    places = list(dict.fromkeys(places))
    found = (place for place in places if any((place / file).is_file() for file in files))
    return next(found, None), places


def _spelled(folder: Path, name: str) -> Iterator[Path]:
    """Yield the folders whose path below `folder` is `name` in another spelling."""
    first, _, rest = name.partition("/")
    for inner in sorted(folder.iterdir()) if folder.is_dir() else ():
        if inner.is_dir() and plain(inner.name) == plain(first):
            yield from _spelled(inner, rest) if rest else [inner]
