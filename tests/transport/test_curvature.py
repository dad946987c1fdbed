"""A learnable number stays within its bounds under any optimiser, and can return from them."""

from __future__ import annotations

import pytest
import torch

from sinkd.errors import SinkdError
from sinkd.transport import Curvature
from sinkd.transport.curvature import Scale


def test_it_is_clamped_within_a_factor_of_ten_at_every_use() -> None:
    curvature = Curvature(2.0, learnable=True)
    assert float(curvature().detach()) == pytest.approx(2.0)
    for beyond, bound in ((100.0, 20.0), (-100.0, 0.2)):
        torch.nn.init.constant_(curvature.log_value, beyond)
        assert float(curvature().detach()) == pytest.approx(bound)
        curvature.clamp_()
        assert float(curvature.log_value.detach().exp()) == pytest.approx(bound)


@pytest.mark.parametrize("trainer_clamps", [True, False])
def test_a_number_that_reached_a_bound_comes_back(trainer_clamps: bool) -> None:
    curvature = Curvature(1.0, learnable=True)
    optimizer = torch.optim.AdamW(curvature.parameters(), lr=0.02, weight_decay=0.0)

    def train(target: float, steps: int) -> float:
        for _ in range(steps):
            optimizer.zero_grad()
            (curvature() - target).square().backward()
            optimizer.step()
            if trainer_clamps:
                curvature.clamp_()
        return float(curvature().detach())

    assert train(0.01, 1000) == pytest.approx(0.1)
    assert train(5.0, 3000) == pytest.approx(5.0, rel=1e-2)


def test_the_gradient_passes_straight_through_the_clamp() -> None:
    curvature = Curvature(1.0, learnable=True)
    torch.nn.init.constant_(curvature.log_value, -50.0)
    (gradient,) = torch.autograd.grad(curvature() * 3, curvature.log_value)
    assert float(gradient) == pytest.approx(0.3)


def test_a_fixed_number_has_no_parameter() -> None:
    curvature = Curvature(2.0)
    curvature.clamp_()
    assert not list(curvature.parameters()) and curvature() == 2.0


@pytest.mark.parametrize("initial", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize(("kind", "name"), [(Curvature, "curvature"), (Scale, "representation_scale")])
def test_it_must_be_positive(initial: float, kind: type, name: str) -> None:
    with pytest.raises(SinkdError, match=f"{name} is .*; it must be a number greater than 0"):
        kind(initial)
