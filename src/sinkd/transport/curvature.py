"""Positive numbers that may be learned within bounds: the curvature, and the scale of log-odds."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..errors import SinkdError


class BoundedNumber(nn.Module):
    """A positive number, stored as its logarithm and kept within a factor of ten of its initial value.

    `forward` clamps the number to its bounds, with a straight-through gradient, so that a parameter at or beyond a
    bound still moves. Call `clamp_()` after each optimiser step to keep the parameter itself within them.

    Args:
        initial: the initial value, > 0.
        learnable: make its logarithm a parameter, `log_value`; a fixed number has no state.

    Raises:
        SinkdError: if `initial` is not a finite number greater than 0.
    """

    name = "number"

    def __init__(self, initial: float = 1.0, learnable: bool = False):
        super().__init__()
        if not 0 < initial < math.inf:
            raise SinkdError(f"{self.name} is {initial}; it must be a number greater than 0")
        self.initial = float(initial)
        self.bounds = math.log(initial / 10), math.log(initial * 10)
        self.log_value = nn.Parameter(torch.tensor(math.log(initial))) if learnable else None

    def forward(self) -> float | Tensor:
        """The number; if learnable, a float64 scalar tensor within the bounds."""
        if self.log_value is None:
            return self.initial
        log_value = self.log_value.double()
        return (log_value + (log_value.clamp(*self.bounds) - log_value).detach()).exp()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Clamp the parameter to its bounds; for a trainer, after each step."""
        if self.log_value is not None:
            self.log_value.clamp_(*self.bounds)

    def extra_repr(self) -> str:
        return f"initial={self.initial}, learnable={self.log_value is not None}"


class Curvature(BoundedNumber):
    """c of the hyperboloid of curvature -c, fixed or learnable.

    Minimising a transport loss over c alone drives it to a bound: to the lower one while rows are far apart, to the
    upper one once they match. Train it without weight decay and with its own learning rate, or leave it fixed (the
    default, as published).

    >>> Curvature(2.0)()
    2.0
    """

    name = "curvature"


class Scale(BoundedNumber):
    """Factor of the log-odds, fixed or learnable."""

    name = "representation_scale"
