"""The quicker layers compute what PyTorch's do, to the second derivative, and are gone when the work is done."""

import torch
from torch import nn
from torch.nn import functional as F

from sinkd.training.dropout import UniformDropout
from sinkd.training.linear import ProductLinear
from sinkd.training.quick import quick


class Own(nn.Linear):
    """A layer of somebody's own."""


def test_layers_are_quick_within_and_plain_after_whatever_happens():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), Own(4, 4))
    try:
        with quick(model):
            assert [type(layer) for layer in model] == [ProductLinear, UniformDropout, Own]
            with quick(model):  # an evaluation in the middle of training
                pass
            assert type(model[0]) is ProductLinear
            raise RuntimeError
    except RuntimeError:
        pass
    assert [type(layer) for layer in model] == [nn.Linear, nn.Dropout, Own]


def gradients(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Value, gradient, and the gradient of the gradient's length: what attributions train on."""
    x = x.clone().requires_grad_()
    value = model(x).tanh().sum()
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    second = torch.autograd.grad(first.square().sum(), [*model.parameters()], allow_unused=True)
    return [value.detach(), first.detach(), *(found for found in second if found is not None)]


def test_a_linear_layer_agrees_to_the_second_derivative():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(160, 512), nn.Tanh(), nn.Linear(512, 160, bias=False))
    x = torch.randn(6, 16, 160)
    plain = gradients(model, x)
    with quick(model):
        fast = gradients(model, x)
    for ours, theirs in zip(fast, plain, strict=True):
        assert torch.norm(ours - theirs) <= 1e-5 * torch.norm(theirs)


def test_under_autocast_a_linear_layer_is_pytorchs():
    model, x = nn.Linear(256, 256), torch.randn(64, 256)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = model(x)
        with quick(model):
            assert torch.equal(model(x), plain) and plain.dtype == torch.bfloat16


def test_layers_with_frozen_weights_still_pass_gradients_on():
    model, x = nn.Linear(256, 256).requires_grad_(False), torch.randn(64, 256, requires_grad=True)
    with quick(model):
        model(x).sum().backward()
    assert torch.allclose(x.grad, F.linear(torch.ones(64, 256), model.weight.T), atol=1e-4)
    assert model.weight.grad is None
