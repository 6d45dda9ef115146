"""Samples: what real inputs add to a bound: certified radii, and how far layers stretch them.

f is L-Lipschitz (ℓ2), so the difference of two of its outputs, f_i - f_j = <e_i - e_j, f>, is
√2·L-Lipschitz, since ‖e_i - e_j‖ = √2. With the margin m = f_i(x) - max_{j≠i} f_j(x) > 0, class
i stays the largest for every ‖d‖ < m / (√2·L) (Tsuzuku, Sato & Sugiyama, "Lipschitz-Margin
Training", NeurIPS 2018, proposition 1).

For the network f̂ as a machine runs it, within E of f (ℓ2) at x + d, the same argument takes
√2·E off: f̂_i - f̂_j >= f_i - f_j - ‖e_i - e_j‖·E >= m - √2·(L‖d‖ + E). One E, not two, because m is
the margin of f, not of f̂ (whose margin may be √2·E above f's). So the radius is
(m - √2·E) / (√2·L), where it does not leave the region for which E was stated.
"""

import math
import statistics
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lipaudit.analysis.forward import Forward, Rows, at_hand, observed
from lipaudit.analysis.layerwise import title
from lipaudit.enclosure import ZERO, Enclosure, Rigor
from lipaudit.errors import NotCertified, UsageError
from lipaudit.graph.constant import Shape
from lipaudit.graph.dtypes import torch_type
from lipaudit.layers.base import AbstractLinearLayer
from lipaudit.layers.execution import load
from lipaudit.layers.invocation import invoke
from lipaudit.layers.network import Network, Opaque, Step
from lipaudit.results import Certificates

_INPUT_NAMES = ("inputs", "x", "X")
_LABEL_NAMES = ("labels", "y", "Y")
_HINT = "write it with numpy.savez(path, inputs=x, labels=y), the first axis counting the samples"
_MOST_BYTES = 8 << 30
_ROUNDING = 1e-9
"""What is taken off a margin for the rounding of the float64 run, relative to the largest
output: sums of 10^6 products err by less, unless they cancel to a millionth."""
_ROWS = 64
# What numpy and zipfile raise on damaged, encrypted, pickled or oversized content.
_UNREADABLE = (
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)
_ROOT_TWO = Enclosure.sqrt_of(2)


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs of a network, one a row, and the class of each where the file tells it."""

    inputs: torch.Tensor
    labels: torch.Tensor | None
    path: str = ""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.inputs)


@dataclass(frozen=True, slots=True)
class Region:
    """The convex set of inputs on which L and E hold: a sample and what it becomes lie in it."""

    box: tuple[float, float] | None = None
    radius: float | None = None

    def holds(self, inputs: torch.Tensor) -> torch.Tensor:
        """Tell for each row whether it lies inside."""
        rows = inputs.double().flatten(1)
        inside = torch.ones(len(rows), dtype=torch.bool)
        if self.box is not None:
            inside &= (rows >= self.box[0]).all(1) & (rows <= self.box[1]).all(1)
        if self.radius is not None:
            inside &= torch.linalg.vector_norm(rows, dim=1) * (1 + _ROUNDING) <= self.radius
        return inside

    @property
    def text(self) -> str:
        """What it is, "" for everything."""
        box = f"in [{self.box[0]:g}, {self.box[1]:g}]" if self.box is not None else ""
        radius = f"of norm at most {self.radius:g}" if self.radius is not None else ""
        return " and ".join(filter(None, (box, radius)))


def load_samples(path: str | Path) -> Samples:
    """Read inputs from a .npy file, or inputs and labels from an .npz file."""
    name = str(path)
    try:
        with Path(name).open("rb") as file:
            arrays = _arrays(np.load(file, allow_pickle=False), name)
    except OSError as error:
        raise _problem(name, error.strerror or "it cannot be read") from error
    except _UNREADABLE as error:
        raise _problem(name, "no arrays of numbers that numpy can read without pickle") from error
    found = [key for key in _INPUT_NAMES if key in arrays]
    if not found:
        listed = ", ".join(repr(key) for key in arrays) or "none"
        raise _problem(name, f"no array is called 'inputs' or 'x' (there is: {listed})")
    inputs = _numbers(arrays[found[0]], name, found[0])
    label_key = next((key for key in _LABEL_NAMES if key in arrays), None)
    labels = None if label_key is None else _classes(arrays[label_key], len(inputs), name)
    return Samples(inputs, labels, name)


def starts(network: Network, samples: Samples) -> Rows:
    """Return the samples as the network's input, by its name."""
    edges = network.graph.inputs
    if len(edges) != 1:
        raise _problem(samples.path, f"the network has {len(edges)} inputs, samples are for one")
    shape = network.shapes.get(edges[0].name)
    if shape is None:
        raise _problem(
            samples.path, f"the shape of {edges[0].name!r} is not known", "give --input-shape"
        )
    rows = as_rows(samples.inputs, shape, edges[0].name, samples.path)
    dtype = torch_type(edges[0].dtype) or torch.float64
    return {edges[0].name: rows.to(torch.float64 if dtype.is_floating_point else dtype)}


