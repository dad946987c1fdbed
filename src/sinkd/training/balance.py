"""A teacher's answers, balanced to a class prior (`sinkd.transport.match_class_prior`)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from sinkd.errors import SinkdError
from sinkd.tasks.metrics import Scores
from sinkd.transport import match_class_prior

EPSILON = 0.1
FLAG = "--class_prior"

logger = logging.getLogger(__name__)


@dataclass
class Balance:
    """What balancing did to a teacher's answers.

    Attributes:
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


def parse_class_prior(text: str, labels: Sequence[str], counts: Sequence[int]) -> Tensor | None:
    """The shares of the classes, (C,) float64 with sum 1, or None for "none".

    Args:
        text: "none"; "uniform"; "labels", the frequencies of the labelled training rows; or a number for each class.
        counts: The number of training rows with each label; zeros if no row has one.

    Raises:
        SinkdError: for another text, for a share that is not greater than 0, for shares that do not sum to 1 (to
            1e-3), or for "labels" if a class has no labelled row.
    """
    if text == "none":
        return None
    if text == "uniform":
        shares = [1.0] * len(labels)
    elif text == "labels":
        shares = list(map(float, counts))
        if not sum(counts):
            raise SinkdError(f"{FLAG} labels needs labelled training rows and there are none; give uniform or numbers")
        if missing := [label for label, count in zip(labels, counts, strict=True) if not count]:
            raise SinkdError(f"{FLAG} labels: no training row has the label {missing[0]!r}; give uniform or numbers")
    else:
        shares = _numbers(text, labels)
    prior = torch.tensor(shares, dtype=torch.float64)
    return prior / prior.sum()


def contradiction(prior: Tensor, labels: Sequence[str], counts: Sequence[int]) -> str | None:
    """A sentence if the labelled rows contradict the prior, else None.

    They do if the frequency of some class differs from its share by at least 0.05 and by more than 3 standard errors
    of a sample of that size.
    """
    n = sum(counts)
    if not n:
        return None
    shares = prior.tolist()
    away = [abs(count / n - share) for share, count in zip(shares, counts, strict=True)]
    beyond = [
        at
        for at, share in enumerate(shares)
        if away[at] >= 0.05 - 1e-9 and away[at] > 3 * math.sqrt(share * (1 - share) / n)
    ]
    if not beyond:
        return None
    at = max(beyond, key=away.__getitem__)
    return (
        f"{FLAG} says {shares[at]:.2f} for {labels[at]!r}, but {counts[at] / n:.2f} of the {n} labelled training rows "
        "have that label; a wrong prior costs accuracy"
    )


def _numbers(text: str, labels: Sequence[str]) -> list[float]:
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        expected = f"none, uniform, labels or {len(labels)} numbers such as 0.3,0.7"
        raise SinkdError(f"{FLAG} is {text!r}; it must be {expected}") from None
    if len(shares) != len(labels):
        order = ", ".join(labels)
        raise SinkdError(f"{FLAG} {text} has {len(shares)} numbers for {len(labels)} labels, in the order {order}")
    for share, label in zip(shares, labels, strict=True):
        if not share > 0:
            raise SinkdError(f"{FLAG} {text} gives {label!r} a share of {share:g}; it must be greater than 0")
    if not abs(sum(shares) - 1) <= 1e-3:
        raise SinkdError(f"{FLAG} {text} sums to {sum(shares):g}; it must sum to 1")
    return shares


def _shares(logits: Tensor) -> list[float]:
    return (torch.bincount(logits.argmax(-1), minlength=logits.shape[-1]) / len(logits)).tolist()
