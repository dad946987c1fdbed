"""Sample a student's own answers, for a teacher to score (`--on_policy`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from sinkd.losses.random_state import RandomState
from sinkd.models.forward import bare
from sinkd.models.prompt_collator import UNLABELLED, PromptCollator


@torch.no_grad()
def sampled_batch(
    model: Any, batch: Mapping[str, Tensor], collator: PromptCollator, eos: int, vocabulary: int, seed: int
) -> dict[str, Tensor]:
    """Replace a batch's answers by answers drawn from the model, none longer than the longest; labels are -100.

    Answers follow the softmax of the model's logits at temperature 1; its generation_config is ignored. The global
    random state does not change.

    Args:
        model: The language model, possibly wrapped (DDP, FSDP).
        batch: Training rows, as `collator` makes them.
        eos: The token that ends an answer.
        vocabulary: Token ids from here on are padding of the head, and are not drawn.
    """
    prompts = collator.prompts_of(batch)
    device = batch["input_ids"].device
    question = {name: value.to(device) for name, value in collator.ask(prompts).items()}
    question.pop("position_ids", None)  # `generate` derives them from the mask
    network = bare(model)
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
    own, training = network.generation_config, network.training
    network.generation_config = settings  # else `generate` fills in unset values from the model's own
    try:
        with RandomState(device).replayed():
            torch.manual_seed(seed)
            drawn = network.eval().generate(**question, generation_config=settings)
    finally:
        network.generation_config = own
        network.train(training)
    begin = 1 if collator.decoder_start is not None else question["input_ids"].shape[1]
    answers = []
    for row in drawn[:, begin:].tolist():
        end = row.index(eos) + 1 if eos in row else len(row)
        answers.append(row[:end])
    fresh = {name: value.to(device) for name, value in collator.assemble(prompts, answers).items()}
    return fresh | {"labels": torch.full_like(fresh["labels"], UNLABELLED)}
