"""A teacher's answers on disk: computed once, by any number of processes, and read memory-mapped.

The folder has a folder per feature, and in it one per shard of `SHARD` rows: `values.npy` (the concatenated rows),
`offsets.npy` if rows differ in length, and `index.json` (checksums), which is written last. A shard that is
truncated, altered or has a different number of rows counts as missing.

Processes share the work without messages: each claims shards that are not locked. A shard has the same rows and
batches in every process, so the answers do not depend on the number of processes.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from sinkd.errors import SinkdError, writing
from sinkd.losses.feature import Feature
from sinkd.tasks.arrow_cache import file_hash
from sinkd.training.checkpoint import write_text

SHARD = 4096
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Shard(NamedTuple):
    """The rows of one feature in one shard, memory-mapped."""

    values: np.ndarray  # bfloat16, which NumPy lacks, as the same bits of uint16
    offsets: np.ndarray | None

    def row(self, place: int) -> Tensor:
        """One row; floating point as float32."""
        where = place if self.offsets is None else slice(self.offsets[place], self.offsets[place + 1])
        return self.tensor(self.values[where])

    def tensor(self, values: np.ndarray) -> Tensor:
        """A copy of some values; floating point as float32."""
        found = torch.from_numpy(np.array(values))
        found = found.view(torch.bfloat16) if found.dtype == torch.uint16 else found
        return found.float() if found.is_floating_point() else found


class Answers:
    """The features of a data set's rows, in the order of the rows.

    Args:
        home: The folder, for this teacher and these rows only.
        dtype: Stored dtype of floating point features, one of DTYPES; they are read as float32.
    """

    def __init__(
        self, home: Path, features: Sequence[Feature], n_rows: int, dtype: str = "float32", shard: int = SHARD
    ):
        self.home = home
        self.features = sorted(features, key=lambda feature: feature.name)
        self.n_rows = n_rows
        self.dtype = dtype
        self.shard = shard
        self._shards: dict[tuple[str, int], Shard] = {}

    def __len__(self) -> int:
        return self.n_rows

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        """The features of one row, by name, once `fill` has returned."""
        number, place = divmod(int(row), self.shard)
        return {feature.name: self._shards[feature.name, number].row(place) for feature in self.features}

    def join(self, rows: Sequence[Mapping[str, Tensor]], batch: Mapping[str, Any]) -> dict[str, Any]:
        """The features of a batch, from those of its rows."""
        return {feature.name: feature.join([row[feature.name] for row in rows], batch) for feature in self.features}

    def column(self, feature: Feature) -> Tensor:
        """A feature of all rows, (n_rows, ...); its rows must have one shape."""
        shards = [self._shards[feature.name, number] for number in range(-(-self.n_rows // self.shard))]
        return torch.cat([shard.tensor(shard.values).float() for shard in shards])

    def fill(self, answer: Callable[[range, list[Feature]], Mapping[str, Sequence[Tensor]]]) -> None:
        """Compute every missing shard, and return once all shards exist, including those of other processes.

        Args:
            answer: (range of rows, missing features) -> rows by feature.

        Raises:
            SinkdError: if a shard cannot be read back.
        """
        with writing(self.home):
            self.home.mkdir(parents=True, exist_ok=True)
        waiting = list(range(-(-self.n_rows // self.shard)))
        patience = 0.0  # first claim free shards, then wait for the others
        while waiting:
            held = [number for number in waiting if not self._fill_shard(number, patience, answer)]
            patience = 0.0 if len(held) < len(waiting) else 1.0
            waiting = held

    def _fill_shard(self, number: int, patience: float, answer: Callable[..., Mapping[str, Sequence[Tensor]]]) -> bool:
        """Compute a shard if it is missing; False if another process is computing it."""
        if not self._missing(number):
            return True
        try:
            with FileLock(self.home / f"{number:05d}.lock", timeout=patience):
                missing = self._missing(number)
                if missing:
                    rows = range(number * self.shard, min((number + 1) * self.shard, self.n_rows))
                    answers = answer(rows, missing)
                    with writing(self.home):
                        for feature in missing:
                            self._write(feature, number, answers[feature.name])
        except Timeout:
            return False
        if self._missing(number):
            raise SinkdError(
                f"the teacher's cache in {self.home} cannot be read back; --teacher_cache off does without"
            )
        return True

    def _missing(self, number: int) -> list[Feature]:
        return [feature for feature in self.features if self._read(feature, number) is None]

    def _folder(self, feature: Feature, number: int) -> Path:
        return self.home / f"{feature.name}.{self.dtype}" / f"{number:05d}"

    def _name(self, folder: Path) -> str:
        """The name in a shard's index: relative, so that it stays valid if the folder is copied."""
        return folder.relative_to(self.home.parent).as_posix()

    def _write(self, feature: Feature, number: int, rows: Sequence[Tensor]) -> None:
        folder = self._folder(feature, number)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("index.json", "offsets.npy"):
            (folder / name).unlink(missing_ok=True)
        kept = [row.detach().cpu() for row in rows]
        if kept[0].is_floating_point():
            kept = [row.to(DTYPES[self.dtype]) for row in kept]
        ragged = kept[0].dim() > 0 and len({len(row) for row in kept}) > 1
        values = torch.cat(kept) if ragged else torch.stack(kept)
        if values.dtype == torch.bfloat16:
            values = values.view(torch.uint16)
        np.save(folder / "values.npy", values.numpy())
        if ragged:
            np.save(folder / "offsets.npy", np.cumsum([0, *map(len, kept)]))
        index: dict[str, Any] = {"of": self._name(folder), "rows": len(kept)}
        index["sha256"] = {path.name: file_hash(path) for path in sorted(folder.glob("*.npy"))}
        write_text(folder / "index.json", json.dumps(index, indent=1))

    def _read(self, feature: Feature, number: int) -> Shard | None:
        """A shard; None if it is missing, damaged or belongs to something else."""
        if (feature.name, number) in self._shards:
            return self._shards[feature.name, number]
        folder = self._folder(feature, number)
        n_rows = min(self.shard, self.n_rows - number * self.shard)
        try:
            index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            files = index["sha256"]
            whole = all(file_hash(folder / name) == files[name] for name in {"values.npy", *files})
            if not whole or (index["of"], index["rows"]) != (self._name(folder), n_rows):
                return None
            values = np.load(folder / "values.npy", mmap_mode="r", allow_pickle=False)
            ragged = "offsets.npy" in files
            offsets = np.load(folder / "offsets.npy", mmap_mode="r", allow_pickle=False) if ragged else None
            if n_rows != (len(values) if offsets is None else len(offsets) - 1):
                return None
            shard = Shard(values, offsets)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        self._shards[feature.name, number] = shard
        return shard


def batches_of(rows: range, lengths: np.ndarray, batch_size: int) -> Iterator[list[int]]:
    """The rows of a shard in batches of similar length, so that a model reads little padding."""
    order = rows.start + np.argsort(lengths[rows.start : rows.stop], kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size].tolist()
