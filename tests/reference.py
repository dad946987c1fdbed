"""Reference losses, written directly from their formulas in float64: slow and simple."""

from __future__ import annotations

import json
from pathlib import Path

import mpmath
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> list[dict]:
    """The cases of a golden file: logits, and loss and gradient of each name, computed once in float64."""
    return json.loads((GOLDEN / name).read_text())


def plan(cost: Tensor, epsilon: float, n_iters: int, rows: Tensor | None = None, cols: Tensor | None = None) -> Tensor:
    """(n, m) plan by dividing rows and columns by their sums; plain autograd keeps every one of them."""
    n, m = cost.shape
    rows = cost.new_ones(n) if rows is None else rows
    cols = cost.new_full((m,), float(rows.sum()) / m) if cols is None else cols
    p = torch.exp(-cost / epsilon)
    for _ in range(n_iters):
        p = p * (rows / p.sum(1)).unsqueeze(1)
        p = p * (cols / p.sum(0)).unsqueeze(0)
    return p


def l1(x: Tensor, y: Tensor) -> Tensor:
    return (x.unsqueeze(1) - y.unsqueeze(0)).abs().sum(-1)


def l2(x: Tensor, y: Tensor) -> Tensor:
    return (x.unsqueeze(1) - y.unsqueeze(0)).norm(dim=-1)


def sqeuclidean(x: Tensor, y: Tensor) -> Tensor:
    return (x.unsqueeze(1) - y.unsqueeze(0)).square().sum(-1)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return 1 - torch.nn.functional.cosine_similarity(x.unsqueeze(1), y.unsqueeze(0), dim=-1)


def fisher_rao(x: Tensor, y: Tensor) -> Tensor:
    return 2 * torch.acos((x.unsqueeze(1) * y.unsqueeze(0)).sqrt().sum(-1))


def hellinger(x: Tensor, y: Tensor) -> Tensor:
    return l2(x.sqrt(), y.sqrt()) / 2**0.5


