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
from ..transport.triton import on_device_of, tiling
from . import triton_few_classes as kernels
from .logits import Rows, assert_usable

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
    value, fine = _FewClasses.apply(
        student.reshape(-1, *student.shape[-2:]).contiguous(),
        teacher.reshape(-1, *teacher.shape[-2:]).contiguous(),
        None if mask is None else mask.reshape(-1, mask.shape[-1]).contiguous(),
        loss.cost, loss.temperature, math.sqrt(c), loss.pairing, loss.epsilon, loss.n_iters,
        loss.gradient == "unroll", logs, factor,
    )  # fmt: skip
    for side, each in zip(("student", "teacher"), fine.unbind(-1), strict=True):
        assert_usable(side, each if len(each) == 1 else each.all())
    return value.reshape(student.shape[:-2])


class _FewClasses(torch.autograd.Function):
    """Student rows (k, n, C), teacher rows (k, m, C) and settings -> loss (k,) times `factor`, and fine (k, 2).

    `fine` is 1 where all of a side's rows have finite largest logits.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, mask: Tensor | None, *settings: Any) -> Any:
        run: Any = _forward_op if torch.compiler.is_compiling() else _run_forward
        loss, fine, *kept = run(student, teacher, mask, *settings)
        ctx.save_for_backward(student, teacher, mask, *kept)
        ctx.settings = settings
        ctx.mark_non_differentiable(fine)
        return loss, fine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor, _: Tensor) -> Any:
        student, teacher, mask, *kept = ctx.saved_tensors
        run: Any = _backward_op if torch.compiler.is_compiling() else _run_backward
        return run(student, teacher, mask, *kept, d_loss, *ctx.settings), *(None,) * (2 + len(ctx.settings))


def _run_forward(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    loss, fine, w, plan, rows, cols = _empty_forward(
        student, teacher, mask, cost, temperature, root, pairing, epsilon, n_iters, unroll, logs, factor
    )
    count, n, m = w.shape
    with on_device_of(student):
        kernels.forward[(count,)](
            student, teacher, mask, n / m, w, plan, rows, cols, loss, fine, factor, 1 / temperature, root, pairing,
            1 / epsilon, n, m, n_iters, student.shape[-1], COST=kernels.COSTS[cost], LOGS=logs, **tiling(n, m),
        )  # fmt: skip
    return loss, fine, w, plan, rows, cols


def _empty_forward(
    student: Tensor, teacher: Tensor, mask: Tensor | None, cost: str, temperature: float, root: float, pairing: float,
    epsilon: float, n_iters: int, unroll: bool, logs: bool, factor: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    (count, n, _), m = student.shape, teacher.shape[1]
    dtype = torch.float64 if logs else torch.float32
    loss = student.new_empty(count, dtype=torch.float32)
    fine = student.new_empty(count, 2, dtype=torch.int32)
    w, plan = student.new_empty(count, n, m, dtype=dtype), student.new_empty(count, n, m, dtype=dtype)
    rows = student.new_empty(count, n_iters, n, dtype=dtype)
    return loss, fine, w, plan, rows, student.new_empty(count, n_iters, m, dtype=dtype)


def _run_backward(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    w: Tensor,
    plan: Tensor,
    rows: Tensor,
    cols: Tensor,
    d_loss: Tensor,
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
    count, n, m = w.shape
    d_w, d_rows, d_cols = torch.empty_like(w), torch.empty_like(rows), torch.empty_like(cols)
    d_student = torch.empty_like(student)
    d_p = torch.empty_like(student, dtype=torch.float64)
    with on_device_of(student):
        kernels.backward[(count,)](
            student, teacher, mask, n / m, w, plan, rows, cols, d_loss, factor, 1 / temperature, root, 1 / epsilon,
            d_w, d_rows, d_cols, d_p, d_student, n, m, n_iters, student.shape[-1],
            UNROLL=unroll, COST=kernels.COSTS[cost], LOGS=logs, **tiling(n, m),
        )  # fmt: skip
    return d_student


_forward_op = torch.library.custom_op("sinkd::few_classes", _run_forward, mutates_args=())
_forward_op.register_fake(_empty_forward)
_backward_op = torch.library.custom_op("sinkd::few_classes_backward", _run_backward, mutates_args=())
_backward_op.register_fake(lambda student, *_: torch.empty_like(student))
