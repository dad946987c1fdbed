"""Smooth L1 between the angles of student and teacher, and its gradient written out.

The angle of rows j and k at an anchor i is e_ij . e_ik, with e_ij the unit vector of x_i - x_j, or 0 if the rows are
equal, which then have no gradient. Written out, value and gradient take half of the kernels, and of the passes over
memory, that autograd takes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def angles(differences: Tensor) -> Tensor:
    """(..., n, d), the differences of an anchor and n rows -> (..., n, n)."""
    e, _ = _directions(differences)
    return e @ e.mT


def angle_gap(differences: Tensor, goal: Tensor, counts: Tensor | None, slope: bool) -> tuple[Tensor, Tensor | None]:
    """Sum smooth L1 between the angles of some differences and others.

    Args:
        differences: (..., n, d), the student's; overwritten.
        goal: (..., n, n), the teacher's angles, symmetric.
        counts: (..., n, n) bool, symmetric, the angles that count; None for all.
        slope: Also return the gradient.

    Returns:
        The sum, a scalar, and its gradient with respect to the differences, (..., n, d) or None.
    """
    e, inverse = _directions(differences)
    found = e @ e.mT
    if counts is not None:
        found = torch.where(counts, found, goal)
    value = F.smooth_l1_loss(found, goal, reduction="sum")
    if not slope:
        return value, None
    # both places of a vector in a symmetric matrix give the same gradient
    d_e = found.sub_(goal).clamp_(-1, 1) @ e
    along = (d_e * e).sum(-1, keepdim=True)
    return value, d_e.addcmul_(e, along, value=-1).mul_(inverse.mul_(2))


def _directions(differences: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors, in place of the differences, and the reciprocal of the lengths; both 0 for a length of 0."""
    inverse = torch.linalg.vector_norm(differences, dim=-1, keepdim=True).reciprocal_().nan_to_num_(posinf=0.0)
    return differences.mul_(inverse), inverse
