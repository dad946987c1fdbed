"""Relations between hidden states: golden numbers, the formulas written out, and what must not change them."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

import reference
from sinkd import SinkdError
from sinkd.losses import chunked, mgskd
from sinkd.losses.feature import Forward, Stack
from sinkd.losses.layers import Strategy, pair_layers, pool
from sinkd.losses.mgskd_relations import pair_scores, sentence_angles, triplet_angles
from sinkd.losses.objective import Objective
from sinkd.losses.term import View

CASES = reference.golden("mgskd.json")
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]])


@pytest.fixture(params=[1, 2**20], ids=["in many pieces", "in one piece"])
def size_of_pieces(request, monkeypatch):
    """Losses must not depend on how they are cut."""
    monkeypatch.setattr(chunked, "LIMIT", request.param)


def states(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize("case", CASES, ids=[f"seed{case['seed']}" for case in CASES])
def test_golden(case, dtype, bound, size_of_pieces):
    student = torch.tensor(case["student"], dtype=dtype, requires_grad=True)
    teacher, mask = torch.tensor(case["teacher"], dtype=dtype), torch.tensor(case["mask"])
    loss = mgskd(student, teacher, mask, case["heads"], case["k1"], case["k2"])
    loss.backward()
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(case["loss"], rel=bound)
    assert student.grad.norm().item() == pytest.approx(case["grad_norm"], rel=bound)


@pytest.mark.parametrize("widths", [(8, 8), (8, 12), (24, 4)])
@pytest.mark.parametrize("k", [3, 5, 20])
def test_value_and_gradient_are_those_of_the_formula(widths, k, size_of_pieces):
    student = states(3, 4, 6, widths[0]).requires_grad_()
    teacher = states(3, 4, 6, widths[1], seed=1)
    expected = reference.mgskd(student, teacher, MASK, 4, k, k)
    (expected_gradient,) = torch.autograd.grad(expected, student)
    loss = mgskd(student, teacher, MASK, 4, k, k)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    assert reference.relative_error(gradient, expected_gradient) < 1e-10


def test_gradcheck():
    teacher = states(3, 3, 5, 4, seed=1)
    student = (teacher + 0.3 * states(3, 3, 5, 4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: mgskd(x, teacher, MASK[:, :5], 2, 3, 3), student)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(dtype):
    student = states(5, 4, 6, 8).to(dtype)
    same = student.clone().requires_grad_()
    mask = torch.ones(5, 6)
    loss = mgskd(same, student, mask, heads=4)
    loss.backward()
    assert loss.item() == 0
    assert same.grad.abs().max() == 0


def test_padding_changes_nothing(size_of_pieces):
    student, teacher = states(3, 3, 6, 8).requires_grad_(), states(3, 3, 6, 8, seed=1)
    loss = mgskd(student, teacher, MASK, heads=4)
    (gradient,) = torch.autograd.grad(loss, student)
    more = 7 * states(3, 3, 4, 8, seed=2)
    longer = torch.cat([student.detach(), more], 2).requires_grad_()
    mask = torch.cat([MASK, torch.zeros(3, 4, dtype=MASK.dtype)], 1)
    padded = mgskd(longer, torch.cat([teacher, -more], 2), mask, heads=4)
    (padded_gradient,) = torch.autograd.grad(padded, longer)
    assert padded.item() == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(padded_gradient[:, :, :6], gradient)
    assert padded_gradient[:, :, 6:].abs().max() == 0


def test_equal_sentences_have_no_direction():
    student = states(4, 8)
    student[2] = student[1]
    student.requires_grad_()
    loss = sentence_angles(student, states(4, 8, seed=1), heads=2)
    loss.backward()
    assert student.grad.isfinite().all() and student.grad.abs().max() < 10


def test_near_student_keeps_its_digits_in_float32():
    teacher = states(3, 6, 8).float()
    student = (teacher + 1e-4 * states(3, 6, 8, seed=1).float()).requires_grad_()
    exact = student.detach().double().requires_grad_()
    for loss, x in ((pair_scores(student, teacher, MASK, 2), student), (pair_scores(exact, teacher, MASK, 2), exact)):
        loss.backward()
        assert loss > 0
        x.value = loss.item()
    assert student.value == pytest.approx(exact.value, rel=1e-4)
    assert reference.relative_error(student.grad, exact.grad) < 1e-4


def test_a_mean_over_parts_is_the_mean_of_the_whole():
    """Each part weighed by what it counts: what makes a cut batch the same loss."""
    student, teacher = states(3, 6, 8), states(3, 6, 8, seed=1)
    whole, count = triplet_angles(student, teacher, MASK, 2, 3, 3)
    parts = [triplet_angles(student[i : i + 1], teacher[i : i + 1], MASK[i : i + 1], 2, 3, 3) for i in range(3)]
    assert sum(int(n) for _, n in parts) == int(count)
    assert sum(float(value * n) for value, n in parts) / int(count) == pytest.approx(whole.item())


def test_pooling_leaves_padding_out():
    x = states(2, 3, 4)
    pooled = pool(x, torch.tensor([[1, 1, 0], [0, 0, 0]]))
    torch.testing.assert_close(pooled, torch.stack([x[0, :2].mean(0), torch.zeros(4, dtype=x.dtype)]))


def test_one_sentence_and_no_sentence():
    for rows in (1, 0):
        x = states(rows, 3, 4, 8).requires_grad_()
        loss = mgskd(x, states(rows, 3, 4, 8, seed=1), torch.ones(rows, 4), heads=2)
        loss.backward()
        assert loss.isfinite() and x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("student", "teacher", "mask", "message"),
    [
        ((2, 3, 4, 8), (2, 2, 4, 8), (2, 4), r"student \(2, 3, 4, 8\), teacher \(2, 2, 4, 8\)"),
        ((2, 3, 4, 8), (2, 3, 4, 8), (2, 3), r"mask \(2, 3\)"),
        ((2, 3, 4, 9), (2, 3, 4, 8), (2, 4), "width of 9 cannot be split into 2 heads"),
    ],
)
def test_unpairable_shapes_are_refused(student, teacher, mask, message):
    with pytest.raises(SinkdError, match=message):
        mgskd(torch.zeros(student), torch.zeros(teacher), torch.ones(mask), heads=2)


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_an_objective_that_is_bound_to_both_models_is_the_formula(strategy):
    """Its terms together, for the layers that the strategy pairs: some models leave nothing for sentences."""
    depths = {"teacher": 6, "student": 3}
    hidden = {
        side: tuple(states(3, 6, width, seed=layer + 10 * width) for layer in range(depths[side] + 1))
        for side, width in (("teacher", 12), ("student", 8))
    }
    objective = Objective.parse("mgskd:1", mgskd={"matching_strategy": strategy, "heads": 4, "k1": 3, "k2": 3})
    objective.bind(Stack(depths["student"], 8), Stack(depths["teacher"], 12))
    batch = {"input_ids": MASK, "attention_mask": MASK}
    views = []
    for side, needs in (("student", objective.student_needs), ("teacher", objective.teacher_needs)):
        seen = Forward(torch.nn.Identity(), batch, torch.zeros(3, 2), hidden[side])
        views.append(View(features={feature: feature.read(seen, batch) for feature in needs}))
    pairs = pair_layers(strategy, depths["teacher"], depths["student"])
    student = torch.stack([hidden["student"][pair.student] for pair in pairs], 1)
    teacher = torch.stack([hidden["teacher"][pair.teacher] for pair in pairs], 1)
    assert ("mgskd/sentences" in [term.name for term in objective]) == (len(pairs) > 2)
    expected = reference.mgskd(student, teacher, MASK, 4, 3, 3)
    assert objective(*views, batch).total.item() == pytest.approx(expected.item(), rel=1e-10)
