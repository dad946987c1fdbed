"""Which training rows make a batch: random, of similar length within a batch, and decided by seed and epoch alone.

A resumed run must see the batches of the uninterrupted run. The Trainer's own grouping by length draws from the global
random state, which differs after a resume in a later epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

# Rows are sorted by length within pools of this many updates: nearly all padding goes, and batches stay random.
POOL = 50


def row_order(n_rows: int, update_rows: int, seed: int, epoch: int, lengths: np.ndarray | None = None) -> np.ndarray:
    """The order of an epoch's rows, a permutation of range(n_rows), (n_rows,) int64.

    Args:
        n_rows: How many rows there are.
        update_rows: Rows of an update; each update's rows have similar lengths, and fall in length.
        seed: Together with `epoch` decides the order.
        epoch: Counts from 0.
        lengths: Tokens of each row, (n_rows,); None: lengths do not matter.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(n_rows)
    if lengths is None or not n_rows:
        return order
    updates = []
    for start in range(0, n_rows, update_rows * POOL):
        rows = order[start : start + update_rows * POOL]
        # Stable: equal lengths keep their random order.
        rows = rows[np.argsort(-lengths[rows], kind="stable")]
        updates += [rows[i : i + update_rows] for i in range(0, len(rows), update_rows)]
    # A short update stays last, where a data loader expects it.
    short = [updates.pop()] if len(updates[-1]) < update_rows else []
    generator.shuffle(updates)
    return np.concatenate(updates + short)


@dataclass(eq=False)
class UpdateBatches(Sampler[list[int]]):
    """The micro-batches of one process: every update's rows, cut evenly among micro-batches and processes.

    An update has the same rows however it is cut. The last one of an epoch may have fewer, and then has as few
    micro-batches as hold them. A part that is left without any row gets one to keep the processes in step; `sizes` says
    that it does not count.

    Args:
        n_rows: Rows of an epoch.
        batch_size: Rows of a micro-batch on one process.
        seed: Decides the order of rows, together with `epoch`.
        lengths: Tokens of each row, (n_rows,), to make batches of similar length; None: lengths do not matter.
        micro_batches: Micro-batches of an update.
        ranks: How many processes train.
        rank: Which of them this one is.
        drop_last: Leave out an epoch's last update where it has fewer rows.
        epoch: The epoch to iterate over, from 0.
    """

    n_rows: int
    batch_size: int
    seed: int
    lengths: np.ndarray | None = None
    micro_batches: int = 1
    ranks: int = 1
    rank: int = 0
    drop_last: bool = False
    epoch: int = 0

    @property
    def update_rows(self) -> int:
        """Rows of an update, on all processes."""
        return self.batch_size * self.micro_batches * self.ranks

    @property
    def updates(self) -> int:
        """Updates of an epoch."""
        return self.n_rows // self.update_rows if self.drop_last else -(-self.n_rows // self.update_rows)

    def sizes(self, update: int) -> np.ndarray:
        """Rows of each part of an epoch's update, (micro-batches, ranks)."""
        rows = min(self.update_rows, self.n_rows - update * self.update_rows)
        micro_batches = -(-rows // (self.batch_size * self.ranks))
        parts = micro_batches * self.ranks
        return (rows // parts + (np.arange(parts) < rows % parts)).reshape(micro_batches, self.ranks)

    def __len__(self) -> int:
        return (self.updates - 1) * self.micro_batches + len(self.sizes(self.updates - 1)) if self.updates else 0

    def __iter__(self) -> Iterator[list[int]]:
        order = row_order(self.n_rows, self.update_rows, self.seed, self.epoch, self.lengths)
        for update in range(self.updates):
            rows = order[update * self.update_rows : (update + 1) * self.update_rows]
            ends = np.cumsum(self.sizes(update))
            for part in range(self.rank, len(ends), self.ranks):
                start = ends[part - 1] if part else 0
                yield rows[start : ends[part]].tolist() or rows[:1].tolist()
