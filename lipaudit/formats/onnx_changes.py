"""Changes: what an operation of an old opset is called in the newest, one function a change.

What changed when: https://onnx.ai/onnx/operators/ ("Differences with previous version").
A function raises `Inexpressible` where the newest opset has no words for it.
"""

from collections.abc import Mapping
from dataclasses import replace

import onnx

from lipaudit.formats.onnx_rank import MAX_RANK
from lipaudit.formats.onnx_rewriter import Inexpressible, Rewriter
from lipaudit.graph.dtypes import ONNX_DTYPES

_WIDER: Mapping[str, str] = {"int4": "int8", "int2": "int8", "uint4": "uint8", "uint2": "uint8"}


def batch_normalization(at: Rewriter) -> None:
    """Until 14 the number of outputs, and before 7 `is_test`, told training from inference."""
    made = [name for name in at.node.outputs if name]
    is_training = len(made) > 1 or (at.opset < 7 and at.integer("is_test", 0) == 0)
    attributes = at.attributes("spatial", "is_test")
    if is_training:
        if len(made) > 3:
            raise Inexpressible("it normalizes by the batch's own statistics (training mode)")
        at.finish("BatchNormalization", at.node.inputs, {**attributes, "training_mode": 1}, made)
    elif at.opset < 9 and at.integer("spatial", 1) == 0:
        _batch_normalization_by_item(at)
    else:
        at.finish("BatchNormalization", at.node.inputs, attributes, at.node.outputs[:1])


def _batch_normalization_by_item(at: Rewriter) -> None:
    """Before 9 each item could have statistics of its own: γ (x - μ) / √(v + ε) + β."""
    data, scale, bias, mean, variance = (at.input(position) for position in range(5))
    epsilon = at.real_constant(at.number("epsilon", 1e-5), "epsilon")
    root = at.step("Sqrt", (at.step("Add", (variance, epsilon)),))
    centred = at.step("Sub", (data, mean))
    scaled = at.step("Mul", (centred, at.step("Div", (scale, root))))
    at.finish("Add", (scaled, bias), {}, at.node.outputs[:1])


def broadcast(at: Rewriter) -> None:
    """Before 7 the second operand was laid over the first from an `axis` on."""
    attributes = at.attributes("broadcast", "axis")
    first, second = at.input(0), at.input(1)
    if at.integer("broadcast", 0) and "axis" in at.node.attributes:
        inner, outer = at.rank(1), at.rank(0)
        axis = at.integer("axis", 0)
        behind = outer - (axis + outer if axis < 0 else axis) - inner
        if behind < 0:
            raise Inexpressible(f"{second!r} does not fit over {first!r} from axis {axis} on")
        if behind:
            axes = at.list_constant(range(inner, inner + behind), "axes")
            second = at.step("Unsqueeze", (second, axes))
    at.finish(at.node.op, (first, second), attributes)


def cast(at: Rewriter) -> None:
    """Before 6 the type was written as its name."""
    to = at.node.attributes.get("to")
    if isinstance(to, str):
        number = dict(onnx.TensorProto.DataType.items()).get(to.upper(), 0)
        if number not in ONNX_DTYPES:
            raise Inexpressible(f"it casts to {to!r}, which is no type")
        to = number
    if to is None:
        raise Inexpressible("it does not say what it casts to")
    at.finish("Cast", at.node.inputs, at.attributes(to=to))


def clip(at: Rewriter) -> None:
    """Before 11 the limits were attributes."""
    limits = [
        at.real_constant(at.number(side, 0.0), side) if side in at.node.attributes else ""
        for side in ("min", "max")
    ]
    at.finish("Clip", (at.input(0), *limits), at.attributes("min", "max"))


def concat(at: Rewriter) -> None:
    """Before 4 the axis could be left out."""
    at.finish("Concat", at.node.inputs, at.attributes(axis=at.integer("axis", 1)))


def dequantize(at: Rewriter) -> None:
    """Integers of less than a byte: torch has none, and in a byte each they mean the same."""
    inputs = list(at.node.inputs)
    for position in range(len(inputs)):
        constant = at.constant(position)
        if constant is not None and constant.dtype in _WIDER:
            wider = replace(
                constant, name=f"{constant.name}.wider", dtype=_WIDER[constant.dtype], slot=None
            )
            inputs[position] = at.alias(wider)
    at.finish("DequantizeLinear", inputs, at.node.attributes)


def dft(at: Rewriter) -> None:
    """Before 20 the axis was an attribute, the first after the batch by default."""
    axis = at.list_constant((at.integer("axis", 1),), "axis")
    scalar = at.step("Squeeze", (axis,))
    at.finish("DFT", (at.input(0), at.input(1), scalar), at.attributes("axis"))


