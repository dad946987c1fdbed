"""What a student minimises."""

from .divergence import annealed_temperature, js, kd, kl, reverse_kl, tvd
from .logits import check_finite
from .mgskd_relations import mgskd
from .semantic import semantic_transport
from .sinkhorn import SinkhornLoss

__all__ = [
    "SinkhornLoss",
    "annealed_temperature",
    "check_finite",
    "js",
    "kd",
    "kl",
    "mgskd",
    "reverse_kl",
    "semantic_transport",
    "tvd",
]
