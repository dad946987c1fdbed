"""The distance of short rows is the hyperboloid's, for every pair of rows, computed at once or in blocks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from sinkd.transport import few_classes, lorentz, pairwise


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).softmax(-1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0.01, 2), st.floats(-8, 0), st.booleans())
def test_value_and_gradient_are_right_to_1e5_up_to_the_longest(
    seed: int, d: int, length: float, log_gap: float, radial: bool
) -> None:
    direction, off = (torch.nn.functional.normalize(rows(1, d, seed + k) - 0.3, dim=-1) for k in (0, 1))
    gap = 10**log_gap * length
    x = (direction * length).requires_grad_()
    y = direction * (length - gap) if radial else direction * (length - gap) + off * gap / 4
    if torch.equal(x, y):
        return
    w = few_classes.distance(x, y)
    assert w.dtype == torch.float32
    value, gradient = reference.exact_lorentz(x[0].tolist(), y[0].tolist(), 1.0)
    assert w.item() == pytest.approx(value, rel=1e-5)
    found = torch.autograd.grad(w[0, 0], x)[0][0]
    assert reference.relative_error(found, torch.tensor(gradient, dtype=torch.float64)) < 1e-5


def test_blocks_of_rows_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows(90, 3).requires_grad_(), rows(70, 3, 1).requires_grad_()
    weights = torch.rand(90, 70, generator=torch.Generator().manual_seed(2))
    found = []
    for limit in (10**6, 70 * 3 * 16):
        monkeypatch.setattr(pairwise, "CACHE_LIMIT", limit)
        w = few_classes.distance(x, y)
        found.append((w.detach(), *torch.autograd.grad(w, (x, y), weights)))
    torch.testing.assert_close(*found, rtol=1e-6, atol=0)
    assert len(pairwise.row_blocks(x, y)) == 6


@pytest.mark.parametrize("c", [0.25, 1.0, 30.0])
@pytest.mark.parametrize("gap", [1.0, 1e-2, 1e-6, 1e-10])
def test_simplex_rows_get_the_distance_of_any_rows(c: float, gap: float) -> None:
    x = rows(80, 3).requires_grad_()
    y = x.detach() + gap * rows(80, 3, 1)
    slow, fast = lorentz.distance(x, y, c), lorentz.distance(x, y, c, simplex=True)
    assert slow.dtype == torch.float64 and fast.dtype == torch.float32
    torch.testing.assert_close(fast.double(), slow, rtol=1e-5, atol=0)
    for side, other in ((slow, fast), (slow.diagonal(), fast.diagonal())):
        gradients = [torch.autograd.grad(w.double().sum(), x, retain_graph=True)[0] for w in (other, side)]
        assert reference.relative_error(*gradients) < 1e-5


def test_few_classes_of_the_simplex_take_the_path_of_few_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        few_classes, "distance", lambda x, y: calls.append(x.shape[-1]) or lorentz.distance(x, y).float()
    )
    for classes, c in ((3, 1.0), (64, 4.0), (3, torch.tensor(4.0)), (65, 1.0), (3, 4.1)):
        lorentz.distance(rows(3, classes), rows(3, classes, 1), c, simplex=True)
    assert calls == [3, 64, 3]


def test_equal_rows_are_at_distance_0_with_gradient_0() -> None:
    for n in (2, 80):
        x = rows(1, 3).expand(n, 3).clone().requires_grad_()
        w = few_classes.distance(x, x.detach())
        assert torch.equal(w, torch.zeros_like(w))
        assert torch.equal(torch.autograd.grad(w.sum(), x)[0], torch.zeros(n, 3, dtype=torch.float64))
