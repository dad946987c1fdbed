"""The class prior to which a teacher's answers are balanced: parsed from --class_prior, compared with labelled rows."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sinkd.errors import SinkdError

FLAG = "--class_prior"


def parse_class_prior(text: str, labels: Sequence[str], counts: Sequence[int]) -> Tensor | None:
    """The shares of the classes, (C,) float64 with sum 1, or None for "none".

    Args:
        text: "none"; "uniform"; "labels", the frequencies of the labelled training rows; or a number for each class.
        labels: The task's labels, in its order.
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
