"""The bias makes the mean answer the prior, and is that of the transport problem."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from sinkd.errors import SinkdError
from sinkd.transport import class_prior, match_class_prior, sinkhorn


def problem(n: int, classes: int, scale: float = 3.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that lean to some classes, and a prior."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=random) + 2 * torch.randn(classes, generator=random)
    shares = torch.rand(classes, generator=random, dtype=torch.float64) + 0.05
    return logits * scale, shares / shares.sum()


def masses(logits: torch.Tensor, bias: torch.Tensor, epsilon: float) -> torch.Tensor:
    return ((logits.double() + bias) / epsilon).softmax(-1).mean(0)


@pytest.mark.parametrize("case", reference.golden("class_prior.json"))
def test_golden(case: dict) -> None:
    logits, prior, bias = (torch.tensor(case[name], dtype=torch.float64) for name in ("logits", "prior", "bias"))
    torch.testing.assert_close(match_class_prior(logits, prior, case["epsilon"]), bias, atol=1e-5, rtol=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.floats(0, 1), st.floats(-1.5, 0))
def test_mean_answer_is_the_prior_however_far_apart_logits_are(
    seed: int, classes: int, log_scale: float, log_epsilon: float
) -> None:
    logits, prior = problem(150, classes, 10**log_scale, seed)
    bias = match_class_prior(logits, prior, epsilon := 10**log_epsilon)
    torch.testing.assert_close(masses(logits, bias, epsilon), prior, rtol=2e-6, atol=0)
    assert bias.dtype == torch.float64 and abs(bias.mean()) < 1e-12 * (1 + bias.abs().max())


def test_many_rows_are_read_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, prior = problem(1000, 5)
    whole = match_class_prior(logits, prior)
    monkeypatch.setattr(class_prior, "_SLICE", 7 * 5)
    torch.testing.assert_close(match_class_prior(logits, prior), whole, atol=1e-9, rtol=0)


def test_bias_is_the_column_scaling_of_the_transport_plan() -> None:
    logits, prior = problem(60, 4)
    cost = -logits.double()
    plan = sinkhorn(cost, 0.5, 3000, 1e-9, row_weights=torch.ones(60), col_weights=60 * prior)
    scaling = 0.5 * (plan.g - plan.g.mean())
    torch.testing.assert_close(match_class_prior(logits, prior, 0.5), scaling, atol=1e-5, rtol=0)


def test_a_constant_per_row_changes_nothing_and_classes_may_be_reordered() -> None:
    logits, prior = problem(200, 5)
    bias = match_class_prior(logits.double(), prior)
    moved = logits.double() + 1000 * torch.randn(200, 1, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(match_class_prior(moved, prior), bias, atol=1e-6, rtol=0)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(match_class_prior(logits[:, order], prior[order]), bias[order], atol=1e-6, rtol=0)


def test_two_classes_and_a_small_epsilon_are_a_threshold_at_the_quantile() -> None:
    logits, _ = problem(500, 2)
    bias = match_class_prior(logits, torch.tensor([0.3, 0.7]), 1e-3)
    first = (logits + bias).argmax(-1) == 0
    by_margin = (logits[:, 0] - logits[:, 1]).argsort(descending=True)
    assert first.nonzero().squeeze(1).tolist() == sorted(by_margin[:150].tolist())


def test_equal_rows_get_the_prior_itself() -> None:
    prior = torch.tensor([0.1, 0.9], dtype=torch.float64)
    bias = match_class_prior(torch.zeros(3, 2), prior, 0.1)
    torch.testing.assert_close((bias / 0.1).softmax(-1), prior, rtol=2e-6, atol=0)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ([0.5, 0.5, 0.0], "prior of class 2 is 0; it must be greater than 0"),
        ([0.7, 0.5, -0.2], "prior of class 2 is -0.2"),
        ([0.5, float("nan"), 0.5], "prior of class 1 is nan"),
        ([0.5, 0.3, 0.1], "sums to 0.9; it must sum to 1"),
        ([0.5, 0.5], r"shape \(5, 3\) and the prior \(2,\); they must be"),
    ],
)
def test_a_wrong_prior_is_refused(prior: list[float], message: str) -> None:
    with pytest.raises(SinkdError, match=message):
        match_class_prior(torch.zeros(5, 3), torch.tensor(prior))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_refused(wrong: float) -> None:
    logits, prior = problem(9, 3)
    logits[4, 1] = logits[7, 0] = wrong
    with pytest.raises(SinkdError, match="not finite in 2 of 9 rows"):
        match_class_prior(logits, prior)


def test_too_few_rows_and_no_epsilon_are_refused() -> None:
    logits, prior = problem(2, 3)
    with pytest.raises(SinkdError, match="2 rows for 3 classes"):
        match_class_prior(logits, prior)
    with pytest.raises(SinkdError, match="epsilon is 0; it must be a number greater than 0"):
        match_class_prior(logits, prior, 0)


def test_an_unreached_tolerance_says_how_far_it_got(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_prior, "MAX_EVALUATIONS", 6)
    with pytest.raises(SinkdError, match=r"off by \d\.\de.\d+ \(log ratio\) after 6 passes; epsilon is 0.001"):
        match_class_prior(*problem(200, 5), 1e-3)
