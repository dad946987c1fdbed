"""Compress a language model's prediction to the k most probable entries of its vocabulary and the remaining mass.

Each term of an objective softens predictions at its own temperature T. The cache stores the log-probabilities of the
top k entries, which serve every T, and for each T the mass of all other entries,

    rest_T = log sum over the others of p_c^(1/T).

A prediction restored for T has the softened probabilities of the top k entries and spreads the rest evenly. Its error
is at most that mass in total variation; for the gradient of `kd` and `kl` at the student's logits it is at most twice
that mass over T, summed over a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sinkd.errors import SinkdError
from sinkd.losses.chunked import spans
from sinkd.losses.feature import LOGITS, AnswerFeature, Feature, Forward
from sinkd.losses.term import Term, View
from sinkd.losses.top_k_union import top_k

NO_MASS = -1e4
"""The logarithm of no mass: finite in every dtype of the cache, with exponential 0 in each."""


@dataclass(frozen=True)
class TopIds(AnswerFeature):
    """The k most probable entries of the vocabulary at each answer token, (N, k) int32."""

    k: int

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"top-{self.k}-ids"

    def read(self, seen: Forward, batch: Mapping[str, Any]) -> Tensor:
        return _selected(seen, self.k)[0].int()

    def token_bytes(self, width: int, size: int) -> int:
        return 4 * min(self.k, width)


@dataclass(frozen=True)
class TopLogs(TopIds):
    """The logarithms of their probabilities at temperature 1, (N, k)."""

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"top-{self.k}-log-probabilities"

    def read(self, seen: Forward, batch: Mapping[str, Any]) -> Tensor:
        ids, log_total = _selected(seen, self.k)
        return seen.logits.gather(-1, ids).float() - log_total

    def token_bytes(self, width: int, size: int) -> int:
        return size * min(self.k, width)


@dataclass(frozen=True)
class Rest(TopIds):
    """rest_T, (N, 1), relative to the p_c of temperature 1; NO_MASS if there is no other entry."""

    temperature: float

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"top-{self.k}-rest-{self.temperature:.15g}"

    def read(self, seen: Forward, batch: Mapping[str, Any]) -> Tensor:
        ids, log_total = _selected(seen, self.k)
        rests = []
        for i in spans(len(ids), seen.logits.shape[-1], ids.device):
            others = seen.logits[i].scatter(-1, ids[i], -torch.inf).float()
            rests.append((others / self.temperature).logsumexp(-1, True))
        return (torch.cat(rests) - log_total / self.temperature).clamp_min(NO_MASS)

    def token_bytes(self, width: int, size: int) -> int:
        return size


class TopView(View):
    """A teacher of which only the top k entries are known: it has `softened` predictions but no logits."""

    def __init__(self, kept: View, k: int, width: int):
        super().__init__(counts=kept.counts)
        self.features = kept.features
        self.k, self.width = k, width

    def __contains__(self, feature: Feature) -> bool:
        return feature == LOGITS or super().__contains__(feature)

    def softened(self, temperature: float) -> Tensor:
        ids, logs = self[TopIds(self.k)], self[TopLogs(self.k)]
        return restore(ids, logs, self[Rest(self.k, temperature)], self.width, temperature)


def restore(ids: Tensor, logs: Tensor, rest: Tensor, width: int, temperature: float) -> Tensor:
    """Logits (N, width) for this temperature from cached ids (N, k), logs (N, k) and rest (N, 1)."""
    others = max(width - ids.shape[-1], 1)
    logits = (temperature * (rest - math.log(others))).expand(-1, width).clone()
    return logits.scatter_(-1, ids.long(), logs)


def kept_for(terms: Iterable[Term], k: int) -> frozenset[Feature]:
    """The features to cache instead of whole predictions, for these terms.

    Raises:
        SinkdError: for a term that needs more than k entries, or more than the prediction at one temperature known in
            advance.
    """
    temperatures = set()
    for term in terms:
        if LOGITS not in term.teacher_needs:
            continue
        if term.softens_at is None:
            raise SinkdError(
                "--teacher_cache_top_k keeps predictions softened at temperatures known beforehand, with what is "
                f"not kept spread evenly, and {term.name} needs more than that; leave the flag out, or the term"
            )
        if term.reads_top > k:
            raise SinkdError(f"--teacher_cache_top_k is {k}; it must be at least --{term.name}_top_k, {term.reads_top}")
        temperatures.add(float(term.softens_at))
    rests = [Rest(k, temperature) for temperature in temperatures]
    return frozenset({TopIds(k), TopLogs(k), *rests}) if rests else frozenset()


def _selected(seen: Forward, k: int) -> tuple[Tensor, Tensor]:
    """The top k entries (N, k) and the logsumexp of all, (N, 1), computed once per forward pass."""
    if ("top", k) not in seen.shared:
        logits = seen.logits
        slices = spans(len(logits), logits.shape[-1], logits.device)
        log_totals = torch.cat([logits[i].float().logsumexp(-1, True) for i in slices])
        seen.shared["top", k] = top_k(logits, k), log_totals
    return seen.shared["top", k]
