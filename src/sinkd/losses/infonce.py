"""`infonce`: contrast each sentence's hidden state with the teacher's states of all sentences of the update."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import SinkdError
from ..transport.precision import result_type
from .layers import ProjectedSentences, SentenceOptions
from .option_flags import option
from .term import Progress


@dataclass(frozen=True)
class InfoNCEOptions(SentenceOptions):
    temperature: float = option(0.1, "Divide cosines by this.")
    weight: float = option(0.3, "Inner weight of the infonce loss, times beta.")

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise SinkdError(f"the temperature of infonce is {self.temperature}; it must be above 0")
        if not 0 <= self.weight < float("inf"):
            raise SinkdError(f"the weight of infonce is {self.weight}; it must be a number from 0 up")


class InfoNCE(ProjectedSentences):
    """Contrast each sentence's hidden state with the teacher's states of all sentences of the update.

    It is -mean_i log softmax_j(cos(x_i, y_j) / temperature)_i, averaged over pairs of layers. x are the
    student's sentences, y the teacher's. This is `sinkhorn_hidden` with one normalisation of the rows in place of
    Sinkhorn's, and CoDIR's form (Sun et al., EMNLP 2020) with the update's sentences as negatives.
    """

    Options = InfoNCEOptions

    def __init__(self, name: str, options: InfoNCEOptions):
        super().__init__(name, options)
        self.temperature, self.weight = options.temperature, options.weight

    def forward(self, student: Tensor, teacher: Tensor, progress: Progress) -> Tensor:
        own = self._log_shares(student, teacher).diagonal(dim1=-2, dim2=-1)
        return -self.weight * own.mean() if own.numel() else self.weight * student.sum() * 0.0

    @torch.no_grad()
    def diagnostics(self, student: Tensor, teacher: Tensor) -> dict[str, float]:
        return {"matched": float(self._log_shares(student, teacher).exp().diagonal(dim1=-2, dim2=-1).mean())}

    def _log_shares(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(layers, n, n), the logarithm of the share that sentence i gives to teacher sentence j."""
        dtype = result_type(student, teacher)
        x, y = (F.normalize(side.to(dtype), dim=-1) for side in self.by_layer(student, teacher))
        return torch.log_softmax(x @ y.mT / self.temperature, -1)
