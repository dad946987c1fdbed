"""Make students by keeping some of their layers, or copying some of their teacher's."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from sinkd.errors import SinkdError, first_sentence
from sinkd.losses.feature import Stack

SETTINGS = (bool, int, float, str, type(None))


def choose_layers(text: str, available: int, flag: str, wanted: int | None = None) -> list[int]:
    """Parse a choice of layers to their numbers, from 0.

    Args:
        text: "0,2,4" is these layers. Without `wanted`, "3" is three evenly spaced ones, "first:3" the first three and
            "last:3" the last three; with it, "first" and "spaced" are as many as wanted.
        wanted: The number of layers to fill.

    Raises:
        SinkdError: if a layer does not exist, or their number is not `wanted`.
    """
    if text in ("first", "spaced") and wanted is not None:
        if wanted > available:
            raise SinkdError(f'{flag} is "{text}", and {wanted} layers cannot be taken from {available}')
        return list(range(wanted)) if text == "first" else _spaced(wanted, available)
    if wanted is None and (match := re.fullmatch(r"(first:|last:)?(\d+)", text)):
        end, count = match[1], int(match[2])
        if not 1 <= count <= available:
            raise SinkdError(f"{flag} asks for {count} layers; the model has {available}")
        if end is None:
            return _spaced(count, available)
        return list(range(count) if end == "first:" else range(available - count, available))
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError as error:
        choices = "a number of layers, first:3, last:3, or layers with commas, as in 0,2,4"
        raise SinkdError(f'{flag} is "{text}"; give {choices}') from error
    if sorted(set(numbers)) != numbers or numbers[0] < 0 or numbers[-1] >= available:
        raise SinkdError(f"{flag} is {text}; give rising layer numbers from 0 to {available - 1}")
    if wanted is not None and len(numbers) != wanted:
        raise SinkdError(f"{flag} names {len(numbers)} layers, and the student has {wanted}")
    return numbers


def keep_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """Cut a model down to the given layers, in place, and set its config accordingly.

    Lists in the config with an entry for each layer, such as the kinds of attention, are cut too.

    Raises:
        SinkdError: if the model could not be loaded again from its config, as the first layer of ModernBERT differs
            from the others and is not kept; or if it has two stacks of layers, or groups of layers that share weights.
    """
    paths, total = _stack(model), depth(model)
    if list(layers) == list(range(total)):
        return model
    body, held = model.base_model, _held(model)
    if 1 < held < total:
        kind = type(model).__name__
        raise SinkdError(
            f"--keep_layers cannot leave out a layer of {kind}, which has {held} modules for {total} layers"
        )
    if held == total:
        for path in paths:
            owner, name = body.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2]
            setattr(owner, name, nn.ModuleList(getattr(owner, name)[i] for i in layers))
    reason = ""
    for changes in _possible_changes(model.config.get_text_config(), layers, total):
        try:
            loaded = _rebuilt(model, changes)
            if held == total:
                _fit(model, loaded, layers, paths)
        except Exception as error:  # whatever a config's check or a model's constructor raises
            reason = first_sentence(error)
            continue
        _set(model.config.get_text_config(), changes)
        return model
    chosen, kind = ",".join(map(str, layers)), type(model).__name__
    raise SinkdError(f"--keep_layers {chosen} gives no {kind} that could be loaded again: {reason}")


def _possible_changes(config: PretrainedConfig, layers: Sequence[int], total: int) -> Iterator[dict[str, Any]]:
    """Yield changes of a config that may describe the kept layers, those with the fewest lists cut first.

    A list as long as the model is deep need not have an entry for each layer.
    """
    lists: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        if isinstance(value, list | tuple) and len(value) == total:
            lists[name] = [value[i] for i in layers]
        elif isinstance(value, list | tuple) and all(_repeats(part) for part in value):  # GPT-Neo's attention_types
            whole = [kind for kinds, times in value for kind in list(kinds) * times]
            if len(whole) == total:
                lists[name] = [[[whole[i] for i in layers], 1]]
    for count in range(len(lists) + 1):
        for names in combinations(lists, count):
            yield {"num_hidden_layers": len(layers)} | {name: lists[name] for name in names}


def _repeats(part: Any) -> bool:
    return isinstance(part, list | tuple) and len(part) == 2 and isinstance(part[0], list) and isinstance(part[1], int)


def _set(config: PretrainedConfig, changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        setattr(config, name, value)


def _rebuilt(model: PreTrainedModel, changes: Mapping[str, Any]) -> PreTrainedModel:
    """Build a model from the config as it would be saved and loaded with these changes, without weights."""
    config = copy.deepcopy(model.config)
    _set(config.get_text_config(), changes)
    config = type(config).from_dict(config.to_dict())
    config._attn_implementation = model.config._attn_implementation
    with torch.device("meta"):
        return type(model)(config)


def _fit(model: PreTrainedModel, loaded: PreTrainedModel, layers: Sequence[int], paths: Sequence[str]) -> None:
    """Number the kept layers as those of `loaded`; SinkdError if they differ in anything but weights and numbers."""
    renumbered = []
    for path, (place, number) in product(paths, enumerate(layers)):
        kept, fresh = (body.base_model.get_submodule(f"{path}.{place}") for body in (model, loaded))
        found, wanted = _settings(kept), _settings(fresh)
        differing = [name for name in sorted(found | wanted) if found.get(name) != wanted.get(name)]
        numbers = [name for name in differing if (found.get(name), wanted.get(name)) == (number, place)]
        if others := [name for name in differing if name not in numbers]:
            advice = "; keep layer 0" if place == 0 else ""
            raise SinkdError(f"layer {number} differs in {others[0] or 'kind'} from the config's layer {place}{advice}")
        renumbered += [(kept, name, place) for name in numbers]
    for layer, name, place in renumbered:
        part, _, attribute = name.rpartition(".")
        setattr(layer.get_submodule(part), attribute, place)
    for path in {path.rpartition(".")[0] for path in paths}:  # XLM counts its layers where it holds them
        owner, fresh = (body.base_model.get_submodule(path) for body in (model, loaded))
        for name, value in vars(owner).items():
            if (value, vars(fresh).get(name)) == (depth(model), len(layers)):
                setattr(owner, name, len(layers))


def _settings(layer: nn.Module) -> dict[str, Any]:
    """The type of each module of a layer, the shapes of its weights, and its settings, by name."""
    found: dict[str, Any] = {name: tensor.shape for name, tensor in layer.state_dict().items()}
    for part, module in layer.named_modules():
        found[part] = type(module)
        for name, value in vars(module).items():
            if name != "training" and not name.startswith("_") and isinstance(value, SETTINGS):
                found[f"{part}.{name}"] = value
    return found


def copy_layers(student: PreTrainedModel, teacher: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """Copy the given layers of the teacher and all that stands outside the layers into the student, in place.

    The student keeps its head, the pooler included.

    Raises:
        SinkdError: if shapes differ, or one of the models has parts that the other lacks.
    """
    shared = _held(teacher) < depth(teacher)
    chosen = range(_held(teacher)) if shared else layers
    theirs, own = teacher.base_model.state_dict(), student.base_model.state_dict()
    taken, needed = _parts(teacher, chosen), _parts(student, range(len(chosen)))
    for place, name in sorted(taken.keys() | needed.keys(), key=lambda part: (part[0] is None, part)):
        key, source = needed.get((place, name)), taken.get((place, name))
        if key is None or source is None or own[key].shape != theirs[source].shape:
            part = name if place is None else f"layer {chosen[place]}"
            raise SinkdError(
                f"the teacher's {part} does not fit the student's: --student_init copy needs equal width and kind; "
                "use --student_init pretrained"
            )
        own[key] = theirs[source]
    student.base_model.load_state_dict(own)
    return student


def _parts(model: PreTrainedModel, layers: Sequence[int]) -> dict[tuple[int | None, str], str]:
    """The keys of a base model's weights, without the head's pooler, by place among `layers` and name.

    The place is None outside the stack.
    """
    paths, places = _stack(model), {number: place for place, number in enumerate(layers)}
    parts: dict[tuple[int | None, str], str] = {}
    for key in model.base_model.state_dict():
        path = next((path for path in paths if key.startswith(f"{path}.")), None)
        if path is not None:
            number, _, name = key.removeprefix(f"{path}.").partition(".")
            if int(number) in places:
                parts[places[int(number)], f"{path}.{name}"] = key
        elif "pooler" not in key:
            parts[None, key] = key
    return parts


def depth(model: PreTrainedModel) -> int:
    """Return the number of a model's layers. ALBERT's share their weights."""
    _stack(model)
    return _layers(model.config.get_text_config())


def stack(config: PretrainedConfig) -> Stack:
    """Return a model's depth and width, for terms that compare hidden states.

    Raises:
        SinkdError: if the model is an encoder-decoder, which has two stacks.
    """
    if config.is_encoder_decoder:
        raise SinkdError(
            f"a {config.model_type} has two stacks of layers; hidden states are compared where there is one"
        )
    return Stack(_layers(config), config.hidden_size)


def _layers(config: PretrainedConfig) -> int:
    """Return the number of layers that a config states. Raises SinkdError if it states none, as Perceiver's."""
    number = getattr(config, "num_hidden_layers", None)
    if number is None:
        raise SinkdError(f"the config of a {config.model_type} states no number of layers, which this needs")
    return number


