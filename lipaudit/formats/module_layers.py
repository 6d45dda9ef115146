"""The torch.nn classes that need more than a name: one small translator each."""

from lipaudit.formats.module_record import ModuleRecord, is_size
from lipaudit.formats.modules import continue_with, translates
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.node import TORCH_DOMAIN, Attribute


@translates("Sequential")
def sequential(module: ModuleRecord, build: GraphBuilder, x: str) -> str | None:
    """Run the children in order."""
    for child in module.children.values():
        x = continue_with(child, build, x)
    return x


@translates("Linear")
def linear(module: ModuleRecord, build: GraphBuilder, x: str) -> str | None:
    """X Wᵀ + b."""
    weight = module.tensors.get("weight")
    if weight is None:
        return None
    return build.add("Linear", [x, *_own(module, build)], name=module.title, domain=TORCH_DOMAIN)


@translates("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
def convolution(module: ModuleRecord, build: GraphBuilder, x: str) -> str | None:
    """Write a convolution with its stride, padding, dilation and groups."""
    weight = module.tensors.get("weight")
    if weight is None or len(weight.shape) not in {3, 4, 5}:
        return None
    rank = len(weight.shape) - 2
    stride = module.integers("stride", rank)
    dilation = module.integers("dilation", rank)
    groups = module.attributes.get("groups", 1)
    mode = module.attributes.get("padding_mode", "zeros")
    pads = None if dilation is None else _padding(module, weight.shape[2:], dilation)
    if stride is None or dilation is None or pads is None:
        return None
    if not is_size(groups) or not isinstance(mode, str):
        return None
    attributes: dict[str, Attribute] = {
        "strides": stride,
        "dilations": dilation,
        "group": groups,
        "pads": pads,
        "kernel_shape": weight.shape[2:],
    }
    if "Transpose" in module.kind:
        extra = module.integers("output_padding", rank)
        if mode != "zeros" or (extra is None and "output_padding" in module.attributes):
            return None
        attributes["output_padding"] = extra or (0,) * rank
        return build.add(
            "ConvTranspose", [x, *_own(module, build)], name=module.title, attributes=attributes
        )
    domain = ""
    if mode != "zeros":
        if not _pads_alike(module, pads):
            return None
        attributes["padding_mode"] = mode
        domain = TORCH_DOMAIN
    return build.add(
        "Conv", [x, *_own(module, build)], name=module.title, attributes=attributes, domain=domain
    )


def _padding(
    module: ModuleRecord, kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Return ONNX's pads: all beginnings, then all ends."""
    padding = module.attributes.get("padding", 0)
    if padding == "valid":
        return (0,) * (2 * len(kernel))
    if padding == "same":
        totals = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        return (*(t // 2 for t in totals), *(t - t // 2 for t in totals))
    sizes = module.integers("padding", len(kernel))
    return None if sizes is None else sizes * 2


def _pads_alike(module: ModuleRecord, pads: tuple[int, ...]) -> bool:
    """Tell whether the list that torch pads by, last axis first, says the same as the padding."""
    rank = len(pads) // 2
    wanted = [pad for at in reversed(range(rank)) for pad in (pads[at], pads[rank + at])]
    stated = module.attributes.get("_reversed_padding_repeated_twice", wanted)
    return isinstance(stated, (list, tuple)) and [*stated] == wanted


@translates("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")
def batch_norm(module: ModuleRecord, build: GraphBuilder, x: str) -> str | None:
    """Batch norm with its stored statistics."""
    names = ("weight", "bias", "running_mean", "running_var")
    parts = [module.tensors.get(name) for name in names]
    known = [part for part in parts if part is not None]
    if len(known) != len(names):
        return None
    attributes: dict[str, Attribute] = {"epsilon": module.number("eps", 1e-5)}
    return build.add(
        "BatchNormalization",
        [x, *(build.constant(part) for part in known)],
        name=module.title,
        attributes=attributes,
    )


@translates("LayerNorm")
def layer_norm(module: ModuleRecord, build: GraphBuilder, x: str) -> str | None:
    """Layer norm over the last axes that its weight covers."""
    weight = module.tensors.get("weight")
    if weight is None:
        return None
    attributes: dict[str, Attribute] = {
        "epsilon": module.number("eps", 1e-5),
        "axis": -len(weight.shape),
    }
    return build.add(
        "LayerNormalization", [x, *_own(module, build)], name=module.title, attributes=attributes
    )


@translates("LeakyReLU")
def leaky_relu(module: ModuleRecord, build: GraphBuilder, x: str) -> str | None:
    """Write a rectifier with a slope below 0."""
    return _simple(module, build, x, "LeakyRelu", {"alpha": module.number("negative_slope", 0.01)})


@translates("ELU")
def elu(module: ModuleRecord, build: GraphBuilder, x: str) -> str | None:
    """Write an exponential linear unit."""
    return _simple(module, build, x, "Elu", {"alpha": module.number("alpha", 1.0)})


@translates("CELU")
def celu(module: ModuleRecord, build: GraphBuilder, x: str) -> str | None:
    """Write a continuously differentiable exponential linear unit."""
    return _simple(module, build, x, "Celu", {"alpha": module.number("alpha", 1.0)})


@translates("Softplus")
def softplus(module: ModuleRecord, build: GraphBuilder, x: str) -> str | None:
    """Write log(1 + exp(βx)) / β, and x itself past a threshold."""
    attributes: dict[str, Attribute] = {
        "beta": module.number("beta", 1.0),
        "threshold": module.number("threshold", 20.0),
    }
    return build.add("Softplus", [x], name=module.title, attributes=attributes, domain=TORCH_DOMAIN)


@translates("GLU")
def glu(module: ModuleRecord, build: GraphBuilder, x: str) -> str | None:
    """Write one half gated by the other."""
    axis = module.attributes.get("dim", -1)
    if not is_size(axis):
        return None
    return build.add("GLU", [x], name=module.title, attributes={"dim": axis}, domain=TORCH_DOMAIN)


@translates("PReLU")
def prelu(module: ModuleRecord, build: GraphBuilder, x: str) -> str | None:
    """Write a rectifier with one learned slope; several would need the input's rank."""
    weight = module.tensors.get("weight")
    if weight is None or weight.items != 1:
        return None
    return build.add("PRelu", [x, build.constant(weight)], name=module.title)


@translates("ReLU6")
def relu6(module: ModuleRecord, build: GraphBuilder, x: str) -> str | None:
    """Write a rectifier that ends at 6."""
    return _clip(module, build, x, (0.0, 6.0))


@translates("Hardtanh")
def hardtanh(module: ModuleRecord, build: GraphBuilder, x: str) -> str | None:
    """Write a projection onto an interval."""
    return _clip(module, build, x, (-1.0, 1.0))


@translates("GELU")
def gelu(module: ModuleRecord, build: GraphBuilder, x: str) -> str | None:
    """Write a Gaussian error linear unit, exact or with tanh."""
    form = module.attributes.get("approximate", "none")
    if not isinstance(form, str):
        return None
    return _simple(module, build, x, "Gelu", {"approximate": form})


@translates("Softmax", "LogSoftmax")
def softmax(module: ModuleRecord, build: GraphBuilder, x: str) -> str | None:
    """Softmax along a stated axis."""
    axis = module.attributes.get("dim")
    if not is_size(axis):
        return None
    return _simple(module, build, x, module.kind.rpartition(".")[2], {"axis": axis})


@translates("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "Identity")
def identity(module: ModuleRecord, build: GraphBuilder, x: str) -> str | None:
    """Nothing, at inference."""
    return _simple(module, build, x, "Identity", {})


@translates("Flatten")
def flatten(module: ModuleRecord, build: GraphBuilder, x: str) -> str | None:
    """All axes but the batch in one."""
    if module.attributes.get("start_dim", 1) != 1 or module.attributes.get("end_dim", -1) != -1:
        return None
    return _simple(module, build, x, "Flatten", {"axis": 1})


@translates("MaxPool1d", "MaxPool2d", "MaxPool3d")
def max_pool(module: ModuleRecord, build: GraphBuilder, x: str) -> str | None:
    """Write the largest item of each window."""
    attributes = _windows(module)
    rank = int(module.kind[-2])
    dilation = module.integers("dilation", rank)
    if attributes is None or dilation is None or module.flag("return_indices", default=False):
        return None
    return _simple(module, build, x, "MaxPool", {**attributes, "dilations": dilation})


@translates("AvgPool1d", "AvgPool2d", "AvgPool3d")
def average_pool(module: ModuleRecord, build: GraphBuilder, x: str) -> str | None:
    """Write the mean of each window."""
    attributes = _windows(module)
    if attributes is None or module.attributes.get("divisor_override") is not None:
        return None
    counted = int(module.flag("count_include_pad", default=True))
    return _simple(module, build, x, "AveragePool", {**attributes, "count_include_pad": counted})


@translates("AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d")
def adaptive_average_pool(module: ModuleRecord, build: GraphBuilder, x: str) -> str | None:
    """Write the mean of windows that divide the input."""
    size = module.integers("output_size", int(module.kind[-2]))
    if size is None:
        return None
    if all(one == 1 for one in size):
        return _simple(module, build, x, "GlobalAveragePool", {})
    return build.add(
        "AdaptiveAveragePool", [x], name=module.title, attributes={"output_size": size},
        domain=TORCH_DOMAIN,
    )  # fmt: skip


def _windows(module: ModuleRecord) -> dict[str, Attribute] | None:
    rank = int(module.kind[-2])
    kernel = module.integers("kernel_size", rank)
    is_stated = module.attributes.get("stride") is not None
    stride = module.integers("stride", rank) if is_stated else kernel
    padding = module.integers("padding", rank)
    if kernel is None or stride is None or padding is None:
        return None
    return {
        "kernel_shape": kernel,
        "strides": stride,
        "pads": padding * 2,
        "ceil_mode": int(module.flag("ceil_mode", default=False)),
    }


def _clip(
    module: ModuleRecord, build: GraphBuilder, x: str, ends: tuple[float, float]
) -> str | None:
    low, high = module.number("min_val", ends[0]), module.number("max_val", ends[1])
    if not low <= high:
        return None
    return build.add("Clip", [x, build.scalar(low), build.scalar(high)], name=module.title)


def _own(module: ModuleRecord, build: GraphBuilder) -> list[str]:
    """Return the names of weight and bias, the bias left out where there is none."""
    parts = [module.tensors.get("weight"), module.tensors.get("bias")]
    return [build.constant(part) for part in parts if part is not None]


def _simple(
    module: ModuleRecord, build: GraphBuilder, x: str, op: str, attributes: dict[str, Attribute]
) -> str:
    return build.add(op, [x], name=module.title, attributes=attributes)
