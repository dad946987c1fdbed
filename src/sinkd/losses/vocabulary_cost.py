"""Ground costs between rows as wide as a vocabulary, computed from their logits, in eager mode.

Softened probabilities of a vocabulary take much memory, and float64 copies of them much time. float32 is enough for
rows that are far apart; near pairs are computed in float64 from their differences. Finding the near pairs synchronises
a GPU once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..transport.cost import l1, l1_pull
from ..transport.lorentz import polar_distance
from ..transport.matmul import fast_linear
from ..transport.precision import is_static
from .chunked import spans
from .top_k_union import softened

APART = 1e-2
"""Squared distance, relative to squared lengths, above which float32 products are right to about 1e-5."""
NEAR = 1e-9
"""Squared distance, relative to squared lengths, below which float64 products are replaced by differences."""
EQUAL = 1e-24
"""Squared distance, relative to squared lengths, below which rows count as equal."""
NEAR_L1 = 0.2
"""Sum of absolute differences below which float32 gets too many signs wrong."""
MINIMA = 2**21, 512
"""Numbers held at once for `wide_l1`, and classes among them: 8 MB of float32."""


def wide_lorentz(student: Tensor, teacher: Tensor, temperature: float, c: float | Tensor) -> Tensor:
    """`lorentz.distance` of the softened logits (n, V) and (m, V): (n, m), float64."""
    square, rise, rx, ry = _Gram.apply(student, teacher, temperature)
    rx, ry = rx.sqrt(), ry.sqrt()
    root = c.double().sqrt() if isinstance(c, Tensor) else math.sqrt(c)
    rise = rise / (rx.unsqueeze(-1) + ry)
    angle = (square - rise * rise) / (rx.unsqueeze(-1) * ry)
    return polar_distance(rx * root, ry * root, rise * root, angle) / root


class _Gram(torch.autograd.Function):
    """norm(p_i - q_j)^2 and norm(p_i)^2 - norm(q_j)^2, (n, m), norm(p_i)^2 (n,) and norm(q_j)^2 (m,), all float64."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, ...]:
        tops = tuple(side.amax(-1, keepdim=True).double() / temperature for side in (student, teacher))
        # a GPU may round float32 products (TF32), and checking for near rows would synchronise once more
        single = student.device.type == "cpu" and torch.float64 not in (student.dtype, teacher.dtype)
        dtype = torch.float32 if single else torch.float64
        products, rx, ry, totals = _products(student, teacher, tops, temperature, dtype)
        lengths = rx.unsqueeze(-1) + ry
        if single and bool((lengths - 2 * products < APART * lengths).any()):
            dtype = torch.float64
            products, rx, ry, totals = _products(student, teacher, tops, temperature, dtype)
            lengths = rx.unsqueeze(-1) + ry
        square = lengths.sub(products, alpha=2)
        rise = rx.unsqueeze(-1) - ry
        for i, j, p, q in _near_pairs(student, teacher, temperature, (square < NEAR * lengths).nonzero()):
            difference = p - q
            rise[i, j] = p.add_(q).mul_(difference).sum(-1)
            square[i, j] = difference.square_().sum(-1)
        # Rows that are equal to within float64's digits: `backward` would divide rounding errors by their distance.
        equal = square < EQUAL * lengths
        square.masked_fill_(equal, 0.0)
        rise.masked_fill_(equal, 0.0)
        ctx.save_for_backward(student, teacher, *totals, products, rx)
        ctx.temperature, ctx.dtype = temperature, dtype
        return square, rise, rx, ry

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_square: Tensor, d_rise: Tensor, d_rx: Tensor, d_ry: Tensor) -> tuple[Tensor, None, None]:
        student, teacher, *totals, products, rx = ctx.saved_tensors
        # dL/dp_i = own_i p_i - sum_j across_ij q_j; softmax subtracts its mean
        own = 2 * (d_square.sum(-1) + d_rise.sum(-1) + d_rx).unsqueeze(-1)
        across = 2 * d_square
        mean = own * rx.unsqueeze(-1) - (across * products).sum(-1, keepdim=True)
        own, mean, across = (each.div(ctx.temperature).to(ctx.dtype) for each in (own, mean, across))
        d_student = torch.empty_like(student)
        for k in _column_slices(student, teacher):
            p, q = _slices(student, teacher, totals, ctx.temperature, k, ctx.dtype)
            d_student[:, k] = (p * own).sub_(mean).sub_(fast_linear(across, q.mT)).mul_(p)
        return d_student, None, None


