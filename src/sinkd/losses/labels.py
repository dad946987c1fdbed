"""`ce`: the task's own loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ..errors import SinkdError
from ..transport.precision import full_precision, result_type
from .chunked import is_wide, rowwise
from .term import Progress, RowTerm, View


class HardLabels(RowTerm):
    """Cross-entropy with the task's labels, or squared error for a single score; ignores unlabelled rows."""

    teacher_needs = frozenset()
    needs_labels = True
    weighted_by = "1 - alpha"

    def count(self, teacher: View, batch: Mapping[str, Any]) -> Tensor:
        return labelled(batch["labels"]).sum()

    def forward(self, student: View, teacher: View, batch: Mapping[str, Any], progress: Progress) -> Tensor:
        return hard_label_loss(student.logits, batch["labels"])


def labelled(labels: Tensor) -> Tensor:
    """Which rows have a label: class ids other than -100, scores other than NaN."""
    return ~labels.isnan() if labels.is_floating_point() else labels != -100


def hard_label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss over the labelled rows, 0 if there are none; wide rows are processed in slices.

    Args:
        logits: (..., C); C = 1 means scores.
        labels: (...), class ids, -100 where unlabelled; or scores, NaN where unlabelled.

    Raises:
        SinkdError: if shapes differ, or labels of classes are no integers.
    """
    if labels.shape != logits.shape[:-1]:
        raise SinkdError(
            f"labels have the shape {tuple(labels.shape)} and logits {tuple(logits.shape)}; give one label a row"
        )
    if logits.shape[-1] > 1 and labels.is_floating_point():
        raise SinkdError(
            f"labels are {labels.dtype} and logits of {logits.shape[-1]} classes; give whole numbers, the classes' ids"
        )
    known, dtype = labelled(labels), result_type(logits)
    if logits.shape[-1] == 1:
        error = (logits[..., 0].to(dtype) - labels.masked_fill(~known, 0.0).to(dtype)).square()
        return (error * known).sum() / known.sum().clamp(min=1)
    rows, labels = logits.flatten(0, -2), labels.flatten()

    def total(part: Tensor, i: slice) -> Tensor:
        return F.cross_entropy(part.to(dtype), labels[i], ignore_index=-100, reduction="sum")

    with full_precision(rows.device):
        value = rowwise(rows, total) if is_wide(rows) else total(rows, slice(None))
    return (value / known.sum().clamp(min=1)).to(dtype)