def dropout(at: Rewriter) -> None:
    """Before 12 it dropped nothing at inference; before 7 it dropped unless told it is a test."""
    attributes = at.attributes("ratio", "is_test")
    if at.opset < 7 and at.integer("is_test", 0) == 0:
        ratio = at.real_constant(at.number("ratio", 0.5), "ratio")
        at.finish("Dropout", (at.input(0), ratio, at.truth("training_mode")), attributes)
    else:
        at.finish("Dropout", (at.input(0),), attributes)


def gemm(at: Rewriter) -> None:
    """Before 7 it said whether C is broadcast."""
    at.finish("Gemm", at.node.inputs, at.attributes("broadcast"))


def grid_sample(at: Rewriter) -> None:
    """Before 20 the modes had the names they have for images."""
    mode = at.text("mode", "bilinear")
    renamed = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    at.finish("GridSample", at.node.inputs, at.attributes(mode=renamed))


def group_normalization(at: Rewriter) -> None:
    """Before 21 scale and bias were one number a group.

    Groups taken as channels make it an instance normalization.
    """
    groups = at.integer("num_groups", 0)
    if groups < 1:
        raise Inexpressible("it does not say how many groups it has")
    shape = at.list_constant((0, groups, -1), "shape")
    grouped = at.step("Reshape", (at.input(0), shape))
    normalized = at.step(
        "InstanceNormalization",
        (grouped, at.input(1), at.input(2)),
        epsilon=at.number("epsilon", 1e-5),
    )
    at.finish("Reshape", (normalized, at.step("Shape", (at.input(0),))), {})


def lp(at: Rewriter) -> None:
    """Before 2 the power was a real number."""
    power = at.number("p", 2.0)
    if power != int(power):
        raise Inexpressible(f"power {power} is no integer")
    at.finish(at.node.op, at.node.inputs, at.attributes(p=int(power)))


def one_axis(at: Rewriter) -> None:
    """Softmax and its like: before 13 over all axes from one on, taken as a single one."""
    axis = at.integer("axis", 1)
    is_last = axis == -1
    if at.has_rank(0):
        rank = at.rank(0)
        is_last = axis % rank == rank - 1 if rank and -rank <= axis < rank else False
    if is_last:
        at.finish(at.node.op, at.node.inputs, at.attributes(axis=-1))
        return
    flat = at.step("Flatten", (at.input(0),), axis=axis)
    done = at.step(at.node.op, (flat,), axis=-1)
    at.finish("Reshape", (done, at.step("Shape", (at.input(0),))), {})


def pad(at: Rewriter) -> None:
    """Before 11 the pads were an attribute, before 2 under another name."""
    pads = at.integers("paddings" if at.opset < 2 else "pads")
    if pads is None:
        raise Inexpressible("it does not say how far it pads")
    value = at.real_constant(at.number("value", 0.0), "value")
    inputs = (at.input(0), at.list_constant(pads, "pads"), value)
    at.finish("Pad", inputs, at.attributes("paddings", "pads", "value"))


def prelu(at: Rewriter) -> None:
    """Before 7 a list of slopes was one a channel."""
    slope, slopes = at.input(1), at.constant(1)
    if slopes is None or slopes.items != 1:
        behind = at.rank(0) - 1 - at.rank(1)
        if behind > 0:
            axes = at.list_constant(range(at.rank(1), at.rank(1) + behind), "axes")
            slope = at.step("Unsqueeze", (slope, axes))
    at.finish("PRelu", (at.input(0), slope), at.node.attributes)


def recurrent(at: Rewriter) -> None:
    """Before 7 it said whether the whole sequence is wanted, which the output's name says."""
    at.finish(at.node.op, at.node.inputs, at.attributes("output_sequence"))


def reshape(at: Rewriter) -> None:
    """Before 5 the shape was an attribute."""
    shape = at.integers("shape")
    if shape is None:
        raise Inexpressible("it does not say to what shape")
    inputs = (at.input(0), at.list_constant(shape, "shape"))
    at.finish("Reshape", inputs, at.attributes("shape"))


def resize(at: Rewriter) -> None:
    """Until 18 what was not used had to be given all the same, as an empty tensor."""
    if at.text("coordinate_transformation_mode", "") == "tf_half_pixel_for_nn":
        raise Inexpressible("its coordinates are those of TensorFlow 1, dropped in opset 13")
    uses_region = at.text("coordinate_transformation_mode", "") == "tf_crop_and_resize"
    scales = at.constant(2)
    is_empty = scales is not None and scales.items == 0
    inputs = (
        at.input(0),
        at.input(1) if uses_region else "",
        "" if is_empty else at.input(2),
        at.input(3),
    )
    at.finish("Resize", inputs, at.node.attributes)