def _products(
    student: Tensor, teacher: Tensor, tops: Sequence[Tensor], temperature: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Inner products of all pairs of rows, squared lengths of either side's, and both sides' logsumexp (n, 1).

    One pass over both sides; sums of slices are float64.

    Args:
        tops: each row's largest logit over the temperature.
    """
    products = student.new_zeros(len(student), len(teacher), dtype=torch.float64)
    rx, ry = products.new_zeros(len(student)), products.new_zeros(len(teacher))
    sums = products.new_zeros(len(student)), products.new_zeros(len(teacher))
    for k in _column_slices(student, teacher):
        p, q = _slices(student, teacher, tops, temperature, k, dtype)
        products += fast_linear(p, q)
        for side, square, total in ((p, rx, sums[0]), (q, ry, sums[1])):
            square += torch.linalg.vector_norm(side, dim=-1).double().square()
            total += side.sum(-1)
    totals = tops[0] + sums[0].log().unsqueeze(-1), tops[1] + sums[1].log().unsqueeze(-1)
    products /= sums[0].unsqueeze(-1) * sums[1]
    return products, rx / sums[0].square(), ry / sums[1].square(), totals


def wide_l1(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`l1` of the softened logits (n, V) and (m, V): (n, m), float64; on an accelerator `l1` itself."""
    if is_static(student):
        return l1(*(torch.softmax(side.double() / temperature, -1) for side in (student, teacher)))
    return _L1.apply(student, teacher, temperature)


class _L1(torch.autograd.Function):
    """Since rows sum to 1, sum_c |p_c - q_c| = sum_c p_c + sum_c q_c - 2 sum_c min(p_c, q_c)."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        sides = student, teacher
        near = student.new_empty(0, 2, dtype=torch.long)
        single = torch.float64 not in (student.dtype, teacher.dtype)
        p, q = (torch.softmax((side.float() if single else side) / temperature, -1) for side in sides)
        if single:
            cost = p.sum(-1, dtype=torch.float64).unsqueeze(-1) + q.sum(-1, dtype=torch.float64)
            cost.sub_(_minima(p, q), alpha=2)
            near = (cost < NEAR_L1).nonzero()
        if not single or len(near) > cost.numel() // 8:
            p, q = (torch.softmax(side.double() / temperature, -1) for side in sides)
            near, cost = near[:0], torch.cdist(p, q, p=1.0)
        for i, j, p_near, q_near in _near_pairs(student, teacher, temperature, near):
            cost[i, j] = p_near.sub_(q_near).abs_().sum(-1)
        ctx.save_for_backward(student, teacher, p, q, near)
        ctx.temperature = temperature
        return cost

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_cost: Tensor) -> tuple[Tensor, None, None]:
        student, teacher, p, q, near = ctx.saved_tensors
        weights = d_cost / ctx.temperature
        far = weights.to(p.dtype).index_put((near[:, 0], near[:, 1]), p.new_zeros(()))
        d_p = l1_pull(far, p, q)
        for i, j, p_near, q_near in _near_pairs(student, teacher, ctx.temperature, near):
            signs = p_near.sub_(q_near).sign_().mul_(weights[i, j].unsqueeze(-1))
            d_p.index_add_(0, i, signs.to(d_p.dtype))
        return torch._softmax_backward_data(d_p, p, -1, p.dtype).to(student.dtype), None, None


def _minima(p: Tensor, q: Tensor) -> Tensor:
    """sum_c min(p_ic, q_jc), (n, m) float64, holding MINIMA numbers at once."""
    (limit, columns), width = MINIMA, p.shape[-1]
    rows = max(1, limit // (columns * max(1, len(q))))
    buffer = p.new_empty(min(rows, len(p)), len(q), columns)
    total = p.new_zeros(len(p), len(q), dtype=torch.float64)
    for i in range(0, len(p), rows):
        for k in range(0, width, columns):
            part, other = p[i : i + rows, None, k : k + columns], q[None, :, k : k + columns]
            least = torch.minimum(part, other, out=buffer[: part.shape[0], :, : part.shape[-1]])
            total[i : i + rows] += least.sum(-1)
    return total


def _near_pairs(
    student: Tensor, teacher: Tensor, temperature: float, near: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Indices i, j of near pairs (k, 2) and their softened rows in float64, in chunks."""
    for some in spans(len(near), student.shape[-1], student.device):
        i, j = near[some].unbind(-1)
        p, q = (torch.softmax(side.double() / temperature, -1) for side in (student[i], teacher[j]))
        yield i, j, p, q


def _slices(
    student: Tensor, teacher: Tensor, totals: Sequence[Tensor], temperature: float, k: slice, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    p, q = (
        softened(side[:, k], total, temperature, dtype) for side, total in zip((student, teacher), totals, strict=True)
    )
    return p, q


WIDE_COSTS: dict[str, Callable[..., Tensor]] = {"l1": wide_l1, "lorentz": wide_lorentz, "poincare": wide_lorentz}
"""By name of the ground cost: functions of student logits (n, V), teacher logits (m, V), temperature, curvature."""


def _column_slices(student: Tensor, teacher: Tensor) -> list[slice]:
    return spans(student.shape[-1], max(len(student), len(teacher)), student.device)
