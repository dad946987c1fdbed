"""Triton kernels of ground costs between rows as wide as a vocabulary, from their logits, read in their own type.

Nothing as large as the logits is stored: rows are softened where they are used. Pairs that differ little are compared
through the difference t of their log-probabilities, as p - q = q (exp(t) - 1): float32 probabilities would differ by
rounding alone.
"""

from __future__ import annotations

import triton
import triton.language as tl

NEAR_L1 = 0.2
"""Sum of absolute differences below which those of float32 probabilities have too few digits."""


@triton.jit
def logits_at(logits, at, inside):
    """Logits in float32. Impossible classes get a number, which may be subtracted from itself."""
    return tl.maximum(tl.load(logits + at, mask=inside, other=float("-inf")).to(tl.float32), -1e30)


@triton.jit
def logit_tile(logits, row, rows, column, width):
    """Logits of rows and columns."""
    at = row[:, None].to(tl.int64) * width + column[None, :]
    return logits_at(logits, at, (row[:, None] < rows) & (column[None, :] < width))


@triton.jit
def difference(p, q, t):
    """p - q, where t = log p - log q, without cancellation."""
    small = tl.abs(t) < 0.25
    t = tl.where(small, t, 0.0)
    series = t * (1 + t / 2 * (1 + t / 3 * (1 + t / 4 * (1 + t / 5 * (1 + t / 6)))))
    return tl.where(small, q * series, p - q)


@triton.jit
def compare(x, y, x_total, y_total, by_t, width, BLOCK: tl.constexpr):
    """Of two rows p and q: sum (p - q)^2, sum (p - q)(p + q) and sum |p - q|, float64."""
    squares = tl.zeros((BLOCK,), tl.float64)
    rises = tl.zeros((BLOCK,), tl.float64)
    gaps = tl.zeros((BLOCK,), tl.float64)
    k = 0
    while k < width:
        column = k + tl.arange(0, BLOCK)
        z = logits_at(x, column, column < width)
        w = logits_at(y, column, column < width)
        p = tl.exp(z * by_t - x_total.to(tl.float32))
        q = tl.exp(w * by_t - y_total.to(tl.float32))
        t = ((z - w) * by_t).to(tl.float64) - (x_total - y_total)
        gap = difference(p, q, t.to(tl.float32)).to(tl.float64)
        squares += gap * gap
        rises += gap * (p + q).to(tl.float64)
        gaps += tl.abs(gap)
        k += BLOCK
    return tl.sum(squares, 0), tl.sum(rises, 0), tl.sum(gaps, 0)


@triton.jit
def sum_of_shares(partial, i, j, n, m, shares):
    """Row i, columns j of the sum of `shares` matrices (n, m), float64."""
    total = tl.zeros(j.shape, tl.float64)
    s = 0
    while s < shares:
        total += tl.load(partial + (s * n + i) * m + j, mask=j < m, other=0.0).to(tl.float64)
        s += 1
    return total


