"""What an objective sums: the `Term`, and what it is shown of student and teacher.

A term says which features it needs of either model, and the trainer provides just those. Most terms are row by row:
they compare the student's answer for an example with the teacher's answer for the same example, and average. A
*batchwise* term compares all rows of an update at once, so it works in two steps: `points` picks the rows of one
micro-batch, and the call takes all of them. Between the two a trainer gathers what other processes and micro-batches
hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from sinkd.losses.feature import LOGITS, Feature, Stack
from sinkd.losses.options import Options


class View:
    """What one model shows of a batch: `view[feature]` for every feature that was asked for.

    logits: shorthand for the feature that nearly every term reads, also `view.logits`; None where it was not asked for,
    or is not known.
    """

    def __init__(self, logits: Tensor | None = None, features: Mapping[Feature, Any] | None = None):
        self.features: dict[str, Any] = {} if logits is None else {LOGITS.name: logits}
        self.features |= {feature.name: value for feature, value in (features or {}).items()}

    def __getitem__(self, feature: Feature) -> Any:
        return self.features[feature.name]

    def __contains__(self, feature: Feature) -> bool:
        return feature.name in self.features

    @property
    def logits(self) -> Tensor:
        return self.features.get(LOGITS.name)  # type: ignore[return-value]

    def softened(self, temperature: float) -> Tensor:
        """Logits whose softmax at this temperature is the model's: its own, where they are known."""
        return self.logits


@dataclass(frozen=True)
class Progress:
    """Where training stands: `epoch` counts from 0, `epochs` is how many there will be (at least 1)."""

    epoch: int = 0
    epochs: int = 1


class Term(nn.Module):
    """One summand of an `Objective`; subclass it, and register it in `sinkd.losses.objective.TERMS`.

    Options: The dataclass of the term's options, one `option` a field. Flags, keywords of `Objective.parse` and lines
        of the model card come from it.
    student_needs, teacher_needs: Features that the term reads of either model; an instance may narrow them.
    needs_labels: Must the batch carry hard labels?
    weighted_by: What weighs the term where the objective's text gives no weights.

    Parameters of a term (a curvature, a projector) are trained, checkpointed and left out of the exported model.

    Args:
        name: How objectives spell it.
        options: An instance of the term's `Options`.
    """

    Options: ClassVar[type[Options]] = Options
    student_needs: frozenset[Feature] = frozenset({LOGITS})
    teacher_needs: frozenset[Feature] = frozenset({LOGITS})
    needs_labels: bool = False
    weighted_by: Literal["1 - alpha", "alpha", "beta", "mgskd_w"] = "beta"
    batchwise: bool = False
    counts_by_teacher: bool = False  # does `count` look at the teacher's view?
    compares_layers: bool = False  # does `meet` decide what is needed?

    def __init__(self, name: str = "", options: Any = None):
        super().__init__()
        self.name = name

    @classmethod
    def make(cls, name: str, options: Any) -> list[Term]:
        """The term, or several that make it up and share its weight, under names such as `mgskd/pairs`."""
        return [cls(name, options)]

    @property
    def softens_at(self) -> float | None:
        """The temperature at which the teacher's prediction is read, by `View.softened`, all training long.

        None where it changes, or where entries of next to no mass matter: then the teacher is kept whole.
        """
        return None

    def meet(self, student: Stack, teacher: Stack) -> None:
        """Told of both models before training: what is needed of them may depend on their depth and width.

        A term that needs nothing of the student afterwards has nothing to compare, and is left out.
        Raises SinkdError where the two cannot be compared.
        """

    def count(self, teacher: View, batch: Mapping[str, Any]) -> Tensor | int:
        """Over how many rows (tokens, entries) of this micro-batch the value is a mean.

        An update that is cut into micro-batches and processes weighs their values by it, so that the cut does not
        matter. Batchwise terms are not asked.
        """
        return len(batch["labels"] if "labels" in batch else batch["input_ids"])

    def points(self, view: View, batch: Mapping[str, Any]) -> Tensor:
        """The rows of one micro-batch that a batchwise term compares, (n, ...) with one row an entry."""
        raise TypeError(f"{type(self).__name__} does not say which points it compares")

    def forward(self, student: Any, teacher: Any, batch: Mapping[str, Any], progress: Progress) -> Tensor:
        """The term's value, a scalar: from the views of a batch, or for a batchwise term from all `points`.

        A batchwise term must not look at the batch: its points come from several.
        """
        raise TypeError(f"{type(self).__name__} does not say how to compute its value")

    def diagnostics(self, student: Any, teacher: Any, batch: Mapping[str, Any]) -> dict[str, float]:
        """Figures worth logging beside the value (a curvature, a marginal error), from what the call takes;
        computed at logging steps only. A batchwise term must not look at the batch here either."""
        return {}
