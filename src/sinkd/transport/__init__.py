"""What it costs to turn one batch of predictions into another: tensors in, tensors out."""

from . import lorentz
from .cost import COSTS
from .lorentz import Curvature
from .solver import Transport, sinkhorn

__all__ = ["COSTS", "Curvature", "Transport", "lorentz", "sinkhorn"]
