"""`semantic`: transport of the predicted next token onto the teacher's, where near tokens cost little.

Divergences compare probabilities index by index: to them "sofa" for "couch" is as wrong as "of". Here the cost between
two tokens is 1 - cos of the teacher's embeddings, and the loss is the debiased transport of `transport.debiased` (after
WASD, Na et al., NeurIPS 2026, arXiv:2610.07706). Each answer position has its own small set of points: the m likeliest
tokens of either side, and one point for all others, at cost 1 from each, as a vector orthogonal to all would be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..errors import SinkdError
from ..transport.debiased import Debiased, debiased
from ..transport.precision import exact_products, full_precision, result_type
from .chunked import spans
from .logits import check_shapes, guard
from .option_flags import Options, option
from .term import Progress, RowTerm, View
from .top_k_union import log_total, softened
from .top_k_union import top_k as likeliest

LEAST_NORM = 1e-4
"""Norm below which an embedding has no direction: its token costs 1 to every other."""
COST_BOUND = 2.0


def semantic_transport(
    student_logits: Tensor,
    teacher_logits: Tensor,
    embedding: Tensor,
    temperature: float = 1.0,
    top_k: int = 32,
    epsilon: float = 0.05,
    n_iters: int = 20,
    tolerance: float | None = None,
) -> Tensor:
    """The mean over positions of S(p, q), where p is the teacher's softened prediction and q the student's.

    The gradient holds the potentials fixed (envelope theorem). Logits are read in slices: beyond the gradient, a
    position takes a few times (2 top_k + 1)^2 numbers.

    Args:
        student_logits, teacher_logits: (..., V), any floating type; -inf is an impossible token. The teacher's get no
            gradient.
        embedding: (V, d), the teacher's input embedding.
        temperature: T > 0 of softmax(logits / T); there is no factor T^2.
        top_k: m >= 1, the tokens of each side that are points of their own; m >= V makes every token one.
        epsilon: weight of the entropy, in units of the cost, > 0. Below 1 / 150 the solver is ten times slower.
        n_iters, tolerance: see `debiased`.

    Returns:
        A scalar, float32 (float64 if a side is).

    Raises:
        SinkdError: for shapes that do not fit, logits that hold NaN or +inf, and numbers out of range.

    >>> couch_sofa_of = torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]])
    >>> says = lambda word: torch.eye(3)[[word]] * 20
    >>> [round(float(semantic_transport(says(word), says(0), couch_sofa_of)), 2) for word in range(3)]
    [0.0, 0.0, 0.9]
    """
    solved = _solve(student_logits, teacher_logits, embedding, temperature, top_k, epsilon, n_iters, tolerance)
    if solved is None:
        return (student_logits.sum() * 0.0).to(result_type(student_logits, teacher_logits))
    points, found = solved
    return _Mean.apply(student_logits.flatten(0, -2), points, found, temperature)


class _Points(NamedTuple):
    """The points of N positions, D = 2m + 1 each; the last is the rest."""

    ids: Tensor  # (N, D - 1), a token that both sides name has no mass the second time
    student: Tensor  # (N, D), masses
    teacher: Tensor
    total: Tensor  # (N, 1), the student's logsumexp


def _solve(
    student: Tensor,
    teacher: Tensor,
    embedding: Tensor,
    temperature: float,
    top_k: int,
    epsilon: float,
    n_iters: int,
    tolerance: float | None,
) -> tuple[_Points, Debiased] | None:
    """The points of all positions and their transport, without a graph; None if there are no positions."""
    check_shapes(student, teacher)
    width = student.shape[-1]
    if embedding.dim() != 2 or len(embedding) < width:
        raise SinkdError(
            f"the embedding has shape {tuple(embedding.shape)} and the logits {tuple(student.shape)}; it must have a "
            f"row for each of the {width} tokens"
        )
    if not temperature > 0 or top_k < 1:
        raise SinkdError(f"semantic: temperature is {temperature} and top_k {top_k}; they must be above 0")
    guard(student, teacher)
    if student.numel() == 0:
        return None
    with torch.no_grad(), full_precision(student.device):
        points = _points(student.detach().flatten(0, -2), teacher.detach().flatten(0, -2), temperature, top_k)
        cost = _costs(points.ids, embedding.detach(), points.student.dtype)
        masses = points.teacher, points.student
        return points, debiased(cost, *masses, epsilon, COST_BOUND, n_iters, tolerance)


def _points(student: Tensor, teacher: Tensor, temperature: float, k: int) -> _Points:
    n, width = student.shape
    if k >= width:
        ids = torch.arange(width, device=student.device).expand(n, -1)
    else:
        ids = torch.cat([likeliest(teacher, k), likeliest(student, k)], -1).sort(-1).values
    again = F.pad(ids[:, 1:] == ids[:, :-1], (1, 0))
    totals = [log_total(side, temperature) for side in (student, teacher)]

    def masses(logits: Tensor, total: Tensor) -> Tensor:
        kept = logits.gather(-1, ids).double().div_(temperature).sub_(total).exp_().masked_fill_(again, 0.0)
        rest = (1 - kept.sum(-1, keepdim=True)).clamp_min_(0.0)
        return torch.cat([kept, rest], -1).to(result_type(student, teacher))

    return _Points(ids, masses(student, totals[0]), masses(teacher, totals[1]), totals[0])


def _costs(ids: Tensor, embedding: Tensor, dtype: torch.dtype) -> Tensor:
    """1 - cos between the tokens of each position (N, D - 1) and 1 to the rest, (N, D, D)."""
    n, count = ids.shape
    cost = torch.ones(n, count + 1, count + 1, dtype=dtype, device=ids.device)
    for i in spans(n, count * embedding.shape[1], ids.device):
        rows = exact_products(embedding[ids[i]].to(dtype))
        gram = torch.matmul(rows, rows.mT)
        norm = gram.diagonal(dim1=-2, dim2=-1).sqrt()
        scale = torch.where(norm < LEAST_NORM, 0.0, 1 / norm)
        cost[i, :-1, :-1] -= gram.mul_(scale.unsqueeze(-1)).mul_(scale.unsqueeze(-2))
    cost.diagonal(dim1=-2, dim2=-1).zero_()
    return cost


class _Mean(torch.autograd.Function):
    """The mean value; its gradient at the student's logits is q (d_q - sum q d_q) / (N T)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, points: _Points, found: Debiased, temperature: float) -> Tensor:
        # relative to the rest, whose tokens are then 0
        slope = (found.d_q - found.d_q[:, -1:]) * points.student / (len(logits) * temperature)
        ctx.save_for_backward(logits, points.ids, points.total, slope)
        ctx.temperature = temperature
        return found.value.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_value: Tensor) -> tuple[Tensor, None, None, None]:
        logits, ids, total, slope = ctx.saved_tensors
        slope = slope * d_value
        mean = slope.sum(-1, keepdim=True)
        d_logits = torch.empty_like(logits)
        for i in spans(len(logits), logits.shape[-1], logits.device):
            rows = softened(logits[i], total[i], ctx.temperature, slope.dtype).mul_(-mean[i])
            d_logits[i] = rows.scatter_add_(-1, ids[i], slope[i, :-1])
        return d_logits, None, None, None


