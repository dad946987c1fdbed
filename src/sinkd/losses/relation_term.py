"""`mgskd` as terms of an objective: sentences are compared over a whole update, tokens within their row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import SinkdError
from .feature import HIDDEN_STATES, Stack
from .layers import Pair, attention_mask, check_strategy, not_bound, pair_layers, sentence_needs, sentences_of
from .options import Options, option
from .relation import (
    SAMPLE_WEIGHT,
    TOKEN_LAYERS,
    TOKEN_WEIGHT,
    count_pairs,
    need_divisor,
    pair_scores,
    sentence_angles,
    triplet_angles,
)
from .term import BatchTerm, Progress, RowTerm, Term, View


@dataclass(frozen=True)
class RelationOptions(Options):
    heads: int = option(64, "Heads of the relation loss; both models' widths must be multiples.")
    matching_strategy: str = option(
        "emb+uniform",
        "Which layers mgskd pairs: emb, uniform, emb+uniform, last, final, emb+final, triple.",
        flag="matching_strategy",
    )
    k1: int = option(20, "Tokens of a row that anchor the triplets: those that the teacher attends to most.")
    k2: int = option(20, "Neighbours that an anchor makes triplets with.")

    def __post_init__(self) -> None:
        for name in ("heads", "k1", "k2"):
            if getattr(self, name) < 1:
                raise SinkdError(f"mgskd: {name} is {getattr(self, name)}; it must be at least 1")
        check_strategy(self.matching_strategy)


class Relation(Term):
    """`mgskd`, or a part of it that compares some of the pairs of layers; known once the term is bound to both models.

    Attributes:
        part: Which of the pairs.
    """

    Options = RelationOptions
    weighted_by = "mgskd_w"
    compares_layers = True
    student_needs = teacher_needs = frozenset({HIDDEN_STATES})  # until `bind`
    part = slice(0, TOKEN_LAYERS)

    def __init__(self, name: str, options: RelationOptions):
        super().__init__(name, options)
        self.options = options
        self.pairs: list[Pair] = []

    @classmethod
    def make(cls, name: str, options: RelationOptions) -> list[Term]:
        triplets = [TripletRelation(name, options, number) for number in range(1, TOKEN_LAYERS + 1)]
        return [SentenceRelation(f"{name}/sentences", options), PairRelation(f"{name}/pairs", options), *triplets]

    def bind(self, student: Stack, teacher: Stack) -> None:
        for width in (student.width, teacher.width):
            need_divisor(width, self.options.heads)
        self.pairs = pair_layers(self.options.matching_strategy, teacher.layers, student.layers)[self.part]
        self.applies = bool(self.pairs)


class SentenceRelation(Relation, BatchTerm):
    """The angles between the sentences of an update, of all pairs of layers but the first two."""

    part = slice(TOKEN_LAYERS, None)

    def bind(self, student: Stack, teacher: Stack) -> None:
        super().bind(student, teacher)
        self.student_needs, self.teacher_needs = sentence_needs("mean", self.pairs)

    def points(self, view: View, batch: Mapping[str, Any]) -> Tensor:
        return sentences_of(view, self)

    def forward(self, student: Tensor, teacher: Tensor, progress: Progress) -> Tensor:
        layers = zip(student.unbind(1), teacher.unbind(1), strict=True)
        return SAMPLE_WEIGHT * torch.stack([sentence_angles(s, t, self.options.heads) for s, t in layers]).sum()


class TokenRelation(Relation, RowTerm):
    """A comparison of the tokens of one row with one another, in the first two pairs of layers."""

    def forward(self, student: View, teacher: View, batch: Mapping[str, Any], progress: Progress) -> Tensor:
        if not self.pairs:
            raise not_bound(self)
        ours, theirs, mask = student[HIDDEN_STATES], teacher[HIDDEN_STATES], attention_mask(batch)
        values = [self.compare(ours[pair.student], theirs[pair.teacher], mask) for pair in self.pairs]
        return TOKEN_WEIGHT * torch.stack(values).sum()

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """The value of one pair of layers: (B, L, D), (B, L, another D), (B, L) -> a scalar."""
        raise NotImplementedError


class PairRelation(TokenRelation):
    """The scores of all pairs of tokens."""

    def count(self, teacher: View, batch: Mapping[str, Any]) -> Tensor:
        return count_pairs(attention_mask(batch))

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        return pair_scores(student, teacher, mask, self.options.heads)


class TripletRelation(TokenRelation):
    """The angles of the triplets that the teacher attends to, of one pair of layers; each pair counts its own."""

    counts_by_teacher = True

    def __init__(self, name: str, options: RelationOptions, number: int):
        super().__init__(f"{name}/triplets-{number}", options)
        self.part = slice(number - 1, number)

    def count(self, teacher: View, batch: Mapping[str, Any]) -> Tensor:
        states = teacher[HIDDEN_STATES][self.pairs[0].teacher]
        return self._angles(states, states, attention_mask(batch))[1]

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        return self._angles(student, teacher, mask)[0]

    def _angles(self, student: Tensor, teacher: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return triplet_angles(student, teacher, mask, self.options.heads, self.options.k1, self.options.k2)
