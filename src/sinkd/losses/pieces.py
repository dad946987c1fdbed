"""A loss over many pairs and triples, piece by piece: the gradient is taken on the way, so no piece is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..transport.precision import island

LIMIT = 2**18
"""About so many numbers are held for a piece at once: 1 MB, which stays within a processor's cache."""

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


def spans(size: int, each: int) -> list[slice]:
    """0..size cut into slices for which `each` numbers an index stay near LIMIT."""
    step = max(1, LIMIT // max(1, each))
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
