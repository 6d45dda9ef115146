"""The whole program on one page: load -> audit -> judge -> render, and plan_clip -> save.

Every function takes a path (a file or a folder), a live `torch.nn.Module`, or a `Model` that
was loaded before. Nothing here prints, exits, or writes a file, except `clip`, which writes
the one it is told to.
"""

import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path

import torch

from lipaudit import device as devices
from lipaudit.analysis import audit, shapes
from lipaudit.analysis.audit import Crew
from lipaudit.analysis.clipping.limits import Limits
from lipaudit.analysis.clipping.weights import method_named
from lipaudit.analysis.layerwise import Keep, Progress, Told, Wish
from lipaudit.analysis.query import Query, Ranges
from lipaudit.analysis.samples import load_samples
from lipaudit.analysis.shapes import InputShape
from lipaudit.cache.store import Store
from lipaudit.crews import hiring
from lipaudit.crews.hiring import Hired
from lipaudit.device import Warn, ignore
from lipaudit.errors import UsageError
from lipaudit.formats import detect, hugging_face, live
from lipaudit.formats.source import check_unchanged
from lipaudit.formats.spectra_file import unique
from lipaudit.gates import clip_limits, config_file, orders
from lipaudit.gates.config import Config
from lipaudit.gates.judge import judge
from lipaudit.gates.orders import Order as Check
from lipaudit.graph.model import Model, Origin
from lipaudit.layers.declared import declare
from lipaudit.operators.spectrum import Floats, Spectrum
from lipaudit.results import ClipReport, ModelReport, Report, Tool, Verdict
from lipaudit.rewriting import Order, Place, rewrite
from lipaudit.version import __version__

Source = str | Path | torch.nn.Module | Model
Cache = str | Path | Store | None
"""A folder; None: nothing is kept, and nothing that was kept is used."""


def load(
    source: Source,
    *,
    input_shape: InputShape = None,
    model: str | None = None,
    hf: bool = False,
) -> Model:
    """Read a checkpoint into a `Model`: every tensor by name, unread, and the layer graph.

    `model` names a factory `pkg.mod:name` whose module gives a bare checkpoint its graph; only
    then code is run, and it is the user's own. With `hf` the graph is that of the transformers
    package's own class which the config.json beside the weights names.
    """
    if isinstance(source, Model):
        return source
    if isinstance(source, torch.nn.Module):
        stated = shapes.of_examples(input_shape)
        return live.from_module(source, live.batched(source, stated))
    checkpoint = detect.read_model(str(source))
    if hf:
        if model is not None:
            raise UsageError("two layer graphs", slug="hf", hint="give --hf or --model")
        return hugging_face.from_config(checkpoint, shapes.of_examples(input_shape))
    if model is None:
        return checkpoint
    return live.from_factory(model, checkpoint, shapes.of_examples(input_shape))


def _shape(read: Model, input_shape: InputShape) -> InputShape:
    """Return the stated shape; a graph that was made for it has it already."""
    return None if read.origin is Origin.CONFIG else input_shape


def inspect(
    *sources: Source,
    input_shape: InputShape = None,
    model: str | None = None,
    hf: bool = False,
    layers: str | None = None,
    spectra: bool = True,
    by_svd: bool = False,
    padding: str = "own",
    power_steps: int | None = None,
    device: str = "auto",
    max_memory: int | None = None,
    crew: Hired | None = None,
    keep: Keep | None = None,
    told: Told | None = None,
    progress: Progress | None = None,
    warn: Warn = ignore,
    cache: Cache = None,
) -> Report:
    """Measure every layer with a weight: norm, spectrum, ranks.

    `model` and `hf` say where the graph comes from: see `load`. `layers` is a glob of names.
    `by_svd` decomposes and proves every spectrum that fits the memory, whatever it costs.
    `padding="circular"` measures every convolution as the circular
    one of its input's size. `power_steps` adds what so many steps of power iteration say. `keep`
    is called with every layer's name and whole spectrum, of which the report holds a summary;
    `told` with every layer as soon as it is measured. `crew` measures layers side by side: see
    `hired`. `cache` is a folder in which the numbers of layers are kept, and looked for first.
    """
    if padding not in {"own", "circular"}:
        raise UsageError(f"no padding {padding!r}", slug="padding", hint="own or circular")
    wish = Wish(layers, padding == "circular", power_steps, keep, told)
    compute = devices.choose(
        device,
        max_memory=max_memory,
        full_spectra=spectra,
        by_svd=by_svd,
        warn=warn,
        cache=_store(cache, warn),
    )

    def examined(read: Model) -> ModelReport:
        shape = _shape(read, input_shape)
        others = crew.crew(read, shape, max_memory=max_memory, warn=warn) if crew else None
        return audit.inspect(
            read, compute, input_shape=shape, wish=wish, progress=progress, crew=others
        )

    models = (load(source, input_shape=input_shape, model=model, hf=hf) for source in sources)
    return Report(_tool(compute), tuple(_consistent(examined, read) for read in models))