@triton.jit
def totals(logits, log_total, square, by_t: tl.float64, width, BLOCK: tl.constexpr):
    """Per row: logsumexp of the softened logits, and the squared length of the probabilities, float64."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    odd = tl.zeros((BLOCK,), tl.int32)
    k = 0
    while k < width:
        z = tl.load(logits + row * width + k + column, mask=k + column < width, other=float("-inf")).to(tl.float32)
        top = tl.maximum(top, z)
        odd += (z != z).to(tl.int32)
        k += BLOCK
    largest = tl.max(top, 0).to(tl.float64)
    one = tl.zeros((BLOCK,), tl.float64)
    two = tl.zeros((BLOCK,), tl.float64)
    k = 0
    while k < width:
        z = tl.load(logits + row * width + k + column, mask=k + column < width, other=float("-inf")).to(tl.float64)
        p = tl.exp((z - largest) * by_t)
        one += p
        two += p * p
        k += BLOCK
    whole = tl.sum(one, 0)
    fine = (tl.sum(odd, 0) == 0) & (tl.abs(largest) < float("inf"))
    tl.store(log_total + row, tl.where(fine, largest * by_t + tl.log(whole), float("nan")))
    tl.store(square + row, tl.sum(two, 0) / (whole * whole))


@triton.jit
def _signed(size, t):
    """A number with its sign changed where t is negative."""
    flip = t.to(tl.int32, bitcast=True) & -2147483648
    return (size.to(tl.int32, bitcast=True) ^ flip).to(tl.float32, bitcast=True)


@triton.jit
def l1_shares(
    x, y, x_total, y_total, cost, drift, by_t, n, m, width, share,
    ROWS: tl.constexpr, COLS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """sum_c |p_c - q_c| and sum_c p_c sign(p_c - q_c) of all pairs of rows over one share of the vocabulary."""
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.program_id(1) * COLS + tl.arange(0, COLS)
    xt = tl.load(x_total + i, mask=i < n, other=0.0)
    yt = tl.load(y_total + j, mask=j < m, other=0.0)
    ahead = (xt[:, None] - yt[None, :]).to(tl.float32)[:, :, None]
    # float32 holds totals to 1e-6 alone, which would scale whole rows
    x_scale = tl.exp(xt.to(tl.float32).to(tl.float64) - xt).to(tl.float32)[:, None]
    y_scale = tl.exp(yt.to(tl.float32).to(tl.float64) - yt).to(tl.float32)[:, None]
    total = tl.zeros((ROWS, COLS, BLOCK), tl.float32)
    signed = tl.zeros((ROWS, COLS, BLOCK), tl.float32)
    k = 0
    while k < share:
        column = tl.program_id(2) * share + k + tl.arange(0, BLOCK)
        z = logit_tile(x, i, n, column, width)
        w = logit_tile(y, j, m, column, width)
        p = (tl.exp(z * by_t - xt.to(tl.float32)[:, None]) * x_scale)[:, None, :]
        q = (tl.exp(w * by_t - yt.to(tl.float32)[:, None]) * y_scale)[None, :, :]
        t = (z[:, None, :] - w[None, :, :]) * by_t - ahead
        total += tl.abs(p - q)
        signed += _signed(tl.broadcast_to(p, (ROWS, COLS, BLOCK)), t)
        k += BLOCK
    at = (tl.program_id(2).to(tl.int64) * n + i[:, None]) * m + j[None, :]
    inside = (i[:, None] < n) & (j[None, :] < m)
    tl.store(cost + at, tl.sum(total, 2), mask=inside)
    tl.store(drift + at, tl.sum(signed, 2), mask=inside)


@triton.jit
def l1(
    x, y, x_total, y_total, partial, partial_drift, cost, drift, exact, by_t, n, m, width, shares, near_below,
    COLS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Distances of one row to COLS others; pairs that are near are compared by their differences."""
    i = tl.program_id(0).to(tl.int64)
    j = tl.program_id(1) * COLS + tl.arange(0, COLS)
    d = sum_of_shares(partial, i, j, n, m, shares)
    near = (j < m) & (d < near_below)
    if tl.max(near.to(tl.int32), 0) > 0:
        xt = tl.load(x_total + i)
        for k in range(COLS):
            at = tl.program_id(1).to(tl.int64) * COLS + k
            if tl.max(tl.where(j == at, near.to(tl.int32), 0), 0) > 0:
                found = compare(x + i * width, y + at * width, xt, tl.load(y_total + at), by_t, width, BLOCK)
                d = tl.where(j == at, found[2], d)
    tl.store(cost + i * m + j, d.to(tl.float32), mask=j < m)
    tl.store(exact + i * m + j, d, mask=j < m)
    tl.store(drift + i * m + j, sum_of_shares(partial_drift, i, j, n, m, shares), mask=j < m)


@triton.jit
def l1_pull(
    x, y, x_total, y_total, weights, mean, d_x, by_t, n, m, width,
    ROWS: tl.constexpr, COLS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient with respect to ROWS x BLOCK of the student's logits."""
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    xt = tl.load(x_total + i, mask=i < n, other=0.0)
    z = logit_tile(x, i, n, column, width)
    pulled = tl.zeros((ROWS, COLS, BLOCK), tl.float32)
    k = 0
    while k < m:
        j = k + tl.arange(0, COLS)
        at = i[:, None].to(tl.int64) * m + j[None, :]
        weight = tl.load(weights + at, mask=(i[:, None] < n) & (j[None, :] < m), other=0.0)[:, :, None]
        yt = tl.load(y_total + j, mask=j < m, other=0.0)
        ahead = (xt[:, None] - yt[None, :]).to(tl.float32)[:, :, None]
        t = (z[:, None, :] - logit_tile(y, j, m, column, width)[None, :, :]) * by_t - ahead
        pulled += _signed(tl.broadcast_to(weight, (ROWS, COLS, BLOCK)), t)
        k += COLS
    p = tl.exp(z * by_t - xt.to(tl.float32)[:, None])
    b = tl.load(mean + i, mask=i < n, other=0.0).to(tl.float32)
    result = p * (tl.sum(pulled, 1) - b[:, None]) * by_t
    at = i[:, None].to(tl.int64) * width + column[None, :]
    tl.store(d_x + at, result.to(d_x.dtype.element_ty), mask=(i[:, None] < n) & (column[None, :] < width))
