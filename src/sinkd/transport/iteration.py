"""Sinkhorn's iteration and its reverse passes, on cost / epsilon; `solver.py` is the entry point.

With W the cost, M = -W / epsilon and K = exp(M), one iteration is (Cuturi, NeurIPS 2013)

    products:  u = a / (K v),                      v = b / (K^T u)
    logs:      f = log a - logsumexp_j(M + g),     g = log b - logsumexp_i(M + f)

and the plan is u K v = exp(M + f + g). Both forms give the same numbers. Products are several times faster, and safe
while K and the scalings stay within float32 (`PRODUCT_LIMIT`); logs are for everything else.

Nothing here builds an autograd graph. Forward passes return the scalings of every iteration, stacked (t, ..., n) and
(t, ..., m); reverse passes recompute everything else from them, so that no n x m matrix is stored per iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .precision import is_static

PRODUCT_LIMIT = 40.0
"""Largest cost / epsilon for the product form: scalings reach exp(40), their squares exp(80) < float32's exp(88)."""

Weights = Tensor | float
"""Masses (..., n), or one number if all are equal."""


class Steps(NamedTuple):
    """The scalings (products) or potentials (logs) of every iteration, and the kernel K or M they belong to."""

    kernel: Tensor  # (..., n, m)
    rows: Tensor  # (t, ..., n)
    cols: Tensor  # (t, ..., m)


def row_error(row_sums: Tensor, weights: Weights) -> Tensor:
    """Sum of |row sum - weight| over the sum of weights (...): the mean relative error of uniform rows."""
    if isinstance(weights, Tensor):
        return (row_sums - weights).abs().sum(-1) / weights.sum(-1).clamp_min(torch.finfo(row_sums.dtype).tiny)
    return (row_sums - weights).abs().mean(-1) / weights


def products(kernel: Tensor, a: Weights, b: Weights, n_iters: int, tolerance: float | None = None) -> Steps:
    """Iterate scalings on K (..., n, m) from v = 1; with a tolerance, stop once the row error is below it."""
    transposed, product = kernel.mT, _multiplier(kernel)
    us, vs = [], []
    sums = kernel.sum(-1) if isinstance(b, float) else product(kernel, _present(b, kernel))
    for _ in range(n_iters):
        u = _divide(a, sums)
        v = _divide(b, product(transposed, u))
        us.append(u)
        vs.append(v)
        if len(us) < n_iters:
            sums = product(kernel, v)
            if tolerance is not None and bool((row_error(sums * u, a) <= tolerance).all()):
                break
    return Steps(kernel, torch.stack(us), torch.stack(vs))


def products_reverse(steps: Steps, a: Weights, b: Weights, df: Tensor, dg: Tensor, d_plan: Tensor) -> Tensor:
    """dL/dM through the scalings, given the derivatives df, dg of their logarithms; plus d_plan (...) times the plan.

    One matrix-vector product per half-iteration, as in the forward pass. The sum over iterations of outer products is
    one product of two stacks, in float64 where float32 might be TF32.
    """
    kernel, us, vs = steps
    transposed, product = kernel.mT, _multiplier(kernel)
    # d(sums) = -d(scaling) * scaling^2 / weight; the weight of a masked row is 0, and so is its scaling
    u_slopes = (us * us).mul_(-_inverse(a)).unbind(0)
    v_slopes = (vs * vs).mul_(-_inverse(b)).unbind(0)
    d_col = dg * vs[-1] * -_inverse(b)
    d_row = product(kernel, d_col).add_(df * _reciprocal(us[-1])).mul_(u_slopes[-1])
    d_rows, d_cols = [d_row], [d_col]  # with respect to the sums, last iteration first
    for t in range(len(u_slopes) - 2, -1, -1):
        d_col = product(transposed, d_row).mul_(v_slopes[t])
        d_row = product(kernel, d_col).mul_(u_slopes[t])
        d_cols.append(d_col)
        d_rows.append(d_row)
    start = torch.ones_like(vs[:1]) if isinstance(b, float) else _present(b, kernel).expand_as(vs[:1])
    # (2t + 1, ..., n) and (2t + 1, ..., m)
    lefts = torch.cat([us.flip(0), torch.stack(d_rows), us[-1:] * d_plan.unsqueeze(-1)])
    rights = torch.cat([torch.stack(d_cols), vs[:-1].flip(0), start, vs[-1:]])
    if is_static(kernel) or torch.get_float32_matmul_precision() != "highest":
        lefts, rights = lefts.double(), rights.double()
    return torch.matmul(lefts.movedim(0, -1), rights.movedim(0, -2)).to(kernel.dtype).mul_(kernel)


