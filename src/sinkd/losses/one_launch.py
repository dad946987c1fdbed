"""`SinkhornLoss` of few classes on a GPU: one launch from logits to loss, and one for the gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..transport.cost import COSTS
from ..transport.few_classes import LONGEST
from ..transport.iteration import PRODUCT_LIMIT
from ..transport.pairwise import FEW
from ..transport.precision import result_type
from ..transport.triton import on_device_of, shared_memory, tiling
from . import triton_few_classes as kernels
from .logits import Rows

if TYPE_CHECKING:
    from .sinkhorn import SinkhornLoss


def fits(loss: SinkhornLoss, rows: Rows) -> bool:
    """Whether the kernels know the whole loss: probabilities of few classes, a simple cost, the distance alone."""
    c = None if loss.hyperbolic is None else loss.hyperbolic()
    return (
        loss.cost in kernels.COSTS
        and not isinstance(c, Tensor)
        and (c is None or c <= LONGEST**2)
        and (loss.value, loss.representation, loss.debias) == ("distance", "probability", False)
        and (loss.tolerance, loss.top_k, rows.ids) == (None, None, None)
        and loss.gradient != "implicit"
        and 1 < rows.student.shape[-1] <= FEW
        and not rows.teacher.requires_grad
        and result_type(rows.student, rows.teacher) == torch.float32
    )


def distances(loss: SinkhornLoss, rows: Rows, factor: float) -> Tensor:
    """The transport's cost times a factor: (...), one of each batch of rows."""
    student, teacher, mask, _ = rows
    c = 1.0 if loss.hyperbolic is None else float(loss.hyperbolic())
    logs = COSTS[loss.cost].bound + loss.pairing > PRODUCT_LIMIT * loss.epsilon
    return _FewClasses.apply(
        student, teacher, mask, loss.cost, loss.temperature, math.sqrt(c), loss.pairing, loss.epsilon, loss.n_iters,
        loss.gradient == "unroll", logs, factor,
    )  # fmt: skip


class _FewClasses(torch.autograd.Function):
    """Student rows (..., n, C), teacher rows (..., m, C), mask (..., n), settings -> the loss (...) times `factor`.

    The gradient is computed at once with the loss: to return to Python in the backward pass takes longer.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, mask: Tensor | None, *settings: Any) -> Tensor:
        compiling = torch.compiler.is_compiling()
        student, teacher = student.contiguous(), teacher.contiguous()
        mask = None if mask is None else mask.contiguous()
        run: Any = _forward_op if compiling else _forward
        loss, *kept = run(student, teacher, mask, *settings)
        if ctx.needs_input_grad[0]:
            run = _backward_op if compiling else _backward
            ctx.save_for_backward(run(student, teacher, mask, *kept, *settings))
            ctx.dtype = student.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        scale = d_loss if d_loss.dim() == 0 else d_loss[:, None, None]
        return (gradient * scale).to(ctx.dtype), *(None,) * 11


def _forward(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    cost: str,
    temperature: float,
    root: float,
    pairing: float,
    epsilon: float,
    n_iters: int,
    unroll: bool,
    logs: bool,
    factor: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss; costs and the scalings of every iteration, one row a problem; and the plan, empty if unrolled."""
    loss, kept, plan = _empty(student, teacher, n_iters, unroll, logs)
    n, m = student.shape[-2], teacher.shape[-2]
    blocks = tiling(student, loss.numel(), n, m, logs)
    with on_device_of(student):
        kernels.forward[(loss.numel() * blocks["PARTS"],)](
            student, teacher, mask, n / m, kept, None if unroll else plan, loss,
            *shared_memory(kept, loss.numel(), blocks), factor, 1 / temperature, root, pairing,
            1 / epsilon, n, m, n_iters, student.shape[-1], kernels.COSTS[cost], **blocks,
            debug=True, sanitize_overflow=False,
        )  # fmt: skip
    return loss, kept, plan


def _empty(student: Tensor, teacher: Tensor, n_iters: int, unroll: bool, logs: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for what `_forward` returns."""
    n, m = student.shape[-2], teacher.shape[-2]
    loss = student.new_empty(student.shape[:-2], dtype=torch.float32)
    kept = student.new_empty(loss.numel(), n * m + n_iters * (n + m), dtype=torch.float64 if logs else torch.float32)
    return loss, kept, kept.new_empty(0 if unroll else loss.numel(), n, m)


def _backward(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    kept: Tensor,
    plan: Tensor,
    cost: str,
    temperature: float,
    root: float,
    pairing: float,
    epsilon: float,
    n_iters: int,
    unroll: bool,
    logs: bool,
    factor: float,
) -> Tensor:
    """The gradient with respect to the student's logits, float32."""
    n, m = student.shape[-2], teacher.shape[-2]
    blocks = tiling(student, len(kept), n, m, logs)
    d_student = torch.empty_like(student, dtype=torch.float32)
    d_p = torch.empty_like(student, dtype=torch.float64)
    with on_device_of(student):
        kernels.backward[(len(kept) * blocks["PARTS"],)](
            student, teacher, mask, n / m, kept, None if unroll else plan,
            *shared_memory(kept, len(kept), blocks), factor, 1 / temperature, root, 1 / epsilon,
            d_p, d_student, n, m, n_iters, student.shape[-1], kernels.COSTS[cost], **blocks,
        )  # fmt: skip
    return d_student


_forward_op = torch.library.custom_op("sinkd::few_classes", _forward, mutates_args=())
_forward_op.register_fake(
    lambda student, teacher, mask, cost, temperature, root, pairing, epsilon, n_iters, unroll, logs, factor: _empty(
        student, teacher, n_iters, unroll, logs
    )
)
_backward_op = torch.library.custom_op("sinkd::few_classes_backward", _backward, mutates_args=())
_backward_op.register_fake(lambda student, *_: torch.empty_like(student, dtype=torch.float32))
