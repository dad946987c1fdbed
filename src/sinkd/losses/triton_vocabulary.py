"""Triton kernels of ground costs between rows as wide as a vocabulary, from their logits, read in their own type.

Nothing as large as the logits is stored: rows are softened where they are used. Pairs that differ little are compared
through the difference t of their log-probabilities, as p - q = q (exp(t) - 1): float32 probabilities would differ by
rounding alone.
"""

from __future__ import annotations

import triton
import triton.language as tl

APART = 1e-2
"""Squared distance, relative to squared lengths, below which pairs are compared by differences, not by products."""


@triton.jit
def _columns(logits, row, inside, column, width, by_t, total):
    """Log-probabilities (rows, columns) of softened logits, float32."""
    at = row[:, None].to(tl.int64) * width + column[None, :]
    z = tl.load(logits + at, mask=inside[:, None] & (column[None, :] < width), other=float("-inf")).to(tl.float32)
    return z * by_t - total[:, None], z


@triton.jit
def _difference(p, q, t):
    """p - q, where t = log p - log q, without cancellation."""
    small = tl.abs(t) < 0.25
    t = tl.where(small, t, 0.0)
    series = t * (1 + t / 2 * (1 + t / 3 * (1 + t / 4 * (1 + t / 5 * (1 + t / 6)))))
    return tl.where(small, q * series, p - q)


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
def products(
    x, y, x_total, y_total, partial, by_t, n, m, width, share,
    ROWS: tl.constexpr, COLS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Inner products of all pairs of rows over one share of the vocabulary, by tensor cores in three passes of TF32."""
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.program_id(1) * COLS + tl.arange(0, COLS)
    first = tl.program_id(2) * share
    xt = tl.load(x_total + i, mask=i < n, other=0.0).to(tl.float32)
    yt = tl.load(y_total + j, mask=j < m, other=0.0).to(tl.float32)
    result = tl.zeros((ROWS, COLS), tl.float32)
    k = 0
    while k < share:
        column = first + k + tl.arange(0, BLOCK)
        own, _z = _columns(x, i, i < n, column, width, by_t, xt)
        other, _z = _columns(y, j, j < m, column, width, by_t, yt)
        result = tl.dot(tl.exp(own), tl.trans(tl.exp(other)), result, input_precision="tf32x3")
        k += BLOCK
    at = (tl.program_id(2).to(tl.int64) * n + i[:, None]) * m + j[None, :]
    tl.store(partial + at, result, mask=(i[:, None] < n) & (j[None, :] < m))


@triton.jit
def _sinhc(a):
    """sinh(a) / a, and its derivative, for 0 < a of order 1, float64."""
    grown = tl.exp(a)
    value = (grown - 1 / grown) / (2 * a)
    return value, ((grown + 1 / grown) / 2 - value) / a


@triton.jit
def lorentz(
    x, y, x_total, y_total, x_square, y_square, partial, square, rise, cost,
    by_t, root: tl.float64, n, m, width, shares, apart,
    COLS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Geodesic distances of one row to COLS others; pairs that are near are compared by their differences."""
    i = tl.program_id(0).to(tl.int64)
    j = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = j < m
    own = tl.load(x_square + i)
    other = tl.load(y_square + j, mask=inside, other=1.0)
    both = tl.zeros((COLS,), tl.float64)
    s = 0
    while s < shares:
        both += tl.load(partial + (s * n + i) * m + j, mask=inside, other=0.0).to(tl.float64)
        s += 1
    xt = tl.load(x_total + i)
    yt = tl.load(y_total + j, mask=inside, other=0.0)
    # probabilities were made with totals rounded to float32
    both *= tl.exp(xt.to(tl.float32).to(tl.float64) - xt + yt.to(tl.float32).to(tl.float64) - yt)
    d = own + other - 2 * both
    r = own - other
    near = inside & (d < apart * (own + other))
    if tl.sum(near.to(tl.int32), 0) > 0:
        for k in range(COLS):
            if tl.sum(tl.where(j == tl.program_id(1) * COLS + k, near.to(tl.int32), 0), 0) > 0:
                at = tl.program_id(1).to(tl.int64) * COLS + k
                total = tl.load(y_total + at)
                squares = tl.zeros((BLOCK,), tl.float64)
                rises = tl.zeros((BLOCK,), tl.float64)
                c = 0
                while c < width:
                    column = c + tl.arange(0, BLOCK)
                    z = tl.load(x + i * width + column, mask=column < width, other=float("-inf")).to(tl.float32)
                    w = tl.load(y + at * width + column, mask=column < width, other=float("-inf")).to(tl.float32)
                    p = tl.exp(z * by_t - xt.to(tl.float32))
                    q = tl.exp(w * by_t - total.to(tl.float32))
                    t = (tl.where(z == w, 0.0, z - w) * by_t).to(tl.float64) - (xt - total)
                    gap = _difference(p, q, t.to(tl.float32)).to(tl.float64)
                    squares += gap * gap
                    rises += gap * (p + q).to(tl.float64)
                    c += BLOCK
                d = tl.where(j == at, tl.sum(squares, 0), d)
                r = tl.where(j == at, tl.sum(rises, 0), r)
    same = d < 1e-24 * (own + other)
    d = tl.where(same, 0.0, d)
    r = tl.where(same, 0.0, r)
    rx = tl.sqrt(own)
    ry = tl.sqrt(other)
    gap = r / (rx + ry)
    half = tl.exp(gap * root / 2)
    sinh = (half - 1 / half) / 2
    x_sinhc, _unused = _sinhc(rx * root)
    y_sinhc, _unused = _sinhc(ry * root)
    z = sinh * sinh + root * root / 4 * x_sinhc * y_sinhc * (d - gap * gap)
    z = tl.where(same, 0.0, tl.maximum(z, 0.0))
    result = 2 / root * tl.log(tl.sqrt(z) + tl.sqrt(1 + z))
    tl.store(square + i * m + j, tl.where(near, -d, d), mask=inside)  # the sign tells which pairs are near
    tl.store(rise + i * m + j, r, mask=inside)
    tl.store(cost + i * m + j, result.to(tl.float32), mask=inside)


@triton.jit
def lorentz_slopes(
    x_square, y_square, square, rise, d_cost, far, near, own, mean, root: tl.float64, n, m, COLS: tl.constexpr,
):  # fmt: skip
    """What one row's gradient is made of: weights of far and near rows, of the row itself, and the softmax's mean.

    dL/dp_i = own_i p_i - sum_j far_ij q_j + sum_j near_ij (p_i - q_j).
    """
    i = tl.program_id(0).to(tl.int64)
    rx2 = tl.load(x_square + i)
    rx = tl.sqrt(rx2)
    x_sinhc, x_slope = _sinhc(rx * root)
    total = tl.full((), 0.0, tl.float64)
    along = tl.full((), 0.0, tl.float64)
    k = 0
    while k < m:
        j = k + tl.arange(0, COLS)
        inside = j < m
        ry2 = tl.load(y_square + j, mask=inside, other=1.0)
        ry = tl.sqrt(ry2)
        y_sinhc, _unused = _sinhc(ry * root)
        d = tl.load(square + i * m + j, mask=inside, other=0.0)
        r = tl.load(rise + i * m + j, mask=inside, other=0.0)
        w = tl.load(d_cost + i * m + j, mask=inside, other=0.0).to(tl.float64)
        is_near = d <= 0
        d = tl.abs(d)
        gap = r / (rx + ry)
        half = tl.exp(gap * root / 2)
        sinh = (half - 1 / half) / 2
        cosh = (half + 1 / half) / 2
        steep = root * root / 4 * x_sinhc * y_sinhc
        z = sinh * sinh + steep * (d - gap * gap)
        w = tl.where(z > 0, w / (root * tl.sqrt(tl.where(z > 0, z * (1 + z), 1.0))), 0.0)  # dL/dz
        across = 2 * w * steep
        by_gap = w * (root * sinh * cosh - 2 * steep * gap)
        by_length = w * root * root * root / 4 * x_slope * y_sinhc * (d - gap * gap) - by_gap * gap / (rx + ry)
        itself = 2 * by_gap / (rx + ry) + by_length / rx
        tl.store(far + i * m + j, tl.where(is_near, 0.0, across).to(tl.float32), mask=inside)
        tl.store(near + i * m + j, tl.where(is_near, across, 0.0).to(tl.float32), mask=inside)
        both = (rx2 + ry2 - d) / 2
        total += tl.sum(itself + tl.where(is_near, 0.0, across), 0)
        along += tl.sum(itself * rx2 + tl.where(is_near, across * (d + r) / 2, across * (rx2 - both)), 0)
        k += COLS
    tl.store(own + i, total)
    tl.store(mean + i, along)


@triton.jit
def lorentz_pull(
    x, y, x_total, y_total, far, near, own, mean, d_x, by_t, n, m, width,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """The gradient with respect to ROWS x BLOCK of the student's logits."""
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    xt = tl.load(x_total + i, mask=i < n, other=0.0)
    own_log, z = _columns(x, i, i < n, column, width, by_t, xt.to(tl.float32))
    p = tl.exp(own_log)
    pulled = tl.zeros((ROWS, BLOCK), tl.float32)
    direct = tl.zeros((ROWS, BLOCK), tl.float32)
    k = 0
    while k < m:
        j = k + tl.arange(0, COLS)
        yt = tl.load(y_total + j, mask=j < m, other=0.0)
        other, _z = _columns(y, j, j < m, column, width, by_t, yt.to(tl.float32))
        at = i[:, None].to(tl.int64) * m + j[None, :]
        inside = (i[:, None] < n) & (j[None, :] < m)
        weight = tl.load(far + at, mask=inside, other=0.0)
        pulled = tl.dot(weight, tl.exp(other), pulled, input_precision="tf32x3")
        close = tl.max(tl.abs(tl.load(near + at, mask=inside, other=0.0)), 0)
        if tl.max(close, 0) > 0:
            for c in range(COLS):
                if tl.max(tl.where(j == k + c, close, 0.0), 0) > 0:
                    total = tl.load(y_total + k + c)
                    row = tl.load(
                        y + (tl.full((), k, tl.int64) + c) * width + column, mask=column < width, other=float("-inf")
                    )
                    row = row.to(tl.float32)
                    q = tl.exp(row * by_t - total.to(tl.float32))
                    t = tl.where(z == row[None, :], 0.0, z - row[None, :]) * by_t - (xt - total).to(tl.float32)[:, None]
                    weight_near = tl.load(near + i.to(tl.int64) * m + k + c, mask=i < n, other=0.0)
                    direct += weight_near[:, None] * _difference(p, q[None, :], t)
        k += COLS
    a = tl.load(own + i, mask=i < n, other=0.0).to(tl.float32)
    b = tl.load(mean + i, mask=i < n, other=0.0).to(tl.float32)
    result = p * (a[:, None] * p - pulled + direct - b[:, None]) * by_t
    at = i[:, None].to(tl.int64) * width + column[None, :]
    tl.store(d_x + at, result.to(d_x.dtype.element_ty), mask=(i[:, None] < n) & (column[None, :] < width))


@triton.jit
def _compared(x, y, x_total, y_total, i, j, column, n, m, width, by_t):
    """p, q and p - q of ROWS x COLS pairs, (ROWS, 1, BLOCK), (1, COLS, BLOCK) and (ROWS, COLS, BLOCK)."""
    xt = tl.load(x_total + i, mask=i < n, other=0.0)
    yt = tl.load(y_total + j, mask=j < m, other=0.0)
    own, z = _columns(x, i, i < n, column, width, by_t, xt.to(tl.float32))
    other, w = _columns(y, j, j < m, column, width, by_t, yt.to(tl.float32))
    p = tl.exp(own)[:, None, :]
    q = tl.exp(other)[None, :, :]
    z = z[:, None, :]
    w = w[None, :, :]
    t = tl.where(z == w, 0.0, z - w) * by_t - (xt[:, None] - yt[None, :]).to(tl.float32)[:, :, None]
    return p, _difference(p, q, t)


@triton.jit
def l1(
    x, y, x_total, y_total, cost, drift, by_t, n, m, width, share,
    ROWS: tl.constexpr, COLS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """sum_c |p_c - q_c| and sum_c p_c sign(p_c - q_c) of all pairs of rows over one share of the vocabulary."""
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.program_id(1) * COLS + tl.arange(0, COLS)
    total = tl.zeros((ROWS, COLS, BLOCK), tl.float32)
    signed = tl.zeros((ROWS, COLS, BLOCK), tl.float32)
    k = 0
    while k < share:
        column = tl.program_id(2) * share + k + tl.arange(0, BLOCK)
        p, gap = _compared(x, y, x_total, y_total, i, j, column, n, m, width, by_t)
        total += tl.abs(gap)
        signed += tl.where(gap > 0, p, tl.where(gap < 0, -p, 0.0))
        k += BLOCK
    at = (tl.program_id(2).to(tl.int64) * n + i[:, None]) * m + j[None, :]
    inside = (i[:, None] < n) & (j[None, :] < m)
    tl.store(cost + at, tl.sum(total, 2), mask=inside)
    tl.store(drift + at, tl.sum(signed, 2), mask=inside)


@triton.jit
def l1_pull(
    x, y, x_total, y_total, weights, mean, d_x, by_t, n, m, width,
    ROWS: tl.constexpr, COLS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient with respect to ROWS x BLOCK of the student's logits."""
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    pulled = tl.zeros((ROWS, COLS, BLOCK), tl.float32)
    k = 0
    while k < m:
        j = k + tl.arange(0, COLS)
        at = i[:, None].to(tl.int64) * m + j[None, :]
        w = tl.load(weights + at, mask=(i[:, None] < n) & (j[None, :] < m), other=0.0)[:, :, None]
        _p, gap = _compared(x, y, x_total, y_total, i, j, column, n, m, width, by_t)
        pulled += tl.where(gap > 0, w, tl.where(gap < 0, -w, 0.0))
        k += COLS
    xt = tl.load(x_total + i, mask=i < n, other=0.0).to(tl.float32)
    own, _z = _columns(x, i, i < n, column, width, by_t, xt)
    b = tl.load(mean + i, mask=i < n, other=0.0).to(tl.float32)
    result = tl.exp(own) * (tl.sum(pulled, 1) - b[:, None]) * by_t
    at = i[:, None].to(tl.int64) * width + column[None, :]
    tl.store(d_x + at, result.to(d_x.dtype.element_ty), mask=(i[:, None] < n) & (column[None, :] < width))
