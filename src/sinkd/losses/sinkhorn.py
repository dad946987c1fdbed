"""SinkhornLoss, the batch loss of SinKD (Cui et al., LREC-COLING 2024, arXiv 2402.17110)."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import SinkdError
from ..transport.backend import BACKENDS, Backend, use_triton
from ..transport.cost import COSTS
from ..transport.curvature import Curvature, Scale
from ..transport.precision import full_precision, result_type
from ..transport.solver import GRADIENTS, Gradient, Transport, sinkhorn
from .logits import Rows, guard, pair_rows, points_of
from .vocabulary_cost import WIDE_COSTS

Representation = Literal["probability", "log_odds", "vector"]
Reduction = Literal["mean", "sum"]
Value = Literal["distance", "matching"]
Group = Literal["batch", "sequence"]

CHOICES: dict[str, tuple[str, ...]] = {
    "cost": tuple(COSTS),
    "representation": get_args(Representation),
    "reduction": get_args(Reduction),
    "value": get_args(Value),
    "gradient": GRADIENTS,
    "group": get_args(Group),
    "top_k_of": ("both", "teacher"),
    "backend": BACKENDS,
}
"""The allowed values of the keywords that take one of several names."""


class SinkhornLoss(nn.Module):
    """The cost of transporting a batch of the student's predictions onto the teacher's: weight * sum_ij P_ij W_ij.

        p = softmax(student / T), q = softmax(teacher / T),  W_ij = cost(p_i, q_j),
        P = exp(-W / epsilon) with rows, then columns, divided by their sums, n_iters times.

    Permuting either side's rows changes nothing: the loss does not know which teacher row belongs to which student
    row. Combine it with a paired term (cross-entropy, kd), or set `pairing`.

    Works under autocast (it computes in float32 and float64, also for bfloat16 and float16 logits) and under
    torch.compile(fullgraph=True). C = 1 means regression: the rows are the scores / T, with the l1 cost.

    Args:
        cost: l1 (SinKD), l2, sqeuclidean, cosine, fisher_rao, hellinger, or lorentz (also called poincare).
        temperature: T > 0, for both sides.
        epsilon, n_iters, tolerance, gradient, backend: see `sinkd.sinkhorn`. On a GPU, l1, sqeuclidean and lorentz of
            up to 64 classes are one launch from logits to loss, and one for the gradient.
        curvature: c > 0 of lorentz (curvature -c).
        learnable_curvature: make log c a parameter, bounded to [c / 10, 10 c]. Trained alone it runs to a bound; see
            `Curvature`.
        representation: what to compare. "probability" (published); "log_odds", log p minus its mean over classes,
            where hyperbolic distance differs from a flat one; or "vector", the rows / T, which need not be logits. The
            last two do not work with fisher_rao and hellinger.
        representation_scale: factor of the log-odds, > 0. None: 1 / sqrt(C), and with `learnable_curvature` a
            parameter that starts there, bounded within a factor of ten.
        reduction: "mean" over rows, or "sum" (published: it grows with the batch).
        weight: factor of the result.
        value: "distance"; or "matching", -mean_i log P_ii: the plan should move every row to itself.
        pairing: gamma >= 0, added to W_ij where rows i and j are different examples; a large gamma makes P the
            identity. Needs as many student rows as teacher rows.
        debias: S(x, y) - (S(x, x) + S(y, y)) / 2, which is 0 for equal sides (Feydy et al., 2019).
        group: for logits (B, L, V), "batch": one transport of all positions; "sequence": one per sequence, averaged.
        top_k: compare only the union of both sides' k most probable classes, and the rest as one.
        top_k_of: "both" sides, or only the "teacher", if only its top k are known.

    Raises:
        SinkdError: for a keyword out of range.

    >>> loss = SinkhornLoss(cost="l1")
    >>> float(loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[2.0, 0.0]])))
    0.0
    """

    def __init__(
        self,
        cost: str = "lorentz",
        temperature: float = 2.0,
        epsilon: float = 0.1,
        n_iters: int = 20,
        tolerance: float | None = None,
        curvature: float = 1.0,
        learnable_curvature: bool = False,
        representation: Representation = "probability",
        representation_scale: float | None = None,
        reduction: Reduction = "mean",
        weight: float = 1.0,
        value: Value = "distance",
        pairing: float = 0.0,
        debias: bool = False,
        gradient: Gradient = "unroll",
        group: Group = "batch",
        top_k: int | None = None,
        top_k_of: Literal["both", "teacher"] = "both",
        backend: Backend = "auto",
    ):
        super().__init__()
        self.cost, self.temperature, self.epsilon = cost, temperature, epsilon
        self.n_iters, self.tolerance, self.gradient = n_iters, tolerance, gradient
        self.representation, self.reduction, self.weight = representation, reduction, weight
        self.value, self.pairing, self.debias, self.group, self.top_k = value, pairing, debias, group, top_k
        self.top_k_of, self.backend = top_k_of, backend
        self._check()
        self._given_scale = representation_scale is not None  # which replaces the 1 / sqrt(C) of log_odds
        # make both even if they are not used, so that both are checked
        hyperbolic = Curvature(curvature, learnable_curvature)
        initial = 1.0 if representation_scale is None else representation_scale
        scale = Scale(initial, learnable_curvature and not self._given_scale)
        self.hyperbolic = hyperbolic if COSTS[cost].curved else None
        self.scale = scale if representation == "log_odds" else None

    @classmethod
    def published(cls, **changes: Any) -> SinkhornLoss:
        """The loss with SinKD's settings for classifiers, weight 0.001 and reduction "sum"; `changes` are keywords."""
        return cls(**{"weight": 0.001, "reduction": "sum", **changes})

    @property
    def curvature(self) -> Tensor | None:
        """c as used now, without a gradient; None if the cost has no curvature."""
        return None if self.hyperbolic is None else torch.as_tensor(self.hyperbolic()).detach()

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None, ids: Tensor | None = None
    ) -> Tensor:
        """The loss of a batch.

        Args:
            student_logits: (B, C), or (B, L, V). -inf is an impossible class.
            teacher_logits: the same number of classes, and as many rows if mask, ids, pairing or matching is used.
                Detach it if it needs no gradient.
            mask: (B,) or (B, L), the rows that count, for both sides.
            ids: integers, shaped as mask: rows with equal ids are the same example, for pairing and matching.

        Returns:
            A scalar, float32 (float64 if a side is). 0, with a graph, if no row counts.

        Raises:
            SinkdError: for shapes that do not pair, and in eager mode on a CPU for logits that are NaN or +inf, or
                -inf in a whole row, naming side and number of rows (elsewhere a fixed-text assertion).
        """
        rows = self._rows(student_logits, teacher_logits, mask, ids)
        if 0 in rows.student.shape or 0 in rows.teacher.shape:
            # empty sums, since -inf times 0 would be NaN
            return (rows.student[..., :0].sum() + rows.teacher[..., :0].sum()).to(result_type(*rows[:2]))
        if use_triton(rows.student, self.backend, rows.student.shape[-2], rows.teacher.shape[-2]):
            from . import one_launch  # imports Triton

            if one_launch.fits(self, rows):
                if rows.mask is not None:
                    return self._reduce(one_launch.distances(self, rows, 1.0), rows)
                value = one_launch.distances(self, rows, self.weight / self._count(rows))
                return value.mean() if value.dim() else value
        guard(rows.student, rows.teacher)
        if self.debias:
            x, y = self._points(rows)
            both, own_x, own_y = (
                self._solve(self._cost_of(*pair, rows), rows)[1].distance for pair in ((x, y), (x, x), (y, y))
            )
            ratio = rows.student.shape[-2] / rows.teacher.shape[-2]
            return self._reduce(both - (own_x + own_y * ratio) / 2, rows)
        cost, transport = self._solve(self._cost(rows), rows)
        value = self._matching(cost, transport, rows) if self.value == "matching" else transport.distance
        return self._reduce(value, rows)

    def transport(
        self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None, ids: Tensor | None = None
    ) -> Transport:
        """The solved problem behind the loss: plan, potentials, marginal error. Arguments as for the loss.

        With group "batch" in eager mode on a CPU the plan leaves masked rows out; otherwise they are rows of 0.
        """
        rows = self._rows(student_logits, teacher_logits, mask, ids)
        guard(rows.student, rows.teacher)
        return self._solve(self._cost(rows), rows)[1]

    def _rows(self, student: Tensor, teacher: Tensor, mask: Tensor | None, ids: Tensor | None) -> Rows:
        paired = mask is not None or ids is not None or self.pairing > 0 or self.value == "matching"
        return pair_rows(student, teacher, mask, ids, self.group == "sequence", paired)

    def _points(self, rows: Rows) -> tuple[Tensor, Tensor]:
        scale: float | Tensor = 1.0
        if self.scale is not None:
            scale = self.scale() * (rows.student.shape[-1] ** 0.5 if self._given_scale else 1.0)
        return points_of(rows, self.temperature, self.representation, scale, self.top_k, self.top_k_of)

    def _cost(self, rows: Rows) -> Tensor:
        """W (..., n, m)."""
        whole = self.representation == "probability" and self.top_k is None
        if whole and self.cost in WIDE_COSTS and rows.wide:
            sides = rows.student, rows.teacher
            curvature = [] if self.hyperbolic is None else [self.hyperbolic()]
            known = result_type(*sides) == torch.float32 and not any(isinstance(c, Tensor) for c in curvature)
            with full_precision(rows.student.device):
                if known and use_triton(rows.student, self.backend):
                    from .vocabulary_kernel import wide_costs  # imports Triton

                    return wide_costs(self.cost, *sides, self.temperature, *curvature)
                if rows.readable:
                    return WIDE_COSTS[self.cost](*sides, self.temperature, *curvature)
        return self._cost_of(*self._points(rows), rows)

    def _cost_of(self, x: Tensor, y: Tensor, rows: Rows) -> Tensor:
        cost = COSTS["l1" if rows.student.shape[-1] == 1 else self.cost]
        if not cost.curved or self.hyperbolic is None:
            return cost.function(x, y)
        single = result_type(rows.student, rows.teacher) == torch.float32
        return cost.function(x, y, self.hyperbolic(), single and self.representation == "probability")

    def _same(self, rows: Rows) -> Tensor:
        """Which pairs of rows are the same example, (..., n, n)."""
        if rows.ids is not None:
            return rows.ids.unsqueeze(-1) == rows.ids.unsqueeze(-2)
        return torch.eye(rows.student.shape[-2], dtype=torch.bool, device=rows.student.device)

    def _solve(self, cost: Tensor, rows: Rows) -> tuple[Tensor, Transport]:
        """The cost with pairing, in the solver's dtype, and the solution."""
        if self.pairing > 0:
            cost = cost + self.pairing * (~self._same(rows)).to(cost.dtype)
        cost = cost.to(result_type(rows.student, rows.teacher))
        bounded = self.representation == "probability" and rows.student.shape[-1] > 1
        transport = sinkhorn(
            cost,
            self.epsilon,
            self.n_iters,
            self.tolerance,
            row_weights=rows.mask,
            col_weights=rows.mask,
            gradient=self.gradient,
            cost_bound=COSTS[self.cost].bound + self.pairing if bounded else None,
            backend=self.backend,
        )
        return cost, transport

    def _matching(self, cost: Tensor, transport: Transport, rows: Rows) -> Tensor:
        """-sum_i log sum_j P_ij over the rows j that are the same example as row i, (...)."""
        f, g, same = transport.f, transport.g, self._same(rows)
        if rows.mask is not None:
            f, g = f.masked_fill(~rows.mask, 0.0), g.masked_fill(~rows.mask, 0.0)
            same = same & (rows.mask.unsqueeze(-1) == rows.mask.unsqueeze(-2))
        log_plan = f.unsqueeze(-1) + g.unsqueeze(-2) - cost / self.epsilon
        log_p = log_plan.masked_fill(~same, -torch.inf).logsumexp(-1)
        if rows.mask is not None:
            log_p = log_p.masked_fill(~rows.mask, 0.0)
        return -log_p.sum(-1)

    def _reduce(self, value: Tensor, rows: Rows) -> Tensor:
        """The scalar from sums over rows (...): per row or not, averaged over sequences with at least one row."""
        if rows.mask is None:
            value = value / self._count(rows)
            return value.mean() * self.weight if value.dim() else value * self.weight
        count = rows.mask.sum(-1)
        if self.reduction == "mean":
            value = value / count.clamp_min(1)
        return value.sum() / (count > 0).sum().clamp_min(1) * self.weight

    def _count(self, rows: Rows) -> int:
        """What a sum over all rows is divided by."""
        return rows.student.shape[-2] if self.reduction == "mean" else 1

    def _check(self) -> None:
        for name, allowed in CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                raise SinkdError(f"SinkhornLoss: {name} is {value!r}; it must be one of {', '.join(allowed)}")
        for name in ("temperature", "epsilon"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise SinkdError(f"SinkhornLoss: {name} is {value}; it must be a number greater than 0")
        for name, least in (("n_iters", 1), ("pairing", 0), ("top_k", 1)):
            if (value := getattr(self, name)) is not None and not least <= value < math.inf:
                raise SinkdError(f"SinkhornLoss: {name} is {value}; it must be at least {least}, and finite")
        if self.representation != "probability" and (COSTS[self.cost].simplex or self.top_k is not None):
            what = f"cost {self.cost!r}" if COSTS[self.cost].simplex else "top_k"
            raise SinkdError(f"SinkhornLoss: {what} is for probabilities; it needs representation 'probability'")
        if self.value == "matching" and (self.debias or self.gradient == "envelope"):
            what = "debias" if self.debias else "gradient 'envelope'"
            raise SinkdError(f"SinkhornLoss: value 'matching' reads the plan, so {what} has no meaning with it")
