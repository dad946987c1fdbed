"""Dropout from uniform numbers is dropout: as likely, scaled alike, and repeatable."""

import torch
from torch import nn

from sinkd.training.dropout import UniformDropout


def test_entries_are_dropped_as_often_as_asked_and_the_others_scaled():
    layer = UniformDropout(0.1)
    torch.manual_seed(0)
    x = torch.ones(1000, 1000, requires_grad=True)
    y = layer(x)
    dropped = (y == 0).double().mean().item()
    assert abs(dropped - 0.1) < 0.0015  # five standard deviations
    assert set(y.unique().tolist()) == {0.0, float(torch.ones(()) / 0.9)}
    y.sum().backward()
    assert torch.equal(x.grad, y)


def test_bfloat16_entries_are_dropped_as_often():
    layer = UniformDropout(0.1)
    torch.manual_seed(0)
    y = layer(torch.ones(1000, 1000, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16 and abs((y == 0).double().mean().item() - 0.1) < 0.0015


def test_the_global_generator_decides_the_mask():
    layer = UniformDropout(0.3)
    state = torch.get_rng_state()
    first, second = layer(torch.ones(50)), layer(torch.ones(50))
    torch.set_rng_state(state)
    assert torch.equal(layer(torch.ones(50)), first) and not torch.equal(first, second)


def test_evaluation_and_the_extreme_rates_are_pytorchs():
    layers = [UniformDropout(p) for p in (0.0, 0.5, 1.0)]
    x = torch.randn(20)
    assert torch.equal(layers[0](x), x) and torch.equal(layers[2](x), torch.zeros(20))
    assert torch.equal(nn.Sequential(*layers).eval()(x), x)
