"""The chord's distance is the hyperboloid's, for every pair of rows within its reach, taken at once or by blocks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from sinkd.transport import chord, lorentz


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).softmax(-1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0.01, 2), st.floats(-8, 0), st.booleans(), st.booleans())
def test_value_and_gradient_are_right_to_1e5_up_to_its_reach(
    seed: int, d: int, length: float, log_gap: float, radial: bool, single: bool
) -> None:
    direction, off = (torch.nn.functional.normalize(rows(1, d, seed + k) - 0.3, dim=-1) for k in (0, 1))
    gap = 10**log_gap * length
    x = (direction * length).requires_grad_()
    y = direction * (length - gap) if radial else direction * (length - gap) + off * gap / 4
    if torch.equal(x, y):
        return
    # enough copies of a row are enough pairs for float32
    n = 65 if single else 1
    w = chord.distance(x, y.expand(n * n, d))
    assert w.dtype == (torch.float32 if single else torch.float64)
    value, gradient = reference.exact_lorentz(x[0].tolist(), y[0].tolist(), 1.0)
    assert w[0, 0].item() == pytest.approx(value, rel=1e-5)
    found = torch.autograd.grad(w[0, 0], x)[0][0]
    assert reference.relative_error(found, torch.tensor(gradient, dtype=torch.float64)) < 1e-5


def test_blocks_of_rows_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows(90, 3).requires_grad_(), rows(70, 3, 1).requires_grad_()
    weights = torch.rand(90, 70, generator=torch.Generator().manual_seed(2))
    found = []
    for limit in (10**6, 70 * 16):
        monkeypatch.setattr(chord, "CACHE_LIMIT", limit)
        w = chord.distance(x, y)
        found.append((w.detach(), *torch.autograd.grad(w, (x, y), weights)))
    torch.testing.assert_close(*found, rtol=1e-6, atol=0)
    assert len(chord._row_blocks(x, y)) == 6


@pytest.mark.parametrize("n", [3, 80])
def test_it_is_what_lorentz_uses_where_the_reach_is_known(n: int) -> None:
    x, y = rows(n, 3).requires_grad_(), rows(n, 3, 1)
    here, there = chord.distance(x, y), lorentz.distance(x, y)
    torch.testing.assert_close(here.double(), there, rtol=1e-5, atol=0)
    assert torch.equal(lorentz.distance(x, y, 1.0, reach=2.0), here.float())
    assert lorentz.distance(x, y, 1.0, reach=chord.REACH * 1.01).sub(here).abs().max() < 1e-5


def test_equal_rows_are_at_distance_0_with_gradient_0() -> None:
    for n in (2, 80):
        x = rows(1, 3).expand(n, 3).clone().requires_grad_()
        w = chord.distance(x, x.detach())
        assert torch.equal(w, torch.zeros_like(w))
        assert torch.equal(torch.autograd.grad(w.sum(), x)[0], torch.zeros(n, 3, dtype=torch.float64))
