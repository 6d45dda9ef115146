"""What the instances of known torch.nn classes hold; one that holds anything else is changed.

An attribute of an instance goes before its class's methods, its parameters and its buffers. So a
`forward`, a `weight` or a hook in it makes the layer another function than its class's, and only
an instance that holds nothing beside what its class puts there is taken for what it is called.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lipaudit.formats.pickle_guard import Global, Record
from lipaudit.formats.pickle_machine import ORDERED
from lipaudit.graph.constant import Constant, Shape

_GROUPS = ("_parameters", "_buffers", "_modules")
"""Where torch looks for a name that is no attribute, in this order."""
_FORWARD_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_WEIGHT_NORM = "torch.nn.utils.weight_norm.WeightNorm"
_SPECTRAL_NORM = "torch.nn.utils.spectral_norm.SpectralNorm"
_PARTS = {
    _WEIGHT_NORM: frozenset({"weight_g", "weight_v"}),
    _SPECTRAL_NORM: frozenset({"weight_orig", "weight_u", "weight_v"}),
}
"""Hooks that set `weight` before every call, and the tensors that they make it of."""
_EVERY = frozenset({
    "training", *_GROUPS, *_FORWARD_HOOKS, "_non_persistent_buffers_set", "_backend",
    "_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook",
    "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs", "_state_dict_hooks", "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
})  # fmt: skip
"""What torch.nn.Module itself puts into an instance, from torch 0.4 on."""
_NUMBERS = frozenset(
    {"eps", "negative_slope", "alpha", "beta", "threshold", "value", "min_val", "max_val"}
)
_FLAGS = frozenset({"training", "ceil_mode", "count_include_pad", "return_indices"})
_TEXTS = frozenset({"padding_mode", "approximate"})
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Known:
    """What an instance of a class may hold beside what every module does."""

    attributes: frozenset[str]
    tensors: frozenset[str]


def _known(attributes: str = "", tensors: str = "") -> Known:
    return Known(frozenset(attributes.split()), frozenset(tensors.split()))


_CONVOLUTION = _known(
    "in_channels out_channels kernel_size stride padding dilation transposed output_padding groups "
    "padding_mode _reversed_padding_repeated_twice _padding_repeated_twice",
    "weight bias",
)
_BATCH_NORM = _known(
    "num_features eps momentum affine track_running_stats",
    "weight bias running_mean running_var num_batches_tracked",
)
_MAX_POOL = _known("kernel_size stride padding dilation return_indices ceil_mode")
_AVERAGE_POOL = _known("kernel_size stride padding ceil_mode count_include_pad divisor_override")
_DROPOUT = _known("p inplace")
_INPLACE = _known("inplace")
_BOX = _known("min_val max_val inplace")
_RANKS = ("1d", "2d", "3d")

CLASSES: Mapping[str, Known] = {
    "Sequential": _known(),
    "Linear": _known("in_features out_features", "weight bias"),
    **{f"{kind}{rank}": _CONVOLUTION for kind in ("Conv", "ConvTranspose") for rank in _RANKS},
    **{f"BatchNorm{rank}": _BATCH_NORM for rank in _RANKS},
    **{f"MaxPool{rank}": _MAX_POOL for rank in _RANKS},
    **{f"AvgPool{rank}": _AVERAGE_POOL for rank in _RANKS},
    **{f"AdaptiveAvgPool{rank}": _known("output_size") for rank in _RANKS},
    **{f"{kind}": _DROPOUT for kind in ("Dropout", "AlphaDropout")},
    **{f"Dropout{rank}": _DROPOUT for rank in _RANKS},
    "LayerNorm": _known("normalized_shape eps elementwise_affine", "weight bias"),
    # ReLU was a Threshold before torch 1.2.
    "ReLU": _known("inplace threshold value"),
    "LeakyReLU": _known("negative_slope inplace"),
    "ELU": _known("alpha inplace"),
    "CELU": _known("alpha inplace"),
    "PReLU": _known("num_parameters init", "weight"),
    "ReLU6": _BOX,
    "Hardtanh": _BOX,
    "GELU": _known("approximate"),
    "GLU": _known("dim"),
    "Softplus": _known("beta threshold"),
    "Softmax": _known("dim"),
    "LogSoftmax": _known("dim"),
    "Flatten": _known("start_dim end_dim"),
    **dict.fromkeys(("SELU", "SiLU", "Mish", "Hardswish", "Hardsigmoid"), _INPLACE),
    **dict.fromkeys(
        ("Identity", "Sigmoid", "Softsign", "Tanh", "LogSigmoid", "Tanhshrink"), _known()
    ),
}


def bare(kind: str) -> str:
    """Return torch.nn's own class name; "" for a class that is not one of its layers."""
    home, _, name = kind.rpartition(".")
    return name if home == "torch.nn" or home.startswith("torch.nn.modules.") else ""


def table(value: object) -> dict[object, object] | None:
    """Return what a dictionary holds, plain or ordered; None for what may act otherwise."""
    if isinstance(value, Record):
        is_plain = value.made_by == ORDERED and value.state is None and not value.elements
        return value.items if is_plain else None
    if value is None:
        return {}
    return value if isinstance(value, dict) and type(value) in {dict, OrderedDict} else None


