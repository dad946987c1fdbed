"""Language models that teach and learn: encoder-decoders (T5, mT5, T0) and decoders (GPT-2, GPT-Neo, Llama, Qwen)."""

import logging
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sinkd.errors import SinkdError
from sinkd.models.encoder import find_checkpoint, load_config
from sinkd.models.weights import load_weights

logger = logging.getLogger(__name__)


def load_language_model(
    path: str,
    flag: str,
    *,
    overrides: dict[str, object] | None = None,
    parallelize: bool = False,
    config_path: str | None = None,
) -> PreTrainedModel:
    """The language model in a folder or on the hub, float32: an encoder-decoder where its config says so, else a decoder.

    overrides: values for its config. config_path: another folder to take the config from. parallelize: spread it over
    the machine's accelerators. Raises SinkdError naming `flag` for a model that cannot be loaded, or lacks weights.
    """
    config = load_config(config_path or path, "--config_name" if config_path else flag)
    for key, value in (overrides or {}).items():
        if not hasattr(config, key):
            raise SinkdError(f'--config_overrides sets "{key}", which the config of {path} does not have')
        setattr(config, key, value)
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    spread = device_map() if parallelize else None
    model, lacking = load_weights(
        kind, find_checkpoint(path, flag), f"{flag} {path}", config=config, device_map=spread
    )
    if lacking:
        raise SinkdError(f"{flag} {path} lacks {len(lacking)} of a language model's weights, {lacking[0]} among them")
    return model


def device_map() -> str | None:
    """How `--parallelize` spreads a model: over all accelerators, or not at all where there are fewer than two."""
    count = torch.cuda.device_count()
    if count > 1:
        return "auto"
    say_not_spread("one accelerator" if count else "no accelerator")
    return None


@cache
def say_not_spread(there: str) -> None:
    """Say once why `--parallelize` spreads nothing."""
    logger.info("--parallelize: this machine has %s, so models are not spread", there)


def decoder_start(config: PretrainedConfig) -> int | None:
    """The token that the decoder of an encoder-decoder begins with; None for a decoder.

    Raises SinkdError for an encoder-decoder whose config names none.
    """
    if not config.is_encoder_decoder:
        return None
    start = config.decoder_start_token_id
    start = getattr(config, "pad_token_id", None) if start is None else start
    if start is None:
        raise SinkdError(f"the config of this {config.model_type} names no decoder_start_token_id; give it one")
    return start


def shared_vocabulary(
    tokenizer: PreTrainedTokenizerBase, teacher: PretrainedConfig, student: PretrainedConfig
) -> tuple[int, str | None]:
    """How wide the heads of teacher and student are to be, and in one sentence what is cut for it, if anything.

    Heads of different width are cut to the tokenizer's vocabulary; what is cut off is padding. Raises SinkdError where
    the models are of different kinds, begin their answers differently, or one has no entry for a token.
    """
    if teacher.is_encoder_decoder != student.is_encoder_decoder:
        kinds = ["an encoder-decoder" if config.is_encoder_decoder else "a decoder" for config in (teacher, student)]
        raise SinkdError(f"the teacher is {kinds[0]} and the student {kinds[1]}; both must be of one kind")
    starts = decoder_start(teacher), decoder_start(student)
    if starts[0] != starts[1]:
        raise SinkdError(f"teacher and student begin answers with different tokens, {starts[0]} and {starts[1]}")
    real = vocabulary(tokenizer)
    widths = {side: config.get_text_config().vocab_size for side, config in (("teacher", teacher), ("student", student))}
    for side, width in widths.items():
        if width < real:
            raise SinkdError(f"the tokenizer has {real} entries and the {side}'s head {width}; it must have them all")
    if widths["teacher"] == widths["student"]:
        return widths["teacher"], None
    heads = f"the teacher's head has {widths['teacher']} entries and the student's {widths['student']}"
    return real, f"{heads}: both are cut to the tokenizer's {real}"


def cut_head(model: PreTrainedModel, width: int) -> PreTrainedModel:
    """The model with no more than its first `width` entries of embedding and head, in place."""
    if head_width(model) == width:
        return model
    weight = model.get_output_embeddings().weight
    tied = weight is model.get_input_embeddings().weight
    model.resize_token_embeddings(width, mean_resizing=False)
    if not tied:
        # transformers takes every T5 for tied, those with a head of their own (1.1, mT5, T0) too: resizing made it so
        head = model.get_output_embeddings()
        head.weight = nn.Parameter(weight.detach()[:width].clone(), requires_grad=weight.requires_grad)
        for name in [name for name, found in model.named_parameters() if found is head.weight]:
            model.all_tied_weights_keys.pop(name, None)
    return model


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many entries of a head a tokenizer can name."""
    return max(tokenizer.get_vocab().values()) + 1


def head_width(model: PreTrainedModel) -> int:
    """Width of a language model's logits."""
    return model.get_output_embeddings().weight.shape[0]
