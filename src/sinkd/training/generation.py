"""Language models at work in training: the logits that predict a batch's answers, and answers of a model's own."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from sinkd.losses.draws import RandomState
from sinkd.tasks.generative_collate import UNLABELLED, AnswerCollator


def answer_keywords(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """What to call a language model with beside its inputs: no logits of the prompt, where it can leave them out."""
    if not ("columns" in batch and takes_positions(model)):
        return {"use_cache": False}
    return {"use_cache": False, "logits_to_keep": indices(model, batch["columns"])}


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


def indices(model: Any, numbers: Tensor) -> Tensor:
    """Numbers that index what a model computes: on the CPU where it is spread, since only there any device takes them.

    A part of a spread model computes on a device of its own, and a batch lies on the first one's.
    """
    return numbers.cpu() if getattr(getattr(model, "module", model), "hf_device_map", None) else numbers


@contextmanager
def _drawing_by(network: Any, settings: GenerationConfig) -> Iterator[None]:
    """Within it a model generates by these settings alone: what its own generation_config says is laid aside."""
    own, training = network.generation_config, network.training
    network.generation_config = settings
    try:
        yield network.eval()
    finally:
        network.generation_config = own
        network.train(training)


@torch.no_grad()
def sampled_batch(
    model: Any, batch: Mapping[str, Tensor], collator: AnswerCollator, eos: int, vocabulary: int, seed: int
) -> dict[str, Tensor]:
    """The batch with answers drawn from the model itself, none longer than the longest of the batch, and no labels.

    They follow the model's own distribution, softmax of its logits at temperature 1, whatever its folder says of
    generation. vocabulary: token ids from here on are padding of the head, and not drawn. The random state is left as
    it was.
    """
    prompts = collator.prompts_of(batch)
    device = batch["input_ids"].device
    question = {name: value.to(device) for name, value in collator.ask(prompts).items()}
    question.pop("position_ids", None)  # generate counts them from the mask
    network = getattr(model, "module", model)
    settings = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        max_new_tokens=int(batch["counts"].max()),
        eos_token_id=eos,
        pad_token_id=collator.pad,
        bos_token_id=eos,
        decoder_start_token_id=collator.decoder_start,
        suppress_tokens=list(range(vocabulary, network.config.get_text_config().vocab_size)) or None,
    )
    with RandomState(device).replayed(), _drawing_by(network, settings):
        torch.manual_seed(seed)
        drawn = network.generate(**question, generation_config=settings)
    begin = 1 if collator.decoder_start is not None else question["input_ids"].shape[1]
    answers = []
    for row in drawn[:, begin:].tolist():
        end = row.index(eos) + 1 if eos in row else len(row)
        answers.append(row[:end])
    fresh = {name: value.to(device) for name, value in collator.assemble(prompts, answers).items()}
    return fresh | {"labels": torch.full_like(fresh["labels"], UNLABELLED)}
