"""What an objective sums: the `Term`, and what it is shown of student and teacher.

A term says what it needs of either model, and the trainer provides just that. Most terms are row by row: they
compare the student's answer for an example with the teacher's answer for the same example. A *batchwise* term
compares all rows of an update at once, so it works in two steps: `points` picks the rows of one micro-batch, and
the call takes all of them. Between the two a trainer may gather what other processes and micro-batches hold.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class View:
    """What one model shows of a batch; what no term needs stays None, and a term reads only what it needs.

    logits: (B, C) class logits or regression scores (C = 1), or (B, L, V) token logits.
    hidden_states: one (B, L, D) tensor a layer, the embedding's output first.
    """

    logits: Tensor = None  # type: ignore[assignment]
    hidden_states: tuple[Tensor, ...] = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Progress:
    """Where training stands: `epoch` counts from 0, `epochs` is how many there will be (at least 1)."""

    epoch: int = 0
    epochs: int = 1


class Term(nn.Module):
    """One summand of an `Objective`; subclass it, and name it in `sinkd.losses.objective.TERMS`.

    `name` is how objectives spell it. `student_needs` and `teacher_needs` are subsets of {"logits", "labels",
    "hidden_states"} ("labels" on the student's side: the batch must carry hard labels). `cacheable` is
    the part of `teacher_needs` that depends on teacher and example alone, so that it can be computed once. `family`
    says how the published alpha and beta weigh the term: "label" (1 - alpha), "paired" (alpha) or "added" (beta).
    Parameters of a term's own (a curvature, a projector) are trained, checkpointed and left out of the exported model.
    """

    name: str = ""
    student_needs: frozenset[str] = frozenset({"logits"})
    teacher_needs: frozenset[str] = frozenset({"logits"})
    cacheable: frozenset[str] = frozenset({"logits"})
    family: str = "added"
    batchwise: bool = False

    def points(self, view: View, batch: Mapping[str, Any]) -> Any:
        """The rows of one micro-batch that a batchwise term compares; a row-by-row term takes the view itself."""
        return view

    def forward(self, student: Any, teacher: Any, batch: Mapping[str, Any], progress: Progress) -> Tensor:
        """The term's value, a scalar, from what `points` gave for student and teacher."""
        raise TypeError(f"{type(self).__name__} does not say how to compute its value")

    def diagnostics(self, student: Any, teacher: Any) -> dict[str, float]:
        """Figures worth logging beside the value (a curvature, a marginal error); computed at logging steps only."""
        return {}
