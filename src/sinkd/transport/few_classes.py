"""The hyperboloid's distance for short rows of few classes, such as probabilities: few passes over all pairs.

At c = 1 a row x of length r represents the point X = (sinhc(r) x, cosh r) of Minkowski space, sinhc(r) = sinh(r) / r,
and the straight line between two points tells their distance:

    cosh(distance) - 1 = (norm(space_X - space_Y)^2 - (time_X - time_Y)^2) / 2.

The two squares cancel in part, which costs a factor of up to exp(2 r) in precision: little for short rows. Per pair
only one logarithm is transcendental, and the gradient, summed over pairs, is one matrix product:

    d distance / dX = (X - Y) / sinh(distance)           (with a minus for the time).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .pairwise import row_blocks

LONGEST = 2.0
"""Length up to which rows are short."""
# Distances below this count as 0, and so do their gradients.
_EQUAL = 1e-12


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Distances (..., n, m), float32, at c = 1 of float64 rows x (..., n, d) and y (..., m, d) up to LONGEST.

    Value and gradient have a relative error of at most 1e-5, unless rows are nearer than 1e-10. Rows nearer than 1e-12
    count as equal, with distance and gradient 0.
    """
    return _Short.apply(x, y)


class _Short(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        rows = torch.cat([x, y], -2)
        r = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        time = torch.cosh(r)
        length = r.clamp_min(1e-100)  # where sinh(r) / r is 1, not 0 / 0
        sinhc = torch.sinh(length).div_(length)
        # both sides at once, over sqrt 2, coordinates first: (..., d + 1, n + m)
        points = (torch.cat([rows * sinhc, time], -1) * math.sqrt(0.5)).mT.contiguous()
        n = x.shape[-2]
        own, other = points[..., :n].unsqueeze(-1), points[..., n:].unsqueeze(-2)
        blocks = row_blocks(rows[..., :n, :], y)
        if len(blocks) == 1:
            result, by_sinh = _values(own, other)
        else:
            # fresh memory costs more than arithmetic here, so results share one allocation
            result, by_sinh = torch.empty(2, *x.shape[:-1], y.shape[-2], device=x.device)
            for i in blocks:
                result[..., i, :], by_sinh[..., i, :] = _values(own[..., i, :], other)
        ctx.save_for_backward(x, y, points, r, time, sinhc, by_sinh)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_result: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y, points, *lift, by_sinh = ctx.saved_tensors
        n = x.shape[-2]
        own, other = points[..., :n], points[..., n:]
        weights = (d_result * by_sinh).double()
        dx = dy = None
        if ctx.needs_input_grad[0]:
            dx = _through_lift(_pull(weights, own, other), x, *(part[..., :n, :] for part in lift))
        if ctx.needs_input_grad[1]:
            dy = _through_lift(_pull(weights.mT, other, own), y, *(part[..., n:, :] for part in lift))
        return dx, dy


def _values(own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Distance and sqrt 2 / sinh(distance), (..., n, m), of points (..., d + 1, n, 1) and (..., d + 1, 1, m)."""
    e = own - other
    e = e * e
    above = e[..., :-1, :, :].sum(-3).sub_(e[..., -1, :, :]).float()  # cosh(distance) - 1
    half_square = torch.addcmul(above, above, above, value=0.5)  # sinh(distance)^2 / 2
    by_sinh = torch.threshold(half_square, _EQUAL**2 / 2, math.inf).rsqrt_()
    # a result made in place has no gradient under torch.compile of PyTorch 2.11
    return above.add_(half_square.mul_(by_sinh), alpha=math.sqrt(2)).log1p(), by_sinh


def _pull(weights: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """sum_j weights_ij (own_i - other_j), (..., d + 1, n), of points (..., d + 1, n) and (..., d + 1, m)."""
    return own * weights.sum(-1).unsqueeze(-2) - torch.matmul(other, weights.mT)


def _through_lift(to_point: Tensor, x: Tensor, r: Tensor, time: Tensor, sinhc: Tensor) -> Tensor:
    """The gradient with respect to rows x (..., n, d) from that with respect to points, (..., d + 1, n)."""
    space, to_time = to_point[..., :-1, :].mT, to_point[..., -1, :].unsqueeze(-1)
    inverse = r.clamp_min(1e-100).reciprocal()
    bend = (space * x).sum(-1, keepdim=True) * ((time - sinhc) * inverse * inverse)  # sinhc'(r) / r
    return space * sinhc + x * (bend - to_time * sinhc)
