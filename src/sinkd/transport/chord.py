"""The hyperboloid's distance by its chord, for rows of few classes that are not far out: few passes over all pairs.

At c = 1 a row x, of length r, stands for the point X = (sinhc(r) x, cosh r) of Minkowski space, and the square of the
straight line from X to Y in that space says how far they are apart:

    cosh(distance) - 1 = (norm(space_X - space_Y)^2 - (time_X - time_Y)^2) / 2.

Taken from differences nothing of it cancels but the radial part of the first square against the second, cosh(r)^2
times against sinh(r)^2 times, so what is lost is a factor exp(2 r), small up to `REACH`. Nothing per pair is
transcendental but the last logarithm, and on the way back the sum over pairs is one matrix product:

    d distance / dX = (X - Y) / sinh(distance)           (the time's with a minus).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .pairwise import CACHE_LIMIT, joined, reciprocal
from .precision import is_static

REACH = 4.0
"""Up to this sum of both lengths: exp(4) of float32's 6e-8 is below 1e-5."""
# Distances below this are 0, and so are their gradients.
_EQUAL = 1e-12
# Up to this many pairs float64 costs no more than float32: conversions are calls.
_FEW_PAIRS = 2**12


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Distances (..., n, m) at c = 1 of float64 rows x (..., n, d), y (..., m, d) with norm(x_i) + norm(y_j) <= REACH.

    Differences are float64, what follows float32 where there are many pairs. Right to 1e-5 relative, value and
    gradient, unless rows are closer than 1e-10, where float64 rows themselves end; rows closer than 1e-12 are equal.
    Equal rows are at 0, gradient 0.
    """
    return _Chord.apply(x, y)


class _Chord(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        # both sides at once, classes first: (..., d + 1, n + m), over sqrt 2
        rows = torch.cat([x, y], -2)
        r = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        time = torch.cosh(r)
        length = r.clamp_min(1e-100)  # where sinh(r) / r is 1, and not 0 / 0
        sinhc = torch.sinh(length).div_(length)
        points = (torch.cat([rows * sinhc, time], -1) * math.sqrt(0.5)).mT.contiguous()
        n = x.shape[-2]
        own, other = points[..., :n].unsqueeze(-1), points[..., n:].unsqueeze(-2)
        blocks = _row_blocks(x, y)
        if len(blocks) == 1:
            few = not is_static(x) and x.shape[-2] * y.shape[-2] <= _FEW_PAIRS
            above = _above(own, other)
            result, by_sinh = _values(above if few else above.float())
        else:
            # fresh pages cost more than arithmetic here: one place for the results, everything else within the cache
            result, by_sinh = torch.empty(2, *x.shape[:-1], y.shape[-2], device=x.device)
            for i in blocks:
                result[..., i, :], by_sinh[..., i, :] = _values(_above_in_turn(own[..., i, :], other).float())
        ctx.save_for_backward(x, y, points, r, time, sinhc, by_sinh)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_result: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y, points, r, time, sinhc, by_sinh = ctx.saved_tensors
        n = x.shape[-2]
        own, other = points[..., :n], points[..., n:]
        to_x, to_y = [], None
        for i in _row_blocks(x, y):
            weights = (d_result[..., i, :] * by_sinh[..., i, :]).double()
            if ctx.needs_input_grad[0]:
                to_x.append(_pull(weights, own[..., i], other))
            if ctx.needs_input_grad[1]:
                part = _pull(weights.mT, other, own[..., i])
                to_y = part if to_y is None else to_y + part
        dx = dy = None
        if to_x:
            dx = _through_lift(joined(to_x, -1), x, r[..., :n, :], time[..., :n, :], sinhc[..., :n, :])
        if to_y is not None:
            dy = _through_lift(to_y, y, r[..., n:, :], time[..., n:, :], sinhc[..., n:, :])
        return dx, dy


def _row_blocks(x: Tensor, y: Tensor) -> list[slice]:
    """Rows of x whose pairs are taken together; all where that is no matter of caches."""
    n = x.shape[-2]
    if is_static(x):
        return [slice(0, n)]
    step = max(1, CACHE_LIMIT * n // max(1, x[..., 0].numel() * y.shape[-2]))
    return [slice(k, k + step) for k in range(0, n, step)]


def _above(x: Tensor, y: Tensor) -> Tensor:
    """cosh(distance) - 1, (..., n, m), of points x (..., d + 1, n, 1) and y (..., d + 1, 1, m), time last."""
    e = x - y
    e = e * e
    return e[..., :-1, :, :].sum(-3).sub_(e[..., -1, :, :])


def _above_in_turn(x: Tensor, y: Tensor) -> Tensor:
    """As `_above`, holding two numbers a pair: more calls, less memory."""
    *space, time = zip(x.unbind(-3), y.unbind(-3), strict=True)
    e = torch.sub(*time)
    above = torch.mul(e, e).neg_()
    for pair in space:
        torch.sub(*pair, out=e)
        above.addcmul_(e, e)
    return above


def _values(above: Tensor) -> tuple[Tensor, Tensor]:
    """The distance, in place of cosh(distance) - 1, and sqrt 2 / sinh(distance)."""
    half_square = torch.addcmul(above, above, above, value=0.5)  # sinh(distance)^2 / 2
    # what is nearer counts as equal: the sums of `_pull` carry 1e-16 times what is infinite there
    by_sinh = torch.threshold(half_square, _EQUAL**2 / 2, math.inf).rsqrt_()
    # a result made in place has no gradient under torch.compile of PyTorch 2.11
    return above.add_(half_square.mul_(by_sinh), alpha=math.sqrt(2)).log1p(), by_sinh


def _pull(weights: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """sum_j weights_ij (own_i - other_j), (..., d + 1, n), from points (..., d + 1, n) and (..., d + 1, m).

    In float64 the difference of the two sums is as exact as the sum of differences.
    """
    return own * weights.sum(-1).unsqueeze(-2) - torch.matmul(other, weights.mT)


def _through_lift(to_point: Tensor, x: Tensor, r: Tensor, time: Tensor, sinhc: Tensor) -> Tensor:
    """The gradient by rows x (..., n, d) from that by points, (..., d + 1, n): space = sinhc(r) x, time = cosh r."""
    space, to_time = to_point[..., :-1, :].mT, to_point[..., -1, :].unsqueeze(-1)
    inverse = reciprocal(r)
    bend = (space * x).sum(-1, keepdim=True) * ((time - sinhc) * inverse * inverse)  # sinhc'(r) / r
    return space * sinhc + x * (bend - to_time * sinhc)
