"""The hyperboloid of curvature -c: `lift`, `distance`, and `Curvature`, the parameter that c may be.

Rows are tangent vectors at the hyperboloid's origin. With r = norm(v), a row v stands for the point

    space = sinh(sqrt(c) r) / (sqrt(c) r) v,      time = cosh(sqrt(c) r) / sqrt(c).

The distance of two such points is usually taken from their inner product by acosh, which in float32 knows
nothing of points closer than 1e-3 and kills the gradient there, exactly where a student nears its teacher.
`distance` works on differences instead, at c = 1 (distance_c(x, y) = distance_1(sqrt(c) x, sqrt(c) y) / sqrt c).
With rho = r_x - r_y, unit vectors ux, uy and

    e = x - y - rho (ux + uy) / 2             the part of x - y across the radius; norm(e) = mean(r) norm(ux - uy)
    G = norm(e)^2 / (r_x + r_y)^2             sin(angle / 2)^2
    z = sinh(rho / 2)^2 + sinh(r_x) sinh(r_y) G

the distance is 2 asinh(sqrt z): the hyperbolic law of cosines as a sum of squares, so nothing cancels and
nothing has to be clamped. With D = d distance / dz = 1 / sqrt(z (1 + z)), the gradient by x is, in the same e,

    D sinhc(r_x) sinh(r_y) / (r_x + r_y) e + D (sinh(rho) / 2 + (cosh(r_x) - sinhc(r_x)) sinh(r_y) G) ux

with sinhc(r) = sinh(r) / r: no division by r, and finite where r_x = 0.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..errors import SinkdError
from . import chord
from .iteration import times
from .pairwise import FEW, polar, pull, reciprocal, row_blocks, tiny
from .precision import full_precision, is_static, result_type

# Below this share of rho^2, norm(e)^2 is the rounding of e itself: the rows lie on one ray.
_RAY = (8 * torch.finfo(torch.float64).eps) ** 2
# Up to this many pairs float64 costs no more than float32.
_FEW_PAIRS = 2**12
# From this sum of both radii on the distance is taken from log z.
_FAR = 60.0


def lift(v: Tensor, c: float | Tensor) -> tuple[Tensor, Tensor]:
    """The point of the hyperboloid of curvature -c that each tangent row stands for (exponential map at the origin).

    Args:
        v: (..., n, d) rows.
        c: > 0, a number or a tensor of one element.

    Returns:
        space (..., n, d) and time (..., n), with c time^2 - c norm(space)^2 = 1. They overflow where sqrt(c) norm(v)
        passes 88 in float32; `distance` does not.

    Raises:
        SinkdError: if c is a number <= 0.
    """
    _check(v, v, c)
    with full_precision(v.device):
        v = v.to(result_type(v))
        root = c.to(v.dtype).sqrt() if isinstance(c, Tensor) else math.sqrt(c)
        square = (v * v).sum(-1)
        # the norm's gradient at 0 is 0/0: rows of length 0 take the series sinhc(t) = 1 + t^2 / 6
        zero = square == 0
        t = root * torch.where(zero, 1.0, square).sqrt()
        sinhc = torch.where(zero, 1.0 + root * root * square / 6, torch.sinh(t) / t)
        space = sinhc.unsqueeze(-1) * v
        return space, torch.sqrt(1 / (root * root) + (space * space).sum(-1))


def distance(x: Tensor, y: Tensor, c: float | Tensor = 1.0, reach: float | None = None) -> Tensor:
    """Geodesic distance between the lifts of all rows of x and all rows of y, on the hyperboloid of curvature -c.

    Right to 1e-5 relative (value and gradient) for every pair of float32 rows as given, near, equal (distance
    0, gradient 0), of length 0, or far out (no overflow).

    Args:
        x, y: (..., n, d) and (..., m, d), tangent rows at the origin, finite, same leading dimensions.
        c: > 0, a number or a tensor of one element, which then has a gradient.
        reach: a known bound of sqrt(c) (norm(x_i) + norm(y_j)), if any. Up to 20, differences are taken in float64
            as ever, but what follows in float32, several times faster, and the result is float32. It is still right to
            1e-5 unless rows are closer than 1e-15 (whose squares float32 does not hold); for few classes and a reach
            up to 4, where `chord` takes over, unless they are closer than 1e-10.

    Returns:
        (..., n, m) distances >= 0, float32, or float64 if x or y is.

    Raises:
        SinkdError: if the shapes do not pair, or c is a number <= 0.

    >>> distance(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[5.]])
    """
    _check(x, y, c)
    dtype = result_type(x, y)
    root = c.reshape(()).double().sqrt() if isinstance(c, Tensor) else math.sqrt(c)
    with full_precision(x.device):
        x, y = x.double(), y.double()
        if x.numel() == 0 or y.numel() == 0:
            return (x.sum(-1).unsqueeze(-1) + y.sum(-1).unsqueeze(-2)).to(dtype)
        near = reach is not None and reach <= 20
        # few pairs are a matter of calls, and conversions are calls
        single = near and (is_static(x) or x.shape[-2] * y.shape[-2] > _FEW_PAIRS)
        dtype = torch.float32 if near else dtype
        plain = isinstance(root, float) and root == 1.0
        if not plain:
            x, y = x * root, y * root
        if reach is not None and reach <= chord.REACH and x.shape[-1] <= FEW:
            result = chord.distance(x, y)
        else:
            result = _Distance.apply(x, y, near, single)
        return (result if plain else result / root).to(dtype)


class _Distance(torch.autograd.Function):
    """float64 rows x (..., n, d), y (..., m, d) -> (..., n, m) at c = 1.

    `near`: no radii are far out, so there is no need to look; `single`: per pair in float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, near: bool, single: bool) -> Tensor:
        dtype = torch.float32 if single else torch.float64
        rx, ry = torch.linalg.vector_norm(x, dim=-1), torch.linalg.vector_norm(y, dim=-1)
        far = not near and (is_static(x) or float(rx.amax() + ry.amax()) > _FAR)
        rows, cols = _Radius.of(rx.to(dtype), far), _Radius.of(ry.to(dtype), far)
        s, t = reciprocal(rx), reciprocal(ry)
        values = _far_values if far else _near_values
        square: Tensor | None
        e: Tensor | None
        if x.shape[-1] > FEW or len(blocks := row_blocks(x, y)) == 1:
            rho, across, e = polar(x, y, rx, ry, s, t, dtype)
            result, by_e, by_rho, by_bend = values(rho.to(dtype), across.to(dtype), rows, cols)
            square = across
        else:
            # fresh pages cost more than arithmetic here: one place for the results, everything else within the cache
            pairs = (*x.shape[:-1], y.shape[-2])
            result, rho = x.new_empty(pairs, dtype=dtype), x.new_empty(pairs)
            by_e, by_rho, by_bend = x.new_empty(3, *pairs, dtype=dtype)
            square = e = None
            for i in blocks:
                rho_i, across, _ = polar(x[..., i, :], y, rx[..., i], ry, s[..., i], t, dtype)
                part = _Radius(*(each[..., i] for each in rows))
                found = values(rho_i.to(dtype), across, part, cols)
                for whole, block in zip((rho, result, by_e, by_rho, by_bend), (rho_i, *found), strict=True):
                    whole[..., i, :] = block
        ctx.save_for_backward(x, y, s, t, *rows, *cols, by_e, by_rho, by_bend, rho, square, e)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_result: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, y, s, t, *saved = ctx.saved_tensors
        rows, cols = _Radius(*saved[:4]), _Radius(*saved[4:8])
        by_e, by_rho, by_bend, rho, square, e = saved[8:]
        for_x, for_y = ctx.needs_input_grad[:2]
        across, along, bend = d_result * by_e, d_result * by_rho, d_result * by_bend
        to_x = across * cols.sinh.unsqueeze(-2) if for_x else None
        to_y = across * rows.sinh.unsqueeze(-1) if for_y else None
        dx, dy = pull(to_x, to_y, square, x, y, rho, s, t, e)
        if dx is not None:
            radial = (rows.cosh - rows.sinhc).mul_(times(bend, cols.sinh)).add_(along.sum(-1)) * s
            dx = (dx * rows.sinhc.unsqueeze(-1)).to(x.dtype).addcmul_(x, radial.unsqueeze(-1))
        if dy is not None:
            radial = (cols.cosh - cols.sinhc).mul_(times(bend.mT, rows.sinh)).sub_(along.sum(-2)) * t
            dy = (dy * cols.sinhc.unsqueeze(-1)).to(y.dtype).addcmul_(y, radial.unsqueeze(-1))
        return dx, dy, None, None


