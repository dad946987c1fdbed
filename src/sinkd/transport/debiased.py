"""Debiased entropic transport between two distributions on the same points, for many small sets of points at once.

With masses p and q on n points and a symmetric cost C between them (Feydy et al., AISTATS 2019),

    OT(p, q) = min_P <P, C> + epsilon KL(P | p x q)          over plans P with marginals p and q
    S(p, q) = OT(p, q) - OT(p, p) / 2 - OT(q, q) / 2         >= 0, and 0 for p = q

Sinkhorn's iteration is slow here: the cost from a point to itself is 0, so most mass stays where it is, and a step
moves potentials by a fraction of epsilon. So each step solves both marginal equations of a point exactly for the
scalings u, v of that point, with what it exchanges with other points fixed:

    u_i (q_i v_i + R_i) = 1,   v_i (p_i u_i + S_i) = 1,   where R = K'(q v), S = K'(p u)

and K' is exp(-C / epsilon) without its diagonal. That is a quadratic equation. Its solution (log u, -log v) is monotone
in the old one and shifts with it, so the map is nonexpansive in the maximum norm, and steps that go a part of the way
converge. All three problems take the same steps, so S and its gradient are 0 for p = q after any number of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import SinkdError
from .iteration import PRODUCT_LIMIT
from .precision import exact_products, full_precision, result_type

STEP = 0.75
"""The part of the way to the solution that a step goes; products write it as roots. 1 need not converge."""
LARGEST_PRODUCT = 300.0
"""Largest cost / epsilon for products in float64, whose scalings reach exp(300) and are never squared."""
TINY = 1e-150
"""Its square is a number of float64."""


class Debiased(NamedTuple):
    """A solved problem: the divergence, its gradient, and what remains to be solved.

    Attributes:
        value: (...), S in units of the cost.
        d_p, d_q: (..., n), the gradients of S with respect to p and q, up to a constant each: the potentials of
            OT(p, q) minus those of OT(p, p) and OT(q, q), also for points without mass.
        marginal_error: (...), the largest sum of |marginal - mass| in the three problems.
    """

    value: Tensor
    d_p: Tensor
    d_q: Tensor
    marginal_error: Tensor


def debiased(
    cost: Tensor,
    p: Tensor,
    q: Tensor,
    epsilon: float,
    cost_bound: float,
    n_iters: int = 20,
    tolerance: float | None = None,
) -> Debiased:
    """Solve the three problems of S(p, q) for every matrix of a batch.

    Args:
        cost: (..., n, n), symmetric with a diagonal of 0, any floating type.
        p, q: (..., n), masses >= 0 that sum to 1. Points without mass change nothing.
        epsilon: weight of the entropy, in units of the cost, > 0.
        cost_bound: a bound of the cost. Up to cost_bound / epsilon = 40 a step is a product of matrices, in float32
            unless an input is float64; up to 300 in float64; above, it adds logarithms.
        n_iters: steps, >= 1; with a tolerance the maximum.
        tolerance: stop once every `marginal_error` is at most this. Reads values, so it synchronises a GPU.

    Returns:
        The results, without a graph: float32, or float64 if an input is.

    Raises:
        SinkdError: for numbers out of range.
    """
    if not 0 < epsilon < math.inf:
        raise SinkdError(f"debiased: epsilon is {epsilon}; it must be a number greater than 0")
    if n_iters < 1:
        raise SinkdError(f"debiased: n_iters is {n_iters}; it must be at least 1")
    if tolerance is not None and not tolerance > 0:
        raise SinkdError(f"debiased: tolerance is {tolerance}; it must be greater than 0, or None")
    dtype, steepness = result_type(cost, p, q), cost_bound / epsilon
    with torch.no_grad(), full_precision(cost.device):
        # Scalings of OT(p, q), then of OT(p, p) and OT(q, q), as rows: each belongs to the mass `own`, and is the
        # solution for the mass `other` on the opposite side. They are few, so float64 costs little.
        own = torch.stack([p, q, p, q], -2).double()
        other = torch.stack([q, p, p, q], -2).double()
        log_kernel = cost.to(dtype if steepness <= PRODUCT_LIMIT else torch.float64) * (-1 / epsilon)
        form = _Products if steepness <= LARGEST_PRODUCT else _Logarithms
        steps = form(log_kernel, own, other)
        for done in range(1, n_iters + 1):
            steps.take()
            if done == n_iters or tolerance is not None:
                # a point without mass, whose marginal may overflow at first, has no error
                error = torch.where(own == 0, 0.0, own * (steps.totals() - 1).abs()).sum(-1).amax(-1)
            if tolerance is not None and bool((error <= tolerance).all()):
                break
        x = epsilon * steps.log_scalings()
        d_p, d_q = x[..., 0, :] - x[..., 2, :], x[..., 1, :] - x[..., 3, :]
        value = (own[..., 0, :] * d_p).sum(-1) + (own[..., 1, :] * d_q).sum(-1)
    return Debiased(value.to(dtype), d_p.to(dtype), d_q.to(dtype), error.to(dtype))


class _Products:
    """Scalings x (..., 4, n), and the sums K' (own x) of what they exchange with other points."""

    def __init__(self, log_kernel: Tensor, own: Tensor, other: Tensor):
        self.own, self.other, self.apart = own, other, other - own
        self.kernel = exact_products(log_kernel.exp_())
        self.kernel.diagonal(dim1=-2, dim2=-1).zero_()
        self.x = torch.ones_like(own)
        self.sums = self._sums()

    def _sums(self) -> Tensor:
        sums = torch.matmul((self.own * self.x).to(self.kernel.dtype), self.kernel)
        # a point that holds all the mass receives nothing from others: any small number stands for that
        return sums.double().clamp_min_(TINY)

    def take(self) -> None:
        """Go a part of the way to u, the root of p R u^2 + (q - p + R S) u - S = 0."""
        r, s = _opposite(self.sums), self.sums
        product = (r * s).clamp_min_(TINY * TINY)
        b = self.apart + product
        size = b.abs()
        larger = torch.addcmul(b * b, self.own, product, value=4).sqrt_().add_(size)
        u = torch.where((b > 0) | (self.own == 0), 2 * s / larger, larger / (2 * self.own * r))
        self.x = (u * (u * self.x).sqrt_()).sqrt_().clamp_(TINY, 1 / TINY)  # x^(1/4) u^(3/4)
        self.sums = self._sums()

    def totals(self) -> Tensor:
        """Marginals over masses, which are 1 at the solution."""
        return self.x * (_opposite(self.sums) + self.other * _opposite(self.x))

    def log_scalings(self) -> Tensor:
        return self.x.log()


