"""The name that the published system had for its loss, onto `sinkd.SinkhornLoss`."""

from sinkd.losses.sinkhorn import SinkhornLoss


def Sinkhorn(
    T: float = 2, use_hyperbolic: bool = True, curvature: float = 1.0, learnable_curvature: bool = False
) -> SinkhornLoss:
    """SinKD's loss (weight 0.001, summed over the batch): Lorentz cost of curvature -curvature, or l1."""
    if not use_hyperbolic:
        return SinkhornLoss.published(cost="l1", temperature=T)
    return SinkhornLoss.published(temperature=T, curvature=curvature, learnable_curvature=learnable_curvature)
