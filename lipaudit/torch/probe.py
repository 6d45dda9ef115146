"""Probes: power iteration that remembers where it was, one cheap step at a time.

A probe keeps vectors of unit length in buffers. A step improves them for the weight as it is now
and returns M with σ = <W, M>, a lower bound of the layer's norm, attained by the vectors. M is
also the derivative of σ in W (the vectors are stationary), so that <W, M> is differentiable the
way torch's own spectral_norm is, σ = uᵀWv with u and v detached.
"""

import abc
import math
from typing import final

import torch
from torch import nn
from torch.nn import functional

from lipaudit.operators.base import Shape
from lipaudit.operators.correlation import Correlation
from lipaudit.operators.geometry import ConvGeometry
from lipaudit.operators.single_pass import Torus

FIRST_STEPS = 15
"""Steps on the weight that a probe is made for, as many as torch's spectral_norm takes."""


class AbstractProbe(nn.Module, abc.ABC):
    """Vectors that show about the norm of one layer."""

    shape: Shape
    """Of the weight."""

    def step(self, weight: torch.Tensor, steps: int) -> torch.Tensor:
        """Improve the vectors for this weight (float32 or float64, detached); return M.

        A vector that is zero or not finite, after a weight that was, is replaced by a fresh one.
        """
        return self._improved(near_one(weight)[0], steps)

    @abc.abstractmethod
    def _improved(self, weight: torch.Tensor, steps: int) -> torch.Tensor:
        """See `step`; the items of the weight are at most 1."""


