"""Modules into nodes: a Sequential gives a whole graph, other modules their layers unwired.

One small translator a class, by its name in torch.nn. Classes that are one attribute-free
operation come from the registry of layers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from lipaudit.errors import UnsafeFile
from lipaudit.formats.module_attributes import CLASSES, bare
from lipaudit.formats.module_record import (
    ModuleRecord,
    from_pickle,
    missing_of,
    paths_in,
    tensors_of,
)
from lipaudit.formats.pickle_guard import Record
from lipaudit.formats.rebuilding import Missing
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.constant import Constant
from lipaudit.graph.dtypes import torch_type
from lipaudit.graph.model import Model, Topology, Unread
from lipaudit.graph.node import Edge, Graph
from lipaudit.layers.registry import all_kinds

_MAX_PATHS = 200_000
_NAMED = 3
PYTHON_DOMAIN = "python"
"""Of operations that are somebody's Python class."""

Translator = Callable[[ModuleRecord, GraphBuilder, str], str | None]
"""Write the module's nodes behind an edge and return the last edge; None: a form not known."""
_translators: dict[str, Translator] = {}


def translates(*classes: str) -> Callable[[Translator], Translator]:
    """Register the translator of torch.nn classes by their bare names."""

    def register(translator: Translator) -> Translator:
        for name in classes:
            if name in _translators:
                raise ValueError(f"{name} has a translator already")
            _translators[name] = translator
        return translator

    return register


def assemble(
    records: Mapping[str, Record],
    others: Mapping[str, Constant],
    *,
    path: str,
    format: str,  # noqa: A002
) -> Model:
    """Turn the pickled modules of a checkpoint into a model; one Sequential gives a graph."""
    if sum(paths_in(record) for record in records.values()) > _MAX_PATHS:
        raise UnsafeFile(
            f"more than {_MAX_PATHS:,} modules within modules", slug="pickle-size", path=path
        )
    tensors: dict[str, Constant] = {}
    for key, record in records.items():
        tensors |= named(tensors_of(record, key))
    modules = [from_pickle(record, tensors, key) for key, record in records.items()]
    unread = tuple(
        unread_tensor(name, missing)
        for key, record in records.items()
        for name, missing in missing_of(record, key).items()
    )
    model = of_modules(modules, {**others, **tensors}, path=path, format=format)
    return replace(model, unread=(*model.unread, *unread))


def unread_tensor(key: str, missing: Missing) -> Unread:
    """Say that a tensor has no numbers; of a weight that is more than of a counter."""
    is_weight = missing.slug == "dtype" and key.endswith("weight")
    slug = "weight-type" if is_weight else missing.slug
    return Unread(key, "tensor", slug, missing.reason)


def named(tensors: Mapping[str, Constant]) -> dict[str, Constant]:
    """Return the constants under their keys, and called by them."""
    return {
        key: replace(value, name=key, sources=(key,), scaled_by=key if value.slot else None)
        for key, value in tensors.items()
    }


def of_modules(
    modules: list[ModuleRecord],
    tensors: Mapping[str, Constant],
    *,
    path: str,
    format: str,  # noqa: A002
) -> Model:
    """Turn module records into a model."""
    stated = len(modules) == 1 and bare(modules[0].kind) == "Sequential" and _is_chain(modules[0])
    graph = _sequential_graph(modules[0]) if stated else _loose_graph(modules)
    notes: tuple[str, ...] = ()
    if not stated:
        kinds = ", ".join(dict.fromkeys(module.kind for module in modules))
        notes = (f"the forward code of {kinds} is not read",)
    every = [leaf for module in modules for leaf in _leaves(module)]
    notes += tuple(f"{leaf.title!r} is no plain {bare(leaf.kind)}: {leaf.change}"
                   for leaf in every if leaf.change and bare(leaf.kind))  # fmt: skip
    names = [leaf.title for leaf in every if leaf.was_training]
    return Model(
        path=path,
        format=format,
        files=(),
        tensors=dict(tensors),
        graph=graph,
        topology=Topology.STATED if stated else Topology.UNKNOWN,
        assumptions=taken_at_inference(names),
        notes=notes,
        unread=tuple(
            Unread(_dotted(leaf, field), "tensor", "hidden-tensor", f"its layer: {leaf.change}")
            for leaf in every
            if leaf.change and bare(leaf.kind)
            for field in leaf.tensors
        ),
    )


def taken_at_inference(names: Sequence[str]) -> tuple[str, ...]:
    """Say that layers which do something else in training mode were in it."""
    if not names:
        return ()
    shown = ", ".join(names[:_NAMED]) + (" and others" if len(names) > _NAMED else "")
    return (f"taken at inference: it was saved in training mode ({shown})",)


def _is_chain(module: ModuleRecord) -> bool:
    """Tell whether all that holds layers is a Sequential which runs its children in order."""
    is_sequential = bare(module.kind) == "Sequential" and not module.change
    children = module.children.values()
    return is_sequential and all(_is_chain(child) for child in children if child.children)


def _dotted(leaf: ModuleRecord, field: str) -> str:
    return f"{leaf.name}.{field}" if leaf.name else field


def _sequential_graph(module: ModuleRecord) -> Graph:
    builder = GraphBuilder()
    weights = (tensor for leaf in _leaves(module) for tensor in leaf.tensors.values())
    builder.input(Edge("input", dtype=item_type(weights)))
    last = continue_with(module, builder, "input")
    return builder.finish([Edge(last)])


def item_type(weights: Iterable[Constant]) -> str:
    """Return the type a network computes in: that of its first real weight."""
    names = (weight.dtype for weight in weights)
    types = ((name, torch_type(name)) for name in names)
    return next((name for name, kind in types if kind and kind.is_floating_point), "float32")


def _loose_graph(modules: list[ModuleRecord]) -> Graph:
    """Give every layer that has a weight its node, with its geometry but without wiring."""
    builder = GraphBuilder()
    for module in modules:
        for leaf in _leaves(module):
            if leaf.tensors and bare(leaf.kind) in _translators:
                scratch = GraphBuilder()
                scratch.input(Edge("input"))
                continue_with(leaf, scratch, "input")
                piece = scratch.finish([])
                for node in piece.nodes:
                    inputs = tuple(
                        builder.constant(piece.constants[name]) if name in piece.constants else ""
                        for name in node.inputs
                    )
                    builder.add(
                        node.op, inputs, name=node.name, attributes=node.attributes,
                        domain=node.domain,
                    )  # fmt: skip
    return builder.finish([])


def _leaves(module: ModuleRecord) -> Iterator[ModuleRecord]:
    yield module
    for child in module.children.values():
        yield from _leaves(child)


def continue_with(module: ModuleRecord, builder: GraphBuilder, edge: str) -> str:
    """Write a module's nodes behind an edge; an unknown class becomes one opaque node."""
    name = bare(module.kind)
    is_plain = name in CLASSES and not module.change
    translator = _translators.get(name) or _from_registry(name) if is_plain else None
    made = translator(module, builder, edge) if translator is not None else None
    if made is not None:
        return made
    kind = module.kind.rpartition(".")[2]
    return builder.add(kind, [edge], name=module.title, domain=PYTHON_DOMAIN)


def _from_registry(name: str) -> Translator | None:
    """Return the translator of a class that is one operation without attributes."""
    for kind in all_kinds():
        if name and kind.module == name:
            return lambda module, builder, edge: builder.add(
                kind.op, [edge], name=module.title, domain=kind.domain
            )
    return None
