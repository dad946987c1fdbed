"""Ground costs: what it costs to turn one row into another. One function each, and `COSTS`, their names.

Every cost takes rows x (..., n, d) and y (..., m, d) and gives all pairs, (..., n, m), float32 (float64 if
a side is). They compute in float64, from differences: on softmax rows of nearly equal logits float32 differences
are mostly rounding. A new cost is one function and one line in `COSTS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import SinkdError
from . import lorentz as hyperboloid
from .pairwise import pull, slices, squares
from .precision import full_precision, result_type


def l1(x: Tensor, y: Tensor) -> Tensor:
    """Sum of absolute differences, sum_c |x_ic - y_jc| (the cost of SinKD); never holds n m d numbers.

    x (..., n, d), y (..., m, d) -> (..., n, m) in [0, 2] for probabilities. The gradient of |t| at 0 is 0.
    """
    return _pairs(_L1.apply, x, y)


def l2(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distance; exact for near rows, gradient 0 for equal ones.

    x (..., n, d), y (..., m, d) -> (..., n, m) in [0, sqrt 2] for probabilities.
    """
    return _pairs(_Euclidean.apply, x, y)


def sqeuclidean(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distance, from differences rather than expanded.

    x (..., n, d), y (..., m, d) -> (..., n, m) in [0, 2] for probabilities.
    """
    return _pairs(_SquaredEuclidean.apply, x, y)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """1 - cosine of the angle between rows; a row of length 0 is at 1 from every row.

    x (..., n, d), y (..., m, d) -> (..., n, m) in [0, 2], in [0, 1] for probabilities.
    """
    return _pairs(lambda x, y: 1 - _unit(x) @ _unit(y).mT, x, y)


def hellinger(x: Tensor, y: Tensor) -> Tensor:
    """Hellinger distance norm(sqrt x - sqrt y) / sqrt 2 of probability rows.

    x (..., n, d), y (..., m, d), entries >= 0 -> (..., n, m) in [0, 1].
    """
    return _pairs(lambda x, y: _Euclidean.apply(_root(x), _root(y)) / math.sqrt(2), x, y)


def fisher_rao(x: Tensor, y: Tensor) -> Tensor:
    """Fisher-Rao distance 2 arccos(sum_c sqrt(x_ic y_jc)) of probability rows: the geodesic of the simplex.

    Computed as 4 arcsin(norm(sqrt x - sqrt y) / 2), which is exact near 0 where arccos is not.
    x (..., n, d), y (..., m, d), entries >= 0, rows summing to 1 -> (..., n, m) in [0, pi].
    """
    return _pairs(lambda x, y: 4 * torch.asin((_Euclidean.apply(_root(x), _root(y)) / 2).clamp_max(1.0)), x, y)


def lorentz(x: Tensor, y: Tensor, c: float | Tensor = 1.0, reach: float | None = None) -> Tensor:
    """Distance of the rows lifted to the hyperboloid of curvature -c: `lorentz.distance`, which explains `reach`.

    x (..., n, d), y (..., m, d) -> (..., n, m), at most norm(x_i) + norm(y_j), so in [0, 2] for probabilities.
    """
    return hyperboloid.distance(x, y, c, reach)


def poincare(x: Tensor, y: Tensor, c: float | Tensor = 1.0, reach: float | None = None) -> Tensor:
    """Distance in the Poincare ball of curvature -c between the points tanh(sqrt(c) r / 2) v / (sqrt(c) r).

    The ball is the hyperboloid seen from (time = -1 / sqrt c, space = 0), and its points are where the same tangent
    rows lead: the distance is `lorentz` itself, in the form that loses nothing at the ball's rim.
    x (..., n, d), y (..., m, d) -> (..., n, m), at most norm(x_i) + norm(y_j).
    """
    return hyperboloid.distance(x, y, c, reach)


@dataclass(frozen=True)
class Cost:
    """A ground cost and what its users must know of it.

    Attributes:
        function: (x, y) -> (..., n, m), or (x, y, c, reach) where `curved`.
        bound: the largest cost of two probability rows, whatever the curvature.
        curved: whether it takes a curvature.
        simplex: whether it is for probability rows only (no log-odds, no plain vectors).
    """

    function: Callable[..., Tensor]
    bound: float
    curved: bool = False
    simplex: bool = False


COSTS: dict[str, Cost] = {
    "l1": Cost(l1, 2.0),
    "l2": Cost(l2, math.sqrt(2)),
    "sqeuclidean": Cost(sqeuclidean, 2.0),
    "cosine": Cost(cosine, 1.0),
    "fisher_rao": Cost(fisher_rao, math.pi, simplex=True),
    "hellinger": Cost(hellinger, 1.0, simplex=True),
    "lorentz": Cost(lorentz, 2.0, curved=True),
    "poincare": Cost(poincare, 2.0, curved=True),
}


def _pairs(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    if x.dim() < 2 or x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]:
        raise SinkdError(
            f"cost: rows of shapes {tuple(x.shape)} and {tuple(y.shape)} do not pair; "
            "expected (..., n, d) and (..., m, d)"
        )
    with full_precision(x.device):
        return function(x.double(), y.double()).to(result_type(x, y))


def _unit(x: Tensor) -> Tensor:
    square = (x * x).sum(-1, keepdim=True)
    return x * torch.where(square == 0, 1.0, square).rsqrt()


def _root(p: Tensor) -> Tensor:
    # an impossible class (p = 0) gets gradient 0, as softmax makes of any finite one; the plain root gives 0 * inf
    positive = p > 0
    return torch.where(positive, torch.where(positive, p, 1.0).sqrt(), 0.0)


class _SquaredEuclidean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        square = squares(x, y)
        ctx.save_for_backward(x, y, square)
        return square

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_square: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y, square = ctx.saved_tensors
        return _pull_both(ctx, 2 * d_square, square, x, y)


class _Euclidean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        square = squares(x, y)
        ctx.save_for_backward(x, y, square)
        return square.sqrt()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_norm: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y, square = ctx.saved_tensors
        return _pull_both(ctx, torch.where(square == 0, 0.0, d_norm / square.sqrt()), square, x, y)


def _pull_both(ctx: Any, weights: Tensor, square: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """sum_j w_ij (x_i - y_j) for x and sum_i w_ij (y_j - x_i) for y, where they are asked for."""
    to_x, to_y = (weights if asked else None for asked in ctx.needs_input_grad)
    return pull(to_x, to_y, square, x, y)


class _L1(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return (_l1_op if torch.compiler.is_compiling() else _l1)(x, y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_cost: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        pull_l1 = _l1_pull_op if torch.compiler.is_compiling() else _l1_pull
        dx = pull_l1(d_cost, x, y) if ctx.needs_input_grad[0] else None
        dy = pull_l1(d_cost.mT, y, x) if ctx.needs_input_grad[1] else None
        return dx, dy


def _l1(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, p=1.0)  # PyTorch's own kernel holds no n m d numbers


def _l1_pull(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """sum_j weights_ij sign(x_i - y_j), (..., n, d)."""
    if x.device.type == "cpu":  # elsewhere PyTorch's reverse pass holds n m d numbers
        weights = weights.contiguous()
        return torch.ops.aten._cdist_backward(weights, x, y, 1.0, weights)
    result = torch.empty_like(x)
    for k in slices(x, y):
        signs = (x[..., k].unsqueeze(-2) - y[..., k].unsqueeze(-3)).sign_()
        result[..., k] = signs.mul_(weights.unsqueeze(-1)).sum(-2)
    return result


# Opaque to torch.compile, so that slices of a vocabulary do not unroll.
_l1_op = torch.library.custom_op("sinkd::l1", _l1, mutates_args=())
_l1_op.register_fake(lambda x, y: x.new_empty(*x.shape[:-1], y.shape[-2]))
_l1_pull_op = torch.library.custom_op("sinkd::l1_pull", _l1_pull, mutates_args=())
_l1_pull_op.register_fake(lambda weights, x, y: torch.empty_like(x))
