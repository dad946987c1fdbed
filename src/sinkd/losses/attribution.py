"""AD-KD: train a student's answer to depend on the same tokens as its teacher's (Wu et al., ACL 2023).

The attribution of a token is the length of (gradient of a scalar s with respect to its embedding) * (its embedding);
each row of tokens is divided by its norm. s is the task's loss for two classes and for scores, and for more classes
-log p_c for each class c in turn. `integrated_saliency` averages the gradient along the line from the zero embedding
to the full one (Sundararajan et al., ICML 2017).

Multiplying s by a positive number does not change a row's map. So with one step s is the logit margin inside the loss:
its gradient has the same direction, does not vanish where a model is certain, and needs no label for one or two
outputs. With several steps the loss's slope weights the steps. The margin is still differentiated; the slope, which
may underflow in float16, multiplies the gradient in float32.

The student is trained through its own gradient, so its forward pass must be twice differentiable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import SinkdError
from ..transport.precision import full_precision, result_type
from .feature import Feature, Forward
from .input_embedding import replaced
from .layers import attention_mask
from .option_flags import Options, option
from .term import Progress, RowTerm, View

Comparison = Literal["L1", "L2", "smoothL1"]
COMPARISONS = {"L1": F.l1_loss, "L2": F.mse_loss, "smoothL1": F.smooth_l1_loss}


def token_lengths(embeddings: Tensor, gradient: Tensor, topk: int | None = None) -> Tensor:
    """norm over D of embeddings * gradient, or of its `topk` largest magnitudes: (B, L, D) -> (B, L).

    Each row is first divided by its largest entry, since gradients may have any scale, so lengths are correct up to a
    factor per row. Padding has gradient 0 and length 0.
    """
    product = embeddings.to(result_type(embeddings)) * gradient.to(result_type(gradient))
    largest = product.detach().abs().amax((-2, -1), keepdim=True)
    product = product / torch.where(largest == 0, 1.0, largest)
    if topk is not None and topk < product.shape[-1]:
        product = product.abs().topk(topk, -1, sorted=False).values
    return torch.linalg.vector_norm(product, dim=-1)


def normalise(lengths: Tensor, norm: int) -> Tensor:
    """Rows (..., L) divided by their norm 1 or 2; rows of zeros are unchanged."""
    size = torch.linalg.vector_norm(lengths, ord=norm, dim=-1, keepdim=True)
    return lengths / torch.where(size == 0, 1.0, size)


def margins(logits: Tensor, labels: Tensor | None) -> Tensor:
    """The scalars that are differentiated, (B, S): for class logits the loss is softplus(margin).

    Args:
        logits: (B, C). C > 2: S = C, and the margin of class c is the log-sum-exp of the other logits minus that of c.
            C = 2: S = 1, the margin of the label's class. C = 1: the score itself.
        labels: (B,) class ids; without them, C = 2 uses the margin of class 0.
    """
    logits = logits.to(result_type(logits))
    if logits.shape[-1] == 1:
        return logits
    own = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    others = logits.unsqueeze(1).masked_fill(own, -torch.inf).logsumexp(-1)  # (B, C): without class c
    each = others - logits
    if logits.shape[-1] > 2:
        return each
    if labels is None:
        return each[:, :1]
    return each.gather(1, labels.clamp(min=0).unsqueeze(1))


def slopes(margin: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The derivative of the hard-label loss, or of -log p_c for every class c, with respect to `margins`: (B, S).

    The derivative of the hard-label loss is 0 for rows without a label (-100, NaN).
    """
    if classes == 1:
        known = ~labels.isnan()
        return 2 * (margin - labels.masked_fill(~known, 0.0).unsqueeze(1)) * known.unsqueeze(1)
    slope = torch.sigmoid(margin)
    return slope * (labels != -100).unsqueeze(1) if classes == 2 else slope


def mean_gradients(seen: Forward, labels: Tensor | None, steps: int) -> Tensor:
    """The gradient of each scalar with respect to the embeddings, averaged over embeddings * k / steps, k = 1..steps.

    Runs the model steps - 1 more times, with the same dropout as the pass `seen`.

    Returns:
        (S, B, L, D), float32 or wider, with a graph if gradients are on.
    """
    create_graph = torch.is_grad_enabled()
    assert seen.embeddings is not None
    with torch.enable_grad():
        total = _gradients(seen.logits, labels, steps, seen.embeddings, create_graph)
        for k in range(1, steps):
            start = seen.embeddings if create_graph else seen.embeddings.detach().requires_grad_()
            scaled = start * (k / steps)
            with seen.random_state.replayed() if seen.random_state else nullcontext(), replaced(seen.model, scaled):
                logits = seen.model(**seen.inputs).logits
            total = total + _gradients(logits, labels, steps, scaled, create_graph)
    return total / steps


