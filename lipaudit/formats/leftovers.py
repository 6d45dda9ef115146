"""Leftovers: what is said of the tensors of a state dict that are in no layer.

Whatever could stretch a signal is listed: what is not mentioned is a bias of a layer that is there,
a counter, or the factor of a weight that is listed itself.
"""

from collections.abc import Iterable, Iterator, Mapping

from lipaudit.formats import fields
from lipaudit.graph.constant import Constant
from lipaudit.graph.model import Unread

_WEIGHTS = ("q_proj_weight", "qweight", "weight_packed")
"""What else stands in the place of a weight: of attention, of quantized layers."""


def left_over(
    left: Iterable[str],
    tensors: Mapping[str, Constant],
    *,
    is_apart: bool,
) -> Iterator[Unread]:
    """Say what becomes of the tensors of one owner that are in no node.

    `is_apart`: they lie in a container without any weight, as the best accuracy does.
    """
    for key in left:
        constant = tensors[key]
        if not constant.items or fields.is_scale(key, tensors):
            continue
        is_record = is_apart and constant.items == 1 and "." not in fields.within(key)
        if not is_record and not _is_harmless(key, constant, tensors):
            yield _unread(key, constant, tensors)


def _is_harmless(key: str, constant: Constant, tensors: Mapping[str, Constant]) -> bool:
    """Tell whether a tensor cannot stretch anything by itself, or belongs to one that is listed."""
    field = fields.field(key)
    mains = [tensors[name] for name in _weights_of(key) if name in tensors]
    if fields.is_bias(field):
        return any(fits(constant, main) for main in mains)
    if field in fields.STATISTICS:
        # With a scale of their size they are a batch norm, which is in a node or listed by it.
        return any(constant.shape == main.shape and len(main.shape) == 1 for main in mains)
    is_count = field == fields.COUNTER or not fields.is_number(constant)
    return constant.items == 1 and is_count and not fields.is_weight(field)


def _weights_of(key: str) -> tuple[str, ...]:
    """Return what the weight is called whose bias or statistics a tensor would be."""
    field = fields.field(key)
    before = key.removesuffix(field)
    names = (field.replace("bias", "weight"), "weight", *_WEIGHTS)
    return tuple(before + name for name in names if before + name != key)


def fits(bias: Constant, weight: Constant) -> bool:
    """Tell whether a bias is one of a weight: a number for every output, however that is laid out.

    Outputs come first; of transposed kernels second, once a group; three times for a bias of
    queries, keys and values beside separate weights.
    """
    if len(bias.shape) != 1 or not weight.shape:
        return False
    count, first = bias.shape[0], weight.shape[0]
    if count in {first, 3 * first}:
        return True
    if len(weight.shape) < 2 or not weight.shape[1]:
        return False
    groups, rest = divmod(count, weight.shape[1])
    return not rest and groups > 0 and first % groups == 0


def _unread(key: str, constant: Constant, tensors: Mapping[str, Constant]) -> Unread:
    field = fields.field(key)
    rank = len(constant.shape)
    scale = fields.scale_of(key, tensors) if fields.is_weight(field) else ""
    if scale:
        reason = f"its scale {fields.field(scale)!r} stands beside it and is not applied"
        return Unread(key, "tensor", "weight-type", reason)
    if not fields.is_number(constant):
        is_complex = constant.dtype.startswith("complex")
        what = "here" if is_complex else "without a scale"
        reason = f"values of type {constant.dtype} {what} are no weights"
        is_weight = fields.is_weight(field) and rank > 1
        return Unread(key, "tensor", "weight-type" if is_weight else "dtype", reason)
    if field == "weight" and rank == 1:
        reason = "a scale without its layer: LayerNorm, GroupNorm and PReLU look alike"
        return Unread(key, "scale", "no-layer", reason)
    return Unread(key, "tensor", "no-layer", _why(field, rank))


def _why(field: str, rank: int) -> str:
    if fields.is_bias(field):
        return "a bias of no layer beside it" if rank == 1 else f"a bias of {rank} dimensions"
    if field in fields.STATISTICS:
        return "statistics of a normalization without its scale"
    if field == "weight":
        return f"a weight of {rank} dimensions is neither a matrix nor a kernel"
    return "by its name it is not a layer's weight"
