"""Every ground cost agrees with its formula, and works where the plain formula would fail."""

from __future__ import annotations

import pytest
import torch

import reference
from sinkd.errors import SinkdError
from sinkd.transport import COSTS, cost, pairwise


def rows(n: int, d: int, seed: int, *batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*batch, n, d, dtype=torch.float64, generator=generator).softmax(-1).requires_grad_()


@pytest.fixture(params=["written out", "products"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of taking differences, on rows of the same few classes."""
    if request.param == "products":
        monkeypatch.setattr(pairwise, "FEW", 0)
    return request.param


@pytest.mark.parametrize("name", COSTS)
def test_value_and_gradient_are_those_of_the_formula(name: str, form: str) -> None:
    logits = rows(5, 6, 0), rows(4, 6, 1)
    x, y = (z.mul(3).softmax(-1) for z in logits)
    direction = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    got, expected = COSTS[name].function(x, y), reference.COSTS[name](x, y)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    for side in logits:  # along the simplex: off it formulas of the same distance differ
        gradients = [torch.autograd.grad((v * direction).sum(), side, retain_graph=True)[0] for v in (got, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", COSTS)
def test_gradcheck(name: str, form: str) -> None:
    function = COSTS[name].function
    if COSTS[name].curved:
        c = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(function, (rows(3, 4, 0), rows(2, 4, 1), c))
    else:
        assert torch.autograd.gradcheck(function, (rows(3, 4, 0), rows(2, 4, 1)))


@pytest.mark.parametrize("name", COSTS)
def test_leading_dimensions_are_independent_problems(name: str, form: str) -> None:
    x, y = rows(3, 5, 0, 2, 2), rows(4, 5, 1, 2, 2)
    together = COSTS[name].function(x, y)
    gradient = torch.autograd.grad(together.sum(), x)[0]
    for i in range(2):
        for j in range(2):
            alone = COSTS[name].function(x[i, j], y[i, j])
            torch.testing.assert_close(together[i, j], alone)
            torch.testing.assert_close(gradient[i, j], torch.autograd.grad(alone.sum(), x)[0][i, j])


@pytest.mark.parametrize("name", COSTS)
def test_equal_rows_cost_nothing_and_have_a_finite_gradient(name: str, form: str) -> None:
    x = rows(4, 5, 0).detach().float().requires_grad_()
    w = COSTS[name].function(x, x.detach())
    (gradient,) = torch.autograd.grad(w.diagonal().sum(), x)
    assert w.diagonal().abs().max() < 1e-7  # cosine is the one that takes no differences
    assert gradient.isfinite().all() and gradient.abs().max() < 2


@pytest.mark.parametrize("name", COSTS)
def test_bounds_hold_on_the_simplex(name: str) -> None:
    corners = torch.cat([torch.eye(6, dtype=torch.float64), rows(6, 6, 3).detach()])
    for c in (0.01, 1.0, 50.0) if COSTS[name].curved else (None,):
        w = COSTS[name].function(corners, corners, *([] if c is None else [c]))
        assert w.min() >= -1e-12 and w.max() <= COSTS[name].bound * (1 + 1e-6)


@pytest.mark.parametrize("name", ["hellinger", "fisher_rao"])
def test_impossible_classes_leave_a_finite_gradient(name: str) -> None:
    logits = torch.tensor([[1.0, 2.0, -torch.inf], [0.0, 1.0, -torch.inf]], requires_grad=True)
    w = COSTS[name].function(logits.softmax(-1), torch.tensor([[0.3, 0.7, 0.0]]))
    (gradient,) = torch.autograd.grad(w.sum(), logits)
    plain = logits.detach()[:, :2].requires_grad_()
    w = COSTS[name].function(plain.softmax(-1), torch.tensor([[0.3, 0.7]]))
    torch.testing.assert_close(gradient[:, :2], torch.autograd.grad(w.sum(), plain)[0])
    assert gradient[:, 2].abs().max() == 0


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6, 1e-9])
def test_products_and_differences_agree_for_rows_at_any_distance(gap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows(6, 40, 0)
    y = (x + gap * rows(6, 40, 1)).detach()
    for name in ("l2", "sqeuclidean", "lorentz"):
        results = []
        for few in (64, 0):
            monkeypatch.setattr(pairwise, "FEW", few)
            w = COSTS[name].function(x, y)
            results.append((w.detach(), torch.autograd.grad(w.diagonal().sum(), x)[0]))
        torch.testing.assert_close(*results, rtol=1e-6, atol=0)


def test_the_slices_of_l1_for_accelerators_agree_with_the_kernel_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs on a GPU, run here on a tensor that claims not to be on a CPU."""

    class Elsewhere(torch.Tensor):
        device = torch.device("meta")

    monkeypatch.setattr(cost, "DEVICE_LIMIT", 60)
    x, y = rows(5, 9, 0).detach(), rows(4, 9, 1).detach()
    weights = torch.randn(5, 4, dtype=torch.float64)
    there = cost.l1_pull(weights, *(t.as_subclass(Elsewhere) for t in (x, y)))
    torch.testing.assert_close(cost.l1_pull(weights, x, y), there.as_subclass(torch.Tensor))


@pytest.mark.parametrize("name", ["l2", "sqeuclidean", "lorentz", "fisher_rao"])
def test_products_alone_are_right_unless_rows_are_nearer_than_a_millionth(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = rows(6, 80, 0)
    y = (x + 1e-5 * rows(6, 80, 1)).detach()
    y[0] = x.detach()[0]
    expected = COSTS[name].function(x, y)
    monkeypatch.setattr(pairwise, "may_wait", lambda tensor: False)
    found = COSTS[name].function(x, y)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-12)
    gradients = [torch.autograd.grad(w.diagonal().sum(), x)[0] for w in (found, expected)]
    assert reference.relative_error(*gradients) < 1e-4
    assert found[0, 0] == 0


def test_l1_never_holds_a_number_per_pair_and_class() -> None:
    x, y = rows(30, 3000, 0), rows(30, 3000, 1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        COSTS["l1"].function(x, y).sum().backward()
    largest = max(abs(event.self_cpu_memory_usage) for event in profile.events())
    assert largest < 8 * 30 * 30 * 3000 / 4


@pytest.mark.parametrize("name", COSTS)
def test_rows_that_do_not_pair_are_named_by_their_shapes(name: str) -> None:
    with pytest.raises(SinkdError, match=r"\(3, 4\) and \(3, 5\)"):
        COSTS[name].function(torch.zeros(3, 4), torch.zeros(3, 5))


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_no_rows_cost_nothing(name: str, n: int, m: int) -> None:
    x, y = torch.zeros(n, 4, requires_grad=True), torch.zeros(m, 4)
    w = COSTS[name].function(x, y)
    w.sum().backward()
    assert w.shape == (n, m) and x.grad is not None
