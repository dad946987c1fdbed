"""The terms that an objective sums, `RowTerm` and `BatchTerm`, and the `View` they read of student and teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from sinkd.losses.feature import LOGITS, Feature, Stack
from sinkd.losses.option_flags import Options


class View:
    """One model's features of a batch: `view[feature]` for each requested feature.

    Args:
        logits: The feature that nearly every term reads, also `view.logits`; None if unknown.
        features: The values of other features.
        counts: (B,), for a language model the number of answer tokens of each example: its logits are
            (counts.sum(), V). None if each example is one row of logits.
    """

    def __init__(
        self,
        logits: Tensor | None = None,
        features: Mapping[Feature, Any] | None = None,
        counts: Tensor | None = None,
    ):
        self.features: dict[str, Any] = {} if logits is None else {LOGITS.name: logits}
        self.features |= {feature.name: value for feature, value in (features or {}).items()}
        self.counts = counts

    def __getitem__(self, feature: Feature) -> Any:
        return self.features[feature.name]

    def __contains__(self, feature: Feature) -> bool:
        return feature.name in self.features

    @property
    def logits(self) -> Tensor:
        return self.features.get(LOGITS.name)  # type: ignore[return-value]

    def softened(self, temperature: float) -> Tensor:
        """Logits whose softmax at this temperature is the model's: its own logits, if they are known."""
        return self.logits


@dataclass(frozen=True)
class Progress:
    """The progress of training: `epoch` counts from 0, `epochs` is their total number (at least 1)."""

    epoch: int = 0
    epochs: int = 1


class Term(nn.Module, ABC):
    """One summand of an `Objective`: subclass `RowTerm` or `BatchTerm`, and register it in `objective.TERMS`.

    Parameters of a term (a curvature, a projector) are trained and checkpointed, but not exported with the model.

    Attributes:
        Options: The dataclass of the term's options.
        student_needs, teacher_needs: The features that the term reads from each model.
        needs_labels: True if the batch must contain hard labels.
        weighted_by: The setting that weights the term if the objective's text gives no weights.
        compares_layers: True if `bind` decides what is needed.
        reads_embedding: True if it needs the teacher's input embedding, see `Objective.embed`.
        reads_top: The number of a teacher's likeliest tokens that it needs from a cache that keeps only these.
        applies: False if the bound models leave the term nothing to compare: it is skipped.

    Args:
        name: The term's name in objectives.
        options: An instance of its `Options`.
    """

    Options: ClassVar[type[Options]] = Options
    student_needs: frozenset[Feature] = frozenset({LOGITS})
    teacher_needs: frozenset[Feature] = frozenset({LOGITS})
    needs_labels: bool = False
    weighted_by: Literal["1 - alpha", "alpha", "beta", "mgskd_w"] = "beta"
    compares_layers: bool = False
    reads_embedding: bool = False
    reads_top: int = 1
    applies: bool = True

    def __init__(self, name: str, options: Any = None):
        super().__init__()
        self.name = name

    @classmethod
    def make(cls, name: str, options: Any) -> list[Term]:
        """The term, or the several terms that make it up and share its weight, named as in `mgskd/pairs`."""
        return [cls(name, options)]

    @property
    def softens_at(self) -> float | None:
        """The fixed temperature at which the term reads the teacher's `View.softened`.

        None if it changes, or if entries with almost no mass matter: then the term needs the teacher's full logits.
        """
        return None

    def bind(self, student: Stack, teacher: Stack) -> None:
        """Bind the term to both models before training, and again to other models.

        Raises:
            SinkdError: if the two cannot be compared.
        """


class RowTerm(Term):
    """A term that compares the two answers for each example, and averages.

    Attributes:
        counts_by_teacher: True if `count` reads the teacher's features.
    """

    counts_by_teacher: bool = False

    def count(self, teacher: View, batch: Mapping[str, Any]) -> Tensor | int:
        """The number of rows (tokens, entries) of a micro-batch that the value averages over.

        It weights the micro-batches of an update, so that their sizes do not change the result.
        """
        return len(batch["labels"] if "labels" in batch else batch["input_ids"])

    @abstractmethod
    def forward(self, student: View, teacher: View, batch: Mapping[str, Any], progress: Progress) -> Tensor:
        """The value for a batch, a scalar."""

    def diagnostics(self, student: View, teacher: View) -> dict[str, float]:
        """Extra figures to log (a curvature, a marginal error), computed at logging steps only."""
        return {}


class BatchTerm(Term):
    """A term that compares all rows of an update with each other, across micro-batches and processes."""

    @abstractmethod
    def points(self, view: View, batch: Mapping[str, Any]) -> Tensor:
        """The rows (n, ...) of a micro-batch to compare, for either model."""

    @abstractmethod
    def forward(self, student: Tensor, teacher: Tensor, progress: Progress) -> Tensor:
        """The value for the points (n, ...) of both models, a scalar."""

    def diagnostics(self, student: Tensor, teacher: Tensor) -> dict[str, float]:
        """As `RowTerm.diagnostics`."""
        return {}
