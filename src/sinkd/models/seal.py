"""The checksums of a folder of weights, by which a damaged file is found before it is trained on.

Safetensors and torch read a file with a changed bit without complaint. Folders that sinkd writes have a seal, a JSON
file with the SHA-256 of each file; folders of others have none and are read as they are.
"""

import json
from pathlib import Path

from sinkd.tasks.arrow_cache import file_hash

SEAL = "checksums.json"


def seal(folder: Path) -> None:
    """Write the checksums of a folder's files into it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    content = {path.relative_to(folder).as_posix(): file_hash(path) for path in files}
    (folder / SEAL).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def damaged(folder: Path, missing_ok: bool = False) -> Path | None:
    """Return the first file that differs from the folder's seal; None if all are whole, or unsealed.

    Args:
        missing_ok: Pass over missing files, as in a model that was published without the state of its training.
    """
    if not (folder / SEAL).is_file():
        return None
    try:
        sums = dict(json.loads((folder / SEAL).read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return folder / SEAL
    for name, checksum in sums.items():
        path = folder / name
        whole = file_hash(path) == checksum if path.is_file() else missing_ok
        if not whole:
            return path
    return None
