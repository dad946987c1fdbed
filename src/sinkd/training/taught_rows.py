"""Training rows with what the teacher makes of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset

from sinkd.errors import SinkdError
from sinkd.losses.feature import Feature
from sinkd.losses.term import View
from sinkd.training.answers import Answers

# Prefix of the names under which a batch carries the teacher's kept answers.
TAUGHT = "teacher/"
# The name under which it carries the same rows as the teacher reads them.
READ = "read by the teacher"

Batch = dict[str, Any]
Collate = Callable[[list[Batch]], Batch]


class TaughtRows(TorchDataset):
    """Training rows with what the teacher makes of them.

    Kept answers are under `TAUGHT` + a feature's name; rows as the teacher reads them, if its tokens differ and it
    answers live, are under `READ`.

    Args:
        rows: The student's rows.
        collator: Makes a batch of them.
        answers: The teacher's kept answers, in their order.
        read: The rows as the teacher reads them, in their order, and what makes a batch of them.
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
        self.rows = rows
        self.collator = collator
        self.answers = answers
        self.read = read

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        return {**self.rows[index], **self._taught(index)}

    def __getitems__(self, indices: list[int]) -> list[Batch]:
        columns = self.rows[indices]
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return [{**row, **self._taught(index)} for row, index in zip(rows, indices, strict=True)]

    def _taught(self, index: int) -> Batch:
        answers = {} if self.answers is None else self.answers[index]
        return {TAUGHT + name: value for name, value in answers.items()} | (
            {} if self.read is None else {READ: self.read[0][index]}
        )

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """A batch of these rows, with the teacher's features as `Feature.join` puts them together."""
        own = [{n: value for n, value in row.items() if n != READ and not n.startswith(TAUGHT)} for row in rows]
        batch = self.collator(own)
        features = {} if self.answers is None else {TAUGHT + feature.name: feature for feature in self.answers.features}
        taught: Batch = {name: f.join([row[name] for row in rows], batch) for name, f in features.items()}
        if self.read is not None:
            taught[READ] = self.read[1]([row[READ] for row in rows])
        return batch | taught


def taught_view(batch: Mapping[str, Any], features: Iterable[Feature]) -> View:
    """The teacher's side of a batch, as far as the batch carries it."""
    return View(None, {f: batch[TAUGHT + f.name] for f in features if TAUGHT + f.name in batch}, batch.get("counts"))
