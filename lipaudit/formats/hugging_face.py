"""Hugging Face folders: the layer graph that a config.json stands for, by transformers' code.

The class is one of the transformers package's own. It is built without any weight and without
the network, and exported like a module of the user's; the weights are the checkpoint's.
"""

import contextlib
import importlib
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from lipaudit.errors import LipauditError, UnsafeFile, UsageError
from lipaudit.formats import architecture, live, loose
from lipaudit.formats.architecture import CONFIG, Architecture
from lipaudit.graph.constant import Constant, Shape
from lipaudit.graph.model import Model, Origin, Topology
from lipaudit.graph.node import Graph

_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "USE_HUB_KERNELS": "NO"}
_MOST_PARAMETERS = 200_000
"""Tensors: a network of 128 layers with 256 experts of three each has half as many."""
_MOST_TABLE_ITEMS = 1 << 24
_TOKENS = 8
"""Length of the text where none is stated."""
_AS_COMPUTED = "positions, masks and angles are as transformers computes them, in float32"
_ABOUT_WIRING = (CONFIG, "not one chain of layers")
"""How notes begin that have nothing to say where there is a graph."""
_IDS = "input_ids"
_EMBEDDED = "inputs_embeds"
_DECODED = "decoder_inputs_embeds"
_PIXELS = "pixel_values"


def from_config(checkpoint: Model, shapes: Sequence[Shape], config: Path | None = None) -> Model:
    """Give a checkpoint the graph that a config.json stands for: the one beside it, or another."""
    file = architecture.beside(checkpoint) if config is None else config
    stated = architecture.read(file)
    with _offline():
        module = _built(stated)
        weights = _weights(module, checkpoint, stated)
        _untie(module, weights)
        tables = _tables(module, stated)
        examples, assumptions = _inputs(module, shapes, stated)
        graph = _exported(module, examples, weights, tables, stated)
    assumptions += (_AS_COMPUTED,)
    if len(graph.outputs) > 1:
        assumptions += (f"of its {len(graph.outputs)} outputs the first is meant",)
        graph = replace(graph, outputs=graph.outputs[:1])
    rest = _not_reached(graph, checkpoint)
    note = f"layer graph of transformers' {type(module).__name__}, from {CONFIG}"
    kept = (known for known in checkpoint.notes if not known.startswith(_ABOUT_WIRING))
    return replace(
        checkpoint,
        graph=replace(
            graph,
            nodes=(*graph.nodes, *rest.nodes),
            constants={**rest.constants, **graph.constants},
        ),
        origin=Origin.CONFIG,
        config=file,
        examples=tuple(shapes),
        topology=Topology.STATED,
        assumptions=assumptions,
        unread=(),
        notes=(*kept, note, *stated.notes),
    )


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Keep the libraries from the network, whether they are imported already or not."""
    before = {name: os.environ.get(name) for name in _OFFLINE}
    os.environ.update(_OFFLINE)
    try:
        hub = _library("huggingface_hub.constants")
        online, hub.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE, True
        try:
            yield
        finally:
            hub.HF_HUB_OFFLINE = online
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"--hf needs the package transformers, 5 or newer ({error})",
            slug="hf-missing",
            hint="pip install 'lipaudit[hf]'",
        ) from error


def _built(stated: Architecture) -> Any:
    """Build the module without a weight."""
    try:
        with live.quiet():
            # Imported outside of the device, on which the library's own constants would stay.
            transformers = _library("transformers")
            config = _config(stated, transformers)
            found = _class(stated, config, transformers)
            with torch.device("meta"), _counted():
                return found._from_config(config).eval()
    except LipauditError as error:
        error.path = error.path or stated.path
        raise
    except Exception as error:  # whatever the library thinks of such settings
        raise _failure("transformers could not build it", error, stated) from error


def _config(stated: Architecture, transformers: Any) -> Any:
    known = transformers.CONFIG_MAPPING
    if stated.kind not in known:
        raise UsageError(
            f"transformers {transformers.__version__} knows no model_type {stated.kind!r}",
            slug="hf-family",
            hint="give --model pkg.mod:factory",
        )
    config = known[stated.kind].from_dict(dict(stated.settings))
    for part in (config, *(p for p in vars(config).values() if hasattr(p, "model_type"))):
        part._attn_implementation = "eager"  # the one whose every step is written out
        part.use_cache = False
        part.return_dict = True
        part.output_attentions = False
        part.output_hidden_states = False
    return config


def _class(stated: Architecture, config: Any, transformers: Any) -> Any:
    """Return the class that the file names, if it is one of transformers' own for that family."""
    if not stated.classes:
        return transformers.MODEL_MAPPING[type(config)]
    name = stated.classes[0]
    found = getattr(transformers, name, None) if name.isidentifier() else None
    is_own = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    fits = is_own and found.__module__.startswith("transformers.models.")
    if not fits or not isinstance(config, getattr(found, "config_class", None) or ()):
        raise UsageError(
            f"transformers {transformers.__version__} has no class {name!r} for model_type "
            f"{stated.kind!r}",
            slug="hf-family",
            hint="give --model pkg.mod:factory",
        )
    return found


