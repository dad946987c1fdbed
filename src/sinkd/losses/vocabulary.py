"""Rows as wide as a vocabulary: compared without writing out their probabilities.

Two ways, for logits (n, V) in eager mode: the union of both sides' top k, with one entry for the rest
(`fold_logits`); and the hyperbolic distance over all of V from Gram matrices (`wide_lorentz`). Both read the logits a
slice at a time, forward and backward, and hold no (n, V) numbers but the gradient that they return. Where rows of the
two sides are well apart float32 tells their difference; where any two come near, and on a GPU, the slices are float64.
On a GPU each way waits for it once: a small price beside what is saved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..transport.matmul import fast_linear
from ..transport.precision import is_static, may_wait
from .logits import check_tops
from .slices import is_wide, spans

APART = 1e-2
"""Above this squared difference, relative to squared lengths, float32 products are right to about 1e-5."""
NEAR = 1e-9
"""Pairs whose squared difference is below this, relative to their squared lengths, are taken from their differences."""


def fold(p: Tensor, q: Tensor, k: int, mask: Tensor | None = None, of: str = "both") -> tuple[Tensor, Tensor]:
    """Keep what is among the k most probable classes of any row of either side; sum the rest into one last class.

    All rows that are transported together need the same classes, so the union is over all of them: per (n, C), or
    per sequence of (B, L, C). The rows still sum to 1.

    Args:
        p, q: (..., n, C) and (..., m, C), probabilities.
        k: entries per row, 1 <= k; k >= C changes nothing.
        mask: (..., n), rows of both sides that count (n = m); the others add nothing to the union.
        of: whose k most probable classes are kept, "both" sides' or the "teacher"'s (q's).

    Returns:
        (..., n, D), (..., m, D). In eager mode on a CPU D is at most the size of the union (over all sequences) + 1;
        else C + 1, with entries of 0 where a class is in the rest, since a width that depends on values
        would synchronise. The costs are the same.
    """
    if k >= p.shape[-1]:
        return p, q
    votes = p.new_zeros(*p.shape[:-2], p.shape[-1])
    for rows in (p.detach(), q.detach()) if of == "both" else (q.detach(),):
        top = rows.topk(k, -1).indices
        counts = (
            torch.ones_like(top, dtype=p.dtype) if mask is None else mask.to(p.dtype).unsqueeze(-1).expand(top.shape)
        )
        votes = votes.scatter_add(-1, top.flatten(-2), counts.flatten(-2))
    keep = (votes > 0).unsqueeze(-2)
    columns = None if is_static(p) else keep.flatten(0, -2).any(0)
    return _split(p, keep, columns), _split(q, keep, columns)


def _split(x: Tensor, keep: Tensor, columns: Tensor | None) -> Tensor:
    kept, rest = torch.where(keep, x, 0.0), torch.where(keep, 0.0, x).sum(-1, keepdim=True)
    return torch.cat([kept if columns is None else kept[..., columns], rest], -1)


def is_sliced(student: Tensor, teacher: Tensor) -> bool:
    """Are these logits rows that should not be written out, and that can be sliced by their values?"""
    flat = student.dim() == 2 and not teacher.requires_grad
    return flat and is_wide(student) and may_wait(student) and may_wait(teacher)


def fold_logits(student: Tensor, teacher: Tensor, temperature: float, k: int, of: str) -> tuple[Tensor, Tensor]:
    """`fold` of the softened logits (n, V) and (m, V), wide ones: (n, D) and (m, D), float64."""
    sides = (student.detach(), teacher) if of == "both" else (teacher,)
    columns = torch.cat([top_k(side, k).flatten() for side in sides]).unique()
    return _Fold.apply(student, temperature, columns), _Fold.apply(teacher, temperature, columns)


def top_k(logits: Tensor, k: int) -> Tensor:
    """Indices of the k largest entries of each row (n, V), largest first: (n, min(k, V)).

    Cut into blocks, a row has its k largest entries in the k blocks with the largest maxima.
    """
    n, width = logits.shape
    k = min(k, width)
    block = max(1, math.isqrt(width // k))
    count = width // block
    if count <= k:
        return logits.topk(k, -1).indices
    body = logits[:, : count * block].unflatten(-1, (count, block))
    blocks = body.amax(-1).topk(k, -1).indices
    places = (blocks.unsqueeze(-1) * block + torch.arange(block, device=logits.device)).flatten(1)
    tail = torch.arange(count * block, width, device=logits.device).expand(n, -1)
    places = torch.cat([places, tail], -1)
    return places.gather(-1, logits.gather(-1, places).topk(k, -1).indices)


class _Fold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, temperature: float, columns: Tensor) -> Tensor:
        total = _log_total(logits, temperature)
        kept = torch.exp(logits[:, columns].double().div_(temperature).sub_(total))
        rest = (1 - kept.sum(-1, keepdim=True)).clamp_min_(0.0)
        result = torch.cat([kept, rest], -1)
        ctx.save_for_backward(logits, total, columns, result)
        ctx.temperature = temperature
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_result: Tensor) -> tuple[Tensor, None, None]:
        logits, total, columns, result = ctx.saved_tensors
        d_result = d_result / ctx.temperature
        slope = d_result - (d_result * result).sum(-1, keepdim=True)
        d_logits = torch.empty_like(logits)
        for i in spans(len(logits), logits.shape[-1], logits.device):
            p = _softened(logits[i], total[i], ctx.temperature, torch.float32)
            torch.mul(p, slope[i, -1:].to(p.dtype), out=p)
            d_logits[i] = p
        d_logits[:, columns] = (result[:, :-1] * slope[:, :-1]).to(logits.dtype)
        return d_logits, None, None


def wide_lorentz(student: Tensor, teacher: Tensor, temperature: float, c: float | Tensor) -> Tensor:
    """`lorentz.distance` of the softened logits (n, V) and (m, V), wide ones: (n, m), float64.

    Raises SinkdError as `check_finite` does, on a CPU: the largest logits are needed anyway.
    """
    square, rise, rx, ry = _Gram.apply(student, teacher, temperature)
    # lengths are at most 1, so everything here is small at curvatures of order 1
    root = c.double().sqrt() if isinstance(c, Tensor) else math.sqrt(c)
    a, b = (rx.sqrt() * root).unsqueeze(-1), (ry.sqrt() * root).unsqueeze(-2)
    dr = rise * root * root / (a + b)
    bend = torch.sinh(a) / a * torch.sinh(b) / b / 4
    z = torch.sinh(dr / 2).square() + bend * (square * root * root - dr.square())
    apart = z > 1e-30
    return torch.where(apart, 2 * torch.asinh(torch.where(apart, z, 1.0).sqrt()), 0.0) / root


class _Gram(torch.autograd.Function):
    """norm(p_i - q_j)^2 and norm(p_i)^2 - norm(q_j)^2, (n, m), norm(p_i)^2 (n,) and norm(q_j)^2 (m,), all float64."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, ...]:
        tops = tuple(side.amax(-1, keepdim=True).double() / temperature for side in (student, teacher))
        if not is_static(student):
            for side, top in zip(("student", "teacher"), tops, strict=True):
                check_tops(side, top)
        # a GPU may round float32 products (TF32), and to look whether rows are near would be one more wait
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
        near = (square < NEAR * lengths).nonzero().unbind(1)
        if len(near[0]):
            square[near], rise[near] = _differences(student, teacher, totals, temperature, near)
        ctx.save_for_backward(student, teacher, *totals, products, rx)
        ctx.temperature, ctx.dtype = temperature, dtype
        return square, rise, rx, ry

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_square: Tensor, d_rise: Tensor, d_rx: Tensor, d_ry: Tensor) -> tuple[Tensor, None, None]:
        student, teacher, *totals, products, rx = ctx.saved_tensors
        # dL/dp_i = own_i p_i - sum_j across_ij q_j, and softmax takes off its mean
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

    tops: each row's largest logit over the temperature. One pass over both sides; sums of slices are float64.
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


