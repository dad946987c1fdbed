"""Row-by-row divergences agree with torch's, and keep their promises."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sinkd.errors import SinkdError
from sinkd.losses import annealed_temperature, js, kd, kl, reverse_kl, tvd

ALL = [kd, kl, reverse_kl, js, tvd]


def logits(seed: int, rows: int = 6, classes: int = 4) -> torch.Tensor:
    return torch.randn(rows, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_each_is_its_textbook_definition(temperature: float) -> None:
    s, t = logits(0), logits(1)
    log_p, log_q = F.log_softmax(s / temperature, -1), F.log_softmax(t / temperature, -1)
    p, q = log_p.exp(), log_q.exp()
    log_m = ((p + q) / 2).log()
    forward = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    expected = {
        kd: F.cross_entropy(s / temperature, q),
        kl: forward,
        reverse_kl: F.kl_div(log_q, log_p, reduction="batchmean", log_target=True),
        js: ((p * (log_p - log_m)).sum(-1) + (q * (log_q - log_m)).sum(-1)).mean() / 2,
        tvd: (p - q).abs().sum(-1).mean() / 2,
    }
    for loss, value in expected.items():
        torch.testing.assert_close(loss(s, t, temperature), value)


@pytest.mark.parametrize("loss", ALL)
def test_gradcheck(loss) -> None:
    assert torch.autograd.gradcheck(
        lambda s, t: loss(s, t, 2.0), (logits(0).requires_grad_(), logits(1).requires_grad_())
    )


@pytest.mark.parametrize("loss", ALL)
def test_regression_is_the_squared_difference_of_scores_over_the_temperature(loss) -> None:
    s, t = torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [-1.0]])
    assert float(loss(s, t, 2.0)) == pytest.approx((0.25 + 4.0) / 2)


@pytest.mark.parametrize("loss", ALL)
def test_classes_impossible_on_both_sides_change_nothing(loss) -> None:
    s, t = logits(0).requires_grad_(), logits(1).requires_grad_()
    impossible = torch.full((6, 2), -torch.inf, dtype=torch.float64)
    more = [torch.cat([z.detach(), impossible], -1).requires_grad_() for z in (s, t)]
    value, expected = loss(*more, 2.0), loss(s, t, 2.0)
    torch.testing.assert_close(value, expected)
    for got, want in zip(torch.autograd.grad(value, more), torch.autograd.grad(expected, (s, t)), strict=True):
        torch.testing.assert_close(got[:, :4], want)
        assert got[:, 4:].abs().sum() == 0


@pytest.mark.parametrize("loss", ALL)
def test_positions_of_a_sequence_count_as_rows(loss) -> None:
    s, t = logits(0), logits(1)
    torch.testing.assert_close(loss(s.reshape(2, 3, 4), t.reshape(2, 3, 4)), loss(s, t))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 80), st.floats(0.1, 10))
def test_bounds(seed: int, classes: int, temperature: float) -> None:
    s, t = logits(seed, 3, classes).float(), logits(seed + 1, 3, classes).float()
    for loss, top in ((kl, math.inf), (reverse_kl, math.inf), (js, math.log(2)), (tvd, 1.0)):
        assert -1e-6 <= float(loss(s, t, temperature)) <= top + 1e-6
        assert abs(float(loss(s, s, temperature))) < 1e-6
    assert float(js(s, t)) == pytest.approx(float(js(t, s)), rel=1e-5)


def test_gradient_of_kd_survives_logits_that_differ_by_a_ten_thousandth() -> None:
    t = logits(0).float()
    s = (t + 1e-4 * logits(1).float()).requires_grad_()
    exact = s.detach().double().requires_grad_()
    (gradient,) = torch.autograd.grad(kd(s, t, 2.0), s)
    (expected,) = torch.autograd.grad(kd(exact, t.double(), 2.0), exact)
    assert (gradient - expected).norm() / expected.norm() < 1e-4


def test_temperature_anneals_from_its_value_to_one() -> None:
    assert [annealed_temperature(4.0, e, 4) for e in range(4)] == [4.0, 3.0, 2.0, 1.0]
    assert annealed_temperature(4.0, 0, 1) == 4.0
    with pytest.raises(SinkdError, match=r"epoch 4 of 4; it must be within 0\.\.3"):
        annealed_temperature(4.0, 4, 4)


@pytest.mark.parametrize("loss", ALL)
def test_temperature_must_be_positive_and_shapes_equal(loss) -> None:
    with pytest.raises(SinkdError, match="temperature is 0"):
        loss(logits(0), logits(1), 0.0)
    with pytest.raises(SinkdError, match=r"\(6, 4\).*\(5, 4\)"):
        loss(logits(0), logits(1)[:5])
