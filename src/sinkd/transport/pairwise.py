"""Differences between all rows of one matrix and all rows of another, exact where rows nearly coincide.

Every distance of two points x_i, y_j comes down to a difference vector (where it comes from: `lorentz.py`)

    e_ij = x_i - y_j - rho_ij (s_i x_i + t_j y_j) / 2              without rho: the plain difference

(rho the difference of the rows' lengths, s and t their reciprocals) of which two things are needed: its squared
norm, and on the way back sum_j w_ij e_ij. Expanding either into products cancels all digits where rows are near, and
writing e out takes n m d numbers. So:

- few classes: e is written out, some rows at a time, so that it stays in a core's cache;
- a vocabulary: matrix products in float64, and the pairs whose result is mostly rounding (a student near its
  teacher: the diagonal) once more from their differences;
- on an accelerator, up to a width: differences, a slice at a time. Which pairs are near depends on the values, and
  looking at values stops an accelerator, which is worth it for a vocabulary alone.

All in float64: softmax rows of nearly equal logits differ by less than float32 can tell.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .precision import may_wait

FEW = 64
"""Up to this width rows are written out against each other."""
NEAR = 1e-6
"""Pairs whose squared difference is below this, relative to their squared lengths, are taken once more from their
differences: float64 products are right to about 1e-9 above it."""
CACHE_LIMIT = 2**16
"""Numbers of a temporary on a CPU (512 kB of float64)."""
SLICE_LIMIT = 2**22
"""Numbers of a temporary where there is no cache to fit."""
CHEAP = 2**27
"""Up to so many numbers an accelerator has all differences sooner than a look at values costs it."""


def tiny(like: Tensor) -> float:
    """Below any length that float32 rows have (or that matters in float32), with a finite reciprocal to multiply by."""
    return 1e-100 if like.dtype == torch.float64 else 1e-30


def reciprocal(x: Tensor) -> Tensor:
    """1 / x for x >= 0; large and finite at 0, where what it multiplies is 0."""
    return x.clamp_min(tiny(x)).reciprocal_()


def class_first(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """x as (..., d, n, 1) and y as (..., d, 1, m), in memory too: else their sums inherit the classes innermost."""
    return x.mT.contiguous().unsqueeze(-1), y.mT.contiguous().unsqueeze(-2)


def written_out(
    x: Tensor, y: Tensor, rho: Tensor | None = None, s: Tensor | None = None, t: Tensor | None = None
) -> Tensor:
    """All e_ij, (..., d, n, m): the sum over d then runs along whole matrices, however few classes there are.

    x (..., n, d), y (..., m, d), rho (..., n, m), s (..., n), t (..., m).
    """
    columns, others = class_first(x, y)
    e = columns - others
    if rho is None or s is None or t is None:
        return e
    middle = columns * s.unsqueeze(-1).unsqueeze(-3) + others * t.unsqueeze(-2).unsqueeze(-3)
    return e.addcmul_(middle, rho.unsqueeze(-3), value=-0.5)


def row_blocks(x: Tensor, y: Tensor) -> list[slice]:
    """Rows of x (..., n, d) to write out against all of y (..., m, d) at a time; all under compile, which fuses."""
    n = x.shape[-2]
    if torch.compiler.is_compiling():
        return [slice(0, n)]
    limit = CACHE_LIMIT if x.device.type == "cpu" else SLICE_LIMIT
    step = max(1, limit * n // max(1, x.numel() * y.shape[-2]))
    return [slice(k, min(k + step, n)) for k in range(0, max(n, 1), step)]


def joined(blocks: list[Tensor], dim: int = -2) -> Tensor:
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim)


def squares(x: Tensor, y: Tensor) -> Tensor:
    """norm(x_i - y_j)^2, (..., n, m), of float64 rows x (..., n, d) and y (..., m, d). Not differentiable by itself."""
    if x.shape[-1] > FEW:
        return (_wide_squares_op if torch.compiler.is_compiling() else _wide_squares)(x, y)
    blocks = (written_out(x[..., i, :], y) for i in row_blocks(x, y))
    return joined([e.mul_(e).sum(-3) for e in blocks])


def polar(
    x: Tensor, y: Tensor, rx: Tensor, ry: Tensor, s: Tensor, t: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    """rho = rx_i - ry_j and norm(e_ij)^2, both (..., n, m), for lengths rx, ry and their reciprocals s, t; and e itself
    (..., d, n, m) where it was written out. Differences are float64, then e and its square are `dtype`."""
    if x.shape[-1] > FEW:
        return *(_wide_polar_op if torch.compiler.is_compiling() else _wide_polar)(x, y, rx, ry), None
    columns, others = class_first(x, y)
    e, sums = columns - others, columns + others
    rho = sums.mul_(e).sum(-3).mul_(reciprocal(rx.unsqueeze(-1) + ry.unsqueeze(-2)))
    middle = columns * s.unsqueeze(-1).unsqueeze(-3) + others * t.unsqueeze(-2).unsqueeze(-3)
    e = e.addcmul_(middle, rho.unsqueeze(-3), value=-0.5).to(dtype)
    return rho, (e * e).sum(-3), e


def pull(
    to_x: Tensor | None, to_y: Tensor | None, square: Tensor | None, x: Tensor, y: Tensor,
    rho: Tensor | None = None, s: Tensor | None = None, t: Tensor | None = None, e: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """sum_j to_x_ij e_ij, (..., n, d), and -sum_i to_y_ij e_ij, (..., m, d), each where weights (..., n, m) are given.

    `square` (needed for a vocabulary) and, if it was kept, `e` are what `squares` or `polar` gave.
    """
    if x.shape[-1] > FEW:
        assert square is not None
        wide = _wide_pull_op if torch.compiler.is_compiling() else _wide_pull
        # with the sides exchanged e_ji = -e_ij
        reverse = None if rho is None else -rho.mT
        dx = None if to_x is None else wide(to_x.to(x.dtype), square, x, y, rho, s, t)
        dy = None if to_y is None else wide(to_y.to(x.dtype).mT, square.mT, y, x, reverse, t, s)
        return dx, dy
    weights = to_x if to_x is not None else to_y
    if weights is None:
        return None, None
    dx_blocks, dy = [], None
    for i in row_blocks(x, y) if e is None else [slice(0, x.shape[-2])]:
        block = written_out(x[..., i, :], y, *_rows_of(i, rho, s), t) if e is None else e
        block = block.to(weights.dtype)
        if to_x is not None:
            dx_blocks.append((block * to_x[..., i, :].unsqueeze(-3)).sum(-1).mT)
        if to_y is not None:
            part = (block * to_y[..., i, :].unsqueeze(-3)).sum(-2).mT
            dy = -part if dy is None else dy - part
    return (joined(dx_blocks) if dx_blocks else None), dy


def _rows_of(i: slice, rho: Tensor | None, s: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return (None if rho is None else rho[..., i, :]), (None if s is None else s[..., i])


def _wide_squares(x: Tensor, y: Tensor) -> Tensor:
    if x.dim() > 2:
        return torch.stack([_wide_squares(*one) for one in _unbind(x, y)]).reshape(*x.shape[:-1], y.shape[-2])
    if _blind(x, y):
        result = x.new_zeros(x.shape[0], y.shape[0])
        for k in slices(x, y):
            e = written_out(x[:, k], y[:, k])
            result += e.mul_(e).sum(-3)
        return result
    lengths = _squared_lengths(x, y)
    result = torch.addmm(lengths, x, y.mT, alpha=-2)
    for i, j in _some(result <= lengths * NEAR, x):
        result[i, j] = (x[i] - y[j]).square_().sum(-1)
    return result


def _wide_polar(x: Tensor, y: Tensor, rx: Tensor, ry: Tensor) -> tuple[Tensor, Tensor]:
    if x.dim() > 2:
        each = [torch.stack(parts) for parts in zip(*(_wide_polar(*one) for one in _unbind(x, y, rx, ry)), strict=True)]
        rho, square = (part.reshape(*x.shape[:-1], y.shape[-2]) for part in each)
        return rho, square
    s, t = reciprocal(rx), reciprocal(ry)
    totals = (rx.unsqueeze(-1) + ry).clamp_min_(tiny(rx))
    if _blind(x, y):
        rho, square = x.new_zeros(2, x.shape[0], y.shape[0])
        for k in slices(x, y):
            columns, others = class_first(x[:, k], y[:, k])
            rho += ((columns - others) * (columns + others)).sum(-3) / totals
        for k in slices(x, y):
            e = written_out(x[:, k], y[:, k], rho, s, t)
            square += e.mul_(e).sum(-3)
        return rho.clone(), square.clone()
    rho = rx.unsqueeze(-1) - ry
    lengths = (rx * rx).unsqueeze(-1) + ry * ry
    across = (
        torch.addmm(lengths, x, y.mT, alpha=-2) - rho * rho
    )  # = 2 r_x r_y (1 - cos angle), norm(e)^2 r_x r_y / mean(r)^2
    square = across * (totals * totals) / (4 * rx.unsqueeze(-1) * ry).clamp_min_(tiny(rx))
    for i, j in _some(across <= lengths * NEAR, x):
        xs, ys = x[i], y[j]
        e, sums = xs - ys, xs + ys
        gap = (sums.mul_(e)).sum(-1) / totals[i, j]
        e -= xs.mul_((gap * s[i] / 2).unsqueeze(-1)).add_(ys.mul_((gap * t[j] / 2).unsqueeze(-1)))
        rho[i, j], square[i, j] = gap, e.square_().sum(-1)
    return rho, square


def _wide_pull(
    weights: Tensor, square: Tensor, x: Tensor, y: Tensor, rho: Tensor | None, s: Tensor | None, t: Tensor | None
) -> Tensor:
    """sum_j weights_ij e_ij, (..., n, d)."""
    if x.dim() > 2:
        return torch.stack([_wide_pull(*one) for one in _unbind(weights, square, x, y, rho, s, t)]).reshape(x.shape)
    if _blind(x, y):
        result = torch.empty_like(x)
        for k in slices(x, y):
            e = written_out(x[:, k], y[:, k], rho, s, t)
            result[:, k] = e.mul_(weights).sum(-1).mT
        return result
    # elsewhere norm(e) is a thousandth of the lengths at least, and the products' rounding is 1e-16 of them
    near = square <= _squared_lengths(x, y) * NEAR
    far = weights.masked_fill(near, 0.0)
    if rho is None or s is None or t is None:
        result = x * far.sum(-1, keepdim=True)
    else:
        half = far * rho / 2
        result = x * (far - half * s.unsqueeze(-1)).sum(-1, keepdim=True)
        far = far + half * t
    result.addmm_(far, y, alpha=-1)
    for i, j in _some(near, x):
        xs, ys = x[i], y[j]
        e = xs - ys
        if rho is not None and s is not None and t is not None:
            half = rho[i, j] / 2
            e -= xs.mul_((half * s[i]).unsqueeze(-1)).add_(ys.mul_((half * t[j]).unsqueeze(-1)))
        result.index_add_(0, i, e.mul_(weights[i, j].unsqueeze(-1)))
    return result


# Opaque to torch.compile: the search for near pairs has no fixed shape, and slices would unroll by the hundred.
_wide_squares_op = torch.library.custom_op("sinkd::wide_squares", _wide_squares, mutates_args=())
_wide_squares_op.register_fake(lambda x, y: x.new_empty(*x.shape[:-1], y.shape[-2]))
_wide_polar_op = torch.library.custom_op("sinkd::wide_polar", _wide_polar, mutates_args=())
_wide_polar_op.register_fake(lambda x, y, rx, ry: tuple(x.new_empty(*x.shape[:-1], y.shape[-2]) for _ in range(2)))
_wide_pull_op = torch.library.custom_op("sinkd::wide_pull", _wide_pull, mutates_args=())
_wide_pull_op.register_fake(lambda weights, square, x, y, rho, s, t: torch.empty_like(x))


def _blind(x: Tensor, y: Tensor) -> bool:
    """Should values not be looked at: on an accelerator, for what is cheap without, or where it may not wait?"""
    if x.device.type == "cpu":
        return False
    return not may_wait(x) or x.shape[0] * y.shape[0] * x.shape[1] <= CHEAP


def _squared_lengths(x: Tensor, y: Tensor) -> Tensor:
    """norm(x_i)^2 + norm(y_j)^2, (n, m)."""
    return torch.linalg.vector_norm(x, dim=-1).square_().unsqueeze(-1) + torch.linalg.vector_norm(y, dim=-1).square_()


def _some(chosen: Tensor, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Row and column numbers of the chosen pairs, as many at a time as rows of x fit."""
    pairs = chosen.nonzero()
    if len(pairs):
        limit = CACHE_LIMIT * 4 if x.device.type == "cpu" else SLICE_LIMIT
        for some in pairs.split(max(1, limit // x.shape[-1])):
            i, j = some.unbind(-1)
            yield i, j


def slices(x: Tensor, y: Tensor) -> list[slice]:
    """Columns of x (..., n, d) and y (..., m, d) that are taken together where a number for each pair and column is."""
    width, pairs = x.shape[-1], max(1, x[..., 0].numel() * y.shape[-2])
    step = max(1, SLICE_LIMIT // pairs)
    return [slice(k, min(k + step, width)) for k in range(0, width, step)]


def _unbind(x: Tensor, *tensors: Tensor | None) -> Iterator[tuple]:
    """The batch entries of x (..., n, d) and of tensors (..., n, m) and vectors (..., n), one after the other."""
    batch = x.dim() - 2
    none = [None] * x.shape[:batch].numel()
    return zip(*(none if t is None else t.flatten(0, batch - 1) for t in (x, *tensors)), strict=True)
