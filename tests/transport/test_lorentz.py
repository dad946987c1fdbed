"""Lorentz geometry: float32 error bounds for every pair of rows, and agreement with geoopt."""

from __future__ import annotations

import geoopt
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import reference
from sinkd.errors import SinkdError
from sinkd.transport import lorentz, pairwise

NEAR = [([0.3, 0.7], [0.3 + gap, 0.7]) for gap in (1e-1, 1e-3, 1e-5, 6e-8)]
PAIRS = [
    *NEAR,
    ([0.0, 0.0], [0.3, 0.4]),  # a row of length 0
    ([1e-30, 2e-30], [3e-30, 1e-30]),  # squares below float32
    ([1.0, 1e-12], [1.0, 1.1e-12]),  # apart only in a coordinate that lengths do not see
    ([1.0, 2.0, -3.0], [-2.0, 0.5, 0.25]),
    ([3.0, 4.0], [6.0, 8.0]),  # one ray
    ([5.0, 0.0], [9.0, 0.0]),
    ([3.0, 4.0], [9.0, 12.0]),  # one ray, where directions round differently
    ([6.0, 8.0], [6.0 * (1 + 2**-20), 8.0 * (1 + 2**-20)]),
    ([40.0, 3.0], [-50.0, 8.0]),  # cosh overflows float32
    ([100.0, 3.0], [90.0, 8.0]),
    ([20.0, 30.0], [20.000002, 30.000002]),
    ([1e4, 1.0], [1e4, 2.0]),
]


@pytest.fixture(params=["written out", "products"], autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "products":
        monkeypatch.setattr(pairwise, "FEW", 0)
    return request.param


def check_pair(x: list[float], y: list[float], c: float) -> None:
    """Value and both gradients within 1e-5 of 250 digits, for the float32 rows as given."""
    rows = [torch.tensor([row], dtype=torch.float32, requires_grad=True) for row in (x, y)]
    got = lorentz.distance(*rows, c)
    gradients = torch.autograd.grad(got.sum(), rows)
    exact = [row[0].double().tolist() for row in rows]
    for side, (here, there) in enumerate((exact, exact[::-1])):
        value, gradient = reference.exact_lorentz(here, there, c)
        assert got.item() == pytest.approx(value, rel=1e-5)
        assert reference.relative_error(gradients[side][0], torch.tensor(gradient, dtype=torch.float64)) < 1e-5


@pytest.mark.parametrize("c", [0.25, 1.0, 4.0])
@pytest.mark.parametrize(("x", "y"), PAIRS)
def test_float32_is_right_to_1e5_for_every_kind_of_pair(x: list[float], y: list[float], c: float) -> None:
    check_pair(x, y, c)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(-6, 0.7), st.floats(-6, 0), st.floats(0.1, 10))
def test_float32_is_right_to_1e5_for_random_pairs_at_any_distance(
    seed: int, d: int, log_length: float, log_gap: float, c: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(d, generator=generator) * 10**log_length
    y = x * (1 + 10**log_gap * torch.randn(d, generator=generator))
    assume(not torch.equal(x, y))
    check_pair(x.tolist(), y.tolist(), c)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.floats(-3, 0.7), st.integers(2, 17), st.booleans())
def test_float32_is_right_to_1e5_for_rows_on_one_ray_and_for_rows_a_rounding_apart(
    seed: int, d: int, log_length: float, bits: int, on_a_ray: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    if on_a_ray:
        x = torch.randint(1, 64, (d,), generator=generator) * 2.0**-5
        y = x * (1 + 2.0**-bits)
    else:
        x = torch.randn(d, generator=generator) * 10**log_length
        y = x.clone()
        y[seed % d] = torch.nextafter(y[seed % d], torch.tensor(torch.inf))
    check_pair(x.tolist(), y.tolist(), 1.0)


@pytest.mark.parametrize("row", [[0.0, 0.0], [0.3, 0.7], [1e-30, 0.0], [50.0, 80.0], [1e4, -1e4]])
def test_identical_rows_are_at_distance_0_with_gradient_0(row: list[float]) -> None:
    x = torch.tensor([row], requires_grad=True)
    w = lorentz.distance(x, torch.tensor([row, row]))
    assert torch.equal(w, torch.zeros(1, 2))
    assert torch.equal(torch.autograd.grad(w.sum(), x)[0], torch.zeros(1, 2))


def test_gradient_does_not_jump_between_the_near_and_the_far_formula() -> None:
    rows = torch.tensor([[20.0, 18.0], [29.0, -7.0]], dtype=torch.float64).requires_grad_()
    alone = lorentz.distance(rows, rows.detach().flip(0))
    beyond = torch.tensor([[100.0, 3.0]], dtype=torch.float64)  # its radius puts the whole call past the border
    beside = lorentz.distance(rows, torch.cat([rows.detach().flip(0), beyond]))[:, :2]
    torch.testing.assert_close(alone, beside, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(w.sum(), rows)[0] for w in (alone, beside)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("c", [0.3, 1.0, 2.5])
def test_lift_and_distance_are_geoopts_at_any_curvature(c: float) -> None:
    manifold = geoopt.Lorentz(k=1 / c)
    v = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    space, time = lorentz.lift(v, c)
    expected = manifold.expmap0(torch.cat([torch.zeros(6, 1, dtype=torch.float64), v], 1))
    torch.testing.assert_close(torch.cat([time.unsqueeze(1), space], 1), expected.to(torch.float64))
    w = lorentz.distance(v, v, c)
    for i in range(6):
        for j in range(i):
            torch.testing.assert_close(w[i, j], manifold.dist(expected[i], expected[j]).double(), rtol=1e-6, atol=1e-9)


def test_lift_satisfies_the_constraint_and_has_a_gradient_at_the_origin() -> None:
    v = torch.tensor([[0.0, 0.0], [0.3, -0.2], [2.0, 1.0]], dtype=torch.float64, requires_grad=True)
    space, time = lorentz.lift(v, 2.0)
    torch.testing.assert_close(2 * (time**2 - space.square().sum(-1)), torch.ones(3, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda v: lorentz.lift(v, 2.0), v)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_distance_is_a_metric(seed: int, c: float) -> None:
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    w = lorentz.distance(x, x, c)
    torch.testing.assert_close(w, w.mT)
    torch.testing.assert_close(lorentz.distance(torch.zeros(1, 3, dtype=torch.float64), x, c)[0], x.norm(dim=-1))
    assert ((w.unsqueeze(2) + w.unsqueeze(0)).amin(1) - w).min() > -1e-12


def test_half_precision_rows_are_compared_in_more_digits() -> None:
    x = torch.tensor([[0.5, 0.25]], dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        w = lorentz.distance(x, torch.tensor([[0.25, 0.5]], dtype=torch.bfloat16))
    w.sum().backward()
    assert w.dtype == torch.float32
    assert w.item() == pytest.approx(reference.exact_lorentz([0.5, 0.25], [0.25, 0.5], 1.0)[0], rel=1e-6)


@pytest.mark.parametrize("c", [0.0, -1.0, float("nan")])
def test_curvature_must_be_positive(c: float) -> None:
    with pytest.raises(SinkdError, match="greater than 0"):
        lorentz.distance(torch.zeros(1, 2), torch.zeros(1, 2), c)