@contextlib.contextmanager
def _counted() -> Iterator[None]:
    """Stop a build that makes parameters without end."""
    count = 0

    def register(module: torch.nn.Module, name: str, parameter: object) -> None:
        nonlocal count
        del module, name, parameter
        count += 1
        if count > _MOST_PARAMETERS:
            raise UnsafeFile(f"more than {_MOST_PARAMETERS:,} weights are built", slug="hf-size")

    hook = register_module_parameter_registration_hook(register)
    try:
        yield
    finally:
        hook.remove()


def _weights(module: Any, checkpoint: Model, stated: Architecture) -> dict[str, Constant]:
    """Find the checkpoint's tensor for each of the module's, renamed as transformers does.

    Of weights that the module shares, those that are not stored are the one that is.
    """
    wanted = module.state_dict(keep_vars=True)
    found: dict[str, Constant] = {}
    for key, name in _renamed(module, checkpoint.tensors, wanted, stated).items():
        if name in wanted and name not in found:
            found[name] = checkpoint.tensors[key]
    owners = {id(wanted[name]): constant for name, constant in found.items()}
    for name, tensor in wanted.items():
        if name not in found and id(tensor) in owners:
            found[name] = owners[id(tensor)]
    for name, tensor in wanted.items():
        constant = found.get(name)
        if constant is not None and constant.shape != tuple(tensor.shape):
            raise UsageError(
                f"{name!r} is {list(constant.shape)} in the checkpoint and "
                f"{list(tensor.shape)} by its {CONFIG}",
                slug="hf-weights",
                path=checkpoint.path,
            )
    missing = [name for name in wanted if name not in found]
    if missing:
        shown = ", ".join(repr(name) for name in missing[:3])
        raise UsageError(
            f"the checkpoint lacks {len(missing)} tensors of {type(module).__name__}: {shown}",
            slug="hf-weights",
            path=checkpoint.path,
            hint="give --model pkg.mod:factory",
        )
    return found


def _renamed(
    module: Any, keys: Mapping[str, Constant], wanted: Mapping[str, Any], stated: Architecture
) -> dict[str, str]:
    """Return key of the file -> name in the module, as transformers loads old files.

    A tensor that the module has in another form, such as stacked experts, is left out.
    """
    mapping = _library("transformers.conversion_mapping")
    loading = _library("transformers.core_model_loading")
    try:
        changes = mapping.get_model_conversion_mapping(module)
        names = [one for one in changes if isinstance(one, loading.WeightRenaming)]
        forms = [one for one in changes if isinstance(one, loading.WeightConverter)]
        renamed = {}
        for key in keys:
            plain = key.rpartition("/")[2].removeprefix("module.").removeprefix("_orig_mod.")
            name, form = loading.rename_source_key(
                plain, names, forms, module.base_model_prefix, dict(wanted)
            )
            if form is None:
                renamed[key] = name
    except Exception as error:
        raise _failure("transformers could not name its weights", error, stated) from error
    return renamed


def _untie(module: Any, weights: Mapping[str, Constant]) -> None:
    """Let the module share only what the checkpoint stores once."""
    seen: dict[int, Constant] = {}
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        owner = seen.setdefault(id(parameter), weights[name])
        if owner is not weights[name]:
            place, _, field = name.rpartition(".")
            apart = torch.nn.Parameter(torch.empty_like(parameter), requires_grad=False)
            setattr(module.get_submodule(place), field, apart)


def _tables(module: Any, stated: Architecture) -> dict[str, torch.Tensor]:
    """Return what no file stores since the code makes it: positions, frequencies.

    Made twice, into tensors that hold different numbers before: what is left as it was is unknown.
    """
    buffers = dict(module.named_non_persistent_buffers())
    if sum(buffer.numel() for buffer in buffers.values()) > _MOST_TABLE_ITEMS:
        raise UnsafeFile("its tables are too large to be made", slug="hf-size", path=stated.path)
    try:
        first, second = (_initialized(module, buffers, filler) for filler in (1, 2))
    except Exception as error:
        raise _failure("transformers could not make its tables", error, stated) from error
    for name, value in first.items():
        if not torch.equal(value, second[name]):
            raise UsageError(
                f"transformers' code does not say what {name!r} holds",
                slug="hf-tables",
                path=stated.path,
                hint="give --model pkg.mod:factory",
            )
    return first


