"""A teacher's answers on disk: computed once, by any number of processes, and read memory-mapped.

The folder has a folder for each feature, with one for every shard of `SHARD` rows: `values.npy` (one row after the
other), `offsets.npy` if rows differ in length, and `index.json` (type and checksums), which is written last. A shard
that is truncated, altered or has another number of rows counts as missing.

Processes share the work without messages: each claims shards that are not locked. A shard has the same rows and the
same batches whoever computes it, so the answers do not depend on the number of processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from sinkd.errors import SinkdError
from sinkd.losses.feature import Feature
from sinkd.tasks.cache import file_hash
from sinkd.training.checkpoint import write_text

SHARD = 4096
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Answers:
    """The features of a data set's rows, in the order of the rows.

    Args:
        home: The folder, for this teacher and these rows alone.
        features: What is kept.
        n_rows: How many rows there are.
        dtype: How floating point features are kept, one of DTYPES; they are read as float32.
        shard: Rows of a shard.
    """

    def __init__(
        self, home: Path, features: Sequence[Feature], n_rows: int, dtype: str = "float32", shard: int = SHARD
    ):
        self.home = home
        self.features = sorted(features, key=lambda feature: feature.name)
        self.n_rows = n_rows
        self.dtype = dtype
        self.shard = shard
        self._shards: dict[tuple[str, int], _Shard] = {}

    def __len__(self) -> int:
        return self.n_rows

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        """The features of one row, by name."""
        shard, place = divmod(int(row), self.shard)
        return {feature.name: self._shard(feature, shard)[place] for feature in self.features}

    def fill(self, answer: Callable[[range, list[Feature]], Mapping[str, Sequence[Tensor]]]) -> None:
        """Compute every missing shard, and return when all shards are there, whichever process computed them.

        Args:
            answer: From a range of rows and the missing features to each feature's rows.

        Raises:
            SinkdError: A shard cannot be read back.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        waiting = list(range(-(-self.n_rows // self.shard)))
        patience = 0.0  # first claim what is free, then wait for the others
        while waiting:
            held = [shard for shard in waiting if not self._fill_shard(shard, patience, answer)]
            patience = 0.0 if len(held) < len(waiting) else 1.0
            waiting = held

    def _fill_shard(self, shard: int, patience: float, answer: Callable[..., Mapping[str, Sequence[Tensor]]]) -> bool:
        """Compute a shard if it is missing; False if another process is computing it."""
        if all(self._present(feature, shard) for feature in self.features):
            return True
        try:
            with FileLock(self.home / f"{shard:05d}.lock", timeout=patience):
                missing = [feature for feature in self.features if not self._present(feature, shard)]
                if missing:
                    rows = range(shard * self.shard, min((shard + 1) * self.shard, self.n_rows))
                    answers = answer(rows, missing)
                    for feature in missing:
                        self._write(feature, shard, answers[feature.name])
        except Timeout:
            return False
        if missing and not all(self._present(feature, shard) for feature in missing):
            raise SinkdError(
                f"the teacher's cache in {self.home} cannot be read back; --teacher_cache off does without"
            )
        return True

    def _folder(self, feature: Feature, shard: int) -> Path:
        return self.home / f"{feature.name}.{self.dtype}" / f"{shard:05d}"

    def _name(self, folder: Path) -> str:
        """The name in a shard's index: relative, so that it stays valid if the folder is copied."""
        return folder.relative_to(self.home.parent).as_posix()

    def _write(self, feature: Feature, shard: int, rows: Sequence[Tensor]) -> None:
        folder = self._folder(feature, shard)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("index.json", "offsets.npy"):
            (folder / name).unlink(missing_ok=True)
        kept = [row.detach().cpu() for row in rows]
        if kept[0].is_floating_point():
            kept = [row.to(DTYPES[self.dtype]) for row in kept]
        ragged = kept[0].dim() > 0 and len({len(row) for row in kept}) > 1
        np.save(folder / "values.npy", _as_numpy(torch.cat(kept) if ragged else torch.stack(kept)))
        if ragged:
            np.save(folder / "offsets.npy", np.cumsum([0, *map(len, kept)]))
        index = {"of": self._name(folder), "rows": len(kept), "dtype": str(kept[0].dtype).removeprefix("torch.")}
        index["sha256"] = {path.name: file_hash(path) for path in sorted(folder.glob("*.npy"))}
        write_text(folder / "index.json", json.dumps(index, indent=1))

    def _present(self, feature: Feature, shard: int) -> bool:
        if (feature.name, shard) not in self._shards:
            folder = self._folder(feature, shard)
            found = _read(folder, self._name(folder), min(self.shard, self.n_rows - shard * self.shard))
            if found is None:
                return False
            self._shards[feature.name, shard] = found
        return True

    def _shard(self, feature: Feature, shard: int) -> _Shard:
        if not self._present(feature, shard):
            raise SinkdError(f"the teacher's cache in {self.home} lacks rows from {shard * self.shard}; run it again")
        return self._shards[feature.name, shard]


class _Shard:
    """The rows of one feature in one shard, memory-mapped."""

    def __init__(self, values: np.ndarray, offsets: np.ndarray | None, dtype: torch.dtype):
        self.values = values
        self.offsets = offsets
        self.dtype = dtype

    def __getitem__(self, place: int) -> Tensor:
        where = place if self.offsets is None else slice(self.offsets[place], self.offsets[place + 1])
        row = torch.from_numpy(np.array(self.values[where])).view(self.dtype)
        return row.float() if row.is_floating_point() else row


def _read(folder: Path, name: str, n_rows: int) -> _Shard | None:
    """A shard as it was written, or None if it is absent, damaged or of something else."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        files = index["sha256"]
        if (index["of"], index["rows"]) != (name, n_rows) or any(file_hash(folder / f) != files[f] for f in files):
            return None
        values, offsets = (
            np.load(folder / file, mmap_mode="r", allow_pickle=False) if file in files else None
            for file in ("values.npy", "offsets.npy")
        )
        if values is None or n_rows != (len(values) if offsets is None else len(offsets) - 1):
            return None
        return _Shard(values, offsets, getattr(torch, index["dtype"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _as_numpy(values: Tensor) -> np.ndarray:
    # NumPy has no bfloat16, so keep its bits.
    return (values.view(torch.uint16) if values.dtype == torch.bfloat16 else values).numpy()


def batches_of(rows: range, lengths: np.ndarray, batch_size: int) -> Iterator[list[int]]:
    """The rows of a shard in batches of similar length, so that a model reads little padding."""
    order = rows.start + np.argsort(lengths[rows.start : rows.stop], kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size].tolist()
