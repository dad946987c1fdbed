"""`mgskd` as terms of an objective: sentences are compared over a whole update, tokens within their row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import SinkdError
from .feature import HIDDEN_STATES, Stack
from .layers import Pair, Sentences, attention_mask, check_strategy, pair_layers, sentences_of
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
from .term import Progress, Term, View


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
    """`mgskd`, or a part of it: the pairs of layers that it compares are known once both models are."""

    Options = RelationOptions
    weighted_by = "mgskd_w"
    compares_layers = True
    student_needs = teacher_needs = frozenset({HIDDEN_STATES})  # until both models are met

    def __init__(self, name: str, options: RelationOptions):
        super().__init__(name, options)
        self.matching_strategy, self.heads = options.matching_strategy, options.heads

    @classmethod
    def make(cls, name: str, options: RelationOptions) -> list[Term]:
        triplets = [TripletRelation(name, options, number) for number in range(1, TOKEN_LAYERS + 1)]
        return [SentenceRelation(f"{name}/sentences", options), PairRelation(f"{name}/pairs", options), *triplets]

    def pairs(self, student: Stack, teacher: Stack) -> list[Pair]:
        for width in (student.width, teacher.width):
            need_divisor(width, self.heads)
        return pair_layers(self.matching_strategy, teacher.layers, student.layers)


class SentenceRelation(Relation):
    """`mgskd/sentences`: the angles between the sentences of an update, of all pairs of layers but the first two."""

    batchwise = True

    def meet(self, student: Stack, teacher: Stack) -> None:
        pairs = self.pairs(student, teacher)[TOKEN_LAYERS:]
        ours, theirs = tuple(pair.student for pair in pairs), tuple(pair.teacher for pair in pairs)
        self.student_needs = frozenset({Sentences("student", "mean", ours)} if pairs else ())
        self.teacher_needs = frozenset({Sentences("teacher", "mean", theirs)} if pairs else ())

    def points(self, view: View, batch: Mapping[str, Any]) -> Tensor:
        return sentences_of(view, self.student_needs | self.teacher_needs, self.name)

    def forward(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Any], progress: Progress) -> Tensor:
        layers = zip(student.unbind(1), teacher.unbind(1), strict=True)
        return SAMPLE_WEIGHT * torch.stack([sentence_angles(s, t, self.heads) for s, t in layers]).sum()


class TokenRelation(Relation):
    """A part of `mgskd` between the tokens of one row, of the first two pairs of layers."""

    compared: list[Pair]

    def forward(self, student: View, teacher: View, batch: Mapping[str, Any], progress: Progress) -> Tensor:
        ours, theirs = student[HIDDEN_STATES], teacher[HIDDEN_STATES]
        values = [self.value(ours[pair.student], theirs[pair.teacher], batch) for pair in self.compared]
        return TOKEN_WEIGHT * torch.stack(values).sum()

    def value(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Any]) -> Tensor:
        raise NotImplementedError

    def compare(self, pairs: list[Pair]) -> None:
        self.compared = pairs
        if not pairs:
            self.student_needs = self.teacher_needs = frozenset()


class PairRelation(TokenRelation):
    """`mgskd/pairs`: the scores of all pairs of tokens."""

    def meet(self, student: Stack, teacher: Stack) -> None:
        self.compare(self.pairs(student, teacher)[:TOKEN_LAYERS])

    def count(self, teacher: View, batch: Mapping[str, Any]) -> Tensor:
        return count_pairs(attention_mask(batch))

    def value(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Any]) -> Tensor:
        return pair_scores(student, teacher, attention_mask(batch), self.heads)


class TripletRelation(TokenRelation):
    """`mgskd/triplets-1`, `-2`: the angles of the triplets that the teacher attends to, of one pair of layers.

    One term a pair of layers, because each counts its own triplets.
    """

    counts_by_teacher = True

    def __init__(self, name: str, options: RelationOptions, number: int):
        super().__init__(f"{name}/triplets-{number}", options)
        self.k1, self.k2, self.number = options.k1, options.k2, number

    def meet(self, student: Stack, teacher: Stack) -> None:
        self.compare(self.pairs(student, teacher)[:TOKEN_LAYERS][self.number - 1 : self.number])

    def count(self, teacher: View, batch: Mapping[str, Any]) -> Tensor:
        (pair,) = self.compared
        states = teacher[HIDDEN_STATES][pair.teacher]
        return triplet_angles(states, states, attention_mask(batch), self.heads, self.k1, self.k2)[1]

    def value(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Any]) -> Tensor:
        return triplet_angles(student, teacher, attention_mask(batch), self.heads, self.k1, self.k2)[0]
