"""Orders: which model files a config speaks of, and what is demanded of each."""

import fnmatch
import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lipaudit.comparison import Snapshot
from lipaudit.errors import UnreadableFile, UsageError
from lipaudit.gates import baseline as baselines
from lipaudit.gates.config import Config, Entry, Settings
from lipaudit.gates.policy import Baseline, Policy

_SPECIAL = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Order:
    """One model to be audited: how, and against what."""

    path: str
    """From the working directory, as reports name it."""
    settings: Settings
    policy: Policy
    needs_bound: bool
    """Whether the whole network must be bounded, or the layers' norms suffice."""


def orders(
    config: Config,
    *,
    paths: Sequence[str] = (),
    overrides: Settings | None = None,
    write_baseline: bool = False,
) -> tuple[Order, ...]:
    """Return what is to be done: for all models of the config, or for these paths alone.

    Raise `UsageError` where nothing would be gated, and for every glob that finds nothing.
    """
    found = _named(config, paths) if paths else _listed(config)
    if not paths:
        _check_ignores(config, tuple(found))
    entries = None
    if config.baseline is not None and not write_baseline:
        if not os.path.lexists(config.baseline):
            raise UnreadableFile(
                "no such file",
                slug="no-such-file",
                path=config.baseline,
                hint="write it with lipaudit check --write-baseline",
            )
        entries = baselines.read(config.baseline)
    above = overrides or Settings()
    made = tuple(
        _order(config, path, _under(above, settings), entries) for path, settings in found.items()
    )
    if write_baseline:
        return tuple(replace(order, needs_bound=True) for order in made)
    if config.baseline is None and any(x.settings.max_increase is not None for x in made):
        raise UsageError(
            "max-increase says nothing without a baseline", slug="no-limit", path=config.file
        )
    idle = [order for order in made if not order.policy.is_gate]
    if idle:
        who = "no limit is stated" if len(idle) == len(made) else f"no limit for {idle[0].path}"
        raise UsageError(
            f"{who}: there is nothing to check",
            slug="no-limit",
            path=config.file,
            hint="state max-bound, max-norm, [layers] or a baseline",
        )
    return made


def _order(
    config: Config, path: str, settings: Settings, entries: Mapping[str, Snapshot] | None
) -> Order:
    baseline = None
    if config.baseline is not None and entries is not None:
        before = entries.get(baselines.key(path, config.baseline))
        baseline = Baseline(config.baseline, before, settings.max_increase or 0.0)
    relative = _from_config(config, path)
    policy = Policy(
        max_bound=settings.max_bound,
        max_norm=settings.max_norm,
        accept_assumed=bool(settings.assume_sequential),
        layer_limits=settings.layers or (),
        ignores=tuple(x for x in config.ignores if fnmatch.fnmatchcase(relative, x.models)),
        baseline=baseline,
    )
    needs_bound = policy.gates_bound or settings.executed is not None
    return Order(path, settings, policy, needs_bound)


def _under(above: Settings, settings: Settings) -> Settings:
    """Put what the command line says above the config: its max-norm caps every layer's limit."""
    cap, layers = above.max_norm, settings.layers
    if cap is not None and layers is not None:
        layers = tuple(replace(rule, limit=min(rule.limit, cap)) for rule in layers)
    return above.over(replace(settings, layers=layers))


def _listed(config: Config) -> dict[str, Settings]:
    """Return the files of every entry; each glob must find some, each file have one meaning."""
    found: dict[str, tuple[Entry, Settings]] = {}
    for entry in config.models:
        settings = entry.settings.over(config.defaults)
        for pattern in entry.paths:
            for path in _matches(config, entry, pattern):
                known = found.setdefault(path, (entry, settings))
                _check_agreement(config, path, known, (entry, settings))
    if not found and not config.file:
        raise UsageError(
            "no config was found from here upward, and no model is named",
            slug="config-missing",
            hint="write a lipaudit.toml or [tool.lipaudit] in pyproject.toml, or give paths",
        )
    if not found:
        raise UsageError(
            "no models are named",
            slug="config-models",
            path=config.file,
            hint="list them under [[models]], or give their paths",
        )
    return {path: settings for path, (_, settings) in found.items()}


def _matches(config: Config, entry: Entry, pattern: str) -> list[str]:
    found = _expanded(config, pattern)
    if not found:
        is_glob = bool(_SPECIAL & set(pattern))
        cause = f"{pattern!r} matches nothing" if is_glob else f"there is no file {pattern!r}"
        raise UsageError(f"{entry.place}: {cause}", slug="config-models", path=config.file)
    return found


def _expanded(config: Config, pattern: str) -> list[str]:
    """Return the files of a glob; a name that is one, brackets and all, stands for itself."""
    folder = Path(config.folder)
    if os.path.lexists(folder / pattern):  # unlike Path.exists, False for what is too long
        return [_shown(folder / pattern)]
    # Unlike Path.glob this takes absolute patterns and those with "..".
    names = glob.glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207
    return [_shown(folder / name) for name in sorted(names)]


def _named(config: Config, paths: Sequence[str]) -> dict[str, Settings]:
    """Return the settings of paths given by hand: of the entry that names them, or the defaults."""
    listed: dict[str, list[Entry]] = {}
    for entry in config.models:
        files = {path for pattern in entry.paths for path in _expanded(config, pattern)}
        for place in {_place(path) for path in files}:
            listed.setdefault(place, []).append(entry)
    found: dict[str, Settings] = {}
    for path in paths:
        meant = listed.get(_place(path), [])
        choices = [entry.settings.over(config.defaults) for entry in meant] or [config.defaults]
        for entry, settings in zip(meant, choices, strict=False):
            _check_agreement(config, path, (meant[0], choices[0]), (entry, settings))
        found[path] = choices[0]
    return found


def _place(path: str) -> str:
    """Return one name for every way to a file; a link is a file of its own, as in a baseline."""
    own = Path(path).absolute()
    return str(own.parent.resolve() / own.name)


def _check_agreement(
    config: Config, path: str, one: tuple[Entry, Settings], other: tuple[Entry, Settings]
) -> None:
    if one[1] != other[1]:
        raise UsageError(
            f"{one[0].place} and {other[0].place} both name {path!r}, and differ",
            slug="config-models",
            path=config.file,
            hint="say each thing about a model once",
        )


def _check_ignores(config: Config, paths: tuple[str, ...]) -> None:
    for at, ignore in enumerate(config.ignores):
        names = [_from_config(config, path) for path in paths]
        if not any(fnmatch.fnmatchcase(name, ignore.models) for name in names):
            raise UsageError(
                f"ignore[{at}].models: {ignore.models!r} matches no model",
                slug="config-glob",
                path=config.file,
            )


def _from_config(config: Config, path: str) -> str:
    return Path(os.path.relpath(Path(path).absolute(), Path(config.folder).absolute())).as_posix()


def _shown(path: Path) -> str:
    """Return a path as people write it: from the working directory where it lies below."""
    relative = os.path.relpath(path)
    return str(path.absolute()) if relative.startswith("..") else relative
