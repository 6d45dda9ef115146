"""Train a small convolutional network on digits, with and without clipping, and compare.

    python examples/digits.py --out FOLDER --seeds 5

The experiment of Sedghi, Gupta & Long (2019, section 4.2) in small: a network with batch
normalization on scikit-learn's 8x8 digits, half of them to train on, whose convolutions are clipped
every 100 steps, or not. Every seed draws its own split, start and order of batches, the same for
all arms, so that the arms can be compared in pairs. Writes results.md (final test errors with
standard errors, the overhead of clipping) and curves.svg (test error by epoch).
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from lipaudit.torch import Monitor, clip_, spectral_norm

EVERY = 100
"""Steps from one clipping to the next, as in the paper."""
_BATCH = 64
_RATE, _MOMENTUM, _DECAY = 0.1, 0.9, 5e-4
_COLOURS = ("#666666", "#0072b2", "#56b4e9", "#d55e00")
_CONVOLUTIONS = "conv*"
_SHAPE = (1, 8, 8)


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train."""

    name: str
    clip_to: float | None = None
    normalized: bool = False


ARMS = (
    Arm("no clipping"),
    Arm("clip_ to 1.0", clip_to=1.0),
    Arm("clip_ to 0.5", clip_to=0.5),
    Arm("spectral_norm", normalized=True),
)


@dataclass(frozen=True, slots=True)
class Run:
    """What one arm did with one seed."""

    errors: tuple[float, ...]
    """Test error after each epoch, in percent."""
    loss: float
    """Training loss of the last epoch."""
    norm: float
    """The largest norm of a convolution at the end (a lower bound, by power iteration)."""


@dataclass(frozen=True, slots=True)
class Digits:
    """Images and labels, half to train on."""

    images: torch.Tensor
    labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor

    @classmethod
    def split(cls, seed: int, count: int | None = None) -> "Digits":
        """Load the digits, or so many of them, and cut them in halves."""
        loaded = load_digits()
        images = torch.from_numpy(loaded.images[:count]).float().unsqueeze(1) / 8.0 - 1.0
        labels = torch.from_numpy(loaded.target[:count]).long()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        train, test = order[: len(order) // 2], order[len(order) // 2 :]
        return cls(images[train], labels[train], images[test], labels[test])


def network(arm: Arm, seed: int) -> nn.Sequential:
    """Return a network of four convolutions; `spectral_norm` holds them where the arm says so."""
    torch.manual_seed(seed)
    net = nn.Sequential()
    channels = ((1, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1))
    for at, (inputs, outputs, stride) in enumerate(channels):
        conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        net.add_module(f"conv{at}", spectral_norm(conv) if arm.normalized else conv)
        net.add_module(f"norm{at}", nn.BatchNorm2d(outputs))
        net.add_module(f"relu{at}", nn.ReLU())
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", nn.Flatten())
    net.add_module("head", nn.Linear(64, 10))
    return net


def train(arm: Arm, seed: int, epochs: int, count: int | None = None) -> Run:
    """Train one network."""
    digits, net = Digits.split(seed, count), network(arm, seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=_RATE, momentum=_MOMENTUM, weight_decay=_DECAY)
    steps = math.ceil(len(digits.labels) / _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    shuffle = torch.Generator().manual_seed(seed)
    errors: list[float] = []
    losses: list[float] = []
    for _ in range(epochs):
        losses = []
        for batch in _batches(torch.randperm(len(digits.labels), generator=shuffle)):
            losses.append(_step(net, optimizer, digits, batch))
            schedule.step()
            if arm.clip_to is not None:
                _clip(net, arm.clip_to)
        errors.append(_error(net, digits))
    norms = Monitor(net, print, layers=_CONVOLUTIONS, input_shape=_SHAPE, power_steps=100).measure()
    return Run(tuple(errors), statistics.fmean(losses), max(norms.values()))


def overhead(rounds: int) -> tuple[float, float]:
    """Return seconds of a step without clipping, and how much longer one takes with it.

    Blocks of 100 steps in turn, one with a call of `clip_` after each step and one without, on
    networks that were trained alike; the median over neighbouring blocks.
    """
    digits = Digits.split(0)
    nets = [network(ARMS[0], 0), network(ARMS[0], 0)]
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9) for net in nets]
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(rounds + 1):
        for at, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
            start = time.perf_counter()
            for batch in _batches(torch.arange(EVERY * _BATCH) % len(digits.labels)):
                _step(net, optimizer, digits, batch)
                if at == 1:
                    _clip(net, 1.0)
            # The first round pays for starting threads and libraries.
            if round_:
                times[at].append(time.perf_counter() - start)
    ratios = [clipped / plain for plain, clipped in zip(*times, strict=True)]
    return statistics.median(times[0]) / EVERY, statistics.median(ratios) - 1.0


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description="Clipping on scikit-learn's digits.")
    parser.add_argument("--out", type=Path, default=Path("digits"), help="folder to write to")
    parser.add_argument("--seeds", type=int, default=5)
    # The last clip is 90 steps before the end, so that the batch norms' statistics can follow.
    parser.add_argument("--epochs", type=int, default=46)
    parser.add_argument("--images", type=int, help="use the first so many images only")
    parser.add_argument("--rounds", type=int, default=10, help="to measure the overhead; 0: do not")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[Run]] = {arm.name: [] for arm in ARMS}
    for seed in range(arguments.seeds):
        for arm in ARMS:
            run = train(arm, seed, arguments.epochs, arguments.images)
            runs[arm.name].append(run)
            print(f"seed {seed}, {arm.name}: {run.errors[-1]:.2f} %, norm {run.norm:.2f}")
    page = _page(runs, overhead(arguments.rounds) if arguments.rounds else None)
    (arguments.out / "results.md").write_text(page, encoding="utf-8")
    (arguments.out / "curves.svg").write_text(_curves(runs), encoding="utf-8")
    print(page)


