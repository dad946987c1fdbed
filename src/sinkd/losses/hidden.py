"""`sinkhorn_hidden`: transport of hidden states."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..transport.cost import COSTS
from .feature import Stack
from .layers import Pooling, SentenceTerm, Strategy, pair_layers
from .sinkhorn import Reduction, Representation, SinkhornLoss
from .sinkhorn_term import TransportOptions
from .term import Progress
from .term_options import option


@dataclass(frozen=True)
class HiddenOptions(TransportOptions):
    prefix: ClassVar[str] = "hidden"

    pooling: Pooling = option("mean", "A sentence is the mean of its tokens, or its first token.")
    layers: Strategy = option("uniform", "Which layers are transported, a strategy as of --matching_strategy.")
    value: Literal["matching", "distance"] = option("matching", "The plan as the answer, or its cost.")
    weight: float = option(0.3, "Inner weight of the sinkhorn_hidden loss, beside beta.")
    cost: str = option("cosine", "Ground cost between hidden states.")
    temperature: float = option(1.0, "What hidden states are divided by.")
    epsilon: float = option(0.1, "Entropic regularisation, in units of that cost.")
    reduction: Reduction = option("mean", "Cost per sentence, or of all.")
    pairing: float = option(0.0, "Cost added to moving a sentence to another's: 1000 compares each with its own.")


class HiddenTransport(SentenceTerm):
    """For each pair of layers, the transport of all sentences onto the teacher's; their mean (docs/matching.md).

    By default the plan is the answer (`value="matching"`), under the cosine cost; `value="distance"` pays the
    transport's cost, and with a `pairing` far above `epsilon` that is the mean cost of each sentence to its own
    teacher's. Costs for probabilities take the softmax of the vectors, all others the vectors. Where widths differ the
    student's go through one linear map a pair of layers, trained with it.
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
            nn.init.orthogonal_(linear.weight)  # keeps angles as far as the widths allow
        self.projectors = nn.ModuleList(maps)

    def forward(self, student: Tensor, teacher: Tensor, progress: Progress) -> Tensor:
        return self.loss(*self._rows(student, teacher))

    @torch.no_grad()
    def diagnostics(self, student: Tensor, teacher: Tensor) -> dict[str, float]:
        transport = self.loss.transport(*self._rows(student, teacher))
        own = transport.plan.diagonal(dim1=-2, dim2=-1).mean()
        return {"marginal_error": float(transport.marginal_error().mean()), "matched": float(own)}

    def _rows(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(n, layers, D) of either side as (layers, n, D of the teacher)."""
        student, teacher = student.transpose(0, 1), teacher.transpose(0, 1)
        if self.projectors:
            student = torch.stack([f(x.to(f.weight.dtype)) for f, x in zip(self.projectors, student, strict=True)])
        return student, teacher