def change(kind: str, state: Mapping[Any, object], tensors: Mapping[str, Constant]) -> str:
    """Say what makes an instance of a known class another function than its class; "" for nothing.

    `state` is its dictionary, `tensors` its own parameters and buffers as they are stored.
    """
    known = CLASSES.get(bare(kind))
    return "" if known is None else next(_changes(bare(kind), known, state, tensors), "")


def remade(state: Mapping[Any, object]) -> str:
    """Return the kind of the hook that makes the weight, "" where there is no such hook."""
    hooks = table(state.get("_forward_pre_hooks")) or {}
    kinds = [hook.kind for hook in hooks.values() if isinstance(hook, Record)]
    return kinds[0] if len(kinds) == len(hooks) == 1 and kinds[0] in _PARTS else ""


def depends_on_mode(kind: str, state: Mapping[Any, object]) -> bool:
    """Tell whether the instance was in training mode and is another function at inference."""
    if state.get("training", False) is False:
        return False
    name = bare(kind)
    is_dropout = "Dropout" in name and state.get("p") != 0
    return is_dropout or name.startswith("BatchNorm") or remade(state) == _SPECTRAL_NORM


def _changes(
    name: str,
    known: Known,
    state: Mapping[Any, object],
    tensors: Mapping[str, Constant],
) -> Iterator[str]:
    yield from _of_parts(name, state)
    hook = remade(state)
    yield from _of_hooks(hook, state)
    if hook and not _is_as_torch_makes_it(_state_of_hook(state), hook, tensors):
        yield "its weight is made in a form that is not known"
    allowed = (known.tensors - {"weight"}) | _PARTS[hook] if hook else known.tensors
    for field in sorted(set(tensors) - allowed):
        yield f"{name} has no tensor {_shown(field)}"
    for field, value in state.items():
        if field not in known.attributes | _EVERY and not (hook and field == "weight"):
            yield f"{_shown(field)} is set on the instance itself"
        elif not _fits(name, field, value):
            yield f"its {_shown(field)} is not what {name} takes"


def _of_parts(name: str, state: Mapping[Any, object]) -> Iterator[str]:
    """Say what is odd about the tables of parameters, buffers and modules."""
    groups = [table(state.get(group)) for group in _GROUPS]
    fields = [field for group in groups for field in group or ()]
    if None in groups or not all(isinstance(field, str) for field in (*fields, *state)):
        yield "it holds its parts in a way that is not read"
    yield from (
        f"two of its parts are called {_shown(field)}"
        for field, times in Counter(fields).items()
        if times > 1
    )
    if groups[-1] and name != "Sequential":
        yield f"{name} has no parts of its own"


def _of_hooks(known: str, state: Mapping[Any, object]) -> Iterator[str]:
    """Name the hooks that are called with every input or output, but for a known one."""
    for group in _FORWARD_HOOKS:
        hooks = table(state.get(group))
        if hooks is None:
            yield f"its {group} are in a form that is not read"
        elif hooks and not (known and group == "_forward_pre_hooks"):
            names = ", ".join(_named(one) for one in hooks.values())
            yield f"it has a hook that is not known ({names})"


def _fits(name: str, field: object, value: object) -> bool:
    """Tell whether an attribute on which the function depends is of the type that is read."""
    if field in _FLAGS:
        return isinstance(value, bool)
    if field in _TEXTS:
        return isinstance(value, str)
    if field in _NUMBERS:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and (name != "ReLU" or value == 0)
    return True


def _state_of_hook(state: Mapping[Any, object]) -> dict[object, object]:
    hooks = table(state.get("_forward_pre_hooks")) or {}
    found = next((hook.state for hook in hooks.values() if isinstance(hook, Record)), None)
    return found if isinstance(found, dict) else {}


def _is_as_torch_makes_it(
    hook: dict[object, object], kind: str, tensors: Mapping[str, Constant]
) -> bool:
    """Tell whether a hook makes the weight by the axis that its tensors' sizes are read as."""
    fields = {"name", "dim", "n_power_iterations", "eps"}
    axis = hook.get("dim")
    if hook.get("name") != "weight" or not set(hook) <= fields or isinstance(axis, bool):
        return False
    if not isinstance(axis, int) or not _PARTS[kind] <= set(tensors) or "weight" in tensors:
        return False
    if kind == _WEIGHT_NORM:
        shape = tensors["weight_v"].shape
        return -1 <= axis < len(shape) and tensors["weight_g"].shape == _kept(shape, axis)
    shape, rows = tensors["weight_orig"].shape, tensors["weight_u"].items
    fitting = [at for at, size in enumerate(shape[:2]) if size == rows]
    return fitting[:1] == [axis]


def _kept(shape: Shape, axis: int) -> Shape:
    """Return the shape of the norms over all axes but one; weight_norm calls none of them -1."""
    return () if axis < 0 else tuple(n if at == axis else 1 for at, n in enumerate(shape))


def _named(value: object) -> str:
    """Return what a hook is called."""
    if isinstance(value, (Record, Global)):
        return _shown(value.kind if isinstance(value, Record) else str(value))
    return _shown(getattr(value, "__qualname__", type(value).__qualname__))


def _shown(value: object) -> str:
    text: str = value if isinstance(value, str) else type(value).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