class _Radius(NamedTuple):
    """What depends on one side's lengths r (..., n) alone; all but r times exp(-r) where far."""

    r: Tensor
    sinh: Tensor
    cosh: Tensor
    sinhc: Tensor

    @classmethod
    def of(cls, r: Tensor, far: bool) -> _Radius:
        length = r.clamp_min(tiny(r))  # where sinh(r) / r is 1, and not 0 / 0
        if far:
            sinh, cosh = torch.expm1(-2 * length) / -2, (torch.exp(-2 * r) + 1) / 2
        else:
            sinh, cosh = torch.sinh(length), torch.cosh(r)
        return cls(r, sinh, cosh, sinh / length)


def _near_values(rho: Tensor, square: Tensor, rows: _Radius, cols: _Radius) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distance (..., n, m), and its derivatives by e (over the sinh of a side), by rho, and by sinh sinh.

    For r_x + r_y below 60. Equal rows have e = rho = 0, which takes their derivatives to 0 whatever stands for D.
    """
    both = reciprocal(rows.r.unsqueeze(-1) + cols.r.unsqueeze(-2))
    angle = (square * both).mul_(both)  # G
    rise = torch.sinh(rho * 0.5)
    rise_square = rise * rise
    z = torch.addcmul(rise_square, rows.sinh.unsqueeze(-1) * cols.sinh.unsqueeze(-2), angle)
    slope = (z + 1).mul_(z).sqrt_()
    # a result made in place has no gradient under torch.compile of PyTorch 2.11
    result = z.add_(slope).mul_(2).log1p()  # = 2 asinh(sqrt z)
    by_z = reciprocal(slope)
    by_rho = rise_square.add_(1).sqrt_().mul_(rise).mul_(by_z)
    return result, both.mul_(by_z), by_rho, angle.mul_(by_z)


def _far_values(rho: Tensor, square: Tensor, rows: _Radius, cols: _Radius) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `_near_values`, for any radii: z and 1 are both carried times w = exp(-(r_x + r_y))."""
    rx, ry = rows.r.unsqueeze(-1), cols.r.unsqueeze(-2)
    total = rx + ry
    both = reciprocal(total)
    on_a_ray = square <= rho * rho * _RAY
    angle = (square * both * both).masked_fill(on_a_ray, 0.0)
    top = torch.exp(-2 * torch.minimum(rx, ry)) / 4
    fall = torch.expm1(-rho.abs())
    z = fall * fall * top + rows.sinh.unsqueeze(-1) * cols.sinh.unsqueeze(-2) * angle
    w = torch.exp(-total)
    slope = torch.sqrt(z * (z + w))
    grown = 2 * (z + slope)
    # where w underflows: on a ray the distance is |rho|, elsewhere z is far above it
    beyond = torch.where(on_a_ray, rho.abs(), total + torch.log(w + grown))
    result = torch.where(total < _FAR, torch.log1p(grown / w), beyond)
    by_z = torch.where(on_a_ray, 0.0, 1 / slope)
    by_rho = torch.where(on_a_ray, 1.0, by_z * (fall + 2) * fall * top * -1) * torch.sign(rho)
    return result, by_z * both, by_rho, by_z * angle