def _initialized(
    module: Any, buffers: Mapping[str, torch.Tensor], filler: int
) -> dict[str, torch.Tensor]:
    """Fill tables with a number, let the module initialize them, and return what they hold."""
    made = {
        name: torch.full(tuple(buffer.shape), filler, dtype=buffer.dtype, device="cpu")
        for name, buffer in buffers.items()
    }
    places = {name.rpartition(".")[0]: None for name in buffers}
    try:
        for name, value in made.items():
            place, _, field = name.rpartition(".")
            module.get_submodule(place).register_buffer(field, value, persistent=False)
        for place in places:
            with torch.no_grad(), torch.device("cpu"), live.quiet():
                _owner(module, place)._init_weights(module.get_submodule(place))
        return {name: module.get_buffer(name) for name in buffers}
    finally:
        for name, buffer in buffers.items():
            place, _, field = name.rpartition(".")
            module.get_submodule(place).register_buffer(field, buffer, persistent=False)


def _owner(module: Any, place: str) -> Any:
    """Return the innermost network that a part belongs to: it knows how to initialize it."""
    owner = module
    steps = place.split(".")
    for end in range(1, len(steps)):
        part = module.get_submodule(".".join(steps[:end]))
        owner = part if hasattr(part, "_init_weights") else owner
    return owner


def _inputs(
    module: Any, shapes: Sequence[Shape], stated: Architecture
) -> tuple[dict[str, Shape], tuple[str, ...]]:
    """Return the shape of each input by name, and what is assumed of them."""
    main = module.main_input_name
    if main == _IDS:
        return _embedded(module, shapes)
    config = module.config
    if shapes:
        (shape, *_) = shapes
        wanted = 4 if main == _PIXELS else len(shape)
        return {main: (1, *shape) if len(shape) == wanted - 1 else tuple(shape)}, ()
    size = getattr(config, "image_size", None)
    if main == _PIXELS and isinstance(size, (int, list, tuple)):
        sides = (size, size) if isinstance(size, int) else tuple(size)
        shape = (1, getattr(config, "num_channels", 3), *sides)
        shown = "x".join(map(str, shape[1:]))
        return {main: shape}, (f"the input is one image of {shown}, as {CONFIG} says",)
    raise UsageError(
        f"{CONFIG} does not say how large {main} is",
        slug="shape",
        path=stated.path,
        hint="give --input-shape, with the batch axis",
    )


def _embedded(module: Any, shapes: Sequence[Shape]) -> tuple[dict[str, Shape], tuple[str, ...]]:
    """Start at the embeddings of the tokens, which can move a little as the tokens cannot."""
    width = int(module.get_input_embeddings().weight.shape[1])
    asked = tuple(shapes[0]) if shapes else (_TOKENS,)
    full = {1: (1, *asked, width), 2: (1, *asked)}.get(len(asked), asked)
    if len(full) != 3 or full[-1] != width:
        shown = "x".join(map(str, asked))
        raise UsageError(
            f"--input-shape {shown} does not fit embeddings of {width} numbers",
            slug="shape",
            hint=f"give how many tokens there are, as in {_TOKENS}",
        )
    names = [_EMBEDDED]
    if _DECODED in inspect.signature(module.forward).parameters:
        names.append(_DECODED)
    said = "" if shapes else "; --input-shape N says another number"
    assumed = (
        f"the network starts at the embeddings of {full[1]} tokens ({' and '.join(names)}), "
        f"since tokens cannot move a little{said}"
    )
    return dict.fromkeys(names, full), (assumed,)


def _exported(
    module: Any,
    shapes: Mapping[str, Shape],
    weights: Mapping[str, Constant],
    tables: Mapping[str, torch.Tensor],
    stated: Architecture,
) -> Graph:
    try:
        with torch.no_grad(), torch.device("cpu"), live.quiet():
            examples = {n: torch.zeros(shape, device="meta") for n, shape in shapes.items()}
            program = torch.export.export(module, (), examples)
    except Exception as error:
        raise _failure("torch.export could not take its graph", error, stated) from error
    return live.translated(program, weights, stated.path, tables)


def _not_reached(graph: Graph, checkpoint: Model) -> loose.LooseLayers:
    """Return the layers of the file that no signal meets, such as a table of embeddings."""
    moving = {edge.name for edge in graph.inputs}
    met: set[str] = set()
    for node in graph.nodes:
        # Rows picked by their number are the part of a table, which is a layer as it is stored.
        if moving.intersection(node.inputs):
            moving.update(node.outputs)
            met.update(node.inputs)
        elif node.op != "Gather":
            met.update(node.inputs)
    used = {k for name, c in graph.constants.items() if name in met for k in c.sources}
    return loose.layers({k: c for k, c in checkpoint.tensors.items() if k not in used})


def _failure(what: str, error: Exception, stated: Architecture) -> UsageError:
    first_line = (str(error).strip().splitlines() or [""])[0][:200]
    return UsageError(
        f"{what}: {type(error).__name__}: {first_line}", slug="hf-build", path=stated.path
    )
