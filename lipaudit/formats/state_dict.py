"""State dicts: from the tensors of a checkpoint, by name, to layers whose wiring is not stated.

A checkpoint is often wrapped: `{"state_dict": ..., "optimizer": ...}`, lists, several networks
side by side. Every tensor keeps its full path as its key (`state_dict/module.conv1.weight`);
layers are called by what is left when wrappers and the prefixes of DataParallel and
torch.compile are taken off.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lipaudit.errors import MalformedFile
from lipaudit.formats import chain, loose, modules
from lipaudit.formats.pickle_guard import Record
from lipaudit.formats.source import Source
from lipaudit.formats.torch_tensors import Missing
from lipaudit.graph.constant import Constant
from lipaudit.graph.model import Model, Topology, Unread

# What training keeps beside the weights.
_TRAINING = ("optimizer", "optim", "scheduler", "lr_scheduler", "scaler", "amp", "grad_scaler")
_AVERAGED = frozenset({"ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema_model"})
_SCRIPT = "__torch__"
"""Package of the classes in a TorchScript archive."""


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in a tree: tensors and their absence by key, and pickled modules by path."""

    tensors: Mapping[str, Constant]
    missing: tuple[Unread, ...]
    modules: Mapping[str, Record]
    skipped: tuple[str, ...]


def assemble(
    tree: object,
    *,
    path: str,
    format: str,  # noqa: A002 - it is what the model calls it
    source: Source,
    alarms: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    may_assume: bool = True,
) -> Model:
    """Turn the inert value of a torch file into a model.

    `may_assume` is False when the wiring is in the file but not read: then no chain may be
    guessed in its place.
    """
    found = _search(tree)
    if found.modules:
        model = modules.assemble(found.modules, found.tensors, path=path, format=format)
        model = replace(model, ties=ties(model.tensors))
    else:
        model = _from_tensors(found.tensors, path=path, format=format, may_assume=may_assume)
    if not (model.tensors or found.missing or found.modules):
        what = "optimizer state only" if found.skipped else "it holds no tensor"
        raise MalformedFile(f"no weight tensors found ({what})", slug="no-weights", path=path)
    dropped = (f"training state not read: {', '.join(found.skipped)}",) if found.skipped else ()
    return replace(
        model,
        files=(source.path,),
        notes=(*notes, *model.notes, *dropped),
        alarms=alarms,
        unread=(*model.unread, *found.missing),
        digest=source.digest,
    )


def assemble_flat(
    tensors: Mapping[str, Constant],
    *,
    path: str,
    format: str,  # noqa: A002 - it is what the model calls it
    files: tuple[Path, ...],
    notes: tuple[str, ...] = (),
    digest: Callable[[], str] | None = None,
) -> Model:
    """Turn tensors by name into a model."""
    if not tensors:
        raise MalformedFile("no weight tensors found (it holds none)", slug="no-weights", path=path)
    model = _from_tensors(tensors, path=path, format=format, may_assume=True)
    return replace(model, files=files, notes=(*notes, *model.notes), digest=digest)


def _from_tensors(
    tensors: Mapping[str, Constant],
    *,
    path: str,
    format: str,  # noqa: A002 - it is what the model calls it
    may_assume: bool,
) -> Model:
    used, notes = _without_averages(tensors)
    layers = loose.layers(used)
    chained = chain.assume(layers) if may_assume else chain.Chain(None)
    return Model(
        path=path,
        format=format,
        files=(),
        tensors=tensors,
        graph=chained.graph or layers.graph(),
        topology=Topology.ASSUMED if chained.graph else Topology.UNKNOWN,
        assumptions=(*chained.assumptions, *layers.assumptions),
        notes=(*notes, *layers.notes, *chained.notes),
        unread=layers.unread,
        ties=ties(tensors),
    )


def _without_averages(
    tensors: Mapping[str, Constant],
) -> tuple[Mapping[str, Constant], tuple[str, ...]]:
    """Leave out a running average of weights that are there themselves."""
    averages = {key for key in tensors if key.partition("/")[0].lower() in _AVERAGED}
    raw = {key.rpartition("/")[2] for key in tensors if key not in averages}
    if not averages or not all(key.rpartition("/")[2] in raw for key in averages):
        return tensors, ()
    kept = {key: constant for key, constant in tensors.items() if key not in averages}
    return kept, ("the weights themselves are measured, not their running average (EMA)",)


def ties(tensors: Mapping[str, Constant]) -> dict[str, str]:
    """Return tensor key -> the first key with the same window on the same bytes."""
    owners: dict[object, str] = {}
    tied: dict[str, str] = {}
    for key, constant in tensors.items():
        if constant.slot is not None and constant.items:
            owner = owners.setdefault(constant.slot, key)
            if owner != key:
                tied[key] = owner
    return tied


def _search(tree: object) -> Found:
    tensors: dict[str, Constant] = {}
    missing: list[Unread] = []
    found_modules: dict[str, Record] = {}
    skipped: list[str] = []
    for key, value in _leaves(tree, "", skipped, set()):
        if isinstance(value, Constant):
            tensors[key] = replace(
                value, name=key, sources=(key,), scaled_by=key if value.scaled_by else None
            )
        elif isinstance(value, Missing):
            missing.append(Unread(key, "tensor", value.slug, value.reason))
        elif isinstance(value, Record):
            found_modules["" if key == "tensor" else key] = value
    return Found(tensors, tuple(missing), found_modules, tuple(skipped))


def _leaves(
    value: object, path: str, skipped: list[str], seen: set[int]
) -> Iterator[tuple[str, object]]:
    """Yield every tensor and every pickled module with its path, in file order."""
    if isinstance(value, (Constant, Missing)) or _is_module(value):
        yield path or "tensor", value
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    for name, part in _parts(value, path):
        key = name.rpartition("/")[2].lower()
        if isinstance(value, dict) and key.startswith(_TRAINING) and not isinstance(part, Constant):
            skipped.append(name)
        else:
            yield from _leaves(part, name, skipped, seen)


def _parts(value: object, path: str) -> Iterator[tuple[str, object]]:
    """Yield what a container holds, each with its path."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield (f"{path}/{key}" if path else str(key)), part
    elif isinstance(value, (list, tuple)):
        for at, part in enumerate(value):
            yield f"{path}[{at}]", part
    elif isinstance(value, Record) and value.kind.startswith(_SCRIPT):
        fields = value.state if isinstance(value.state, dict) else {}
        for key, part in fields.items():
            yield (f"{path}.{key}" if path else str(key)), part


def _is_module(value: object) -> bool:
    return isinstance(value, Record) and isinstance(value.state, dict) and "_modules" in value.state
