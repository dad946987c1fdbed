"""`mgskd`: relations between the sentences of an update and between the tokens of a row (Liu et al., ACL 2022).

    mgskd = 4 * sum of sentence_angles (the later pairs of layers)
          + 1 * sum of pair_scores + triplet_angles (the first two pairs of layers)

Relations are computed between rows of one model, so the two models may differ in width. Sentence triples
(heads, B, B, B) and token pairs (B, heads, L, L) are computed in slices (`chunked`) and never stored whole: a loss
needs its inputs, one gradient of the student's size and a few megabytes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import SinkdError
from ..transport.precision import full_precision, result_type
from .chunked import piecewise, spans
from .feature import HIDDEN_STATES, Stack
from .layers import LayerTerm, Pair, SentenceTerm, Strategy, attention_mask, not_bound, pair_layers, pool
from .option_flags import Options, option
from .term import Progress, RowTerm, Term, View

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
        def value(x: Tensor) -> Tensor:
            return F.smooth_l1_loss(_angles(x[:, anchor], x), _angles(t[head, anchor], t[head]), reduction="sum") / size

        return head, value

    anchors = spans(rows, rows * rows, s.device)
    return piecewise(s, (piece(head, anchor) for head in spans(heads, rows**3, s.device) for anchor in anchors))


def pair_scores(student: Tensor, teacher: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Mean squared difference of the scores x_i . x_j / sqrt(D / heads), over heads and token pairs within a row.

    With S and T the (L, d) tokens of a head, divided by the fourth root of d, that is norm(S S^T - T T^T)^2, which is
    norm(S^T S)^2 + norm(T^T T)^2 - 2 norm(S^T T)^2: d x d products instead of L x L ones. They cancel as the student
    approaches its teacher, so they are computed in float64. Shapes are those of `triplet_angles`.
    """
    dtype = result_type(student, teacher)
    mask = mask.to(torch.bool).unsqueeze(-1)
    pairs = count_pairs(mask[..., 0]).to(dtype).clamp_min(1.0) * heads
    s, t = student.to(dtype), teacher.detach().to(dtype)
    widths = max(s.shape[-1], t.shape[-1])

    def piece(rows: slice):
        def gram(x: Tensor) -> Tensor:
            x = _split(x.masked_fill(~mask[rows], 0.0).double(), heads, torch.float64).transpose(1, 2)
            return x * x.shape[-1] ** -0.25  # (rows, heads, L, d)

        def value(x: Tensor) -> Tensor:
            x, y = gram(x), gram(t[rows])
            xx, yy, xy = x.mT @ x, y.mT @ y, x.mT @ y
            return ((xx.square().sum() + yy.square().sum() - 2 * xy.square().sum()) / pairs).to(dtype)

        return rows, value

    return piecewise(s, map(piece, spans(len(s), widths * max(widths // heads, s.shape[1]), s.device)))


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
    parts = spans(len(s), max(heads * length * length, k1 * k2 * width), s.device)
    with torch.no_grad(), full_precision(t.device):
        chosen = [_attended(t[rows], mask[rows], heads, k1, k2) for rows in parts]
        total = sum((counted.sum() for *_, counted in chosen), t.new_zeros((), dtype=torch.long))
    scale = 1 / total.to(dtype).clamp_min(1.0)

    def piece(rows: slice, anchors: Tensor, neighbours: Tensor, goal: Tensor, counted: Tensor):
        def value(x: Tensor) -> Tensor:
            angles = _triplets(x, anchors, neighbours)
            return (F.smooth_l1_loss(angles, goal, reduction="none") * counted).sum() * scale

        return rows, value

    return piecewise(s, (piece(rows, *tokens) for rows, tokens in zip(parts, chosen, strict=True))), total


def _attended(teacher: Tensor, mask: Tensor, heads: int, k1: int, k2: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Anchors (B, k1), neighbours (B, k1, k2), and their triplets' angles and which count, each (B, k1, k2, k2)."""
    x = _split(teacher, heads, teacher.dtype).transpose(1, 2)
    pairs = mask.unsqueeze(-1) & mask.unsqueeze(-2)  # (B, L, L)
    scores = (x @ x.mT * x.shape[-1] ** -0.5).masked_fill_(~pairs.unsqueeze(1), -10000.0)
    attention = torch.softmax(scores, -1).sum(1).masked_fill_(~pairs, 0.0)
    # real tokens win ties at 0 (few tokens, or attention that underflows), so that padding changes nothing
    anchors = attention.sum(1).masked_fill_(~mask, -1.0).topk(k1, -1).indices
    local = attention.masked_fill_(~mask.unsqueeze(1), -2.0)
    local.diagonal(dim1=-2, dim2=-1).fill_(-1.0)
    neighbours = local.gather(1, anchors.unsqueeze(-1).expand(-1, -1, local.shape[-1])).topk(k2, -1).indices
    rows = torch.arange(len(mask), device=mask.device)
    near = mask[rows[:, None, None], neighbours] & mask[rows[:, None], anchors].unsqueeze(-1)
    real = near.unsqueeze(-1) & near.unsqueeze(-2) & ~torch.eye(k2, dtype=torch.bool, device=mask.device)
    angles = _triplets(teacher, anchors, neighbours)
    return anchors, neighbours, angles, real & (angles != 0)


def _triplets(x: Tensor, anchors: Tensor, neighbours: Tensor) -> Tensor:
    """Angles (B, k1, k2, k2) at the anchors."""
    rows = torch.arange(len(x), device=x.device)
    e = _unit(x[rows[:, None], anchors].unsqueeze(2) - x[rows[:, None, None], neighbours])
    return e @ e.mT


def _angles(anchors: Tensor, others: Tensor) -> Tensor:
    """(heads, n, d) and (heads, m, d) -> (heads, n, m, m): the angle between every two others at each anchor."""
    e = _unit(anchors.unsqueeze(2) - others.unsqueeze(1))
    return e @ e.mT


def _unit(x: Tensor) -> Tensor:
    """Rows divided by their length; a row of length 0 is unchanged and has no gradient."""
    square = x.square().sum(-1, keepdim=True)
    return x * torch.where(square == 0, 0.0, torch.where(square == 0, 1.0, square).rsqrt())


def _split(x: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """(..., D) -> (..., heads, D / heads)."""
    need_divisor(x.shape[-1], heads)
    return x.to(dtype).unflatten(-1, (heads, -1))


def need_divisor(width: int, heads: int) -> None:
    if heads < 1 or width % heads:
        raise SinkdError(f"mgskd: a width of {width} cannot be split into {heads} heads; give a number that divides it")


@dataclass(frozen=True)
class RelationOptions(Options):
    heads: int = option(64, "Heads of the relation loss; must divide both models' widths.")
    matching_strategy: Strategy = option("emb+uniform", "Which layers mgskd pairs.", flag="matching_strategy")
    k1: int = option(20, "Anchors of triplets in a row: the tokens that the teacher attends to most.")
    k2: int = option(20, "Neighbours that form triplets with an anchor.")

    def __post_init__(self) -> None:
        for name in ("heads", "k1", "k2"):
            if getattr(self, name) < 1:
                raise SinkdError(f"mgskd: {name} is {getattr(self, name)}; it must be at least 1")


class Relation(LayerTerm):
    """Compare relations among tokens, spans and sentences with the teacher's (MGSKD), layer by layer.

    A term holds `mgskd`, or a summand of it for a slice (`part`) of the pairs of layers.
    """

    Options = RelationOptions
    weighted_by = "mgskd_w"

    def __init__(self, name: str, options: RelationOptions, part: slice):
        super().__init__(name, options)
        self.options, self.part = options, part
        self.pairs: list[Pair] = []

    @classmethod
    def make(cls, name: str, options: RelationOptions) -> list[Term]:
        return [
            SentenceRelation(f"{name}/sentences", options, slice(TOKEN_LAYERS, None)),
            PairRelation(f"{name}/pairs", options, slice(TOKEN_LAYERS)),
            *(TripletRelation(f"{name}/triplets-{i + 1}", options, slice(i, i + 1)) for i in range(TOKEN_LAYERS)),
        ]

    def bind(self, student: Stack, teacher: Stack) -> None:
        for width in (student.width, teacher.width):
            need_divisor(width, self.options.heads)
        self.pairs = pair_layers(self.options.matching_strategy, teacher.layers, student.layers)[self.part]
        self.applies = bool(self.pairs)


class SentenceRelation(Relation, SentenceTerm):
    """The angles between the sentences of an update."""

    def bind(self, student: Stack, teacher: Stack) -> None:
        super().bind(student, teacher)
        self.need_sentences("mean", self.pairs)

    def forward(self, student: Tensor, teacher: Tensor, progress: Progress) -> Tensor:
        layers = zip(student.unbind(1), teacher.unbind(1), strict=True)
        return SAMPLE_WEIGHT * torch.stack([sentence_angles(s, t, self.options.heads) for s, t in layers]).sum()


class TokenRelation(Relation, RowTerm):
    """Compares relations between the tokens of one row."""

    def forward(self, student: View, teacher: View, batch: Mapping[str, Any], progress: Progress) -> Tensor:
        if not self.pairs:
            raise not_bound(self)
        ours, theirs, mask = student[HIDDEN_STATES], teacher[HIDDEN_STATES], attention_mask(batch)
        values = [self.compare(ours[pair.student], theirs[pair.teacher], mask) for pair in self.pairs]
        return TOKEN_WEIGHT * torch.stack(values).sum()

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """The value of one pair of layers: (B, L, D), (B, L, another D), (B, L) -> a scalar."""


class PairRelation(TokenRelation):
    """The scores of all pairs of tokens."""

    def count(self, teacher: View, batch: Mapping[str, Any]) -> Tensor:
        return count_pairs(attention_mask(batch))

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        return pair_scores(student, teacher, mask, self.options.heads)


class TripletRelation(TokenRelation):
    """The angles of the triplets that the teacher attends to, in one pair of layers: the count differs by layer."""

    counts_by_teacher = True

    def count(self, teacher: View, batch: Mapping[str, Any]) -> Tensor:
        states = teacher[HIDDEN_STATES][self.pairs[0].teacher]
        return self._angles(states, states, attention_mask(batch))[1]

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        return self._angles(student, teacher, mask)[0]

    def _angles(self, student: Tensor, teacher: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return triplet_angles(student, teacher, mask, self.options.heads, self.options.k1, self.options.k2)
