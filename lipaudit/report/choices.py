"""Which layers a person asked to see, in which order."""

from collections.abc import Callable, Sequence

from lipaudit.report.base import Choice
from lipaudit.results import LayerResult


def chosen(layers: Sequence[LayerResult], choice: Choice) -> list[LayerResult]:
    """Return the layers in the order that was asked for, no more than that many."""
    orders: dict[str, Callable[[LayerResult], object]] = {
        "name": lambda x: x.name,
        "norm": lambda x: -x.norm.log10_upper,
        "share": lambda x: -(x.log_share or 0.0),
        "size": lambda x: -x.parameters,
        "kind": lambda x: (x.kind, x.name),
    }
    shown = list(layers)
    if choice.sort in orders:
        shown.sort(key=orders[choice.sort])  # type: ignore[arg-type]  # each key orders itself
    return shown[: choice.top] if choice.top is not None else shown
