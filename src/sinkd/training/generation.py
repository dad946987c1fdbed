"""Language models at work in training: the logits that predict a batch's answers, and answers of a model's own."""

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sinkd.tasks.generative_collate import AnswerCollator


def answer_keywords(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """What to call a language model with beside its inputs: no logits of the prompt, where it can leave them out."""
    keep = "columns" in batch and takes_positions(model)
    return {"use_cache": False} | ({"logits_to_keep": batch["columns"]} if keep else {})


def answer_logits(logits: Tensor, batch: Mapping[str, Tensor], kept: bool) -> Tensor:
    """The logits (N, V) at a batch's `positions`, of a model's (B, L, V), or (B, C, V) of its `columns` where `kept`.

    Nothing is copied where every position is one.
    """
    rows, places = batch["positions"].unbind(1)
    if kept:
        places = torch.searchsorted(batch["columns"], places.contiguous())
    if len(rows) == logits.shape[0] * logits.shape[1]:
        return logits.flatten(0, 1)
    return logits[rows, places]


@cache
def _parameters(kind: type) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)  # type: ignore[attr-defined]


def takes_positions(model: Any) -> bool:
    """Can the model be told which positions' logits are wanted?"""
    return "logits_to_keep" in _parameters(type(getattr(model, "module", model)))  # type: ignore[arg-type]


@torch.no_grad()
def sampled_batch(
    model: Any, batch: Mapping[str, Tensor], collator: AnswerCollator, eos: int, vocabulary: int, seed: int
) -> dict[str, Tensor]:
    """The batch with answers drawn from the model itself, none longer than the longest of the batch, and no labels.

    vocabulary: token ids from here on are padding of the head, and not drawn. The random state is left as it was.
    """
    from sinkd.tasks.generative_collate import UNLABELLED

    prompts = collator.prompts_of(batch)
    device = batch["input_ids"].device
    question = {name: value.to(device) for name, value in collator.ask(prompts).items()}
    question.pop("position_ids", None)  # generate counts them from the mask
    network = getattr(model, "module", model)
    training = network.training
    longest = int(batch["counts"].max())
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        network.eval()
        drawn = network.generate(
            **question,
            do_sample=True,
            top_k=0,
            max_new_tokens=longest,
            eos_token_id=eos,
            pad_token_id=collator.pad,
            suppress_tokens=list(range(vocabulary, network.config.get_text_config().vocab_size)) or None,
        )
        network.train(training)
    begin = 1 if collator.decoder_start is not None else question["input_ids"].shape[1]
    answers = []
    for row in drawn[:, begin:].tolist():
        end = row.index(eos) + 1 if eos in row else len(row)
        answers.append(row[:end])
    fresh = {name: value.to(device) for name, value in collator.assemble(prompts, answers).items()}
    return fresh | {"labels": torch.full_like(fresh["labels"], UNLABELLED)}
