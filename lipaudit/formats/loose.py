"""Loose layers: what the names and shapes of a state dict say about its layers, and no more.

A kernel's stride, padding and groups are not in a state dict. Its node says so
(`geometry: unstated`), and the norm that is then proved holds for all of them.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lipaudit.formats import parametrizations
from lipaudit.formats.fields import (
    STATISTICS,
    field,
    is_number,
    is_weight,
    scale_of,
    within,
)
from lipaudit.formats.leftovers import fits, left_over
from lipaudit.graph.constant import Constant
from lipaudit.graph.model import Unread
from lipaudit.graph.node import TORCH_DOMAIN, Graph, Node

_WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
_KERNEL_RANKS = (3, 4, 5)
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
    owners = _owners(effective)
    placed = _placed(owners, homes)
    weighted = _weighted(owners, placed)
    names = _names(owners, placed, weighted)
    nodes: list[Node] = []
    unread: list[Unread] = []
    used: set[str] = set()
    assumptions: set[str] = set()
    for owner, members in owners.items():
        for node in _nodes(names.get(owner, owner), members, effective):
            nodes.append(node)
            used.update(name for name in node.inputs if name)
            if node.op == "BatchNormalization":
                assumptions.add(f"batch norms add {_EPSILON:g} to the variance, torch's default")
        is_apart = placed[owner] not in weighted
        left = [key for key in members if key not in used]
        unread += left_over(left, effective, is_apart=is_apart)
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
        owner = key.rpartition(".")[0] if "." in within(key) else key
        owners.setdefault(owner, []).append(key)
    return owners


def _nodes(name: str, members: Sequence[str], tensors: Mapping[str, Constant]) -> Iterator[Node]:
    members = [key for key in members if not scale_of(key, tensors)]
    fields = {field(key): key for key in members if "." in within(key)}
    weight = tensors.get(fields.get("weight", ""))
    if weight is not None and _is_batch_norm(fields, weight, tensors):
        inputs = ("", *(fields[part] for part in ("weight", "bias", *STATISTICS)))
        yield Node("BatchNormalization", name, inputs, (f"{name}:out",), {"epsilon": _EPSILON})
        return
    for key in members:
        constant = tensors[key]
        part = field(key)
        if not is_weight(part) or not is_number(constant):
            continue
        title = name if part == "weight" or "." not in within(key) else f"{name}.{part}"
        bias = fields.get("bias", "") if part == "weight" else ""
        inputs = ("", key, bias) if bias and fits(tensors[bias], constant) else ("", key)
        if len(constant.shape) == 2:
            yield Node("Linear", title, inputs, (f"{title}:out",), domain=TORCH_DOMAIN)
        elif len(constant.shape) in _KERNEL_RANKS and part == "weight":
            yield Node("Conv", title, inputs, (f"{title}:out",), {"geometry": "unstated"})


def _is_batch_norm(
    fields: Mapping[str, str], weight: Constant, tensors: Mapping[str, Constant]
) -> bool:
    others = [fields.get(part, "") for part in ("bias", *STATISTICS)]
    same = [key in tensors and tensors[key].shape == weight.shape for key in others]
    return len(weight.shape) == 1 and all(same)


def _weighted(owners: Mapping[str, Sequence[str]], placed: Mapping[str, str]) -> set[str]:
    """Return the containers in which weights of layers lie."""
    return {placed[o] for o, keys in owners.items() if any(map(is_weight, map(field, keys)))}


def _names(
    owners: Collection[str], placed: Mapping[str, str], weighted: Collection[str]
) -> dict[str, str]:
    """Return owner -> name: its path from where all layers are, without wrappers of modules.

    Where two layers would get the same name, all of them keep their whole paths.
    """
    root = _common(weighted or placed.values())
    named = {owner: _named(owner, placed[owner], root) for owner in owners}
    unique = len(set(named.values())) == len(named)
    return named if unique else {owner: owner for owner in owners}


def _common(paths: Iterable[str]) -> str:
    """Return the path that all paths begin with: what the first and the last in order share."""
    ended = sorted(f"{path}/" for path in paths)
    pairs = zip(ended[0], ended[-1], strict=False) if ended else ()
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return ended[0][:same].rpartition("/")[0] if ended else ""


def _placed(owners: Iterable[str], homes: Iterable[str]) -> dict[str, str]:
    """Return owner -> the innermost container that it is in; "" for the file itself.

    In alphabetical order what a container holds comes right behind it: no name, however many
    slashes it has, is taken apart.
    """
    starts = [(f"{home}/", False) for home in homes if home]
    around: list[str] = []
    found = {}
    for text, is_owner in sorted([*starts, *((owner, True) for owner in owners)]):
        while around and not text.startswith(around[-1]):
            around.pop()
        if is_owner:
            found[text] = around[-1][:-1] if around else ""
        else:
            around.append(text)
    return found


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
