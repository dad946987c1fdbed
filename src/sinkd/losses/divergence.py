"""Divergences between student and teacher: `kd`, `kl`, `reverse_kl`, `js`, `tvd`, and their row terms.

All take logits (..., C) of one shape and a temperature T > 0, and compare p = softmax(student / T) with
q = softmax(teacher / T). They return the mean over all rows, a scalar in float32 (float64 if a side is), without a
factor T^2, as published. C = 1 is regression: the mean squared difference of the scores divided by T. A logit of -inf
is an impossible class and changes nothing if both sides have it. An empty batch gives 0. All raise SinkdError for
shapes that differ and for NaN or +inf. Rows as wide as a vocabulary are processed in slices, forward and backward,
unless the teacher requires a gradient too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import SinkdError
from ..transport.precision import full_precision, result_type
from .chunked import is_wide, rowwise
from .logits import check_shapes, guard, precise
from .option_flags import Options, option
from .term import Progress, RowTerm, View


def kd(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Soft cross-entropy, mean of -sum_c q_c log p_c (Hinton et al. 2015), as published without T^2.

    >>> kd(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, -1.0]]))
    tensor(0.6931)
    """
    return _rows(lambda log_p, log_q: -_expect(log_q, log_p), student_logits, teacher_logits, temperature, towards=True)


def kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Forward divergence KL(q || p), mean of sum_c q_c (log q_c - log p_c), >= 0."""
    return _rows(_kl, student_logits, teacher_logits, temperature, towards=True)


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Reverse divergence KL(p || q), mean of sum_c p_c (log p_c - log q_c), >= 0."""
    return _rows(lambda log_p, log_q: _kl(log_q, log_p), student_logits, teacher_logits, temperature)


def js(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Jensen-Shannon divergence, mean of (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, in [0, log 2]."""

    def row(log_p: Tensor, log_q: Tensor) -> Tensor:
        m = (log_p.exp() + log_q.exp()) / 2
        log_m = torch.where(m > 0, m, 1.0).log()
        return (_kl(log_m, log_p) + _kl(log_m, log_q)) / 2

    return _rows(row, student_logits, teacher_logits, temperature)


def tvd(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Total variation distance, mean of sum_c |p_c - q_c| / 2, in [0, 1]."""

    def row(log_p: Tensor, log_q: Tensor) -> Tensor:
        return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2

    return _rows(row, student_logits, teacher_logits, temperature)


def annealed_temperature(temperature: float, epoch: int, epochs: int) -> float:
    """T + (1 - T) epoch / (epochs - 1): from T in the first epoch (0) to 1 in the last; T if there is only one.

    Raises:
        SinkdError: unless 0 <= epoch < epochs.

    >>> annealed_temperature(4.0, 7, 8)
    1.0
    """
    if not 0 <= epoch < epochs:
        raise SinkdError(f"annealed_temperature: epoch {epoch} of {epochs}; it must be within 0..{epochs - 1}")
    return float(temperature if epochs == 1 else temperature + (1 - temperature) * epoch / (epochs - 1))


def _rows(
    row: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor, temperature: float, towards: bool = False
) -> Tensor:
    """The mean of row(log p, log q), or of the squared difference for one class, over all rows.

    Args:
        towards: True if the derivative of `row` with respect to the student's logits is (p - q) / T.
    """
    check_shapes(student, teacher)
    if not temperature > 0:
        raise SinkdError(f"temperature is {temperature}; it must be greater than 0")
    guard(student, teacher)
    dtype = result_type(student, teacher)
    if student.numel() == 0:
        return (student.sum() * 0.0).to(dtype)

    def total(part: Tensor, others: Tensor) -> Tensor:
        z_s, z_t = precise(part) / temperature, precise(others) / temperature
        if part.shape[-1] == 1:
            return (z_s - z_t).square().sum()
        return row(torch.log_softmax(z_s, -1), torch.log_softmax(z_t, -1)).sum()

    with full_precision(student.device):
        if is_wide(student) and not teacher.requires_grad:
            flat = teacher.flatten(0, -2)

            def slope(part: Tensor, i: slice) -> Tensor:
                p, q = (torch.softmax(precise(side) / temperature, -1) for side in (part, flat[i]))
                return p.sub_(q).div_(temperature)

            value = rowwise(student.flatten(0, -2), lambda part, i: total(part, flat[i]), slope if towards else None)
        else:
            value = total(student, teacher)
        return (value / student.shape[:-1].numel()).to(dtype)


def _expect(log_q: Tensor, log_p: Tensor) -> Tensor:
    """sum_c q_c log p_c; a term with q_c = 0 is 0 even if log p_c is -inf."""
    q = log_q.exp()
    return (q * log_p.masked_fill(q == 0, 0.0)).sum(-1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(q || p)."""
    q = log_q.exp()
    return (q * (log_q - log_p).masked_fill(q == 0, 0.0)).sum(-1)


@dataclass(frozen=True)
class TemperatureOptions(Options):
    temperature: float = option(2.0, "Temperature of the row term.", flag="temperature")

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise SinkdError(f"the temperature is {self.temperature}; it must be above 0")


class Divergence(RowTerm):
    """Compare each row's prediction with the teacher's: soft cross-entropy (kd, or kd_anneal, whose temperature falls
    to 1), KL in either direction (kl, reverse_kl), Jensen-Shannon (js) or total variation (tvd).
    """

    Options = TemperatureOptions
    weighted_by = "alpha"

    def __init__(self, name: str, options: TemperatureOptions):
        super().__init__(name, options)
        self.temperature = options.temperature
        self.anneals = name == "kd_anneal"
        self.function = {"kd": kd, "kd_anneal": kd, "kl": kl, "reverse_kl": reverse_kl, "js": js, "tvd": tvd}[name]

    @property
    def softens_at(self) -> float | None:
        # reverse_kl is an expectation under the student, which may have mass where the teacher has almost none
        return None if self.anneals or self.function is reverse_kl else self.temperature

    def forward(self, student: View, teacher: View, batch: Mapping[str, Any], progress: Progress) -> Tensor:
        temperature = self.temperature
        if self.anneals:
            temperature = annealed_temperature(temperature, progress.epoch, progress.epochs)
        return self.function(student.logits, teacher.softened(temperature), temperature)
