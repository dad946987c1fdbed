"""Heads of language models: their width, and cutting them to a shared vocabulary."""

from __future__ import annotations

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from sinkd.errors import SinkdError


def decoder_start(config: PretrainedConfig) -> int | None:
    """Return the token that the decoder of an encoder-decoder begins with; None for a decoder.

    Raises:
        SinkdError: if the config of an encoder-decoder names none.
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
    """Choose the width of the heads of teacher and student.

    Heads of different width are cut to the tokenizer's vocabulary, which removes padding only.

    Returns:
        The width, and a sentence that says what is cut, if anything.

    Raises:
        SinkdError: if only one model is an encoder-decoder, the models begin answers with different tokens, or a head
            lacks a token.
    """
    if teacher.is_encoder_decoder != student.is_encoder_decoder:
        kinds = ["an encoder-decoder" if config.is_encoder_decoder else "a decoder" for config in (teacher, student)]
        raise SinkdError(f"the teacher is {kinds[0]} and the student {kinds[1]}; both must be of one kind")
    starts = decoder_start(teacher), decoder_start(student)
    if starts[0] != starts[1]:
        raise SinkdError(f"teacher and student begin answers with different tokens, {starts[0]} and {starts[1]}")
    real = vocabulary(tokenizer)
    widths = {
        side: config.get_text_config().vocab_size for side, config in (("teacher", teacher), ("student", student))
    }
    for side, width in widths.items():
        if width < real:
            raise SinkdError(f"the tokenizer has {real} entries and the {side}'s head {width}; it must have them all")
    if widths["teacher"] == widths["student"]:
        return widths["teacher"], None
    heads = f"the teacher's head has {widths['teacher']} entries and the student's {widths['student']}"
    return real, f"{heads}: both are cut to the tokenizer's {real}"


def cut_head(model: PreTrainedModel, width: int) -> PreTrainedModel:
    """Cut a model's embedding and head to their first `width` entries, in place."""
    if head_width(model) == width:
        return model
    weight = model.get_output_embeddings().weight
    tied = weight is model.get_input_embeddings().weight
    model.resize_token_embeddings(width, mean_resizing=False)
    if not tied:
        # transformers treats every T5 as tied, even those with a separate head (1.1, mT5, T0): untie it again.
        head = model.get_output_embeddings()
        head.weight = nn.Parameter(weight.detach()[:width].clone(), requires_grad=weight.requires_grad)
        for name in [name for name, found in model.named_parameters() if found is head.weight]:
            model.all_tied_weights_keys.pop(name, None)
    return model


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the size of the smallest head that has an entry for each token."""
    return max(tokenizer.get_vocab().values()) + 1


def head_width(model: PreTrainedModel) -> int:
    """Return the width of a language model's logits."""
    return model.get_output_embeddings().weight.shape[0]
