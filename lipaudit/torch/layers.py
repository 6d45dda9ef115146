"""Layers: which weights of a live module are linear maps, and how they are read and replaced.

A weight that a parametrization computes (`torch.nn.utils.parametrize`) is replaced through the
right inverses of the parametrization, and read back: where it does not keep what it is given
(torch's spectral_norm divides again), the old values are put back.
"""

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import SupportsFloat, SupportsIndex, final

import torch
from torch import nn
from torch.nn.utils import parametrize

from lipaudit import device as devices
from lipaudit import globs
from lipaudit.device import CPU, Compute
from lipaudit.errors import UsageError
from lipaudit.operators.geometry import ConvGeometry, PaddingMode
from lipaudit.report.text import short

_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_KEPT = {torch.float64: 1e-6, torch.float32: 1e-3}
"""How far (relative) a weight may come back changed from a parametrization, to be the same."""
_KEPT_COARSE = 5e-2
NOT_FINITE = "its weight is not finite"
NOT_KEPT = "its parametrization does not keep what it is given"
_UNINITIALIZED = "its weight is not initialized yet"
_NO_NUMBERS = "its weight holds no real numbers"
_OTHER_FORWARD = "its forward is not that of torch, so that it need not be a linear map"
_ABSENT = (_UNINITIALIZED, _NO_NUMBERS, _OTHER_FORWARD)
_NORMALIZATIONS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One weight of a module that is a linear map, or a module whose weights are none."""

    name: str
    module: nn.Module
    geometry: ConvGeometry | None
    """None for a dense layer."""
    reason: str = ""
    """Why the weight cannot be replaced; empty when it can."""
    is_covered: bool = True
    """Whether it is of a kind whose norm is known here: dense, or a convolution."""

    @property
    def chain(self) -> parametrize.ParametrizationList | None:
        """What computes the weight; None where it is a parameter of its own."""
        return _chain(self.module)

    @property
    def stored(self) -> frozenset[int]:
        """The parameters of which the weight is made: writing to one changes it."""
        chain = self.chain
        if chain is not None:
            return frozenset(map(id, chain.parameters()))
        own = self.module.named_parameters(recurse=False)
        return frozenset(id(part) for name, part in own if name.startswith("weight"))

    @property
    def key(self) -> int:
        """Equal for layers that share their weight."""
        chain = self.chain
        if chain is None:
            return id(self.module.weight)
        return id(next(chain.parameters(), chain))

    @property
    def is_absent(self) -> bool:
        """Whether there is no weight to be read, or none of which the norm is the layer's."""
        return not self.is_covered or self.reason in _ABSENT

    def read(self) -> torch.Tensor:
        """Return the effective weight as it is in inference, detached."""
        chain = self.chain
        if chain is None:
            weight = self.module.weight
            if not isinstance(weight, torch.Tensor):
                raise TypeError(f"the weight of {self.name!r} is no tensor")
            return weight.detach()
        modes = [(part, part.training) for part in chain.modules()]
        chain.eval()
        try:
            with torch.no_grad():
                made: torch.Tensor = chain()
        finally:
            for part, mode in modes:
                part.training = mode
        return made.detach()

    def values(self) -> torch.Tensor:
        """Return the effective weight in a precision to compute in: float32 at least."""
        weight = self.read()
        return weight if weight.dtype in _KEPT else weight.float()

    @torch.no_grad()
    def write(self, value: torch.Tensor) -> bool:
        """Replace the effective weight; False where its parametrization does not keep it."""
        chain = self.chain
        if chain is None:
            weight = self.module.weight
            if isinstance(weight, torch.Tensor):
                weight.copy_(value)
            return True
        stored = {key: value.detach().clone() for key, value in chain.state_dict().items()}
        wanted = value.to(self.read().dtype)
        try:
            chain.right_inverse(wanted)
            kept = self._holds(wanted)
        except (RuntimeError, ValueError, NotImplementedError):
            kept = False
        if not kept:
            chain.load_state_dict(stored)
        return kept

    def _holds(self, wanted: torch.Tensor) -> bool:
        """Tell whether the effective weight is the wanted one."""
        away = float(torch.linalg.vector_norm((self.read() - wanted).float()))
        size = float(torch.linalg.vector_norm(wanted.float()))
        return away <= _KEPT.get(wanted.dtype, _KEPT_COARSE) * size


def find(module: nn.Module, glob: str | None) -> tuple[Layer, ...]:
    """Return the layers whose names match, each once: dense and convolution layers.

    Modules with other weights (recurrent, attention, embedding) come with them, not covered.
    Raises where one of the globs matches nothing.
    """
    layers = tuple(_layers(module))
    if glob is None:
        return layers
    check_glob(glob)
    chosen: set[str] = set()
    for part in globs.parts(glob):
        names = [layer.name for layer in layers if globs.matches(layer.name, part)]
        if not names:
            raise UsageError(
                f"layers={part!r} matches no layer",
                slug="clip-layers",
                hint="layers are named as in named_modules()",
            )
        chosen.update(names)
    return tuple(layer for layer in layers if layer.name in chosen)