def _differences(
    student: Tensor, teacher: Tensor, totals: tuple[Tensor, ...], temperature: float, pairs: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Sums over V of (p - q)^2 and of (p - q)(p + q), for pairs of rows (i, j)."""
    count, device = len(pairs[0]), student.device
    square, rise = (torch.zeros(count, dtype=torch.float64, device=device) for _ in range(2))
    for some in torch.arange(count, device=device).split(len(student)):
        i, j = pairs[0][some], pairs[1][some]
        for k in _column_slices(student, teacher):
            p, q = _slices(student, teacher, totals, temperature, k, torch.float64)
            difference, total = p[i] - q[j], p[i] + q[j]
            square[some] += difference.square().sum(-1)
            rise[some] += total.mul_(difference).sum(-1)
    return square, rise


def _log_total(logits: Tensor, temperature: float) -> Tensor:
    """logsumexp of logits / temperature, (n, 1) float64: from float32 powers of what is below each row's largest."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    parts = []
    for i in spans(len(logits), logits.shape[-1], logits.device):
        rows = logits[i].to(dtype)
        top = rows.amax(-1, keepdim=True)
        total = (rows - top).div_(temperature).exp_().sum(-1, keepdim=True, dtype=torch.float64)
        parts.append(top.double() / temperature + total.log())
    return torch.cat(parts)


def _softened(logits: Tensor, total: Tensor, temperature: float, dtype: torch.dtype) -> Tensor:
    """exp(logits / temperature - total), a new tensor of that type."""
    if dtype == torch.float64:
        return logits.double().div(temperature).sub_(total).exp_()  # .double() of float64 is the caller's own
    return torch.add(total.to(dtype).neg(), logits.to(dtype), alpha=1 / temperature).exp_()


def _slices(
    student: Tensor, teacher: Tensor, totals: Sequence[Tensor], temperature: float, k: slice, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    p, q = (
        _softened(side[:, k], total, temperature, dtype) for side, total in zip((student, teacher), totals, strict=True)
    )
    return p, q


def _column_slices(student: Tensor, teacher: Tensor) -> list[slice]:
    return spans(student.shape[-1], max(len(student), len(teacher)), student.device)
