"""One forward pass of a model, and the features that are read from it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkd.errors import SinkdError
from sinkd.losses.feature import Feature, Forward
from sinkd.losses.input_embedding import input_table, watched
from sinkd.losses.random_state import RandomState
from sinkd.losses.term import View

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "decoder_input_ids")


def logits_in(outputs: Any) -> Tensor:
    """Return a model's logits: its output, the first of a tuple, or what it names so.

    Raises:
        SinkdError: if there are none.
    """
    found = outputs
    if isinstance(outputs, Mapping):
        found = outputs.get("logits")
    elif hasattr(outputs, "logits"):
        found = outputs.logits
    elif isinstance(outputs, Sequence) and outputs:
        found = outputs[0]
    if isinstance(found, Tensor):
        return found
    names = f" with {', '.join(map(str, outputs))}" if isinstance(outputs, Mapping) else ""
    raise SinkdError(
        f"a model's forward returned {type(outputs).__name__}{names}; it must return logits, alone, first in a tuple, "
        'or as "logits"'
    )


def bare(model: Any) -> Any:
    """Return the model inside the wrappers of torch.compile and of several processes."""
    while (inner := getattr(model, "_orig_mod", None) or getattr(model, "module", None)) is not None:
        model = inner
    return model


def model_inputs(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Select what a model reads of a batch.

    Models without segments get none. A program's own model that reads a mask always gets one. Segments that a model's
    table lacks become 0: RoBERTa has one, and may have BERT's tokenizer.
    """
    network = bare(model)
    declared = inspect.signature(type(network).forward).parameters
    # transformers' own take any keyword, and read those that they name.
    takes_any = any(each.kind is each.VAR_KEYWORD for each in declared.values())
    ignored = {"token_type_ids"} if isinstance(network, PreTrainedModel) else set()
    reads = declared.keys() | (set(MODEL_INPUTS) - ignored if takes_any else set())
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch and name in reads}
    masked = "attention_mask" in batch or "input_ids" not in batch or isinstance(network, PreTrainedModel)
    if "attention_mask" in reads and not masked:
        inputs["attention_mask"] = torch.ones_like(batch["input_ids"])  # the trainer leaves out masks of no padding
    kinds = getattr(getattr(network, "config", None), "type_vocab_size", None)
    if kinds is not None and (segments := inputs.get("token_type_ids")) is not None:
        inputs["token_type_ids"] = segments.where(segments < kinds, 0)
    return inputs


@contextmanager
def known_tokens(model: Any, inputs: Mapping[str, Any]) -> Iterator[None]:
    """Raise SinkdError for torch's IndexError about a token that the model's table lacks."""
    try:
        yield
    except IndexError as error:
        network = bare(model)
        table = getattr(input_table(network), "weight", None)
        largest = int(inputs["input_ids"].max())
        if table is None or largest < len(table):
            raise
        raise SinkdError(
            f"the tokenizer gives the token {largest}, which {type(network).__name__} does not know; give the "
            "tokenizer that the model was made with"
        ) from error


def parameters(model: Any) -> frozenset[str]:
    """Return the names of the inputs that a model's forward declares."""
    return frozenset(inspect.signature(type(bare(model)).forward).parameters)


def observe(
    model: nn.Module,
    batch: Mapping[str, Any],
    features: Iterable[Feature],
    keywords: Mapping[str, Any] | None = None,
    logits_of: Callable[[Any], Tensor] = logits_in,
    counts: Tensor | None = None,
) -> View:
    """Read features of a batch from one forward pass.

    Under `torch.no_grad` no feature has a graph, although attributions differentiate.

    Args:
        model: Any model that returns logits for the batch's MODEL_INPUTS, see `logits_in`.
        logits_of: Takes the logits from the model's outputs.
        counts: (B,), the number of answer tokens of each row, for a language model.
    """
    features = list(features)
    captures = frozenset().union(*(feature.captures for feature in features))
    inputs = model_inputs(model, batch)
    # Models keep their own default where hidden states are not needed: some refuse an explicit False.
    hidden = "hidden_states" in captures
    options = {**(keywords or {}), **({"output_hidden_states": True} if hidden else {})}
    attributes = "embeddings" in captures
    draws = RandomState(batch["input_ids"].device) if attributes and model.training else None
    with watched(model) if attributes else nullcontext([None]) as embeddings, known_tokens(model, inputs):
        outputs = model(**inputs, **options)
    states = outputs.hidden_states if hidden else None
    seen = Forward(model, inputs, logits_of(outputs), states, embeddings[0], draws, counts)
    values = {feature: feature.read(seen, batch) for feature in features}
    # `watched` turns gradients on, and no loss may find its way through a frozen teacher.
    return View(None, values if torch.is_grad_enabled() else {f: _detached(v) for f, v in values.items()}, counts)


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    return tuple(map(_detached, value)) if isinstance(value, tuple) else value
