"""Views: tensors whose values are not the stored ones, but a plain function of them.

torch stores a conjugate or negative tensor as it was, with a note of what it stands for, and a
machine of the other byte order stores every number turned around. None of them can be written in
place: what is wanted is not what would have to be stored.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from lipaudit.formats.rebuilding import Missing
from lipaudit.graph.constant import Constant

_COMPLEX = frozenset({"complex32", "complex64", "complex128"})
_SIGNED = frozenset({"float16", "bfloat16", "float32", "float64"})
_View = Callable[[torch.Tensor], torch.Tensor]


def big_endian(constant: Constant) -> Constant:
    """Return the constant whose numbers a big-endian machine has stored."""
    return _seen_as(constant, _swapped)


def noted(constant: Constant, notes: Mapping[object, object]) -> Constant | Missing:
    """Return what torch's notes beside a tensor (`conj`, `neg`) make of its stored values."""
    for note, is_set in notes.items():
        if is_set is not True:  # torch takes the note for set whatever its value
            return Missing("tensor-layout", "its values are to be seen as nobody can say")
        if note == "conj" and constant.dtype in _COMPLEX:
            constant = _seen_as(constant, _conjugate)
        elif note == "neg" and constant.dtype in _COMPLEX | _SIGNED:
            constant = _seen_as(constant, torch.neg)
        else:
            what = f"{note} of {constant.dtype}" if note in ("conj", "neg") else "another"
            return Missing("tensor-layout", f"its values are to be seen as {what}")
    return constant


def _seen_as(constant: Constant, view: _View) -> Constant:
    return replace(constant, read=lambda: view(constant.read()), slot=None, scaled_by=None)


def _swapped(values: torch.Tensor) -> torch.Tensor:
    """Turn around the bytes of every number; a complex one is two."""
    size = values.element_size() // (2 if values.is_complex() else 1)
    if size == 1 or not values.numel():
        return values
    turned = values.contiguous().flatten().view(torch.uint8).reshape(-1, size).flip(1)
    return turned.flatten().view(values.dtype).reshape(values.shape)


def _conjugate(values: torch.Tensor) -> torch.Tensor:
    """Turn around the sign of the imaginary parts, and nothing else: NaN stays what it is."""
    return values.conj().resolve_conj()
