"""Sinkhorn's iteration and its reverse pass on a GPU: any number of problems of up to 512 x 512, each pass one launch.

One program solves one problem, see `triton_iteration.py`. `solver.py` decides whether to come here. This module imports
Triton, so nothing imports it before that. Under TRITON_INTERPRET=1 the same code runs on a CPU, slowly: that is how it
is tested without a GPU.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from .iteration import Weights, implicit_reverse
from .triton_iteration import reverse_one, solve_one

TILE = 2**14
"""Numbers of the kernel matrix that a program holds in registers."""


@triton.jit
def _solve_all(
    cost, a, b, b_each, plan, distance, rows, cols, f, g, done, inverse: tl.float64, n, m, n_iters, tolerance,
    LOGS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    problem = tl.program_id(0).to(tl.int64)
    rows += problem * n_iters * n
    cols += problem * n_iters * m
    total, count = solve_one(
        cost + problem * n * m, a if a is None else a + problem * n, b if b is None else b + problem * m, b_each,
        plan + problem * n * m, rows, cols, inverse, n, m, n_iters, tolerance, LOGS, ROWS, COLS, TILES,
    )  # fmt: skip
    tl.store(distance + problem, total)
    tl.store(done + problem, count)
    j = tl.arange(0, COLS)
    v = tl.load(cols + (count - 1) * m + j, mask=j < m, other=1.0)
    tl.store(g + problem * m + j, v if LOGS else tl.log(v), mask=j < m)
    for k in range(TILES):
        i = k * ROWS + tl.arange(0, ROWS)
        u = tl.load(rows + (count - 1) * n + i, mask=i < n, other=1.0)
        tl.store(f + problem * n + i, u if LOGS else tl.log(u), mask=i < n)


@triton.jit
def _reverse_all(
    cost, a, b, b_each, rows, cols, done, d_rows, d_cols, d_plan, d_distance, d_f, d_g, d_cost,
    inverse: tl.float64, n, m, n_iters,
    LOGS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    problem = tl.program_id(0).to(tl.int64)
    each = n_iters * n, n_iters * m
    upstream = tl.full((), 0.0, tl.float64)
    if d_distance is not None:
        upstream += tl.load(d_distance + problem).to(tl.float64)
    reverse_one(
        cost + problem * n * m, a if a is None else a + problem * n, b if b is None else b + problem * m, b_each,
        rows + problem * each[0], cols + problem * each[1], d_rows + problem * each[0], d_cols + problem * each[1],
        d_plan if d_plan is None else d_plan + problem * n * m,
        d_f if d_f is None else d_f + problem * n, d_g if d_g is None else d_g + problem * m,
        upstream, d_cost + problem * n * m, inverse, n, m, tl.load(done + problem), LOGS, ROWS, COLS, TILES,
    )  # fmt: skip


def tiling(n: int, m: int) -> dict[str, int]:
    """Blocks and warps for problems n x m."""
    columns = max(16, triton.next_power_of_2(m))
    rows = min(max(16, triton.next_power_of_2(n)), TILE // columns)
    warps = min(16, max(1, rows * columns // 1024))
    return {"ROWS": rows, "COLS": columns, "TILES": triton.cdiv(n, rows), "num_warps": warps}


def on_device_of(tensor: Tensor) -> AbstractContextManager:
    """A context in which kernels run on the tensor's device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def solve_batch(
    cost: Tensor, epsilon: float, n_iters: int, tolerance: float | None, a: Weights, b: Weights, gradient: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Solve costs (..., n, m) in their type: products in float32, logarithms in float64.

    Args:
        a, b: masses (..., n) and (..., m); numbers, if all are equal, are 1 and n / m.

    Returns:
        plan, distance, f, g and the iterations done, as the attributes of `Transport`.
    """
    shape = cost.shape[:-2]
    flat = cost.reshape(-1, *cost.shape[-2:]).contiguous()
    masses = (w.reshape(len(flat), -1).contiguous() if isinstance(w, Tensor) else None for w in (a, b))
    results = _Solve.apply(flat, *masses, epsilon, n_iters, tolerance, gradient)
    plan, distance, f, g, done = (each.reshape(shape + each.shape[1:]) for each in results)
    return plan, distance, f, g, done


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, cost: Tensor, a: Tensor | None, b: Tensor | None, epsilon: float, n_iters: int,
        tolerance: float | None, gradient: str,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        run: Any = _solve_op if torch.compiler.is_compiling() else _solve
        plan, distance, f, g, rows, cols, done = run(cost, a, b, epsilon, n_iters, tolerance)
        unrolled = gradient == "unroll"
        ctx.save_for_backward(*((cost, a, b, rows, cols, done) if unrolled else (cost, plan)))
        ctx.epsilon, ctx.gradient = epsilon, gradient
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(done)
        return plan, distance, f, g, done

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_plan: Tensor | None, d_distance: Tensor | None, df: Tensor | None, dg: Tensor | None, _: None
    ) -> tuple[Tensor | None, ...]:
        if ctx.gradient == "unroll":
            run: Any = _reverse_op if torch.compiler.is_compiling() else _reverse
            given = (None if d is None else d.contiguous() for d in (d_plan, d_distance, df, dg))
            return run(*ctx.saved_tensors, *given, ctx.epsilon), *(None,) * 6
        cost, plan = ctx.saved_tensors
        each = plan.new_zeros(()) if d_distance is None else d_distance[:, None, None]
        if ctx.gradient == "envelope":
            return plan * each, *(None,) * 6
        return implicit_reverse(plan, plan * cost, ctx.epsilon, d_plan, each, df, dg), *(None,) * 6


def _solve(
    cost: Tensor, a: Tensor | None, b: Tensor | None, epsilon: float, n_iters: int, tolerance: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Solve contiguous costs (k, n, m): by products if they are float32, by logarithms if float64.

    Args:
        a, b: (k, n) and (k, m), contiguous masses; None for rows of 1 and columns of n / m.
        tolerance: a problem stops once its rows' marginal error is at most this.

    Returns:
        plan (k, n, m), distance (k,), log-scalings f (k, n) and g (k, m), the scalings (k, n_iters, n) and
        (k, n_iters, m) of every iteration (their logarithms, if float64), and the iterations done (k,).
    """
    plan, distance, f, g, rows, cols, done = _like(cost, a, b, epsilon, n_iters, tolerance)
    count, n, m = cost.shape
    with on_device_of(cost):
        _solve_all[(count,)](
            cost, a, b, n / m, plan, distance, rows, cols, f, g, done, 1 / epsilon, n, m, n_iters, tolerance,
            LOGS=cost.dtype == torch.float64, **tiling(n, m),
        )  # fmt: skip
    return plan, distance, f, g, rows, cols, done


