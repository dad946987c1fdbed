"""Triton kernels of the Sinkhorn loss of few classes: from logits to the loss, and from its gradient to theirs.

One program computes one batch of rows, as `transport/triton_iteration.py` solves one problem. Rows are softened and
compared in float64, since differences of nearly equal float32 probabilities are mostly rounding. The mathematics is
that of `transport/cost.py` and `transport/few_classes.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..transport.triton_iteration import masses, place, reverse_tile, solve_tile

COSTS = {"l1": 0, "sqeuclidean": 1, "lorentz": 2, "poincare": 2}
"""The ground costs that the kernels know."""


@triton.jit
def _log_total(logits, index, count, classes, by_t):
    """logsumexp of softened rows, float64; and whether each row's largest logit is finite."""
    top = tl.full(index.shape, float("-inf"), tl.float64)
    odd = tl.zeros(index.shape, tl.int1)
    for c in range(classes):
        z = tl.load(logits + index * classes + c, mask=index < count, other=0.0).to(tl.float64)
        odd = odd | (z != z)
        top = tl.maximum(top, z)
    fine = (tl.abs(top) < float("inf")) & (odd == 0)
    total = tl.zeros(index.shape, tl.float64)
    for c in range(classes):
        z = tl.load(logits + index * classes + c, mask=index < count, other=0.0).to(tl.float64)
        total += tl.exp((z - top) * by_t)
    return top * by_t + tl.log(total), fine


@triton.jit
def _probability(logits, log_total, index, count, c, classes, by_t):
    """Column c of the softened rows; 0 beyond `count`."""
    z = tl.load(logits + index * classes + c, mask=index < count, other=float("-inf")).to(tl.float64)
    return tl.exp(z * by_t - log_total)


@triton.jit
def _lift(logits, log_total, index, count, classes, by_t, root):
    """Of the rows' points on the hyperboloid, c = 1: sinh(r) / r, time, and (time - sinh(r) / r) / r^2."""
    square = tl.zeros(index.shape, tl.float64)
    for c in range(classes):
        p = _probability(logits, log_total, index, count, c, classes, by_t)
        square += p * p
    square = tl.where(square > 0, square, 1.0) * root * root
    r = tl.sqrt(square)
    grown = tl.exp(r)
    sinhc = (grown - 1 / grown) / (2 * r)
    time = (grown + 1 / grown) / 2
    return sinhc, time, (time - sinhc) / square


@triton.jit
def _above(x, y, x_total, y_total, i, j, n, m, classes, by_t, root):
    """cosh(distance) - 1 of all pairs of points, float32."""
    x_sinhc, x_time, _x_bend = _lift(x, x_total, i, n, classes, by_t, root)
    y_sinhc, y_time, _y_bend = _lift(y, y_total, j, m, classes, by_t, root)
    apart = x_time[:, None] - y_time[None, :]
    total = -apart * apart
    for c in range(classes):
        own = _probability(x, x_total, i, n, c, classes, by_t) * x_sinhc * root
        other = _probability(y, y_total, j, m, c, classes, by_t) * y_sinhc * root
        apart = own[:, None] - other[None, :]
        total += apart * apart
    return tl.maximum(total * 0.5, 0.0).to(tl.float32)


@triton.jit
def _flat(x, y, x_total, y_total, i, j, n, m, classes, by_t, COST: tl.constexpr):
    """l1 or squared Euclidean distances of all pairs of rows, float32."""
    total = tl.zeros((i.shape[0], j.shape[0]), tl.float64)
    for c in range(classes):
        own = _probability(x, x_total, i, n, c, classes, by_t)
        apart = own[:, None] - _probability(y, y_total, j, m, c, classes, by_t)[None, :]
        total += tl.abs(apart) if COST == 0 else apart * apart
    return total.to(tl.float32)


@triton.jit
def _d_probability(d_p, index, count, c, classes, p, root, sinhc, stretch, COST: tl.constexpr):
    """The derivative with respect to column c of the softened rows, through their lift."""
    pull = tl.load(d_p + index * classes + c, mask=index < count, other=0.0)
    return pull * sinhc + p * root * stretch if COST == 2 else pull


