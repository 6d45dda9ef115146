"""Pairing: which layer after is which layer before, renamed ones included."""

from collections.abc import Iterator, Sequence

from lipaudit.comparison import LayerSnapshot, alike

Pair = tuple[LayerSnapshot | None, LayerSnapshot | None]


def paired(before: Sequence[LayerSnapshot], after: Sequence[LayerSnapshot]) -> Iterator[Pair]:
    """Pair layers by name, then what is left by shape and numbers; in the order of `after`.

    Of several layers of one name the first is paired with the first, and so on. Two layers of
    one shape whose norm and Frobenius norm agree hold the same weight: 18 digits do not agree
    by chance.
    """
    names = _by_name(before)
    partners: list[LayerSnapshot | None] = []
    for layer in after:
        same = names.get(layer.name)
        partners.append(same.pop(0) if same else None)
    left = [layer for same in names.values() for layer in same]
    for at, layer in enumerate(after):
        if partners[at] is None:
            twin = next((one for one in left if _is_same_weight(one, layer)), None)
            if twin is not None:
                left.remove(twin)
                partners[at] = twin
    yield from zip(partners, after, strict=True)
    gone = {id(layer) for layer in left}
    yield from ((layer, None) for layer in before if id(layer) in gone)


def _by_name(layers: Sequence[LayerSnapshot]) -> dict[str, list[LayerSnapshot]]:
    names: dict[str, list[LayerSnapshot]] = {}
    for layer in layers:
        names.setdefault(layer.name, []).append(layer)
    return names


def _is_same_weight(one: LayerSnapshot, other: LayerSnapshot) -> bool:
    if not one.shape or (one.kind, one.shape) != (other.kind, other.shape):
        return False
    if one.frobenius is None or other.frobenius is None:
        return False
    norms = one.norm.upper, other.norm.upper
    return one.norm.is_finite and alike(*norms) and alike(one.frobenius, other.frobenius)
