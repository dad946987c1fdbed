"""SinkhornLoss: properties from its formulas and papers."""

from __future__ import annotations

import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from sinkd.errors import SinkdError
from sinkd.losses import SinkhornLoss
from sinkd.transport import COSTS


def logits(n: int, c: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (torch.randn(n, c, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2).to(dtype)


def value_and_gradient(loss: SinkhornLoss, student: torch.Tensor, *rest, **named) -> tuple[torch.Tensor, torch.Tensor]:
    student = student.detach().requires_grad_()
    value = loss(student, *rest, **named)
    return value.detach(), torch.autograd.grad(value, student)[0]


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize(("n", "m"), [(6, 6), (5, 8)])
def test_loss_is_the_algorithm_as_written(cost: str, n: int, m: int) -> None:
    student, teacher = logits(n, 4).requires_grad_(), logits(m, 4, 1)
    expected = reference.sinkhorn_loss(student, teacher, cost)
    (expected_gradient,) = torch.autograd.grad(expected, student)
    value, gradient = value_and_gradient(SinkhornLoss(cost=cost, reduction="sum"), student, teacher)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, expected_gradient)
    torch.testing.assert_close(SinkhornLoss(cost=cost)(student, teacher), expected / n)
    torch.testing.assert_close(SinkhornLoss.published(cost=cost)(student, teacher), 0.001 * expected)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("classes", [2, 7, 64, 300])
@pytest.mark.parametrize("gap", [1.0, 1e-2, 1e-4])
def test_float32_gradient_survives_a_student_near_its_teacher(cost: str, classes: int, gap: float) -> None:
    teacher = logits(16, classes, dtype=torch.float32)
    student = teacher + gap * logits(16, classes, 1, torch.float32)
    _, gradient = value_and_gradient(SinkhornLoss(cost=cost), student, teacher)
    _, expected = value_and_gradient(SinkhornLoss(cost=cost), student.double(), teacher.double())
    assert reference.relative_error(gradient, expected) < (1e-4 if classes <= 64 else 3e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(COSTS)), st.integers(1, 7), st.integers(2, 6))
def test_permuting_either_side_changes_nothing(seed: int, cost: str, n: int, c: int) -> None:
    student, teacher = logits(n, c, seed), logits(n, c, seed + 1)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    loss = SinkhornLoss(cost=cost)
    value, gradient = value_and_gradient(loss, student, teacher)
    torch.testing.assert_close(value_and_gradient(loss, student, teacher[order]), (value, gradient))
    torch.testing.assert_close(value_and_gradient(loss, student[order], teacher), (value, gradient[order]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(COSTS)), st.integers(1, 4))
def test_appending_impossible_classes_changes_nothing(seed: int, cost: str, more: int) -> None:
    student, teacher = logits(5, 3, seed), logits(5, 3, seed + 1)
    nothing = torch.full((5, more), -torch.inf, dtype=torch.float64)
    loss = SinkhornLoss(cost=cost)
    value, gradient = value_and_gradient(loss, torch.cat([student, nothing], 1), torch.cat([teacher, nothing], 1))
    expected, expected_gradient = value_and_gradient(loss, student, teacher)
    torch.testing.assert_close((value, gradient[:, :3]), (expected, expected_gradient))
    assert gradient[:, 3:].abs().sum() == 0


