"""The solver agrees with the plain iteration and with POT, and keeps its promises."""

from __future__ import annotations

import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from sinkd.errors import SinkdError
from sinkd.transport import sinkhorn

PRODUCTS, LOGS = 1.0, 1e9  # cost bounds that choose the form


def random_cost(n: int, m: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, m, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def weights(n: int, seed: int, masked: int) -> torch.Tensor:
    w = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1
    w[masked] = 0
    return w


@pytest.mark.parametrize("bound", [PRODUCTS, LOGS])
@pytest.mark.parametrize(("n", "m"), [(7, 7), (5, 8), (9, 4), (1, 1), (1, 6)])
def test_unrolled_plan_and_gradient_are_those_of_the_iteration_as_written(bound: float, n: int, m: int) -> None:
    cost, direction = random_cost(n, m), random_cost(n, m, 1).detach()
    expected = reference.plan(cost, 0.1, 20)
    expected_value = (expected * cost).sum() + (expected * direction).sum() + (expected + 1e-30).log().diagonal().sum()
    transport = sinkhorn(cost, cost_bound=bound)
    log_plan = transport.f.unsqueeze(1) + transport.g - cost / 0.1
    value = transport.distance + (transport.plan * direction).sum() + log_plan.diagonal().sum()
    torch.testing.assert_close(transport.plan, expected)
    torch.testing.assert_close(value, expected_value)
    torch.testing.assert_close(torch.autograd.grad(value, cost), torch.autograd.grad(expected_value, cost))


@pytest.mark.parametrize("bound", [PRODUCTS, LOGS])
def test_weights_and_masked_rows_act_as_if_the_masked_were_not_there(bound: float) -> None:
    cost, a, b = random_cost(6, 7), weights(6, 1, 2), weights(7, 2, 3)
    b = b * a.sum() / b.sum()
    i, j = a.nonzero().squeeze(1), b.nonzero().squeeze(1)
    expected = reference.plan(cost[i][:, j], 0.1, 20, a[i], b[j])
    transport = sinkhorn(cost, row_weights=a, col_weights=b, cost_bound=bound)
    torch.testing.assert_close(transport.plan[i][:, j], expected)
    assert transport.plan[2].abs().sum() == 0 and transport.plan[:, 3].abs().sum() == 0
    expected_gradient = torch.autograd.grad((expected * cost[i][:, j]).sum(), cost)
    torch.testing.assert_close(torch.autograd.grad(transport.distance, cost), expected_gradient)


@pytest.mark.parametrize("bound", [PRODUCTS, LOGS])
def test_all_rows_masked_gives_an_empty_plan_without_nan(bound: float) -> None:
    cost = random_cost(3, 4)
    transport = sinkhorn(cost, row_weights=torch.zeros(3), col_weights=torch.zeros(4), cost_bound=bound)
    (gradient,) = torch.autograd.grad(transport.distance, cost)
    assert transport.distance == 0 and gradient.abs().sum() == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.floats(0.05, 2.0), st.integers(1, 30))
def test_product_form_and_log_form_agree(seed: int, n: int, m: int, epsilon: float, n_iters: int) -> None:
    cost = random_cost(n, m, seed)
    results = []
    for bound in (PRODUCTS, LOGS):
        transport = sinkhorn(cost, epsilon, n_iters, cost_bound=bound)
        results.append((transport.plan, transport.f, transport.g, *torch.autograd.grad(transport.distance, cost)))
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-10)


def test_forms_agree_in_float32_at_the_largest_exponent_of_the_product_form() -> None:
    cost = random_cost(20, 20).detach()
    exact = sinkhorn(cost, epsilon=0.025)
    for bound in (PRODUCTS, LOGS):
        plan = sinkhorn(cost.float(), epsilon=0.025, cost_bound=bound).plan
        assert plan.dtype == torch.float32
        assert reference.relative_error(plan, exact.plan) < 1e-5


@pytest.mark.parametrize("bound", [PRODUCTS, LOGS])
def test_gradcheck(bound: float) -> None:
    def values(cost: torch.Tensor) -> tuple[torch.Tensor, ...]:
        t = sinkhorn(cost, epsilon=0.3, n_iters=5, cost_bound=bound)
        return t.plan, t.distance, t.f, t.g

    assert torch.autograd.gradcheck(values, random_cost(4, 3))


