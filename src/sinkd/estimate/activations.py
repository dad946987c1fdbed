"""Measure what autograd stores in a forward pass by running the model on fake tensors.

PyTorch's fake tensors have shapes, types and storages, but no numbers: a model of any size and architecture runs in
seconds, and its own code determines what is stored.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from transformers.initialization import no_init_weights

from sinkd.errors import SinkdError, first_sentence
from sinkd.estimate.shape import CLASSES, Shape, layers_of


@dataclass(frozen=True)
class Kept:
    """Bytes that autograd stores in a training forward pass: for each layer, and for everything else."""

    layers: list[int]
    outside: int


def trace(shape: Shape, rows: int, tokens: int, answer_tokens: int, bf16: str = "no", gpu: bool = True) -> Kept:
    """Measure what autograd stores in a forward pass, without the weights, on fake tensors.

    Args:
        tokens, answer_tokens: Tokens per row that the model reads, and that an encoder-decoder answers.
        bf16: "autocast", which also stores a bfloat16 copy of each matrix; "weights": the weights are bfloat16 too.
        gpu: True if attention and dropout run in a GPU's fused kernels.

    Raises:
        SinkdError: if what the model does depends on its input (Longformer).
    """
    kept: dict[int, tuple[torch.UntypedStorage, int]] = {}
    place = [-1]  # number of the current layer; -1 outside

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept.setdefault(storage._cdata, (storage, place[0]))  # held, so that its address is not reused
        return tensor

    # Some families initialise weights by their values (ModernBERT).
    with FakeTensorMode(), torch.device("cpu"), no_init_weights():
        dtype = torch.bfloat16 if bf16 == "weights" else torch.float32
        model = CLASSES[shape.kind].from_config(shape.config, dtype=dtype).train()
        own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
        layers = list(layers_of(model))
        for i, layer in enumerate(layers):
            layer.register_forward_pre_hook(lambda *_, i=i: place.__setitem__(0, i))
            layer.register_forward_hook(lambda *_: place.__setitem__(0, -1))
        batch: dict[str, Any] = {name: torch.ones(rows, tokens).long() for name in ("input_ids", "attention_mask")}
        if shape.kind == "encoder-decoder":
            batch["decoder_input_ids"] = torch.ones(rows, answer_tokens).long()
        if shape.kind != "encoder":
            batch["use_cache"] = False
        with (
            saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=bf16 != "no"),
            _FusedKernels() if gpu else nullcontext(),
        ):
            try:
                model(**batch)
            except RuntimeError as error:
                raise SinkdError(
                    f"{shape.config.model_type} does not run on tensors without values ({first_sentence(error)}), from "
                    "which memory is estimated; estimate a model of another family with the same sizes"
                ) from error
        sizes = [0] * (len(layers) + 1)
        for storage, i in kept.values():
            sizes[i] += storage.nbytes()
    return Kept(sizes[:-1], sizes[-1])


class _FusedKernels(TorchFunctionMode):
    """Dropout and attention as a GPU computes them: a mask of bytes, and no attention matrix."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.dropout:
            return _dropout(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(input, p, True)[0] if training and p > 0 else input


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any
) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        query, key, value = query.bfloat16(), key.bfloat16(), value.bfloat16()
    return _FusedAttention.apply(query, key, value, attn_mask)


class _FusedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        result, normalizer = torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, result, normalizer, *([] if mask is None else [mask.to(query.dtype)]))
        return result
