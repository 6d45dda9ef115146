"""Groups: layers that must change together, because they use the same bytes of the file."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from lipaudit.analysis.layerwise import Measured, title
from lipaudit.errors import NotCertified
from lipaudit.graph.constant import Constant, Shape, put_of, rescale_of
from lipaudit.graph.model import Model
from lipaudit.layers.base import AbstractLinearLayer


@final
@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A layer that exceeds its limit."""

    item: Measured
    limit: float
    shape: Shape | None
    """Of its signal."""

    @property
    def layer(self) -> AbstractLinearLayer:
        """What the node means."""
        layer = self.item.step.layer
        if not isinstance(layer, AbstractLinearLayer):
            raise TypeError(f"{self.name} is measured but not linear")
        return layer

    @property
    def weight(self) -> Constant:
        """The constant that changes."""
        return self.layer.weights()[0]

    @property
    def name(self) -> str:
        """As reports call it."""
        return title(self.item.step)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Targets with bytes in common."""

    targets: tuple[Target, ...]

    @property
    def is_one_weight(self) -> bool:
        """Whether all of them use one weight whole, so that it can get any other values."""
        first, *others = [target.weight for target in self.targets]
        return put_of(first) is not None and all(
            other is first or (put_of(other) is not None and _same(first, other))
            for other in others
        )


def _same(one: Constant, other: Constant) -> bool:
    """Tell whether two constants are plain views of the same bytes."""
    return one.slot is not None and one.slot == other.slot


def grouped(model: Model, targets: Sequence[Target]) -> tuple[Group, ...]:
    """Put together the targets that share stored tensors, in the order of the graph."""
    groups: list[tuple[set[str], list[Target]]] = []
    for target in targets:
        _check_writable(model, target)
        keys = set(_canonical(model.ties or {}, target.weight.sources))
        together = [target]
        for known, members in [group for group in groups if group[0] & keys]:
            keys |= known
            together = members + together
            groups.remove((known, members))
        groups.append((keys, together))
    return tuple(Group(tuple(members)) for _, members in groups)


def _canonical(ties: Mapping[str, str], keys: Iterable[str]) -> Iterable[str]:
    return (ties.get(key, key) for key in keys)


def _check_writable(model: Model, target: Target) -> None:
    """Raise if nothing that is stored can bring the layer down."""
    weight = target.weight
    if put_of(weight) is None and rescale_of(weight) is None:
        kinds = {key: model.tensors[key].dtype for key in weight.sources if key in model.tensors}
        behind = ", ".join(f"{key!r} ({dtype})" for key, dtype in kinds.items())
        why = f"its weight {weight.name!r} comes from {behind or 'no stored tensor'}"
        raise NotCertified(
            f"layer {target.name!r} exceeds the limit and cannot be written: {why}",
            slug="clip-unwritable",
            path=model.path,
            hint="leave it out with --layers",
        )
