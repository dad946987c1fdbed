"""How likely a language model finds each of an example's answers: evaluation of generative models.

A choice scores the sum of its tokens' log-probabilities, or their mean. All choices of an example share what the model
makes of its prompt: one pass of the encoder, or one prefix whose keys and values are kept.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from sinkd.tasks.generative_collate import UNLABELLED
from sinkd.training.generation import indices, takes_positions


def choice_log_likelihoods(
    model: PreTrainedModel, batch: Mapping[str, Tensor], length_normalize: bool = False
) -> Tensor:
    """(B, K) float32 log-likelihoods of each row's choices, -inf beyond a row's last.

    batch: rows with choices, as `AnswerCollator` gives them. length_normalize: the mean over a choice's tokens, its end
    of sequence among them, in place of the sum.
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
    """(M, T) log-probabilities of the choices' tokens."""
    encoded = model.get_encoder()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    rows = indices(model, batch["choice_rows"])
    logits = model(
        encoder_outputs=BaseModelOutput(last_hidden_state=encoded.last_hidden_state[rows]),
        attention_mask=batch["attention_mask"][rows],
        decoder_input_ids=batch["choice_inputs"],
        use_cache=False,
    ).logits
    return _log_probabilities(logits, batch["choice_labels"])


def _after_prefix(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """(M, T) log-probabilities of the choices' tokens."""
    prompt = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
    last = {"logits_to_keep": 1} if takes_positions(model) else {}
    seen = model(**prompt, use_cache=True, **last)
    rows, labels, inputs = indices(model, batch["choice_rows"]), batch["choice_labels"], batch["choice_inputs"]
    first = _log_probabilities(seen.logits[:, -1:][rows], labels[:, :1])
    if inputs.shape[1] == 0:
        return first
    cache = seen.past_key_values
    cache.batch_select_indices(rows)
    lengths = batch["attention_mask"].sum(1)[rows]
    logits = model(
        input_ids=inputs,
        attention_mask=torch.cat([batch["attention_mask"][rows], torch.ones_like(inputs)], 1),
        position_ids=lengths[:, None] + torch.arange(inputs.shape[1], device=inputs.device),
        past_key_values=cache,
        use_cache=True,
    ).logits
    return torch.cat([first, _log_probabilities(logits, labels[:, 1:])], 1)


def _log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """(M, T) of logits (M, T, V) and labels (M, T)."""
    picked = logits.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return picked.float() - logits.float().logsumexp(-1)
