"""The hyperboloid of curvature -c: `lift` and `distance`.

Rows are tangent vectors at the hyperboloid's origin. With r = norm(v), a row v represents the point

    space = sinh(sqrt(c) r) / (sqrt(c) r) v,      time = cosh(sqrt(c) r) / sqrt(c).

The distance of two such points is usually computed from their inner product by acosh, which in float32 cannot resolve
distances below 1e-3 and loses the gradient there, just where a student nears its teacher. Here it is computed from
differences, at c = 1 (distance_c(x, y) = distance_1(sqrt(c) x, sqrt(c) y) / sqrt c). With lengths r_x, r_y and unit
vectors u_x, u_y, the hyperbolic law of cosines is a sum of squares in which nothing cancels:

    distance = 2 asinh(sqrt z),     z = sinh((r_x - r_y) / 2)^2 + sinh(r_x) sinh(r_y) norm(u_x - u_y)^2 / 4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import SinkdError
from . import few_classes
from .curvature import Curvature
from .pairwise import FEW, check_rows, squares
from .precision import full_precision, is_static, result_type

__all__ = ["Curvature", "distance", "lift", "polar_distance"]

_FAR = 60.0
"""Sum of both lengths from which the distance is computed in logarithms."""
_RAY = (8 * torch.finfo(torch.float64).eps) ** 2
"""Squared distance of unit vectors that may be rounding."""
_TINY = 1e-100
"""Below any length that matters, with a finite reciprocal."""


def lift(v: Tensor, c: float | Tensor) -> tuple[Tensor, Tensor]:
    """The points of the hyperboloid of curvature -c for tangent rows (exponential map at the origin).

    Args:
        v: (..., n, d) rows.
        c: > 0, a number or a tensor of one element.

    Returns:
        space (..., n, d) and time (..., n), with c time^2 - c norm(space)^2 = 1. They overflow where sqrt(c) norm(v)
        exceeds 88 in float32; `distance` does not.

    Raises:
        SinkdError: if c is a number <= 0.
    """
    _check_curvature(c)
    with full_precision(v.device):
        v = v.to(result_type(v))
        root = c.to(v.dtype).sqrt() if isinstance(c, Tensor) else math.sqrt(c)
        square = (v * v).sum(-1)
        # the norm's gradient at 0 is 0/0, so rows of length 0 take the series sinhc(t) = 1 + t^2 / 6
        zero = square == 0
        t = root * torch.where(zero, 1.0, square).sqrt()
        sinhc = torch.where(zero, 1.0 + root * root * square / 6, torch.sinh(t) / t)
        space = sinhc.unsqueeze(-1) * v
        return space, torch.sqrt(1 / (root * root) + (space * space).sum(-1))


def distance(x: Tensor, y: Tensor, c: float | Tensor = 1.0, simplex: bool = False) -> Tensor:
    """Geodesic distance between the lifts of all rows of x and all rows of y, on the hyperboloid of curvature -c.

    Value and gradient are right to 1e-5, relative, for near, far and opposite rows, for rows of length 0, and for
    equal rows (distance 0, gradient 0). Only rows nearer than 1e-11 of their length, where the rounding of their
    directions to float64 shows, have fewer digits. Under torch.compile and in a captured CUDA graph, rows wider than 64
    have fewer digits if they are nearer than 3e-6 of their length, and count as equal below 1e-7.

    Args:
        x, y: (..., n, d) and (..., m, d), finite tangent rows at the origin, with the same leading dimensions.
        c: > 0, a number or a tensor of one element, which then has a gradient.
        simplex: the rows are probabilities and a float32 result is enough; much faster for few classes.

    Returns:
        (..., n, m) distances >= 0, float32 (float64 if x or y is, unless `simplex`).

    Raises:
        SinkdError: if the shapes do not pair, or c is a number <= 0.

    >>> distance(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[5.]])
    """
    check_rows(x, y, "lorentz")
    _check_curvature(c)
    dtype = torch.float32 if simplex else result_type(x, y)
    root = c.reshape(()).double().sqrt() if isinstance(c, Tensor) else math.sqrt(c)
    with full_precision(x.device):
        scaled = isinstance(root, Tensor) or root != 1.0
        x, y = (v.double() * root if scaled else v.double() for v in (x, y))
        if simplex and x.shape[-1] <= FEW and _is_at_most(root, few_classes.LONGEST, x):
            result = few_classes.distance(x, y)
        else:
            rx, ry = (torch.linalg.vector_norm(v, dim=-1).clamp_min(_TINY) for v in (x, y))
            angle = squares(x / rx.unsqueeze(-1), y / ry.unsqueeze(-1))
            result = polar_distance(rx, ry, rx.unsqueeze(-1) - ry.unsqueeze(-2), angle)
        return (result / root if scaled else result).to(dtype)


def polar_distance(rx: Tensor, ry: Tensor, rise: Tensor, angle: Tensor) -> Tensor:
    """Distances at c = 1 from lengths and directions.

    Args:
        rx, ry: (..., n) and (..., m), lengths > 0.
        rise: (..., n, m), rx_i - ry_j.
        angle: (..., n, m), squared distance of the unit vectors.

    Returns:
        (..., n, m). Nothing overflows, since z is carried times 4 exp(-(rx + ry)).
    """
    rx, ry = rx.unsqueeze(-1), ry.unsqueeze(-2)
    gap, total = rise.abs(), rx + ry
    # where directions differ by rounding alone, and far less than lengths, the rows lie on one ray
    on_a_ray = (angle <= _RAY) & (angle * rx * ry <= 1e-10 * rise * rise)
    angle = torch.where(on_a_ray, 1.0, angle)
    z = torch.expm1(-gap).square() * torch.exp(-2 * torch.minimum(rx, ry))
    z = z + angle * (torch.expm1(-2 * rx) * torch.expm1(-2 * ry) / 4)
    w, w_near = torch.exp(-total), torch.exp(-total.clamp_max(_FAR))
    near = torch.log1p((z / 2 + torch.sqrt(z * (z / 4 + w_near))) / w_near)
    far = total + torch.log(w + z / 2 + torch.sqrt(z * (z / 4 + w)))
    return torch.where(on_a_ray, gap, torch.where(total < _FAR, near, far))


def _is_at_most(root: float | Tensor, limit: float, x: Tensor) -> bool:
    """True if a number is within a limit; False for a tensor that must not be read."""
    return float(root) <= limit if isinstance(root, float) or not is_static(x) else False


def _check_curvature(c: float | Tensor) -> None:
    if isinstance(c, Tensor):
        if c.numel() != 1:
            raise SinkdError(f"lorentz: curvature has shape {tuple(c.shape)}; it must be one number")
    elif not c > 0:
        raise SinkdError(f"lorentz: curvature is {c}; it must be greater than 0")
