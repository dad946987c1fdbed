"""Choose between a Triton kernel and plain PyTorch."""

from __future__ import annotations

import importlib.util
import os
from typing import Literal, get_args

from torch import Tensor

from ..errors import SinkdError

Backend = Literal["auto", "torch", "triton"]
BACKENDS: tuple[str, ...] = get_args(Backend)
INSTALLED = importlib.util.find_spec("triton") is not None

LARGEST = 512
"""Rows or columns of the largest transport problem that a kernel solves."""


def use_triton(like: Tensor, backend: Backend, rows: int = 1, columns: int = 1) -> bool:
    """Whether kernels compute on the device of a tensor; for transport, problems of rows x columns.

    "auto" takes them on a CUDA device where Triton is installed, for problems that fit. A keyword forces either path.

    Raises:
        SinkdError: for "triton" where it is missing, or the problem does not fit.
    """
    if backend == "torch":
        return False
    fits = min(rows, columns) > 0 and max(rows, columns) <= LARGEST
    if backend == "auto":
        return fits and like.is_cuda and INSTALLED
    if not fits:
        raise SinkdError(f"backend 'triton': a problem is {rows} x {columns}; a kernel solves 1 to {LARGEST} a side")
    if not (INSTALLED and (like.is_cuda or os.environ.get("TRITON_INTERPRET") == "1")):
        raise SinkdError(f"backend 'triton': the tensors are on {like.device}; it needs a CUDA device, and Triton")
    return True
