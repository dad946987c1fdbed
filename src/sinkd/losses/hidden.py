"""`sinkhorn_hidden`: transport of hidden states."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..transport.cost import COSTS
from .layers import ProjectedSentences, SentenceOptions
from .option_flags import option
from .sinkhorn import Reduction, Representation, SinkhornLoss
from .sinkhorn_term import TransportOptions
from .term import Progress


@dataclass(frozen=True)
class HiddenOptions(SentenceOptions, TransportOptions):
    prefix: ClassVar[str] = "hidden"

    value: Literal["matching", "distance"] = option(
        "matching", "Return the plan's mismatch (matching) or its cost (distance)."
    )
    weight: float = option(0.3, "Inner weight of the sinkhorn_hidden loss, times beta.")
    cost: str = option("cosine", "Ground cost between hidden states.")
    temperature: float = option(1.0, "Divide hidden states by this.")
    epsilon: float = option(0.1, "Entropic regularisation, in units of that cost.")
    reduction: Reduction = option("mean", "Mean cost per sentence, or sum.")
    pairing: float = option(0.0, "Cost added between different sentences; 1000 compares each with its own.")


class HiddenTransport(ProjectedSentences):
    """Transport all sentences onto the teacher's for each pair of layers, averaged over pairs (docs/matching.md).

    By default the loss is -mean_i log P_ii of the plan (`value="matching"`) under the cosine cost. `value="distance"`
    is the transport's cost; with `pairing` far above `epsilon` it is the mean cost from each sentence to its own
    teacher sentence. Costs for probabilities use the softmax of the vectors, other costs the vectors.
    """

    Options = HiddenOptions

    def __init__(self, name: str, options: HiddenOptions):
        super().__init__(name, options)
        keywords = asdict(options)
        del keywords["pooling"], keywords["layers"]
        simplex = options.cost in COSTS and COSTS[options.cost].simplex
        representation: Representation = "probability" if simplex else "vector"
        self.loss = SinkhornLoss(group="sequence", representation=representation, **keywords)

    def forward(self, student: Tensor, teacher: Tensor, progress: Progress) -> Tensor:
        return self.loss(*self.by_layer(student, teacher))

    @torch.no_grad()
    def diagnostics(self, student: Tensor, teacher: Tensor) -> dict[str, float]:
        transport = self.loss.transport(*self.by_layer(student, teacher))
        own = transport.plan.diagonal(dim1=-2, dim2=-1).mean()
        return {"marginal_error": float(transport.marginal_error().mean()), "matched": float(own)}
