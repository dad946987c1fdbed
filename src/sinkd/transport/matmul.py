"""a b^T of float32 matrices on a CPU, with oneDNN instead of MKL.

On some AMD processors MKL runs at half speed: its AVX-512 products are no faster than AVX2. oneDNN, which comes with
PyTorch, does not have this limit. The operator used here is the one that PyTorch's own compiler calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .precision import is_static

_FEWEST_MULTIPLICATIONS = 2**20  # below this the call costs more than it saves


def fast_linear(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a b^T + bias, (n, m), for a (n, k), b (m, k) and bias (m,).

    If `uses_onednn(a, b)` is false, PyTorch multiplies. With oneDNN the result has no autograd graph.
    """
    if uses_onednn(a, b):
        return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return a @ b.mT if bias is None else torch.addmm(bias, a, b.mT)


def uses_onednn(a: Tensor, b: Tensor) -> bool:
    """True if `fast_linear(a, b)` calls oneDNN: large dense float32 matrices on a CPU, full precision, eager mode."""
    return (
        a.dtype == b.dtype == torch.float32
        and not is_static(a)
        and a.shape[0] * a.shape[1] * b.shape[0] >= _FEWEST_MULTIPLICATIONS
        # for part of a larger matrix oneDNN can take a path that is a hundred times slower
        and all(x.is_contiguous() or x.mT.is_contiguous() for x in (a, b))
        and torch.get_float32_matmul_precision() == "highest"  # "medium" lets oneDNN round to bfloat16
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def multiplies_bfloat16() -> bool | None:
    """True if this processor has instructions that multiply bfloat16; None if PyTorch is too old to tell."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return None
    has: Mapping[str, Any] = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and any(map(has.get, ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")))
