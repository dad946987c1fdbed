"""Make students by keeping some of their layers, or copying some of their teacher's."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from sinkd.errors import SinkdError
from sinkd.losses.feature import Stack


def choose_layers(text: str, available: int, flag: str, wanted: int | None = None) -> list[int]:
    """Parse a choice of layers to their numbers, from 0.

    Args:
        text: "3" is three evenly spaced layers; "0,2,4" is these layers. If `wanted` is given, also "first" or
            "spaced".
        available: The number of layers to choose from.
        flag: The flag, for messages.
        wanted: The number of layers to fill.

    Raises:
        SinkdError: if a layer does not exist, or their number is not `wanted`.
    """
    if text in ("first", "spaced") and wanted is not None:
        if wanted > available:
            raise SinkdError(f'{flag} is "{text}", and {wanted} layers cannot be taken from {available}')
        return list(range(wanted)) if text == "first" else _spaced(wanted, available)
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError as error:
        raise SinkdError(f'{flag} is "{text}"; give a number of layers, or layers with commas, as in 0,2,4') from error
    if "," not in text and wanted is None:
        if not 1 <= numbers[0] <= available:
            raise SinkdError(f"{flag} asks for {numbers[0]} layers; the model has {available}")
        return _spaced(numbers[0], available)
    if sorted(set(numbers)) != numbers or numbers[0] < 0 or numbers[-1] >= available:
        raise SinkdError(f"{flag} is {text}; give rising layer numbers from 0 to {available - 1}")
    if wanted is not None and len(numbers) != wanted:
        raise SinkdError(f"{flag} names {len(numbers)} layers, and the student has {wanted}")
    return numbers


def keep_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """Cut an encoder down to the given layers, in place, and set its config accordingly.

    Raises:
        SinkdError: if the model's first layer differs from the others (ModernBERT) and is not kept.
    """
    stack_owner, name, stack = _stack(model)
    setattr(stack_owner, name, nn.ModuleList(stack[i] for i in layers))
    for config in {id(c): c for c in (model.config, getattr(stack_owner, "config", model.config))}.values():
        for key in ("num_hidden_layers", "n_layers"):
            if key in config.to_dict():
                setattr(config, key, len(layers))
        kinds = getattr(config, "layer_types", None)
        if kinds is not None and len(kinds) > len(layers):
            config.layer_types = [kinds[i] for i in layers]
    with torch.device("meta"):
        loaded = type(model)(model.config)
    if loaded.state_dict().keys() != model.state_dict().keys():
        raise SinkdError(
            f"--keep_layers {','.join(map(str, layers))} gives no {type(model).__name__} that could be loaded again: "
            "its first layer differs from the others; keep layer 0"
        )
    return model


def copy_layers(student: PreTrainedModel, teacher: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """Copy the teacher's embeddings and the given layers into the student, in place; the student keeps its head.

    Raises:
        SinkdError: if shapes differ.
    """
    _, _, stack = _stack(student)
    _, _, source = _stack(teacher)
    for target, number in zip(stack, layers, strict=True):
        _copy(target, source[number], f"layer {number}")
    for part, module in student.base_model.named_children():
        if part.startswith("embeddings"):
            _copy(module, getattr(teacher.base_model, part, nn.Identity()), part)
    return student


def depth(model: PreTrainedModel) -> int:
    """Return the number of an encoder's layers."""
    return len(_stack(model)[2])


def stack(config: PretrainedConfig) -> Stack:
    """Return a model's depth and width, for terms that compare hidden states.

    Raises:
        SinkdError: if the model is an encoder-decoder, which has two stacks.
    """
    if config.is_encoder_decoder:
        raise SinkdError(
            f"a {config.model_type} has two stacks of layers; hidden states are compared where there is one"
        )
    return Stack(config.num_hidden_layers, config.hidden_size)


def _spaced(wanted: int, available: int) -> list[int]:
    """Return the first of each even share: 3 of 6 are 0, 2, 4."""
    return [i * available // wanted for i in range(wanted)]


def _stack(model: PreTrainedModel) -> tuple[nn.Module, str, nn.ModuleList]:
    """Find the module that holds the layers, their name in it, and the layers: the longest list of equal modules."""
    found = [
        (owner, name, child)
        for owner in model.base_model.modules()
        for name, child in owner.named_children()
        if isinstance(child, nn.ModuleList) and len({type(layer) for layer in child}) == 1
    ]
    if not found:
        raise SinkdError(f"{type(model).__name__} has no stack of layers to choose from")
    return max(found, key=lambda entry: len(entry[2]))


def _copy(target: nn.Module, source: nn.Module, what: str) -> None:
    try:
        target.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise SinkdError(
            f"the teacher's {what} does not fit the student's: --student_init copy needs equal width and kind; "
            "use --student_init pretrained"
        ) from error
