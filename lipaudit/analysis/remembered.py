"""Remembered: the numbers of a layer that was measured before, found by what it is made of.

A key holds the values of the layer's constants, its class and every field of it, the shape of
its input, and what was asked of which device; a layer's name is no part of it. Only layers that
have numbers are remembered: why another has none is found out anew each time.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from typing import Any

import torch

from lipaudit.cache import codec, hashing, keys
from lipaudit.cache.store import LAYERS
from lipaudit.device import Compute
from lipaudit.graph.constant import Constant, Shape
from lipaudit.layers.base import AbstractLinearLayer
from lipaudit.operators.base import Norm
from lipaudit.results import SpectrumSummary

WORTH = 0.004
"""Seconds: what took less to measure is measured again. Looking a layer up and reading its entry
takes a quarter of that, and hashing a weight less than looking through it for NaN."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """What measuring one layer yields: all of its result that its name is no part of."""

    in_shape: tuple[int, ...] | None
    out_shape: tuple[int, ...] | None
    norm: Norm
    reshaped_norm: float | None
    frobenius: float | None
    spectrum: SpectrumSummary | None
    leading: tuple[float, ...] = ()
    leading_method: str = ""
    power_iteration: float | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One layer to be measured, and as what."""

    layer: AbstractLinearLayer
    constants: tuple[Constant, ...]
    """All constants of its node: a bias that is not a number counts as well."""
    shape: Shape | None
    """Of its signal."""
    circular: bool = False
    power_steps: int | None = None


def numbers(question: Question, compute: Compute, measure: Callable[[Compute], Numbers]) -> Numbers:
    """Return the numbers of a layer, from the cache or else from `measure`.

    What had to be computed in another way than wanted, with a warning, is not kept.
    """
    store = compute.cache
    key = None if store is None else _key(question, compute)
    if store is None or key is None:
        return measure(compute)
    kept = store.get(LAYERS, key)
    if kept is not None:
        with contextlib.suppress(ValueError):
            return codec.loads(Numbers, kept)
    warnings: list[str] = []

    def warn(text: str) -> None:
        warnings.append(text)
        compute.warn(text)

    start = time.perf_counter()
    found = measure(replace(compute, warn=warn))
    if not warnings and time.perf_counter() - start >= WORTH:
        store.put(LAYERS, key, codec.dumps(found))
    return found


class _Unknown(Exception):
    """Raised for a part of a layer that no key can hold."""


def _key(question: Question, compute: Compute) -> str | None:
    """Return the layer's name in the cache; None where it has none."""
    contents: dict[int, str] = {}
    try:
        parts = [
            _form(part, contents)
            for part in (
                question.layer,
                (*question.layer.weights(), *question.constants),
                question.shape,
                question.circular,
                question.power_steps,
                compute.device.type,
                compute.max_memory,
                compute.memory_on(compute.device),
                compute.full_spectra,
                compute.by_svd,
                compute.enough,
            )
        ]
    except (_Unknown, TypeError, RuntimeError, MemoryError):
        # What cannot be read or held: measuring the layer will say so.
        return None
    return keys.key(LAYERS, keys.setting(), parts)


def _form(value: object, contents: dict[int, str]) -> Any:
    """Write a part of a layer as plain data: equal for what is equal, different for the rest."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Enum):
        return [_name(value), value.name]
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return [value.hex()]
    if isinstance(value, Constant):
        known = contents.get(id(value))
        return contents.setdefault(id(value), _content(value)) if known is None else known
    if isinstance(value, tuple | list):
        return [_form(item, contents) for item in value]
    if isinstance(value, Mapping):
        return [[_form(key, contents), _form(item, contents)] for key, item in value.items()]
    if is_dataclass(value):
        return [_name(value), *(_form(getattr(value, f.name), contents) for f in fields(value))]
    raise _Unknown


def _name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _content(constant: Constant) -> str:
    """Return the digest of a constant's values, as stored and as they are computed with."""
    finer = "" if constant.unrounded is None else _digest(constant.unrounded())
    return keys.key(
        constant.dtype,
        constant.shape,
        float(constant.entry_error).hex(),
        _digest(constant.read()),
        finer,
    )


def _digest(values: torch.Tensor) -> str:
    flat = values.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    # As many threads as the arithmetic may take: a worker beside others has one.
    found = hashing.tree_of_memory(flat.numpy().data, torch.get_num_threads())
    return keys.key(str(values.dtype), found)
