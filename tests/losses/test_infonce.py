"""InfoNCE between pooled hidden states."""

import pytest
import torch
from torch.nn import functional as F

from sinkd.losses.feature import Stack
from sinkd.losses.infonce import InfoNCE
from sinkd.losses.objective import Objective
from sinkd.losses.term import Progress

STUDENT, TEACHER = (torch.randn(6, 2, 8, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))


def bound(student: int = 8, teacher: int = 8, **options) -> InfoNCE:
    (term,) = Objective.parse("infonce:1", infonce=options)
    term.bind(Stack(2, student), Stack(4, teacher))
    return term


def test_the_value_is_the_cross_entropy_of_the_own_sentence():
    expected = 0.0
    for layer in range(2):
        cosines = F.cosine_similarity(STUDENT[:, None, layer], TEACHER[None, :, layer], dim=-1)
        expected += float(F.cross_entropy(cosines / 0.2, torch.arange(6))) / 2
    assert bound(temperature=0.2, weight=1.0)(STUDENT, TEACHER, Progress()).item() == pytest.approx(expected, rel=1e-12)
    assert bound(temperature=0.2)(STUDENT, TEACHER, Progress()).item() == pytest.approx(0.3 * expected, rel=1e-12)


def test_the_gradient_of_float32_states_is_that_of_float64_ones():
    def gradient(student):
        student = student.clone().requires_grad_()
        bound()(student, TEACHER.to(student.dtype), Progress()).backward()
        return student.grad

    exact = gradient(STUDENT)
    assert (gradient(STUDENT.float()) - exact).norm() < 1e-5 * exact.norm()


def test_another_width_goes_through_a_map_that_is_trained():
    term = bound(student=8, teacher=12).double()
    term(STUDENT, torch.cat([TEACHER, TEACHER[..., :4]], -1), Progress()).backward()
    assert [(tuple(w.shape), bool(w.grad.norm() > 0)) for w in term.parameters()] == [((12, 8), True)] * 2


def test_the_log_says_how_much_is_matched_and_an_empty_update_costs_nothing():
    assert bound().diagnostics(TEACHER, TEACHER)["matched"] > 0.9
    assert bound()(STUDENT[:0], TEACHER[:0], Progress()).item() == 0.0
