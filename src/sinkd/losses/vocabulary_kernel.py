"""Ground costs between rows as wide as a vocabulary on a GPU, by the kernels of `triton_vocabulary.py`.

Nothing waits for the device, and beside the gradient nothing as large as the logits is held.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..transport.triton import on_device_of
from . import triton_vocabulary as kernels
from . import triton_vocabulary_lorentz as hyperboloid

PROGRAMS = 512
"""Programs that fill a GPU: a product's columns are shared out among at least so many."""


def wide_costs(cost: str, student: Tensor, teacher: Tensor, temperature: float, c: float = 1.0) -> Tensor:
    """l1 or Lorentz distances of the softened logits (n, V) and (m, V): (n, m), float32.

    As `vocabulary_cost.wide_l1` and `wide_lorentz`, with the gradient of the student's logits alone.
    """
    return _Wide.apply(student.contiguous(), teacher.contiguous(), cost != "l1", temperature, math.sqrt(c))


class _Wide(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, curved: bool, temperature: float, root: float) -> Tensor:
        run: Any = _costs_op if torch.compiler.is_compiling() else _costs
        cost, *kept = run(student, teacher, curved, temperature, root)
        ctx.save_for_backward(student, teacher, *kept)
        ctx.settings = curved, temperature, root
        return cost

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_cost: Tensor) -> tuple[Tensor, None, None, None, None]:
        run: Any = _pull_op if torch.compiler.is_compiling() else _pull
        return run(*ctx.saved_tensors, d_cost.contiguous(), *ctx.settings), None, None, None, None


def _costs(
    student: Tensor, teacher: Tensor, curved: bool, temperature: float, root: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Costs; and of both sides logsumexp and squared length; and what the reverse pass needs of each pair."""
    cost, x_total, x_square, y_total, y_square, one, two = _empty_costs(student, teacher, curved, temperature, root)
    (n, width), m, by_t = student.shape, len(teacher), 1 / temperature
    with on_device_of(student):
        for side, total, square in ((student, x_total, x_square), (teacher, y_total, y_square)):
            kernels.totals[(len(side),)](side, total, square, by_t, width, BLOCK=1024)
        tile, block, warps = (128, 32, 8) if curved else (16, 32, 4)
        tiles = triton.cdiv(n, tile), triton.cdiv(m, tile)
        shares = max(1, min(PROGRAMS // (tiles[0] * tiles[1]), width // (8 * block)))
        share = triton.cdiv(triton.cdiv(width, shares), block) * block
        grid, every = (*tiles, shares), (n, triton.cdiv(m, 32))
        sides, sizes = (student, teacher, x_total, y_total), (by_t, n, m, width)
        blocks = {"ROWS": tile, "COLS": tile, "BLOCK": block, "num_warps": warps}
        parts = student.new_empty(shares, n, m, dtype=torch.float32)
        if curved:
            hyperboloid.products[grid](*sides, parts, *sizes, share, **blocks)
            hyperboloid.lorentz[every](
                *sides, x_square, y_square, parts, one, two, cost, by_t, root, n, m, width, shares, hyperboloid.APART,
                COLS=32, BLOCK=1024,
            )  # fmt: skip
        else:
            drift = torch.empty_like(parts)
            kernels.l1_shares[grid](*sides, parts, drift, *sizes, share, **blocks)
            kernels.l1[every](
                *sides, parts, drift, cost, one, two, *sizes, shares, kernels.NEAR_L1, COLS=32, BLOCK=1024
            )
    return cost, x_total, x_square, y_total, y_square, one, two


def _empty_costs(
    student: Tensor, teacher: Tensor, curved: bool, temperature: float, root: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    n, m = len(student), len(teacher)
    x_total, x_square, y_total, y_square = (student.new_empty(k, dtype=torch.float64) for k in (n, n, m, m))
    one, two = (student.new_empty(n, m, dtype=torch.float64) for _ in range(2))
    return student.new_empty(n, m, dtype=torch.float32), x_total, x_square, y_total, y_square, one, two


def _pull(
    student: Tensor,
    teacher: Tensor,
    x_total: Tensor,
    x_square: Tensor,
    y_total: Tensor,
    y_square: Tensor,
    one: Tensor,
    two: Tensor,
    d_cost: Tensor,
    curved: bool,
    temperature: float,
    root: float,
) -> Tensor:
    (n, width), m, by_t = student.shape, len(teacher), 1 / temperature
    d_student = torch.empty_like(student)
    sides, sizes = (student, teacher, x_total, y_total), (by_t, n, m, width)
    precision = "bf16x3" if student.is_cuda else "ieee"  # the interpreter has float32 alone
    with on_device_of(student):
        if curved:
            far, near = torch.empty_like(d_cost), torch.empty_like(d_cost)
            own, mean = torch.empty_like(x_square), torch.empty_like(x_square)
            hyperboloid.lorentz_slopes[(n,)](
                x_square, y_square, one, two, d_cost, far, near, own, mean, root, n, m, COLS=128
            )
            hyperboloid.lorentz_pull_near[(n, triton.cdiv(width, 1024))](
                *sides, near, d_student, *sizes, COLS=32, BLOCK=1024
            )
            hyperboloid.lorentz_pull[(triton.cdiv(n, 128), triton.cdiv(width, 64))](
                *sides, far, own, mean, d_student, *sizes, PRECISION=precision, ROWS=128, BLOCK=64, COLS=32, num_warps=8
            )
        else:
            weights = torch.where(two > 0, d_cost, 0.0)  # equal rows do not pull
            mean = (weights * one).sum(-1)
            kernels.l1_pull[(triton.cdiv(n, 16), triton.cdiv(width, 32))](
                *sides, weights, mean, d_student, *sizes, ROWS=16, COLS=16, BLOCK=32
            )
    return d_student


_costs_op = torch.library.custom_op("sinkd::wide_costs", _costs, mutates_args=())
_costs_op.register_fake(_empty_costs)
_pull_op = torch.library.custom_op("sinkd::wide_costs_backward", _pull, mutates_args=())
_pull_op.register_fake(lambda student, *_: torch.empty_like(student))