def spectra(
    source: Source,
    *,
    input_shape: InputShape = None,
    model: str | None = None,
    hf: bool = False,
    layers: str | None = None,
    by_svd: bool = False,
    padding: str = "own",
    device: str = "auto",
    max_memory: int | None = None,
    crew: Hired | None = None,
    progress: Progress | None = None,
    warn: Warn = ignore,
) -> dict[str, Floats]:
    """Return all computed singular values, largest first, as float64 arrays by layer name.

    The arguments are those of `inspect`, but that no cache keeps a whole spectrum. A layer whose
    spectrum is out of reach is missing; a name that occurs again gets a number, as in "conv (2)".
    """
    found: dict[str, Floats] = {}

    def keep(name: str, spectrum: Spectrum) -> None:
        found[unique(name, found)] = spectrum.values

    inspect(
        source,
        input_shape=input_shape,
        model=model,
        hf=hf,
        layers=layers,
        by_svd=by_svd,
        padding=padding,
        device=device,
        max_memory=max_memory,
        crew=crew,
        keep=keep,
        progress=progress,
        warn=warn,
    )
    return found


def bound(
    *sources: Source,
    input_shape: InputShape = None,
    model: str | None = None,
    hf: bool = False,
    start: str | None = None,
    end: str | None = None,
    input_range: Ranges | tuple[float, float] | None = None,
    executed: str | None = None,
    input_radius: float | None = None,
    data: str | Path | None = None,
    eps: tuple[float, ...] = (),
    limit: float | None = None,
    spectra: bool = False,
    device: str = "auto",
    max_memory: int | None = None,
    crew: Hired | None = None,
    told: Told | None = None,
    progress: Progress | None = None,
    warn: Warn = ignore,
    cache: Cache = None,
) -> Report:
    """Bound the Lipschitz constant (ℓ2) of the whole network; includes the layers' norms.

    `model` and `hf` say where the graph comes from: see `load`. `start` and `end` name nodes:
    only the part from what the first receives to what the second yields is bounded.
    `input_range` says between which numbers every input lies (of all inputs,
    or by name). `executed` and `input_radius` ask for the error of the network as it runs in a
    floating type on inputs of such a norm. `data` is an .npy or .npz file of inputs (and labels):
    where the lower bound starts, certified radii, the typical stretch of each layer; `eps` asks
    for the certified accuracy at these distances. `limit` asks what would bring the bound there.
    `spectra` adds the layers' singular values, batch norms folded in; the bound needs none.
    `crew`, `told` and `cache` are as for `inspect`.
    """
    spans = {"": input_range} if isinstance(input_range, tuple) else dict(input_range or {})
    query = Query(
        start=start,
        end=end,
        ranges=spans,
        executed=executed,
        radius=input_radius,
        samples=None if data is None else load_samples(data),
        distances=eps,
        limit=limit,
        spectra=spectra,
    )
    query.check()
    compute = devices.choose(
        device, max_memory=max_memory, full_spectra=False, warn=warn, cache=_store(cache, warn)
    )

    def examined(read: Model) -> ModelReport:
        shape = _shape(read, input_shape)
        others = crew.crew(read, shape, max_memory=max_memory, warn=warn) if crew else None
        return audit.bound(
            read,
            compute,
            input_shape=shape,
            query=query,
            told=told,
            progress=progress,
            crew=others,
        )

    models = (load(source, input_shape=input_shape, model=model, hf=hf) for source in sources)
    return Report(_tool(compute), tuple(_consistent(examined, read) for read in models))


def hired(
    workers: int | None = None,
    scheduler: str | None = None,
    *,
    device: str = "auto",
    wait: float | None = None,
) -> AbstractContextManager[Hired]:
    """Hire those who measure layers side by side, for as long as a `with` block lasts.

    `workers` are so many processes of this machine (0: one for each core, or for each GPU);
    `scheduler` is the address of a Dask scheduler, or "local" for one on this machine. With
    neither, every GPU gets a process where there are several, and else nobody is hired. `wait`
    is for how many seconds the scheduler may have no worker (30). Processes import the main
    module anew: a script that hires some does so under `if __name__ == "__main__":`.
    """
    return hiring.hired(workers, scheduler, device, wait)


def examine(
    order: Check,
    *,
    source: Model | None = None,
    spectra: bool = False,
    device: str = "auto",
    max_memory: int | None = None,
    crew: Hired | None = None,
    told: Told | None = None,
    progress: Progress | None = None,
    warn: Warn = ignore,
    cache: Cache = None,
) -> Report:
    """Audit one model as a config asks: its layers as stored, and its bound where it is gated.

    `source` is the model where it is loaded already. `told`, `crew` and `cache` are as for
    `inspect`.
    """
    settings = order.settings
    compute = devices.choose(
        device, max_memory=max_memory, full_spectra=spectra, warn=warn, cache=_store(cache, warn)
    )
    if source is None:
        wanted = settings.input_shape
        source = load(order.path, input_shape=wanted, model=settings.model, hf=bool(settings.hf))
    shape = _shape(source, settings.input_shape)
    source = declare(source, settings.constants or {})
    others = crew.crew(source, shape, max_memory=max_memory, warn=warn) if crew else None
    if order.needs_bound:
        query = Query(
            ranges=settings.input_range or {},
            executed=settings.executed,
            radius=settings.input_radius,
            limit=settings.max_bound,
            spectra=spectra,
        )
        query.check()
        examined = partial(audit.check, query=query, told=told)
    else:
        examined = partial(audit.inspect, wish=Wish(told=told))
    report = _consistent(
        lambda read: examined(read, compute, input_shape=shape, progress=progress, crew=others),
        source,
    )
    return Report(_tool(compute), (replace(report, path=order.path),))