def _spaced(wanted: int, available: int) -> list[int]:
    """Return the first of each even share: 3 of 6 are 0, 2, 4."""
    return [i * available // wanted for i in range(wanted)]


def _stack(model: PreTrainedModel) -> list[str]:
    """Return the paths, in the base model, of the lists that hold its layers: one, or several that XLM reads in step.

    Raises:
        SinkdError: if there are none, or two stacks.
    """
    config = model.config.get_text_config()
    if config.is_encoder_decoder:
        raise SinkdError(
            f"{type(model).__name__} has two stacks of layers, an encoder's and a decoder's; layers are chosen where "
            "there is one"
        )
    lists = dict(_lists(model.base_model))
    if not lists:
        raise SinkdError(f"{type(model).__name__} has no stack of layers to choose from")
    longest = max(lists, key=lists.__getitem__)
    home = longest.rpartition(".")[0]
    return [path for path, size in lists.items() if path.rpartition(".")[0] == home and size == lists[longest]]


def _held(model: PreTrainedModel) -> int:
    """Return how many modules the layers are: fewer than the layers where these share weights."""
    return len(model.base_model.get_submodule(_stack(model)[0]))


def _lists(module: nn.Module, path: str = "") -> Iterator[tuple[str, int]]:
    """Yield the path and length of the outermost lists of modules."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield path + name, len(child)
        else:
            yield from _lists(child, f"{path}{name}.")
