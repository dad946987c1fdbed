"""Choose a computation's floating-point type, and decide whether it may read values."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(device: torch.device) -> AbstractContextManager:
    """A context in which autocast is off on `device`; free if it is already off."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def result_type(*tensors: Tensor) -> torch.dtype:
    """float64 if any tensor is float64, else float32: the type of costs and plans."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def exact_products(x: Tensor) -> Tensor:
    """x, or float64 if products of its matrices might be rounded to TF32 or bfloat16."""
    rounds = x.device.type != "cpu" or torch.get_float32_matmul_precision() != "highest"
    return x.double() if rounds and x.dtype == torch.float32 else x


def is_static(tensor: Tensor) -> bool:
    """True if control flow must ignore values: on an accelerator (reading one synchronises), or under compile."""
    return torch.compiler.is_compiling() or tensor.device.type != "cpu"


def may_wait(tensor: Tensor) -> bool:
    """True if control flow may read values, even if that synchronises the device.

    False under compile and while a CUDA graph is captured.
    """
    if torch.compiler.is_compiling():
        return False
    return tensor.device.type != "cuda" or not torch.cuda.is_current_stream_capturing()
