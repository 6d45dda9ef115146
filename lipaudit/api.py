"""The whole program on one page: load -> audit -> judge -> render, and plan_clip -> save.

Every function takes a path (a file or a folder), a live `torch.nn.Module`, or a `Model` that
was loaded before. Nothing here prints, exits, or writes a file, except `clip`, which writes
the one it is told to.
"""

import platform
from importlib import metadata
from pathlib import Path

import torch

from lipaudit import device as devices
from lipaudit.analysis import audit, clipping, shapes
from lipaudit.analysis.layerwise import Measured, Progress, Wish
from lipaudit.analysis.query import Query, Ranges
from lipaudit.analysis.samples import load_samples
from lipaudit.analysis.shapes import InputShape
from lipaudit.device import Warn, ignore
from lipaudit.errors import NotCertified, UsageError
from lipaudit.formats import atomic, detect, live
from lipaudit.graph.model import Model
from lipaudit.results import ClipReport, Report, Skipped, Tool
from lipaudit.version import __version__

Source = str | Path | torch.nn.Module | Model
_ATTEMPTS = 12


def load(source: Source, *, input_shape: InputShape = None, model: str | None = None) -> Model:
    """Read a checkpoint into a `Model`: every tensor by name, unread, and the layer graph.

    `model` names a factory `pkg.mod:name` whose module gives a bare checkpoint its graph; only
    then code is run, and it is the user's own.
    """
    if isinstance(source, Model):
        return source
    if isinstance(source, torch.nn.Module):
        stated = shapes.of_examples(input_shape)
        return live.from_module(source, live.batched(source, stated))
    checkpoint = detect.read_model(str(source))
    if model is None:
        return checkpoint
    return live.from_factory(model, checkpoint, shapes.of_examples(input_shape))


def inspect(
    *sources: Source,
    input_shape: InputShape = None,
    model: str | None = None,
    layers: str | None = None,
    spectra: bool = True,
    by_svd: bool = False,
    padding: str = "own",
    power_steps: int | None = None,
    device: str = "auto",
    max_memory: int | None = None,
    progress: Progress | None = None,
    warn: Warn = ignore,
) -> Report:
    """Measure every layer with a weight: norm, spectrum, ranks.

    `layers` is a glob of names. `by_svd` decomposes and proves every spectrum that fits the
    memory, whatever it costs. `padding="circular"` measures every convolution as the circular
    one of its input's size. `power_steps` adds what so many steps of power iteration say.
    """
    if padding not in {"own", "circular"}:
        raise UsageError(f"no padding {padding!r}", slug="padding", hint="own or circular")
    wish = Wish(layers, padding == "circular", power_steps)
    compute = devices.choose(
        device, max_memory=max_memory, full_spectra=spectra, by_svd=by_svd, warn=warn
    )
    return Report(
        tool=_tool(compute),
        models=tuple(
            audit.inspect(
                load(source, input_shape=input_shape, model=model),
                compute,
                input_shape=input_shape,
                wish=wish,
                progress=progress,
            )
            for source in sources
        ),
    )


def bound(
    *sources: Source,
    input_shape: InputShape = None,
    model: str | None = None,
    start: str | None = None,
    end: str | None = None,
    input_range: Ranges | tuple[float, float] | None = None,
    executed: str | None = None,
    input_radius: float | None = None,
    data: str | Path | None = None,
    eps: tuple[float, ...] = (),
    limit: float | None = None,
    device: str = "auto",
    max_memory: int | None = None,
    progress: Progress | None = None,
    warn: Warn = ignore,
) -> Report:
    """Bound the Lipschitz constant (ℓ2) of the whole network; includes the layers' norms.

    `start` and `end` name nodes: only the part from what the first receives to what the second
    yields is bounded. `input_range` says between which numbers every input lies (of all inputs,
    or by name). `executed` and `input_radius` ask for the error of the network as it runs in a
    floating type on inputs of such a norm. `data` is an .npy or .npz file of inputs (and labels):
    where the lower bound starts, certified radii, the typical stretch of each layer; `eps` asks
    for the certified accuracy at these distances. `limit` asks what would bring the bound there.
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
    )
    query.check()
    compute = devices.choose(device, max_memory=max_memory, full_spectra=False, warn=warn)
    return Report(
        tool=_tool(compute),
        models=tuple(
            audit.bound(
                load(source, input_shape=input_shape, model=model),
                compute,
                input_shape=input_shape,
                query=query,
                progress=progress,
            )
            for source in sources
        ),
    )


def clip(
    source: str | Path | Model,
    *,
    to: float,
    output: str | Path,
    layers: str | None = None,
    input_shape: InputShape = None,
    model: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    device: str = "auto",
    max_memory: int | None = None,
    progress: Progress | None = None,
    warn: Warn = ignore,
) -> ClipReport:
    """Write a copy of the checkpoint in which every layer's proved norm is at most `to`.

    The copy is staged, read back and measured; only if every clipped layer is then proved to
    meet the limit does it take its place. With `dry_run` it is measured and thrown away.
    """
    clipping.check_limit(to)
    compute = devices.choose(device, max_memory=max_memory, full_spectra=False, warn=warn)
    checkpoint = load(source, input_shape=input_shape, model=model)
    form = detect.format_of(checkpoint)
    target = Path(output)

    def measure(candidate: Model) -> tuple[Measured, ...]:
        return audit.measure(
            candidate, compute, input_shape=input_shape, wish=Wish(layers), progress=progress
        )

    before = measure(checkpoint)
    plan = clipping.plan(checkpoint, before, to)
    with atomic.staged(
        target, originals=checkpoint.files, force=force, may_write=not dry_run
    ) as stage:
        for attempt in range(_ATTEMPTS):
            stage.write(form.changed(checkpoint, clipping.patch(checkpoint, plan)))
            after = measure(load(stage.main, input_shape=input_shape, model=model))
            if clipping.holds(plan, after):
                break
            plan = clipping.tightened(plan, after, attempt)
        else:
            raise NotCertified(
                f"no scaling within the file's dtype was proved to meet {to:g}",
                slug="clip-dtype",
                path=checkpoint.path,
            )
        if not dry_run:
            stage.commit(originals=checkpoint.files, force=force)
    return ClipReport(
        path=checkpoint.path,
        output=str(target),
        limit=to,
        method="scale",
        changes=clipping.changes(plan, before, after),
        skipped=tuple(Skipped(u.name, u.kind, u.slug, u.reason) for u in checkpoint.unread),
        notes=checkpoint.notes,
        written=not dry_run,
    )


def _tool(compute: devices.Compute) -> Tool:
    libraries = {name: metadata.version(name) for name in ("torch", "numpy", "onnx", "safetensors")}
    return Tool(
        version=__version__,
        libraries={"python": platform.python_version(), **libraries},
        device=str(compute.device),
    )
