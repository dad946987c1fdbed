"""Find the embedding module of any model, and hook its output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SinkdError


def input_table(model: Any) -> nn.Module | None:
    """A model's table of tokens; None for one without (CANINE hashes characters)."""
    try:
        return model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None


def embedding_module(model: nn.Module) -> nn.Module:
    """The largest part of a model that holds its input embedding and none of its layers.

    Its output (B, L, D) is what the first layer reads: for BERT the sum of three embeddings, normalised.

    Raises:
        SinkdError: for a model without `get_input_embeddings`.
    """
    body = model
    while not hasattr(body, "get_input_embeddings") and isinstance(getattr(body, "module", None), nn.Module):
        body = body.module  # type: ignore[assignment]  # inside an engine's wrapper, as DDP's
    embedding = input_table(body)
    if embedding is None:
        raise SinkdError(f"{type(body).__name__} has no get_input_embeddings(), so it has no attribution")
    stacks = [module for module in body.modules() if isinstance(module, nn.ModuleList)]
    layers = set() if not stacks else set(max(stacks, key=len).modules())
    for module in body.modules():  # from the outside in
        parts = set(module.modules())
        if embedding in parts and not parts & layers:
            return module
    return embedding


@contextmanager
def watched(model: nn.Module) -> Iterator[list[Tensor]]:
    """Inside the block, forward passes append the embedding module's output, so that gradients can be taken by it."""
    seen: list[Tensor] = []

    def watch(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        # the output of a frozen embedding has no graph, so one starts here
        output = output if output.requires_grad else output.detach().requires_grad_()
        seen.append(output)
        return output

    with _hooked(model, watch):
        yield seen


@contextmanager
def replaced(model: nn.Module, embeddings: Tensor) -> Iterator[None]:
    """Inside the block, the model's layers read these embeddings (B, L, D) instead of the text's."""
    with _hooked(model, lambda module, args, output: embeddings.to(output.dtype)):
        yield


@contextmanager
def _hooked(model: nn.Module, hook) -> Iterator[None]:
    handle = embedding_module(model).register_forward_hook(hook)
    try:
        with torch.enable_grad():
            yield
    finally:
        handle.remove()
