"""Values and gradients of the published settings: 1e-6 relative in float64, 1e-4 in float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import reference
from sinkd.losses import SinkhornLoss, annealed_temperature, kd, reverse_kl

LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "kd_T2.5": lambda s, t: kd(s, t, 2.5),
    "kd_anneal_T4_epoch3_of_8": lambda s, t: kd(s, t, annealed_temperature(4.0, 3, 8)),
    "reverse_kl_T2": lambda s, t: reverse_kl(s, t, 2.0),
    "sinkhorn_l1": SinkhornLoss.published(cost="l1"),
    "sinkhorn_lorentz_c0.25": SinkhornLoss.published(curvature=0.25),
    "sinkhorn_lorentz_c1.0": SinkhornLoss.published(curvature=1.0),
    "sinkhorn_lorentz_c4.0": SinkhornLoss.published(curvature=4.0),
}
CASES = reference.golden("losses.json")


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("case", CASES, ids=[f"seed{case['seed']}" for case in CASES])
def test_golden(case: dict, name: str, dtype: torch.dtype, bound: float) -> None:
    student = torch.tensor(case["student_logits"], dtype=dtype, requires_grad=True)
    loss = LOSSES[name](student, torch.tensor(case["teacher_logits"], dtype=dtype))
    (gradient,) = torch.autograd.grad(loss, student)
    expected = case["expected"][name]
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(expected["loss"], rel=bound)
    assert reference.relative_error(gradient, torch.tensor(expected["grad"], dtype=torch.float64)) < bound


def test_every_golden_number_is_tested() -> None:
    assert {name for case in CASES for name in case["expected"]} == set(LOSSES)
