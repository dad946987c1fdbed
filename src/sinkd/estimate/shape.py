"""A model's size and the shapes of its layers, from its config."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from sinkd.errors import SinkdError
from sinkd.models.config import find_checkpoint, load_config

Kind = Literal["encoder", "decoder", "encoder-decoder"]
CLASSES: dict[Kind, Any] = {
    "encoder": AutoModelForSequenceClassification,
    "decoder": AutoModelForCausalLM,
    "encoder-decoder": AutoModelForSeq2SeqLM,
}


def _bert(layers: int, width: int, heads: int) -> dict[str, Any]:
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    return {"model_type": "bert", "vocab_size": 30522, "intermediate_size": 4 * width, **sizes}


def _t5(layers: int, width: int, feed_forward: int, heads: int) -> dict[str, Any]:
    sizes = {"num_layers": layers, "num_decoder_layers": layers, "d_model": width, "d_ff": feed_forward}
    version = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    return {"model_type": "t5", "vocab_size": 32128, "num_heads": heads, "d_kv": 64, **sizes, **version}


def _gpt_neo(layers: int, width: int, heads: int) -> dict[str, Any]:
    sizes = {"num_layers": layers, "hidden_size": width, "num_heads": heads}
    kinds = {"attention_types": [[["global", "local"], layers // 2]]}
    return {"model_type": "gpt_neo", "vocab_size": 50257, "max_position_embeddings": 2048, **kinds, **sizes}


# Models known by their size, as in their papers and configs: MiniLM and BERT; T5 1.1, and T0 (3b and 11b); GPT-Neo.
SIZES: dict[str, dict[str, Any]] = {
    "22m": _bert(6, 384, 12),
    "110m": _bert(12, 768, 12),
    "340m": _bert(24, 1024, 16),
    "77m": _t5(8, 512, 1024, 6),
    "250m": _t5(12, 768, 2048, 12),
    "780m": _t5(24, 1024, 2816, 16),
    "3b": _t5(24, 2048, 5120, 32),
    "11b": _t5(24, 4096, 10240, 64),
    "125m": _gpt_neo(12, 768, 12),
    "1.3b": _gpt_neo(24, 2048, 16),
    "2.7b": _gpt_neo(32, 2560, 20),
}


@dataclass(frozen=True)
class Shape:
    """The sizes that determine a model's memory.

    Attributes:
        decoder_layers: Number of decoder layers of an encoder-decoder; 0 otherwise.
        widest: The largest side of a matrix in a layer.
        outputs: The size of the vocabulary, or the number of an encoder's labels.
        matrices: The shapes of all parameters.
        layer: Parameters of the largest layer.
        outside: Parameters outside the layers: embeddings, heads and others.
    """

    kind: Kind
    config: PretrainedConfig = field(compare=False)
    layers: int
    decoder_layers: int
    width: int
    widest: int
    outputs: int
    matrices: tuple[tuple[int, ...], ...]
    layer: int
    outside: int

    @property
    def parameters(self) -> int:
        """The total number of parameters."""
        return sum(map(math.prod, self.matrices))


def read_shape(model: str, flag: str, labels: int | None = None, vocabulary: int | None = None) -> Shape:
    """The shape of a model of a known size ("11b"), in a folder, or on the hub.

    Args:
        labels: Number of labels of an encoder's head.
        vocabulary: Size of the vocabulary, instead of the model's own.

    Raises:
        SinkdError: if there is no such size or model.
    """
    size = model.lower()
    if size in SIZES:
        sizes = dict(SIZES[size])
        config = CONFIG_MAPPING[sizes.pop("model_type")](**sizes)
    elif size.rstrip("bm").replace(".", "", 1).isdigit() and size[-1] in "bm":
        known = ", ".join(SIZES)
        raise SinkdError(f"{flag} is {model}, which is not a known size; the sizes are {known}; or give a folder")
    else:
        config = load_config(find_checkpoint(model, flag), flag)
    if vocabulary is not None:
        config.vocab_size = vocabulary
    if labels is not None:
        config.num_labels = labels
    return shape_of(config, flag)


def shape_of(config: PretrainedConfig, flag: str = "the model") -> Shape:
    """The shape of the model that a config describes. Raises SinkdError if no Auto class builds it."""
    kind, text = _kind(config), config.get_text_config(decoder=True)
    try:
        with torch.device("meta"):
            model = CLASSES[kind].from_config(config)
    except (ValueError, ImportError) as error:
        raise SinkdError(f"{flag} is no model of text: {str(error).splitlines()[0]}") from error
    matrices = [tuple(parameter.shape) for parameter in model.parameters()]
    if getattr(config, "scale_decoder_outputs", True) is False:
        # T5 1.1 and T0: the class ties the head to the embedding, but their checkpoints have a separate head.
        matrices.append((config.vocab_size, config.hidden_size))
    layers = [[tuple(parameter.shape) for parameter in layer.parameters()] for layer in layers_of(model)]
    of_decoder = len(list(layers_of(model.get_decoder()))) if kind == "encoder-decoder" else 0
    sizes = [sum(map(math.prod, layer)) for layer in layers]
    return Shape(
        kind=kind,
        config=config,
        layers=len(layers) - of_decoder if of_decoder else config.num_hidden_layers,
        decoder_layers=of_decoder,
        width=text.hidden_size,
        widest=max(max(shape) for layer in layers for shape in layer),
        outputs=config.num_labels if kind == "encoder" else text.vocab_size,
        matrices=tuple(matrices),
        layer=max(sizes),
        outside=sum(map(math.prod, matrices)) - sum(sizes),
    )


def _kind(config: PretrainedConfig) -> Kind:
    if config.is_encoder_decoder:
        return "encoder-decoder"
    causal = any("CausalLM" in name or "LMHead" in name for name in config.architectures or ())
    return "encoder" if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not causal else "decoder"


def layers_of(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of a model: the members of its outermost lists."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else layers_of(child)
