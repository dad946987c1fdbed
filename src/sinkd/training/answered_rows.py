"""Training rows with the teacher's answers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset

from sinkd.errors import SinkdError
from sinkd.losses.feature import Feature
from sinkd.losses.term import View
from sinkd.training.teacher_cache import Answers

TAUGHT = "teacher/"  # prefix of the teacher's cached features in a batch; the feature's name follows
READ = TAUGHT + "rows"  # the same rows, as the teacher reads them

Batch = dict[str, Any]
Collate = Callable[[list[Batch]], Batch]


class TaughtRows(TorchDataset):
    """Training rows with the teacher's cached answers, or with its own tokens if a live teacher reads different ones.

    Args:
        rows: The student's rows.
        collator: Makes a batch of them.
        answers: The teacher's cached answers, in the same order.
        read: The rows as the teacher reads them, in the same order, and their collator.

    Raises:
        SinkdError: if the numbers of answers and rows differ.
    """

    def __init__(
        self,
        rows: Dataset,
        collator: Collate,
        answers: Answers | None = None,
        read: tuple[Dataset, Collate] | None = None,
    ):
        for there in (answers, read and read[0]):
            if there is not None and len(rows) != len(there):
                raise SinkdError(f"the teacher has answers for {len(there)} rows, the data set {len(rows)} rows")
        self.rows, self.collator, self.answers, self.read = rows, collator, answers, read

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Batch]:
        rows = self.rows.__getitems__(indices)
        for row, index in zip(rows, indices, strict=True):
            if self.answers is not None:
                row |= {TAUGHT + name: value for name, value in self.answers[index].items()}
            if self.read is not None:
                row[READ] = self.read[0][index]
        return rows

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Make a batch of rows, with the teacher's answers joined by their features."""
        batch = self.collator([{n: value for n, value in row.items() if not n.startswith(TAUGHT)} for row in rows])
        taught: Batch = {}
        for feature in self.answers.features if self.answers is not None else ():
            name = TAUGHT + feature.name
            taught[name] = feature.join([row[name] for row in rows], batch)
        if self.read is not None:
            taught[READ] = self.read[1]([row[READ] for row in rows])
        return batch | taught


def taught_view(batch: Mapping[str, Any], features: Iterable[Feature]) -> View:
    """The teacher's cached features in a batch."""
    return View(None, {f: batch[TAUGHT + f.name] for f in features if TAUGHT + f.name in batch}, batch.get("counts"))