class _Logarithms:
    """The same with logarithms, for scalings that overflow."""

    def __init__(self, log_kernel: Tensor, own: Tensor, other: Tensor):
        self.own, self.apart, self.kernel = own, other - own, log_kernel
        self.log_own, self.log_other = own.log(), other.log()
        self.kernel.diagonal(dim1=-2, dim2=-1).fill_(-torch.inf)
        self.x = torch.zeros_like(own)
        self.sums = self._sums()

    def _sums(self) -> Tensor:
        rows = [torch.logsumexp(self.kernel + row.unsqueeze(-2), -1) for row in (self.log_own + self.x).unbind(-2)]
        return torch.stack(rows, -2).clamp_min_(-1e6)

    def take(self) -> None:
        r, s = _opposite(self.sums), self.sums
        log_product = r + s
        b = self.apart + log_product.exp()
        # the product may underflow, which matters only where it is all there is
        log_b = torch.where(self.apart == 0, log_product, b.abs().log_())
        log_root = torch.logaddexp(2 * log_b, math.log(4) + self.log_own + log_product) / 2
        larger = torch.logaddexp(log_b, log_root) - math.log(2)
        u = torch.where((b > 0) | (self.own == 0), s - larger, larger - self.log_own - r)
        self.x = torch.lerp(self.x, u, STEP)
        self.sums = self._sums()

    def totals(self) -> Tensor:
        return torch.exp(self.x + torch.logaddexp(_opposite(self.sums), self.log_other + _opposite(self.x)))

    def log_scalings(self) -> Tensor:
        return self.x


def _opposite(x: Tensor) -> Tensor:
    """The scalings, or sums, of the opposite side of each problem."""
    return torch.cat([x[..., 1:2, :], x[..., :1, :], x[..., 2:, :]], -2)
