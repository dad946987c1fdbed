"""A language model's prediction in few numbers: the likeliest entries of its vocabulary, and the mass that remains.

Objectives soften a prediction, each term at its temperature T. What is kept is right at those temperatures alone: the
log-probabilities of the k likeliest entries, which serve every T, and for each T the mass of all other entries,

    rest_T = log sum over the others of p_c^(1/T).

Read back for T, every kept entry has its softened probability and the others share the rest of the mass evenly. So a
softened prediction is off by no more than that mass, in total variation; and for `kd` and `kl` the gradient at the
student's logits by no more than twice that mass over T, summed over a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sinkd.errors import SinkdError
from sinkd.losses.feature import LOGITS, Feature, Forward, join_tokens, split_tokens
from sinkd.losses.pieces import spans
from sinkd.losses.term import Term, View

NONE = -1e4
"""The logarithm of no mass: finite in every type that answers are kept in, and a power of 0 in all."""


@dataclass(frozen=True)
class LikeliestIds(Feature):
    """Which k entries of the vocabulary are likeliest at each answer token, (N, k) int32."""

    k: int

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"likeliest-{self.k}-ids"

    def read(self, seen: Forward, batch: Mapping[str, Any]) -> Tensor:
        return self.top(seen.logits).indices.int()

    def top(self, logits: Tensor) -> Any:
        """The values and indices of the k largest of each row (N, V); of all where V is smaller."""
        return logits.topk(min(self.k, logits.shape[-1]))

    def split(self, value: Tensor, batch: Mapping[str, Any]) -> Sequence[Tensor]:
        return split_tokens(value, batch)

    def join(self, rows: Sequence[Tensor], batch: Mapping[str, Any]) -> Tensor:
        return join_tokens(rows, batch)

    def token_bytes(self, width: int, size: int) -> int:
        return 4 * min(self.k, width)


@dataclass(frozen=True)
class LikeliestLogs(LikeliestIds):
    """Logarithms of their probabilities, not softened, (N, k)."""

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"likeliest-{self.k}-log-probabilities"

    def read(self, seen: Forward, batch: Mapping[str, Any]) -> Tensor:
        return _row_by_row(seen.logits, lambda rows: self.top(rows).values.float() - _log_total(rows))

    def token_bytes(self, width: int, size: int) -> int:
        return size * min(self.k, width)


@dataclass(frozen=True)
class Rest(LikeliestIds):
    """rest_T, the logarithm of what all other entries' softened probabilities have together, (N, 1).

    In units of the softened sum of which p_c^(1/T) are the summands; NONE where there is no other entry.
    """

    temperature: float

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"likeliest-{self.k}-rest-{self.temperature:.15g}"

    def read(self, seen: Forward, batch: Mapping[str, Any]) -> Tensor:
        def rest(rows: Tensor) -> Tensor:
            others = rows.scatter(-1, self.top(rows).indices, -torch.inf).float()
            softened = (others / self.temperature).logsumexp(-1, True)
            return (softened - _log_total(rows) / self.temperature).clamp_min(NONE)

        return _row_by_row(seen.logits, rest)

    def token_bytes(self, width: int, size: int) -> int:
        return size


class LikeliestView(View):
    """A teacher of whom no more than this is known: its `softened` predictions are restored, and it has no logits."""

    def __init__(self, kept: View, k: int, width: int):
        super().__init__()
        self.features = kept.features
        self.k, self.width = k, width

    def __contains__(self, feature: Feature) -> bool:
        return feature == LOGITS or super().__contains__(feature)

    def softened(self, temperature: float) -> Tensor:
        ids, logs = self[LikeliestIds(self.k)], self[LikeliestLogs(self.k)]
        return restore(ids, logs, self[Rest(self.k, temperature)], self.width, temperature)


def restore(ids: Tensor, logs: Tensor, rest: Tensor, width: int, temperature: float) -> Tensor:
    """Logits (N, width) that are right at this temperature, of what was kept: (N, k), (N, k) and (N, 1)."""
    others = max(width - ids.shape[-1], 1)
    logits = (temperature * (rest - math.log(others))).expand(-1, width).clone()
    return logits.scatter_(-1, ids.long(), logs)


def kept_for(terms: Iterable[Term], k: int) -> frozenset[Feature]:
    """What is kept of the likeliest k entries in place of whole predictions, for these terms.

    Raises SinkdError for a term to which more matters than the prediction at a temperature that is known now.
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
        temperatures.add(float(term.softens_at))
    rests = [Rest(k, temperature) for temperature in temperatures]
    return frozenset({LikeliestIds(k), LikeliestLogs(k), *rests}) if rests else frozenset()


def _row_by_row(logits: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """What `of` gives for rows (n, V), a slice of them at a time: no further logits are written out."""
    return torch.cat([of(logits[i]) for i in spans(len(logits), logits.shape[-1], logits.device)])


def _log_total(logits: Tensor) -> Tensor:
    return logits.float().logsumexp(-1, True)
