"""A loss over many numbers, piece by piece, so that what autograd would keep of all of them is never whole.

Over pairs and triples (`piecewise`) the gradient is taken on the way; over rows as wide as a vocabulary (`rowwise`)
each slice of rows is computed once more on the way back, and nothing of the rows' size is kept in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..transport.precision import island

LIMIT = 2**18
"""About so many numbers are held for a piece at once: 1 MB, which stays within a processor's cache."""
DEVICE_LIMIT = 2**22
"""The same where there is no cache to fit, and each piece costs the start of some kernels."""
WIDE = 4096
"""From this width on rows are not written out."""

Piece = tuple[Any, Callable[[Tensor], Tensor]]
"""An index of the student's tensor, and what to compute of that part: a scalar."""


def piecewise(student: Tensor, pieces: Iterable[Piece]) -> Tensor:
    """Sum of function(student[index]) over the pieces, a scalar in the student's type.

    What autograd would keep until the backward pass is gone after each piece; its place takes one gradient of the
    student's size. Once differentiable. Parts may overlap.
    """
    if not (torch.is_grad_enabled() and student.requires_grad):
        return _walk(student, pieces, None)
    return _Piecewise.apply(student, pieces)


def rowwise(
    student: Tensor,
    rows: Callable[[Tensor, slice], Tensor],
    slope: Callable[[Tensor, slice], Tensor] | None = None,
) -> Tensor:
    """Sum of rows(student[i], i) over slices i of the rows of (n, V): a scalar, float64.

    `rows` gives a scalar that is a sum over the rows it is shown, differentiable by them. What is kept for the backward
    pass are the student's rows and what `rows` itself refers to. A second derivative is taken of all rows at once.
    `slope`: the derivative of `rows` by what it is shown, where that is known; else autograd finds it.
    """
    return _Rowwise.apply(student, rows, slope)


def is_wide(logits: Tensor) -> bool:
    """Are these rows (n, V) that should not be written out? Under compile no: it fuses, and would unroll slices."""
    return logits.shape[-1] >= WIDE and not torch.compiler.is_compiling()


def spans(size: int, each: int, device: torch.device | None = None) -> list[slice]:
    """0..size cut into slices for which `each` numbers an index stay near LIMIT (on a CPU) or DEVICE_LIMIT."""
    limit = LIMIT if device is None or device.type == "cpu" else DEVICE_LIMIT
    step = max(1, limit // max(1, each))
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def _walk(student: Tensor, pieces: Iterable[Piece], gradient: Tensor | None) -> Tensor:
    total = student.new_zeros(())
    with island(student.device):
        for index, function in pieces:
            part = student.detach()[index]
            if gradient is None:
                total += function(part)
                continue
            with torch.enable_grad():
                value = function(part.requires_grad_())
            gradient[index] += torch.autograd.grad(value, part)[0]
            total += value.detach()
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
    def forward(
        ctx: Any,
        student: Tensor,
        rows: Callable[[Tensor, slice], Tensor],
        slope: Callable[[Tensor, slice], Tensor] | None,
    ) -> Tensor:
        ctx.save_for_backward(student)
        ctx.rows, ctx.slope = rows, slope
        total = student.new_zeros((), dtype=torch.float64)
        with island(student.device):
            for i in spans(len(student), student.shape[-1], student.device):
                total += rows(student[i], i)
        return total

    @staticmethod
    def backward(ctx: Any, d_total: Tensor) -> tuple[Tensor, None, None]:
        (student,) = ctx.saved_tensors
        with island(student.device):
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
