"""A teacher's answers, balanced to a class prior (`sinkd.transport.match_class_prior`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from sinkd.errors import SinkdError
from sinkd.tasks.metrics import Scores
from sinkd.training.class_prior import contradiction, parse_class_prior
from sinkd.transport import match_class_prior

EPSILON = 0.1

logger = logging.getLogger(__name__)


@dataclass
class Balance:
    """What balancing did to a teacher's answers.

    Attributes:
        labels: The task's labels.
        prior: Their shares in the balanced answers.
        bias: What is added to the teacher's logits of every row, dev rows included.
        before: The share of the transfer set's rows that the teacher gave each label.
        after: The same with the bias.
        scores_before: The teacher's dev scores; empty until they are measured, and without dev labels.
        scores_after: The same with the bias.
    """

    labels: list[str]
    prior: list[float]
    bias: list[float]
    before: list[float]
    after: list[float]
    scores_before: Scores = field(default_factory=dict)
    scores_after: Scores = field(default_factory=dict)

    @classmethod
    def of(cls, logits: Tensor, labels: Sequence[str], prior: Tensor) -> Balance:
        """Balance the logits (N, C) of a transfer set, and log the labels' shares before and after."""
        bias = match_class_prior(logits, prior, EPSILON)
        before, after = (_shares(each) for each in (logits, logits + bias))
        made = cls(list(labels), prior.tolist(), bias.tolist(), before, after)
        shown = made.shown(before), made.shown(after)
        logger.info("the teacher's answers to %d rows: %s; balanced: %s", len(logits), *shown)
        return made

    def __call__(self, logits: Tensor) -> Tensor:
        """The balanced logits (..., C)."""
        return logits + torch.tensor(self.bias, dtype=logits.dtype).to(logits.device, non_blocking=True)

    def shown(self, shares: Sequence[float]) -> str:
        """Shares with their labels, for people."""
        return ", ".join(f"{label} {share:.1%}" for label, share in zip(self.labels, shares, strict=True))

    def as_dict(self) -> dict[str, object]:
        """The content for a manifest."""
        return {"epsilon": EPSILON, **asdict(self)}


def prior_for(text: str | None, zero_shot: bool, labels: Sequence[str], rows: Tensor) -> Tensor | None:
    """The prior to which a teacher's answers are balanced; None leaves them as they are.

    Args:
        text: `--class_prior`. By default a zero-shot teacher is balanced to the frequencies of the labelled rows, or
            uniformly if there are none, and a trained one is not balanced.
        zero_shot: The teacher has not been trained on the task.
        labels: The task's labels; () for a regression.
        rows: The labels (N,) of the transfer set, negative where there is none.

    Raises:
        SinkdError: for a prior that does not fit the task.
    """
    if not labels:
        if text not in (None, "none"):
            raise SinkdError(f"--class_prior {text} balances classes, and this task has scores; leave it out")
        return None
    counts = torch.bincount(rows[rows >= 0], minlength=len(labels)).tolist()
    if text is None:
        default = "labels" if sum(counts) else "uniform"
        return parse_class_prior(default if zero_shot else "none", labels, counts)
    prior = parse_class_prior(text, labels, counts)
    if prior is not None and (warning := contradiction(prior, labels, counts)):
        logger.warning(warning)
    return prior


def _shares(logits: Tensor) -> list[float]:
    return (torch.bincount(logits.argmax(-1), minlength=logits.shape[-1]) / len(logits)).tolist()
