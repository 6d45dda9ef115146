"""Tables: what exported code computes from no weight and no input, such as masks and positions.

Such a part of a graph always yields the same numbers. It is run once, by torch itself, and what
it yields stands in the graph as a constant.
"""

from collections.abc import Mapping
from typing import Any

import torch

from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.constant import computed

_MOST_ITEMS = 1 << 24
_LIKE = frozenset({"new_ones", "new_zeros", "new_full"})
"""Operations that take no more than its type and place of their first operand."""
_Values = tuple[torch.Tensor, ...]


class Tables:
    """The values known so far of one exported graph, by node."""

    def __init__(self, stored: Mapping[str, torch.Tensor], *, exact: bool) -> None:
        """Start from constants by the names of their nodes.

        `exact`: evaluate integers and truth values only, since real numbers would be rounded.
        """
        self._values: dict[str, _Values] = {name: (value,) for name, value in stored.items()}
        self._exact = exact
        self._held = set(stored)

    def evaluate(self, node: torch.fx.Node) -> bool:
        """Work a node out; False where it depends on more than is known."""
        target = node.target
        if getattr(target, "__name__", "") == "getitem":
            return self._part(node)
        if not isinstance(target, torch._ops.OpOverload) or not self._may_run(node, target):
            return False
        like = target._schema.name.removeprefix("aten::") in _LIKE
        needed = [n for n in node.all_input_nodes if not (like and n is node.args[0])]
        if any(n.name not in self._values for n in needed):
            return False
        named: Any = torch.fx.node.map_arg((node.args, node.kwargs), self._operand)
        names = [argument.name for argument in target._schema.arguments]
        given = dict(zip(names, named[0], strict=False)) | dict(named[1])
        if "device" in names:
            given["device"] = torch.device("cpu")
        if target._schema.is_mutable and isinstance(given.get(names[0]), torch.Tensor):
            given[names[0]] = given[names[0]].clone()
        try:
            with torch.no_grad():
                made = target(**given)
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError):
            return False
        self._values[node.name] = tuple(made) if isinstance(made, (list, tuple)) else (made,)
        return True

    def hold(self, node: torch.fx.Node, build: GraphBuilder) -> None:
        """Make what is known of a node a constant of the graph."""
        if node.name not in self._values or node.name in self._held:
            return
        self._held.add(node.name)
        value = node.meta.get("val")
        several = isinstance(value, (list, tuple))
        for at, part in enumerate(self._values[node.name]):
            name = f"{node.name}:{at}" if several else node.name
            build.hold(name, computed(name, part))

    def _may_run(self, node: torch.fx.Node, target: torch._ops.OpOverload) -> bool:
        """Tell whether a node always yields the same tensors, of a size that can be kept."""
        made = node.meta.get("val")
        results = list(made) if isinstance(made, (list, tuple)) else [made]
        tensors = [one for one in results if isinstance(one, torch.Tensor)]
        if not tensors or len(tensors) < len(results):
            return False
        if torch.Tag.nondeterministic_seeded in target.tags or "empty" in target._schema.name:
            return False
        read = [n.meta.get("val") for n in node.all_input_nodes]
        if self._exact and any(
            isinstance(one, torch.Tensor) and (one.is_floating_point() or one.is_complex())
            for one in (*tensors, *read)
        ):
            return False
        sizes = [size for one in tensors for size in one.shape]
        plain = all(isinstance(size, int) for size in sizes)
        return plain and all(one.numel() <= _MOST_ITEMS for one in tensors)

    def _part(self, node: torch.fx.Node) -> bool:
        of, at = node.args
        if not isinstance(of, torch.fx.Node) or not isinstance(at, int):
            return False
        whole = self._values.get(of.name)
        if whole is None:
            return False
        self._values[node.name] = (whole[at],)
        return True

    def _operand(self, node: torch.fx.Node) -> Any:
        known = self._values.get(node.name)
        if known is None:  # only its type and shape are asked for
            value = node.meta["val"]
            return torch.empty(tuple(value.shape), dtype=value.dtype, device="meta")
        several = isinstance(node.meta.get("val"), (list, tuple))
        return list(known) if several else known[0]
