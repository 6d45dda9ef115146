"""Loose layers: what the names and shapes of a state dict say about its layers, and no more.

A kernel's stride, padding and groups are not in a state dict. Its node says so
(`geometry: unstated`), and the norm that is then proved holds for all of them.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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


def layers(tensors: Mapping[str, Constant], homes: Collection[str] = ()) -> LooseLayers:
    """Group tensors by the module that owns them, and give each group its node.

    `homes` are the paths of the containers that hold them: what stands there is no part of the
    name that the network itself has for a layer.
    """
    effective = parametrizations.effective(tensors)
    names = _names(effective, homes)
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
        _shortening(names),
        tuple(sorted(assumptions)),
    )


def _owners(tensors: Iterable[str]) -> dict[str, list[str]]:
    """Group keys by what stands before their last dot."""
    owners: dict[str, list[str]] = {}
    for key in tensors:
        owner = key.rpartition(".")[0] if "." in _within(key) else key
        owners.setdefault(owner, []).append(key)
    return owners


def _nodes(name: str, members: Sequence[str], tensors: Mapping[str, Constant]) -> Iterator[Node]:
    fields = {_field(key): key for key in members if "." in _within(key)}
    weight = tensors.get(fields.get("weight", ""))
    if weight is not None and _is_batch_norm(fields, weight):
        inputs = ("", *(fields[part] for part in ("weight", "bias", *_STATISTICS)))
        yield Node("BatchNormalization", name, inputs, (f"{name}:out",), {"epsilon": _EPSILON})
        return
    for key in members:
        constant = tensors[key]
        field = _field(key)
        if not _is_weight(field) or not _is_number(constant):
            continue
        title = name if field == "weight" or "." not in _within(key) else f"{name}.{field}"
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
    if dtype is not None and dtype.is_complex:
        return len(constant.shape) == 2  # kernels are convolved as real ones
    return dtype is not None and dtype.is_floating_point


def _left_over(
    members: Sequence[str], tensors: Mapping[str, Constant], used: set[str]
) -> Iterator[Unread]:
    """Say what becomes of the tensors that are in no node; biases and counters go unmentioned."""
    for key in members:
        constant = tensors[key]
        field = _field(key)
        if key in used or constant.items <= 1 or "bias" in field or field in _STATISTICS:
            continue
        if not _is_number(constant):
            is_complex = constant.dtype.startswith("complex")
            what = "here" if is_complex else "without a scale"
            reason = f"values of type {constant.dtype} {what} are no weights"
            is_weight = _is_weight(field) and len(constant.shape) > 1
            yield Unread(key, "tensor", "weight-type" if is_weight else "dtype", reason)
        elif field == "weight" and len(constant.shape) == 1:
            reason = "a scale without its layer: LayerNorm, GroupNorm and PReLU look alike"
            yield Unread(key, "scale", "no-layer", reason)
        else:
            yield Unread(key, "tensor", "no-layer", "by its name it is not a layer's weight")


def _names(tensors: Mapping[str, Constant], homes: Collection[str]) -> dict[str, str]:
    """Return owner -> name: its path from where all layers are, without wrappers of modules.

    Where two layers would get the same name, all of them keep their whole paths.
    """
    owners = _owners(tensors)
    placed = {owner: _home(owner, homes) for owner in owners}
    weighted = [placed[o] for o, keys in owners.items() if any(map(_is_weight, map(_field, keys)))]
    root = _common([home.split("/") for home in weighted or placed.values()])
    named = {owner: _named(owner, placed[owner], root) for owner in owners}
    unique = len(set(named.values())) == len(named)
    return named if unique else {owner: owner for owner in owners}


def _common(paths: Sequence[Sequence[str]]) -> str:
    """Return the path that all paths begin with."""
    same = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return "/".join(parts[0] for parts in same)


def _home(owner: str, homes: Collection[str]) -> str:
    """Return the container that an owner is in; "" for the file itself."""
    around = owner
    while around := around.rpartition("/")[0]:
        if around in homes:
            return around
    return ""


def _named(owner: str, home: str, root: str) -> str:
    if not home:
        return owner
    within = f"{home}/".removeprefix(f"{root}/").rstrip("/") if root else home
    name = owner.removeprefix(f"{home}/")
    for prefix in _WRAPPERS:
        name = name.removeprefix(prefix) or name
    return f"{within}/{name}" if within else name


def _shortening(names: Mapping[str, str]) -> tuple[str, ...]:
    """Say what was left out before the layers' names; nothing where they are whole."""
    cut = {o.removesuffix(name) for o, name in names.items() if o != name and o.endswith(name)}
    listed = ", ".join(map(repr, sorted(cut)))
    return (f"names of layers are without {listed}, which stands before them",) if cut else ()


def _within(key: str) -> str:
    """Return what stands behind the last container of a path, or behind a slash in a name."""
    return key.rpartition("/")[2]


def _field(key: str) -> str:
    """Return the name that a tensor has within its owner."""
    return _within(key).rpartition(".")[2]
