"""Features: what a term is shown of a model's answer, one entry an example.

A term names the features that it needs of student and teacher. The trainer reads them all from one forward pass, and
keeps the teacher's in a cache where they depend on teacher and example alone. A new feature is one frozen dataclass:
its settings are its fields, and its name contains them, so that two settings never share a cache.
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
    """The layers of a model: how many beside the embedding, and how wide."""

    layers: int
    width: int


@dataclass(frozen=True)
class Forward:
    """One forward pass of a model over a batch of B rows of L tokens.

    Attributes:
        model: The model.
        inputs: The keywords that it was called with.
        logits: (B, C) class logits or scores; of a language model (N, V), those that predict the N answer tokens.
        hidden_states: (B, L, D) for each layer, the embedding's output first, where a feature captures them.
        embeddings: The embedding module's output (B, L, D), which the pass can be differentiated by, likewise.
        random_state: The state that the pass of a model in training began with, likewise.
        counts: (B,), of a language model how many of the N answer tokens each row has. None otherwise.
        shared: What features compute for one another.
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
    """Something of a model's answer, with one entry an example.

    Attributes:
        name: Tells it from every other feature and setting, in letters, digits, dots, dashes and underscores.
        captures: What the forward pass must keep, of {"hidden_states", "embeddings"}.
        keepable: Whether it depends on model and example alone, and is small enough to be kept on disk.
        of_tokens: Whether it has an entry for each token of an example, so that student and teacher must read the same
            tokens.
    """

    name: str = ""
    captures: frozenset[str] = frozenset()
    keepable: bool = True
    of_tokens: bool = False

    @abstractmethod
    def read(self, seen: Forward, batch: Mapping[str, Any]) -> Any:
        """The feature of a batch: a tensor whose first dimension counts examples, or what `split` understands."""

    def split(self, value: Any, batch: Mapping[str, Any], counts: Tensor | None = None) -> Sequence[Tensor]:
        """What to keep of each example, without the padding of its batch; `counts` as in `Forward`."""
        return value.unbind(0)

    def join(self, rows: Sequence[Tensor], batch: Mapping[str, Any]) -> Any:
        """The value for a batch of examples, from what `split` made of each."""
        return torch.stack(list(rows))

    def token_bytes(self, width: int, size: int) -> int:
        """Bytes kept for each answer token, for a head of this width and numbers of this size; 0 if none."""
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
    """Every layer's output, a tuple of (B, L, D), the embedding's first: too large to be kept."""

    name = "hidden_states"
    captures = frozenset({"hidden_states"})
    keepable = False
    of_tokens = True

    def read(self, seen: Forward, batch: Mapping[str, Any]) -> tuple[Tensor, ...]:
        assert seen.hidden_states is not None
        return seen.hidden_states


LOGITS = Logits()
HIDDEN_STATES = HiddenStates()
