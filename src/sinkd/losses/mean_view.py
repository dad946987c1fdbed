"""Several teachers as one: the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .feature import LOGITS
from .term import View


class MeanView(View):
    """A weighted mean of several models' predictions; all other features are those of the first model.

    Probabilities are averaged at the temperature at which a term reads them; scores of a regression are averaged as
    they are.

    Args:
        views: The models' views of the same batch, with logits (B, C) of one shape.
        weights: Positive weights of the models, with sum 1.
    """

    def __init__(self, views: Sequence[View], weights: Sequence[float]):
        super().__init__(counts=views[0].counts)
        self.views, self.weights = list(views), list(weights)
        self.features = dict(views[0].features)
        if LOGITS in views[0]:
            self.features[LOGITS.name] = self.softened(1.0)

    def softened(self, temperature: float) -> Tensor:
        logits = torch.stack([view.softened(temperature) for view in self.views])
        weights = torch.tensor(self.weights, dtype=torch.float64).to(logits.device, non_blocking=True)
        weights = weights.view(-1, *[1] * (logits.dim() - 1))
        if logits.shape[-1] == 1:
            return (weights * logits).sum(0).to(logits.dtype)
        log_probabilities = torch.log_softmax(logits.double() / temperature, -1)
        return (temperature * (log_probabilities + weights.log()).logsumexp(0)).to(logits.dtype)
