"""Which floating-point type a computation runs in, whatever surrounds it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def island(device: torch.device) -> AbstractContextManager:
    """A context in which autocast is off on `device`; free where it is off already."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def result_type(*tensors: Tensor) -> torch.dtype:
    """float64 if any tensor is float64, else float32: what a cost is returned in, a plan is solved in."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def is_static(tensor: Tensor) -> bool:
    """Must control flow ignore the values of `tensor`: on an accelerator (a look synchronises), or under compile?"""
    return torch.compiler.is_compiling() or tensor.device.type != "cpu"


def may_wait(tensor: Tensor) -> bool:
    """May control flow look at values of `tensor` where that is worth a wait for its device?

    Not under compile, and not while a CUDA graph is captured.
    """
    if torch.compiler.is_compiling():
        return False
    return tensor.device.type != "cuda" or not torch.cuda.is_current_stream_capturing()
