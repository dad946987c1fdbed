"""Choose between a Triton kernel and plain PyTorch."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import SinkdError

Backend = Literal["auto", "torch", "triton"]
BACKENDS: tuple[str, ...] = get_args(Backend)
OLDEST = 3, 5
"""The first version of Triton that compiles the kernels."""
LARGEST = 512
"""Rows or columns of the largest transport problem that a kernel solves."""


def _installed() -> bool:
    try:
        major, minor = version("triton").split(".")[:2]
    except PackageNotFoundError:
        return False
    return (int(major), int(minor)) >= OLDEST


INSTALLED = _installed()
# AMD's GPUs are CUDA devices to PyTorch; their part of Triton lacks a precision that the kernels need.
NVIDIA = torch.version.hip is None


def use_triton(like: Tensor, backend: Backend, rows: int = 1, columns: int = 1) -> bool:
    """Whether kernels compute on the device of a tensor; for transport, problems of rows x columns.

    "auto" takes them on NVIDIA's GPUs with Triton 3.5 or later, for problems that fit. A keyword forces either path.

    Raises:
        SinkdError: for "triton" where they cannot run, or the problem does not fit.
    """
    if backend == "torch":
        return False
    fits = min(rows, columns) > 0 and max(rows, columns) <= LARGEST
    if backend == "auto":
        return fits and like.is_cuda and NVIDIA and INSTALLED
    if not fits:
        raise SinkdError(f"backend 'triton': a problem is {rows} x {columns}; a kernel solves 1 to {LARGEST} a side")
    if not INSTALLED or not ((like.is_cuda and NVIDIA) or os.environ.get("TRITON_INTERPRET") == "1"):
        raise SinkdError(f"backend 'triton': the tensors are on {like.device}; it needs an NVIDIA GPU and Triton 3.5")
    return True
