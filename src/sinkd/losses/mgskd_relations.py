"""`mgskd`: relations between the sentences of an update and between the tokens of a row (Liu et al., ACL 2022).

    mgskd = 4 * sum of sentence_angles (the later pairs of layers)
          + 1 * sum of pair_scores + triplet_angles (the first two pairs of layers)

Relations are computed between rows of one model, so the two models may differ in width. Sentence triples
(heads, B, B, B) and token pairs (B, heads, L, L) are computed in slices (`chunked`) and never stored whole: a loss
needs its inputs, one gradient of the student's size and a few megabytes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import SinkdError
from ..transport.precision import full_precision, result_type
from .angles import angle_gap, angles
from .chunked import piece_spans, piecewise
from .layers import pool

TOKEN_LAYERS = 2
"""Compare this many of the first pairs of layers by tokens, and the others by sentences."""
SAMPLE_WEIGHT, TOKEN_WEIGHT = 4.0, 1.0


def mgskd(student: Tensor, teacher: Tensor, mask: Tensor, heads: int = 64, k1: int = 20, k2: int = 20) -> Tensor:
    """The whole loss, for layers that are already paired.

    Args:
        student, teacher: (B, layers, L, D), layer i of one with layer i of the other; the widths may differ.
        mask: (B, L), the tokens that are not padding.
        heads: Relation heads; both widths must be multiples of it.
        k1, k2: Triplets join each of the k1 tokens that the teacher attends to most with its k2 neighbours, at most L.

    Returns:
        A scalar >= 0, float32 (float64 if a side is); 0 for a student that equals its teacher.

    Raises:
        SinkdError: for shapes that do not pair, and widths that are not multiples of `heads`.

    >>> x = torch.arange(48.0).reshape(2, 3, 4, 2).sin()
    >>> mgskd(x, x, torch.ones(2, 4), heads=2)
    tensor(0.)
    """
    if student.dim() != 4 or student.shape[:3] != teacher.shape[:3] or mask.shape != student.shape[:3:2]:
        raise SinkdError(
            f"mgskd: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}, mask {tuple(mask.shape)}; "
            "expected (B, layers, L, D) twice, of one B, layers and L, and (B, L)"
        )
    total = student.new_zeros((), dtype=result_type(student, teacher))
    for layer, (s, t) in enumerate(zip(student.unbind(1), teacher.unbind(1), strict=True)):
        if layer < TOKEN_LAYERS:
            token = pair_scores(s, t, mask, heads) + triplet_angles(s, t, mask, heads, k1, k2)[0]
            total = total + TOKEN_WEIGHT * token
        else:
            total = total + SAMPLE_WEIGHT * sentence_angles(pool(s, mask), pool(t, mask), heads)
    return total


def sentence_angles(student: Tensor, teacher: Tensor, heads: int) -> Tensor:
    """Smooth L1 between the angles of all triples of sentences (B, D) and (B, another D), mean over (heads, B, B, B).

    The angle of sentences i, j, k at i is e_ij . e_ik, with e_ij the unit vector of x_i - x_j (0 if they are equal).
    """
    dtype, rows = result_type(student, teacher), student.shape[0]
    if rows == 0:
        return student.sum().to(dtype)
    s, t = (_split(x, heads, dtype).transpose(0, 1).contiguous() for x in (student, teacher))  # (heads, B, d)
    t = t.detach()
    size = heads * rows**3

    def piece(head: slice, anchor: slice):
        def value(x: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
            goal = angles(_differences(t[head], anchor))
            total, d_differences = angle_gap(_differences(x, anchor), goal, None, slope)
            if d_differences is None:
                return total / size, None
            gradient = d_differences.sum(1).neg_()
            gradient[:, anchor] += d_differences.sum(2)
            return total / size, gradient.div_(size)

        return head, value

    anchors = piece_spans(rows, rows * rows, s.device)
    return piecewise(s, (piece(head, anchor) for head in piece_spans(heads, rows**3, s.device) for anchor in anchors))


def _differences(x: Tensor, anchor: slice) -> Tensor:
    """(heads, B, d) -> (heads, anchors, B, d)."""
    return x[:, anchor].unsqueeze(2) - x.unsqueeze(1)


def pair_scores(student: Tensor, teacher: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Mean squared difference of the scores x_i . x_j / sqrt(D / heads), over heads and token pairs within a row.

    With S and T the (L, d) tokens of a head, divided by the fourth root of d, that is norm(S S^T - T T^T)^2, which is
    norm(S^T S)^2 + norm(T^T T)^2 - 2 norm(S^T T)^2: d x d products instead of L x L ones. They cancel as the student
    approaches its teacher, so they are computed in float64. Shapes are those of `triplet_angles`.
    """
    dtype = result_type(student, teacher)
    padding = ~mask.to(torch.bool).unsqueeze(-1)
    s, t = student.to(dtype), teacher.detach().to(dtype)
    d_s, d_t = (x.shape[-1] // heads for x in (s, t))
    both = (d_s * d_t) ** 0.5
    scale = 1 / (count_pairs(mask).to(torch.float64).clamp_min(1.0) * heads)
    widths = max(s.shape[-1], t.shape[-1])

    def piece(rows: slice):
        def split(x: Tensor) -> Tensor:
            x = _split(x.masked_fill(padding[rows], 0.0), heads, dtype).transpose(1, 2)
            return x.to(torch.float64, memory_format=torch.contiguous_format)  # (rows, heads, L, d)

        def value(x: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
            x, y = split(x), split(t[rows])
            xx, yy, yx = x.mT @ x, y.mT @ y, y.mT @ x
            total = (_square(xx) / d_s + _square(yy) / d_t - _square(yx) * (2 / both)) * scale
            if not slope:
                return total.to(dtype), None
            gradient = (x @ xx).div_(d_s).sub_((y @ yx).div_(both)).mul_(4 * scale)
            return total.to(dtype), gradient.transpose(1, 2).flatten(-2)

        return rows, value

    return piecewise(s, map(piece, piece_spans(len(s), widths * max(widths // heads, s.shape[1]), s.device)))


def _square(x: Tensor) -> Tensor:
    """The sum of squares."""
    return torch.dot(x.flatten(), x.flatten())


def count_pairs(mask: Tensor) -> Tensor:
    """The number of pairs of real tokens in the rows of a mask (B, L), each token with itself included."""
    return mask.bool().sum(-1).square().sum()


def triplet_angles(
    student: Tensor, teacher: Tensor, mask: Tensor, heads: int, k1: int, k2: int
) -> tuple[Tensor, Tensor]:
    """Mean smooth L1 between the angles of the triplets that the teacher attends to, and the number of triplets.

    The anchors are the k1 tokens of a row with the most attention (softmax of the teacher's pair scores, summed over
    heads and queries). An anchor forms triplets with every two of its k2 neighbours; angles are as in
    `sentence_angles` with one head. A triplet counts if its three tokens are real, the neighbours differ, and the
    teacher's angle is not 0.

    Args:
        student, teacher: (B, L, D) and (B, L, another D).
        mask, heads, k1, k2: As in `mgskd`.
    """
    dtype = result_type(student, teacher)
    mask = mask.to(torch.bool)
    s, t = student.to(dtype), teacher.detach().to(dtype)
    k1, k2 = min(k1, s.shape[1]), min(k2, s.shape[1])
    length, width = s.shape[1], max(s.shape[-1], t.shape[-1])
    parts = piece_spans(len(s), max(heads * length * length, k1 * k2 * width), s.device)
    with torch.no_grad(), full_precision(t.device):
        chosen = [_attended(t[rows], mask[rows], heads, k1, k2) for rows in parts]
        total = sum((counted.sum() for *_, counted in chosen), t.new_zeros((), dtype=torch.long))
    scale = 1 / total.to(dtype).clamp_min(1.0)

    def piece(rows: slice, tokens: tuple[Tensor, Tensor], goal: Tensor, counted: Tensor):
        def value(x: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
            total, d_differences = angle_gap(_from_anchors(x, *tokens), goal, counted, slope)
            if d_differences is None:
                return total * scale, None
            d_differences.mul_(scale)
            gradient = torch.zeros_like(x)
            flat = gradient.view(-1, x.shape[-1])
            flat.index_add_(0, tokens[0].flatten(), d_differences.sum(2).flatten(0, 1))
            flat.index_add_(0, tokens[1].flatten(), d_differences.flatten(0, 2), alpha=-1)
            return total * scale, gradient

        return rows, value

    return piecewise(s, (piece(rows, *each) for rows, each in zip(parts, chosen, strict=True))), total


def _attended(
    teacher: Tensor, mask: Tensor, heads: int, k1: int, k2: int
) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """Anchors (B, k1, 1) and neighbours (B, k1, k2), and their triplets' angles and which count, (B, k1, k2, k2).

    Tokens are numbered through all rows.
    """
    x = _split(teacher, heads, teacher.dtype).transpose(1, 2)
    padding = ~mask
    # a further coordinate, 1 in queries, takes padding out of the softmax without a pass over all scores
    bias = x.new_zeros(mask.shape).masked_fill_(padding, -1e30)[:, None, :, None].expand(-1, heads, -1, 1)
    queries, keys = F.pad(x * x.shape[-1] ** -0.5, (0, 1), value=1.0), torch.cat([x, bias], -1)
    attention = torch.softmax(queries @ keys.mT, -1).sum(1).masked_fill_(padding.unsqueeze(-1), 0.0)
    # real tokens win ties at 0 (few tokens, or attention that underflows), so that padding changes nothing
    anchors = attention.sum(1).masked_fill_(padding, -1.0).topk(k1, -1).indices.unsqueeze(-1)
    local = attention.masked_fill_(padding.unsqueeze(1), -2.0)
    local.diagonal(dim1=-2, dim2=-1).fill_(-1.0)
    neighbours = local.gather(1, anchors.expand(-1, -1, local.shape[-1])).topk(k2, -1).indices
    first = torch.arange(0, mask.numel(), mask.shape[1], device=mask.device)[:, None, None]
    tokens = anchors.add_(first), neighbours.add_(first)
    near = mask.take(tokens[1]) & mask.take(tokens[0])
    goal = angles(_from_anchors(teacher, *tokens))
    counted = (near.unsqueeze(-1) & near.unsqueeze(-2)).logical_and_(goal)
    counted.diagonal(dim1=-2, dim2=-1).fill_(False)
    return tokens, goal, counted


def _from_anchors(x: Tensor, anchors: Tensor, neighbours: Tensor) -> Tensor:
    """The differences of each anchor and its neighbours: (B, L, D) -> (B, k1, k2, D)."""
    flat = x.flatten(0, 1)
    return flat[anchors] - flat[neighbours]


def _split(x: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """(..., D) -> (..., heads, D / heads)."""
    need_divisor(x.shape[-1], heads)
    return x.to(dtype).unflatten(-1, (heads, -1))


def need_divisor(width: int, heads: int) -> None:
    if heads < 1 or width % heads:
        raise SinkdError(f"mgskd: a width of {width} cannot be split into {heads} heads; give a number that divides it")
