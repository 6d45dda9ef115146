"""Writing in place: who sees it when a call such as `relu_` changes the tensor it is given.

A graph of values has no tensors that change. A call that writes is read as the call that does
not, and whoever reads the old name afterwards gets the new value. Where parts of the tensor, or
what it is a part of, have names too, what these hold afterwards is not worked out: they become
values of an operation that nobody knows, so that nothing is proved of what is computed from them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

_VIEWS = frozenset(
    {
        "H", "T", "_conj", "_neg_view", "adjoint", "data", "feature_alpha_dropout", "lift",
        "linalg_diagonal", "native_dropout", "rename",
        "alias", "as_strided", "chunk", "contiguous", "detach", "diagonal", "dropout", "expand",
        "alpha_dropout", "feature_dropout", "broadcast_to", "conj", "lift_fresh", "positive",
        "expand_as", "flatten", "imag", "mH", "mT", "matrix_H", "movedim", "moveaxis", "narrow",
        "numpy_T", "permute", "ravel", "real", "reshape", "reshape_as", "resolve_conj",
        "resolve_neg", "rrelu", "select", "slice", "split", "split_with_sizes", "squeeze",
        "swapaxes", "swapdims", "t", "tensor_split", "hsplit", "vsplit", "dsplit", "to",
        "transpose", "type_as", "unbind", "unflatten", "unfold", "unsafe_chunk", "unsafe_split",
        "unsafe_split_with_sizes", "unsqueeze", "view", "view_as", "view_as_complex",
        "view_as_real", "_unsafe_view", "_to_copy", "_reshape_alias", "pad", "unsafe_view",
        "batch_norm", "atleast_1d", "atleast_2d", "atleast_3d", "squeeze_copy", "cpu", "float",
        "double", "half", "bfloat16", "type", "meshgrid", "broadcast_tensors", "instance_norm",
    }
)  # fmt: skip
"""Operations whose result may share memory with their operands. One too many costs a proof only
where something is written afterwards; one too few would make a proof false."""


def written(op: str, overload: str, names: Sequence[str]) -> str | None:
    """Return the name of the argument that a call writes to; None where it only makes tensors."""
    if overload.endswith("out") and "out" in names:
        return "out"
    is_in_place = op.endswith("_") and not op.endswith("__")
    return names[0] if is_in_place and names else None


@dataclass(slots=True)
class Aliases:
    """Which names of a graph may share memory, as far as its calls were seen."""

    _groups: dict[str, set[str]] = field(default_factory=dict)

    def see(self, op: str, read: Sequence[str], made: Sequence[str]) -> None:
        """Note a call: what it makes may be a view of what it reads."""
        if op not in _VIEWS and not op.endswith("_"):
            return
        names = {*read, *made}
        groups = [self._groups.get(name, {name}) for name in names]
        # The smaller ones join the largest: a file may have half a million views.
        whole = max(groups, key=len, default=set())
        for group in groups:
            if group is not whole:
                whole |= group
                self._groups |= dict.fromkeys(group, whole)
        self._groups |= dict.fromkeys(names, whole)

    def others(self, name: str) -> list[str]:
        """Return the other names that may share memory with this one."""
        return sorted(self._groups.get(name, {name}) - {name})
