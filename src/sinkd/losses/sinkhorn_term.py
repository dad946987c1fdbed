"""`sinkhorn` as a term of an objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..transport.solver import Gradient
from .options import Options, option
from .sinkhorn import Group, Reduction, Representation, SinkhornLoss, Value
from .term import Progress, Term, View


@dataclass(frozen=True)
class CurvatureOptions(Options):
    """What every term of a transport shares."""

    curvature: float = option(1.0, "Curvature of the hyperbolic costs.", flag="curvature")
    learnable_curvature: bool = option(False, "Train the curvature too.", flag="learnable_curvature")


@dataclass(frozen=True)
class SinkhornOptions(CurvatureOptions):
    """Keywords of `SinkhornLoss`, with the published defaults."""

    cost: str = option("lorentz", "Ground cost of the transport.")
    temperature: float = option(2.0, "Temperature of the transported predictions.")
    epsilon: float = option(0.1, "Entropic regularisation of the transport.")
    n_iters: int = option(20, "Sinkhorn iterations.")
    tolerance: float | None = option(None, "Stop iterating when rows are this right (mean error).")
    weight: float = option(0.001, "Inner weight of the sinkhorn loss, beside beta.")
    reduction: Reduction = option("sum", "Cost per row, or of the whole batch (as published).")
    value: Value = option("distance", "The transport's cost, or its plan as answer.")
    debias: bool = option(False, "Subtract the cost of each side against itself.")
    gradient: Gradient = option("unroll", "How the gradient is taken.")
    group: Group = option("batch", "One transport a batch, or one a sequence.")
    top_k: int | None = option(
        None, "Transport only a vocabulary's so many most probable entries, and the rest as one."
    )
    top_k_of: Literal["both", "teacher"] = option("both", "Whose top entries; a teacher cached by them: teacher.")
    pairing: float = option(
        0.0, "Cost added to moving a row to another row's answer: 0 batch-wise, large row by row.", flag="pairing"
    )
    representation: Representation = option("probability", "What is transported.", flag="representation")
    representation_scale: float | None = option(
        None, "Scale of log_odds; with a learnable curvature it learns too.", flag="representation_scale"
    )


class SinkhornTerm(Term):
    """The cost of transporting the batch of the student's predictions onto the teacher's.

    With group "sequence" each example's answer tokens are transported for themselves, so that the term is row by row:
    a mean over the examples that have any.
    """

    Options = SinkhornOptions

    def __init__(self, name: str, options: SinkhornOptions):
        super().__init__(name, options)
        self.loss = SinkhornLoss(**asdict(options))
        self.batchwise = self.loss.group == "batch"

    def count(self, teacher: View, batch: Mapping[str, Any]) -> Tensor | int:
        return (batch["counts"] > 0).sum() if "counts" in batch else super().count(teacher, batch)

    @property
    def softens_at(self) -> float | None:
        return self.loss.temperature if self.loss.representation == "probability" else None

    def points(self, view: View, batch: Mapping[str, Any]) -> Tensor:
        return view.softened(self.loss.temperature)

    def forward(self, student: Any, teacher: Any, batch: Mapping[str, Any], progress: Progress) -> Tensor:
        if self.batchwise:
            return self.loss(student, teacher)
        values = [self.loss(*pair) for pair in self._sequences(student, teacher, batch)]
        return torch.stack(values).mean() if values else self.points(student, batch).sum() * 0.0

    @torch.no_grad()
    def diagnostics(self, student: Any, teacher: Any, batch: Mapping[str, Any]) -> dict[str, float]:
        pairs = [(student, teacher)] if self.batchwise else self._sequences(student, teacher, batch)
        errors = [float(self.loss.transport(*pair).marginal_error().mean()) for pair in pairs]
        figures = {"marginal_error": sum(errors) / max(len(errors), 1)}
        if self.loss.curvature is not None:
            figures["curvature"] = float(self.loss.curvature)
        return figures

    def _sequences(self, student: View, teacher: View, batch: Mapping[str, Any]) -> list[tuple[Tensor, Tensor]]:
        """Both sides' points of each example that has any; of all at once where the batch does not count them."""
        ours, theirs = self.points(student, batch), self.points(teacher, batch)
        if "counts" not in batch:
            return [(ours, theirs)]
        counts = batch["counts"].tolist()
        return [pair for pair in zip(ours.split(counts), theirs.split(counts), strict=True) if len(pair[0])]
