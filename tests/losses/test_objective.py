"""An objective is the weighted sum that its text says, and says what it sums."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sinkd import Objective, SinkdError, SinkhornLoss
from sinkd.losses import annealed_temperature, objective
from sinkd.losses.feature import HIDDEN_STATES, LOGITS, Forward, Stack
from sinkd.losses.labels import hard_label_loss
from sinkd.losses.objective import TERMS
from sinkd.losses.option_flags import Options, option
from sinkd.losses.term import BatchTerm, Progress, RowTerm, Term, View

NAMES = sorted(TERMS)
OF_LOGITS = [
    name for name in NAMES if Objective.parse(f"{name}:1").student_needs == {LOGITS} and not TERMS[name].reads_embedding
]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(6, 3, generator=generator)
    teacher = torch.randn(6, 3, generator=generator)
    return View(student), View(teacher), {"labels": torch.tensor([0, 1, 2, 0, 1, 2])}


def refused(text: str, *fragments: str, **keywords) -> None:
    with pytest.raises(SinkdError) as caught:
        Objective.parse(text, **keywords)
    assert "\n" not in str(caught.value)
    for fragment in fragments:
        assert fragment in str(caught.value)


# What a text means


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("kd+sinkhorn", "ce:0.1+kd:0.9+sinkhorn:0.8"),
        ("sinkhorn", "ce:1+sinkhorn:0.8"),
        ("kd", "ce:0.1+kd:0.9"),
        ("kd_anneal+sinkhorn", "ce:0.1+kd_anneal:0.9+sinkhorn:0.8"),
        ("ce", "ce:1"),
        ("ce+kd", "ce:0.1+kd:0.9"),
        (" kd + sinkhorn ", "ce:0.1+kd:0.9+sinkhorn:0.8"),
    ],
)
def test_names_alone_take_the_published_weights(text, meaning):
    assert str(Objective.parse(text, alpha=0.9, beta=0.8, temperature=1.0)) == meaning


def test_alpha_one_leaves_out_the_hard_labels():
    parsed = Objective.parse("kd+sinkhorn", alpha=1.0, beta=0.8)
    assert list(parsed.weights) == ["kd", "sinkhorn"]
    assert not any(term.needs_labels for term in parsed)


def test_a_term_of_weight_zero_is_left_out_and_asks_for_nothing():
    parsed = Objective.parse("kd+sinkhorn", alpha=0.0, beta=0.0)
    assert str(parsed) == "ce:1"
    assert parsed.teacher_needs == frozenset()


def test_written_weights_are_used_exactly():
    parsed = Objective.parse("ce:1+kl:0.1+sinkhorn:2e-3", alpha=0.3, beta=9.0)
    assert parsed.weights == {"ce": 1.0, "kl": 0.1, "sinkhorn": 0.002}


@given(
    st.dictionaries(st.sampled_from(NAMES), st.decimals("0.000001", "1000", places=6), min_size=1),
)
@settings(max_examples=30, deadline=None)
def test_the_text_of_an_objective_parses_to_the_same_objective(weights):
    written = Objective.parse("+".join(f"{name}:{weight}" for name, weight in weights.items()))
    assert Objective.parse(str(written)).weights == written.weights


@given(st.floats(0, 1), st.floats(0, 10))
@settings(max_examples=30, deadline=None)
def test_published_weights_round_trip_too(alpha, beta):
    published = Objective.parse("kd+sinkhorn", alpha=alpha, beta=beta)
    assert Objective.parse(str(published)).weights == pytest.approx(published.weights, rel=1e-14)


# What is refused


@pytest.mark.parametrize("name", ["salience", "mgkd", "kdd", ""])
def test_an_unknown_name_is_refused_with_a_list_of_names(name):
    refused(f"kd+{name}", f'"{name}"', "is no term of an objective")


def test_errors_say_what_would_be_right():
    refused("kd+kd", "names kd twice")
    refused("ce:1+kd", "kd has no weight", "write all weights or none")
    refused("kd+kl", "alpha cannot weigh kd and kl", "write the weights out")
    refused("ce:0+kd:0", "weighs every term with 0")
    for weight in ("-1", "x", "inf", "nan", ""):
        refused(f"kd:{weight}", f'the weight of kd is "{weight}"', "a number from 0 up")


def test_alpha_beta_and_temperature_out_of_range_are_refused():
    for alpha in (-0.1, 1.1, math.nan):
        refused("kd", f"alpha is {alpha}", alpha=alpha)
    for beta in (-0.1, math.inf, math.nan):
        refused("sinkhorn", f"beta is {beta}", beta=beta)
    for temperature in (0.0, -1.0, math.nan):
        refused("kd", f"temperature is {temperature}", temperature=temperature)


def test_options_for_no_term_are_refused():
    refused("kd", '"sinkhron" is no term', 'did you mean "sinkhorn"?', sinkhron={"cost": "l1"})


@pytest.mark.parametrize(
    ("term", "options", "message"),
    [
        ("ce", {"weight": 1}, 'the term ce has no option "weight"; it has no options'),
        ("js", {"temperature": 0}, "the temperature is 0; it must be above 0"),
        ("sinkhorn", {"cost": "nonsense"}, "cost is 'nonsense'"),
        ("sinkhorn", {"costs": "l1"}, 'the term sinkhorn has no option "costs"; its options are'),
        ("sinkhorn", {"value": "plan"}, 'sinkhorn: value is "plan"; it must be one of distance, matching'),
        ("sinkhorn_hidden", {"pooling": "max"}, 'pooling is "max"; it must be one of mean, cls'),
        ("sinkhorn_hidden", {"cost": "l3"}, "cost is 'l3'"),
        ("sinkhorn_hidden", {"value": "plan"}, 'value is "plan"'),
        ("sinkhorn_hidden", {"layers": "first"}, '"first"; it must be one of emb, uniform'),
        ("saliency", {"topk": 0}, "topk is 0; it must be at least 1"),
        ("integrated_saliency", {"loss_func": "L3"}, '"L3"; it must be one of L1, L2, smoothL1'),
        ("integrated_saliency", {"ig_steps": 0}, "ig_steps is 0; it must be at least 1"),
        ("integrated_saliency", {"normalization_type": 3}, "normalization_type is 3; it must be 1 or 2"),
        ("mgskd", {"matching_strategy": "emb+last"}, '"emb+last"; it must be one of emb, uniform'),
        ("mgskd", {"k1": 0}, "k1 is 0; it must be at least 1"),
    ],
)
def test_options_are_checked_whether_or_not_their_term_is_in_the_sum(term, options, message):
    for text in ("kl", f"{term}:1"):
        refused(text, message, **{term: options})


# What it computes


def test_the_total_is_the_weighted_sum_of_the_parts_and_the_parts_are_plain(batch):
    student, teacher, rows = batch
    value = Objective.parse("kd+sinkhorn", alpha=0.9, beta=0.8, temperature=3.0, sinkhorn={"cost": "l1"})(*batch)
    soft = -(F.softmax(teacher.logits / 3, -1) * F.log_softmax(student.logits / 3, -1)).sum(-1).mean()
    expected = {
        "ce": F.cross_entropy(student.logits, rows["labels"]),
        "kd": soft,
        "sinkhorn": SinkhornLoss.published(cost="l1")(student.logits, teacher.logits),
    }
    assert value.parts.keys() == expected.keys()
    for name, part in expected.items():
        torch.testing.assert_close(value.parts[name], part)
    total = 0.1 * expected["ce"] + 0.9 * expected["kd"] + 0.8 * expected["sinkhorn"]
    torch.testing.assert_close(value.total, total)


def test_the_annealed_term_is_kd_at_the_epochs_temperature(batch):
    annealed = Objective.parse("kd_anneal:1", temperature=4.0)
    for epoch in range(5):
        plain = Objective.parse("kd:1", temperature=annealed_temperature(4.0, epoch, 5))
        assert annealed(*batch, Progress(epoch, 5)).total == plain(*batch).total
    assert annealed(*batch, Progress(4, 5)).total == Objective.parse("kd:1", temperature=1.0)(*batch).total


@pytest.mark.parametrize("name", OF_LOGITS)
def test_every_term_of_logits_takes_a_regression(name):
    student = torch.tensor([[0.5], [2.0], [4.0]], requires_grad=True)
    teacher = View(torch.tensor([[1.0], [2.5], [3.0]]))
    value = Objective.parse(f"{name}:1")(View(student), teacher, {"labels": torch.tensor([1.0, 2.0, math.nan])})
    value.total.backward()
    assert value.total > 0
    assert student.grad.isfinite().all() and student.grad.any()


@pytest.mark.parametrize("name", OF_LOGITS)
def test_every_term_of_logits_gives_a_gradient_to_the_student(name, batch):
    student, teacher, rows = batch
    logits = student.logits.requires_grad_()
    Objective.parse(f"{name}:1")(View(logits), teacher, rows).total.backward()
    assert logits.grad.isfinite().all() and logits.grad.any()


@pytest.mark.parametrize("name", ["mgskd", "sinkhorn_hidden"])
def test_terms_that_compare_layers_say_when_they_are_not_bound_to_the_models(name, batch):
    with pytest.raises(SinkdError, match=r"was shown no hidden states; call Objective\.bind"):
        Objective.parse(f"{name}:1")(*batch)


def test_terms_that_have_nothing_to_compare_are_skipped():
    bound = Objective.parse("kd:1+mgskd:1", mgskd={"matching_strategy": "emb", "heads": 4})
    bound.bind(Stack(2, 8), Stack(4, 16))
    assert [term.name for term in bound] == ["kd", "mgskd/pairs", "mgskd/triplets-1"]
    assert str(bound) == "kd:1+mgskd:1"


def hidden_states(layers: int, width: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(6, 5, width) for _ in range(layers + 1))


def test_an_objective_serves_one_student_after_the_other():
    objective = Objective.parse("mgskd:1+sinkhorn_hidden:1", mgskd={"matching_strategy": "uniform", "heads": 4})
    teacher, batch = hidden_states(6, 16), {"input_ids": torch.ones(6, 5, dtype=torch.long)}
    found = {}
    for layers, width in ((3, 8), (1, 16), (3, 8), (2, 12)):
        objective.bind(Stack(layers, width), Stack(6, 16))
        student = hidden_states(layers, width)
        views = []
        for states, needs in ((student, objective.student_needs), (teacher, objective.teacher_needs)):
            seen = Forward(nn.Identity(), batch, torch.zeros(6, 2), states)
            views.append(View(features={feature: feature.read(seen, batch) for feature in needs}))
        value = objective(*views, batch)
        assert value.total.isfinite() and len(value.parts) == len(list(objective))
        shapes = [tuple(p.shape) for p in objective.parameters()]
        assert shapes == ([] if width == 16 else [(16, width)] * layers)
        found.setdefault((layers, width), []).append((list(value.parts), list(objective.parameters())))
    (first, before), (again, after) = found[3, 8]
    assert first == again and "mgskd/sentences" in first and "mgskd/sentences" not in found[1, 16][0][0]
    assert not any(torch.equal(*pair) for pair in zip(before, after, strict=True)), "the next student starts afresh"


def test_unlabelled_rows_do_not_count_for_hard_labels():
    logits = torch.randn(4, 3)
    torch.testing.assert_close(
        hard_label_loss(logits, torch.tensor([2, -100, 0, -100])),
        F.cross_entropy(logits[[0, 2]], torch.tensor([2, 0])),
    )
    scores = torch.randn(3, 1)
    torch.testing.assert_close(
        hard_label_loss(scores, torch.tensor([math.nan, 1.0, math.nan])), (scores[1, 0] - 1).square()
    )


@pytest.mark.parametrize(("width", "label"), [(3, -100), (1, math.nan)])
def test_a_batch_without_labels_costs_nothing_and_keeps_its_graph(width, label):
    logits = torch.randn(2, width, requires_grad=True)
    loss = hard_label_loss(logits, torch.tensor([label] * 2))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


# What it needs, and what it carries


def test_an_objective_needs_exactly_the_features_of_its_terms():
    assert Objective.parse("ce").teacher_needs == frozenset()
    taught = Objective.parse("ce:1+kl:1")
    assert (taught.student_needs, taught.teacher_needs) == ({LOGITS}, {LOGITS})
    assert any(term.needs_labels for term in taught)
    assert taught.cacheable


def test_a_learnable_curvature_is_a_parameter_of_the_objective():
    assert not list(Objective.parse("kd+sinkhorn").parameters())
    learning = Objective.parse("kd+sinkhorn", sinkhorn={"learnable_curvature": True})
    assert len(list(learning.parameters())) == 1
    assert len(learning.state_dict()) == 1


@dataclass(frozen=True)
class DistanceOptions(Options):
    width: int = option(2, "Width of the student's states.")


class Distance(RowTerm):
    """A term as a user would write it, with an option, a parameter and a feature that cannot be cached."""

    Options = DistanceOptions
    student_needs = frozenset({HIDDEN_STATES})
    teacher_needs = frozenset({HIDDEN_STATES})

    def __init__(self, name: str, options: DistanceOptions):
        super().__init__(name, options)
        self.projector = nn.Linear(options.width, 2, bias=False)

    def forward(self, student, teacher, batch, progress):
        return (self.projector(student[HIDDEN_STATES][-1]) - teacher[HIDDEN_STATES][-1]).square().mean()


def test_a_new_term_is_one_line_in_the_registry(monkeypatch):
    monkeypatch.setitem(objective.TERMS, "distance", Distance)
    parsed = Objective.parse("kd+distance", alpha=0.9, beta=0.5, distance={"width": 3})
    assert str(parsed) == "ce:0.1+kd:0.9+distance:0.5"
    assert parsed.teacher_needs == {LOGITS, HIDDEN_STATES}
    assert not parsed.cacheable
    student = View(torch.randn(4, 2), {HIDDEN_STATES: (torch.randn(4, 5, 3),)})
    teacher = View(torch.randn(4, 2), {HIDDEN_STATES: (torch.randn(4, 5, 2),)})
    value = parsed(student, teacher, {"labels": torch.zeros(4, dtype=torch.long)})
    value.total.backward()
    assert value.parts["distance"] > 0
    assert all(parameter.grad.any() for parameter in parsed.parameters())


def test_a_term_must_say_how_it_computes_its_value():
    for kind, missing in ((RowTerm, "forward"), (BatchTerm, "points")):
        with pytest.raises(TypeError, match=f"abstract class {kind.__name__} .*{missing}"):
            kind("mine")
    with pytest.raises(TypeError, match="Term must be a RowTerm or a BatchTerm"):
        Objective([Term("mine")], [1.0])
