"""Transport of hidden states: the plan's own entries, the costs, the projector; and which layers are paired."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

import reference
from sinkd import SinkdError
from sinkd.losses.feature import Forward, Stack
from sinkd.losses.hidden import HiddenTransport
from sinkd.losses.layers import Sentences, Strategy, pair_layers
from sinkd.losses.objective import Objective
from sinkd.losses.term import Progress, View
from sinkd.models import stack
from sinkd.models.forward import observe
from sinkd.transport import COSTS

STUDENT, TEACHER = (torch.randn(6, 2, 8, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))


def bound(student: int = 8, teacher: int = 8, **options) -> HiddenTransport:
    (term,) = Objective.parse("sinkhorn_hidden:1", sinkhorn_hidden=options)
    term.bind(Stack(2, student), Stack(4, teacher))
    return term


def each_layer(function) -> float:
    return sum(float(function(STUDENT[:, i], TEACHER[:, i])) for i in range(2)) / 2


def test_by_default_the_plan_should_carry_every_sentence_to_its_own():
    expected = each_layer(lambda x, y: -reference.plan(reference.cosine(x, y), 0.1, 20).diagonal().log().mean())
    assert bound(weight=1.0)(STUDENT, TEACHER, Progress()).item() == pytest.approx(expected, rel=1e-9)
    assert bound()(STUDENT, TEACHER, Progress()).item() == pytest.approx(0.3 * expected, rel=1e-9)


@pytest.mark.parametrize("cost", COSTS)
def test_any_cost_transports_them(cost):
    def rows(x):
        return torch.softmax(x, -1) if COSTS[cost].simplex else x

    def distance(x, y):
        w = reference.COSTS[cost](rows(x), rows(y))
        return (reference.plan(w, 2.0, 20) * w).sum() / len(x)

    term = bound(cost=cost, value="distance", weight=1.0, epsilon=2.0)
    assert term(STUDENT, TEACHER, Progress()).item() == pytest.approx(each_layer(distance), rel=1e-6)


def test_a_high_pairing_compares_each_sentence_with_its_own():
    term = bound(value="distance", weight=1.0, pairing=1000.0)
    student = STUDENT.clone().requires_grad_()
    loss = term(student, TEACHER, Progress())
    cosines = torch.nn.functional.cosine_similarity(student, TEACHER, dim=-1)
    (expected,) = torch.autograd.grad((1 - cosines).mean(), student)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx((1 - cosines).mean().item(), rel=1e-6)
    assert reference.relative_error(gradient, expected) < 1e-5


def test_another_width_goes_through_a_map_that_is_trained():
    torch.manual_seed(0)
    term = bound(student=8, teacher=12).double()
    teacher = torch.cat([TEACHER, TEACHER[..., :4]], -1)
    term(STUDENT, teacher, Progress()).backward()
    weights = [parameter for name, parameter in term.named_parameters() if name.startswith("projectors")]
    assert [tuple(weight.shape) for weight in weights] == [(12, 8), (12, 8)]
    assert all(weight.grad.norm() > 0 for weight in weights)
    torch.testing.assert_close(weights[0].T @ weights[0], torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-5)
    assert not list(bound().parameters())


def test_the_log_has_the_terms_figures():
    figures = bound().diagnostics(TEACHER, TEACHER)
    assert figures["matched"] > 0.9 and 0 <= figures["marginal_error"] < 0.1


def test_sentences_are_means_or_first_tokens_wherever_the_padding_is():
    states = (torch.randn(2, 3, 4), torch.randn(2, 3, 4))
    inputs = {"attention_mask": torch.tensor([[1, 1, 0], [0, 1, 1]])}
    seen = Forward(torch.nn.Identity(), inputs, torch.zeros(2, 2), states)
    mean = Sentences("teacher", "mean", (1,)).read(seen, inputs)
    torch.testing.assert_close(mean[:, 0], torch.stack([states[1][0, :2].mean(0), states[1][1, 1:].mean(0)]))
    first = Sentences("teacher", "cls", (0, 1)).read(seen, inputs)
    torch.testing.assert_close(first, torch.stack([torch.stack([s[0, 0], s[1, 1]]) for s in states], 1))
    assert Sentences("teacher", "mean", (2, 4)).name == "teacher-mean-2.4"


def test_points_are_each_sides_own():
    term = bound()
    (ours,), (theirs,) = term.student_needs, term.teacher_needs
    assert (ours.layers, theirs.layers) == ((1, 2), (2, 4))
    assert term.points(View(features={ours: STUDENT}), {}) is STUDENT
    assert term.points(View(features={theirs: TEACHER}), {}) is TEACHER


@pytest.mark.parametrize(
    ("strategy", "teacher", "student", "pairs"),
    [
        ("emb", 12, 6, [(0, 0)]),
        ("uniform", 12, 6, [(2, 1), (4, 2), (6, 3), (8, 4), (10, 5), (12, 6)]),
        ("uniform", 6, 4, [(3, 2), (6, 4)]),
        ("uniform", 5, 3, [(5, 3)]),
        ("emb+uniform", 6, 3, [(0, 0), (2, 1), (4, 2), (6, 3)]),
        ("last", 6, 3, [(4, 1), (5, 2), (6, 3)]),
        ("final", 6, 3, [(6, 3)]),
        ("emb+final", 6, 3, [(0, 0), (6, 3)]),
        ("triple", 6, 3, [(0, 0), (3, 1), (6, 3)]),
        ("triple", 5, 4, [(0, 0), (2, 2), (5, 4)]),
    ],
)
def test_strategies_pair_layers(strategy, teacher, student, pairs):
    assert pair_layers(strategy, teacher, student) == pairs


@pytest.mark.parametrize("strategy", get_args(Strategy))
@pytest.mark.parametrize("depths", [(4, 4), (12, 5), (3, 1)])
def test_every_strategy_pairs_layers_that_are_there(strategy, depths):
    try:
        pairs = pair_layers(strategy, *depths)
    except SinkdError:
        assert strategy == "triple" and depths[1] == 1
        return
    assert pairs and all(0 <= t <= depths[0] and 0 <= s <= depths[1] for t, s in pairs)
    assert pairs == sorted(set(pairs))


@pytest.mark.parametrize(
    ("strategy", "teacher", "student", "message"),
    [
        ("last", 3, 6, "the teacher.*which has 3 and the student 6; choose uniform or final"),
        ("triple", 6, 1, "needs a middle layer on both sides; the teacher has 6 layers, the student 1"),
        ("first", 6, 3, '"first"; it must be one of emb, uniform'),
    ],
)
def test_depths_that_cannot_be_paired_are_refused(strategy, teacher, student, message):
    with pytest.raises(SinkdError, match=message):
        pair_layers(strategy, teacher, student)


@pytest.mark.parametrize("value", ["matching", "distance"])
def test_gradcheck_through_the_projectors(value):
    torch.manual_seed(0)
    term = bound(student=8, teacher=12, value=value).double()
    teacher = torch.cat([TEACHER, TEACHER[..., :4]], -1)
    names = [name for name, _ in term.named_parameters()]
    assert len(names) == 2

    def loss(student, *weights):
        given = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(term, given, (student, teacher, Progress()))

    inputs = [STUDENT, *term.parameters()]
    assert torch.autograd.gradcheck(loss, [x.detach().clone().requires_grad_() for x in inputs])


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_padding_does_not_change_features(pooling):
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"vocab_size": 40, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 40}
    torch.manual_seed(0)
    student, teacher = (
        BertForSequenceClassification(BertConfig(hidden_size=width, num_hidden_layers=layers, **sizes)).eval().double()
        for width, layers in ((8, 2), (16, 4))
    )
    objective = Objective.parse("sinkhorn_hidden:1", sinkhorn_hidden={"pooling": pooling})
    objective.bind(stack(student.config), stack(teacher.config))
    objective.double()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]])
    ids = torch.randint(5, 40, (3, 4)) * mask
    values = []
    for more in (0, 5):
        padded = (torch.nn.functional.pad(x, (0, more)) for x in (ids, mask))
        batch = dict(zip(("input_ids", "attention_mask"), padded, strict=True))
        views = (observe(student, batch, objective.student_needs), observe(teacher, batch, objective.teacher_needs))
        student.zero_grad()
        value = objective(*views, batch).total
        value.backward()
        gradient = student.bert.embeddings.word_embeddings.weight.grad
        values.append((value.item(), gradient[1:].clone()))  # without the padding token's own
    assert values[1][0] == pytest.approx(values[0][0], rel=1e-9)
    torch.testing.assert_close(values[1][1], values[0][1], rtol=1e-6, atol=1e-9)