def logs(log_kernel: Tensor, a: Weights, b: Weights, n_iters: int, tolerance: float | None = None) -> Steps:
    """Iterate potentials on M (..., n, m) from g = 0; with a tolerance, stop once the row error is below it."""
    log_a, log_b = _log(a, log_kernel), _log(b, log_kernel)
    fs, gs = [], []
    row_lse = torch.logsumexp(log_kernel + _present(b, log_kernel).log().unsqueeze(-2), -1)
    for _ in range(n_iters):
        f = _less(log_a, row_lse)
        g = _less(log_b, torch.logsumexp(log_kernel + f.unsqueeze(-1), -2))
        fs.append(f)
        gs.append(g)
        if len(fs) < n_iters:
            row_lse = torch.logsumexp(log_kernel + g.unsqueeze(-2), -1)
            if tolerance is not None and bool((row_error((row_lse + f).exp(), a) <= tolerance).all()):
                break
    return Steps(log_kernel, torch.stack(fs), torch.stack(gs))


def logs_reverse(steps: Steps, a: Weights, b: Weights, df: Tensor, dg: Tensor) -> Tensor:
    """dL/dM through the potentials, given the derivatives df, dg of the last ones; one matrix at a time."""
    log_kernel, fs, gs = steps
    log_a, log_b = _log(a, log_kernel), _log(b, log_kernel)
    start = _present(b, log_kernel).log().expand_as(gs[0])
    d_kernel = torch.zeros_like(log_kernel)
    for t in range(fs.shape[0] - 1, -1, -1):
        # the softmaxes that the derivatives of the two logsumexps are: columns of one sum to 1, rows of the other
        columns = (log_kernel + fs[t].unsqueeze(-1)).add_(_less(gs[t], log_b).unsqueeze(-2)).exp_()
        step = columns.mul_(dg.unsqueeze(-2))
        d_kernel -= step
        df = df - step.sum(-1)
        rows = (log_kernel + _less(fs[t], log_a).unsqueeze(-1)).add_((gs[t - 1] if t else start).unsqueeze(-2)).exp_()
        step = rows.mul_(df.unsqueeze(-1))
        d_kernel -= step
        dg = -step.sum(-2)
        df = torch.zeros_like(df)
    return d_kernel


