"""Features: what a term is shown of a model's answer, one entry an example.

A term names the features that it needs of student and teacher; the trainer reads them all from one forward pass, and
keeps the teacher's in a cache where they depend on teacher and example alone. A new feature is one frozen dataclass:
its settings are its fields, and its name carries them, so that two settings never share a cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .draws import RandomState


class Stack(NamedTuple):
    """A model's layers, as a term must know them before training: how many beside the embedding, and how wide."""

    layers: int
    width: int


@dataclass(frozen=True)
class Forward:
    """One forward pass of `model` over a batch of B rows of L tokens.

    inputs: what the model was called with. logits: (B, C) class logits or scores; for a language model (N, V), the
    logits that predict the N answer tokens of the batch. hidden_states: one (B, L, D) tensor a layer, the embedding's
    output first. embeddings: the embedding module's output (B, L, D), from which the pass was differentiated.
    draws: the random state that the pass of a model in training began with. The last three are None unless a feature
    captures what they are for.
    """

    model: nn.Module
    inputs: Mapping[str, Tensor]
    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    embeddings: Tensor | None = None
    draws: RandomState | None = None
    shared: dict[Any, Any] = field(default_factory=dict, compare=False)  # what features compute for each other


class Feature:
    """Something of a model's answer, with one entry an example; subclass it as a frozen dataclass.

    `name` tells it from every other, settings included, in letters, digits, dots, dashes and underscores. `captures`
    says what the forward pass must keep: of {"hidden_states", "embeddings"}. `keepable`: it depends on model and
    example alone, and is small enough to be kept on disk. `of_tokens`: it has an entry for each token of an example, so
    that student and teacher must read the same tokens.
    """

    name: str = ""
    captures: frozenset[str] = frozenset()
    keepable: bool = True
    of_tokens: bool = False

    def read(self, seen: Forward, batch: Mapping[str, Any]) -> Any:
        """The feature of a batch: a tensor whose first dimension counts examples, or what `split` understands."""
        raise TypeError(f"{type(self).__name__} does not say how to read it from a forward pass")

    def split(self, value: Any, batch: Mapping[str, Any]) -> Sequence[Tensor]:
        """One tensor an example, as it is to be kept: without the padding of its batch."""
        return value.unbind(0)

    def join(self, rows: Sequence[Tensor], batch: Mapping[str, Any]) -> Any:
        """What `split` took apart, for the examples of another batch."""
        return torch.stack(list(rows))

    def token_bytes(self, width: int, size: int) -> int:
        """Bytes kept of one answer token of a language model with a head of `width`, `size` bytes a number; 0 where
        there is one entry an example."""
        return 0


@dataclass(frozen=True)
class Logits(Feature):
    """The prediction itself: (B, C) class logits or scores, or the (N, V) logits of a batch's answer tokens."""

    name = "logits"

    def read(self, seen: Forward, batch: Mapping[str, Any]) -> Tensor:
        return seen.logits

    def split(self, value: Tensor, batch: Mapping[str, Any]) -> Sequence[Tensor]:
        return split_tokens(value, batch)

    def join(self, rows: Sequence[Tensor], batch: Mapping[str, Any]) -> Tensor:
        return join_tokens(rows, batch)

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


def split_tokens(value: Tensor, batch: Mapping[str, Any]) -> Sequence[Tensor]:
    """One entry an example: its rows of (N, ...) where the batch `counts` answer tokens, else one of (B, ...)."""
    return value.split(batch["counts"].tolist()) if "counts" in batch else value.unbind(0)


def join_tokens(rows: Sequence[Tensor], batch: Mapping[str, Any]) -> Tensor:
    """What `split_tokens` took apart."""
    return torch.cat(list(rows)) if "counts" in batch else torch.stack(list(rows))


LOGITS = Logits()
HIDDEN_STATES = HiddenStates()
