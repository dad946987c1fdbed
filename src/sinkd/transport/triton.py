"""Sinkhorn's iteration and its reverse pass on a GPU: any number of problems of up to 512 x 512, each pass one launch.

One program solves a small problem, several together a larger one; see `triton_iteration.py`.
`solver.py` decides whether to come here. This module imports Triton, so nothing imports it before that. Under
TRITON_INTERPRET=1 the same code runs on a CPU, slowly and with one program a problem: so it is tested without a GPU.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from .iteration import Weights, implicit_reverse
from .triton_iteration import masses, place, reverse_tile, solve_tile

TILES = 2**12, 2**14
"""Numbers of the kernel matrix that a program holds in registers: few where there are programs to spare, or many."""


@triton.jit
def _solve_all(
    cost, a, b, b_each, plan, distance, rows, cols, f, g, done, shared, counter, inverse: tl.float64, n, m, n_iters,
    tolerance, PARTS: tl.constexpr, LOGS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    problem, part, i, j = place(PARTS, ROWS, COLS)
    inside = (i[:, None] < n) & (j[None, :] < m)
    at = problem * n * m + i[:, None] * m + j[None, :]
    of_rows = masses(a if a is None else a + problem * n, 1.0, i, n)
    of_cols = masses(b if b is None else b + problem * m, b_each, j, m)
    moved, u, v, total, count = solve_tile(
        cost + problem * n * m, of_rows, of_cols, rows + problem * n_iters * n, cols + problem * n_iters * m,
        shared + problem * 2 * PARTS * COLS, counter + problem, inverse, n, m, n_iters, tolerance, part,
        PARTS, LOGS, ROWS, COLS,
    )  # fmt: skip
    tl.store(plan + at, moved, mask=inside)
    tl.store(f + problem * n + i, u if LOGS else tl.log(u), mask=i < n)
    if part == 0:
        tl.store(g + problem * m + j, v if LOGS else tl.log(v), mask=j < m)
        tl.store(distance + problem, total)
        tl.store(done + problem, count)


@triton.jit
def _reverse_all(
    cost, a, b, b_each, rows, cols, done, d_plan, d_distance, d_f, d_g, d_cost, shared, counter, inverse: tl.float64,
    n, m, n_iters, PARTS: tl.constexpr, LOGS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    problem, part, i, j = place(PARTS, ROWS, COLS)
    inside = (i[:, None] < n) & (j[None, :] < m)
    at = problem * n * m + i[:, None] * m + j[None, :]
    upstream = tl.full((), 0.0, tl.float64)
    if d_distance is not None:
        upstream += tl.load(d_distance + problem).to(tl.float64)
    by_f = tl.zeros((ROWS,), cost.dtype.element_ty)
    if d_f is not None:
        by_f += tl.load(d_f + problem * n + i, mask=i < n, other=0.0)
    by_g = tl.zeros((COLS,), cost.dtype.element_ty)
    if d_g is not None:
        by_g += tl.load(d_g + problem * m + j, mask=j < m, other=0.0)
    result = reverse_tile(
        cost + problem * n * m, masses(a if a is None else a + problem * n, 1.0, i, n),
        masses(b if b is None else b + problem * m, b_each, j, m),
        rows + problem * n_iters * n, cols + problem * n_iters * m, shared + problem * 2 * PARTS * COLS,
        counter + problem,
        d_plan if d_plan is None else d_plan + problem * n * m, by_f, by_g, upstream, inverse, n, m,
        tl.load(done + problem), part,
        PARTS, LOGS, ROWS, COLS,
    )  # fmt: skip
    tl.store(d_cost + at, result, mask=inside)


def tiling(like: Tensor, problems: int, n: int, m: int, logs: bool) -> dict[str, int]:
    """Programs and warps for problems n x m: PARTS programs a problem, each with ROWS x COLS of it."""
    columns = max(16, triton.next_power_of_2(m))
    rows = max(16, triton.next_power_of_2(n))
    if like.is_cuda:  # the interpreter runs one program after the other, so they cannot wait for each other
        few, many = (min(rows, tile // columns) for tile in TILES)
        together = _multiprocessors(like.device)
        rows = few if problems * triton.cdiv(n, few) <= together else many
        while triton.cdiv(n, rows) > together:  # all programs of a problem must run at the same time
            rows *= 2
    warps = min(16, max(4, rows * columns // 512)) if logs else min(8, max(1, rows * columns // 1024))
    return {"PARTS": triton.cdiv(n, rows), "LOGS": logs, "ROWS": rows, "COLS": columns, "num_warps": warps}


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def shared_memory(like: Tensor, problems: int, blocks: dict[str, int]) -> tuple[Tensor, Tensor]:
    """What programs exchange sums through, and the counters at which they meet; nothing where each is alone."""
    if blocks["PARTS"] == 1:
        return like, like
    shared = like.new_empty(problems * 2 * blocks["PARTS"] * blocks["COLS"])
    return shared, like.new_zeros(problems, dtype=torch.int32)


def on_device_of(tensor: Tensor) -> AbstractContextManager:
    """A context in which kernels run on the tensor's device."""
    if tensor.is_cuda and tensor.device.index != torch.cuda.current_device():
        return torch.cuda.device(tensor.device)
    return nullcontext()


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
    given = (w.reshape(len(flat), -1).contiguous() if isinstance(w, Tensor) else None for w in (a, b))
    results = _Solve.apply(flat, *given, epsilon, n_iters, tolerance, gradient)
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
    blocks = tiling(cost, count, n, m, cost.dtype == torch.float64)
    shared, counter = shared_memory(cost, count, blocks)
    with on_device_of(cost):
        _solve_all[(count * blocks["PARTS"],)](
            cost, a, b, n / m, plan, distance, rows, cols, f, g, done, shared, counter, 1 / epsilon, n, m, n_iters,
            tolerance, **blocks,
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
    d_cost = torch.empty_like(cost)
    blocks = tiling(cost, count, n, m, cost.dtype == torch.float64)
    shared, counter = shared_memory(cost, count, blocks)
    with on_device_of(cost):
        _reverse_all[(count * blocks["PARTS"],)](
            cost, a, b, n / m, rows, cols, done, d_plan, d_distance, d_f, d_g, d_cost, shared, counter, 1 / epsilon,
            n, m, rows.shape[1], **blocks,
        )  # fmt: skip
    return d_cost


_solve_op = torch.library.custom_op("sinkd::solve", _solve, mutates_args=())
_solve_op.register_fake(_like)
_reverse_op = torch.library.custom_op("sinkd::solve_reverse", _reverse, mutates_args=())
_reverse_op.register_fake(lambda cost, *_: torch.empty_like(cost))
