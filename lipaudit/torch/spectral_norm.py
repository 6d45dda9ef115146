"""Spectral normalization with the true norm: W·c/σ, σ the norm of the layer's real operator.

torch.nn.utils.parametrizations.spectral_norm divides a convolution by the norm of its kernel laid
out as a matrix, which is another number (low or high by up to √(taps)). Here σ is that of the
convolution with its stride, dilation, groups and padding, by a step of warm-started power
iteration for each forward pass in training.

The divisor σ/c is a buffer. In inference it is used as it is, so that the weight is a quotient of
two stored tensors, `parametrizations.weight.original` and `parametrizations.weight.0._divisor`,
that anybody can form who reads the checkpoint; lipaudit does.
"""

from typing import final

import torch
from torch import nn
from torch.nn.utils import parametrize

from lipaudit.analysis import shapes
from lipaudit.analysis.shapes import InputShape
from lipaudit.errors import UsageError
from lipaudit.operators.base import Shape
from lipaudit.operators.geometry import ConvGeometry
from lipaudit.torch.layers import Layer, count_of, geometry_of, limit_of
from lipaudit.torch.probe import AbstractProbe, probe

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@final
class SpectralNorm(nn.Module):
    """The parametrization: W -> W / divisor, the divisor ‖W‖/to as far as power iteration knows."""

    _divisor: torch.Tensor

    def __init__(
        self,
        weight: torch.Tensor,
        geometry: ConvGeometry | None = None,
        in_shape: Shape | None = None,
        *,
        to: float = 1.0,
        only_above: bool = False,
        n_power_iterations: int = 1,
        eps: float = 1e-12,
        dim: int = 0,
    ) -> None:
        """Take first steps of power iteration for this weight."""
        super().__init__()
        self.to_norm, self.only_above = to, only_above
        self.n_power_iterations, self.eps = n_power_iterations, eps
        self.geometry, self.in_shape = geometry, in_shape
        start = _computable(weight.detach())
        self.probe: AbstractProbe | None = None
        if weight.dim() > 1:
            self.probe = probe(start, geometry, in_shape, dim=dim, eps=eps, like_torch=True)
        self.register_buffer("_divisor", torch.ones((), dtype=start.dtype, device=start.device))
        with torch.no_grad():
            self._divisor.copy_(self._from_norm(self._norm(start, steps=0)))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Divide: in training by what a step of power iteration finds, else by what is stored."""
        if not self.training:
            return (weight / self._divisor.to(_precision(weight), copy=True)).to(weight.dtype)
        divisor = self._from_norm(self._norm(_computable(weight), self.n_power_iterations))
        with torch.no_grad():
            self._divisor.copy_(divisor)
        return (weight / divisor).to(weight.dtype)

    def right_inverse(self, value: torch.Tensor) -> torch.Tensor:
        """Return what is to be stored for a weight: itself, as torch's spectral_norm does."""
        return value

    @torch.no_grad()
    def hold(self, divisor: float) -> None:
        """Store a divisor for inference, not below what `only_above` and eps allow."""
        self._divisor.fill_(max(divisor, 1.0 if self.only_above else self.eps))

    @property
    def grain(self) -> float:
        """The relative spacing of divisors."""
        return torch.finfo(self._divisor.dtype).eps

    def _norm(self, weight: torch.Tensor, steps: int) -> torch.Tensor:
        """Return a lower bound of the norm, differentiable in the weight."""
        if self.probe is None:
            length: torch.Tensor = torch.linalg.vector_norm(weight)
            return length
        return (weight * self.probe.step(weight.detach(), steps)).sum()

    def _from_norm(self, norm: torch.Tensor) -> torch.Tensor:
        # What is zero but for rounding has no direction to be enlarged in: it is left as it is.
        least = torch.full_like(norm, max(1.0, self.eps / self.to_norm))
        divisor = torch.where(norm < self.eps, least, norm / self.to_norm)
        return divisor.clamp(min=1.0) if self.only_above else divisor


def spectral_norm(
    module: nn.Module,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
    *,
    to: float = 1.0,
    only_above: bool = False,
    input_shape: InputShape = None,
) -> nn.Module:
    """Divide a layer's weight by its true operator norm, in place of torch's spectral_norm.

    The same call with the same meaning as `torch.nn.utils.parametrizations.spectral_norm`; on
    dense layers the same numbers. Convolutions (also transposed, strided, dilated, grouped) are
    divided by the norm of the convolution: on inputs of `input_shape`, (channels, *sizes) of what
    this layer receives, with its padding; without a shape by the supremum over all sizes.

    The weight becomes W·to/σ, also where that enlarges it; with `only_above` W·min(1, to/σ). One of
    norm below `eps` (a layer that starts at zero) is not enlarged, so that its gradients stay
    finite. σ comes from power iteration, so it is a lower bound that converges in training: the
    norm is near `to`, and `settle_` or `certify_` make it a proved one. Reflect and replicate
    padding, which can stretch more than the kernel does, count when `input_shape` is given, or in
    `settle_`.
    In inference the divisor of the last forward pass in training is used, unchanged.
    """
    to = limit_of(to)
    n_power_iterations = count_of("n_power_iterations", n_power_iterations, "spectral")
    weight = getattr(module, name, None)
    if not isinstance(weight, torch.Tensor):
        raise UsageError(
            f"module {type(module).__name__} has no parameter or buffer {name!r}", slug="spectral"
        )
    geometry = geometry_of(module) if name == "weight" else None
    stated = shapes.of_examples(input_shape)
    if len(stated) > 1 or (stated and geometry is None):
        raise UsageError("input_shape is for one convolution", slug="spectral")
    in_shape = stated[0] if stated else None
    if in_shape is not None and geometry is not None and len(in_shape) != geometry.rank + 1:
        raise UsageError(f"input_shape {in_shape} is not (channels, *sizes)", slug="spectral")
    made = SpectralNorm(
        weight,
        geometry,
        in_shape,
        to=to,
        only_above=only_above,
        n_power_iterations=n_power_iterations,
        eps=eps,
        dim=(1 if isinstance(module, _TRANSPOSED) else 0) if dim is None else dim,
    )
    parametrize.register_parametrization(module, name, made)
    return module


def held_by(layer: Layer) -> SpectralNorm | None:
    """Return the parametrization of a layer's weight, if it is the only one and ours."""
    parts = [] if layer.chain is None else list(layer.chain.children())
    return parts[0] if len(parts) == 1 and isinstance(parts[0], SpectralNorm) else None


def _computable(weight: torch.Tensor) -> torch.Tensor:
    return weight.to(_precision(weight))


def _precision(weight: torch.Tensor) -> torch.dtype:
    return weight.dtype if weight.dtype in {torch.float32, torch.float64} else torch.float32
