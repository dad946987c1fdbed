"""How large a model is: its parameters and what its layers are made of, known without loading a weight."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
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


# Models that go by their size: the encoders are MiniLM's and BERT's, the encoder-decoders T5 1.1's (3b and 11b are
# those of T0), the decoders GPT-Neo's. As their papers and configs have them.
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
    """What a model's memory depends on.

    parameters: in all; linear: those of matrices that a half-precision pass copies; largest_layer: of the layer with
    most; outside_layers: of embeddings, heads and whatever else stands beside the layers. layers, decoder_layers: the
    latter is 0 but for an encoder-decoder. width, feed_forward, heads, head_width; outputs: the vocabulary, or an
    encoder's labels. norm_copies: tensors that a normalisation keeps; feed_forward_copies: tensors as wide as the
    feed-forward layer that one keeps. dropout: whether training uses it. attention_matrices: whether attention keeps
    its matrices ("always"), or only where no fused kernel serves ("unfused"); position_bias: whether it adds a learned
    bias, which some kernels do not take. matrices: the shapes of all parameters.
    """

    kind: Kind
    parameters: int
    linear: int
    largest_layer: int
    outside_layers: int
    layers: int
    decoder_layers: int
    width: int
    feed_forward: int
    heads: int
    head_width: int
    outputs: int
    norm_copies: int
    feed_forward_copies: int
    dropout: bool
    attention_matrices: Literal["always", "unfused"]
    position_bias: bool
    matrices: tuple[tuple[int, ...], ...]


def read_shape(model: str, flag: str, labels: int | None = None, vocabulary: int | None = None) -> Shape:
    """The shape of a model of a known size ("11b"), or of the one in a folder or on the hub.

    labels: of an encoder's head; vocabulary: in place of the model's own. Raises SinkdError naming `flag`.
    """
    size = model.lower()
    if size in SIZES:
        sizes = dict(SIZES[size])
        config = CONFIG_MAPPING[sizes.pop("model_type")](**sizes)
    elif size.rstrip("bm").replace(".", "", 1).isdigit() and size[-1] in "bm":
        known = ", ".join(SIZES)
        raise SinkdError(f"{flag} is {model}, a size that no known model has; the sizes are {known}; or give a folder")
    else:
        config = load_config(find_checkpoint(model, flag), flag)
    if vocabulary is not None:
        config.vocab_size = vocabulary
    if labels is not None:
        config.num_labels = labels
    return shape_of(config, flag)


def shape_of(config: PretrainedConfig, flag: str = "the model") -> Shape:
    """The shape of the model that a config describes. Raises SinkdError for one that no Auto class builds."""
    kind = _kind(config)
    classes: dict[Kind, Any] = {
        "encoder": AutoModelForSequenceClassification,
        "decoder": AutoModelForCausalLM,
        "encoder-decoder": AutoModelForSeq2SeqLM,
    }
    try:
        with torch.device("meta"):
            model = classes[kind].from_config(config)
    except (ValueError, ImportError) as error:
        raise SinkdError(f"{flag} is no model of text: {str(error).splitlines()[0]}") from error
    blocks = [_count(layer) for layer in _layers(model)]
    parameters = dict(model.named_parameters())
    linear = {id(m.weight): m.weight.numel() for m in model.modules() if type(m).__name__ in ("Linear", "Conv1D")}
    matrices = [tuple(parameter.shape) for parameter in parameters.values()]
    width = config.hidden_size
    if getattr(config, "scale_decoder_outputs", True) is False:
        # T5 1.1 and T0: the class ties the head to the embedding, and their checkpoints bring one of their own.
        matrices.append((config.vocab_size, width))
    total = sum(map(math.prod, matrices))
    heads = config.num_attention_heads
    activation = str(
        _first(config, "dense_act_fn", "hidden_act", "activation_function", "activation", "hidden_activation")
    )
    gated = bool(getattr(config, "is_gated_act", False)) or any("gate" in name or ".Wi." in name for name in parameters)
    rms = any("RMSNorm" in type(m).__name__ or type(m).__name__ == "T5LayerNorm" for m in model.modules())
    rates = (
        "dropout",
        "attention_dropout",
        "hidden_dropout_prob",
        "dropout_rate",
        "resid_dropout",
        "resid_pdrop",
        "embed_dropout",
    )
    return Shape(
        kind=kind,
        parameters=total,
        linear=sum(linear.values()),
        largest_layer=max(blocks, default=0),
        outside_layers=total - sum(blocks),
        layers=config.num_hidden_layers,
        decoder_layers=config.num_decoder_layers if kind == "encoder-decoder" else 0,
        width=width,
        feed_forward=_first(config, "intermediate_size", "d_ff", "n_inner", "hidden_dim", "encoder_ffn_dim")
        or 4 * width,
        heads=heads,
        head_width=_first(config, "head_dim", "d_kv") or width // heads,
        outputs=config.num_labels if kind == "encoder" else config.vocab_size,
        norm_copies=2 if rms else 1,
        feed_forward_copies=_activation_copies(activation) + (2 if gated else 0),
        dropout=any(isinstance(getattr(config, r, None), float) and getattr(config, r) > 0 for r in rates),
        attention_matrices="unfused" if model._supports_sdpa else "always",
        position_bias=any("relative_attention_bias" in name for name in parameters),
        matrices=tuple(matrices),
    )


def _kind(config: PretrainedConfig) -> Kind:
    if config.is_encoder_decoder:
        return "encoder-decoder"
    causal = any("CausalLM" in name or "LMHead" in name for name in config.architectures or ())
    return "encoder" if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not causal else "decoder"


def _activation_copies(name: str) -> int:
    """Tensors that a feed-forward layer keeps, its activation's result among them: what is composed keeps its steps."""
    if name == "relu":
        return 1
    return 5 if name in ("gelu_new", "gelu_fast") else 2


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of a model: members of its outermost lists."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else _layers(child)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _first(config: PretrainedConfig, *names: str) -> Any:
    return next((getattr(config, name) for name in names if getattr(config, name, None) is not None), None)
