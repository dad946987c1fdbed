"""Sinkhorn's iteration and its reverse pass for one problem, as device functions of Triton kernels.

The mathematics is that of `iteration.py`, in the same types: products in float32, logarithms in float64. The kernel
matrix stays in registers for all iterations. A problem that is too large for one program is shared out among `PARTS`
programs, each with a tile of rows. They exchange sums over columns through memory, and wait for each other at a
counter. The grid is ordered by problem, so that programs that wait for each other run at the same time.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _total(values, shared, counter, met, part, PARTS: tl.constexpr, LOGS: tl.constexpr, COLS: tl.constexpr):
    """The sum (of logarithms: their logsumexp) over a problem's programs of a vector (COLS,), in a fixed order.

    Args:
        shared: memory for 2 x PARTS x COLS numbers. A slot is written again only after every program has read it.
        counter: 0 at first; each program adds 1 each time.
        met: how often the programs met before.
    """
    if PARTS == 1:
        total = values
    else:
        column = tl.arange(0, COLS)
        slot = shared + (met % 2) * PARTS * COLS
        tl.store(slot + part * COLS + column, values)
        tl.debug_barrier()
        tl.atomic_add(counter, 1, sem="release", scope="gpu")
        while tl.atomic_add(counter, 0, sem="acquire", scope="gpu") < (met + 1) * PARTS:
            pass
        tl.debug_barrier()
        # .cg reads past the L1 cache, which may hold what the slot held before
        total = tl.load(slot + column, cache_modifier=".cg")
        for k in range(1, PARTS):
            other = tl.load(slot + k * COLS + column, cache_modifier=".cg")
            if LOGS:
                top = tl.maximum(tl.maximum(total, other), -1e300)
                total = top + tl.log(tl.exp(total - top) + tl.exp(other - top))
            else:
                total += other
    return total


@triton.jit
def _sum_of_all(value, shared, counter, met, part, PARTS: tl.constexpr, COLS: tl.constexpr):
    """The sum over a problem's programs of one number."""
    if PARTS == 1:
        total = value
    else:
        values = tl.where(tl.arange(0, COLS) == 0, value, 0.0).to(shared.dtype.element_ty)
        total = tl.sum(_total(values, shared, counter, met, part, PARTS, False, COLS), 0).to(value.dtype)
    return total


