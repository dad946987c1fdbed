"""Folding a vocabulary onto the entries that matter: the union of both sides' top k, and one entry for the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from ..transport.precision import is_static


def fold(p: Tensor, q: Tensor, k: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Keep what is among the k most probable classes of any row of either side; sum the rest into one last class.

    All rows that are transported together need the same classes, so the union is over all of them: per (n, C), or
    per sequence of (B, L, C). The rows still sum to 1.

    Args:
        p, q: (..., n, C) and (..., m, C), probabilities.
        k: entries per row, 1 <= k; k >= C changes nothing.
        mask: (..., n), rows of both sides that count (n = m); the others add nothing to the union.

    Returns:
        (..., n, D), (..., m, D). In eager mode on a CPU D is at most the size of the union (over all sequences) + 1;
        else C + 1, with entries of 0 where a class is in the rest, since a width that depends on values
        would synchronise. The costs are the same.
    """
    if k >= p.shape[-1]:
        return p, q
    votes = p.new_zeros(*p.shape[:-2], p.shape[-1])
    for rows in (p.detach(), q.detach()):
        top = rows.topk(k, -1).indices
        counts = (
            torch.ones_like(top, dtype=p.dtype) if mask is None else mask.to(p.dtype).unsqueeze(-1).expand(top.shape)
        )
        votes = votes.scatter_add(-1, top.flatten(-2), counts.flatten(-2))
    keep = (votes > 0).unsqueeze(-2)
    columns = None if is_static(p) else keep.flatten(0, -2).any(0)
    return _split(p, keep, columns), _split(q, keep, columns)


def _split(x: Tensor, keep: Tensor, columns: Tensor | None) -> Tensor:
    kept, rest = torch.where(keep, x, 0.0), torch.where(keep, 0.0, x).sum(-1, keepdim=True)
    return torch.cat([kept if columns is None else kept[..., columns], rest], -1)