class Clamped(nn.Module):
    """A positive number held as its logarithm, and kept within a factor of ten of where it started at every use.

    Args:
        initial: where it starts, > 0.
        learnable: whether the logarithm is a parameter, `log_value`; a fixed number has no state.

    Raises:
        SinkdError: if `initial` is not a finite number greater than 0.
    """

    def __init__(self, initial: float = 1.0, learnable: bool = False):
        super().__init__()
        if not 0 < initial < math.inf:
            raise SinkdError(f"{type(self).__name__.lower()} is {initial}; it must be a number greater than 0")
        self.initial = float(initial)
        self.log_value = nn.Parameter(torch.tensor(math.log(initial))) if learnable else None

    @property
    def largest(self) -> float:
        """The most that the number can become."""
        return self.initial if self.log_value is None else self.initial * 10

    def forward(self) -> float | Tensor:
        """The number; if learnable, a clamped float64 tensor without dimensions, with a gradient within the clamp."""
        if self.log_value is None:
            return self.initial
        low, high = math.log(self.initial / 10), math.log(self.initial * 10)
        return self.log_value.double().clamp(low, high).exp()

    def extra_repr(self) -> str:
        return f"initial={self.initial}, learnable={self.log_value is not None}"


class Curvature(Clamped):
    """c of the hyperboloid of curvature -c, fixed or learnable.

    Minimising a transport loss over c alone drives it to a bound: to the lower one while rows are far apart, to
    the upper one once they match. Give it no weight decay and a learning rate of its own, or leave it
    fixed (the default, as published).

    >>> Curvature(2.0)()
    2.0
    """


def _check(x: Tensor, y: Tensor, c: float | Tensor) -> None:
    if x.dim() < 2 or x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]:
        raise SinkdError(
            f"lorentz: rows of shapes {tuple(x.shape)} and {tuple(y.shape)} do not pair; "
            "expected (..., n, d) and (..., m, d)"
        )
    if isinstance(c, Tensor):
        if c.numel() != 1:
            raise SinkdError(f"lorentz: curvature has shape {tuple(c.shape)}; it must be one number")
    elif not c > 0:
        raise SinkdError(f"lorentz: curvature is {c}; it must be greater than 0")