def _resize_by(at: Rewriter, scales: str) -> None:
    """Upsample, and Resize of opset 10: pixel i of the result comes from i / scale.

    Which neighbour is the nearest one was not written down; onnxruntime takes the one below,
    and the one above where it shrinks.
    """
    mode = at.text("mode", "nearest")
    attributes: dict[str, str] = {
        "mode": "linear" if mode == "bilinear" else mode,
        "coordinate_transformation_mode": "asymmetric",
    }
    if mode == "nearest":
        attributes["nearest_mode"] = "floor"
        if at.node.op == "Resize":
            known = at.constant(1)
            if known is None or not 0 < known.items <= MAX_RANK:
                raise Inexpressible("it is not stored by how much it resizes")
            factors = known.values().flatten().tolist()
            if min(factors) < 1:
                if max(factors) > 1:
                    raise Inexpressible("which neighbour is nearest was not defined in opset 10")
                attributes["nearest_mode"] = "ceil"
    at.finish("Resize", (at.input(0), "", scales), attributes)


def resize_10(at: Rewriter) -> None:
    """Opset 10: the scales are the second input."""
    _resize_by(at, at.input(1))


def roi_align(at: Rewriter) -> None:
    """Before 16 the regions were not shifted by half a pixel."""
    mode = at.text("coordinate_transformation_mode", "output_half_pixel")
    at.finish("RoiAlign", at.node.inputs, at.attributes(coordinate_transformation_mode=mode))


def scan(at: Rewriter) -> None:
    """In opset 8 it ran over a batch of sequences of different lengths."""
    raise Inexpressible(f"{at.node.op} of opset 8 has a batch axis, which the newer has not")


def scatter(at: Rewriter) -> None:
    """Since 11 it is called ScatterElements."""
    at.finish("ScatterElements", at.node.inputs, at.node.attributes)


def selu(at: Rewriter) -> None:
    """Before 6 the constants were rounded to four digits."""
    alpha, gamma = at.number("alpha", 1.6732), at.number("gamma", 1.0507)
    at.finish("Selu", at.node.inputs, at.attributes(alpha=alpha, gamma=gamma))


def slice_(at: Rewriter) -> None:
    """Before 10 the limits were attributes."""
    starts, ends, axes = (at.integers(name) for name in ("starts", "ends", "axes"))
    if starts is None or ends is None:
        raise Inexpressible("it does not say from where to where")
    inputs = [at.input(0), at.list_constant(starts, "starts"), at.list_constant(ends, "ends")]
    if axes is not None:
        inputs.append(at.list_constant(axes, "axes"))
    at.finish("Slice", inputs, at.attributes("starts", "ends", "axes"))


def split(at: Rewriter) -> None:
    """Before 13 the sizes were an attribute; before 18 equal parts needed no number."""
    if at.opset < 2 and "axis" not in at.node.attributes:
        raise Inexpressible("it does not say along which axis")
    sizes = at.integers("split")
    attributes = at.attributes("split")
    if sizes is not None:
        at.finish("Split", (at.input(0), at.list_constant(sizes, "split")), attributes)
    elif at.input(1):
        at.finish("Split", at.node.inputs, attributes)
    else:
        count = attributes.get("num_outputs", len(at.node.outputs))
        at.finish("Split", (at.input(0),), {**attributes, "num_outputs": count})


def axes_as_input(at: Rewriter) -> None:
    """Before 13 (reductions other than the sum: 18) the axes were an attribute."""
    axes = at.integers("axes")
    inputs = at.node.inputs
    if axes is not None:
        inputs = (at.input(0), at.list_constant(axes, "axes"))
    at.finish(at.node.op, inputs, at.attributes("axes"))


def tile(at: Rewriter) -> None:
    """Before 6 one axis was repeated, both numbers being inputs."""
    count, axis = at.constant(1), at.constant(2)
    if count is None or axis is None or count.items != 1 or axis.items != 1:
        raise Inexpressible("its axis or count is not a stored number")
    repeats = [1] * at.rank(0)
    place = int(axis.values().item())
    if not 0 <= place < len(repeats):
        raise Inexpressible(f"there is no axis {place}")
    repeats[place] = int(count.values().item())
    at.finish("Tile", (at.input(0), at.list_constant(repeats, "repeats")), at.node.attributes)


def top_k(at: Rewriter) -> None:
    """Before 10 the number was an attribute."""
    count = at.list_constant((at.integer("k", 1),), "k")
    at.finish("TopK", (at.input(0), count), at.attributes("k"))


def upsample(at: Rewriter) -> None:
    """Resize by another name; before 9 the scales were attributes, before 7 only of images."""
    if at.opset < 7:
        factors = [1.0, 1.0, at.number("height_scale", 1.0), at.number("width_scale", 1.0)]
    else:
        said = at.node.attributes.get("scales")
        numbers = said if isinstance(said, tuple) else ()
        factors = [float(number) for number in numbers if isinstance(number, float | int)]
    scales = at.input(1) if at.opset >= 9 else at.real_constant(factors, "scales")
    _resize_by(at, scales)
