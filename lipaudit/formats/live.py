"""Live modules: a torch.nn.Module at hand, or made by a factory that the user names.

The graph is taken with torch.export on tensors that have shapes but no data. When that fails,
a Sequential still gives its graph, and any other module its layers with their geometry.
"""

import contextlib
import importlib
import io
import logging
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from lipaudit.errors import LipauditError, UsageError
from lipaudit.formats.aten.call import SYMBOL, AtenCall, Ref, Values
from lipaudit.formats.aten.catalog import translate
from lipaudit.formats.module_attributes import depends_on_mode
from lipaudit.formats.module_record import from_live
from lipaudit.formats.modules import of_modules, taken_at_inference
from lipaudit.formats.tables import Tables
from lipaudit.graph import spec
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.constant import Constant, Shape, computed
from lipaudit.graph.dtypes import dtype_name
from lipaudit.graph.model import Model, Origin, Topology
from lipaudit.graph.node import Edge, Graph
from lipaudit.graph.stated import Axes

FORMAT = "nn.Module"
_EXPORTING = threading.RLock()


def from_module(module: torch.nn.Module, shapes: Sequence[Shape]) -> Model:
    """Turn a live module into a model; its weights are shared, not copied."""
    title = type(module).__qualname__
    tensors = {
        key: replace(computed(key, value.detach(), sources=(key,)), scaled_by=None)
        for key, value in module.state_dict(keep_vars=True).items()
    }
    if not shapes:
        model = of_modules([from_live(module)], tensors, path=title, format=FORMAT)
        if model.topology is Topology.STATED:
            return model
        note = "give input_shape, so that its graph can be exported"
        return replace(model, notes=(*model.notes, note))
    try:
        graph = _exported(module, shapes, tensors, title)
    except LipauditError as problem:
        model = of_modules([from_live(module)], tensors, path=title, format=FORMAT)
        return replace(model, notes=(*model.notes, problem.cause))
    return Model(
        path=title,
        format=FORMAT,
        files=(),
        tensors=tensors,
        graph=graph,
        topology=Topology.STATED,
        assumptions=taken_at_inference(_in_training(module)),
    )


def _in_training(module: torch.nn.Module) -> list[str]:
    """Return the names of the parts that are in training mode and do something else in it."""
    return [
        name or type(part).__name__
        for name, part in module.named_modules()
        if depends_on_mode(f"torch.nn.{type(part).__name__}", {**vars(part)})
    ]