def test_implicit_gradient_is_the_unrolled_one_of_a_converged_plan() -> None:
    cost = random_cost(6, 6)
    gap = []
    for n_iters in (20, 100, 2000):
        gradients = [
            torch.autograd.grad(sinkhorn(cost, n_iters=n_iters, gradient=g).distance, cost)[0]
            for g in ("implicit", "unroll")
        ]
        gap.append(reference.relative_error(*gradients))
    # At 100 iterations this plan has converged: the remaining error is rounding.
    assert max(gap[1:]) < 1e-7 and max(gap[1:]) < gap[0]


def test_implicit_gradient_is_finite_if_the_plan_is_separate_pairs() -> None:
    cost = (1 - torch.eye(8)).mul(50).add(torch.rand(8, 8, generator=torch.Generator().manual_seed(0))).requires_grad_()
    transport = sinkhorn(cost, gradient="implicit")
    (gradient,) = torch.autograd.grad(transport.distance, cost)
    torch.testing.assert_close(gradient, torch.eye(8), atol=1e-4, rtol=0)


def test_envelope_gradient_is_the_plan() -> None:
    cost = random_cost(5, 5)
    transport = sinkhorn(cost, gradient="envelope")
    torch.testing.assert_close(torch.autograd.grad(transport.distance, cost)[0], transport.plan)


@pytest.mark.parametrize(("n", "m"), [(8, 8), (6, 9)])
def test_converged_distance_is_that_of_pot(n: int, m: int) -> None:
    cost = random_cost(n, m).detach()
    solution = ot.solve(cost.numpy(), reg=0.1, reg_type="entropy", max_iter=5000, tol=1e-12)
    transport = sinkhorn(cost, n_iters=5000)
    assert float(transport.distance) == pytest.approx(n * solution.value_linear, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12))
def test_columns_are_exact_and_rows_nearly(seed: int, n: int, m: int) -> None:
    transport = sinkhorn(random_cost(n, m, seed))
    torch.testing.assert_close(transport.plan.sum(0), torch.full((m,), n / m, dtype=torch.float64))
    error = (transport.plan.sum(1) - 1).abs().mean()
    torch.testing.assert_close(transport.marginal_error(), error.detach())
    assert error < 0.05


def test_tolerance_stops_as_soon_as_it_is_met() -> None:
    cost = random_cost(10, 10)
    for bound in (PRODUCTS, LOGS):
        transport = sinkhorn(cost, n_iters=1000, tolerance=1e-6, cost_bound=bound)
        assert transport.marginal_error() <= 1e-6
        assert 1 < transport.n_iters < 1000
        assert sinkhorn(cost, n_iters=transport.n_iters - 1, cost_bound=bound).marginal_error() > 1e-6


@pytest.mark.parametrize("bound", [PRODUCTS, LOGS])
@pytest.mark.parametrize("gradient", ["unroll", "implicit", "envelope"])
def test_leading_dimensions_are_independent_problems(bound: float, gradient: str) -> None:
    costs = torch.stack([random_cost(5, 4, k).detach() for k in range(6)]).reshape(2, 3, 5, 4).requires_grad_()
    a, b = torch.rand(2, 3, 5, dtype=torch.float64), torch.rand(2, 3, 4, dtype=torch.float64)
    b *= a.sum(-1, keepdim=True) / b.sum(-1, keepdim=True)
    together = sinkhorn(costs, row_weights=a, col_weights=b, gradient=gradient, cost_bound=bound)
    (got,) = torch.autograd.grad(together.distance.sum(), costs)
    assert together.distance.shape == together.marginal_error().shape == (2, 3)
    for i in range(2):
        for j in range(3):
            cost = costs[i, j].detach().requires_grad_()
            alone = sinkhorn(cost, row_weights=a[i, j], col_weights=b[i, j], gradient=gradient, cost_bound=bound)
            torch.testing.assert_close(together.plan[i, j], alone.plan)
            torch.testing.assert_close(got[i, j], torch.autograd.grad(alone.distance, cost)[0])


@pytest.mark.parametrize("bound", [PRODUCTS, LOGS])
def test_memory_kept_for_the_way_back_does_not_grow_by_matrices_with_the_iterations(bound: float) -> None:
    def kept(n_iters: int) -> int:
        numbers = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal numbers
            numbers += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            sinkhorn(cost, n_iters=n_iters, cost_bound=bound)
        return numbers

    cost = random_cost(50, 50)
    assert kept(10) < 3 * cost.numel() + 10 * 100 + 1
    assert kept(30) - kept(10) == 20 * 100  # f and g of each iteration, nothing else


@pytest.mark.parametrize("epsilon", [1e-3, 1e-2, 10.0])
def test_finite_down_to_epsilon_of_a_thousandth(epsilon: float) -> None:
    cost = random_cost(16, 16).detach().float().mul(2).requires_grad_()
    transport = sinkhorn(cost, epsilon)
    (gradient,) = torch.autograd.grad(transport.distance, cost)
    assert transport.plan.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("epsilon", [1e-3, 1e-4, 1e-5, 1e-6])