def near_one(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a weight times 2^-e, its largest item between 1/2 and 1, and e.

    Exact but for items that are lost beside the largest one. Squares of items of 1e35 or 1e-42
    do not exist in single precision.
    """
    if not weight.numel():
        return weight, torch.zeros((), dtype=torch.int32, device=weight.device)
    exponent = torch.frexp(weight.abs().amax()).exponent
    # In halves: the whole power need not exist.
    half = torch.div(exponent, 2, rounding_mode="floor")
    return torch.ldexp(torch.ldexp(weight, -half), half - exponent), exponent


def probe(
    weight: torch.Tensor,
    geometry: ConvGeometry | None,
    in_shape: Shape | None,
    *,
    dim: int = 0,
    eps: float = 1e-12,
    like_torch: bool = False,
) -> AbstractProbe:
    """Return a probe that has taken its first steps.

    `like_torch` draws the vectors of a matrix from torch's global generator, as its spectral_norm
    does; else the user's random numbers stay as they were.
    """
    made: AbstractProbe
    if geometry is None:
        made = DenseProbe(weight, dim, eps, like_torch=like_torch)
    elif in_shape is not None:
        made = SizedProbe(weight, geometry, in_shape)
    else:
        made = SymbolProbe(weight, geometry)
    made.step(weight, FIRST_STEPS)
    return made


@final
class DenseProbe(AbstractProbe):
    """A matrix, or a tensor laid out as one: `dim` counts its rows."""

    _u: torch.Tensor
    _v: torch.Tensor

    def __init__(self, weight: torch.Tensor, dim: int, eps: float, *, like_torch: bool) -> None:
        """Draw the vectors."""
        super().__init__()
        self.shape = tuple(weight.shape)
        self._dim, self._eps = dim % weight.dim(), eps
        matrix = self._matrix(weight)
        for name, size in zip(("_u", "_v"), matrix.shape, strict=True):
            drawn = matrix.new_empty(size).normal_() if like_torch else _drawn((size,), matrix)
            self.register_buffer(name, functional.normalize(drawn, dim=0, eps=eps))

    @torch.no_grad()
    def _improved(self, weight: torch.Tensor, steps: int) -> torch.Tensor:
        """See `AbstractProbe.step`."""
        matrix = self._matrix(weight)
        u, v = self._u.to(matrix), _alive(self._v.to(matrix), 0)
        for _ in range(steps):
            u = functional.normalize(torch.mv(matrix, v), dim=0, eps=self._eps)
            v = functional.normalize(torch.mv(matrix.mT, u), dim=0, eps=self._eps)
        self._u.copy_(u)
        self._v.copy_(v)
        shape = weight.movedim(self._dim, 0).shape
        return torch.outer(u, v).reshape(shape).movedim(0, self._dim)

    def _matrix(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.movedim(self._dim, 0).flatten(1)


@final
class SizedProbe(AbstractProbe):
    """A convolution on inputs of one size, with its own padding, stride and groups."""

    _v: torch.Tensor

    def __init__(self, weight: torch.Tensor, geometry: ConvGeometry, in_shape: Shape) -> None:
        """Draw a signal."""
        super().__init__()
        self.shape = tuple(weight.shape)
        self._geometry, self._in_shape = geometry, in_shape
        drawn = _drawn(in_shape, weight)
        self.register_buffer("_v", drawn / torch.linalg.vector_norm(drawn))

    @torch.no_grad()
    def _improved(self, weight: torch.Tensor, steps: int) -> torch.Tensor:
        """See `AbstractProbe.step`."""
        operator = Correlation(weight, self._geometry, self._in_shape)
        v = _alive(self._v.to(weight), tuple(range(self._v.dim()))).unsqueeze(0)
        u = _unit(operator.apply(v))
        for _ in range(steps):
            v = _unit(operator.adjoint(u))
            u = _unit(operator.apply(v))
        self._v.copy_(v.squeeze(0))
        with torch.enable_grad():
            kernel = weight.clone().requires_grad_()
            image = Correlation(kernel, self._geometry, self._in_shape).apply(v)
            (derivative,) = torch.autograd.grad((u * image).sum(), kernel)
        return derivative


@final
class SymbolProbe(AbstractProbe):
    """A convolution on inputs of any size: its symbol on a torus, and one point that climbs.

    At every frequency of a torus of four points a tap a vector of its own is iterated, so that
    the largest norm may move from one frequency to another. From the best one a point climbs to
    the maximum between the frequencies, a step of gradient ascent at a time.
    """

    _offsets: torch.Tensor
    _angles: torch.Tensor
    _places: torch.Tensor
    _vectors: torch.Tensor
    _climber: torch.Tensor
    _angle: torch.Tensor
    _group: torch.Tensor

    def __init__(self, weight: torch.Tensor, geometry: ConvGeometry) -> None:
        """Draw a vector for each frequency and group."""
        super().__init__()
        self.shape = tuple(weight.shape)
        torus = Torus.of(tuple(weight.shape), geometry, None)
        places, phases = torus.taps
        self._groups, self._phases = geometry.groups, phases
        # Centred, the phase that all taps share does not matter to a gradient in θ.
        offsets = torch.tensor([place[0] for place in places]).to(weight)
        centre = (offsets.amax(0) + offsets.amin(0)) / 2.0
        angles = torus.angles.to(weight)
        drawn = _drawn((self._groups, len(angles), phases * weight.shape[1], 2), weight)
        for name, fixed in (
            ("_offsets", offsets - centre),
            ("_angles", angles),
            ("_places", torch.tensor([place[1] for place in places], device=weight.device)),
        ):
            self.register_buffer(name, fixed, persistent=False)
        for name, moving in (
            ("_vectors", drawn / _lengths(drawn)),
            ("_climber", drawn[0, 0] / _lengths(drawn)[0, 0]),
            ("_angle", angles[0].clone()),
            ("_group", torch.zeros((), dtype=torch.int64, device=weight.device)),
        ):
            self.register_buffer(name, moving)

    @torch.no_grad()
    def _improved(self, weight: torch.Tensor, steps: int) -> torch.Tensor:
        """See `AbstractProbe.step`."""
        taps = self._taps(weight)
        turns = _turns(self._offsets, self._angles, weight)
        stored = _alive(self._vectors.to(weight), (-2, -1))
        vectors = torch.view_as_complex(stored.contiguous()).mT
        images = self._images(taps, turns, vectors)
        for _ in range(steps):
            vectors = _columns(self._preimages(taps, turns, _columns(images)))
            images = self._images(taps, turns, vectors)
        self._vectors.copy_(torch.view_as_real(vectors.mT))
        sizes = torch.linalg.vector_norm(images, dim=1)
        best = int(sizes.argmax())
        group, at = divmod(best, sizes.shape[1])
        self._start(taps, float(sizes.flatten()[best]), vectors[group, :, at], group, at)
        return self._climbed(taps, steps).reshape(weight.shape)

    def _start(
        self, taps: torch.Tensor, size: float, vector: torch.Tensor, group: int, at: int
    ) -> None:
        """Let the climber start anew where the torus is higher."""
        own = torch.view_as_complex(self._climber.to(taps).contiguous())
        turn = _turns(self._offsets, self._angle[None], taps)
        here = self._images(taps[:, self._group][:, None], turn, own[None, :, None])
        # Also where it is not a number.
        if not float(torch.linalg.vector_norm(here)) >= size:
            self._climber.copy_(torch.view_as_real(vector))
            self._angle.copy_(self._angles[at])
            self._group.fill_(group)

    def _climbed(self, taps: torch.Tensor, steps: int) -> torch.Tensor:
        """Move the climber, and return M of it."""
        group = int(self._group)
        own = taps[:, group : group + 1]
        vector = torch.view_as_complex(self._climber.to(taps).contiguous())[None, :, None]
        # |d²/dδ²| of a symbol of degree r is at most (Σ r|δ|)²·σ, by Bernstein.
        radii = self._offsets.abs().amax(0)
        scale = (radii.square() * len(radii)).clamp(min=1e-9)
        angle = self._angle
        for _ in range(steps):
            turn = _turns(self._offsets, angle[None], taps)
            left = _columns(self._images(own, turn, vector))
            vector = _columns(self._preimages(own, turn, left))
            terms = self._terms(own, turn, left, vector)
            total = terms.sum()
            slopes = (-1j * self._offsets.to(terms) * terms[:, None]).sum(0)
            gradient = (total.conj() * slopes).real / total.abs().square().clamp(min=1e-30)
            angle = angle + gradient.to(angle) / scale
        turn = _turns(self._offsets, angle[None], taps)
        image = self._images(own, turn, vector)
        left = _columns(image)
        self._angle.copy_(angle)
        self._climber.copy_(torch.view_as_real(vector[0, :, 0]))
        right = self._seen(vector)[:, 0, :, 0]
        outer = left[0, :, 0].conj()[None, :, None] * right[:, None, :] * turn[:, 0, None, None]
        derivative = torch.zeros_like(taps)
        derivative[:, group] = outer.real
        return derivative.permute(1, 2, 3, 0)

    def _taps(self, weight: torch.Tensor) -> torch.Tensor:
        """Lay a kernel out as (taps, groups, rows, inner)."""
        out, inner = weight.shape[:2]
        flat = weight.reshape(self._groups, out // self._groups, inner, -1)
        return flat.permute(3, 0, 1, 2).contiguous()

    def _seen(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return what each tap reads: (taps, groups, inner, frequencies)."""
        groups, _, count = vectors.shape
        return vectors.reshape(groups, self._phases, -1, count)[:, self._places].transpose(0, 1)

    def _images(
        self, taps: torch.Tensor, turns: torch.Tensor, vectors: torch.Tensor
    ) -> torch.Tensor:
        """Return P(θ)v for vectors (groups, columns, frequencies)."""
        turned = self._seen(vectors) * turns[:, None, None]
        return _real_times(taps, turned).sum(0)

    def _preimages(
        self, taps: torch.Tensor, turns: torch.Tensor, vectors: torch.Tensor
    ) -> torch.Tensor:
        """Return P(θ)ᴴu for vectors (groups, rows, frequencies)."""
        turned = vectors * turns.conj()[:, None, None]
        parts = _real_times(taps.mT, turned)
        whole = parts.new_zeros(self._phases, *parts.shape[1:])
        whole.index_add_(0, self._places, parts)
        return whole.transpose(0, 1).flatten(1, 2)

    def _terms(
        self, taps: torch.Tensor, turn: torch.Tensor, left: torch.Tensor, right: torch.Tensor
    ) -> torch.Tensor:
        """Return uᴴK_t v e^{-i o_t θ} of each tap."""
        images = _real_times(taps, self._seen(right) * turn[:, None, None])
        return (left.conj() * images).sum((1, 2, 3))


def _turns(offsets: torch.Tensor, angles: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return e^{-i o·θ}: (taps, frequencies)."""
    turned = offsets @ angles.mT
    return torch.complex(turned.cos().to(like), -turned.sin().to(like))


def _real_times(matrices: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Multiply real matrices with complex columns, as one real product."""
    parts = torch.view_as_real(vectors.contiguous()).flatten(-2)
    found = matrices @ parts
    return torch.view_as_complex(found.reshape(*found.shape[:-1], -1, 2))


def _columns(vectors: torch.Tensor) -> torch.Tensor:
    """Scale columns to unit length; a column of zeros stays one."""
    lengths = torch.linalg.vector_norm(vectors, dim=-2, keepdim=True)
    unit: torch.Tensor = vectors / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)
    return unit


def _lengths(vectors: torch.Tensor) -> torch.Tensor:
    lengths: torch.Tensor = torch.linalg.vector_norm(vectors, dim=(-2, -1), keepdim=True)
    return lengths


def _unit(signal: torch.Tensor) -> torch.Tensor:
    length = torch.linalg.vector_norm(signal)
    unit: torch.Tensor = signal / length.clamp(min=torch.finfo(signal.dtype).tiny)
    return unit


def _alive(vectors: torch.Tensor, axes: int | tuple[int, ...]) -> torch.Tensor:
    """Replace vectors that power iteration cannot leave again: of length zero, or not finite.

    By cosines of 1, 2, 3, ..., which are drawn on any device without waiting for it.
    """
    lengths = torch.linalg.vector_norm(vectors, dim=axes, keepdim=True)
    count = torch.arange(1, vectors.numel() + 1, device=vectors.device)
    fresh = count.to(vectors.dtype).cos().reshape(vectors.shape)
    fresh = fresh / torch.linalg.vector_norm(fresh, dim=axes, keepdim=True)
    alive: torch.Tensor = torch.where((lengths > 0) & lengths.isfinite(), vectors, fresh)
    return alive


def _drawn(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Draw from a generator of our own."""
    generator = torch.Generator().manual_seed(math.prod(shape) % (1 << 31))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(like)