@triton.jit
def forward(
    x, y, mask, b_each, kept, plan, loss, shared, counter, factor, by_t: tl.float64, root: tl.float64,
    pairing, inverse: tl.float64, n, m, n_iters, classes: tl.constexpr, COST: tl.constexpr,
    PARTS: tl.constexpr, LOGS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    batch, part, i, j = place(PARTS, ROWS, COLS)
    x += batch * n * classes
    y += batch * m * classes
    x_total, x_fine = _log_total(x, i, n, classes, by_t)
    y_total, y_fine = _log_total(y, j, m, classes, by_t)
    tl.device_assert(x_fine, "student logits hold NaN, +inf, or a row of -inf throughout")
    tl.device_assert(y_fine, "teacher logits hold NaN, +inf, or a row of -inf throughout")
    if COST == 2:
        above = _above(x, y, x_total, y_total, i, j, n, m, classes, by_t, root)
        sinh = tl.sqrt(above * (above + 2.0)).to(tl.float64)
        w = (tl.log(1.0 + above.to(tl.float64) + sinh) / tl.full((), root, tl.float64)).to(tl.float32)
    else:
        w = _flat(x, y, x_total, y_total, i, j, n, m, classes, by_t, COST)
    w += tl.where(i[:, None] != j[None, :], tl.full((), pairing, tl.float32), 0.0)
    inside = (i[:, None] < n) & (j[None, :] < m)
    w = tl.where(inside, w, 0.0).to(kept.dtype.element_ty)
    at = i[:, None] * m + j[None, :]
    kept += batch * (n * m + n_iters * (n + m))
    tl.store(kept + at, w, mask=inside)
    tl.debug_barrier()
    weights = mask if mask is None else mask + batch * n
    moved, _u, _v, distance, _done = solve_tile(
        kept, masses(weights, 1.0, i, n), masses(weights, b_each, j, m), kept + n * m,
        kept + n * (m + n_iters), shared + batch * 2 * PARTS * COLS, counter + batch, inverse, n, m, n_iters, None,
        part, PARTS, LOGS, ROWS, COLS,
    )  # fmt: skip
    if plan is not None:
        tl.store(plan + batch * n * m + at, moved, mask=inside)
    if part == 0:
        tl.store(loss + batch, (distance * factor).to(tl.float32))


@triton.jit
def backward(
    x, y, mask, b_each, kept, plan, shared, counter, factor, by_t: tl.float64, root: tl.float64,
    inverse: tl.float64, d_p, d_x, n, m, n_iters, classes: tl.constexpr, COST: tl.constexpr,
    PARTS: tl.constexpr, LOGS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    batch, part, i, j = place(PARTS, ROWS, COLS)
    x += batch * n * classes
    y += batch * m * classes
    d_x += batch * n * classes
    d_p += batch * n * classes
    inside = (i[:, None] < n) & (j[None, :] < m)
    at = i[:, None] * m + j[None, :]
    kept += batch * (n * m + n_iters * (n + m))
    upstream = tl.full((), factor, tl.float64)
    if plan is None:
        weights = mask if mask is None else mask + batch * n
        weight = reverse_tile(
            kept, masses(weights, 1.0, i, n), masses(weights, b_each, j, m), kept + n * m,
            kept + n * (m + n_iters), shared + batch * 2 * PARTS * COLS, counter + batch, None,
            tl.zeros((ROWS,), kept.dtype.element_ty), tl.zeros((COLS,), kept.dtype.element_ty), upstream, inverse, n, m,
            n_iters, part, PARTS, LOGS, ROWS, COLS,
        ).to(tl.float32)  # fmt: skip
    else:
        weight = (tl.load(plan + batch * n * m + at, mask=inside, other=0.0) * upstream.to(plan.dtype.element_ty)).to(
            tl.float32
        )
    x_total, _x_fine = _log_total(x, i, n, classes, by_t)
    y_total, _y_fine = _log_total(y, j, m, classes, by_t)
    x_sinhc, x_time, bend = _lift(x, x_total, i, n, classes, by_t, root)
    y_sinhc, y_time, _y_bend = _lift(y, y_total, j, m, classes, by_t, root)
    to_time = tl.zeros((ROWS,), tl.float64)
    if COST == 2:
        above = _above(x, y, x_total, y_total, i, j, n, m, classes, by_t, root)
        square = above * (above + 2.0)
        apart = square > 1e-24  # distances below 1e-12 count as 0
        weight = tl.where(inside & apart, weight / tl.sqrt(tl.where(apart, square, 1.0)), 0.0)
        to_time -= tl.sum(weight * (x_time[:, None] - y_time[None, :]).to(tl.float32), 1).to(tl.float64)
    along = tl.zeros((ROWS,), tl.float64)
    for c in range(classes):
        p = _probability(x, x_total, i, n, c, classes, by_t)
        q = _probability(y, y_total, j, m, c, classes, by_t)
        if COST == 2:
            p *= x_sinhc * root
            q *= y_sinhc * root
        gap = (p[:, None] - q[None, :]).to(tl.float32)
        if COST == 0:
            gap = tl.where(gap > 0, 1.0, tl.where(gap < 0, -1.0, 0.0))
        pull = tl.sum(weight * gap, 1).to(tl.float64) * (2.0 if COST == 1 else 1.0)
        along += pull * _probability(x, x_total, i, n, c, classes, by_t) * root
        tl.store(d_p + i * classes + c, pull, mask=i < n)
    tl.debug_barrier()
    stretch = along * bend + to_time * x_sinhc
    mean = tl.zeros((ROWS,), tl.float64)
    for c in range(classes):
        p = _probability(x, x_total, i, n, c, classes, by_t)
        mean += p * _d_probability(d_p, i, n, c, classes, p, root, x_sinhc, stretch, COST)
    for c in range(classes):
        p = _probability(x, x_total, i, n, c, classes, by_t)
        d = _d_probability(d_p, i, n, c, classes, p, root, x_sinhc, stretch, COST)
        tl.store(d_x + i * classes + c, (p * (d - mean) * by_t).to(tl.float32), mask=i < n)
