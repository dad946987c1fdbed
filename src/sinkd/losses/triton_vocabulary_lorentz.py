"""Triton kernels of the Lorentz distance between rows as wide as a vocabulary; see `triton_vocabulary.py`.

Inner products of all pairs come from tensor cores, which is enough where rows are far apart. Near pairs are compared by
their differences, in the same launch that finds them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_vocabulary import compare, difference, logit_tile, logits_at, sum_of_shares

APART = 1e-2
"""Squared distance, relative to squared lengths, below which pairs are compared by differences, not by products."""


@triton.jit
def products(
    x, y, x_total, y_total, partial, by_t, n, m, width, share,
    ROWS: tl.constexpr, COLS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Inner products of all pairs of rows over one share of the vocabulary, by tensor cores in three passes of TF32."""
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.program_id(1) * COLS + tl.arange(0, COLS)
    xt = tl.load(x_total + i, mask=i < n, other=0.0).to(tl.float32)
    yt = tl.load(y_total + j, mask=j < m, other=0.0).to(tl.float32)
    result = tl.zeros((ROWS, COLS), tl.float32)
    k = 0
    while k < share:
        column = tl.program_id(2) * share + k + tl.arange(0, BLOCK)
        p = tl.exp(logit_tile(x, i, n, column, width) * by_t - xt[:, None])
        q = tl.exp(logit_tile(y, j, m, column, width) * by_t - yt[:, None])
        result = tl.dot(p, tl.trans(q), result, input_precision="tf32x3")
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
    both = sum_of_shares(partial, i, j, n, m, shares)
    xt = tl.load(x_total + i)
    yt = tl.load(y_total + j, mask=inside, other=0.0)
    # probabilities were made with totals rounded to float32
    both *= tl.exp(xt.to(tl.float32).to(tl.float64) - xt + yt.to(tl.float32).to(tl.float64) - yt)
    d = own + other - 2 * both
    r = own - other
    near = inside & (d < apart * (own + other))
    if tl.max(near.to(tl.int32), 0) > 0:
        for k in range(COLS):
            at = tl.program_id(1).to(tl.int64) * COLS + k
            if tl.max(tl.where(j == at, near.to(tl.int32), 0), 0) > 0:
                found = compare(x + i * width, y + at * width, xt, tl.load(y_total + at), by_t, width, BLOCK)
                d = tl.where(j == at, found[0], d)
                r = tl.where(j == at, found[1], r)
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
def lorentz_pull_near(
    x, y, x_total, y_total, near, d_x, by_t, n, m, width, COLS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What the near rows add to the gradient of BLOCK of one row's logits, by differences."""
    i = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    xt = tl.load(x_total + i)
    z = logits_at(x + i * width, column, column < width)
    p = tl.exp(z * by_t - xt.to(tl.float32))
    result = tl.zeros((BLOCK,), tl.float32)
    k = 0
    while k < m:
        j = k + tl.arange(0, COLS)
        weight = tl.load(near + i * m + j, mask=j < m, other=0.0)
        if tl.max(tl.abs(weight), 0) > 0:
            for c in range(COLS):
                one = tl.sum(tl.where(j == k + c, weight, 0.0), 0)
                if tl.abs(one) > 0:
                    yt = tl.load(y_total + k + c)
                    w = logits_at(y + (tl.full((), k, tl.int64) + c) * width, column, column < width)
                    q = tl.exp(w * by_t - yt.to(tl.float32))
                    result += one * difference(p, q, (z - w) * by_t - (xt - yt).to(tl.float32))
        k += COLS
    tl.store(d_x + i * width + column, (result * p * by_t).to(d_x.dtype.element_ty), mask=column < width)


@triton.jit
def lorentz_pull(
    x, y, x_total, y_total, far, own, mean, d_x, by_t, n, m, width,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Add what the far rows and the row itself add to the gradient of ROWS x BLOCK of the student's logits."""
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    pulled = tl.zeros((ROWS, BLOCK), tl.float32)
    k = 0
    while k < m:
        j = k + tl.arange(0, COLS)
        yt = tl.load(y_total + j, mask=j < m, other=0.0).to(tl.float32)
        q = tl.exp(logit_tile(y, j, m, column, width) * by_t - yt[:, None])
        at = i[:, None].to(tl.int64) * m + j[None, :]
        weight = tl.load(far + at, mask=(i[:, None] < n) & (j[None, :] < m), other=0.0)
        pulled = tl.dot(weight, q, pulled, input_precision=PRECISION)
        k += COLS
    xt = tl.load(x_total + i, mask=i < n, other=0.0).to(tl.float32)
    a = tl.load(own + i, mask=i < n, other=0.0).to(tl.float32)
    b = tl.load(mean + i, mask=i < n, other=0.0).to(tl.float32)
    p = tl.exp(logit_tile(x, i, n, column, width) * by_t - xt[:, None])
    at = i[:, None].to(tl.int64) * width + column[None, :]
    inside = (i[:, None] < n) & (column[None, :] < width)
    result = p * (a[:, None] * p - pulled - b[:, None]) * by_t
    result += tl.load(d_x + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(d_x + at, result.to(d_x.dtype.element_ty), mask=inside)
