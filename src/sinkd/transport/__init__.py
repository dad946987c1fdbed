"""Optimal transport of one batch of rows onto another: tensors in, tensors out."""

from . import lorentz
from .cost import COSTS
from .curvature import Curvature
from .solver import Transport, sinkhorn

__all__ = ["COSTS", "Curvature", "Transport", "lorentz", "sinkhorn"]
