"""Features: the parts of a model's answer that terms read, with one entry per example.

A term names the features that it needs from student and teacher. The trainer reads them all from one forward pass, and
caches the teacher's if they depend only on teacher and example. A new feature is one frozen dataclass: its settings
are its fields, and its name contains them, so that two settings never share a cache.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .random_state import RandomState


class Stack(NamedTuple):
    """The layers of a model: their number, without the embedding, and their width."""

    layers: int
    width: int


@dataclass(frozen=True)
class Forward:
    """One forward pass of a model over a batch of B rows of L tokens.

    Attributes:
        model: The model.
        inputs: The keyword arguments of the call.
        logits: (B, C) class logits or scores; for a language model (N, V), those that predict the N answer tokens.
        hidden_states: (B, L, D) for each layer, the embedding's output first; None unless a feature captures them.
        embeddings: The embedding module's output (B, L, D), to differentiate by; None unless captured.
        random_state: The random state before the pass of a model in training; None unless captured.
        counts: (B,), for a language model the number of answer tokens in each row; None otherwise.
        shared: Results that features share with each other.
    """

    model: nn.Module
    inputs: Mapping[str, Tensor]
    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    embeddings: Tensor | None = None
    random_state: RandomState | None = None
    counts: Tensor | None = None
    shared: dict[Any, Any] = field(default_factory=dict, compare=False)


class Feature(ABC):
    """A part of a model's answer, with one entry per example.

    Attributes:
        name: Unique for this feature and its settings: letters, digits, dots, dashes and underscores.
        captures: What the forward pass must keep, of {"hidden_states", "embeddings"}.
        keepable: True if it depends only on model and example and is small enough to store on disk.
        of_tokens: True if it has an entry for each token, so that student and teacher must read the same tokens.
    """

    name: str = ""
    captures: frozenset[str] = frozenset()
    keepable: bool = True
    of_tokens: bool = False

    @abstractmethod
    def read(self, seen: Forward, batch: Mapping[str, Any]) -> Any:
        """The feature of a batch: a tensor whose first dimension is the examples, or any value that `split` accepts."""

    def split(self, value: Any, batch: Mapping[str, Any], counts: Tensor | None = None) -> Sequence[Tensor]:
        """The value for each example, without the batch's padding; `counts` as in `Forward`."""
        return value.unbind(0)

    def join(self, rows: Sequence[Tensor], batch: Mapping[str, Any]) -> Any:
        """The inverse of `split`: the value for a batch of examples."""
        return torch.stack(list(rows))

    def token_bytes(self, width: int, size: int) -> int:
        """Bytes stored per answer token for a head of this width and numbers of this size; 0 if none."""
        return 0


class AnswerFeature(Feature):
    """A feature with one entry (N, ...) for each answer token of a language model, or (B, ...) for each example."""

    def split(self, value: Tensor, batch: Mapping[str, Any], counts: Tensor | None = None) -> Sequence[Tensor]:
        return value.unbind(0) if counts is None else value.split(counts.tolist())

    def join(self, rows: Sequence[Tensor], batch: Mapping[str, Any]) -> Tensor:
        return torch.cat([torch.atleast_2d(row) for row in rows])


@dataclass(frozen=True)
class Logits(AnswerFeature):
    """The prediction itself: (B, C) class logits or scores, or (N, V)."""

    name = "logits"

    def read(self, seen: Forward, batch: Mapping[str, Any]) -> Tensor:
        return seen.logits

    def token_bytes(self, width: int, size: int) -> int:
        return width * size


@dataclass(frozen=True)
class HiddenStates(Feature):
    """Every layer's output, a tuple of (B, L, D), the embedding's first: too large to cache."""

    name = "hidden_states"
    captures = frozenset({"hidden_states"})
    keepable = False
    of_tokens = True

    def read(self, seen: Forward, batch: Mapping[str, Any]) -> tuple[Tensor, ...]:
        assert seen.hidden_states is not None
        return seen.hidden_states


LOGITS = Logits()
HIDDEN_STATES = HiddenStates()