def batched(module: torch.nn.Module, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
    """Add a batch axis of one sample to each shape that has none.

    The first layer whose signal has a fixed number of axes says which do. In a dense network
    without such a layer 1x5 is one sample of 5, but 1x28x28 one of 1x28x28, an image.
    """
    found = ((part, _axes(part)) for part in module.modules())
    part, wanted = next(((p, axes) for p, axes in found if axes), (None, 0))
    dense = any(isinstance(p, torch.nn.Linear) for p in module.modules())
    is_dense = not wanted and dense
    # A recurrent layer counts steps first, unless it is told otherwise.
    at = 1 if isinstance(part, torch.nn.RNNBase) and not part.batch_first else 0
    return tuple(
        shape
        if len(shape) == wanted or (is_dense and len(shape) == 2 and shape[0] == 1)
        else (*shape[:at], 1, *shape[at:])
        for shape in shapes
    )


def _axes(part: torch.nn.Module) -> int:
    """Return how many axes the signal of a layer has, where its kind fixes that; else 0."""
    if isinstance(part, torch.nn.RNNBase):
        return 3
    found = re.search(r"(Conv|ConvTranspose|Pool|InstanceNorm|Pad)([123])d$", type(part).__name__)
    return 2 + int(found[2]) if found is not None else 0


def from_factory(name: str, checkpoint: Model, shapes: Sequence[Shape]) -> Model:
    """Give a checkpoint the graph of the module that the user's `pkg.mod:factory` returns."""
    if not shapes:
        raise UsageError(
            "the graph of --model needs the input's shape", slug="shape", hint="give --input-shape"
        )
    module = _made(name)
    wanted = module.state_dict(keep_vars=True)
    stored = _joined(wanted, checkpoint, name)
    graph = _exported(module, batched(module, shapes), stored, checkpoint.path)
    return replace(
        checkpoint,
        graph=graph,
        origin=Origin.FACTORY,
        examples=tuple(shapes),
        topology=Topology.STATED,
        assumptions=(),
        unread=(),
        notes=(*checkpoint.notes, f"layer graph from {name}"),
    )


def _made(name: str) -> torch.nn.Module:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UsageError(
            f"{name!r} names no factory", slug="model-factory", hint="write it as pkg.mod:factory"
        )
    try:
        # stdout is data: what the user's code prints goes to stderr.
        with _current_folder_importable(), contextlib.redirect_stdout(sys.stderr):
            factory = getattr(importlib.import_module(module_name), attribute)
            made = factory()
    except Exception as error:
        raise UsageError(
            f"--model {name}: {type(error).__name__}: {error}", slug="model-factory"
        ) from error
    if not isinstance(made, torch.nn.Module):
        raise UsageError(
            f"--model {name} returned a {type(made).__name__}, not a torch.nn.Module",
            slug="model-factory",
        )
    return made.eval()


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


def _joined(
    wanted: Mapping[str, torch.Tensor], checkpoint: Model, name: str
) -> dict[str, Constant]:
    """Find the checkpoint's tensor for each of the module's, wrappers and prefixes aside."""
    by_tail: dict[str, list[str]] = {}
    for key in checkpoint.tensors:
        tail = key.rpartition("/")[2]
        by_tail.setdefault(tail, []).append(key)
        for prefix in ("module.", "_orig_mod.", "model."):
            if tail.startswith(prefix):
                by_tail.setdefault(tail.removeprefix(prefix), []).append(key)
    found: dict[str, Constant] = {}
    missing = []
    for key, tensor in wanted.items():
        candidates = by_tail.get(key, [])
        if len(candidates) != 1:
            if tensor.is_floating_point():
                missing.append(key)
            else:
                # Old checkpoints lack counters such as num_batches_tracked; the code has them.
                found[key] = computed(key, tensor.detach())
            continue
        constant = checkpoint.tensors[candidates[0]]
        if constant.shape != tuple(tensor.shape):
            raise UsageError(
                f"{key!r} is {list(constant.shape)} in the checkpoint and {list(tensor.shape)} "
                f"in {name}",
                slug="model-factory",
                path=checkpoint.path,
            )
        found[key] = constant
    if missing:
        shown = ", ".join(repr(key) for key in missing[:3])
        raise UsageError(
            f"the checkpoint lacks {len(missing)} tensors of {name}: {shown}",
            slug="model-factory",
            path=checkpoint.path,
        )
    return found


def _exported(
    module: torch.nn.Module, shapes: Sequence[Shape], tensors: Mapping[str, Constant], path: str
) -> Graph:
    """Export the module without running it on data, and translate its graph."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad(), torch.device("cpu"), quiet():
            program = _program(module, shapes)
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [""])[0][:200]
        raise UsageError(
            f"torch.export could not take its graph: {type(error).__name__}: {first_line}",
            slug="export",
            path=path,
        ) from error
    finally:
        module.train(training)
    return translated(program, tensors, path)


def _program(module: torch.nn.Module, shapes: Sequence[Shape]) -> ExportedProgram:
    """Export on an input of the kind of numbers that the weights have.

    Where they have several, float32 is tried first; the last one may fail.
    """
    found = {each.dtype for each in module.parameters() if each.is_floating_point()}
    *others, last = sorted(found, key=lambda kind: (kind != torch.float32, str(kind))) or [
        torch.float32
    ]
    for kind in others:
        with contextlib.suppress(Exception):
            return torch.export.export(module, _examples(shapes, kind))
    return torch.export.export(module, _examples(shapes, last))


def _examples(shapes: Sequence[Shape], kind: torch.dtype) -> tuple[torch.Tensor, ...]:
    return tuple(torch.zeros(shape, dtype=kind) for shape in shapes)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's own account of a failed export off stderr: ours is one line.

    One thread at a time: the streams are the whole process's, and so is what torch replaces
    while it exports.
    """
    with _EXPORTING:
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        hidden = io.StringIO()
        try:
            with contextlib.redirect_stdout(hidden), contextlib.redirect_stderr(hidden):
                yield
        finally:
            logging.disable(before)


def translated(
    program: ExportedProgram,
    tensors: Mapping[str, Constant],
    path: str,
    made: Mapping[str, torch.Tensor] | None = None,
) -> Graph:
    """Turn an exported program into a graph, with these weights by the names of the code's.

    `made` are tensors that the code makes when the module is built, where the program itself has
    no values of them. With it also real numbers that depend on nothing else, such as angles, are
    taken as torch computes them.
    """
    program = _without_writing(program)
    shapes, dtypes = _metas(program)
    build = GraphBuilder((*shapes, *(node.name for node in program.graph.nodes)))
    names: dict[str, str] = {}
    stored: dict[str, torch.Tensor] = {}
    for entry in program.graph_signature.input_specs:
        argument = getattr(entry.arg, "name", "")
        if entry.kind is InputKind.USER_INPUT:
            build.input(Edge(argument, shapes.get(argument), dtypes.get(argument, "float32")))
            continue
        key = entry.target or argument
        constant = tensors.get(key)
        if constant is None:
            stored[argument] = _made_by_code(program, made or {}, key, path)
            constant = computed(key, stored[argument])
        names[argument] = build.constant(constant)
        shapes[argument] = shapes[names[argument]] = constant.shape
        dtypes[argument] = dtypes[names[argument]] = constant.dtype
    values = Values(shapes, dtypes)
    tables = Tables(stored, exact=made is None)
    for node in program.graph.nodes:
        if node.op == "call_function" and tables.evaluate(node):
            continue
        if node.meta.get("val") is not None or node.op == "output":
            for read in node.all_input_nodes:
                tables.hold(read, build)
        _visit(node, build, names, values)
    outputs = [
        Edge(names.get(entry.arg.name, entry.arg.name))
        for entry in program.graph_signature.output_specs
        if entry.kind is OutputKind.USER_OUTPUT and hasattr(entry.arg, "name")
    ]
    graph = replace(build.finish(outputs), stated=values.statement())
    return spec.check(graph, path=path)


def _without_writing(program: ExportedProgram) -> ExportedProgram:
    """Spell out what is written in place: a view of it, or a later reader, sees the change."""
    schemas = (getattr(node.target, "_schema", None) for node in program.graph.nodes)
    if not any(schema is not None and schema.is_mutable for schema in schemas):
        return program
    with quiet():
        functional: ExportedProgram = program.run_decompositions({})
    return functional


def _metas(program: ExportedProgram) -> tuple[dict[str, Axes], dict[str, str]]:
    """Return sizes and item type of every tensor; of several outputs under `name:position`."""
    shapes: dict[str, Axes] = {}
    dtypes: dict[str, str] = {}
    for node in program.graph.nodes:
        value = node.meta.get("val")
        several = isinstance(value, (list, tuple))
        for at, part in enumerate(value if several else [value]):
            if isinstance(part, torch.Tensor):
                name = f"{node.name}:{at}" if several else node.name
                shapes[name] = tuple(s if isinstance(s, int) else None for s in part.shape)
                dtypes[name] = dtype_name(part.dtype)
    return shapes, dtypes


def _made_by_code(
    program: ExportedProgram, made: Mapping[str, torch.Tensor], key: str, path: str
) -> torch.Tensor:
    """Return a tensor that is no weight: the code makes it itself."""
    value = made.get(key, program.constants.get(key))
    if not isinstance(value, torch.Tensor) or value.is_meta:
        raise UsageError(f"{key!r} has no value", slug="export", path=path)
    return value.detach()


def _visit(
    node: torch.fx.Node,
    build: GraphBuilder,
    names: dict[str, str],
    values: Values,
) -> None:
    """Translate one node of the exported graph."""
    if node.op != "call_function":
        return
    value = node.meta.get("val")
    if getattr(node.target, "__name__", "") == "getitem" and isinstance(
        node.args[0], torch.fx.Node
    ):
        names[node.name] = f"{node.args[0].name}:{node.args[1]}"
        return
    outputs: tuple[str, ...] = (node.name,) if isinstance(value, torch.Tensor) else ()
    if isinstance(value, (list, tuple)):
        outputs = tuple(f"{node.name}:{at}" for at in range(len(value)))
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        call = AtenCall(str(node.target), "", node.name, {}, outputs, values)
    else:
        arguments = dict(zip((a.name for a in schema.arguments), node.args, strict=False))
        arguments |= node.kwargs
        plain = {name: _plain(value, names) for name, value in arguments.items()}
        op = schema.name.removeprefix("aten::")
        call = AtenCall(op, schema.overload_name, _title(node), plain, outputs, values)
    translate(call, build)


def _plain(value: object, names: Mapping[str, str]) -> object:
    if isinstance(value, torch.fx.Node):
        held = value.meta.get("val")
        return Ref(names.get(value.name, value.name)) if isinstance(held, torch.Tensor) else SYMBOL
    if isinstance(value, (list, tuple)):
        return [_plain(part, names) for part in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return dtype_name(value) if isinstance(value, torch.dtype) else SYMBOL


def _title(node: torch.fx.Node) -> str:
    stack = node.meta.get("nn_module_stack")
    if isinstance(stack, dict) and stack:
        place = list(stack.values())[-1][0]
        if isinstance(place, str) and place:
            return place
    return node.name