def _like(
    cost: Tensor, a: Tensor | None, b: Tensor | None, epsilon: float, n_iters: int, tolerance: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    count, n, m = cost.shape
    f, g = cost.new_empty(count, n), cost.new_empty(count, m)
    rows, cols = cost.new_empty(count, n_iters, n), cost.new_empty(count, n_iters, m)
    done = cost.new_empty(count, dtype=torch.int32)
    return torch.empty_like(cost), cost.new_empty(count), f, g, rows, cols, done


def _reverse(
    cost: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    rows: Tensor,
    cols: Tensor,
    done: Tensor,
    d_plan: Tensor | None,
    d_distance: Tensor | None,
    d_f: Tensor | None,
    d_g: Tensor | None,
    epsilon: float,
) -> Tensor:
    """The gradient (k, n, m) with respect to the costs of `_solve`, through all iterations."""
    count, n, m = cost.shape
    d_cost, d_rows, d_cols = torch.empty_like(cost), torch.empty_like(rows), torch.empty_like(cols)
    with on_device_of(cost):
        _reverse_all[(count,)](
            cost, a, b, n / m, rows, cols, done, d_rows, d_cols, d_plan, d_distance, d_f, d_g, d_cost, 1 / epsilon,
            n, m, rows.shape[1], LOGS=cost.dtype == torch.float64, **tiling(n, m),
        )  # fmt: skip
    return d_cost


_solve_op = torch.library.custom_op("sinkd::solve", _solve, mutates_args=())
_solve_op.register_fake(_like)
_reverse_op = torch.library.custom_op("sinkd::solve_reverse", _reverse, mutates_args=())
_reverse_op.register_fake(lambda cost, *_: torch.empty_like(cost))
