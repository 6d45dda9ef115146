"""State dicts: from the tensors of a checkpoint, by name, to layers whose wiring is not stated.

A checkpoint is often wrapped: `{"state_dict": ..., "optimizer": ...}`, lists, several networks
side by side. Every tensor keeps its full path as its key (`state_dict/module.conv1.weight`);
layers are called by their path from the container of all of them (`generator/conv1` beside
`critic/conv1`), without the prefixes of DataParallel and torch.compile in it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lipaudit.errors import MalformedFile, UnsafeFile
from lipaudit.formats import chain, dangerous, hidden, loose, modules
from lipaudit.formats.branch import TOP, Branch
from lipaudit.formats.pickle_guard import Global, Persistent, Record
from lipaudit.formats.rebuilding import Missing
from lipaudit.formats.source import Source
from lipaudit.graph.constant import Constant
from lipaudit.graph.model import Model, Topology, Unread

# What training keeps beside the weights.
_TRAINING = ("optimizer", "optim", "scheduler", "lr_scheduler", "scaler", "amp", "grad_scaler")
_AVERAGED = frozenset({"ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema_model"})
_DATA = frozenset({"hyper_parameters", "datamodule_hyper_parameters", "callbacks", "loops"})
"""Where Lightning keeps objects beside the weights; other people's are named in a note."""
_OPTIMIZERS = "torch.optim."
_MAX_NAMES = 1 << 24
"""Bytes that the names of all tensors of a file take. One of a megabyte is read; a hundred thousand
tensors below it would fill the memory."""
_SCRIPT = "__torch__"
"""Package of the classes in a TorchScript archive."""


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in a tree: tensors and their absence by key, and pickled modules by path."""

    tensors: Mapping[str, Constant]
    missing: tuple[Unread, ...]
    modules: Mapping[str, Record]
    objects: tuple[tuple[Branch, object], ...]
    """What is neither and stands where a tensor might."""
    skipped: tuple[str, ...]
    homes: frozenset[str]
    """The paths of the containers in which tensors lie."""


def assemble(
    tree: object,
    *,
    path: str,
    format: str,  # noqa: A002 - it is what the model calls it
    source: Source,
    alarms: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    may_assume: bool = True,
    attached: tuple[tuple[str, Missing], ...] = (),
) -> Model:
    """Turn the inert value of a torch file into a model.

    `may_assume` is False when the wiring is in the file but not read: then no chain may be
    guessed in its place. `attached` are tensors that hang on others, by where they are.
    """
    found = _search(tree, path)
    if found.modules:
        model = modules.assemble(found.modules, found.tensors, path=path, format=format)
        model = replace(model, ties=ties(model.tensors))
        lost = _lost(found.objects, model.tensors, attached)
    else:
        lost = _lost(found.objects, found.tensors, attached)
        model = _from_tensors(
            found.tensors,
            found.homes,
            path=path,
            format=format,
            may_assume=may_assume and not lost,
        )
    if not (model.tensors or found.missing or found.modules or lost):
        what = "optimizer state only" if found.skipped else "it holds no tensor"
        raise MalformedFile(f"no weight tensors found ({what})", slug="no-weights", path=path)
    dropped = (f"training state not read: {', '.join(found.skipped)}",) if found.skipped else ()
    return replace(
        model,
        files=(source.path,),
        notes=(*notes, *model.notes, *dropped),
        alarms=alarms,
        unread=(*model.unread, *found.missing, *lost),
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
    # What is plain in them stands in the file letter by letter, but not how wide one is.
    if sum(_length(key) for key in tensors if not key.isascii()) > _MAX_NAMES:
        raise _endless(path, "json-size")
    model = _from_tensors(tensors, frozenset(), path=path, format=format, may_assume=True)
    return replace(model, files=files, notes=(*notes, *model.notes), digest=digest)


def _from_tensors(
    tensors: Mapping[str, Constant],
    homes: frozenset[str],
    *,
    path: str,
    format: str,  # noqa: A002 - it is what the model calls it
    may_assume: bool,
) -> Model:
    used, notes = _without_averages(tensors)
    layers = loose.layers(used, homes)
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


def _search(tree: object, path: str) -> Found:
    tensors: dict[str, Constant] = {}
    missing: list[Unread] = []
    found_modules: dict[str, Record] = {}
    skipped: list[str] = []
    homes: dict[int, Branch] = {}
    names: set[str] = set()
    objects: list[tuple[Branch, object]] = []
    length = 0
    for branch, value in _leaves(tree, TOP, skipped, set()):
        if _is_object(value):
            objects.append((branch, value))
            continue
        homes[id(branch.home)] = branch.home
        # Before it is joined: its parts are shared with many.
        if length + branch.length > _MAX_NAMES:
            raise _endless(path, "pickle-size")
        key = str(branch) or ("" if isinstance(value, Record) else "tensor")
        length += _length(key)
        if length > _MAX_NAMES:
            raise _endless(path, "pickle-size")
        if key in names:
            raise MalformedFile(f"two entries are called {key!r}", slug="tensor", path=path)
        names.add(key)
        if isinstance(value, Constant):
            tensors[key] = replace(
                value, name=key, sources=(key,), scaled_by=key if value.scaled_by else None
            )
        elif isinstance(value, Missing):
            missing.append(modules.unread_tensor(key, value))
        elif isinstance(value, Record):
            found_modules[key] = value
    inside = frozenset(str(home) for home in homes.values())
    return Found(tensors, tuple(missing), found_modules, tuple(objects), tuple(skipped), inside)


def _lost(
    objects: Iterable[tuple[Branch, object]],
    tensors: Mapping[str, Constant],
    attached: Iterable[tuple[str, Missing]],
) -> tuple[Unread, ...]:
    """Name what holds tensors that are under no name elsewhere."""
    known = {constant.slot for constant in tensors.values() if constant.slot is not None}
    found: dict[str, Missing] = dict(attached)
    seen: set[int] = set()
    for branch, value in objects:
        if _is_told_elsewhere(branch, value):
            continue
        for tensor in hidden.held(value, seen):
            if not isinstance(tensor, Constant) or tensor.slot not in known:
                found[branch.shown() or "object"] = hidden.missing(value)
    return tuple(modules.unread_tensor(name, missing) for name, missing in found.items())


def _is_told_elsewhere(branch: Branch, value: object) -> bool:
    """Tell whether a note says by name that an object of this class is kept as data."""
    made_by = value.made_by if isinstance(value, Record) else None
    return (
        branch.first in _DATA and isinstance(made_by, Global) and not dangerous.is_ordinary(made_by)
    )


def _length(name: str) -> int:
    """Return how many bytes a name takes: one emoji makes every letter take four (PEP 393)."""
    return len(name) if name.isascii() else 4 * len(name)


def _endless(path: str, slug: str) -> UnsafeFile:
    return UnsafeFile("its tensors have names without end", slug=slug, path=path)


def _leaves(
    value: object, branch: Branch, skipped: list[str], seen: set[int]
) -> Iterator[tuple[Branch, object]]:
    """Yield every tensor and every pickled module with its path, in file order."""
    if isinstance(value, (Constant, Missing)) or _is_module(value) or _is_object(value):
        yield branch, value
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    for step, part in _parts(value, branch):
        is_training = isinstance(step.key, str) and step.key.lower().startswith(_TRAINING)
        is_optimizer = isinstance(part, Record) and part.kind.startswith(_OPTIMIZERS)
        is_training = is_optimizer or (is_training and not isinstance(part, Constant))
        if isinstance(value, dict) and is_training:
            skipped.append(step.shown())
        else:
            yield from _leaves(part, step, skipped, seen)


def _parts(value: object, branch: Branch) -> Iterator[tuple[Branch, object]]:
    """Yield what a container holds, each with its path."""
    if isinstance(value, dict):
        keys = [key for key in value if isinstance(key, Record)]
        yield from ((branch, key) for key in keys)
        yield from ((branch.entry(key), part) for key, part in value.items() if _may_hold(part))
    elif isinstance(value, (list, tuple)):
        yield from ((branch.item(at), part) for at, part in enumerate(value) if _may_hold(part))
    elif isinstance(value, Record) and isinstance(value.state, dict):
        fields = value.state.items()
        yield from ((branch.field(key), part) for key, part in fields if _may_hold(part))


def _may_hold(value: object) -> bool:
    return isinstance(value, (dict, list, tuple, Record, Persistent, Constant, Missing))


def _is_object(value: object) -> bool:
    """Tell whether it is kept as data, and not looked into: nobody knows what it would do."""
    if isinstance(value, Record) and value.kind.startswith(_SCRIPT):
        is_plain = isinstance(value.state, dict) and not (value.args or value.items)
        return not is_plain or bool(value.elements)
    return isinstance(value, (Record, Persistent)) and not _is_module(value)


def _is_module(value: object) -> bool:
    return isinstance(value, Record) and isinstance(value.state, dict) and "_modules" in value.state
