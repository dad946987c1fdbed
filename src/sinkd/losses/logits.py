"""What every loss does with logits first: check them, and soften them in enough digits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import SinkdError
from ..transport.precision import is_static, result_type

PRECISE_WIDTH = 64
"""Up to this many classes, divergences run in float64: it costs nothing there, and a float32 softmax of logits that
differ by 1e-4 is wrong by 1 % in the difference."""


def check_shapes(student: Tensor, teacher: Tensor, equal_rows: bool = True) -> None:
    """Require floating-point logits (..., C) of one C >= 1, and of one shape if `equal_rows`.

    Raises:
        SinkdError: naming both shapes (or types).
    """
    if not (student.is_floating_point() and teacher.is_floating_point()):
        raise SinkdError(f"logits must be floating point; student has {student.dtype}, teacher {teacher.dtype}")
    shapes = f"student logits have shape {tuple(student.shape)}, teacher logits {tuple(teacher.shape)}"
    if student.dim() != teacher.dim() or student.dim() < 2:
        raise SinkdError(f"{shapes}; expected (rows, classes) on both sides")
    if student.shape[-1] != teacher.shape[-1] or student.shape[-1] == 0:
        raise SinkdError(f"{shapes}; expected the same number of classes, at least one")
    if equal_rows and student.shape != teacher.shape:
        raise SinkdError(f"{shapes}; expected the same shape")


def check_finite(student: Tensor, teacher: Tensor) -> None:
    """Require logits (..., C) without NaN or +inf, each row with a possible class; -inf is an impossible class.

    Looks at the values whatever the device, so on a GPU it synchronises: for a logging step.

    Raises:
        SinkdError: naming the side and the number of rows.
    """
    for side, logits in (("student", student), ("teacher", teacher)):
        if logits.numel():
            check_tops(side, logits.detach().amax(-1))


def check_tops(side: str, top: Tensor) -> None:
    """`check_finite` from each row's largest logit: NaN, +inf or -inf exactly when the row cannot be used."""
    if math.isfinite(float(top.sum())) or bool(top.isfinite().all()):
        return
    bad = int((top.isnan() | top.isposinf()).sum())
    if bad:
        raise SinkdError(f"{side} logits: {bad} of {top.numel()} rows hold NaN or +inf; logits must be below +inf")
    bad = int(top.isneginf().sum())
    raise SinkdError(f"{side} logits: {bad} of {top.numel()} rows are -inf throughout; one class must be possible")


def guard(student: Tensor, teacher: Tensor) -> None:
    """`check_finite` where looking is free (eager, on a CPU); else an assertion that does not synchronise."""
    if not (is_static(student) or is_static(teacher)):
        return check_finite(student, teacher)
    for logits, text in (
        (student, "student logits hold NaN, +inf, or a row of -inf throughout"),
        (teacher, "teacher logits hold NaN, +inf, or a row of -inf throughout"),
    ):
        if logits.numel():
            torch._assert_async(torch.isfinite(logits.detach().amax(-1)).all(), text)
    return None


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """softmax(logits / temperature) over the last dimension, float64, whatever the input's type."""
    return torch.softmax(logits.double() / temperature, -1)


def log_odds(logits: Tensor, temperature: float) -> Tensor:
    """Centred log-probabilities over sqrt(C), (..., C) in float64: log p_c minus its mean over the C possible classes.

    An impossible class (-inf) is left out of mean and C, and stands at 0.
    """
    z = logits.double() / temperature
    possible = z > -torch.inf
    count = possible.sum(-1, keepdim=True)
    mean = torch.where(possible, z, 0.0).sum(-1, keepdim=True) / count
    return torch.where(possible, z - mean, 0.0) * count.double().rsqrt()


def precise(logits: Tensor) -> Tensor:
    """Logits in the type that a row-by-row loss computes in: float64 for few classes, else `result_type`."""
    return logits.to(torch.float64 if logits.shape[-1] <= PRECISE_WIDTH else result_type(logits))
