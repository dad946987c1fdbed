"""Balance a teacher's answers: the bias at which its mean answer is a given class prior."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import SinkdError

TOLERANCE = 1e-6  # relative error of every class's mass
MAX_EVALUATIONS = 1000  # passes over all rows; about 10 where epsilon is 0.1 and logits are a language model's
_SLICE = 2**17  # numbers in a slice of rows: 1 MB in float64, which stays in a core's cache


def match_class_prior(logits: Tensor, prior: Tensor, epsilon: float = 0.1) -> Tensor:
    """Find the bias b, with mean 0, such that the mean over rows of softmax((logits + b) / epsilon) is the prior.

    This is entropic optimal transport of N rows of mass 1 onto C classes of mass N prior at cost -logits: b / epsilon
    are the classes' log-scalings, and the fixed point of Sinkhorn's iteration

        b <- b + epsilon (log prior - log mean_i softmax((z_i + b) / epsilon)).

    As epsilon goes to 0, rows are assigned whole, with the given shares: for two classes, the threshold at a quantile.

    The iteration needs thousands of steps where epsilon is small. So b maximises the concave dual

        <b, prior> - epsilon mean_i logsumexp((z_i + b) / epsilon)

    by Newton's steps, shortened until they rise, for an epsilon that halves from the logits' range down to the given
    one. The result is the same; it takes tens of passes over the logits. A pass is in float64, in slices of rows.

    Args:
        logits: (N, C), finite, any floating type; N >= C. A constant added to a row changes nothing. To keep a class
            out of a row, give it a finite, very low logit: -inf is refused.
        prior: (C,), the classes' shares, greater than 0, with sum 1 (to 1e-6).
        epsilon: softness of the answers that are counted, in units of the logits, > 0. It shapes the bias alone.

    Returns:
        (C,) float64, on the device of the logits.

    Raises:
        SinkdError: for logits or a prior other than that, or if the class masses do not agree to 1e-6 relative in
            1,000 passes, as may happen where a row's logits differ by 100,000 epsilon.

    >>> logits = torch.tensor([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.5, 0.0]])
    >>> bias = match_class_prior(logits, torch.tensor([0.5, 0.5]))
    >>> (logits + bias).argmax(-1)
    tensor([0, 0, 1, 1])
    """
    _check(logits, prior, epsilon)
    with torch.no_grad():
        prior = prior.to(logits.device, torch.float64)
        prior = prior / prior.sum()
        spread = float((logits.amax(-1) - logits.amin(-1)).double().max())
        bias = torch.zeros_like(prior)
        softness, left = max(epsilon, spread / 4), MAX_EVALUATIONS
        while True:
            last = softness == epsilon
            longest = spread + 10 * softness  # of a step; the bias is hardly larger than the logits' range
            bias, error, left = _ascend(logits, prior, softness, bias, longest, TOLERANCE if last else 0.01, left)
            if last:
                break
            softness = max(epsilon, softness / 2)
    if not error <= TOLERANCE:
        raise SinkdError(
            f"match_class_prior: class masses are still off by {error:.1e} (log ratio) after {MAX_EVALUATIONS} passes; "
            f"epsilon is {epsilon:g} for logits that differ by up to {spread:.3g} in a row, try a larger one"
        )
    return bias - bias.mean()


class _Dual(NamedTuple):
    """The dual at a bias.

    Attributes:
        value: The dual's value.
        masses: (C,), the mean of the answers.
        overlaps: (C, C), the mean of answers times answers; diag(masses) - overlaps is -epsilon times the Hessian.
        ratios: (C,), log(prior / masses); Sinkhorn's step over epsilon.
        error: The largest |ratio|.
    """

    value: float
    masses: Tensor
    overlaps: Tensor
    ratios: Tensor
    error: float


def _evaluate(logits: Tensor, prior: Tensor, epsilon: float, bias: Tensor) -> _Dual:
    n, classes = logits.shape
    masses, overlaps, normalisers = torch.zeros_like(prior), prior.new_zeros(classes, classes), prior.new_zeros(())
    for rows in logits.split(max(1, _SLICE // classes)):
        scores = (rows.double() + bias).div_(epsilon)
        normaliser = scores.logsumexp(-1, keepdim=True)
        answers = scores.sub_(normaliser).exp_()
        masses += answers.sum(0)
        overlaps.addmm_(answers.mT, answers)
        normalisers += normaliser.sum()
    masses = (masses / n).clamp_min_(1e-300)  # a class that no row answers still has a logarithm
    ratios = prior.log() - masses.log()
    value = float(bias @ prior - epsilon * normalisers / n)
    return _Dual(value, masses, overlaps / n, ratios, float(ratios.abs().max()))


def _ascend(
    logits: Tensor, prior: Tensor, epsilon: float, bias: Tensor, longest: float, tolerance: float, left: int
) -> tuple[Tensor, float, int]:
    """Maximise the dual from a bias: the bias reached, its error, and the number of evaluations left."""
    identity = torch.eye(len(prior), dtype=prior.dtype, device=prior.device)
    at = _evaluate(logits, prior, epsilon, bias)
    left -= 1
    while not at.error <= tolerance and left > 0:
        # Newton's step for ratios = 0, where I alone would be Sinkhorn's. The term `+ masses` pins the constant that
        # may be added to a bias. Where rows answer nearly whole, 1e-7 keeps the matrix regular.
        matrix = (1 + 1e-7) * identity - at.overlaps / at.masses.unsqueeze(-1) + at.masses
        step = epsilon * torch.linalg.solve_ex(matrix, at.ratios)[0]
        step -= step.mean()
        slope = float(step @ (prior - at.masses))
        if not slope > 0:  # Sinkhorn's step always rises
            step = epsilon * at.ratios
            slope = float(step @ (prior - at.masses))
        length = min(1.0, longest / max(float(step.abs().max()), 1e-300))
        while left > 0:
            there = bias + length * step
            found = _evaluate(logits, prior, epsilon, there)
            left -= 1
            # near the solution the rise is lost in rounding, but the error is not
            if found.value > at.value + 0.1 * length * slope or found.error <= at.error / 2:
                bias, at = there, found
                break
            length *= 0.3
    return bias, at.error, left


def _check(logits: Tensor, prior: Tensor, epsilon: float) -> None:
    name = "match_class_prior"
    if logits.dim() != 2 or prior.shape != logits.shape[1:]:
        shapes = f"logits have shape {tuple(logits.shape)} and the prior {tuple(prior.shape)}"
        raise SinkdError(f"{name}: {shapes}; they must be (N, C) and (C,)")
    if not 0 < epsilon < math.inf:
        raise SinkdError(f"{name}: epsilon is {epsilon}; it must be a number greater than 0")
    if not bool((prior > 0).all()):
        at = int((prior > 0).int().argmin())
        raise SinkdError(f"{name}: the prior of class {at} is {float(prior[at]):g}; it must be greater than 0")
    total = float(prior.double().sum())
    if not abs(total - 1) <= 1e-6:
        raise SinkdError(f"{name}: the prior sums to {total:g}; it must sum to 1")
    n, classes = logits.shape
    if n < classes:
        raise SinkdError(f"{name}: there are {n} rows for {classes} classes; there must be at least as many rows")
    finite = logits.isfinite().all(-1)
    if not bool(finite.all()):
        raise SinkdError(f"{name}: logits are not finite in {int((~finite).sum())} of {n} rows")