def log_derivatives(
    plan: Tensor | None, paid: Tensor, d_plan: Tensor | None, each: Tensor, df: Tensor | None, dg: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The derivatives of log plan (..., n, m), and those of the log-scalings f and g that they amount to.

    Args:
        plan: needed only with d_plan; None without it.
        paid: plan times cost.
        d_plan, each, df, dg: derivatives of the plan, of the distance, (..., 1, 1), and of f and g.
    """
    d_log_plan = paid * each
    if d_plan is not None and plan is not None:
        d_log_plan.addcmul_(d_plan, plan)
    rows, cols = d_log_plan.sum(-1), d_log_plan.sum(-2)
    return d_log_plan, rows if df is None else rows.add_(df), cols if dg is None else cols.add_(dg)


def implicit_reverse(
    plan: Tensor, paid: Tensor, epsilon: float, d_plan: Tensor | None, each: Tensor, *d_potentials: Tensor | None
) -> Tensor:
    """dL/dcost if the plan is the fixed point; arguments as for `log_derivatives`."""
    d_log_plan, rows, cols = log_derivatives(plan, paid, d_plan, each, *d_potentials)
    d_kernel = fixed_point_reverse(plan, rows, cols).addcmul_(plan, each, value=-epsilon)
    return d_kernel.add_(d_log_plan).mul_(-1 / epsilon)


def fixed_point_reverse(plan: Tensor, df: Tensor, dg: Tensor) -> Tensor:
    """dL/dM through the potentials if the plan is the fixed point (implicit function theorem).

    Row and column sums r, c of the plan stay the same: [diag r, P; P^T, diag c] (df/dM, dg/dM) = -(row, column sums of
    P dM). Eliminating the rows leaves one m x m system, solved in float64. It is singular along shifts (f + t, g - t)
    of every group of rows and columns without common mass with the others; the right-hand side has no component there,
    so adding 1e-9 to the diagonal settles it.
    """
    p = plan.double()
    rows, cols = p.sum(-1), p.sum(-2)
    inverse_rows, inverse_cols = _reciprocal(rows), _reciprocal(cols)
    df, dg = df.double(), dg.double()
    scaled = p * inverse_rows.unsqueeze(-1)
    right = (dg - _multiplier(p)(scaled.mT, df)) * inverse_cols
    system = torch.diag_embed(torch.full_like(cols, 1 + 1e-9))
    system = system - torch.matmul(p.mT * inverse_cols.unsqueeze(-1), scaled)
    # constant shifts carry no gradient: the weighted mean of the solution is pinned to 0
    system = system + (cols / cols.sum(-1, keepdim=True).clamp_min(1e-300)).unsqueeze(-2)
    mu = torch.linalg.solve_ex(system, right.unsqueeze(-1))[0].squeeze(-1)
    lam = (df - _multiplier(p)(p, mu)) * inverse_rows
    return (p * (lam.unsqueeze(-1) + mu.unsqueeze(-2))).neg_().to(plan.dtype)


def _multiplier(kernel: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A product (..., n, m) x (..., m) -> (..., n) that never runs in TF32."""
    on_cpu = kernel.device.type == "cpu"
    if kernel.dim() == 2 and (on_cpu or not torch.compiler.is_compiling()):
        return torch.mv  # GPU libraries have no TF32 for vectors
    if not on_cpu:
        return lambda kernel, vector: (kernel * vector.unsqueeze(-2)).sum(-1)
    return lambda kernel, vector: torch.matmul(kernel, vector.unsqueeze(-1)).squeeze(-1)


def _divide(weights: Weights, sums: Tensor) -> Tensor:
    """weights / sums, reusing the memory of `sums`; 0 where the weight is 0, for any sum."""
    if isinstance(weights, Tensor):
        return weights / sums.clamp_min_(torch.finfo(sums.dtype).tiny)
    return sums.reciprocal_() if weights == 1.0 else sums.reciprocal_().mul_(weights)


def _inverse(weights: Weights) -> Weights:
    return _reciprocal(weights) if isinstance(weights, Tensor) else 1.0 / weights


def _reciprocal(x: Tensor) -> Tensor:
    """1 / x, and 0 where x is 0."""
    return torch.where(x == 0, 0.0, 1.0 / x)


def _present(weights: Weights, like: Tensor) -> Tensor:
    """The initial scalings: 1 where there is mass to place, 0 where a weight is 0."""
    if isinstance(weights, Tensor):
        return (weights != 0).to(like.dtype)
    return like.new_ones(like.shape[-1])


def _log(weights: Weights, like: Tensor) -> Tensor:
    if not isinstance(weights, Tensor):
        weights = torch.full((), weights, dtype=like.dtype, device=like.device)
    return weights.log()


def _less(x: Tensor, y: Tensor) -> Tensor:
    """x - y, and -inf wherever x is: a masked row stays masked even if every column is masked too."""
    return torch.where(x == -torch.inf, x, x - y)
