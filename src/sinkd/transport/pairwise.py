"""Squared distances of all rows of one matrix to all rows of another, exact even where rows nearly coincide.

Expanding norm(x)^2 + norm(y)^2 - 2 x.y loses all digits where two rows are near, and writing out all differences takes
n m d numbers. So:

- few columns (up to FEW): differences, in row blocks that fit a core's cache;
- more columns: float64 products; near pairs are recomputed from their differences.

Where values must not be read (under compile, and while a CUDA graph is captured) only products are used: they are right
to 1e-5 unless rows are nearer than 3e-6 of their length, and treat rows nearer than 1e-7 of it as equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import SinkdError
from .precision import may_wait

FEW = 64
"""Number of columns up to which differences are written out."""
NEAR = 1e-6
"""Squared distance, relative to squared lengths, up to which a pair is computed from its differences: float64 products
are right to about 1e-9 above it."""
SAME = 1e-14
"""Squared distance, relative to squared lengths, that products alone cannot tell from 0."""
CACHE_LIMIT = 2**16
"""Numbers in a temporary on a CPU (512 kB of float64)."""
DEVICE_LIMIT = 2**22
"""Numbers in a temporary on an accelerator, where there is no cache to fit."""


def check_rows(x: Tensor, y: Tensor, name: str) -> None:
    """Raise SinkdError unless x is (..., n, d) and y (..., m, d) with the same leading dimensions."""
    if x.dim() < 2 or x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]:
        raise SinkdError(
            f"{name}: rows of shapes {tuple(x.shape)} and {tuple(y.shape)} do not pair; "
            "expected (..., n, d) and (..., m, d)"
        )


def squares(x: Tensor, y: Tensor) -> Tensor:
    """norm(x_i - y_j)^2, (..., n, m), of float64 rows x (..., n, d) and y (..., m, d); once differentiable."""
    if x.dim() == 2:
        return _Squares.apply(x.unsqueeze(0), y.unsqueeze(0)).squeeze(0)
    return _Squares.apply(x.flatten(0, -3), y.flatten(0, -3)).unflatten(0, x.shape[:-2])


def row_blocks(x: Tensor, y: Tensor) -> list[slice]:
    """Cut rows of x (..., n, d) so that differences to all of y (..., m, d) fit the limit; not under compile."""
    n = x.shape[-2]
    if torch.compiler.is_compiling():
        return [slice(0, n)]
    limit = CACHE_LIMIT if x.device.type == "cpu" else DEVICE_LIMIT
    step = max(1, limit * n // max(1, x.numel() * y.shape[-2]))
    return [slice(k, k + step) for k in range(0, max(n, 1), step)]


class _Squares(torch.autograd.Function):
    """Rows (b, n, d) and (b, m, d) -> (b, n, m)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        near = x.new_empty(0, 3, dtype=torch.long)
        if x.shape[-1] <= FEW:
            square = torch.cat([_differences(x[:, i], y).square_().sum(1) for i in row_blocks(x, y)], 1)
        else:
            lengths = x.square().sum(-1).unsqueeze(-1) + y.square().sum(-1).unsqueeze(-2)
            square = torch.baddbmm(lengths, x, y.mT, alpha=-2)
            if may_wait(x):
                near = (square <= NEAR * lengths).nonzero()
                for b, i, j in _split(near, x):
                    square[b, i, j] = (x[b, i] - y[b, j]).square_().sum(-1)
            else:
                square = torch.where(square <= SAME * lengths, 0.0, square)
        ctx.save_for_backward(x, y, near)
        return square

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_square: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y, near = ctx.saved_tensors
        weights = 2 * d_square
        dx = _pull(weights, x, y, near) if ctx.needs_input_grad[0] else None
        b, i, j = near.unbind(-1)
        dy = _pull(weights.mT, y, x, torch.stack([b, j, i], -1)) if ctx.needs_input_grad[1] else None
        return dx, dy


def _differences(x: Tensor, y: Tensor) -> Tensor:
    """x_i - y_j as (b, d, n, m), contiguous, so that sums over d run along whole matrices even for small d."""
    return x.mT.contiguous().unsqueeze(-1) - y.mT.contiguous().unsqueeze(-2)


def _pull(weights: Tensor, x: Tensor, y: Tensor, near: Tensor) -> Tensor:
    """sum_j weights_ij (x_i - y_j), (b, n, d), for weights (b, n, m)."""
    if x.shape[-1] <= FEW:
        return torch.cat(
            [_differences(x[:, i], y).mul_(weights[:, i].unsqueeze(1)).sum(-1).mT for i in row_blocks(x, y)], 1
        )
    far = weights
    if len(near):
        far = weights.clone()
        far[near.unbind(-1)] = 0.0
    result = torch.baddbmm(x * far.sum(-1, keepdim=True), far, y, alpha=-1)
    for b, i, j in _split(near, x):
        result.index_put_((b, i), (x[b, i] - y[b, j]) * weights[b, i, j].unsqueeze(-1), accumulate=True)
    return result


def _split(pairs: Tensor, x: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Indices (b, i, j) of pairs (k, 3), in chunks of as many rows of x as fit the limit."""
    if len(pairs):
        limit = 4 * CACHE_LIMIT if x.device.type == "cpu" else DEVICE_LIMIT
        for some in pairs.split(max(1, limit // x.shape[-1])):
            b, i, j = some.unbind(-1)
            yield b, i, j