def check_glob(glob: str | None) -> None:
    """Raise unless the names of layers are one string, or None."""
    if not isinstance(glob, str | None):
        raise UsageError(
            f"layers is a {type(glob).__name__}",
            slug="clip-layers",
            hint='one string, several names with commas: "conv*, fc"',
        )


def limit_of(to: SupportsFloat) -> float:
    """Return a limit as a number of double precision; raise unless it is positive and finite.

    Once for all: compared with a float32 tensor, 0.5000000003 would be at most 0.5.
    """
    try:
        limit = math.nan if isinstance(to, str | bytes) else float(to)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        limit = math.nan
    if not (limit > 0 and math.isfinite(limit)):
        raise UsageError(
            f"cannot clip to {short(repr(to))}", slug="clip-limit", hint="to is a positive number"
        )
    return limit


def count_of(name: str, value: SupportsIndex, slug: str, least: int = 1) -> int:
    """Return a count as an int; raise unless it is a whole number of `least` or more."""
    try:
        count = operator.index(value)
    except TypeError:
        count = least - 1
    if count < least:
        raise UsageError(
            f"{name}={short(repr(value))}",
            slug=slug,
            hint=f"{name} is a whole number, at least {least}",
        )
    return count


def compute_for(tensor: torch.Tensor) -> Compute:
    """Return where to compute: the tensor's device, if it has the linear algebra."""
    try:
        return devices.choose(str(tensor.device), full_spectra=False)
    except UsageError:
        return Compute(CPU, full_spectra=False)


def geometry_of(module: nn.Module) -> ConvGeometry | None:
    """Return the geometry of a convolution module, None for any other."""
    if not isinstance(module, _CONVOLUTIONS):
        return None
    reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    if module.padding == "same":
        padding = tuple((total // 2, total - total // 2) for total in reach)
    elif isinstance(module.padding, str):
        padding = ((0, 0),) * len(reach)
    else:
        padding = tuple((pad, pad) for pad in module.padding)
    return ConvGeometry(
        stride=tuple(module.stride),
        padding=padding,
        dilation=tuple(module.dilation),
        groups=module.groups,
        mode=PaddingMode(module.padding_mode),
        transposed=module.transposed,
        output_padding=tuple(module.output_padding) if module.transposed else (),
    )


def _layers(module: nn.Module) -> Iterator[Layer]:
    computed: set[nn.Module] = set()
    for name, part in module.named_modules():
        if isinstance(part, parametrize.ParametrizationList):
            computed.update(part.modules())
        if part in computed:
            continue
        title = name or type(part).__name__
        if isinstance(part, (*_CONVOLUTIONS, nn.Linear)):
            yield Layer(title, part, geometry_of(part), _obstacle(part))
        elif others := _other_weights(part):
            why = f"{type(part).__name__} has weights of another kind: {', '.join(others)}"
            yield Layer(title, part, None, why, is_covered=False)


def _other_weights(module: nn.Module) -> list[str]:
    """Return names of a module's own tensors of two axes or more, of which no norm is known."""
    if isinstance(module, _NORMALIZATIONS):
        return []
    own = [
        name
        for name, part in module.named_parameters(recurse=False)
        if nn.parameter.is_lazy(part) or part.dim() > 1
    ]
    chains = getattr(module, "parametrizations", None)
    return own + (list(chains) if isinstance(chains, nn.ModuleDict) else [])


def _obstacle(module: nn.Module) -> str:
    """Say why a weight cannot be replaced."""
    if not _runs_as_torch(module):
        return _OTHER_FORWARD
    if isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():
        return _UNINITIALIZED
    chain = _chain(module)
    if chain is not None:
        missing = [part for part in chain.children() if not hasattr(part, "right_inverse")]
        if missing:
            return f"its parametrization {type(missing[0]).__name__} has no right inverse"
    elif "weight" not in dict(module.named_parameters(recurse=False)):
        return "its weight is computed by a hook; torch.nn.utils.parametrizations can be written to"
    weight = module.weight if chain is None else next(chain.parameters(), None)
    if isinstance(weight, torch.Tensor) and weight.is_floating_point() and not weight.is_meta:
        return ""
    return _NO_NUMBERS


def _runs_as_torch(module: nn.Module) -> bool:
    """Tell whether a module does with its weight what torch's own class does."""
    own = next(kind for kind in (*_CONVOLUTIONS, nn.Linear) if isinstance(module, kind))
    return all(
        name not in vars(module) and getattr(type(module), name, None) is getattr(own, name, None)
        for name in ("forward", "_conv_forward", "__call__")
    )


def _chain(module: nn.Module) -> parametrize.ParametrizationList | None:
    """Return what computes the weight, None where it is a parameter of its own."""
    if not parametrize.is_parametrized(module, "weight"):
        return None
    chains = module.parametrizations
    found = chains["weight"] if isinstance(chains, nn.ModuleDict) else None
    return found if isinstance(found, parametrize.ParametrizationList) else None
