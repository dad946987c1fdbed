"""Linear layers whose products are oneDNN's on a CPU: twice as fast on processors of AMD (`transport/product.py`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sinkd.transport.product import by_onednn, product

# Entries of a weight from which on calls cost less than they save. Rows have no say in it: whoever multiplies rounds in
# its own way, and an update is to come out alike however its rows are cut.
_LARGE = 2**16


class ProductLinear(nn.Linear):
    """An `nn.Linear` by `product`. Made in place by `quick`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out), as `nn.Linear`."""
        if self.weight.numel() < _LARGE or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        rows = x.reshape(-1, x.shape[-1])
        if not by_onednn(rows, self.weight):
            return super().forward(x)
        return _Product.apply(rows, self.weight, self.bias).unflatten(0, x.shape[:-1])


class _Product(torch.autograd.Function):
    """a b^T + bias; its reverse pass is made of itself, so it can be differentiated as often as one likes."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(a, b)
        return product(a, b, bias)

    @staticmethod
    def backward(ctx: Any, d_result: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        for_a, for_b, for_bias = ctx.needs_input_grad
        return (
            _Product.apply(d_result, b.mT, None) if for_a else None,
            _Product.apply(d_result.mT, a.mT, None) if for_b else None,
            d_result.sum(0) if for_bias else None,
        )
