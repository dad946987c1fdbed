"""Training rows with what they carry of their teachers: cached answers, or the rows as a teacher itself reads them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset

from sinkd.errors import SinkdError
from sinkd.tasks.encode import column
from sinkd.training.teacher_cache import Answers

TAUGHT = "teachers"  # in rows and batches: for each teacher a mapping from features, or READ, to their values
READ = "rows"

Batch = dict[str, Any]
Collate = Callable[[list[Batch]], Batch]


@dataclass(frozen=True)
class OwnRows:
    """Rows as a live teacher reads them that reads other tokens than the student.

    Attributes:
        rows: They are in the order of the student's.
    """

    rows: Dataset
    collator: Collate

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Batch:
        return self.rows[row]

    def join(self, rows: Sequence[Batch], batch: Mapping[str, Any]) -> Batch:
        """The batch that the teacher reads."""
        return {READ: self.collator(list(rows))}


class TaughtRows(TorchDataset):
    """Training rows with what they carry of each teacher.

    Args:
        rows: The student's rows.
        teachers: For each teacher its answers, or its own rows, in the order of `rows`; None if it answers these live.

    Raises:
        SinkdError: if the numbers of answers and rows differ.
    """

    def __init__(self, rows: Dataset, collator: Collate, teachers: Sequence[Answers | OwnRows | None]):
        for there in teachers:
            if there is not None and len(rows) != len(there):
                raise SinkdError(f"the teacher has answers for {len(there)} rows, the data set {len(rows)} rows")
        self.rows, self.collator, self.teachers = rows, collator, teachers

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Batch]:
        rows = self.rows.__getitems__(indices)
        for row, index in zip(rows, indices, strict=True):
            row[TAUGHT] = [{} if teacher is None else teacher[index] for teacher in self.teachers]
        return rows

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Make a batch of rows, with the values of each teacher joined."""
        batch = self.collator([{name: value for name, value in row.items() if name != TAUGHT} for row in rows])
        taught = [
            {} if teacher is None else teacher.join([row[TAUGHT][number] for row in rows], batch)
            for number, teacher in enumerate(self.teachers)
        ]
        return batch | {TAUGHT: taught}


def row_lengths(rows: Any) -> np.ndarray | None:
    """Tokens of each row, (n,), or None for a data set without that column; does not read the rows."""
    rows = rows.rows if isinstance(rows, TaughtRows) else rows
    if not isinstance(rows, Dataset) or "length" not in rows.column_names:
        return None
    return column(rows, "length")