def lorentz(x: Tensor, y: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """By the inner product of the lifted points: right where they are well apart."""
    c = torch.as_tensor(c, dtype=x.dtype)

    def time_and_space(v: Tensor) -> tuple[Tensor, Tensor]:
        r = v.norm(dim=-1, keepdim=True)
        return torch.cosh(c.sqrt() * r) / c.sqrt(), torch.sinh(c.sqrt() * r) / (c.sqrt() * r) * v

    (tx, sx), (ty, sy) = time_and_space(x), time_and_space(y)
    return torch.acosh(c * (tx * ty.mT - sx @ sy.mT)) / c.sqrt()


def poincare(x: Tensor, y: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """By the usual formula of the Poincare ball: right where points are well apart and off the rim."""
    c = torch.as_tensor(c, dtype=x.dtype)

    def ball(v: Tensor) -> Tensor:
        r = v.norm(dim=-1, keepdim=True)
        return torch.tanh(c.sqrt() * r / 2) / (c.sqrt() * r) * v

    x, y = ball(x), ball(y)
    gap = sqeuclidean(x, y)
    room = (1 - c * x.square().sum(-1)).unsqueeze(1) * (1 - c * y.square().sum(-1)).unsqueeze(0)
    return torch.acosh(1 + 2 * c * gap / room) / c.sqrt()


COSTS = {f.__name__: f for f in (l1, l2, sqeuclidean, cosine, fisher_rao, hellinger, lorentz, poincare)}


def sinkhorn_loss(
    student: Tensor, teacher: Tensor, cost: str, *, temperature: float = 2.0, epsilon: float = 0.1, n_iters: int = 20
) -> Tensor:
    """sum_ij P_ij W_ij of the softened batch, (B, C) logits in float64."""
    w = COSTS[cost](torch.softmax(student / temperature, -1), torch.softmax(teacher / temperature, -1))
    return (plan(w, epsilon, n_iters) * w).sum()


def exact_lorentz(x: list[float], y: list[float], c: float) -> tuple[float, list[float]]:
    """Distance of one pair of rows and its gradient with respect to x, with 250 digits, by the textbook formulas."""
    with mpmath.workdps(250):
        root = mpmath.sqrt(mpmath.mpf(c))
        xs, ys = [mpmath.mpf(v) for v in x], [mpmath.mpf(v) for v in y]

        def sinhc(t):
            return mpmath.sinh(t) / t if t else mpmath.mpf(1)

        def value(xs):
            rx, ry = (mpmath.sqrt(sum(v * v for v in row)) for row in (xs, ys))
            dot = sum(a * b for a, b in zip(xs, ys, strict=True))
            inner = mpmath.cosh(root * rx) * mpmath.cosh(root * ry)
            inner -= mpmath.mpf(c) * sinhc(root * rx) * sinhc(root * ry) * dot
            return mpmath.acosh(max(inner, mpmath.mpf(1))) / root

        gap = mpmath.sqrt(sum((a - b) ** 2 for a, b in zip(xs, ys, strict=True)))
        step = gap * mpmath.mpf(10) ** -18
        gradient = []
        for k in range(len(xs)):
            moved = [[*xs[:k], xs[k] + sign * step, *xs[k + 1 :]] for sign in (1, -1)]
            gradient.append((value(moved[0]) - value(moved[1])) / (2 * step) if gap else mpmath.mpf(0))
        return float(value(xs)), [float(g) for g in gradient]


def relative_error(got: Tensor, expected: Tensor) -> float:
    """norm(got - expected) / norm(expected), in float64; 0 where both are 0."""
    got, expected = got.detach().double(), expected.detach().double()
    gap = float((got - expected).norm())
    return gap if gap == 0 else gap / max(float(expected.norm()), 1e-300)


# Features


def attribution(embeddings: Tensor, gradient: Tensor, norm: int, topk: int | None = None) -> Tensor:
    """AD-KD's map (B, L) of one scalar: a token's length of gradient times embedding, each row divided by its norm."""
    product = (embeddings * gradient).abs()
    if topk is not None:
        product = product.topk(topk, -1).values
    tokens = product.square().sum(-1).sqrt()
    return tokens / tokens.pow(norm).sum(-1, keepdim=True).pow(1 / norm)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(..., n, D) -> (..., heads, n, D / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


def mgskd_sample(student: Tensor, teacher: Tensor, heads: int) -> Tensor:
    """(B, D) pooled sentences: smooth L1 between all angles (heads, B, B, B)."""

    def angles(x: Tensor) -> Tensor:
        x = _heads(x, heads)
        e = _unit(x.unsqueeze(-2) - x.unsqueeze(-3))
        return e @ e.mT

    return torch.nn.functional.smooth_l1_loss(angles(student), angles(teacher))


def mgskd_token(student: Tensor, teacher: Tensor, mask: Tensor, heads: int, k1: int, k2: int) -> Tensor:
    """(B, L, D) tokens: pair scores of all tokens, and angles of the triplets that the teacher attends to."""
    mask = mask.to(student.dtype)
    pairs = (mask.unsqueeze(-1) * mask.unsqueeze(-2)).unsqueeze(1).expand(-1, heads, -1, -1)

    def scores(x: Tensor) -> Tensor:
        x = _heads(x, heads)
        return x @ x.mT / x.shape[-1] ** 0.5

    s, t = scores(student), scores(teacher)
    loss = ((s - t).square() * pairs).sum() / pairs.sum()

    length = mask.shape[-1]
    k1, k2 = min(k1, length), min(k2, length)
    attention = torch.softmax(t * pairs - 10000 * (1 - pairs), -1) * pairs
    first = attention.sum((1, 2)).topk(k1, -1).indices  # (B, k1)
    local = attention.sum(1) * (1 - torch.eye(length, dtype=student.dtype))
    rows = torch.arange(len(mask)).unsqueeze(-1)
    second = local[rows, first].topk(k2, -1).indices  # (B, k1, k2)

    def angles(x: Tensor) -> Tensor:
        chosen = x[rows.unsqueeze(-1), second]
        e = _unit(x[rows, first].unsqueeze(2) - chosen)
        return e @ e.mT  # (B, k1, k2, k2)

    a, b = angles(student), angles(teacher)
    real = mask[rows.unsqueeze(-1), second]
    counts = mask[rows, first][..., None, None] * real.unsqueeze(-1) * real.unsqueeze(-2)
    counts = counts * (1 - torch.eye(k2, dtype=student.dtype)) * (b != 0)
    return loss + torch.nn.functional.smooth_l1_loss(a * counts, b * counts, reduction="sum") / counts.sum()


def mgskd(student: Tensor, teacher: Tensor, mask: Tensor, heads: int = 64, k1: int = 20, k2: int = 20) -> Tensor:
    """(B, layers, L, D), layers paired: the first two by tokens, the rest by sentences."""

    def pooled(x: Tensor) -> Tensor:
        weights = mask.to(x.dtype).unsqueeze(-1)
        return (x * weights).sum(1) / weights.sum(1)

    tokens = [mgskd_token(student[:, i], teacher[:, i], mask, heads, k1, k2) for i in range(min(2, student.shape[1]))]
    samples = [mgskd_sample(pooled(student[:, i]), pooled(teacher[:, i]), heads) for i in range(2, student.shape[1])]
    return 4.0 * sum(samples, torch.zeros((), dtype=student.dtype)) + sum(tokens)
