"""Training steps that never wait for the GPU: while it computes one step, the host prepares the next.

Reading a value of a tensor on a GPU, or copying to it in the ordinary way, waits until everything that was started
there is done. `TaskTrainer` uses this module; settings that matter on a GPU have their defaults in `TaskArguments`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from sinkd.transport.matmul import multiplies_bfloat16

WORKERS = 2
"""Processes that load batches while the host starts kernels."""


def choose_for_gpu(args: Any) -> None:
    """Give the settings that are None the value for this machine: bfloat16 on a GPU that multiplies it, and workers."""
    on_gpu = torch.cuda.is_available() and not args.use_cpu
    if args.bf16 is None:
        args.bf16 = on_gpu and not args.fp16 and has_bfloat16(args.use_cpu)
    if args.dataloader_num_workers is None:
        args.dataloader_num_workers = WORKERS if on_gpu else 0


def has_bfloat16(use_cpu: bool) -> bool:
    """True if the device that trains, the GPU or else the processor, has instructions that multiply bfloat16."""
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(multiplies_bfloat16())


@contextmanager
def static_masks() -> Iterator[None]:
    """Inside the block, the models of transformers mask padding without looking whether there is any.

    Looking saves the mask of a batch without padding, and waits for the GPU in every pass: `without_full_mask` looks
    before the batch is there.
    """
    boolean = _static(ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    ALL_MASK_ATTENTION_FUNCTIONS.update({"sdpa": boolean, "eager": _added(boolean)})
    try:
        yield
    finally:
        for name in ("sdpa", "eager"):
            del ALL_MASK_ATTENTION_FUNCTIONS[name]


def _static(make: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
    def mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
        if attention_mask is not None:
            kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        elif kwargs.get("allow_is_bidirectional_skip") and kwargs.get("local_size") is None:
            return None  # also under compile, where transformers does not decide
        return make(*args, attention_mask=attention_mask, **kwargs)

    return mask


def _added(make: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
    """What eager attention adds to its scores. transformers' own copies a number to the device each time."""

    def mask(*args: Any, dtype: torch.dtype = torch.float32, **kwargs: Any) -> Tensor | None:
        kept = make(*args, **kwargs | {"allow_is_causal_skip": False})
        if kept is None:
            return None
        return torch.zeros_like(kept, dtype=dtype).masked_fill_(~kept, torch.finfo(dtype).min)

    return mask


def without_full_mask(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch, still on the CPU, without an attention mask that masks nothing: attention has faster kernels then."""
    mask = batch.get("attention_mask")
    full = isinstance(mask, Tensor) and mask.device.type == "cpu" and bool(mask.all())
    return {name: value for name, value in batch.items() if not (full and name == "attention_mask")}
