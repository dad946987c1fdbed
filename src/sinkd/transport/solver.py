"""Entropic optimal transport: `sinkhorn(cost, ...) -> Transport`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import SinkdError
from . import iteration
from .backend import BACKENDS, Backend, use_triton
from .iteration import Weights
from .precision import full_precision, is_static, result_type

Gradient = Literal["unroll", "implicit", "envelope"]
GRADIENTS: tuple[str, ...] = get_args(Gradient)


@dataclass(frozen=True)
class Transport:
    """A solved transport problem.

    Attributes:
        plan: (..., n, m), mass moved from row i to column j. Columns sum to their weights exactly, rows nearly.
        distance: (...), sum of plan times cost (without the entropy).
        f, g: (..., n) and (..., m), log-scalings: plan = exp(f_i + g_j - cost_ij / epsilon).
        n_iters: number of iterations done; a tensor (...) where a kernel stopped each problem at the tolerance.
        row_weights: (..., n) or a number, the mass that each row should have.
    """

    plan: Tensor
    distance: Tensor
    f: Tensor
    g: Tensor
    n_iters: int | Tensor
    row_weights: Weights = 1.0

    def marginal_error(self) -> Tensor:
        """Sum of |row sum - weight| over the sum of weights, (...), without gradient.

        For uniform weights this is the mean relative row error (0.03: rows are 3 % off on average).
        """
        return iteration.row_error(self.plan.detach().sum(-1), self.row_weights)


def sinkhorn(
    cost: Tensor,
    epsilon: float = 0.1,
    n_iters: int = 20,
    tolerance: float | None = None,
    row_weights: Tensor | None = None,
    col_weights: Tensor | None = None,
    gradient: Gradient = "unroll",
    cost_bound: float | None = None,
    backend: Backend = "auto",
) -> Transport:
    """Move rows onto columns at least cost, blurred by entropy (Cuturi, NeurIPS 2013; as in SinKD, 2024).

        minimise  sum_ij P_ij cost_ij + epsilon sum_ij P_ij (log P_ij - 1)
        over plans P >= 0 whose rows sum to row_weights and whose columns sum to col_weights,

    by dividing K = exp(-cost / epsilon) by its row sums, then by its column sums, `n_iters` times.

    Args:
        cost: (..., n, m), any floating type. Results are float32 (float64 if the cost is). Small costs are solved in
            that type, without TF32 or autocast; larger ones by logarithms in float64.
        epsilon: weight of the entropy, in units of the cost, > 0.
        n_iters: iterations, >= 1; with a tolerance the maximum.
        tolerance: stop once `marginal_error()` of every batch entry is at most this (give enough `n_iters`). In PyTorch
            it reads values, so it works in eager mode only and synchronises a GPU; a kernel stops each entry by itself.
        row_weights: (..., n), masses >= 0, default 1 each. A row of weight 0 takes no part.
        col_weights: (..., m), masses >= 0 with the same total, default (sum of row masses) / m each.
        gradient: "unroll" differentiates the iterations, storing only their potentials; "implicit" the fixed point
            that they approach; "envelope" holds the plan fixed (d distance / d cost = plan), a cheap approximation.
        cost_bound: a known bound of |cost|, if any. Up to cost_bound / epsilon = 40 the solver multiplies instead of
            adding logarithms, and with a bound it need not read values to decide. On a CPU in eager mode the solver
            computes the bound.
        backend: "auto" solves problems of up to 512 x 512 on a GPU by a Triton kernel, in one launch (and one for the
            gradient), if Triton is installed; "torch" and "triton" force either.

    Returns:
        Transport with plan, distance, f, g, all differentiable with respect to `cost` (not to the weights).

    Raises:
        SinkdError: for a cost that is not a matrix, numbers out of range, weights that do not fit the cost, or a
            tolerance under torch.compile; in eager mode on a CPU for negative masses or different totals.

    >>> cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> sinkhorn(cost, epsilon=0.5).plan.sum(0)
    tensor([1., 1.])
    """
    _check(cost, epsilon, n_iters, tolerance, gradient, backend)
    by_kernel = cost.numel() > 0 and use_triton(cost, backend, *cost.shape[-2:])
    if tolerance is not None and not by_kernel and torch.compiler.is_compiling():
        raise SinkdError("sinkhorn: tolerance looks at values and cannot be compiled; give n_iters alone")
    dtype = result_type(cost)
    a, b = _weights(cost, row_weights, col_weights, dtype)
    with full_precision(cost.device):
        cost = cost.to(dtype)
        if 0 in cost.shape:
            plan = cost.clone()
            return Transport(plan, plan.sum((-2, -1)), plan.sum(-1), plan.sum(-2), 0, a)
        if cost_bound is None and not is_static(cost):
            cost_bound = float(cost.detach().abs().max())
        limit, scale = iteration.PRODUCT_LIMIT, None
        if any(w is not None and w.dtype != torch.bool for w in (row_weights, col_weights)):
            limit -= 10  # squares of scalings must not overflow: room for masses that differ, and none above 1
            if isinstance(a, Tensor):
                most = a.amax(-1, keepdim=True)
                scale = torch.where(most > 0, most, 1.0)
        use_products = cost_bound is not None and cost_bound <= limit * epsilon
        # float32 holds cost / epsilon to 1e-7 of itself, which is too little where it is large
        solved = cost if use_products else cost.double()
        masses = _scaled(a, scale, solved), _scaled(b, scale, solved)
        if by_kernel:
            from .triton import solve_batch  # imports Triton

            plan, distance, f, g, done = solve_batch(solved, epsilon, n_iters, tolerance, *masses, gradient)
        else:
            plan, distance, f, g, done = _Solve.apply(
                solved, epsilon, n_iters, tolerance, *masses, gradient, use_products
            )
        if scale is not None:
            plan, distance, f = plan * scale.unsqueeze(-1), distance * scale.squeeze(-1), f + scale.log()
        plan, distance, f, g = (result.to(dtype) for result in (plan, distance, f, g))
    return Transport(plan, distance, f, g, n_iters if tolerance is None else done, a)


class _Solve(torch.autograd.Function):
    """cost (..., n, m) -> plan, distance, f, g, iterations done."""

    @staticmethod
    def forward(
        ctx: Any,
        cost: Tensor,
        epsilon: float,
        n_iters: int,
        tolerance: float | None,
        a: Weights,
        b: Weights,
        gradient: str,
        use_products: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        kernel = cost * (-1.0 / epsilon)
        if use_products:
            steps = iteration.products(kernel.exp_(), a, b, n_iters, tolerance)
            plan = _plan(steps)
            f, g = steps.rows[-1].log(), steps.cols[-1].log()
        else:
            steps = iteration.logs(kernel, a, b, n_iters, tolerance)
            f, g = steps.rows[-1].clone(), steps.cols[-1].clone()
            plan = (kernel + f.unsqueeze(-1)).add_(g.unsqueeze(-2)).exp_()
        paid = plan * cost
        distance = paid.sum((-2, -1))
        ctx.set_materialize_grads(False)  # most uses need only the distance
        unrolled = gradient == "unroll"
        # store the scalings rather than the plan, which can be recomputed from them
        ctx.save_for_backward(
            None if unrolled and use_products else plan,
            paid if gradient != "envelope" else None,
            *(steps if unrolled else (None, None, None)),
            *(w if isinstance(w, Tensor) else None for w in (a, b)),
        )
        ctx.batch, ctx.epsilon, ctx.gradient, ctx.use_products = cost.shape[:-2], epsilon, gradient, use_products
        ctx.numbers = [None if isinstance(w, Tensor) else w for w in (a, b)]
        return plan, distance, f, g, steps.rows.shape[0]

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_plan: Tensor | None, d_distance: Tensor | None, df: Tensor | None, dg: Tensor | None, _: None
    ) -> tuple:
        plan, paid, kernel, us, vs, *weights = ctx.saved_tensors
        if d_distance is None:
            d_distance = (paid if plan is None else plan).new_zeros(()).expand(ctx.batch)
        each = d_distance.unsqueeze(-1).unsqueeze(-1)
        if ctx.gradient == "envelope":
            return plan * each, *(None,) * 7
        if ctx.gradient == "implicit":
            with full_precision(paid.device):
                return iteration.implicit_reverse(plan, paid, ctx.epsilon, d_plan, each, df, dg), *(None,) * 7
        steps = iteration.Steps(kernel, us, vs)
        a, b = (number if weight is None else weight for number, weight in zip(ctx.numbers, weights, strict=True))
        with full_precision(paid.device):
            moved = _plan(steps) if plan is None and d_plan is not None else plan
            d_log_plan, rows, cols = iteration.log_derivatives(moved, paid, d_plan, each, df, dg)
            if plan is None:
                d_kernel = iteration.products_reverse(steps, a, b, rows, cols, -ctx.epsilon * d_distance)
            else:
                d_kernel = iteration.logs_reverse(steps, a, b, rows, cols)
                d_kernel.addcmul_(plan, each, value=-ctx.epsilon)
        return d_kernel.add_(d_log_plan).mul_(-1 / ctx.epsilon), *(None,) * 7


def _plan(steps: iteration.Steps) -> Tensor:
    """u K v of the product form."""
    return (steps.kernel * steps.rows[-1].unsqueeze(-1)).mul_(steps.cols[-1].unsqueeze(-2))


def _scaled(weights: Weights, scale: Tensor | None, like: Tensor) -> Weights:
    if not isinstance(weights, Tensor):
        return weights
    return weights.to(like.dtype) if scale is None else weights.to(like.dtype) / scale


def _check(cost: Tensor, epsilon: float, n_iters: int, tolerance: float | None, gradient: str, backend: str) -> None:
    if cost.dim() < 2:
        raise SinkdError(f"sinkhorn: cost has shape {tuple(cost.shape)}; it must be (..., n, m)")
    if not 0 < epsilon < math.inf:
        raise SinkdError(f"sinkhorn: epsilon is {epsilon}; it must be a number greater than 0")
    if n_iters < 1:
        raise SinkdError(f"sinkhorn: n_iters is {n_iters}; it must be at least 1")
    for name, value, allowed in (("gradient", gradient, GRADIENTS), ("backend", backend, BACKENDS)):
        if value not in allowed:
            raise SinkdError(f"sinkhorn: {name} is {value!r}; it must be one of {', '.join(allowed)}")
    if tolerance is not None and not tolerance > 0:
        raise SinkdError(f"sinkhorn: tolerance is {tolerance}; it must be greater than 0, or None")


def _weights(cost: Tensor, rows: Tensor | None, cols: Tensor | None, dtype: torch.dtype) -> tuple[Weights, Weights]:
    """Row and column masses: numbers if all are equal, else tensors of the cost's batch shape."""
    n, m = cost.shape[-2:]
    for name, weights, size in (("row_weights", rows, n), ("col_weights", cols, m)):
        if weights is None:
            continue
        shape = (*cost.shape[:-2], size)
        if weights.dim() == 0 or weights.shape[-1] != size or weights.dim() > len(shape):
            raise SinkdError(
                f"sinkhorn: {name} has shape {tuple(weights.shape)} and cost {tuple(cost.shape)}; expected {shape}"
            )
        if not is_static(cost) and not bool((weights >= 0).all()):
            raise SinkdError(f"sinkhorn: {name} hold a mass of {float(weights.min())}; masses must be 0 or more")
    if rows is None and cols is None:
        return 1.0, n / m if m else 1.0
    a: Weights = 1.0
    if rows is not None:
        a = rows.detach().to(dtype).expand(*cost.shape[:-2], n)
    if cols is not None:
        b = cols.detach().to(dtype).expand(*cost.shape[:-2], m)
        if not is_static(cost):
            _need_equal_totals(a, b, n)
        return a, b
    assert isinstance(a, Tensor)
    return a, (a.sum(-1, keepdim=True) / m).expand(*cost.shape[:-2], m)


def _need_equal_totals(a: Weights, b: Tensor, n: int) -> None:
    rows = a.double().sum(-1) if isinstance(a, Tensor) else torch.tensor(a * n, dtype=torch.float64)
    cols = b.double().sum(-1)
    apart = (rows - cols).abs() > 1e-3 * cols
    if bool(apart.any()):
        at = int(apart.flatten().int().argmax())
        totals = f"{float(rows.expand_as(cols).flatten()[at]):g} in rows and {float(cols.flatten()[at]):g} in columns"
        raise SinkdError(f"sinkhorn: there is a mass of {totals}; both must be the same")
