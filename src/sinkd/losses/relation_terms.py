"""`mgskd` as terms of an objective: one for sentences, one for pairs, one for the triplets of each layer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import SinkdError
from .feature import HIDDEN_STATES, Stack
from .layers import LayerTerm, Pair, SentenceTerm, Strategy, attention_mask, not_bound, pair_layers
from .mgskd_relations import (
    SAMPLE_WEIGHT,
    TOKEN_LAYERS,
    TOKEN_WEIGHT,
    count_pairs,
    need_divisor,
    pair_scores,
    sentence_angles,
    triplet_angles,
)
from .option_flags import Options, option
from .term import Progress, RowTerm, Term, View


@dataclass(frozen=True)
class RelationOptions(Options):
    heads: int = option(64, "Heads of the relation loss; must divide both models' widths.")
    matching_strategy: Strategy = option("emb+uniform", "Which layers mgskd pairs.", flag="matching_strategy")
    k1: int = option(20, "Anchors of triplets in a row: the tokens that the teacher attends to most.")
    k2: int = option(20, "Neighbours that form triplets with an anchor.")

    def __post_init__(self) -> None:
        for name in ("heads", "k1", "k2"):
            if getattr(self, name) < 1:
                raise SinkdError(f"mgskd: {name} is {getattr(self, name)}; it must be at least 1")


class Relation(LayerTerm):
    """Compare relations among tokens, spans and sentences with the teacher's (MGSKD), layer by layer.

    A term holds `mgskd`, or a summand of it for a slice (`part`) of the pairs of layers.
    """

    Options = RelationOptions
    weighted_by = "mgskd_w"

    def __init__(self, name: str, options: RelationOptions, part: slice):
        super().__init__(name, options)
        self.options, self.part = options, part
        self.pairs: list[Pair] = []

    @classmethod
    def make(cls, name: str, options: RelationOptions) -> list[Term]:
        return [
            SentenceRelation(f"{name}/sentences", options, slice(TOKEN_LAYERS, None)),
            PairRelation(f"{name}/pairs", options, slice(TOKEN_LAYERS)),
            *(TripletRelation(f"{name}/triplets-{i + 1}", options, slice(i, i + 1)) for i in range(TOKEN_LAYERS)),
        ]

    def bind(self, student: Stack, teacher: Stack) -> None:
        for width in (student.width, teacher.width):
            need_divisor(width, self.options.heads)
        self.pairs = pair_layers(self.options.matching_strategy, teacher.layers, student.layers)[self.part]
        self.applies = bool(self.pairs)


class SentenceRelation(Relation, SentenceTerm):
    """The angles between the sentences of an update."""

    def bind(self, student: Stack, teacher: Stack) -> None:
        super().bind(student, teacher)
        self.need_sentences("mean", self.pairs)

    def forward(self, student: Tensor, teacher: Tensor, progress: Progress) -> Tensor:
        layers = zip(student.unbind(1), teacher.unbind(1), strict=True)
        return SAMPLE_WEIGHT * torch.stack([sentence_angles(s, t, self.options.heads) for s, t in layers]).sum()


class TokenRelation(Relation, RowTerm):
    """Compares relations between the tokens of one row."""

    def forward(self, student: View, teacher: View, batch: Mapping[str, Any], progress: Progress) -> Tensor:
        if not self.pairs:
            raise not_bound(self)
        ours, theirs, mask = student[HIDDEN_STATES], teacher[HIDDEN_STATES], attention_mask(batch)
        values = [self.compare(ours[pair.student], theirs[pair.teacher], mask) for pair in self.pairs]
        return TOKEN_WEIGHT * torch.stack(values).sum()

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """The value of one pair of layers: (B, L, D), (B, L, another D), (B, L) -> a scalar."""


class PairRelation(TokenRelation):
    """The scores of all pairs of tokens."""

    def count(self, teacher: View, batch: Mapping[str, Any]) -> Tensor:
        return count_pairs(attention_mask(batch))

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        return pair_scores(student, teacher, mask, self.options.heads)


class TripletRelation(TokenRelation):
    """The angles of the triplets that the teacher attends to, in one pair of layers: the count differs by layer."""

    counts_by_teacher = True

    def count(self, teacher: View, batch: Mapping[str, Any]) -> Tensor:
        states = teacher[HIDDEN_STATES][self.pairs[0].teacher]
        return self._angles(states, states, attention_mask(batch))[1]

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        return self._angles(student, teacher, mask)[0]

    def _angles(self, student: Tensor, teacher: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return triplet_angles(student, teacher, mask, self.options.heads, self.options.k1, self.options.k2)
