"""Pairs of layers of teacher and student, and terms that compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ..errors import SinkdError
from ..transport.precision import result_type
from .feature import HIDDEN_STATES, Feature, Forward, Stack
from .option_flags import Options, option
from .term import BatchTerm, Term, View

Strategy = Literal["emb", "uniform", "emb+uniform", "last", "final", "emb+final", "triple"]
Pooling = Literal["mean", "cls"]


class Pair(NamedTuple):
    """A teacher layer and a student layer, counted from 1; 0 is the embedding."""

    teacher: int
    student: int


def pair_layers(strategy: str, teacher: int, student: int) -> list[Pair]:
    """The pairs of layers that a strategy compares, from the embedding up.

    Args:
        strategy: emb: the embeddings. uniform: every (N / gcd)-th layer of each side, where gcd is the depths'
            greatest common divisor and the number of pairs. last: each student layer with the teacher's last. final:
            the two last layers. triple: embedding, layer N // 2, and final. emb+uniform, emb+final: the embeddings
            first.
        teacher, student: Number of layers, without the embedding.

    Raises:
        SinkdError: for an unknown strategy, or depths that the strategy cannot pair.

    >>> [tuple(pair) for pair in pair_layers("emb+uniform", 12, 4)]
    [(0, 0), (3, 1), (6, 2), (9, 3), (12, 4)]
    """
    if strategy not in get_args(Strategy):
        raise SinkdError(f'the strategy is "{strategy}"; it must be one of {", ".join(get_args(Strategy))}')
    if min(teacher, student) < 1:
        raise SinkdError(f"layers cannot be paired: the teacher has {teacher}, the student {student}")
    if strategy.startswith("emb"):
        rest = strategy.partition("+")[2]
        return [Pair(0, 0), *(pair_layers(rest, teacher, student) if rest else ())]
    if strategy == "uniform":
        share = gcd(teacher, student)
        return [Pair(i * teacher // share, i * student // share) for i in range(1, share + 1)]
    if strategy == "last":
        if teacher < student:
            raise SinkdError(
                f'the strategy "last" pairs every layer of the student with one of the teacher, which has {teacher} '
                f"and the student {student}; choose uniform or final"
            )
        return [Pair(teacher - student + i, i) for i in range(1, student + 1)]
    if strategy == "final":
        return [Pair(teacher, student)]
    if min(teacher, student) < 2:
        raise SinkdError(
            f'the strategy "triple" needs a middle layer on both sides; the teacher has {teacher} layers, the student '
            f"{student}; choose emb+final"
        )
    return [Pair(0, 0), Pair(teacher // 2, student // 2), Pair(teacher, student)]


def pool(states: Tensor, mask: Tensor) -> Tensor:
    """The mean of the tokens that the mask (B, L) keeps, 0 if it keeps none: (B, L, D) -> (B, D)."""
    weights = mask.to(result_type(states)).unsqueeze(-1)
    return (states * weights).sum(-2) / weights.sum(-2).clamp_min(1.0)


@dataclass(frozen=True)
class Sentences(Feature):
    """One vector per example and layer, (B, layers, D): the mean of its tokens, or its first token."""

    side: Literal["student", "teacher"]
    pooling: Pooling
    layers: tuple[int, ...]
    captures = frozenset({"hidden_states"})

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.side}-{self.pooling}-{'.'.join(map(str, self.layers))}"

    def read(self, seen: Forward, batch: Mapping[str, Any]) -> Tensor:
        assert seen.hidden_states is not None
        states, mask = seen.hidden_states, attention_mask(seen.inputs)
        if self.pooling == "mean":
            if len({states[layer].shape[1] for layer in (*self.layers, 0)}) > 1:
                raise SinkdError(
                    f"{type(seen.model).__name__} shortens rows between its layers, so a sentence is no mean of its "
                    "tokens; compare first tokens (--hidden_pooling cls)"
                )
            return torch.stack([pool(states[layer], mask) for layer in self.layers], 1)
        first = mask.long().argmax(-1)  # 0 unless rows are padded on the left
        rows = torch.arange(len(first), device=first.device)
        return torch.stack([states[layer][rows, first] for layer in self.layers], 1)


class LayerTerm(Term):
    """A term that compares layers of hidden states; `bind` decides which."""

    compares_layers = True
    student_needs = teacher_needs = frozenset({HIDDEN_STATES})  # until `bind`


class SentenceTerm(LayerTerm, BatchTerm):
    """A term whose points are sentences, (n, layers, D)."""

    def need_sentences(self, pooling: Pooling, pairs: Sequence[Pair]) -> None:
        """Read the sentences of these pairs of layers."""
        self.student_needs = frozenset({Sentences("student", pooling, tuple(pair.student for pair in pairs))})
        self.teacher_needs = frozenset({Sentences("teacher", pooling, tuple(pair.teacher for pair in pairs))})

    def points(self, view: View, batch: Mapping[str, Any]) -> Tensor:
        for feature in self.student_needs | self.teacher_needs:
            if isinstance(feature, Sentences) and feature in view:
                return view[feature]
        raise not_bound(self)


@dataclass(frozen=True)
class SentenceOptions(Options):
    """Options of a `SentenceTerm`."""

    pooling: Pooling = option("mean", "A sentence is the mean of its tokens, or its first token.")
    layers: Strategy = option("uniform", "Which layers to compare, as for --matching_strategy.")


class ProjectedSentences(SentenceTerm):
    """A term that compares the sentences of pairs of layers in the teacher's space.

    If widths differ, the student's vectors go through one trained linear map per pair of layers.
    """

    def __init__(self, name: str, options: SentenceOptions):
        super().__init__(name, options)
        self.pooling, self.layers = options.pooling, options.layers
        self.projectors = nn.ModuleList()

    def bind(self, student: Stack, teacher: Stack) -> None:
        pairs = pair_layers(self.layers, teacher.layers, student.layers)
        self.need_sentences(self.pooling, pairs)
        maps = [nn.Linear(student.width, teacher.width, bias=False) for _ in pairs if student.width != teacher.width]
        for linear in maps:
            nn.init.orthogonal_(linear.weight)  # preserves angles as far as the widths allow
        self.projectors = nn.ModuleList(maps)

    def by_layer(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides' points, (n, layers, D) each, as (layers, n, D of the teacher)."""
        student, teacher = student.transpose(0, 1), teacher.transpose(0, 1)
        if self.projectors:
            student = torch.stack([f(x.to(f.weight.dtype)) for f, x in zip(self.projectors, student, strict=True)])
        return student, teacher


def not_bound(term: Term) -> SinkdError:
    return SinkdError(f"{term.name} was shown no hidden states; call Objective.bind, and then give what its terms need")


def attention_mask(inputs: Mapping[str, Any]) -> Tensor:
    """Which tokens of the inputs are not padding, (B, L)."""
    mask = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"]) if mask is None else mask
