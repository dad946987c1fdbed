"""Sinkhorn's iteration and its reverse pass for one problem, as device functions of Triton kernels.

The mathematics is that of `iteration.py`, in the same types: products in float32, logarithms in float64. A program
holds a kernel matrix of up to 128 x 128 numbers in registers for all iterations (`TILES` = 1). A larger one it reads in
tiles of rows, once an iteration, from memory that the L2 cache holds: a half-iteration over rows of a tile is followed
at once by the tile's share of the half-iteration over columns.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _weight(weights, each, index, size):
    """The masses at `index`, float64: read from `weights`, or `each` where that is None; 0 beyond `size`."""
    if weights is None:
        masses = tl.where(index < size, each, 0.0)
    else:
        masses = tl.load(weights + index, mask=index < size, other=0)
    return masses.to(tl.float64)


@triton.jit
def _log_sum(x, axis: tl.constexpr):
    """logsumexp along an axis; -inf where all of it is."""
    top = tl.max(x, axis)
    top = tl.where(top == float("-inf"), 0.0, top)
    return top + tl.log(tl.sum(tl.exp(x - tl.expand_dims(top, axis)), axis))


@triton.jit
def _matrix(cost, inverse, i, j, n, m, LOGS: tl.constexpr):
    """A tile of the cost, and of exp(-cost / epsilon), or of its logarithm."""
    inside = (i[:, None] < n) & (j[None, :] < m)
    w = tl.load(cost + i[:, None] * m + j[None, :], mask=inside, other=0.0)
    scaled = -w * tl.full((), inverse, w.dtype)
    kernel = tl.where(inside, scaled if LOGS else tl.exp(scaled), float("-inf") if LOGS else 0.0)
    return w, kernel


@triton.jit
def _again(kernel, i, j, n, m, LOGS: tl.constexpr):
    """A tile of the kernel matrix that was stored."""
    outside = float("-inf") if LOGS else 0.0
    return tl.load(kernel + i[:, None] * m + j[None, :], mask=(i[:, None] < n) & (j[None, :] < m), other=outside)


@triton.jit
def _scaling(scalings, index, size, LOGS: tl.constexpr):
    """Scalings or potentials at `index`; those that move nothing beyond `size`."""
    return tl.load(scalings + index, mask=index < size, other=float("-inf") if LOGS else 0.0)


@triton.jit
def _moved(kernel, u, v, LOGS: tl.constexpr):
    """The mass that a kernel matrix moves between scalings u of its rows and v of its columns."""
    return tl.exp(kernel + u[:, None] + v[None, :]) if LOGS else kernel * u[:, None] * v[None, :]


@triton.jit
def solve_one(
    cost,  # (n, m)
    a,  # (n,), or None for masses of 1
    b,  # (m,), or None for masses of b_each
    b_each,
    plan,  # (n, m)
    rows,  # (n_iters, n): scalings, or potentials where LOGS
    cols,  # (n_iters, m)
    inverse,  # 1 / epsilon, float64
    n,
    m,
    n_iters,
    tolerance,  # None: all iterations
    LOGS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    TILES: tl.constexpr,
):
    """Iterate, write the plan, and return the distance and the number of iterations."""
    kind: tl.constexpr = tl.float64 if LOGS else tl.float32
    j = tl.arange(0, COLS)
    first = tl.arange(0, ROWS)
    total = _weight(b, b_each, j, m)
    held = total > 0
    bj = (tl.log(tl.where(held, total, 1.0)) if LOGS else total).to(kind)
    v = tl.where(held, 0.0 if LOGS else 1.0, float("-inf") if LOGS else 0.0).to(kind)
    w, kernel = _matrix(cost, inverse, first, j, n, m, LOGS)
    if TILES > 1:
        for k in range(TILES):
            i = k * ROWS + first
            w, kernel = _matrix(cost, inverse, i, j, n, m, LOGS)
            tl.store(plan + i[:, None] * m + j[None, :], kernel, mask=(i[:, None] < n) & (j[None, :] < m))
        tl.debug_barrier()
    done = 0
    going = done < n_iters
    while going:
        sums = tl.zeros((COLS,), kind)
        tops = tl.full((COLS,), float("-inf"), kind)
        for k in range(TILES):
            i = k * ROWS + first
            if TILES > 1:
                kernel = _again(plan, i, j, n, m, LOGS)
            mass = _weight(a, 1.0, i, n)
            if LOGS:
                log_mass = tl.log(tl.where(mass > 0, mass, 1.0))
                u = tl.where(mass > 0, log_mass - _log_sum(kernel + v[None, :], 1), float("-inf"))
                x = kernel + u[:, None]
                top = tl.maximum(tops, tl.max(x, 0))
                safe = tl.where(top == float("-inf"), 0.0, top)
                sums = sums * tl.exp(tops - safe) + tl.sum(tl.exp(x - safe[None, :]), 0)
                tops = top
            else:
                u = mass.to(kind) / tl.maximum(tl.sum(kernel * v[None, :], 1), 1.2e-38)
                sums += tl.sum(kernel * u[:, None], 0)
            tl.store(rows + done * n + i, u, mask=i < n)
        if LOGS:
            safe = tl.where(tops == float("-inf"), 0.0, tops)
            v = tl.where(held, bj - (safe + tl.log(sums)), float("-inf"))
        else:
            v = bj / tl.maximum(sums, 1.2e-38)
        tl.store(cols + done * m + j, v, mask=j < m)
        done += 1
        going = done < n_iters
        tl.debug_barrier()
        if tolerance is not None:
            missing = 0.0
            whole = 0.0
            for k in range(TILES):
                i = k * ROWS + first
                if TILES > 1:
                    kernel = _again(plan, i, j, n, m, LOGS)
                mass = _weight(a, 1.0, i, n).to(tl.float32)
                u = _scaling(rows + (done - 1) * n, i, n, LOGS)
                sent = tl.sum(_moved(kernel, u, v, LOGS), 1).to(tl.float32)
                missing += tl.sum(tl.abs(sent - mass), 0)
                whole += tl.sum(mass, 0)
            going = going & (missing > tolerance * whole)
    distance = tl.full((), 0.0, tl.float64)
    for k in range(TILES):
        i = k * ROWS + first
        inside = (i[:, None] < n) & (j[None, :] < m)
        w, kernel = _matrix(cost, inverse, i, j, n, m, LOGS)
        moved = _moved(kernel, _scaling(rows + (done - 1) * n, i, n, LOGS), v, LOGS)
        tl.store(plan + i[:, None] * m + j[None, :], moved, mask=inside)
        distance += tl.sum(tl.sum((moved * w), 1).to(tl.float64), 0)
    return distance, done


@triton.jit
def reverse_one(
    cost,  # (n, m)
    a,
    b,
    b_each,
    rows,  # (n_iters, n): of every iteration, from `solve_one`
    cols,  # (n_iters, m)
    d_rows,  # (n_iters, n), memory for the derivatives
    d_cols,  # (n_iters, m)
    d_plan,  # (n, m), or None for zeros
    d_f,  # (n,), or None
    d_g,  # (m,), or None
    d_distance,
    d_cost,  # (n, m), the result
    inverse,
    n,
    m,
    done,
    LOGS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    TILES: tl.constexpr,
):
    """Write the gradient with respect to the cost, given those of the plan, the distance and the potentials.

    In the terms of `iteration.py`: `products_reverse` keeps the derivatives of the sums, `logs_reverse` those of the
    potentials. The sum over iterations of outer products comes last, when all derivatives are known.
    """
    kind: tl.constexpr = tl.float64 if LOGS else tl.float32
    j = tl.arange(0, COLS)
    first = tl.arange(0, ROWS)
    last = done - 1
    total = _weight(b, b_each, j, m)
    held = total > 0
    by_col = tl.where(held, 1.0 / tl.where(held, total, 1.0), 0.0).to(kind)
    v = _scaling(cols + last * m, j, m, LOGS)
    d_col = tl.zeros((COLS,), kind)
    if d_g is not None:
        d_col += tl.load(d_g + j, mask=j < m, other=0.0).to(kind)
    w, kernel = _matrix(cost, inverse, first, j, n, m, LOGS)
    for k in range(TILES):
        i = k * ROWS + first
        inside = (i[:, None] < n) & (j[None, :] < m)
        at = i[:, None] * m + j[None, :]
        w, kernel = _matrix(cost, inverse, i, j, n, m, LOGS)
        if TILES > 1:
            tl.store(d_cost + at, kernel, mask=inside)
        each = w * d_distance.to(kind)
        if d_plan is not None:
            each += tl.load(d_plan + at, mask=inside, other=0.0).to(kind)
        each *= _moved(kernel, _scaling(rows + last * n, i, n, LOGS), v, LOGS)
        d_row = tl.sum(each, 1)
        if d_f is not None:
            d_row += tl.load(d_f + i, mask=i < n, other=0.0).to(kind)
        tl.store(d_rows + last * n + i, d_row, mask=i < n)
        d_col += tl.sum(each, 0)
    if not LOGS:
        d_col *= -v * by_col
    tl.store(d_cols + last * m + j, d_col, mask=j < m)
    tl.debug_barrier()
    t = last
    while t >= 0:
        before = tl.zeros((COLS,), kind)
        start = tl.where(held, 0.0 if LOGS else 1.0, float("-inf") if LOGS else 0.0).to(kind)
        earlier = _scaling(cols + tl.maximum(t - 1, 0) * m, j, m, LOGS)
        earlier = tl.where(t > 0, earlier, start)
        if LOGS:
            v = _scaling(cols + t * m, j, m, LOGS)
            v = tl.where(held, v - tl.log(tl.where(held, total, 1.0)), float("-inf"))
        for k in range(TILES):
            i = k * ROWS + first
            if TILES > 1:
                kernel = _again(d_cost, i, j, n, m, LOGS)
            u = _scaling(rows + t * n, i, n, LOGS)
            mass = _weight(a, 1.0, i, n)
            by_row = tl.where(mass > 0, 1.0 / tl.where(mass > 0, mass, 1.0), 0.0).to(kind)
            d_row = tl.load(d_rows + t * n + i, mask=i < tl.where(t == last, n, 0), other=0.0)
            if LOGS:
                d_row -= tl.sum(_moved(kernel, u, v, LOGS) * d_col[None, :], 1)
                less = tl.where(mass > 0, u - tl.log(tl.where(mass > 0, mass, 1.0)), float("-inf"))
                before -= tl.sum(_moved(kernel, less, earlier, LOGS) * d_row[:, None], 0)
            else:
                d_row = d_row * tl.where(u > 0, 1.0 / tl.where(u > 0, u, 1.0), 0.0) + tl.sum(kernel * d_col[None, :], 1)
                d_row *= -u * u * by_row
                before += tl.sum(kernel * d_row[:, None], 0)
            tl.store(d_rows + t * n + i, d_row, mask=i < n)
        d_col = before if LOGS else -before * earlier * earlier * by_col
        tl.store(d_cols + (t - 1) * m + j, d_col, mask=j < tl.where(t > 0, m, 0))
        tl.debug_barrier()
        t -= 1
    v = _scaling(cols + last * m, j, m, LOGS)
    for k in range(TILES):
        i = k * ROWS + first
        inside = (i[:, None] < n) & (j[None, :] < m)
        at = i[:, None] * m + j[None, :]
        w, kernel = _matrix(cost, inverse, i, j, n, m, LOGS)
        mass = _weight(a, 1.0, i, n)
        slope = tl.zeros((ROWS, COLS), kind)
        t = 0
        while t < done:
            u = _scaling(rows + t * n, i, n, LOGS)
            d_row = tl.load(d_rows + t * n + i, mask=i < n, other=0.0)
            d_col = tl.load(d_cols + t * m + j, mask=j < m, other=0.0)
            start = tl.where(held, 0.0 if LOGS else 1.0, float("-inf") if LOGS else 0.0).to(kind)
            earlier = tl.where(t > 0, _scaling(cols + tl.maximum(t - 1, 0) * m, j, m, LOGS), start)
            if LOGS:
                less = tl.where(mass > 0, u - tl.log(tl.where(mass > 0, mass, 1.0)), float("-inf"))
                now = _scaling(cols + t * m, j, m, LOGS)
                now = tl.where(held, now - tl.log(tl.where(held, total, 1.0)), float("-inf"))
                slope -= _moved(kernel, u, now, LOGS) * d_col[None, :]
                slope -= _moved(kernel, less, earlier, LOGS) * d_row[:, None]
            else:
                slope += u[:, None] * d_col[None, :] + d_row[:, None] * earlier[None, :]
            t += 1
        if not LOGS:
            slope *= kernel
        moved = _moved(kernel, _scaling(rows + last * n, i, n, LOGS), v, LOGS)
        each = w * d_distance.to(kind)
        if d_plan is not None:
            each += tl.load(d_plan + at, mask=inside, other=0.0).to(kind)
        result = moved * d_distance.to(kind) - (slope + moved * each) * tl.full((), inverse, kind)
        tl.store(d_cost + at, result, mask=inside)
