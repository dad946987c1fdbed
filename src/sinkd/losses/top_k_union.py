"""Reduce predictions over a vocabulary to the union of both sides' k most probable entries, and the rest."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..transport.precision import is_static
from .chunked import spans


def fold(p: Tensor, q: Tensor, k: int, mask: Tensor | None = None, of: str = "both") -> tuple[Tensor, Tensor]:
    """Keep the classes that are among the k most probable of any row; sum the rest into one last class.

    All rows that are transported together need the same classes, so the union is over all of them: per (n, C), or
    per sequence of (B, L, C). The rows still sum to 1.

    Args:
        p, q: (..., n, C) and (..., m, C), probabilities.
        k: entries per row, >= 1; k >= C changes nothing.
        mask: (..., n), rows of both sides that count (n = m); the others add nothing to the union.
        of: whose top k count: "both" sides', or only those of the "teacher" (q).

    Returns:
        (..., n, D), (..., m, D). In eager mode on a CPU D is at most the size of the union (over all sequences) + 1;
        else C + 1, with entries of 0 for the classes in the rest, since a width that depends on values would
        synchronise. Costs are the same.
    """
    if k >= p.shape[-1]:
        return p, q
    votes = p.new_zeros(*p.shape[:-2], p.shape[-1])
    for rows in (p.detach(), q.detach()) if of == "both" else (q.detach(),):
        top = rows.topk(k, -1).indices
        counts = torch.ones_like(top, dtype=p.dtype)
        if mask is not None:
            counts = counts * mask.unsqueeze(-1)
        votes = votes.scatter_add(-1, top.flatten(-2), counts.flatten(-2))
    keep = (votes > 0).unsqueeze(-2)
    columns = slice(None) if is_static(p) else keep.flatten(0, -2).any(0)

    def split(x: Tensor) -> Tensor:
        kept, rest = torch.where(keep, x, 0.0), torch.where(keep, 0.0, x).sum(-1, keepdim=True)
        return torch.cat([kept[..., columns], rest], -1)

    return split(p), split(q)


def top_k(logits: Tensor, k: int) -> Tensor:
    """Indices of the k largest entries of each row (n, V), largest first: (n, min(k, V)).

    Searches only the k blocks of a row with the largest maxima, which contain its k largest entries.
    """
    n, width = logits.shape
    k = min(k, width)
    block = max(1, math.isqrt(width // k))
    count = width // block
    if count <= k:
        return logits.topk(k, -1).indices
    body = logits[:, : count * block].unflatten(-1, (count, block))
    blocks = body.amax(-1).topk(k, -1).indices
    places = (blocks.unsqueeze(-1) * block + torch.arange(block, device=logits.device)).flatten(1)
    tail = torch.arange(count * block, width, device=logits.device).expand(n, -1)
    places = torch.cat([places, tail], -1)
    return places.gather(-1, logits.gather(-1, places).topk(k, -1).indices)


def fold_logits(student: Tensor, teacher: Tensor, temperature: float, k: int, of: str) -> tuple[Tensor, Tensor]:
    """`fold` of the softened logits (n, V) and (m, V): (n, D) and (m, D), float64."""
    sides = (student.detach(), teacher) if of == "both" else (teacher,)
    columns = torch.cat([top_k(side, k).flatten() for side in sides]).unique()
    return _Fold.apply(student, temperature, columns), _Fold.apply(teacher, temperature, columns)


class _Fold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, temperature: float, columns: Tensor) -> Tensor:
        total = log_total(logits, temperature)
        kept = torch.exp(logits[:, columns].double().div_(temperature).sub_(total))
        rest = (1 - kept.sum(-1, keepdim=True)).clamp_min_(0.0)
        result = torch.cat([kept, rest], -1)
        ctx.save_for_backward(logits, total, columns, result)
        ctx.temperature = temperature
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_result: Tensor) -> tuple[Tensor, None, None]:
        logits, total, columns, result = ctx.saved_tensors
        d_result = d_result / ctx.temperature
        slope = d_result - (d_result * result).sum(-1, keepdim=True)
        d_logits = torch.empty_like(logits)
        for i in spans(len(logits), logits.shape[-1], logits.device):
            p = softened(logits[i], total[i], ctx.temperature, torch.float32)
            d_logits[i] = p.mul_(slope[i, -1:].to(p.dtype))
        d_logits[:, columns] = (result[:, :-1] * slope[:, :-1]).to(logits.dtype)
        return d_logits, None, None


def log_total(logits: Tensor, temperature: float) -> Tensor:
    """logsumexp of logits / temperature, (n, 1) float64, from float32 exponentials relative to each row's maximum."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    parts = []
    for i in spans(len(logits), logits.shape[-1], logits.device):
        rows = logits[i].to(dtype)
        top = rows.amax(-1, keepdim=True)
        total = (rows - top).div_(temperature).exp_().sum(-1, keepdim=True, dtype=torch.float64)
        parts.append(top.double() / temperature + total.log())
    return torch.cat(parts)


def softened(logits: Tensor, total: Tensor, temperature: float, dtype: torch.dtype) -> Tensor:
    """exp(logits / temperature - total), a new tensor of this dtype."""
    if dtype == torch.float64:
        return logits.double().div(temperature).sub_(total).exp_()  # .double() of float64 returns the caller's tensor
    return torch.add(total.to(dtype).neg(), logits.to(dtype), alpha=1 / temperature).exp_()
