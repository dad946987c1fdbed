"""Ground costs: the cost of turning one row into another. One function each; `COSTS` names them.

Every cost takes rows x (..., n, d) and y (..., m, d) and returns all pairs, (..., n, m), in float32 (float64 if a side
is). Costs compute in float64 and from differences: between softmax rows of nearly equal logits a float32 difference is
mostly rounding. To add a cost, write one function and add one line to `COSTS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import lorentz
from .pairwise import DEVICE_LIMIT, check_rows, squares
from .precision import full_precision, result_type


def l1(x: Tensor, y: Tensor) -> Tensor:
    """Sum of absolute differences, sum_c |x_ic - y_jc| (the cost of SinKD), without n m d numbers in memory.

    x (..., n, d), y (..., m, d) -> (..., n, m), in [0, 2] for probabilities. The gradient of |t| at 0 is 0.
    """
    return _pairs(_L1.apply, x, y)


def l2(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distance, with gradient 0 between equal rows.

    x (..., n, d), y (..., m, d) -> (..., n, m), in [0, sqrt 2] for probabilities.
    """
    return _pairs(lambda x, y: _root(squares(x, y)), x, y)


def sqeuclidean(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distance.

    x (..., n, d), y (..., m, d) -> (..., n, m), in [0, 2] for probabilities.
    """
    return _pairs(squares, x, y)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """1 - cosine of the angle between rows; a row of length 0 has cost 1 to every row.

    x (..., n, d), y (..., m, d) -> (..., n, m) in [0, 2], in [0, 1] for probabilities.
    """
    return _pairs(lambda x, y: 1 - _unit(x) @ _unit(y).mT, x, y)


def hellinger(x: Tensor, y: Tensor) -> Tensor:
    """Hellinger distance norm(sqrt x - sqrt y) / sqrt 2 of probability rows.

    x (..., n, d), y (..., m, d), entries >= 0 -> (..., n, m) in [0, 1].
    """
    return _pairs(lambda x, y: _root(squares(_root(x), _root(y)) / 2), x, y)


def fisher_rao(x: Tensor, y: Tensor) -> Tensor:
    """Fisher-Rao distance 2 arccos(sum_c sqrt(x_ic y_jc)) of probability rows, the geodesic distance of the simplex.

    Computed as 4 arcsin(norm(sqrt x - sqrt y) / 2), which stays exact near 0, where arccos does not.
    x (..., n, d), y (..., m, d), entries >= 0, rows summing to 1 -> (..., n, m) in [0, pi].
    """
    return _pairs(lambda x, y: 4 * torch.asin((_root(squares(_root(x), _root(y))) / 2).clamp_max(1.0)), x, y)


@dataclass(frozen=True)
class Cost:
    """A ground cost and its properties.

    Attributes:
        function: (x, y) -> (..., n, m), or (x, y, c, simplex) if `curved`.
        bound: the largest cost of two probability rows, for any curvature.
        curved: True if it takes a curvature.
        simplex: True if it is for probability rows only (no log-odds, no plain vectors).
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
    "lorentz": Cost(lorentz.distance, 2.0, curved=True),
}
COSTS["poincare"] = COSTS["lorentz"]  # the same geometry in other coordinates


def _pairs(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    check_rows(x, y, "cost")
    with full_precision(x.device):
        return function(x.double(), y.double()).to(result_type(x, y))


def _unit(x: Tensor) -> Tensor:
    square = (x * x).sum(-1, keepdim=True)
    return x * torch.where(square == 0, 1.0, square).rsqrt()


def _root(x: Tensor) -> Tensor:
    """sqrt x with gradient 0 at 0: for equal rows, and for impossible classes, where softmax would make inf NaN."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


class _L1(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return torch.cdist(x, y, p=1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_cost: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        pull = _l1_pull_op if torch.compiler.is_compiling() else l1_pull
        dx = pull(d_cost, x, y) if ctx.needs_input_grad[0] else None
        dy = pull(d_cost.mT, y, x) if ctx.needs_input_grad[1] else None
        return dx, dy


def l1_pull(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """sum_j weights_ij sign(x_i - y_j), (..., n, d), for weights (..., n, m)."""
    if x.device.type == "cpu":
        weights = weights.contiguous()
        return torch.ops.aten._cdist_backward(weights, x, y, 1.0, weights)
    result = torch.empty_like(x)  # on an accelerator PyTorch's reverse pass would hold n m d numbers
    step = max(1, DEVICE_LIMIT // max(1, weights.numel()))
    for k in range(0, x.shape[-1], step):
        signs = (x[..., k : k + step].unsqueeze(-2) - y[..., k : k + step].unsqueeze(-3)).sign_()
        result[..., k : k + step] = signs.mul_(weights.unsqueeze(-1)).sum(-2)
    return result


# Opaque to torch.compile, which would unroll the slices.
_l1_pull_op = torch.library.custom_op("sinkd::l1_pull", l1_pull, mutates_args=())
_l1_pull_op.register_fake(lambda weights, x, y: torch.empty_like(x))
