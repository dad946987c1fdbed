"""Clipping gives PyTorch's numbers, and leaves alone what is short enough."""

import pytest
import torch
from torch import nn

from sinkd.training.clipping import clip


@pytest.mark.parametrize("max_norm", [1e-3, 0.5, 1e3])
def test_gradients_and_norm_are_those_of_pytorch(max_norm):
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3), nn.Linear(3, 2))
    model[2].requires_grad_(False)
    model[1](model[0](torch.randn(4, 5))).square().sum().backward()
    before = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    norm = clip(model, max_norm)
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    for parameter, gradient in zip(model.parameters(), before, strict=False):
        parameter.grad = gradient
    expected = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    assert torch.equal(norm, expected)
    for gradient, parameter in zip(found, model.parameters(), strict=False):
        assert torch.equal(gradient, parameter.grad)


def test_a_norm_that_is_no_number_reaches_every_gradient():
    model = nn.Linear(2, 2)
    model.weight.grad, model.bias.grad = torch.full((2, 2), float("nan")), torch.ones(2)
    assert clip(model, 1.0).isnan() and bool(model.bias.grad.isnan().all())
