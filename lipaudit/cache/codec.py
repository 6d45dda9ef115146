"""Codec: frozen dataclasses as JSON and back, every number exactly what it was.

Data is built by the type hints of its class alone: no name in an entry chooses what is made,
so that an entry can be wrong but never a program.
"""

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")

_NOT_FINITE = frozenset({"inf", "-inf", "nan"})
_NONE = type(None)


def dumps(value: object) -> bytes:
    """Write a value as strict JSON."""
    return json.dumps(_plain(value), separators=(",", ":"), allow_nan=False).encode("ascii")


def loads(kind: type[T], data: bytes) -> T:
    """Read back what `dumps` wrote of such a value; raise `ValueError` for anything else."""
    try:
        made: T = _made(kind, json.loads(data))
    except (TypeError, ValueError, KeyError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"no {kind.__name__}: {error}") from error
    return made


def _plain(value: object) -> Any:
    """Take a value apart into what JSON knows; the way back is `_made`."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        # The shortest digits that mean this float and no other.
        number = float(value)
        return number if number - number == 0 else str(number)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return [[_plain(key), _plain(item)] for key, item in value.items()]
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        return [_plain(getattr(value, field.name)) for field in fields(value)]
    raise TypeError(f"{type(value).__name__} cannot be kept")


def _made(kind: Any, value: Any) -> Any:
    """Make a value of a type from plain data; raise where it is none."""
    origin = typing.get_origin(kind)
    if origin in {typing.Union, types.UnionType}:
        return _one_of(typing.get_args(kind), value)
    if origin is tuple:
        return _tuple(typing.get_args(kind), _list(value))
    if origin is not None and issubclass(origin, Mapping):
        key, item = typing.get_args(kind)
        return {_made(key, one): _made(item, other) for one, other in map(_list, _list(value))}
    if isinstance(kind, type) and is_dataclass(kind):
        hints = _hints(kind)
        return kind(
            **{
                name: _made(hint, part)
                for (name, hint), part in zip(hints.items(), _list(value), strict=True)
            }
        )
    return _simple(kind, value)


def _simple(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind[_as(str, value)]
    if kind is Decimal:
        return Decimal(_as(str, value))
    if kind is float:
        return _number(value)
    if kind in {int, str, bool, _NONE}:
        return _as(kind, value)
    raise TypeError(f"{kind} cannot be kept")


def _number(value: Any) -> float:
    """Return a float; a whole number that stood in its place is left one, as it is printed."""
    if isinstance(value, str):
        return float(value) if value in _NOT_FINITE else _as(float, value)
    return value if type(value) is int else _as(float, value)


def _as(kind: type[T], value: Any) -> T:
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} where {kind.__name__} is meant")
    return value


def _list(value: Any) -> list[Any]:
    return _as(list, value)


def _tuple(kinds: tuple[Any, ...], values: list[Any]) -> tuple[Any, ...]:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_made(kinds[0], value) for value in values)
    return tuple(_made(kind, value) for kind, value in zip(kinds, values, strict=True))


def _one_of(kinds: tuple[Any, ...], value: Any) -> Any:
    """Make the one that is not None; there is no other union among what is kept."""
    if value is None and _NONE in kinds:
        return None
    (kind,) = (kind for kind in kinds if kind is not _NONE)
    return _made(kind, value)


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    """Return the types of the fields of a dataclass, in order."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}