@pytest.mark.parametrize(
    "settings", [{}, {"debias": True}, {"value": "matching"}, {"pairing": 0.5}, {"reduction": "sum"}]
)
@pytest.mark.parametrize("static", [False, True])
def test_masked_rows_change_nothing_for_any_content(
    settings: dict, static: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if static:  # as on a GPU: rows cannot be picked out, so their mass is 0
        monkeypatch.setattr("sinkd.losses.logits.is_static", lambda tensor: True)
    student, teacher = logits(5, 3), logits(5, 3, 1)
    loss = SinkhornLoss(**settings)
    expected, expected_gradient = value_and_gradient(loss, student, teacher)
    junk = torch.tensor([[float("nan")] * 3, [1e4, -1e4, 0.0]], dtype=torch.float64)
    mask = torch.tensor([1, 1, 0, 1, 1, 0, 1], dtype=torch.bool)
    longer = [student.new_empty(7, 3) for _ in range(2)]
    for whole, rows in zip(longer, (student, teacher), strict=True):
        whole[mask], whole[~mask] = rows, junk
    value, gradient = value_and_gradient(loss, *longer, mask)
    torch.testing.assert_close((value, gradient[mask]), (expected, expected_gradient))
    assert gradient[~mask].abs().sum() == 0
    nothing, gradient = value_and_gradient(loss, *longer, torch.zeros(7, dtype=torch.bool))
    assert nothing == 0 and gradient.abs().sum() == 0


@pytest.mark.parametrize("cost", COSTS)
def test_debiased_loss_of_equal_sides_is_0_and_otherwise_positive(cost: str) -> None:
    student, teacher = logits(6, 4), logits(6, 4, 1)
    loss = SinkhornLoss(cost=cost, debias=True, n_iters=200)
    value, gradient = value_and_gradient(loss, teacher, teacher)
    assert abs(value) < 1e-12 and SinkhornLoss(cost=cost)(teacher, teacher) > 1e-4
    assert gradient.abs().max() < 1e-4  # 0 once converged
    assert loss(student, teacher) > 0
    uneven = SinkhornLoss(cost=cost, debias=True, n_iters=500)(student, torch.cat([student, student]))
    assert abs(uneven) < 1e-6


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(sorted(COSTS)),
    st.sampled_from([1e-3, 1e-2, 0.1]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.floats(1, 1e4),
)
def test_extreme_logits_and_small_epsilon_stay_finite(
    seed: int, cost: str, epsilon: float, dtype: torch.dtype, size: float
) -> None:
    student, teacher = ((logits(6, 4, seed + k) * size).clamp(-1e4, 1e4).to(dtype) for k in range(2))
    for representation in ("probability", "log_odds"):
        if representation == "log_odds" and (COSTS[cost].simplex or dtype == torch.float16):
            continue  # gradients there pass float16's 65,504 by themselves
        loss = SinkhornLoss(cost=cost, epsilon=epsilon, representation=representation)
        value, gradient = value_and_gradient(loss, student, teacher)
        assert value.isfinite() and gradient.isfinite().all() and value.dtype == torch.float32


def test_converged_sum_is_the_batch_times_pots_value() -> None:
    student, teacher = logits(8, 3), logits(8, 3, 1)
    p, q = torch.softmax(student / 2, -1), torch.softmax(teacher / 2, -1)
    solution = ot.solve(reference.l1(p, q).numpy(), reg=0.1, reg_type="entropy", max_iter=5000, tol=1e-12)
    value = SinkhornLoss(cost="l1", reduction="sum", n_iters=5000)(student, teacher)
    assert float(value) == pytest.approx(8 * solution.value_linear, rel=1e-6)


@pytest.mark.parametrize("gradient", ["unroll", "implicit", "envelope"])
def test_gradients_differ_only_in_how_the_plan_moves(gradient: str) -> None:
    student, teacher = logits(16, 3), logits(16, 3, 1)
    value, got = value_and_gradient(SinkhornLoss(gradient=gradient), student, teacher)
    expected_value, unrolled = value_and_gradient(SinkhornLoss(), student, teacher)
    assert value == expected_value
    assert torch.cosine_similarity(got.flatten(), unrolled.flatten(), 0) > 0.9


def test_regression_transports_scores_over_the_temperature_under_l1() -> None:
    student, teacher = (
        torch.tensor([[1.0], [5.0]], dtype=torch.float64),
        torch.tensor([[2.0], [3.0]], dtype=torch.float64),
    )
    w = (student - teacher.mT).abs() / 2
    expected = (reference.plan(w, 0.1, 20) * w).sum() / 2
    for cost in ("l1", "lorentz", "fisher_rao"):
        value, gradient = value_and_gradient(SinkhornLoss(cost=cost), student, teacher)
        torch.testing.assert_close(value, expected)
        assert gradient.abs().min() > 0


@pytest.mark.parametrize("cost", ["l1", "lorentz"])
def test_an_empty_side_of_a_vocabularys_width_has_an_empty_plan(cost: str) -> None:
    rows = torch.randn(3, 5000)
    for n, m in ((3, 0), (0, 3), (0, 0)):
        assert SinkhornLoss(cost=cost).transport(rows[:n], rows[:m]).plan.shape == (n, m)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearly_one_hot_rows_of_a_vocabulary_that_agree_have_no_gradient(dtype: torch.dtype) -> None:
    teacher = torch.randn(6, 5000).index_put((torch.arange(6), torch.arange(6)), torch.tensor(90.0)).to(dtype)
    student = teacher + 1e-3 * torch.randn(6, 5000).to(dtype)
    assert value_and_gradient(SinkhornLoss(cost="lorentz"), student, teacher)[1].abs().max() < 1e-12


def test_an_empty_side_costs_nothing_for_any_other_side() -> None:
    student = torch.tensor([[0.0, -torch.inf]], requires_grad=True)
    value = SinkhornLoss()(student, torch.zeros(0, 2))
    value.backward()
    assert float(value) == 0 and torch.equal(student.grad, torch.zeros(1, 2))


def test_one_class_of_one_row() -> None:
    value, gradient = value_and_gradient(SinkhornLoss(), torch.tensor([[1.0]]), torch.tensor([[4.0]]))
    assert float(value) == pytest.approx(1.5) and float(gradient) == pytest.approx(-0.5)


def test_pairing_goes_from_whole_batches_to_row_by_row() -> None:
    student, teacher = logits(6, 4), logits(6, 4, 1)
    paired = reference.lorentz(torch.softmax(student / 2, -1), torch.softmax(teacher / 2, -1)).diagonal().mean()
    values = [SinkhornLoss(pairing=gamma)(student, teacher) for gamma in (0.0, 1.0, 50.0)]
    assert values[0] < values[1]
    torch.testing.assert_close(values[2], paired)
    with pytest.raises(SinkdError, match=r"\(6, 4\).*\(5, 4\)"):
        SinkhornLoss(pairing=1.0)(student, teacher[:5])


def test_pairing_spares_copies_of_the_same_example() -> None:
    student, teacher = logits(4, 3), logits(4, 3, 1)
    ids = torch.tensor([7, 8, 7, 9])
    plan = SinkhornLoss(pairing=50.0).transport(student, teacher, ids=ids).plan
    assert plan[0, 2] > 1e-3 and plan[0, 1] < 1e-12


def test_matching_is_minus_the_log_of_the_plans_own_column() -> None:
    student, teacher = logits(6, 4), logits(6, 4, 1)
    plan = reference.plan(COSTS["cosine"].function(*(torch.softmax(z / 2, -1) for z in (student, teacher))), 0.1, 20)
    loss = SinkhornLoss(cost="cosine", value="matching")
    torch.testing.assert_close(loss(student, teacher), -plan.diagonal().log().mean())
    torch.testing.assert_close(
        SinkhornLoss(cost="cosine", value="matching", reduction="sum")(student, teacher), -plan.diagonal().log().sum()
    )
    ids = torch.tensor([0, 1, 0, 2, 3, 1])
    same = ids.unsqueeze(0) == ids.unsqueeze(1)
    torch.testing.assert_close(loss(student, teacher, ids=ids), -(plan * same).sum(1).log().mean())
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, ids=ids), student.requires_grad_())