def _batches(order: torch.Tensor) -> list[torch.Tensor]:
    """Cut an order of images into batches."""
    return [order[at : at + _BATCH] for at in range(0, len(order), _BATCH)]


def _clip(net: nn.Module, to: float) -> None:
    """Clip what is due, on tori of the sizes that the convolutions really receive."""
    clip_(net, to=to, every=EVERY, layers=_CONVOLUTIONS, input_shape=_SHAPE)


def _step(
    net: nn.Module, optimizer: torch.optim.Optimizer, digits: Digits, batch: torch.Tensor
) -> float:
    """Take one step of gradient descent; return the loss."""
    net.train()
    optimizer.zero_grad()
    loss = functional.cross_entropy(net(digits.images[batch]), digits.labels[batch])
    torch.autograd.backward(loss)
    optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def _error(net: nn.Module, digits: Digits) -> float:
    """Return the test error in percent."""
    net.eval()
    wrong = net(digits.test_images).argmax(1) != digits.test_labels
    return 100.0 * float(wrong.float().mean())


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error."""
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return statistics.fmean(values), spread / math.sqrt(len(values))


def _page(runs: dict[str, list[Run]], measured: tuple[float, float] | None) -> str:
    """Return the table in Markdown."""
    base = [run.errors[-1] for run in runs[ARMS[0].name]]
    lines = [
        "| training | test error % | difference % | training loss | largest norm |",
        "| :--- | ---: | ---: | ---: | ---: |",
    ]
    for name, done in runs.items():
        final = [run.errors[-1] for run in done]
        error, spread = _mean(final)
        apart, apart_spread = _mean([a - b for a, b in zip(final, base, strict=True)])
        difference = "" if name == ARMS[0].name else f"{apart:+.2f} ± {apart_spread:.2f}"
        loss = statistics.fmean(run.loss for run in done)
        norm = statistics.fmean(run.norm for run in done)
        lines.append(
            f"| {name} | {error:.2f} ± {spread:.2f} | {difference} | {loss:.4f} | {norm:.2f} |"
        )
    first = next(iter(runs.values()))
    about = (
        f"Written by examples/digits.py: {len(first)} seeds, {len(first[0].errors)} epochs, "
        f"{_BATCH} images a batch. Errors are means over the seeds ± their standard error; "
        "differences are to the first line, in pairs of the same seed. The largest norm is that of "
        "a convolution on the size it works on, at the end of training, the mean over the seeds."
    )
    parts = ["# Digits, with and without clipping", about, "\n".join(lines)]
    parts.append("![test error by epoch](curves.svg)")
    if measured is not None:
        step, extra = measured
        parts.append(
            f"A step takes {1e3 * step:.1f} ms; with a call of `clip_(net, every={EVERY})` after "
            f"each {100 * extra:+.1f} %."
        )
    return "\n\n".join(parts) + "\n"


@dataclass(frozen=True, slots=True)
class _Axes:
    """Where numbers are drawn: epochs across, percent up, the percent logarithmic."""

    epochs: int
    low: float
    high: float

    def x(self, epoch: float) -> float:
        """Return where an epoch lies."""
        return 60.0 + 560.0 * epoch / max(self.epochs, 1)

    def y(self, error: float) -> float:
        """Return where an error lies."""
        share = math.log(max(error, self.low) / self.low) / math.log(self.high / self.low)
        return 330.0 - 290.0 * min(share, 1.0)


def _curves(runs: dict[str, list[Run]]) -> str:
    """Draw the test errors: a line for the mean of each arm, a band for its standard error."""
    means = {name: _by_epoch(done) for name, done in runs.items()}
    everything = [mean for points in means.values() for mean, _ in points if mean > 0]
    low = max(0.5 * min(everything), 0.1)
    axes = _Axes(len(next(iter(means.values()))), low, max(30.0, 2.0 * low))
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 420" width="640" height="420"',
        'font-family="Helvetica, Arial, sans-serif" font-size="13" fill="#222">',
        '<rect width="640" height="420" fill="#fff"/>',
        '<text x="60" y="24" font-size="16">Test error, percent</text>',
    ]
    for tick in (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0):
        if axes.low <= tick <= axes.high:
            y = axes.y(tick)
            parts.append(f'<path d="M60 {y:.1f}H620" stroke="#ddd"/>')
            parts.append(f'<text x="52" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for epoch in range(0, axes.epochs + 1, max(1, axes.epochs // 6)):
        x = axes.x(epoch)
        parts.append(f'<text x="{x:.1f}" y="350" text-anchor="middle">{epoch}</text>')
    parts.append('<path d="M60 40V330H620" fill="none" stroke="#222"/>')
    parts.append('<text x="340" y="374" text-anchor="middle">epoch</text>')
    for at, (name, points) in enumerate(means.items()):
        parts += _line(axes, points, _COLOURS[at])
        left = 60 + 145 * at
        parts.append(f'<path d="M{left} 398h24" stroke="{_COLOURS[at]}" stroke-width="2"/>')
        parts.append(f'<text x="{left + 30}" y="402">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _line(axes: _Axes, points: Sequence[tuple[float, float]], colour: str) -> list[str]:
    """Draw one arm."""

    def path(height: Callable[[float, float], float]) -> list[str]:
        return [
            f"{axes.x(epoch):.1f} {axes.y(height(mean, spread)):.1f}"
            for epoch, (mean, spread) in enumerate(points, start=1)
        ]

    parts = []
    if all(math.isfinite(spread) for _, spread in points):
        upper, lower = path(lambda m, s: m + s), path(lambda m, s: m - s)
        band = "L".join([*upper, *reversed(lower)])
        parts.append(f'<path d="M{band}Z" fill="{colour}" opacity="0.15"/>')
    middle = "L".join(path(lambda m, _: m))
    parts.append(f'<path d="M{middle}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return parts


def _by_epoch(done: Sequence[Run]) -> list[tuple[float, float]]:
    """Return mean and standard error of the test error after each epoch."""
    return [_mean(errors) for errors in zip(*(run.errors for run in done), strict=True)]


if __name__ == "__main__":
    main()
