"""Clipping of gradients to a norm, without a pass over them where there is nothing to clip."""

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


@torch.no_grad()
def clip(model: nn.Module, max_norm: float) -> Tensor:
    """Scale the model's gradients down to `max_norm`, and return the norm that they had.

    The same numbers as PyTorch's `clip_grad_norm_`, which multiplies by 1 where the norm is small enough. It looks at
    the norm, for which an accelerator would have to be waited for.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if not norm + 1e-6 <= max_norm:  # PyTorch's factor is max_norm / (norm + 1e-6); a NaN goes on to everything
        clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
