"""The logits with which a language model predicts answers, and the likelihood of a row's choices.

A choice's score is the sum of its tokens' log-probabilities, or their mean. All choices of a row share one pass over
its prompt: of the encoder, or of a decoder whose keys and values are kept. A decoder whose layers keep a state instead
(Mamba, Qwen3-Next), or that takes no positions (BLOOM), reads the prompt with each choice.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import LinearAttentionCacheLayerMixin
from transformers.modeling_outputs import BaseModelOutput

from sinkd.models.forward import bare, parameters
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
    return "logits_to_keep" in parameters(model)


def takes_left_padding(model: Any) -> bool:
    """Return whether a decoder reads the same whatever stands on its left, and goes on from what it keeps of a prompt.

    It must take positions, and keep keys and values: a state (Mamba's, Qwen3-Next's) holds the padding too, and cannot
    be copied for each choice.
    """
    network = bare(model)
    if network._is_stateful or not {"position_ids", "past_key_values"} <= parameters(network):
        return False
    layers = DynamicCache(config=network.config).layers
    return not any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


def padding_last(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Move the padding of a decoder's rows to the right, where it changes nothing for any decoder."""
    mask = batch["attention_mask"]
    rows, places = batch["positions"].unbind(1)
    places = places - (mask.cumsum(1) == 0).sum(1)[rows]
    order = mask.argsort(dim=1, descending=True, stable=True)
    moved = {name: batch[name].gather(1, order) for name in ("input_ids", "attention_mask")}
    moved |= {"positions": torch.stack([rows, places], 1), "columns": places.unique()}
    return {name: value for name, value in batch.items() if name != "position_ids"} | moved


def indices(model: Any, numbers: Tensor) -> Tensor:
    """Move indices of a model's tensors to the CPU if the model is spread over devices: each takes them from there."""
    return numbers.cpu() if getattr(bare(model), "hf_device_map", None) else numbers


def choice_log_likelihoods(
    model: PreTrainedModel, batch: Mapping[str, Tensor], length_normalize: bool = False
) -> Tensor:
    """Compute the log-likelihoods of each row's choices: (B, K) float32, -inf beyond a row's last choice.

    Args:
        batch: Rows with choices, as `PromptCollator` makes them.
        length_normalize: Take the mean over a choice's tokens, end of sequence included, instead of the sum.
    """
    labels = batch["choice_labels"]
    if model.config.is_encoder_decoder:
        tokens = _after_encoder(model, batch)
    else:
        tokens = (_after_prefix if takes_left_padding(model) else _with_prompt)(model, batch)
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


def _with_prompt(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the log-probabilities (M, T) of the choices' tokens, given by a decoder that reads each prompt anew."""
    prompts, masks, inputs = (batch[name] for name in ("input_ids", "attention_mask", "choice_inputs"))
    owner, labels = batch["choice_rows"], batch["choice_labels"]
    found = labels.new_zeros(labels.shape, dtype=torch.float32)
    places = prompts.shape[1] - 1 + torch.arange(labels.shape[1], device=labels.device)
    for some in torch.arange(len(owner), device=owner.device).split(len(prompts)):
        rows, numbers = owner[some], torch.arange(len(some), device=some.device)
        asked = padding_last(
            {
                "input_ids": torch.cat([prompts[rows], inputs[some]], 1),
                "attention_mask": torch.cat([masks[rows], torch.ones_like(inputs[some])], 1),
                "positions": torch.cartesian_prod(numbers, places),
            }
        )
        keywords = answer_keywords(model, asked)
        logits = model(input_ids=asked["input_ids"], attention_mask=asked["attention_mask"], **keywords).logits
        picked = answer_logits(logits, asked, "logits_to_keep" in keywords)
        found[some] = _log_probabilities(picked.unflatten(0, (len(some), len(places))), labels[some])
    return found


def _log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (M, T) from logits (M, T, V) and labels (M, T)."""
    picked = logits.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return picked.float() - logits.float().logsumexp(-1)
