"""The debiased solver agrees with POT, and 20 steps are enough where Sinkhorn's own are not."""

import ot
import pytest
import torch
from torch.nn import functional as F

from sinkd.errors import SinkdError
from sinkd.transport.debiased import debiased

SMALL, MEDIUM, LARGE = 1.0, 10.0, 1e9  # cost bounds that choose products in float32, in float64, and logarithms


def problem(n: int, d: int, seed: int = 0, apart: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Costs 1 - cos of random directions, (3, n, n), and two distributions."""
    generator = torch.Generator().manual_seed(seed)
    rows = F.normalize(torch.randn(3, n, d, generator=generator, dtype=torch.float64), dim=-1)
    cost = 1 - rows @ rows.mT
    cost.diagonal(dim1=-2, dim2=-1).zero_()
    logits = 2 * torch.randn(3, n, generator=generator, dtype=torch.float64)
    other = logits + apart * torch.randn(3, n, generator=generator, dtype=torch.float64)
    return cost, logits.softmax(-1), other.softmax(-1)


def by_pot(cost: torch.Tensor, p: torch.Tensor, q: torch.Tensor, epsilon: float) -> tuple[list[float], torch.Tensor]:
    """S of each matrix, and its gradients at q up to a constant."""

    def solved(c, a, b):
        return ot.solve(c, a, b, reg=epsilon, reg_type="KL", max_iter=2000, tol=1e-9)

    values, gradients = [], []
    for c, a, b in zip(cost.numpy(), p.numpy(), q.numpy(), strict=True):
        between, ours = solved(c, a, b), solved(c, b, b)
        values.append(between.value - solved(c, a, a).value / 2 - ours.value / 2)
        own = (ours.potentials[0] + ours.potentials[1]) / 2  # each is known up to a constant
        gradients.append(epsilon * torch.from_numpy(between.potentials[1] - own))
    return values, torch.stack(gradients)


def centred(gradient: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """The gradient at logits."""
    return q * (gradient - (q * gradient).sum(-1, keepdim=True))


def test_value_and_gradient_are_pots():
    cost, p, q = problem(5, 4)
    values, gradients = by_pot(cost, p, q, 0.3)
    for bound in (SMALL, MEDIUM, LARGE):
        found = debiased(cost, p, q, 0.3, bound, n_iters=200)
        assert found.value.tolist() == pytest.approx(values, rel=1e-6)
        torch.testing.assert_close(centred(found.d_q, q), centred(gradients, q), rtol=1e-5, atol=1e-8)
        backward = debiased(cost, q, p, 0.3, bound, n_iters=200)
        torch.testing.assert_close(backward.value, found.value)
        torch.testing.assert_close(backward.d_q, found.d_p)
        assert (found.marginal_error < 1e-9).all()


def test_20_steps_are_enough_where_most_costs_are_near_1():
    """Tokens of a language model; Sinkhorn's averaged steps leave 0.8 of the gradient."""
    cost, p, q = problem(65, 500, apart=0.5)
    exact, found = (debiased(cost, p, q, 0.05, 2.0, n_iters) for n_iters in (1000, 20))
    error = (centred(found.d_q, q) - centred(exact.d_q, q)).norm() / centred(exact.d_q, q).norm()
    assert error < 1e-3
    assert (found.marginal_error < 1e-3).all()


def test_float32_is_float64():
    cost, p, q = problem(65, 500)
    found, exact = debiased(cost.float(), p.float(), q.float(), 0.05, 2.0), debiased(cost, p, q, 0.05, 2.0)
    assert found.value.dtype == torch.float32
    torch.testing.assert_close(found.value.double(), exact.value, rtol=1e-5, atol=0)
    torch.testing.assert_close(centred(found.d_q.double(), q), centred(exact.d_q, q), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("n_iters", [1, 2, 20])
@pytest.mark.parametrize("bound", [SMALL, LARGE])
def test_equal_sides_are_at_distance_0_after_any_number_of_steps(bound, n_iters):
    cost, p, _ = problem(9, 4)
    found = debiased(cost.float(), p.float(), p.float(), 0.05, bound, n_iters)
    assert found.value.abs().max() < 1e-7 and found.d_q.abs().max() < 1e-7


@pytest.mark.parametrize("epsilon", [1e-3, 0.02, 0.1])
def test_any_masses_give_finite_numbers(epsilon):
    """Points without mass, and one point with all of it, on one side or on both."""
    cost = problem(4, 4)[0]
    p = torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    q = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [1e-30, 0, 0, 1.0]])
    for n_iters in (1, 3, 200):
        found = debiased(cost.float(), p, q, epsilon, 2.0, n_iters)
        assert not any(part.isnan().any() for part in found)
    assert all(part.isfinite().all() for part in found)
    expected = [0.0, float(cost[1, 0, 1]), float(cost[2, 0, 3] + cost[2, 1, 3]) / 2]
    assert found.value[:2].tolist() == pytest.approx(expected[:2], abs=1e-5)
    assert found.value[2] == pytest.approx(expected[2], abs=epsilon)


def test_points_without_mass_change_nothing():
    cost, p, q = problem(9, 4)
    p, q = (F.pad(side[:, :6] / side[:, :6].sum(-1, keepdim=True), (0, 3)) for side in (p, q))
    whole, part = debiased(cost, p, q, 0.1, 2.0), debiased(cost[:, :6, :6], p[:, :6], q[:, :6], 0.1, 2.0)
    torch.testing.assert_close(whole.value, part.value)
    torch.testing.assert_close(whole.d_q[:, :6], part.d_q)


def test_the_tolerance_stops_early():
    cost, p, q = problem(9, 50)
    found, more = (debiased(cost, p, q, 0.1, 2.0, 100, tolerance) for tolerance in (1e-2, 1e-4))
    assert 1e-4 < found.marginal_error.max() < 1e-2 and more.marginal_error.max() < 1e-4


def test_numbers_out_of_range_are_refused():
    for wrong in ({"epsilon": 0.0}, {"n_iters": 0}, {"tolerance": 0.0}):
        with pytest.raises(SinkdError, match=f"debiased: {next(iter(wrong))} is 0"):
            debiased(*problem(3, 3), **{"epsilon": 0.1, "cost_bound": 2.0} | wrong)
