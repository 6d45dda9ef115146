"""Bounds of whole networks beside a norm audit of the same ones: what the methods cost and give.

The CIFAR ResNet-20 (He et al. 2016; trained weights where the folder of models has them) and
dense networks from the same folder. `bound` includes the norms that `inspect --no-spectra` finds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cases import Options
from report import table, time_cell
from timing import Contestant, race
from torch import nn

import lipaudit
from lipaudit.graph.model import Model

TITLE = "Bounds of whole networks"
_TRAINED = "resnet_cifar10_akamaster/resnet20-12fca82f.th"
_DENSE = (
    "lipsdp/derived_random_weights_f64.onnx",
    "marabou/ACASXU_experimental_v2a_1_1.onnx",
    "sisl_nnet/TestNetwork2.onnx",
    "marabou/mnist2x10.onnx",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One network. Times are seconds."""

    network: str
    inspect: float
    inspect_least: float
    bound: float
    bound_least: float
    uppers: dict[str, float]
    lower: float


class _Block(nn.Module):
    """Two convolutions and a shortcut without weights."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.stride, self.added = stride, (outputs - inputs) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added, self.added))
        return torch.relu(inner + x)


class ResNet20(nn.Module):
    """The CIFAR ResNet-20, its shortcuts subsampled and padded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1, self.layer2 = self._stage(16, 16), self._stage(16, 32)
        self.layer3, self.linear = self._stage(32, 64), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the ten logits of each image."""
        x = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
        made: torch.Tensor = self.linear(nn.functional.avg_pool2d(x, 8).flatten(1))
        return made

    @staticmethod
    def _stage(inputs: int, outputs: int) -> nn.Sequential:
        first = _Block(inputs, outputs, 1 if inputs == outputs else 2)
        return nn.Sequential(first, *(_Block(outputs, outputs, 1) for _ in range(2)))


def measure(options: Options) -> list[Row]:
    """Time `inspect` without spectra and `bound` in turn."""
    rows = []
    for name, model in _networks(options.models).items():
        rows.append(_measured(name, model, options))
        print(markdown(rows[-1:]).splitlines()[2], flush=True)
    return rows


def markdown(rows: list[Row]) -> str:
    """Return the table and what its columns mean."""
    methods = ("product", "graph", "averaged", "closed-form", "sdp")
    header = ("network", "inspect s", "bound s", "bound / inspect", *methods, "lower")
    lines = table(
        header,
        (
            (
                row.network,
                time_cell(row.inspect, row.inspect_least),
                time_cell(row.bound, row.bound_least),
                f"{row.bound / row.inspect:.2f}x",
                *(f"{row.uppers[m]:.6g}" if m in row.uppers else "" for m in methods),
                f"{row.lower:.6g}",
            )
            for row in rows
        ),
    )
    return (
        f"{lines}\n\n"
        "Norms only (`inspect --no-spectra`) beside the whole of `bound`, on models that were "
        "read before. Every upper bound is proved; the lower one is attained by two inputs. "
        "An empty cell: the network is too large to be written out."
    )


def _networks(models: Path | None) -> dict[str, Model]:
    """Return the networks by name; without a folder of models one with random weights."""
    net, name = trained_resnet20(models)
    found = {name: lipaudit.load(net, input_shape=(3, 32, 32))}
    if models is not None:
        found |= {
            path: lipaudit.load(str(models / path)) for path in _DENSE if (models / path).is_file()
        }
    return found


def trained_resnet20(models: Path | None) -> tuple[ResNet20, str]:
    """Return the network, with trained weights where there are any, and what to call it."""
    net = ResNet20()
    trained = models / _TRAINED if models is not None else None
    if trained is not None and trained.is_file():
        stored = lipaudit.load(str(trained)).tensors
        state = {
            name: stored[key].values().float()
            for name in net.state_dict()
            for key in stored
            if key.endswith(f"module.{name}")
        }
        net.load_state_dict(state, strict=False)
    known = trained is not None and trained.is_file()
    net.eval()
    return net, "ResNet-20, 32x32, " + ("trained" if known else "random")


def _measured(name: str, model: Model, options: Options) -> Row:
    def inspected() -> Any:
        return lipaudit.inspect(model, spectra=False, device=options.device)

    def bounded() -> Any:
        return lipaudit.bound(model, device=options.device)

    found = race(
        [Contestant("inspect", inspected), Contestant("bound", bounded)],
        device=options.device,
        repeats=options.repeats,
        limit=options.limit,
    )
    report = found["bound"].result.models[0]
    return Row(
        network=name,
        inspect=found["inspect"].median,
        inspect_least=found["inspect"].least,
        bound=found["bound"].median,
        bound_least=found["bound"].least,
        uppers={bound.method: bound.measure.upper for bound in report.bounds},
        lower=report.bound.measure.lower,
    )
