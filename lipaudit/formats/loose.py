"""Loose layers: what the names and shapes of a state dict say about its layers, and no more.

A kernel's stride, padding and groups are not in a state dict. Its node says so
(`geometry: unstated`), and the norm that is then proved holds for all of them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lipaudit.formats import parametrizations
from lipaudit.graph.constant import Constant
from lipaudit.graph.dtypes import torch_type
from lipaudit.graph.model import Unread
from lipaudit.graph.node import TORCH_DOMAIN, Graph, Node

_WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
_KERNEL_RANKS = (3, 4, 5)
_STATISTICS = ("running_mean", "running_var")
_EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class LooseLayers:
    """Nodes without wiring, the constants they use, and what is left over."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, Constant]
    unread: tuple[Unread, ...]
    notes: tuple[str, ...]
    assumptions: tuple[str, ...]

    def graph(self) -> Graph:
        """Return the graph of nodes that are not connected."""
        return Graph(self.nodes, self.constants)


def layers(tensors: Mapping[str, Constant]) -> LooseLayers:
    """Group tensors by the module that owns them, and give each group its node."""
    effective = parametrizations.effective(tensors)
    names = _short_names(effective)
    nodes: list[Node] = []
    unread: list[Unread] = []
    used: set[str] = set()
    assumptions: set[str] = set()
    for owner, members in _owners(effective).items():
        for node in _nodes(names.get(owner, owner), members, effective):
            nodes.append(node)
            used.update(name for name in node.inputs if name)
            if node.op == "BatchNormalization":
                assumptions.add(f"batch norms add {_EPSILON:g} to the variance, torch's default")
        unread += _left_over(members, effective, used)
    return LooseLayers(
        tuple(nodes),
        {key: constant for key, constant in effective.items() if key in used},
        tuple(unread),
        (),
        tuple(sorted(assumptions)),
    )


def _owners(tensors: Iterable[str]) -> dict[str, list[str]]:
    """Group keys by what stands before their last dot."""
    owners: dict[str, list[str]] = {}
    for key in tensors:
        owner = key.rpartition(".")[0] if "." in key.rpartition("/")[2] else key
        owners.setdefault(owner, []).append(key)
    return owners


def _nodes(name: str, members: Sequence[str], tensors: Mapping[str, Constant]) -> Iterator[Node]:
    fields = {key.rpartition(".")[2] if "." in key else "": key for key in members}
    fields.pop("", None)
    weight = tensors.get(fields.get("weight", ""))
    if weight is not None and _is_batch_norm(fields, weight):
        inputs = ("", *(fields[part] for part in ("weight", "bias", *_STATISTICS)))
        yield Node("BatchNormalization", name, inputs, (f"{name}:out",), {"epsilon": _EPSILON})
        return
    for key in members:
        constant = tensors[key]
        field = key.rpartition(".")[2]
        if not _is_weight(field) or not _is_number(constant):
            continue
        title = name if field in {"weight", key} else f"{name}.{field}"
        bias = fields.get("bias", "") if field == "weight" else ""
        inputs = ("", key, bias) if bias and len(tensors[bias].shape) == 1 else ("", key)
        if len(constant.shape) == 2:
            yield Node("Linear", title, inputs, (f"{title}:out",), domain=TORCH_DOMAIN)
        elif len(constant.shape) in _KERNEL_RANKS and field == "weight":
            yield Node("Conv", title, inputs, (f"{title}:out",), {"geometry": "unstated"})


def _is_batch_norm(fields: Mapping[str, str], weight: Constant) -> bool:
    return len(weight.shape) == 1 and "bias" in fields and all(s in fields for s in _STATISTICS)


def _is_weight(field: str) -> bool:
    """Tell weights of layers from other matrices: `weight`, `weight_hh_l0`, `in_proj_weight`."""
    return field == "weight" or field.startswith("weight_") or field.endswith("_weight")


def _is_number(constant: Constant) -> bool:
    dtype = torch_type(constant.dtype)
    return dtype is not None and dtype.is_floating_point


def _left_over(
    members: Sequence[str], tensors: Mapping[str, Constant], used: set[str]
) -> Iterator[Unread]:
    """Say what becomes of the tensors that are in no node; biases and counters go unmentioned."""
    for key in members:
        constant = tensors[key]
        field = key.rpartition(".")[2]
        if key in used or constant.items <= 1 or "bias" in field or field in _STATISTICS:
            continue
        if not _is_number(constant):
            reason = f"values of type {constant.dtype} without a scale are no weights"
            yield Unread(key, "tensor", "dtype", reason)
        elif field == "weight" and len(constant.shape) == 1:
            reason = "a scale without its layer: LayerNorm, GroupNorm and PReLU look alike"
            yield Unread(key, "scale", "no-layer", reason)
        else:
            yield Unread(key, "tensor", "no-layer", "by its name it is not a layer's weight")


def _short_names(tensors: Mapping[str, Constant]) -> dict[str, str]:
    """Return owner -> name without wrappers, as far as names stay unique."""
    owners = list(_owners(tensors))
    short = {owner: _unwrapped(owner.rpartition("/")[2]) for owner in owners}
    taken = list(short.values())
    return {
        owner: name if name and taken.count(name) == 1 else owner for owner, name in short.items()
    }


def _unwrapped(name: str) -> str:
    for prefix in _WRAPPERS:
        name = name.removeprefix(prefix)
    return name
