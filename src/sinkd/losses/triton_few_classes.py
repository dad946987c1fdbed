"""Triton kernels of the Sinkhorn loss of few classes: from logits to the loss, and from its gradient to theirs.

One program computes one batch of rows, as `transport/triton_iteration.py` solves one problem. Rows are softened and
compared in float64, since differences of nearly equal float32 probabilities are mostly rounding. The mathematics is
that of `transport/cost.py` and `transport/few_classes.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..transport.triton_iteration import reverse_one, solve_one

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
    return (total * 0.5).to(tl.float32)


@triton.jit
def _by_sinh(above):
    """1 / sinh(distance); 0 for distances below 1e-12, which count as 0."""
    square = above * (above + 2.0)
    return tl.where(square > 1e-24, 1.0 / tl.sqrt(tl.where(square > 1e-24, square, 1.0)), 0.0)


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
def forward(
    x, y, mask, b_each, cost, plan, rows, cols, loss, fine, factor, by_t: tl.float64, root: tl.float64, pairing,
    inverse: tl.float64, n, m, n_iters, classes: tl.constexpr,
    COST: tl.constexpr, LOGS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    x += batch * n * classes
    y += batch * m * classes
    cost += batch * n * m
    j = tl.arange(0, COLS)
    y_total, y_fine = _log_total(y, j, m, classes, by_t)
    x_fine = tl.full((), 1, tl.int32)
    for k in range(TILES):
        i = k * ROWS + tl.arange(0, ROWS)
        x_total, i_fine = _log_total(x, i, n, classes, by_t)
        x_fine = tl.minimum(x_fine, tl.min(i_fine.to(tl.int32), 0))
        if COST == 2:
            above = _above(x, y, x_total, y_total, i, j, n, m, classes, by_t, root)
            sinh = tl.sqrt(above * (above + 2.0)).to(tl.float64)
            w = (tl.log(1.0 + above.to(tl.float64) + sinh) / tl.full((), root, tl.float64)).to(tl.float32)
        else:
            w = _flat(x, y, x_total, y_total, i, j, n, m, classes, by_t, COST)
        w += tl.where(i[:, None] != j[None, :], tl.full((), pairing, tl.float32), 0.0)
        inside = (i[:, None] < n) & (j[None, :] < m)
        tl.store(cost + i[:, None] * m + j[None, :], w.to(cost.dtype.element_ty), mask=inside)
    tl.store(fine + 2 * batch, x_fine)
    tl.store(fine + 2 * batch + 1, tl.min(y_fine.to(tl.int32), 0))
    tl.debug_barrier()
    weights = mask if mask is None else mask + batch * n
    distance, _ = solve_one(
        cost, weights, weights, b_each, plan + batch * n * m, rows + batch * n_iters * n, cols + batch * n_iters * m,
        inverse, n, m, n_iters, None, LOGS, ROWS, COLS, TILES,
    )  # fmt: skip
    tl.store(loss + batch, (distance * factor).to(tl.float32))


@triton.jit
def backward(
    x, y, mask, b_each, cost, plan, rows, cols, d_loss, factor, by_t: tl.float64, root: tl.float64,
    inverse: tl.float64, d_cost, d_rows, d_cols, d_p, d_x, n, m, n_iters, classes: tl.constexpr,
    UNROLL: tl.constexpr, COST: tl.constexpr, LOGS: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    x += batch * n * classes
    y += batch * m * classes
    d_x += batch * n * classes
    d_p += batch * n * classes
    d_cost += batch * n * m
    upstream = tl.load(d_loss + batch).to(tl.float64) * factor
    if UNROLL:
        weights = mask if mask is None else mask + batch * n
        reverse_one(
            cost + batch * n * m, weights, weights, b_each, rows + batch * n_iters * n, cols + batch * n_iters * m,
            d_rows + batch * n_iters * n, d_cols + batch * n_iters * m, None, None, None, upstream, d_cost, inverse,
            n, m, n_iters, LOGS, ROWS, COLS, TILES,
        )  # fmt: skip
        tl.debug_barrier()
    j = tl.arange(0, COLS)
    y_total, _y_fine = _log_total(y, j, m, classes, by_t)
    y_sinhc, y_time, _y_bend = _lift(y, y_total, j, m, classes, by_t, root)
    for k in range(TILES):
        i = k * ROWS + tl.arange(0, ROWS)
        inside = (i[:, None] < n) & (j[None, :] < m)
        at = i[:, None] * m + j[None, :]
        if UNROLL:
            weight = tl.load(d_cost + at, mask=inside, other=0.0).to(tl.float32)
        else:
            weight = (tl.load(plan + batch * n * m + at, mask=inside, other=0.0) * upstream).to(tl.float32)
        x_total, _x_fine = _log_total(x, i, n, classes, by_t)
        x_sinhc, x_time, bend = _lift(x, x_total, i, n, classes, by_t, root)
        to_time = tl.zeros((ROWS,), tl.float64)
        if COST == 2:
            weight *= _by_sinh(_above(x, y, x_total, y_total, i, j, n, m, classes, by_t, root))
            to_time -= tl.sum(weight * (x_time[:, None] - y_time[None, :]).to(tl.float32), 1).to(tl.float64)
        along = tl.zeros((ROWS,), tl.float64)
        for c in range(classes):
            p = _probability(x, x_total, i, n, c, classes, by_t)
            q = _probability(y, y_total, j, m, c, classes, by_t)
            if COST == 2:
                p *= x_sinhc * root
                q *= y_sinhc * root
            apart = (p[:, None] - q[None, :]).to(tl.float32)
            if COST == 0:
                apart = tl.where(apart > 0, 1.0, tl.where(apart < 0, -1.0, 0.0))
            pull = tl.sum(weight * apart, 1).to(tl.float64) * (2.0 if COST == 1 else 1.0)
            along += pull * _probability(x, x_total, i, n, c, classes, by_t) * root
            tl.store(d_p + i * classes + c, pull, mask=i < n)
        tl.debug_barrier()
        mean = tl.zeros((ROWS,), tl.float64)
        for c in range(classes):
            p = _probability(x, x_total, i, n, c, classes, by_t)
            mean += p * _d_probability(d_p, i, n, c, classes, p, root, x_sinhc, along * bend + to_time * x_sinhc, COST)
        for c in range(classes):
            p = _probability(x, x_total, i, n, c, classes, by_t)
            d = _d_probability(d_p, i, n, c, classes, p, root, x_sinhc, along * bend + to_time * x_sinhc, COST)
            tl.store(d_x + i * classes + c, (p * (d - mean) * by_t).to(tl.float32).to(d_x.dtype.element_ty), mask=i < n)


@triton.jit
def _d_probability(d_p, index, count, c, classes, p, root, sinhc, stretch, COST: tl.constexpr):
    """The derivative with respect to column c of the softened rows, through their lift."""
    pull = tl.load(d_p + index * classes + c, mask=index < count, other=0.0)
    return pull * sinhc + p * root * stretch if COST == 2 else pull
