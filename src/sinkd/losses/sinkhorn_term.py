"""`sinkhorn` as a term of an objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..transport.solver import Gradient
from .option_flags import Options, option
from .sinkhorn import Group, Reduction, Representation, SinkhornLoss, Value
from .term import BatchTerm, Progress, RowTerm, Term, View


@dataclass(frozen=True)
class TransportOptions(Options):
    """Options shared by the transport terms: keywords of `SinkhornLoss`."""

    n_iters: int = option(20, "Sinkhorn iterations.")
    tolerance: float | None = option(None, "Stop iterating when the rows' mean marginal error is below this.")
    debias: bool = option(False, "Subtract half the cost of each side against itself.")
    gradient: Gradient = option("unroll", "How the gradient is taken.")
    curvature: float = option(1.0, "Curvature of the hyperbolic costs.", flag="curvature")
    learnable_curvature: bool = option(False, "Train the curvature too.", flag="learnable_curvature")


@dataclass(frozen=True)
class SinkhornOptions(TransportOptions):
    cost: str = option("lorentz", "Ground cost of the transport.")
    temperature: float = option(2.0, "Temperature of the transported predictions.")
    epsilon: float = option(0.1, "Entropic regularisation of the transport.")
    weight: float = option(0.001, "Inner weight of the sinkhorn loss, times beta.")
    reduction: Reduction = option("sum", "Cost per row, or of the whole batch (as published).")
    value: Value = option("distance", "The transport's cost, or how far its plan is from matching.")
    group: Group = option("batch", "One transport per batch, or one per sequence.")
    top_k: int | None = option(None, "Transport only the k most probable entries, and the rest as one.")
    top_k_of: Literal["both", "teacher"] = option("both", "Whose top entries; 'teacher' if only those are cached.")
    pairing: float = option(
        0.0, "Cost added between different examples; a large value compares row by row.", flag="pairing"
    )
    representation: Representation = option("probability", "What is transported.", flag="representation")
    representation_scale: float | None = option(
        None, "Scale of log_odds; trained too if the curvature is learnable.", flag="representation_scale"
    )


class SinkhornTerm(Term):
    """Transport the predictions of all rows of an update onto the teacher's (`SinkhornLoss`)."""

    Options = SinkhornOptions

    def __init__(self, name: str, options: SinkhornOptions):
        super().__init__(name, options)
        self.loss = SinkhornLoss(**asdict(options))

    @classmethod
    def make(cls, name: str, options: SinkhornOptions) -> list[Term]:
        kind = BatchSinkhorn if options.group == "batch" else SequenceSinkhorn
        return [kind(name, options)]

    @property
    def softens_at(self) -> float | None:
        return self.loss.temperature if self.loss.representation == "probability" else None

    def _figures(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
        errors = [float(self.loss.transport(*pair).marginal_error().mean()) for pair in pairs]
        figures = {"marginal_error": sum(errors) / max(len(errors), 1)}
        if self.loss.curvature is not None:
            figures["curvature"] = float(self.loss.curvature)
        return figures


class BatchSinkhorn(SinkhornTerm, BatchTerm):
    """One transport of all rows of an update."""

    def points(self, view: View, batch: Mapping[str, Any]) -> Tensor:
        return view.softened(self.loss.temperature)

    def forward(self, student: Tensor, teacher: Tensor, progress: Progress) -> Tensor:
        return self.loss(student, teacher)

    @torch.no_grad()
    def diagnostics(self, student: Tensor, teacher: Tensor) -> dict[str, float]:
        return self._figures([(student, teacher)])


class SequenceSinkhorn(SinkhornTerm, RowTerm):
    """One transport per example's answer tokens, averaged over the examples that have any."""

    def count(self, teacher: View, batch: Mapping[str, Any]) -> Tensor | int:
        return super().count(teacher, batch) if teacher.counts is None else (teacher.counts > 0).sum()

    def forward(self, student: View, teacher: View, batch: Mapping[str, Any], progress: Progress) -> Tensor:
        values = [self.loss(*pair) for pair in self._sequences(student, teacher)]
        return torch.stack(values).mean() if values else student.logits.sum() * 0.0

    @torch.no_grad()
    def diagnostics(self, student: View, teacher: View) -> dict[str, float]:
        return self._figures(self._sequences(student, teacher))

    def _sequences(self, student: View, teacher: View) -> list[tuple[Tensor, Tensor]]:
        """Both sides' rows for each example that has any, or for the whole batch if each example is one row."""
        ours, theirs = (view.softened(self.loss.temperature) for view in (student, teacher))
        if student.counts is None:
            return [(ours, theirs)]
        counts = student.counts.tolist()
        return [pair for pair in zip(ours.split(counts), theirs.split(counts), strict=True) if len(pair[0])]
