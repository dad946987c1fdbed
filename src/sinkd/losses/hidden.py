"""Transport of hidden states: a sentence of the student should be known by its teacher's (docs/matching.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SinkdError
from ..transport.cost import COSTS
from .feature import HIDDEN_STATES, Stack
from .layers import Pooling, Sentences, check_strategy, pair_layers, sentences_of
from .sinkhorn import SinkhornLoss
from .term import Progress, Term, View


class HiddenTransport(Term):
    """`sinkhorn_hidden`: for each pair of layers, the batch of sentences transported onto the teacher's; their mean.

    pooling, layers: what a sentence is, and which layers are paired (`Sentences`, `pair_layers`). The other options
    are those of `SinkhornLoss`: by default the plan is the answer (`value="matching"`), under the cosine cost;
    `value="distance"` pays the transport's cost, and with a `pairing` far above `epsilon` that is the mean cost of
    each sentence to its own teacher's. Costs for probabilities take the softmax of the vectors, all others the vectors.
    Where widths differ the student's go through one linear map a pair of layers, trained with it.
    """

    name = "sinkhorn_hidden"
    batchwise = True
    compares_layers = True
    student_needs = teacher_needs = frozenset({HIDDEN_STATES})  # until both models are met

    def __init__(self, pooling: Pooling = "mean", layers: str = "uniform", cost: str = "cosine", **options: Any):
        super().__init__()
        if pooling not in ("mean", "cls"):
            raise SinkdError(f'the pooling of hidden states is "{pooling}"; it must be mean or cls')
        check_strategy(layers)
        self.pooling, self.layers = pooling, layers
        simplex = cost in COSTS and COSTS[cost].simplex
        given = {"value": "matching", "weight": 0.3, "temperature": 1.0, **options}
        given["representation"] = "probability" if simplex else "vector"
        self.loss = SinkhornLoss(cost=cost, group="sequence", **given)
        self.projectors = nn.ModuleList()

    def meet(self, student: Stack, teacher: Stack) -> None:
        pairs = pair_layers(self.layers, teacher.layers, student.layers)
        self.student_needs = frozenset({Sentences("student", self.pooling, tuple(pair.student for pair in pairs))})
        self.teacher_needs = frozenset({Sentences("teacher", self.pooling, tuple(pair.teacher for pair in pairs))})
        if student.width != teacher.width:
            maps = [nn.Linear(student.width, teacher.width, bias=False) for _ in pairs]
            for linear in maps:
                nn.init.orthogonal_(linear.weight)  # which keeps the angles there are, or most of them
            self.projectors = nn.ModuleList(maps)

    def points(self, view: View, batch: Mapping[str, Any]) -> Tensor:
        return sentences_of(view, self.student_needs | self.teacher_needs, self.name)

    def forward(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Any], progress: Progress) -> Tensor:
        return self.loss(*self._rows(student, teacher))

    @torch.no_grad()
    def diagnostics(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Any]) -> dict[str, float]:
        transport = self.loss.transport(*self._rows(student, teacher))
        own = transport.plan.diagonal(dim1=-2, dim2=-1).mean()
        return {"marginal_error": float(transport.marginal_error().mean()), "matched": float(own)}

    def _rows(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(n, layers, D) of either side as (layers, n, D of the teacher)."""
        student, teacher = student.transpose(0, 1), teacher.transpose(0, 1)
        if self.projectors:
            student = torch.stack([f(x.to(f.weight.dtype)) for f, x in zip(self.projectors, student, strict=True)])
        return student, teacher
