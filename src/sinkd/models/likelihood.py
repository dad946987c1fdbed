"""The logits with which a language model predicts answers, and the likelihood of a row's choices.

A choice's score is the sum of its tokens' log-probabilities, or their mean. All choices of a row share one pass over
its prompt: of the encoder, or of a decoder whose keys and values are kept.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from sinkd.models.prompt_collator import UNLABELLED

AT_ONCE = 8  # choices after the same prompts, as a multiple of the prompts: each holds a copy of its prompt's states


def answer_keywords(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return keywords that make a language model skip the prompt's logits, if it can."""
    if "columns" in batch and takes_positions(model):
        return {"use_cache": False, "logits_to_keep": indices(model, batch["columns"])}
    return {"use_cache": False}


def answer_logits(logits: Tensor, batch: Mapping[str, Tensor], kept: bool) -> Tensor:
    """Select the logits (N, V) at a batch's `positions`; nothing is copied if these are all positions.

    Args:
        logits: (B, L, V); with `kept` (B, C, V), of the batch's `columns` only.
        batch: Training rows, as `PromptCollator` makes them.
        kept: The model was called with `logits_to_keep`.
    """
    rows, places = batch["positions"].unbind(1)
    if kept:
        places = torch.searchsorted(batch["columns"], places.contiguous())
    if len(rows) == logits.shape[0] * logits.shape[1]:
        return logits.flatten(0, 1)
    return logits[rows, places]


def takes_positions(model: Any) -> bool:
    """Return whether the model's forward takes `logits_to_keep`, the positions of the logits to compute."""
    return "logits_to_keep" in _parameters(type(getattr(model, "module", model)).forward)


@cache
def _parameters(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def indices(model: Any, numbers: Tensor) -> Tensor:
    """Move indices of a model's tensors to the CPU if the model is spread over devices: each takes them from there."""
    return numbers.cpu() if getattr(getattr(model, "module", model), "hf_device_map", None) else numbers


def choice_log_likelihoods(
    model: PreTrainedModel, batch: Mapping[str, Tensor], length_normalize: bool = False
) -> Tensor:
    """Compute the log-likelihoods of each row's choices: (B, K) float32, -inf beyond a row's last choice.

    Args:
        model: A language model.
        batch: Rows with choices, as `PromptCollator` makes them.
        length_normalize: Take the mean over a choice's tokens, end of sequence included, instead of the sum.
    """
    labels = batch["choice_labels"]
    tokens = _after_encoder(model, batch) if model.config.is_encoder_decoder else _after_prefix(model, batch)
    known = labels != UNLABELLED
    scores = tokens.masked_fill(~known, 0.0).sum(1)
    if length_normalize:
        scores = scores / known.sum(1)
    places = batch["choice_places"]
    return scores[places.clamp(min=0)].masked_fill(places < 0, -torch.inf)


def _after_encoder(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the log-probabilities (M, T) of the choices' tokens, given by an encoder-decoder."""
    encoded = model.get_encoder()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    rows, labels = indices(model, batch["choice_rows"]), batch["choice_labels"]
    found = labels.new_zeros(labels.shape, dtype=torch.float32)
    for some in torch.arange(len(rows), device=rows.device).split(AT_ONCE * len(batch["input_ids"])):
        logits = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded.last_hidden_state[rows[some]]),
            attention_mask=batch["attention_mask"][rows[some]],
            decoder_input_ids=batch["choice_inputs"][some],
            use_cache=False,
        ).logits
        found[some] = _log_probabilities(logits, labels[some])
    return found


def _after_prefix(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the log-probabilities (M, T) of the choices' tokens, given by a decoder."""
    prompt = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
    last = {"logits_to_keep": 1} if takes_positions(model) else {}
    rows, labels, inputs = indices(model, batch["choice_rows"]), batch["choice_labels"], batch["choice_inputs"]
    seen = model(**prompt, use_cache=inputs.shape[1] > 0, **last)
    logits = seen.logits[:, -1].float()
    # Not one row of the vocabulary's width for each choice: there may be many.
    owner = batch["choice_rows"]
    first = (logits[owner, labels[:, 0]] - logits.logsumexp(-1)[owner]).unsqueeze(1)
    found = torch.cat([first, first.new_zeros(inputs.shape)], 1)
    if inputs.shape[1] == 0:
        return found
    lengths = batch["attention_mask"].sum(1)
    longer = indices(model, (labels[:, 1] != UNLABELLED).nonzero()[:, 0])
    parts = longer.split(AT_ONCE * len(lengths))
    for number, some in enumerate(parts, start=1):
        cache = seen.past_key_values if number == len(parts) else copy.deepcopy(seen.past_key_values)
        cache.batch_select_indices(rows[some])
        ids = inputs[some]
        logits = model(
            input_ids=ids,
            attention_mask=torch.cat([batch["attention_mask"][rows[some]], torch.ones_like(ids)], 1),
            position_ids=lengths[rows[some], None] + torch.arange(ids.shape[1], device=ids.device),
            past_key_values=cache,
            use_cache=True,
        ).logits
        found[some, 1:] = _log_probabilities(logits, labels[some, 1:])
    return found


def _log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (M, T) from logits (M, T, V) and labels (M, T)."""
    picked = logits.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return picked.float() - logits.float().logsumexp(-1)
