"""Random batches of training rows of similar length, determined only by seed and epoch.

A resumed run must see the same batches as an uninterrupted run. The Trainer's own grouping by length uses the global
random state, which differs after a resume in a later epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

# Sort rows by length within pools of this many updates: this removes nearly all padding and keeps batches random.
POOL = 50


def row_order(n_rows: int, update_rows: int, seed: int, epoch: int, lengths: np.ndarray | None = None) -> np.ndarray:
    """The order of an epoch's rows, a permutation of range(n_rows), (n_rows,) int64.

    Args:
        update_rows: Rows of an update; they have similar lengths and are ordered from long to short.
        seed: Determines the order, together with `epoch`.
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
    # A short update stays last, as a data loader expects.
    short = [updates.pop()] if len(updates[-1]) < update_rows else []
    generator.shuffle(updates)
    return np.concatenate(updates + short)


@dataclass(eq=False)
class UpdateBatches(Sampler[list[int]]):
    """The micro-batches of one process: every update's rows, split evenly among micro-batches and processes.

    The split does not change an update's rows. The last update of an epoch may have fewer rows, and then has as few
    micro-batches as possible. A part without a row gets one to keep the processes in step; `sizes` says that it does
    not count.

    Args:
        n_rows: Rows of an epoch.
        batch_size: Rows of a micro-batch on one process.
        seed: Determines the order of rows, together with `epoch`.
        lengths: Tokens of each row, (n_rows,), to make batches of similar length; None: lengths do not matter.
        micro_batches: Micro-batches of an update.
        ranks: Number of processes.
        rank: Number of this process.
        drop_last: Leave out an epoch's last update if it has fewer rows.
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