@pytest.mark.parametrize("settings", [{}, {"cost": "l1"}, {"debias": True}, {"representation": "log_odds"}])
def test_gradcheck_of_the_whole_loss_and_its_parameters(settings: dict) -> None:
    loss = SinkhornLoss(curvature=1.5, learnable_curvature=True, **settings).double()
    parameters = list(loss.parameters())

    def value(student: torch.Tensor, teacher: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return loss(student, teacher)

    assert torch.autograd.gradcheck(
        value, (logits(4, 3).requires_grad_(), logits(3, 3, 1).requires_grad_(), *parameters)
    )


def test_learnable_curvature_is_a_clamped_parameter_in_the_state() -> None:
    loss = SinkhornLoss(curvature=2.0, learnable_curvature=True)
    assert list(loss.state_dict()) == ["hyperbolic.log_value"]
    optimizer = torch.optim.SGD(loss.parameters(), lr=1e4)
    for _ in range(3):
        optimizer.zero_grad()
        loss(logits(6, 3), logits(6, 3, 1)).backward()
        optimizer.step()
    assert float(loss.curvature) == pytest.approx(0.2)  # far apart: to the lower bound, and no further
    assert not SinkhornLoss().state_dict() and float(SinkhornLoss(curvature=2.0).curvature) == 2.0
    assert SinkhornLoss(cost="l1", learnable_curvature=True).curvature is None


def test_log_odds_scale_is_given_or_starts_at_the_root_of_the_classes() -> None:
    student, teacher = logits(5, 4), logits(5, 4, 1)
    default = SinkhornLoss(representation="log_odds")(student, teacher)
    torch.testing.assert_close(
        SinkhornLoss(representation="log_odds", representation_scale=0.5)(student, teacher), default
    )
    assert SinkhornLoss(representation="log_odds", representation_scale=1.0)(student, teacher) > default
    learnable = SinkhornLoss(representation="log_odds", learnable_curvature=True)
    assert sorted(learnable.state_dict()) == ["hyperbolic.log_value", "scale.log_value"]
    torch.testing.assert_close(learnable(student, teacher), default)


def test_uniform_rows_in_log_odds_have_a_finite_gradient() -> None:
    value, gradient = value_and_gradient(SinkhornLoss(representation="log_odds"), torch.zeros(3, 4), torch.zeros(3, 4))
    assert value == 0 and gradient.isfinite().all()


def test_positions_of_a_batch_are_one_transport_and_of_a_sequence_one_each() -> None:
    student, teacher = logits(6, 5).reshape(2, 3, 5), logits(6, 5, 1).reshape(2, 3, 5)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    rows = [z[mask.bool()] for z in (student, teacher)]
    torch.testing.assert_close(SinkhornLoss()(student, teacher, mask), SinkhornLoss()(*rows))
    each = [SinkhornLoss()(student[i][mask[i].bool()], teacher[i][mask[i].bool()]) for i in range(2)]
    by_sequence = SinkhornLoss(group="sequence")
    torch.testing.assert_close(by_sequence(student, teacher, mask), torch.stack(each).mean())
    padded = [torch.cat([z, torch.full((2, 2, 5), 9.0)], 1) for z in (student, teacher)]
    padding = torch.cat([mask, torch.zeros(2, 2, dtype=mask.dtype)], 1)
    torch.testing.assert_close(by_sequence(*padded, padding), by_sequence(student, teacher, mask))
    torch.testing.assert_close(SinkhornLoss()(*padded, padding), SinkhornLoss()(student, teacher, mask))


@pytest.mark.parametrize("group", ["batch", "sequence"])
@pytest.mark.parametrize("static", [False, True])
def test_top_k_compares_the_union_of_both_sides_and_the_rest(
    group: str, static: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if static:
        monkeypatch.setattr("sinkd.losses.top_k_union.is_static", lambda tensor: True)
    student, teacher = logits(4, 40).reshape(2, 2, 40), logits(4, 40, 1).reshape(2, 2, 40)
    values = []
    for i in [slice(0, 2)] if group == "batch" else [slice(0, 1), slice(1, 2)]:
        p, q = (torch.softmax(z[i].flatten(0, 1) / 2, -1) for z in (student, teacher))
        union = sorted({int(c) for x in (p, q) for row in x for c in row.topk(2).indices})
        assert len(union) < 40
        folded = [torch.cat([x[:, union], 1 - x[:, union].sum(-1, keepdim=True)], -1) for x in (p, q)]
        w = reference.l1(*folded)
        values.append((reference.plan(w, 0.1, 20) * w).sum() / len(p))
    loss = SinkhornLoss(cost="l1", group=group, top_k=2)
    torch.testing.assert_close(loss(student, teacher), torch.stack(values).mean())
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(student[..., order], teacher[..., order]), loss(student, teacher))
    everything = SinkhornLoss(cost="l1", group=group, top_k=40)
    torch.testing.assert_close(everything(student, teacher), SinkhornLoss(cost="l1", group=group)(student, teacher))


def test_transport_is_the_problem_behind_the_loss() -> None:
    student, teacher = logits(6, 3), logits(6, 3, 1)
    transport = SinkhornLoss().transport(student, teacher)
    torch.testing.assert_close(transport.distance / 6, SinkhornLoss()(student, teacher))
    assert 0 <= transport.marginal_error() < 0.05


@pytest.mark.parametrize("settings", [{"cost": "l1"}, {}, {"value": "matching", "pairing": 0.2}])
@pytest.mark.parametrize("classes", [3, 70])
def test_compiles_as_one_graph(settings: dict, classes: int) -> None:
    check_compiled(SinkhornLoss(**settings), classes, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("cost", ["l1", "lorentz"])
@pytest.mark.parametrize("classes", [3, 3000])
def test_compiles_to_machine_code(cost: str, classes: int) -> None:
    check_compiled(SinkhornLoss(cost=cost, learnable_curvature=True), classes, "inductor")


def check_compiled(loss: SinkhornLoss, classes: int, backend: str) -> None:
    torch._dynamo.reset()
    student, teacher = logits(6, classes, dtype=torch.float32), logits(6, classes, 1, torch.float32)
    mask = torch.tensor([1, 1, 1, 0, 1, 1], dtype=torch.bool)
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    expected = value_and_gradient(loss, student, teacher, mask)
    got = value_and_gradient(compiled, student, teacher, mask)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"cost": "l3"}, "cost is 'l3'; it must be one of l1, l2"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"epsilon": -0.1}, "epsilon is -0.1"),
        ({"n_iters": 0}, "n_iters is 0; it must be at least 1"),
        ({"pairing": -1.0}, "pairing is -1.0; it must be at least 0"),
        ({"pairing": float("inf")}, "pairing is inf; it must be at least 0, and finite"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0; it must be at least 1"),
        ({"reduction": "none"}, "reduction is 'none'; it must be one of mean, sum"),
        ({"curvature": 0.0}, "curvature is 0.0"),
        ({"curvature": -1.0, "cost": "l1"}, "curvature is -1.0"),
        ({"representation_scale": -1.0}, "representation_scale is -1.0"),
        ({"cost": "hellinger", "representation": "log_odds"}, "cost 'hellinger' is for probabilities"),
        ({"top_k": 3, "representation": "log_odds"}, "top_k is for probabilities"),
        ({"value": "matching", "debias": True}, "debias has no meaning"),
        ({"value": "matching", "gradient": "envelope"}, "gradient 'envelope' has no meaning"),
    ],
)
def test_settings_out_of_range_name_the_valid_range(settings: dict, text: str) -> None:
    with pytest.raises(SinkdError, match=text):
        SinkhornLoss(**settings)


def test_masks_must_fit_the_logits() -> None:
    with pytest.raises(SinkdError, match=r"mask has shape \(3,\) and student logits \(4, 2\); expected \(4,\)"):
        SinkhornLoss()(torch.zeros(4, 2), torch.zeros(4, 2), torch.ones(3))
    with pytest.raises(SinkdError, match=r"\(4, 2\).*\(3, 2\); expected the same shape"):
        SinkhornLoss()(torch.zeros(4, 2), torch.zeros(3, 2), torch.ones(4))


@pytest.mark.parametrize("width", [1, 3, 70, 4099])
@pytest.mark.parametrize(
    "settings", [{"cost": cost} for cost in COSTS] + [{"top_k": 5}, {"value": "matching"}], ids=str
)
def test_every_tensor_is_made_on_the_device_of_the_logits(settings: dict, width: int) -> None:
    student, teacher = torch.randn(6, width, requires_grad=True), torch.randn(6, width)
    with torch.device("meta"):  # tensors made without a device land there
        loss = SinkhornLoss(**settings)(student, teacher)
        loss.backward()
    assert loss.device.type == student.grad.device.type == "cpu" and torch.isfinite(student.grad).all()
