"""Prepare logits for losses: check them, arrange them as rows, and soften them with enough precision."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import SinkdError
from ..transport.precision import full_precision, is_static, may_wait, result_type
from . import chunked
from .top_k_union import fold, fold_logits

PRECISE_WIDTH = 64
"""Divergences run in float64 up to this many classes, where it is cheap: after a float32 softmax, a logit difference
of 1e-4 is wrong by 1 %."""


class Rows(NamedTuple):
    """Logits as rows: (n, C) and (m, C), or one such pair per sequence, (B, n, C) and (B, m, C)."""

    student: Tensor
    teacher: Tensor
    mask: Tensor | None  # (..., n), rows of both sides that count; None: all
    ids: Tensor | None  # (..., n), the example that a row of both sides belongs to; None: all different

    @property
    def wide(self) -> bool:
        """True for rows of a vocabulary, (n, V), that can be compared directly from the logits."""
        flat = self.student.dim() == 2 and self.mask is None and not self.teacher.requires_grad
        return flat and self.student.shape[-1] >= chunked.WIDE

    @property
    def readable(self) -> bool:
        """True if values may be read, even if that synchronises the device."""
        return may_wait(self.student) and may_wait(self.teacher)


def check_shapes(student: Tensor, teacher: Tensor, equal_rows: bool = True) -> None:
    """Raise SinkdError unless both are floating-point logits (..., C) of one C >= 1, of one shape if `equal_rows`."""
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
    """Require logits (..., C) without NaN or +inf and with a possible class in each row; -inf is an impossible class.

    Reads values on any device, so it synchronises a GPU: use it at logging steps only.

    Raises:
        SinkdError: naming the side and the number of bad rows.
    """
    for side, logits in (("student", student), ("teacher", teacher)):
        if logits.numel():
            _check_tops(side, logits.detach().amax(-1))


def guard(student: Tensor, teacher: Tensor) -> None:
    """`check_finite` in eager mode on a CPU; elsewhere an assertion, which does not synchronise."""
    if not (is_static(student) or is_static(teacher)):
        return check_finite(student, teacher)
    for side, logits in (("student", student), ("teacher", teacher)):
        if logits.numel():
            text = f"{side} logits hold NaN, +inf, or a row of -inf throughout"
            torch._assert_async(torch.isfinite(logits.detach().amax(-1)).all(), text)
    return None


def pair_rows(
    student: Tensor, teacher: Tensor, mask: Tensor | None, ids: Tensor | None, by_sequence: bool, equal_rows: bool
) -> Rows:
    """Rows of logits (B, C) or (B, L, V), without those that are masked (on an accelerator they are 0).

    Args:
        mask, ids: (B,) or (B, L); see `SinkhornLoss.forward`.
        by_sequence: keep sequences apart.
        equal_rows: require as many teacher rows as student rows.

    Raises:
        SinkdError: for shapes that do not pair.
    """
    check_shapes(student, teacher, equal_rows)
    if student.dim() > 3 or (by_sequence and student.shape[:-2] != teacher.shape[:-2]):
        raise SinkdError(
            f"student logits have shape {tuple(student.shape)}, teacher logits {tuple(teacher.shape)}; "
            "expected (B, C) or (B, L, V), and for group 'sequence' as many sequences"
        )
    for name, given in (("mask", mask), ("ids", ids)):
        if given is not None and given.shape != student.shape[:-1]:
            raise SinkdError(
                f"{name} has shape {tuple(given.shape)} and student logits {tuple(student.shape)}; "
                f"expected {tuple(student.shape[:-1])}"
            )
    if student.dim() == 3 and not by_sequence:
        student, teacher = student.flatten(0, 1), teacher.flatten(0, 1)
        mask, ids = (None if each is None else each.flatten() for each in (mask, ids))
    if mask is not None:
        mask = mask.bool()
        if student.dim() == 2 and not is_static(student):
            student, teacher, ids = student[mask], teacher[mask], None if ids is None else ids[mask]
            mask = None
        else:
            student, teacher = (x.masked_fill(~mask.unsqueeze(-1), 0.0) for x in (student, teacher))
    return Rows(student, teacher, mask, ids)


def points_of(
    rows: Rows, temperature: float, representation: str, scale: float | Tensor, top_k: int | None, top_k_of: str
) -> tuple[Tensor, Tensor]:
    """The points that `SinkhornLoss` compares, float64: in float32, nearly equal rows differ only by rounding."""
    sides = rows.student, rows.teacher
    with full_precision(rows.student.device):
        if rows.student.shape[-1] == 1 or representation == "vector":
            return rows.student.double() / temperature, rows.teacher.double() / temperature
        if representation == "log_odds":
            return log_odds(rows.student, temperature) * scale, log_odds(rows.teacher, temperature) * scale
        if top_k is not None and rows.wide and rows.readable:
            return fold_logits(*sides, temperature, top_k, top_k_of)
        p, q = (probabilities(side, temperature) for side in sides)
        return (p, q) if top_k is None else fold(p, q, top_k, rows.mask, top_k_of)


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """softmax(logits / temperature) over the last dimension, always float64."""
    return torch.softmax(logits.double() / temperature, -1)


def log_odds(logits: Tensor, temperature: float) -> Tensor:
    """Centred log-probabilities over sqrt(C), (..., C) float64: log p_c minus its mean over the C possible classes.

    An impossible class (-inf) does not count in the mean or in C, and becomes 0.
    """
    z = logits.double() / temperature
    possible = z > -torch.inf
    count = possible.sum(-1, keepdim=True)
    mean = torch.where(possible, z, 0.0).sum(-1, keepdim=True) / count
    return torch.where(possible, z - mean, 0.0) * count.double().rsqrt()


def precise(logits: Tensor) -> Tensor:
    """Logits in the dtype for row terms: float64 for few classes, else `result_type`."""
    return logits.to(torch.float64 if logits.shape[-1] <= PRECISE_WIDTH else result_type(logits))


def _check_tops(side: str, top: Tensor) -> None:
    """`check_finite` on each row's largest logit, which is NaN, +inf or -inf exactly if the row is unusable."""
    if math.isfinite(float(top.sum())) or bool(top.isfinite().all()):
        return
    bad = int((top.isnan() | top.isposinf()).sum())
    if bad:
        raise SinkdError(f"{side} logits: {bad} of {top.numel()} rows hold NaN or +inf; logits must be below +inf")
    bad = int(top.isneginf().sum())
    raise SinkdError(f"{side} logits: {bad} of {top.numel()} rows are -inf throughout; one class must be possible")
