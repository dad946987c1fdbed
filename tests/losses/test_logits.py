"""Input that every loss refuses, and the errors."""

from __future__ import annotations

import pytest
import torch

from sinkd.errors import SinkdError
from sinkd.losses import SinkhornLoss, check_finite, js, kd, kl, reverse_kl, tvd
from sinkd.losses.logits import log_odds, probabilities

LOSSES = [kd, kl, reverse_kl, js, tvd, SinkhornLoss(), SinkhornLoss(cost="l1")]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_inf_are_errors_that_name_side_and_number_of_rows(loss, value: float) -> None:
    bad, good = torch.zeros(5, 3), torch.zeros(5, 3)
    bad[1, 0] = bad[3, 2] = value
    with pytest.raises(SinkdError, match=r"student logits: 2 of 5 rows hold NaN or \+inf"):
        loss(bad, good)
    with pytest.raises(SinkdError, match=r"teacher logits: 2 of 5 rows hold NaN or \+inf"):
        loss(good, bad)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_row_without_a_possible_class_is_an_error(loss) -> None:
    bad = torch.zeros(4, 3)
    bad[2] = -torch.inf
    with pytest.raises(SinkdError, match="teacher logits: 1 of 4 rows are -inf throughout"):
        loss(torch.zeros(4, 3), bad)


@pytest.mark.parametrize("loss", LOSSES)
def test_shapes_that_do_not_pair_are_both_shown(loss) -> None:
    with pytest.raises(SinkdError, match=r"\(4, 3\).*\(4, 2\)"):
        loss(torch.zeros(4, 3), torch.zeros(4, 2))
    with pytest.raises(SinkdError, match=r"\(3,\).*\(3,\)"):
        loss(torch.zeros(3), torch.zeros(3))
    with pytest.raises(SinkdError, match=r"\(2, 0\).*\(2, 0\)"):
        loss(torch.zeros(2, 0), torch.zeros(2, 0))
    with pytest.raises(SinkdError, match=r"floating point.*int64"):
        loss(torch.zeros(4, 3, dtype=torch.int64), torch.zeros(4, 3))


@pytest.mark.parametrize("loss", LOSSES)
def test_an_empty_batch_costs_nothing_and_keeps_the_graph(loss) -> None:
    student = torch.zeros(0, 3, requires_grad=True)
    value = loss(student, torch.zeros(0, 3))
    value.backward()
    assert value == 0 and value.dim() == 0 and student.grad is not None


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_and_autocast_change_nothing_but_the_gradients_type(loss, dtype: torch.dtype) -> None:
    student = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    teacher = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = loss(student.float(), teacher.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher)
        value.backward()
    assert value.dtype == torch.float32 and student.grad.dtype == dtype
    torch.testing.assert_close(value, expected, rtol=0, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_one_row_and_extreme_logits_are_finite(loss) -> None:
    for rows in (1, 6):
        student = torch.randn(rows, 5, generator=torch.Generator().manual_seed(0)).sign().mul(1e4).requires_grad_()
        value = loss(student, student.detach().flip(-1))
        (gradient,) = torch.autograd.grad(value, student)
        assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_under_compile_bad_logits_meet_a_fixed_assertion(loss) -> None:
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    bad = torch.zeros(4, 3)
    assert compiled(bad, bad).isfinite()
    bad[0, 0] = float("nan")
    with pytest.raises(RuntimeError, match="student logits hold NaN"):
        compiled(bad, torch.zeros(4, 3))


def test_check_finite_accepts_impossible_classes_and_nothing() -> None:
    check_finite(torch.tensor([[0.0, -torch.inf]]), torch.tensor([[-torch.inf, 1.0]]))
    check_finite(torch.zeros(0, 2), torch.zeros(0, 2))


def test_probabilities_keep_the_difference_of_nearly_equal_logits() -> None:
    z = torch.tensor([[0.3, -0.2]], dtype=torch.float32)
    moved = z + torch.tensor([[1e-6, 0.0]])
    expected = (torch.softmax(moved.double() / 2, -1) - torch.softmax(z.double() / 2, -1))[0, 0]
    got = (probabilities(moved, 2.0) - probabilities(z, 2.0))[0, 0]
    assert float(got) == pytest.approx(float(expected), rel=1e-9)


def test_log_odds_are_centred_over_the_possible_classes() -> None:
    v = log_odds(torch.tensor([[1.0, 3.0, -torch.inf]]), 2.0)
    torch.testing.assert_close(v, torch.tensor([[-0.5, 0.5, 0.0]], dtype=torch.float64) / 2**0.5)
