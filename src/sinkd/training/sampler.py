"""The order of training rows: random, of like length within a batch, and decided by seed and epoch alone.

A resumed run must see the batches that the uninterrupted run saw. The Trainer's own grouping by length draws from the
global random state, which after a resume in a later epoch is another one; this sampler owns its generator.
"""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

# Rows are sorted by length within pools of so many batches: nearly all padding goes, and batches stay random.
POOL = 50


class SeededSampler(Sampler[int]):
    """Row numbers of one epoch, a permutation of range(n).

    lengths: (n,) tokens a row, or None to leave lengths alone. batch_size: rows of an update.
    """

    def __init__(self, n_rows: int, batch_size: int, seed: int, lengths: np.ndarray | None = None):
        self.n_rows = n_rows
        self.batch_size = batch_size
        self.seed = seed
        self.lengths = lengths
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0; the data loader calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_rows

    def __iter__(self) -> Iterator[int]:
        yield from self.order().tolist()

    def order(self) -> np.ndarray:
        """The epoch's permutation, (n,) int64."""
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(self.n_rows)
        if self.lengths is None:
            return order
        pool = self.batch_size * POOL
        batches = []
        for start in range(0, self.n_rows, pool):
            rows = order[start : start + pool]
            # Stable: equal lengths keep their random order.
            rows = rows[np.argsort(-self.lengths[rows], kind="stable")]
            batches += [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        # A short batch stays last, where a data loader expects it.
        full = [batch for batch in batches if len(batch) == self.batch_size]
        rest = [batch for batch in batches if len(batch) < self.batch_size]
        generator.shuffle(full)
        return np.concatenate(full + rest) if batches else order


class UpdateBatches(Sampler[list[int]]):
    """The micro-batches of one process: every update's rows, cut evenly among micro-batches and processes.

    An update has the same rows however it is cut: `batch_size` rows on each of `ranks` processes, `micro_batches`
    times. The last update of an epoch may have fewer (`drop_last` leaves it out), and then as few micro-batches as hold
    them; a part that is left without any row gets one to keep the processes in step, and `sizes` tells that it does not
    count.
    """

    def __init__(
        self,
        sampler: SeededSampler,
        batch_size: int,
        micro_batches: int = 1,
        ranks: int = 1,
        rank: int = 0,
        drop_last: bool = False,
    ):
        self.sampler = sampler
        self.batch_size = batch_size
        self.micro_batches = micro_batches
        self.ranks = ranks
        self.rank = rank
        rows = batch_size * micro_batches * ranks
        self._update = rows
        self._rows = len(sampler) // rows * rows if drop_last else len(sampler)

    def __len__(self) -> int:
        if not self.updates:
            return 0
        return (self.updates - 1) * self.micro_batches + len(self.sizes(self.updates - 1))

    @property
    def updates(self) -> int:
        """Updates of an epoch."""
        return -(-self._rows // self._update)

    def sizes(self, update: int) -> np.ndarray:
        """Rows of each part of an epoch's update, (micro-batches, ranks)."""
        rows = min(self._update, self._rows - update * self._update)
        micro_batches = -(-rows // (self.batch_size * self.ranks))
        parts = np.array_split(np.arange(rows), micro_batches * self.ranks)
        return np.array([len(part) for part in parts]).reshape(micro_batches, self.ranks)

    def __iter__(self) -> Iterator[list[int]]:
        order = self.sampler.order()
        for update in range(self.updates):
            rows = order[update * self._update : (update + 1) * self._update]
            ends = np.cumsum(self.sizes(update))
            for part in range(self.rank, len(ends), self.ranks):
                start = ends[part - 1] if part else 0
                yield rows[start : ends[part]].tolist() or rows[:1].tolist()
