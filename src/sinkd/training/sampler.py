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
