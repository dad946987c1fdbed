"""Losses over many numbers, computed a slice at a time so that autograd never holds all the intermediate results.

`piecewise` has the gradient of each piece computed in the forward pass (pairs and triples). `rowwise` recomputes each
slice of rows in the backward pass and stores nothing in between (rows as wide as a vocabulary).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..transport.precision import full_precision

LIMIT = 2**18
"""Numbers per slice on a CPU: 1 MB of float32, which fits a core's cache."""
DEVICE_LIMIT = 2**22
"""Numbers per slice on an accelerator, where starting a kernel costs more than memory traffic."""
WIDE = 4096
"""Width from which rows are processed in slices."""

NUMBER = 64
"""Bytes that a piece on a GPU takes per number: all that is held at once, and as much again in reserve."""

Piece = tuple[Any, Callable[[Tensor, bool], tuple[Tensor, Tensor | None]]]
"""An index into the student's tensor, and a function of that part, and of whether the gradient is wanted, that returns
a scalar and the gradient."""


def piecewise(student: Tensor, pieces: Iterable[Piece]) -> Tensor:
    """Sum function(student[index]) over the pieces, one piece at a time.

    Args:
        student: any shape.
        pieces: indices with their functions; indices may overlap.

    Returns:
        A scalar of the student's type, once differentiable. It holds one gradient of the student's size.
    """
    if not (torch.is_grad_enabled() and student.requires_grad):
        return _walk(student, pieces, None)
    return _Piecewise.apply(student, pieces)


def rowwise(
    student: Tensor,
    rows: Callable[[Tensor, slice], Tensor],
    slope: Callable[[Tensor, slice], Tensor] | None = None,
) -> Tensor:
    """Sum rows(student[i], i) over slices i of the rows, storing only the student between forward and backward.

    Args:
        student: (n, V).
        rows: returns a scalar, a sum over the given rows, differentiable with respect to them.
        slope: the derivative of `rows` with respect to its first argument; computed by autograd if None.

    Returns:
        A scalar, float64. Second derivatives are computed for all rows in one piece.
    """
    return _Rowwise.apply(student, rows, slope)


def is_wide(logits: Tensor) -> bool:
    """True if rows (n, V) should be processed in slices; never under compile, which would unroll them."""
    return logits.shape[-1] >= WIDE and not torch.compiler.is_compiling()


def spans(size: int, each: int, device: torch.device | None = None) -> list[slice]:
    """Cut 0..size into slices of about LIMIT (on a CPU) or DEVICE_LIMIT numbers, with `each` numbers per index."""
    return _cut(size, each, LIMIT if device is None or device.type == "cpu" else DEVICE_LIMIT)


def _cut(size: int, each: int, limit: int) -> list[slice]:
    step = max(1, limit // max(1, each))
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def piece_spans(size: int, each: int, device: torch.device) -> list[slice]:
    """`spans` for `piecewise`: on a GPU as few as free memory allows, since each piece costs dozens of kernels."""
    if device.type != "cuda" or size * each <= DEVICE_LIMIT or torch.cuda.is_current_stream_capturing():
        return spans(size, each, device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _cut(size, each, (torch.cuda.mem_get_info(device)[0] + unused) // NUMBER)


@torch.no_grad()
def _walk(student: Tensor, pieces: Iterable[Piece], gradient: Tensor | None) -> Tensor:
    total = student.new_zeros(())
    with full_precision(student.device):
        for index, function in pieces:
            value, slope = function(student[index], gradient is not None)
            total += value
            if gradient is not None and slope is not None:
                gradient[index] += slope
    return total


class _Piecewise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, pieces: Iterable[Piece]) -> Tensor:
        gradient = torch.zeros_like(student)
        total = _walk(student, pieces, gradient)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * d_total, None


class _Rowwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, rows: Callable, slope: Callable | None) -> Tensor:
        ctx.save_for_backward(student)
        ctx.rows, ctx.slope = rows, slope
        total = student.new_zeros((), dtype=torch.float64)
        with full_precision(student.device):
            for i in spans(len(student), student.shape[-1], student.device):
                total += rows(student[i], i)
        return total

    @staticmethod
    def backward(ctx: Any, d_total: Tensor) -> tuple[Tensor, None, None]:
        (student,) = ctx.saved_tensors
        with full_precision(student.device):
            if torch.is_grad_enabled():
                value = ctx.rows(student, slice(None))
                (gradient,) = torch.autograd.grad(value, student, d_total.to(value.dtype), create_graph=True)
                return gradient, None, None
            gradient = torch.empty_like(student)
            for i in spans(len(student), student.shape[-1], student.device):
                if ctx.slope is not None:
                    gradient[i] = ctx.slope(student[i], i).mul_(d_total)
                    continue
                part = student[i].detach().requires_grad_()
                with torch.enable_grad():
                    value = ctx.rows(part, i)
                (gradient[i],) = torch.autograd.grad(value, part, d_total.to(value.dtype))
        return gradient, None, None
