"""AD-KD: which tokens a model's answer hangs on, and a student that should hang on its teacher's (Wu et al., ACL 2023).

The attribution of a token is the length of (gradient of a scalar s with respect to its embedding) * (its embedding);
each row of tokens is divided by its norm. s is the task's loss for two classes and for scores, and for more classes
-log p_c for each class c in turn. `integrated_saliency` averages the gradient along the line from no embedding to the
whole one (Sundararajan et al., ICML 2017).

A map does not change when s is multiplied by a positive number, row by row. So with one step s is not the loss but the
logit margin within it, whose gradient points the same way: it does not vanish where a model is sure, and for one and
two outputs it needs no label. Along the line the loss itself is needed, as its slope weighs the steps: still the margin
is what is differentiated, and the slope, which may be below what float16 holds, multiplies the gradient in float32.

The student is trained through its own gradient, so its pass must be twice differentiable.
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
from .embedding import replaced
from .feature import Feature, Forward
from .layers import attention_mask
from .options import Options, option
from .term import Progress, RowTerm, View

Comparison = Literal["L1", "L2", "smoothL1"]
COMPARISONS = {"L1": F.l1_loss, "L2": F.mse_loss, "smoothL1": F.smooth_l1_loss}


def token_lengths(embeddings: Tensor, gradient: Tensor, topk: int | None = None) -> Tensor:
    """norm over D of embeddings * gradient, of its `topk` largest magnitudes alone where given: (B, L, D) -> (B, L).

    A row is first divided by its largest entry, since gradients may be of any size: lengths are right up to a factor a
    row. Padding, whose gradient is 0, has length 0.
    """
    product = embeddings.to(result_type(embeddings)) * gradient.to(result_type(gradient))
    largest = product.detach().abs().amax((-2, -1), keepdim=True)
    product = product / torch.where(largest == 0, 1.0, largest)
    if topk is not None and topk < product.shape[-1]:
        product = product.abs().topk(topk, -1, sorted=False).values
    return torch.linalg.vector_norm(product, dim=-1)


def normalise(lengths: Tensor, norm: int) -> Tensor:
    """Rows (..., L) divided by their norm 1 or 2; rows of 0 stay."""
    size = torch.linalg.vector_norm(lengths, ord=norm, dim=-1, keepdim=True)
    return lengths / torch.where(size == 0, 1.0, size)


def margins(logits: Tensor, labels: Tensor | None) -> Tensor:
    """What an answer hangs on, one number a row and scalar, (B, S): the loss is softplus(margin) for class logits.

    logits (B, C). C > 2: S = C, and for class c it is log sum exp of the other logits less that of c. C = 2: S = 1,
    for the label's class; for class 0 without labels. C = 1: the score itself.
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
    """The derivative by `margins` (B, S) of the loss of hard labels, or of -log p_c of every class: (B, S).

    A row without a label (-100, NaN) has no loss of the former kind: 0.
    """
    if classes == 1:
        known = ~labels.isnan()
        return 2 * (margin - labels.masked_fill(~known, 0.0).unsqueeze(1)) * known.unsqueeze(1)
    slope = torch.sigmoid(margin)
    return slope * (labels != -100).unsqueeze(1) if classes == 2 else slope


def mean_gradients(seen: Forward, labels: Tensor | None, steps: int) -> Tensor:
    """The gradient of each scalar with respect to the embeddings, averaged over the embeddings times k / steps for
    k = 1..steps: (S, B, L, D), float32 or wider.

    Has a graph where gradients are on. steps - 1 further passes of the model beside the one that was seen, with its
    dropout: the line is one of one function.
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
    # rows do not depend on each other, so the gradient of their sum is that of each
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
    """Maps (B, S, L), S = 1 or one a class: what the answer owes to each token of a row. Settings as on the flags."""

    steps: int
    norm: int
    topk: int | None = None
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
                f"{type(seen.model).__name__} has no attribution: saliency compares models that answer "
                "a row of tokens with one row of logits, and embed it as (rows, tokens, width)"
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
    topk: int = option(
        768,
        "Entries of a token's width that count in the teacher's attribution, which is cached; the student's changes "
        "with every step and cannot be.",
        flag="topk",
    )
    normalization_type: int = option(
        2, "The norm, 1 or 2, that attributions are divided by.", flag="normalization_type"
    )
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
        "Steps of integrated_saliency, which with 1 is saliency: so many passes of the student a batch, as a student "
        "that learns has nothing to cache; the teacher's are cached.",
        flag="ig_steps",
    )


class AttributionLoss(RowTerm):
    """The student's map of each row against its teacher's.

    Summed over tokens and classes, divided by how many entries of the teacher's map are not 0, times the number of
    classes where there are more than two: the sum of one loss a class.
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
    """The same for gradients averaged over `ig_steps` embeddings."""

    Options = IntegratedOptions
