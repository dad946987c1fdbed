"""Optimal transport of one batch of rows onto another: tensors in, tensors out."""

from . import lorentz
from .class_prior import match_class_prior
from .cost import COSTS
from .curvature import Curvature
from .solver import Transport, sinkhorn

__all__ = ["COSTS", "Curvature", "Transport", "lorentz", "match_class_prior", "sinkhorn"]