def _gradients(logits: Tensor, labels: Tensor | None, steps: int, embeddings: Tensor, create_graph: bool) -> Tensor:
    if steps > 1 and labels is None:
        raise SinkdError(
            f"attributions in {steps} steps need the loss of hard labels, and the batch has none; give rows with labels"
        )
    margin = margins(logits, labels if steps > 1 else None)
    # rows do not depend on one another, so the gradient of the sum is that of each
    found = [
        torch.autograd.grad(scalar.sum(), embeddings, retain_graph=True, create_graph=create_graph)[0]
        for scalar in margin.unbind(1)
    ]
    gradients = torch.stack(found).to(result_type(*found))
    if steps == 1 or labels is None:
        return gradients
    return gradients * slopes(margin, labels, logits.shape[-1]).T[..., None, None].to(gradients.dtype)


@dataclass(frozen=True)
class Attribution(Feature):
    """Maps (B, S, L), S = 1 or one for each class: how much the answer depends on each token of a row."""

    steps: int
    """Forward passes along the line."""
    norm: int
    """1 or 2: the norm that each row is divided by."""
    topk: int | None = None
    """Entries of a token's D that count; None means all."""
    captures = frozenset({"embeddings"})
    of_tokens = True

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"attribution-{self.steps}-{self.norm}-{'all' if self.topk is None else self.topk}"

    def read(self, seen: Forward, batch: Mapping[str, Any]) -> Tensor:
        tokens = seen.inputs["input_ids"].shape
        fits = seen.embeddings is not None and seen.embeddings.shape[:2] == tokens
        if not fits or seen.embeddings is None or seen.counts is not None or seen.logits.shape[:-1] != tokens[:1]:
            raise SinkdError(
                f"{type(seen.model).__name__} has no attribution: saliency compares models that give one row of logits "
                "for a row of tokens, and embed it as (rows, tokens, width)"
            )
        gradients = mean_gradients(seen, batch.get("labels"), self.steps)
        mask = attention_mask(seen.inputs).bool().unsqueeze(1)
        with full_precision(gradients.device):
            lengths = torch.stack([token_lengths(seen.embeddings, g, self.topk) for g in gradients], 1)
            return normalise(lengths.masked_fill(~mask, 0.0), self.norm)

    def split(self, value: Tensor, batch: Mapping[str, Any], counts: Tensor | None = None) -> Sequence[Tensor]:
        mask = attention_mask(batch).bool()
        return [row[:, real].T for row, real in zip(value, mask, strict=True)]  # (tokens, S)

    def join(self, rows: Sequence[Tensor], batch: Mapping[str, Any]) -> Tensor:
        mask = attention_mask(batch).bool()
        value = rows[0].new_zeros(*mask.shape, rows[0].shape[-1])
        value[mask] = torch.cat(list(rows))
        return value.transpose(1, 2)


@dataclass(frozen=True)
class AttributionOptions(Options):
    topk: int = option(768, "Entries of a token's width that count in the teacher's (cached) attribution.", flag="topk")
    normalization_type: int = option(2, "1 or 2: the norm that attributions are divided by.", flag="normalization_type")
    loss_func: Comparison = option("L2", "Loss between two attributions.", flag="loss_func")
    ig_steps: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for name in ("topk", "ig_steps"):
            if getattr(self, name) < 1:
                raise SinkdError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.normalization_type not in (1, 2):
            raise SinkdError(f"normalization_type is {self.normalization_type}; it must be 1 or 2")


@dataclass(frozen=True)
class IntegratedOptions(AttributionOptions):
    ig_steps: int = option(  # type: ignore[misc]
        1,
        "Steps of integrated_saliency: the student's passes per batch; 1 is the same as saliency.",
        flag="ig_steps",
    )


class AttributionLoss(RowTerm):
    """Compare how much the answer to each row depends on each of its tokens with the teacher's (AD-KD).

    Maps are summed over classes if there are more than two. Each comparison is summed over tokens and
    divided by the mean number of nonzero entries in a teacher's map.
    """

    Options = AttributionOptions
    counts_by_teacher = True

    def __init__(self, name: str, options: AttributionOptions):
        super().__init__(name, options)
        self.compare = COMPARISONS[options.loss_func]
        self.student_map = Attribution(options.ig_steps, options.normalization_type)
        self.teacher_map = Attribution(options.ig_steps, options.normalization_type, options.topk)
        self.student_needs = frozenset({self.student_map})
        self.teacher_needs = frozenset({self.teacher_map})
        self.needs_labels = options.ig_steps > 1

    def count(self, teacher: View, batch: Mapping[str, Any]) -> Tensor:
        return (teacher[self.teacher_map] != 0).sum()

    def forward(self, student: View, teacher: View, batch: Mapping[str, Any], progress: Progress) -> Tensor:
        ours, theirs = student[self.student_map], teacher[self.teacher_map].detach()
        if ours.shape != theirs.shape:
            raise SinkdError(
                f"the student's attributions are {tuple(ours.shape)}, the teacher's {tuple(theirs.shape)}; both must "
                "read the same tokens and have the task's labels"
            )
        total = self.compare(ours, theirs.to(ours.dtype), reduction="sum")
        return total * ours.shape[1] / (theirs != 0).sum().clamp(min=1)


class IntegratedAttributionLoss(AttributionLoss):
    """As saliency, with maps by integrated gradients of `ig_steps` steps."""

    Options = IntegratedOptions