def as_rows(values: torch.Tensor, shape: Shape, name: str, path: str = "") -> torch.Tensor:
    """Return samples as inputs of that shape, one a row; they may lack its batch axis of 1."""
    own = tuple(values.shape[1:])
    if own == shape or (shape[:1] == (1,) and own == shape[1:]):
        return values.reshape(len(values), *shape)
    raise _problem(
        path,
        f"samples of shape {_written(own)} do not fit input {name!r} of {_written(shape)}",
        "the first axis of the file counts the samples",
    )


def margins(
    network: Network,
    samples: Samples,
    upper: Enclosure,
    *,
    distances: Sequence[float] = (),
    executed_error: Enclosure = ZERO,
    region: Region | None = None,
) -> Certificates:
    """Certify the class of every sample, given an upper bound of the Lipschitz constant.

    A radius is about inputs of the region only, and 0 for a sample outside of it.

    `executed_error` bounds the distance (ℓ2) between the outputs of the running network and
    those of the exact one; 0 certifies the exact one.
    """
    outputs = _scores(network, samples)
    predicted = outputs.argmax(dim=1)
    wanted = predicted if samples.labels is None else samples.labels
    if int(wanted.max()) >= outputs.shape[1]:
        raise _problem(
            samples.path,
            f"label {int(wanted.max())}, but the network has {outputs.shape[1]} classes",
        )
    own = outputs.gather(1, wanted[:, None])[:, 0]
    others = outputs.scatter(1, wanted[:, None], -math.inf).amax(dim=1)
    allowance = _ROUNDING * outputs.abs().amax(dim=1)
    right = (own > others) & outputs.isfinite().all(dim=1)
    held = right if region is None else right & region.holds(samples.inputs)
    left = torch.where(held, own - others - allowance, 0.0)
    stretch = _ROOT_TWO.times(Enclosure.at_most(upper.hi, upper.rigor))
    lost = _ROOT_TWO.times(executed_error)
    radii = tuple(_radius(margin, stretch, lost) for margin in left.tolist())
    return Certificates(
        path=samples.path,
        count=len(radii),
        correct=int(right.sum()) if samples.labels is not None else len(radii),
        labelled=samples.labels is not None,
        radii=radii,
        median=statistics.median(radii),
        accuracy={
            distance: sum(radius > distance for radius in radii) / len(radii)
            for distance in distances
        },
        rigor=min(Rigor.NUMERICAL, upper.rigor, executed_error.rigor),
        of=region.text if region is not None else "",
    )


def expected_stretch(network: Network, samples: Samples) -> dict[str, float]:
    """Estimate by how much each linear step stretches: √(E‖Wx‖² / E‖x‖²), x what arrives there.

    The expected stretch under the input distribution, as far as the samples show it: beside the
    norm, which is the worst case. 0 for a step that only zeros reach.
    """
    network = at_hand(network)
    steps = [s for s in network.steps if isinstance(s.layer, AbstractLinearLayer) and s.signals]
    forward = Forward(observed(network, tuple(dict.fromkeys(s.signals[0] for s in steps))))
    rows = starts(network, samples)
    sums: dict[str, list[float]] = {title(step): [0.0, 0.0] for step in steps}
    for at in range(0, samples.count, _ROWS):
        with torch.no_grad():
            arrived = forward({name: values[at : at + _ROWS] for name, values in rows.items()})
            for step in steps:
                energies = sums[title(step)]
                for signal in arrived[step.signals[0]]:
                    energies[0] += float(_without_bias(step, signal).square().sum())
                    energies[1] += float(signal.square().sum())
    return {
        name: math.sqrt(after / before) if before > 0 else 0.0
        for name, (after, before) in sums.items()
    }