def check(
    config: str | Path | None = None,
    *paths: str | Path,
    device: str | None = None,
    max_memory: int | None = None,
    crew: Hired | None = None,
    told: Told | None = None,
    progress: Progress | None = None,
    warn: Warn = ignore,
    cache: Cache = None,
) -> tuple[Report, Verdict]:
    """Hold the models of a config (the nearest one) against its limits, as `lipaudit check` does.

    With `paths`, only these. The first model that cannot be read raises its error. `device` and
    `max_memory` stand above what the config says; `told`, `crew` and `cache` are as for
    `inspect`, and what the config says of workers and of a cache is for the command.
    """
    settings = config_file.load(None if config is None else str(config)) or Config()
    work = orders.orders(settings, paths=[str(path) for path in paths])
    reports = [
        examine(
            order,
            device=device or settings.device or "auto",
            max_memory=settings.max_memory if max_memory is None else max_memory,
            crew=crew,
            told=told,
            progress=progress,
            warn=warn,
            cache=cache,
        )
        for order in work
    ]
    report = replace(reports[0], models=tuple(one for each in reports for one in each.models))
    return report, judge(report, {order.path: order.policy for order in work})


def clip(
    source: str | Path | Model,
    *,
    output: str | Path,
    to: float | None = None,
    bound: float | None = None,
    limits: str | Path | Mapping[str, float] | None = None,
    method: str = "project",
    layers: str | None = None,
    fold_bn: bool = False,
    input_shape: InputShape = None,
    model: str | None = None,
    hf: bool = False,
    force: bool = False,
    dry_run: bool = False,
    device: str = "auto",
    max_memory: int | None = None,
    crew: Hired | None = None,
    progress: Progress | None = None,
    warn: Warn = ignore,
) -> ClipReport:
    """Write a copy of the checkpoint whose layers, or which as a whole, provably meet limits.

    `to` is a limit for the norm of every layer, `limits` one for each glob of names (or a TOML
    file of them), `bound` one for the Lipschitz bound of the whole network; `layers` says which
    layers may change. `method` is "project" (the nearest weights), "scale", or "sedghi" (the
    paper's single pass, which may miss the limit: see `ClipReport.met`). With `fold_bn` a
    convolution and the batch norm after it are one layer.

    The copy is staged, read back and measured; only if everything is then proved does it take its
    place. With `dry_run` it is measured and thrown away. `crew` measures layers side by side,
    before and after; on other machines it must see the folder of `output` too.
    """
    order = Order(
        _limits(to, limits, layers),
        bound,
        method_named(method),
        folded=fold_bn or bound is not None,
        input_shape=input_shape,
    )
    order.check()
    compute = devices.choose(device, max_memory=max_memory, full_spectra=False, warn=warn)
    read = load(source, input_shape=input_shape, model=model, hf=hf)
    order = replace(order, input_shape=_shape(read, input_shape))

    def reload(path: Path) -> Model:
        if read.config is None:
            return load(path, input_shape=input_shape, model=model)
        # A file by itself lies beside no config.json.
        return hugging_face.from_config(detect.read_model(str(path)), read.examples, read.config)

    def others(one: Model, warn: Warn = ignore) -> Crew | None:
        if crew is None:
            return None
        return crew.crew(one, order.input_shape, max_memory=max_memory, warn=warn)

    others(read, warn)  # once, for the model and its copies
    return rewrite(
        read,
        order,
        Place(Path(output), force=force, written=not dry_run),
        reload=reload,
        compute=compute,
        progress=progress,
        crew=others,
    )


def _consistent(examined: Callable[[Model], ModelReport], read: Model) -> ModelReport:
    """Examine a model whose tensors are read meanwhile; raise if its files were written to."""
    report = examined(read)
    check_unchanged(read.fingerprints)
    return report


def _limits(
    to: float | None, stated: str | Path | Mapping[str, float] | None, only: str | None
) -> Limits:
    if stated is None or isinstance(stated, Mapping):
        return Limits(to, dict(stated or {}), only)
    general, by_glob = clip_limits.read(str(stated))
    return Limits(general if to is None else to, by_glob, only)


def _store(cache: Cache, warn: Warn) -> Store | None:
    if cache is None or isinstance(cache, Store):
        return cache
    return Store(Path(cache), warn=warn)


def _tool(compute: devices.Compute) -> Tool:
    libraries = {name: metadata.version(name) for name in ("torch", "numpy", "onnx", "safetensors")}
    return Tool(
        version=__version__,
        libraries={"python": platform.python_version(), **libraries},
        device=str(compute.device),
    )