@triton.jit
def place(PARTS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """This program's problem and part of it, its rows, and all columns."""
    problem = (tl.program_id(0) // PARTS).to(tl.int64)
    part = tl.program_id(0) % PARTS
    return problem, part, part * ROWS + tl.arange(0, ROWS), tl.arange(0, COLS)


@triton.jit
def masses(weights, each, index, size):
    """The masses at `index`, float64: read from `weights`, or `each` where that is None; 0 beyond `size`."""
    if weights is None:
        mass = tl.where(index < size, each, 0.0)
    else:
        mass = tl.load(weights + index, mask=index < size, other=0)
    return mass.to(tl.float64)


@triton.jit
def _logarithm(mass):
    """log of masses, and -inf where there is none."""
    return tl.where(mass > 0, tl.log(tl.where(mass > 0, mass, 1.0)), float("-inf"))


@triton.jit
def _log_sum(x, axis: tl.constexpr):
    """logsumexp along an axis; -inf where all of it is."""
    top = tl.maximum(tl.max(x, axis), -1e300)
    return top + tl.log(tl.sum(tl.exp(x - tl.expand_dims(top, axis)), axis))


@triton.jit
def _less(x, y):
    """x - y, and -inf wherever x is."""
    return tl.where(x == float("-inf"), x, x - y)


@triton.jit
def _tile(matrix, i, j, n, m):
    """Rows i and columns j of a matrix (n, m). Costs are read again at the end, since registers are scarce."""
    inside = (i[:, None] < n) & (j[None, :] < m)
    return tl.load(matrix + i[:, None] * m + j[None, :], mask=inside, other=0.0)


@triton.jit
def _kernel(cost, i, j, n, m, inverse, LOGS: tl.constexpr):
    """exp(-cost / epsilon), or its logarithm, of a tile."""
    w = _tile(cost, i, j, n, m)
    scaled = -w * tl.full((), inverse, w.dtype)
    inside = (i[:, None] < n) & (j[None, :] < m)
    return tl.where(inside, scaled if LOGS else tl.exp(scaled), float("-inf") if LOGS else 0.0)


@triton.jit
def _moved(kernel, u, v, LOGS: tl.constexpr):
    """The mass that a kernel matrix moves between scalings u of its rows and v of its columns."""
    return tl.exp(kernel + u[:, None] + v[None, :]) if LOGS else kernel * u[:, None] * v[None, :]


@triton.jit
def _scaling(scalings, index, size, LOGS: tl.constexpr):
    """Scalings or potentials at `index`; those that move nothing beyond `size`."""
    return tl.load(scalings + index, mask=index < size, other=float("-inf") if LOGS else 0.0)


@triton.jit
def solve_tile(
    cost,  # (n, m)
    a,  # (ROWS,), masses of the tile's rows, float64
    b,  # (COLS,), masses of all columns
    rows,  # (n_iters, n), memory for the scalings of every iteration: potentials where LOGS
    cols,  # (n_iters, m)
    shared,
    counter,
    inverse,  # 1 / epsilon, float64
    n,
    m,
    n_iters,
    tolerance,  # None: all iterations
    part,
    PARTS: tl.constexpr,
    LOGS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Iterate; return the tile of the plan, u (ROWS,), v (COLS,), the whole distance, and the iterations done."""
    i = part * ROWS + tl.arange(0, ROWS)
    j = tl.arange(0, COLS)
    kernel = _kernel(cost, i, j, n, m, inverse, LOGS)
    kept_a = (_logarithm(a) if LOGS else a).to(kernel.dtype)
    kept_b = (_logarithm(b) if LOGS else b).to(kernel.dtype)
    u = tl.zeros((ROWS,), kernel.dtype)
    v = tl.where(b > 0, 0.0 if LOGS else 1.0, float("-inf") if LOGS else 0.0).to(kernel.dtype)
    done = 0
    met = 0
    going = done < n_iters
    while going:
        if LOGS:
            u = _less(kept_a, _log_sum(kernel + v[None, :], 1))
            sums = _log_sum(kernel + u[:, None], 0)
        else:
            u = kept_a / tl.maximum(tl.sum(kernel * v[None, :], 1), 1.2e-38)
            sums = tl.sum(kernel * u[:, None], 0)
        sums = _total(sums, shared, counter, met, part, PARTS, LOGS, COLS)
        met += 1
        v = _less(kept_b, sums) if LOGS else kept_b / tl.maximum(sums, 1.2e-38)
        tl.store(rows + done * n + i, u, mask=i < n)
        if part == 0:
            tl.store(cols + done * m + j, v, mask=j < m)
        done += 1
        going = done < n_iters
        if tolerance is not None:
            missing = tl.sum(tl.abs(tl.sum(_moved(kernel, u, v, LOGS), 1) - a.to(kernel.dtype)), 0)
            missing = _sum_of_all(missing, shared, counter, met, part, PARTS, COLS)
            met += 1
            going = going & (missing > tolerance * tl.sum(b, 0))
    plan = _moved(kernel, u, v, LOGS)
    distance = tl.sum(tl.sum(plan * _tile(cost, i, j, n, m), 1).to(tl.float64), 0)
    distance = _sum_of_all(distance, shared, counter, met, part, PARTS, COLS)
    return plan, u, v, distance, done


@triton.jit
def reverse_tile(
    cost,  # (n, m)
    a,  # (ROWS,)
    b,  # (COLS,)
    rows,  # (n_iters, n), of every iteration, from `solve_tile`
    cols,
    shared,
    counter,
    d_plan,  # (n, m): derivative with respect to the plan, or None
    d_f,  # (ROWS,): with respect to log u
    d_g,  # (COLS,): with respect to log v
    d_distance,  # float64
    inverse,
    n,
    m,
    done,
    part,
    PARTS: tl.constexpr,
    LOGS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """The gradient with respect to a tile of the cost.

    In the terms of `iteration.py`: d_row and d_col are derivatives of the sums where kernels are multiplied, as in
    `products_reverse`, and of the potentials where they are added, as in `logs_reverse`.
    """
    i = part * ROWS + tl.arange(0, ROWS)
    j = tl.arange(0, COLS)
    kernel = _kernel(cost, i, j, n, m, inverse, LOGS)
    kept_a = (_logarithm(a) if LOGS else tl.where(a > 0, 1.0 / tl.where(a > 0, a, 1.0), 0.0)).to(kernel.dtype)
    kept_b = (_logarithm(b) if LOGS else tl.where(b > 0, 1.0 / tl.where(b > 0, b, 1.0), 0.0)).to(kernel.dtype)
    start = tl.where(b > 0, 0.0 if LOGS else 1.0, float("-inf") if LOGS else 0.0).to(kernel.dtype)
    t = done - 1
    u = _scaling(rows + t * n, i, n, LOGS)
    v = _scaling(cols + t * m, j, m, LOGS)
    d_log_plan = _d_log_plan(cost, kernel, u, v, d_plan, d_distance, i, j, n, m, LOGS)
    d_row = d_f + tl.sum(d_log_plan, 1)
    d_col = d_g + _total(tl.sum(d_log_plan, 0), shared, counter, 0, part, PARTS, False, COLS)
    if not LOGS:
        d_row *= tl.where(u > 0, 1.0 / tl.where(u > 0, u, 1.0), 0.0)
        d_col *= -v * kept_b
    slope = tl.zeros((ROWS, COLS), kernel.dtype)
    met = 1
    while t >= 0:
        earlier = tl.where(t > 0, _scaling(cols + tl.maximum(t - 1, 0) * m, j, m, LOGS), start)
        if LOGS:
            step = _moved(kernel, u, _less(v, kept_b), LOGS) * d_col[None, :]
            slope -= step
            d_row -= tl.sum(step, 1)
            step = _moved(kernel, _less(u, kept_a), earlier, LOGS) * d_row[:, None]
            slope -= step
            d_col = -_total(tl.sum(step, 0), shared, counter, met, part, PARTS, False, COLS)
        else:
            d_row = (d_row + tl.sum(kernel * d_col[None, :], 1)) * -u * u * kept_a
            slope += u[:, None] * d_col[None, :] + d_row[:, None] * earlier[None, :]
            d_col = _total(tl.sum(kernel * d_row[:, None], 0), shared, counter, met, part, PARTS, False, COLS)
            d_col *= -earlier * earlier * kept_b
        met += 1
        d_row = tl.zeros((ROWS,), kernel.dtype)
        t -= 1
        u = _scaling(rows + tl.maximum(t, 0) * n, i, n, LOGS)
        v = earlier
    if not LOGS:
        slope *= kernel
    u = _scaling(rows + (done - 1) * n, i, n, LOGS)
    v = _scaling(cols + (done - 1) * m, j, m, LOGS)
    slope += _d_log_plan(cost, kernel, u, v, d_plan, d_distance, i, j, n, m, LOGS)
    return _moved(kernel, u, v, LOGS) * d_distance.to(kernel.dtype) - slope * tl.full((), inverse, kernel.dtype)


@triton.jit
def _d_log_plan(cost, kernel, u, v, d_plan, d_distance, i, j, n, m, LOGS: tl.constexpr):
    """The derivative with respect to the logarithm of a tile of the plan."""
    each = _tile(cost, i, j, n, m) * d_distance.to(kernel.dtype)
    if d_plan is not None:
        each += _tile(d_plan, i, j, n, m)
    return each * _moved(kernel, u, v, LOGS)