def _without_bias(step: Step, signal: torch.Tensor) -> torch.Tensor:
    """Return W x of a step that yields W x + b."""
    yielded, at_zero = (_yielded(step, value) for value in (signal, torch.zeros_like(signal)))
    return yielded - at_zero


def _yielded(step: Step, signal: torch.Tensor) -> torch.Tensor:
    if isinstance(step.layer, Opaque):
        raise NotCertified(step.layer.reason, slug=step.layer.slug)
    inputs = [
        load(step.constants[at], torch.float64)
        if at in step.constants
        else (signal if name else None)
        for at, name in enumerate(step.node.inputs)
    ]
    return invoke(step.node, step.layer, inputs, torch.float64)[0]


def _radius(margin: float, stretch: Enclosure, lost: Enclosure) -> float:
    """Return (m - √2·E) / (√2·L), rounded down; 0 where nothing is certain."""
    if not margin > 0 or not stretch.is_finite or not lost.is_finite:
        return 0.0
    if stretch.is_zero:
        return math.inf if Enclosure.exactly(margin).widened(lost).lo > 0 else 0.0
    return Enclosure.exactly(margin).widened(lost).over(stretch).lower


def _scores(network: Network, samples: Samples) -> torch.Tensor:
    """Return the outputs of every sample, one number a class."""
    if len(network.graph.outputs) != 1:
        raise _problem(
            samples.path, f"the network has {len(network.graph.outputs)} outputs, classes need one"
        )
    forward, rows = Forward(network), starts(network, samples)
    made = []
    for at in range(0, samples.count, _ROWS):
        with torch.no_grad():
            values = forward({name: part[at : at + _ROWS] for name, part in rows.items()})
        made.append(values[network.graph.outputs[0].name])
    scores = torch.cat(made)
    classes = scores.shape[-1] if scores.dim() > 1 else 1
    if classes < 2 or scores[0].numel() != classes or not scores.is_floating_point():
        raise _problem(
            samples.path,
            f"the output of shape {_written(tuple(scores.shape[1:]))} is no row of classes",
        )
    return scores.reshape(samples.count, classes)


def _arrays(loaded: object, path: str) -> dict[str, object]:
    if isinstance(loaded, np.ndarray):
        return {_INPUT_NAMES[0]: loaded}
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise _problem(path, "it holds a pickle, not arrays")
    entries = [] if loaded.zip is None else loaded.zip.infolist()
    size = sum(int(entry.file_size) for entry in entries)
    if size > _MOST_BYTES:
        raise _problem(path, f"it unpacks to {size:,} bytes", "give fewer samples")
    wanted = {*_INPUT_NAMES, *_LABEL_NAMES}
    return {key: loaded[key] if key in wanted else np.empty(0) for key in loaded.files}


def _numbers(array: object, path: str, key: str) -> torch.Tensor:
    if not isinstance(array, np.ndarray):  # a member of the archive that is no .npy
        raise _problem(path, f"member {key!r} is no array")
    if array.dtype.kind not in "fiub":
        raise _problem(path, f"array {key!r} holds {array.dtype}, not real numbers")
    if array.ndim < 1 or not array.size:
        raise _problem(path, f"array {key!r} has shape {_written(array.shape)}: no samples")
    fits = np.can_cast(array.dtype, np.int64)
    values = torch.from_numpy(array.astype(np.int64 if fits else np.float64))
    if not bool(values.isfinite().all()):
        raise _problem(path, f"array {key!r} holds NaN or infinity")
    return values


def _classes(array: object, count: int, path: str) -> torch.Tensor:
    stored = _numbers(array, path, "labels")
    if tuple(stored.shape) not in {(count,), (count, 1)}:
        raise _problem(
            path,
            f"labels of shape {_written(tuple(stored.shape))} for {count} samples",
            "give one class number a sample",
        )
    values = stored.reshape(-1)
    if bool((values != values.round()).any()) or float(values.min()) < 0:
        raise _problem(path, "labels that are no class numbers 0, 1, 2, ...")
    return values.to(torch.int64)


def _written(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _problem(path: str, cause: str, hint: str = _HINT) -> UsageError:
    return UsageError(cause, slug="data", hint=hint, path=path)
