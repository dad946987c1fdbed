"""A language model's prediction in few numbers: the likeliest entries of its vocabulary, and the mass that remains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sinkd.losses.feature import Feature, Forward, join_tokens, split_tokens


@dataclass(frozen=True)
class LikeliestIds(Feature):
    """Which k entries of the vocabulary are likeliest at each answer token, (N, k) int32."""

    k: int

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"likeliest-{self.k}-ids"

    def read(self, seen: Forward, batch: Mapping[str, Any]) -> Tensor:
        return seen.logits.topk(min(self.k, seen.logits.shape[-1])).indices.int()

    def split(self, value: Tensor, batch: Mapping[str, Any]) -> Sequence[Tensor]:
        return split_tokens(value, batch)

    def join(self, rows: Sequence[Tensor], batch: Mapping[str, Any]) -> Tensor:
        return join_tokens(rows, batch)

    def token_bytes(self, width: int, size: int) -> int:
        return 4 * min(self.k, width)


@dataclass(frozen=True)
class LikeliestLogs(LikeliestIds):
    """Logarithms of their probabilities, and behind them that of what remains, (N, k + 1)."""

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"likeliest-{self.k}-logs"

    def read(self, seen: Forward, batch: Mapping[str, Any]) -> Tensor:
        logits = seen.logits
        top = (logits.topk(min(self.k, logits.shape[-1])).values.float() - logits.float().logsumexp(-1, True)).double()
        rest = (1 - top.exp().sum(-1, keepdim=True)).clamp(min=1e-30).log()
        return torch.cat([top, rest], -1).float()

    def token_bytes(self, width: int, size: int) -> int:
        return size * (min(self.k, width) + 1)


def restore(ids: Tensor, logs: Tensor, width: int) -> Tensor:
    """Logits (N, width) of what was kept, the remaining mass spread evenly over the other entries.

    At temperature 1 every kept probability is right, and the others are off by no more than the remaining mass in all.
    """
    others = width - ids.shape[-1]
    logits = (logs[:, -1:] - math.log(max(others, 1))).expand(-1, width).clone()
    return logits.scatter_(-1, ids.long(), logs[:, :-1])
