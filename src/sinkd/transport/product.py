"""a b^T of float32 matrices on a CPU, by oneDNN where PyTorch alone would ask MKL.

MKL uses half of an AMD processor: its AVX-512 products run at AVX2's speed. oneDNN, which PyTorch has too, uses
what there is. Its entry for plain matrices is the one that PyTorch's own compiler calls.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import is_static

# Below so many multiplications a call costs more than it saves.
_FEW = 2**20


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a b^T + bias, (n, m), of matrices a (n, k) and b (m, k), and bias (m,); no autograd graph by oneDNN.

    Where `by_onednn(a, b)` does not hold it is PyTorch's own.
    """
    if by_onednn(a, b):
        return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return a @ b.mT if bias is None else torch.addmm(bias, a, b.mT)


def by_onednn(a: Tensor, b: Tensor) -> bool:
    """Would `product(a, b)` be oneDNN's: two large float32 matrices of a CPU, in full precision, in eager mode?"""
    return (
        a.dtype == b.dtype == torch.float32
        and not is_static(a)
        and a.shape[0] * a.shape[1] * b.shape[0] >= _FEW
        and _is_dense(a)
        and _is_dense(b)
        and _available()
    )


def _is_dense(x: Tensor) -> bool:
    # for a part of a larger matrix oneDNN may take a path that is a hundred times slower
    return x.is_contiguous() or x.mT.is_contiguous()


def _available() -> bool:
    # "medium" lets oneDNN round to bfloat16
    full = torch.get_float32_matmul_precision() == "highest"
    return full and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
