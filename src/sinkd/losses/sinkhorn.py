"""SinkhornLoss: what it costs to transport a batch of the student's predictions onto the teacher's.

The batch-wise loss of SinKD (Cui et al., LREC-COLING 2024, arXiv 2402.17110): soften both sides, compare every
student row with every teacher row, solve the transport problem, and pay plan times cost.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ..errors import SinkdError
from ..transport.cost import COSTS
from ..transport.lorentz import Clamped, Curvature
from ..transport.precision import full_precision, is_static, result_type
from ..transport.solver import GRADIENTS, Gradient, Transport, sinkhorn
from .logits import check_shapes, guard, log_odds, probabilities
from .vocabulary import fold, fold_logits, is_sliced, wide_lorentz

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
}
"""The keywords that name one of several things, and what they may name."""


class Rows(NamedTuple):
    """Logits as rows: (n, C) and (m, C), or one such pair per sequence, (B, n, C) and (B, m, C)."""

    student: Tensor
    teacher: Tensor
    mask: Tensor | None  # (..., n), rows of both sides that count; None: all
    ids: Tensor | None  # (..., n), which example a row of both sides is; None: all different


class SinkhornLoss(nn.Module):
    """Batch-wise Sinkhorn distillation: weight * sum_ij P_ij W_ij.

        p = softmax(student / T), q = softmax(teacher / T),  W_ij = cost(p_i, q_j),
        P = exp(-W / epsilon) with rows, then columns, divided by their sums, n_iters times.

    Permuting either side's rows changes nothing: the loss does not know which teacher row belongs to which student
    row. Train it beside a paired term (cross-entropy, kd), or give `pairing`.

    Works under autocast (it computes in float32 and float64, from bfloat16 and float16 logits too), and under
    torch.compile(fullgraph=True). C = 1 means regression: the rows are the scores / T, under the l1 cost.

    Args:
        cost: l1 (SinKD), l2, sqeuclidean, cosine, fisher_rao, hellinger, lorentz, poincare.
        temperature: T > 0, for both sides.
        epsilon, n_iters, tolerance, gradient: of `sinkd.sinkhorn`.
        curvature, learnable_curvature: c > 0 of lorentz and poincare (curvature -c), and whether its logarithm is a
            parameter, clamped to [c / 10, 10 c]. Alone it runs to a bound; see `Curvature`.
        representation: what is compared. "probability" (published); or "log_odds", log p minus its mean over
            classes, where hyperbolic distance differs from a flat one; or "vector", the rows / T themselves, which
            need be no logits. The last two are not for fisher_rao and hellinger.
        representation_scale: factor of the log-odds, > 0. None: 1 / sqrt(C), and where `learnable_curvature` a
            parameter that starts there, clamped within a factor of ten.
        reduction: "mean" over rows, or "sum" (published: it grows with the batch).
        weight: factor of the result.
        value: "distance", or "matching", -mean_i log P_ii: the plan should carry every row to itself.
        pairing: gamma >= 0, added to W_ij where rows i and j are different examples; infinite gamma would
            make P the identity. Needs as many student rows as teacher rows.
        debias: S(x, y) - (S(x, x) + S(y, y)) / 2, which is 0 for equal sides (Feydy et al., 2019).
        group: for logits (B, L, V), "batch": one transport of all positions; "sequence": one per sequence, averaged.
        top_k: compare only the union of both sides' k most probable classes, and the rest as one.
        top_k_of: "both" sides, or the "teacher" alone, for a teacher of whom no more than those are known.

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
    ):
        super().__init__()
        self.cost, self.temperature, self.epsilon = cost, temperature, epsilon
        self.n_iters, self.tolerance, self.gradient = n_iters, tolerance, gradient
        self.representation, self.reduction, self.weight = representation, reduction, weight
        self.value, self.pairing, self.debias, self.group, self.top_k = value, pairing, debias, group, top_k
        self.top_k_of = top_k_of
        self._check()
        curved = COSTS[cost].curved
        self.hyperbolic = Curvature(curvature, learnable_curvature and curved) if curved else None
        self.scale = None
        if representation == "log_odds":
            learnable_scale = learnable_curvature and representation_scale is None
            self.scale = Clamped(1.0 if representation_scale is None else representation_scale, learnable_scale)
        # log_odds divides by sqrt(C) itself; a given factor stands instead of that, not on top
        self._given_scale = representation_scale is not None

    @classmethod
    def published(cls, **changes: Any) -> SinkhornLoss:
        """The loss with SinKD's numbers for classifiers: weight 0.001 and reduction "sum"; `changes` are keywords."""
        return cls(**{"weight": 0.001, "reduction": "sum", **changes})

    @property
    def curvature(self) -> Tensor | None:
        """c as it is used now, clamped, without a gradient; None where the cost has none."""
        return None if self.hyperbolic is None else torch.as_tensor(self.hyperbolic()).detach()

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None, ids: Tensor | None = None
    ) -> Tensor:
        """The loss of a batch.

        Args:
            student_logits: (B, C), or (B, L, V). -inf is an impossible class.
            teacher_logits: the same number of classes; as many rows, or another number without mask, ids,
                pairing and matching. Detach it to save its gradient.
            mask: (B,) or (B, L), rows that count, the same for both sides.
            ids: as mask, integers: rows of the same number are the same example, for pairing and matching.

        Returns:
            A scalar, float32 (float64 if a side is). 0, with a graph, where no row counts.

        Raises:
            SinkdError: for shapes that do not pair, and in eager mode on a CPU for logits that are NaN or
                +inf, or -inf in a whole row, naming side and number of rows (elsewhere a fixed-text assertion).
        """
        rows = self._rows(student_logits, teacher_logits, mask, ids)
        if 0 in rows.student.shape or 0 in rows.teacher.shape:
            # of no entry, since -inf times 0 would be NaN
            return (rows.student[..., :0].sum() + rows.teacher[..., :0].sum()).to(result_type(*rows[:2]))
        if self._is_sliced(rows):
            x = y = rows.student  # which nothing reads
            cost = self._sliced_cost(rows)
        else:
            x, y = self._points(rows)
            cost = self._cost(x, y, rows)
        transport = self._solve(cost, rows)
        if self.value == "matching":
            value = self._matching(cost, transport, rows)
        else:
            value = transport.distance
            if self.debias:
                ratio = rows.student.shape[-2] / rows.teacher.shape[-2]
                own_x, own_y = (self._solve(self._cost(z, z, rows), rows).distance for z in (x, y))
                value = value - (own_x + own_y * ratio) / 2
        return self._reduce(value, rows)

    def transport(
        self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None, ids: Tensor | None = None
    ) -> Transport:
        """The solved problem behind the loss: plan, potentials, marginal error. Arguments as for the loss.

        In eager mode on a CPU, with group "batch", masked rows are left out of the plan; else they are rows of 0."""
        rows = self._rows(student_logits, teacher_logits, mask, ids)
        cost = self._sliced_cost(rows) if self._is_sliced(rows) else self._cost(*self._points(rows), rows)
        return self._solve(cost, rows)

    def extra_repr(self) -> str:
        names = ("cost", "temperature", "epsilon", "n_iters", "reduction", "weight", "value", "pairing")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def _rows(self, student: Tensor, teacher: Tensor, mask: Tensor | None, ids: Tensor | None) -> Rows:
        paired = mask is not None or ids is not None or self.pairing > 0 or self.value == "matching"
        check_shapes(student, teacher, equal_rows=paired)
        if student.dim() > 3 or (self.group == "sequence" and student.shape[:-2] != teacher.shape[:-2]):
            raise SinkdError(
                f"student logits have shape {tuple(student.shape)}, teacher logits {tuple(teacher.shape)}; "
                "expected (B, C) or (B, L, V), and for group 'sequence' as many sequences"
            )
        for name, given in (("mask", mask), ("ids", ids)):
            if given is not None and given.shape != student.shape[:-1]:
                raise SinkdError(
                    f"{name} has shape {tuple(given.shape)} and student logits {tuple(student.shape)}; "
                    f"expected {tuple(student.shape[:-1])}"
                )
        if student.dim() == 3 and self.group == "batch":
            student, teacher = student.flatten(0, 1), teacher.flatten(0, 1)
            mask, ids = (None if each is None else each.flatten() for each in (mask, ids))
        if mask is not None:
            mask = mask.bool()
            if student.dim() == 2 and not is_static(student):
                student, teacher, ids = student[mask], teacher[mask], None if ids is None else ids[mask]
                mask = None
            else:
                student, teacher = (x.masked_fill(~mask.unsqueeze(-1), 0.0) for x in (student, teacher))
        rows = Rows(student, teacher, mask, ids)
        if is_static(student) or not self._is_sliced(rows):  # else who reads them checks them
            guard(student, teacher)
        return rows

    def _points(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """What is compared, float64: differences of nearly equal rows would be rounding in float32."""
        with full_precision(rows.student.device):
            if rows.student.shape[-1] == 1 or self.representation == "vector":
                return rows.student.double() / self.temperature, rows.teacher.double() / self.temperature
            if self.scale is not None:
                scale = self.scale()
                if self._given_scale:
                    scale = scale * rows.student.shape[-1] ** 0.5
                x, y = log_odds(rows.student, self.temperature), log_odds(rows.teacher, self.temperature)
                return x * scale, y * scale
            if self.top_k is not None and rows.mask is None and is_sliced(rows.student, rows.teacher):
                return fold_logits(rows.student, rows.teacher, self.temperature, self.top_k, self.top_k_of)
            x, y = probabilities(rows.student, self.temperature), probabilities(rows.teacher, self.temperature)
            return (x, y) if self.top_k is None else fold(x, y, self.top_k, rows.mask, self.top_k_of)

    def _cost(self, x: Tensor, y: Tensor, rows: Rows) -> Tensor:
        """W (..., n, m), in the type that the transport is solved in."""
        cost = COSTS["l1" if rows.student.shape[-1] == 1 else self.cost]
        dtype = result_type(rows.student, rows.teacher)
        if cost.curved and self.hyperbolic is not None:
            # probability rows are no longer than 1, so float32 suffices after the differences
            short = dtype == torch.float32 and self.representation == "probability"
            c = self.hyperbolic()
            most = self.hyperbolic.largest if isinstance(c, float) or is_static(x) else float(c.detach())
            w = cost.function(x, y, c, 2 * most**0.5 if short else None)
        else:
            w = cost.function(x, y)
        return self._paired(w, rows).to(dtype)

    def _is_sliced(self, rows: Rows) -> bool:
        """Is the cost computed from the logits, a slice of the vocabulary at a time?"""
        whole = self.representation == "probability" and self.top_k is None and not self.debias
        near = self.hyperbolic is not None and self.hyperbolic.largest <= 100
        return whole and near and rows.mask is None and is_sliced(rows.student, rows.teacher)

    def _sliced_cost(self, rows: Rows) -> Tensor:
        assert self.hyperbolic is not None
        with full_precision(rows.student.device):
            w = wide_lorentz(rows.student, rows.teacher, self.temperature, self.hyperbolic())
        return self._paired(w, rows).to(result_type(rows.student, rows.teacher))

    def _paired(self, w: Tensor, rows: Rows) -> Tensor:
        return w + self.pairing * (~self._same(rows)).to(w.dtype) if self.pairing > 0 else w

    def _same(self, rows: Rows) -> Tensor:
        """Which pairs of rows are the same example, (..., n, n)."""
        if rows.ids is not None:
            return rows.ids.unsqueeze(-1) == rows.ids.unsqueeze(-2)
        return torch.eye(rows.student.shape[-2], dtype=torch.bool, device=rows.student.device)

    def _solve(self, cost: Tensor, rows: Rows) -> Transport:
        bounded = self.representation == "probability" and rows.student.shape[-1] > 1
        return sinkhorn(
            cost,
            self.epsilon,
            self.n_iters,
            self.tolerance,
            row_weights=rows.mask,
            col_weights=rows.mask,
            gradient=self.gradient,
            cost_bound=COSTS[self.cost].bound + self.pairing if bounded else None,
        )

    def _matching(self, cost: Tensor, transport: Transport, rows: Rows) -> Tensor:
        """-sum_i log sum_j P_ij over the rows j that are the same example as row i, (...)."""
        f, g = transport.f, transport.g
        if rows.mask is not None:
            f, g = f.masked_fill(~rows.mask, 0.0), g.masked_fill(~rows.mask, 0.0)
        if rows.ids is None:
            log_p = f + g - torch.diagonal(cost, dim1=-2, dim2=-1) / self.epsilon
        else:
            same = self._same(rows)
            if rows.mask is not None:
                same = same & (rows.mask.unsqueeze(-1) == rows.mask.unsqueeze(-2))
            log_plan = f.unsqueeze(-1) + g.unsqueeze(-2) - cost / self.epsilon
            log_p = log_plan.masked_fill(~same, -torch.inf).logsumexp(-1)
        if rows.mask is not None:
            log_p = log_p.masked_fill(~rows.mask, 0.0)
        return -log_p.sum(-1)

    def _reduce(self, value: Tensor, rows: Rows) -> Tensor:
        """Sums over rows (...) to the scalar: per row or not, averaged over the sequences that have a row."""
        if rows.mask is None:
            if self.reduction == "mean":
                value = value / rows.student.shape[-2]
            return value.mean() * self.weight if value.dim() else value * self.weight
        count = rows.mask.sum(-1)
        if self.reduction == "mean":
            value = value / count.clamp_min(1)
        return value.sum() / (count > 0).sum().clamp_min(1) * self.weight

    def _check(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise SinkdError(
                    f"SinkhornLoss: {name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}"
                )
        for name in ("temperature", "epsilon"):
            if not getattr(self, name) > 0:
                raise SinkdError(f"SinkhornLoss: {name} is {getattr(self, name)}; it must be greater than 0")
        for name, least in (("n_iters", 1), ("pairing", 0), ("top_k", 1)):
            if getattr(self, name) is not None and not getattr(self, name) >= least:
                raise SinkdError(f"SinkhornLoss: {name} is {getattr(self, name)}; it must be at least {least}")
        if self.representation != "probability" and (COSTS[self.cost].simplex or self.top_k is not None):
            what = f"cost {self.cost!r}" if COSTS[self.cost].simplex else "top_k"
            raise SinkdError(f"SinkhornLoss: {what} is for probabilities; it needs representation 'probability'")
        if self.value == "matching" and (self.debias or self.gradient == "envelope"):
            what = "debias" if self.debias else "gradient 'envelope'"
            raise SinkdError(f"SinkhornLoss: value 'matching' reads the plan, so {what} has no meaning with it")