@dataclass(frozen=True)
class SemanticOptions(Options):
    temperature: float = option(1.0, "Temperature of the predictions that semantic transports.")
    top_k: int = option(32, "Each side's likeliest tokens that semantic transports; the others are one point.")
    epsilon: float = option(0.05, "Entropic regularisation of semantic, in units of 1 - cos.")
    n_iters: int = option(20, "Most steps of semantic's solver.")
    tolerance: float | None = option(None, "Stop it when every position's marginal error is below this.")

    def __post_init__(self) -> None:
        for name in ("temperature", "top_k", "epsilon", "n_iters", "tolerance"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise SinkdError(f"{name} of semantic is {value}; it must be above 0")


class SemanticTransport(RowTerm):
    """Transport each token that a language model predicts onto the teacher's, at little cost between near tokens."""

    Options = SemanticOptions
    reads_embedding = True

    def __init__(self, name: str, options: SemanticOptions):
        super().__init__(name, options)
        self.keywords = asdict(options)
        self.temperature, self.reads_top = options.temperature, options.top_k
        self.embedding: Tensor | None = None

    @property
    def softens_at(self) -> float:
        return self.temperature

    def forward(self, student: View, teacher: View, batch: Mapping[str, Any], progress: Progress) -> Tensor:
        return semantic_transport(*self._sides(student, teacher), **self.keywords)

    def diagnostics(self, student: View, teacher: View) -> dict[str, float]:
        solved = _solve(*self._sides(student, teacher), **self.keywords)
        return {} if solved is None else {"marginal_error": float(solved[1].marginal_error.mean())}

    def _sides(self, student: View, teacher: View) -> tuple[Tensor, Tensor, Tensor]:
        """Both sides' logits, and the teacher's embedding."""
        if self.embedding is None:
            raise SinkdError(f"{self.name} measures costs by the teacher's embedding; give it to Objective.embed")
        return student.logits, teacher.softened(self.temperature), self.embedding
