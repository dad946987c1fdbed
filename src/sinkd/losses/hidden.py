"""`sinkhorn_hidden`: transport of hidden states."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..transport.cost import COSTS
from .feature import Stack
from .layers import Pooling, SentenceTerm, Strategy, pair_layers
from .option_flags import option
from .sinkhorn import Reduction, Representation, SinkhornLoss
from .sinkhorn_term import TransportOptions
from .term import Progress


@dataclass(frozen=True)
class HiddenOptions(TransportOptions):
    prefix: ClassVar[str] = "hidden"

    pooling: Pooling = option("mean", "A sentence is the mean of its tokens, or its first token.")
    layers: Strategy = option("uniform", "Which layers to transport, as for --matching_strategy.")
    value: Literal["matching", "distance"] = option(
        "matching", "Return the plan's mismatch (matching) or its cost (distance)."
    )
    weight: float = option(0.3, "Inner weight of the sinkhorn_hidden loss, times beta.")
    cost: str = option("cosine", "Ground cost between hidden states.")
    temperature: float = option(1.0, "Divide hidden states by this.")
    epsilon: float = option(0.1, "Entropic regularisation, in units of that cost.")
    reduction: Reduction = option("mean", "Mean cost per sentence, or sum.")
    pairing: float = option(0.0, "Cost added between different sentences; 1000 compares each with its own.")


class HiddenTransport(SentenceTerm):
    """Transport all sentences onto the teacher's for each pair of layers, averaged over pairs (docs/matching.md).

    By default the loss is -mean_i log P_ii of the plan (`value="matching"`) under the cosine cost. `value="distance"`
    is the transport's cost; with `pairing` far above `epsilon` it is the mean cost from each sentence to its own
    teacher sentence. Costs for probabilities use the softmax of the vectors, other costs the vectors. If widths differ,
    the student's vectors go through one trained linear map per pair of layers.
    """

    Options = HiddenOptions

    def __init__(self, name: str, options: HiddenOptions):
        super().__init__(name, options)
        keywords = asdict(options)
        self.pooling, self.layers = keywords.pop("pooling"), keywords.pop("layers")
        simplex = options.cost in COSTS and COSTS[options.cost].simplex
        representation: Representation = "probability" if simplex else "vector"
        self.loss = SinkhornLoss(group="sequence", representation=representation, **keywords)
        self.projectors = nn.ModuleList()

    def bind(self, student: Stack, teacher: Stack) -> None:
        pairs = pair_layers(self.layers, teacher.layers, student.layers)
        self.need_sentences(self.pooling, pairs)
        maps = [nn.Linear(student.width, teacher.width, bias=False) for _ in pairs if student.width != teacher.width]
        for linear in maps:
            nn.init.orthogonal_(linear.weight)  # preserves angles as far as the widths allow
        self.projectors = nn.ModuleList(maps)

    def forward(self, student: Tensor, teacher: Tensor, progress: Progress) -> Tensor:
        return self.loss(*self._rows(student, teacher))

    @torch.no_grad()
    def diagnostics(self, student: Tensor, teacher: Tensor) -> dict[str, float]:
        transport = self.loss.transport(*self._rows(student, teacher))
        own = transport.plan.diagonal(dim1=-2, dim2=-1).mean()
        return {"marginal_error": float(transport.marginal_error().mean()), "matched": float(own)}

    def _rows(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides, (n, layers, D) each, as (layers, n, D of the teacher)."""
        student, teacher = student.transpose(0, 1), teacher.transpose(0, 1)
        if self.projectors:
            student = torch.stack([f(x.to(f.weight.dtype)) for f, x in zip(self.projectors, student, strict=True)])
        return student, teacher