def test_float32_gradients_are_right_for_any_small_epsilon(epsilon: float) -> None:
    cost = random_cost(16, 16).detach().float()
    gradients = []
    for typed in (cost, cost.double()):
        typed.requires_grad_()
        gradients.append(torch.autograd.grad(sinkhorn(typed, epsilon).distance, typed)[0])
    assert gradients[0].dtype == torch.float32
    assert reference.relative_error(*gradients) < 1e-5


@pytest.mark.parametrize("bound", [None, 4.0])
@pytest.mark.parametrize("mass", [1e4, 1e-4, 1e30])
def test_masses_of_any_size_scale_plan_and_gradient(mass: float, bound: float | None) -> None:
    cost = torch.full((5, 5), 4.0, requires_grad=True)
    transport = sinkhorn(cost, row_weights=torch.full((5,), mass), cost_bound=bound)
    (gradient,) = torch.autograd.grad(transport.distance / mass, cost)
    expected = sinkhorn(cost)
    torch.testing.assert_close(transport.plan / mass, expected.plan)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.distance, cost)[0])
    rebuilt = torch.exp(transport.f.double().unsqueeze(1) + transport.g.double() - cost.detach().double() / 0.1)
    torch.testing.assert_close(rebuilt / mass, transport.plan.detach().double() / mass, rtol=1e-4, atol=0)


@pytest.mark.parametrize("bound", [PRODUCTS, LOGS])
@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_a_side_without_rows_is_transported_at_no_cost(bound: float, n: int, m: int) -> None:
    cost = torch.zeros(2, n, m, requires_grad=True)
    transport = sinkhorn(cost, cost_bound=bound)
    (gradient,) = torch.autograd.grad(transport.distance.sum(), cost)
    assert gradient.shape == transport.plan.shape == (2, n, m) and transport.n_iters == 0
    assert transport.f.shape == (2, n) and transport.g.shape == (2, m) and not transport.distance.any()


def test_autocast_does_not_affect_the_solver() -> None:
    cost = random_cost(8, 8).detach().float().requires_grad_()
    plain = torch.autograd.grad(sinkhorn(cost).distance, cost)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        transport = sinkhorn(cost)
        inside = torch.autograd.grad(transport.distance, cost)[0]
    assert transport.plan.dtype == torch.float32
    torch.testing.assert_close(inside, plain, rtol=0, atol=0)


def test_half_precision_costs_are_solved_in_float32() -> None:
    cost = random_cost(4, 4).detach().bfloat16().requires_grad_()
    transport = sinkhorn(cost)
    transport.distance.backward()
    assert transport.plan.dtype == torch.float32 and cost.grad is not None and cost.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"cost": torch.zeros(3)}, r"shape \(3,\)"),
        ({"epsilon": 0.0}, "epsilon is 0.0"),
        ({"epsilon": float("inf")}, "epsilon is inf"),
        ({"n_iters": 0}, "n_iters is 0"),
        ({"tolerance": -1.0}, "tolerance is -1.0"),
        ({"gradient": "adjoint"}, "'adjoint'.*unroll, implicit, envelope"),
        ({"row_weights": torch.ones(4)}, r"row_weights has shape \(4,\) and cost \(3, 5\); expected \(3,\)"),
        ({"col_weights": torch.ones(2, 5)}, r"col_weights has shape \(2, 5\)"),
        ({"row_weights": torch.tensor([1.0, -2.0, 3.0])}, "row_weights hold a mass of -2.0"),
        ({"col_weights": torch.ones(5)}, "a mass of 3 in rows and 5 in columns"),
    ],
)
def test_wrong_input_is_one_sentence_that_names_it(arguments: dict, text: str) -> None:
    with pytest.raises(SinkdError, match=text):
        sinkhorn(**{"cost": torch.zeros(3, 5), **arguments})


def test_tolerance_is_refused_under_compile() -> None:
    compiled = torch.compile(lambda c: sinkhorn(c, tolerance=1e-3).distance, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="tolerance looks at values and cannot be compiled"):
        compiled(torch.rand(3, 3))


def test_second_derivatives_are_refused_rather_than_wrong() -> None:
    cost = random_cost(4, 4)
    (gradient,) = torch.autograd.grad(sinkhorn(cost).distance, cost, create_graph=True)
    with pytest.raises(RuntimeError, match=r"(once_differentiable|does not require grad)"):
        gradient.sum().backward()
