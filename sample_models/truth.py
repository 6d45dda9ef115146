"""Work out what is true about the sample models, without lipaudit, and write expected.toml.

    python sample_models/truth.py

Every norm is the largest singular value (float64) of the dense matrix of torch's own layer,
obtained by sending each unit image of the layer's real input through it, bias off.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from build import seeded
from networks import MLP, SEQUENTIAL_SHAPE, Attention, ChainCNN, ResidualNet, sequential
from torch import Tensor, nn

LINEAR = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)


def dense_matrix(layer: nn.Module, shape: torch.Size) -> Tensor:
    """Return the matrix of an affine layer on inputs of this shape (batch axis excluded)."""
    items = shape.numel()
    units = torch.eye(items, dtype=torch.float64).reshape(items, *shape)
    with torch.no_grad():
        offset = layer(torch.zeros(1, *shape, dtype=torch.float64))
        columns: Tensor = (layer(units) - offset).reshape(items, -1)
        return columns.T


def norms(network: nn.Module, shape: tuple[int, ...]) -> dict[str, float]:
    """Return the true norm of every linear layer at the input it really gets."""
    network = network.double()
    seen: dict[str, torch.Size] = {}

    def remember(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: seen.__setitem__(name, inputs[0].shape[1:])

    for name, module in network.named_modules():
        if isinstance(module, LINEAR):
            module.register_forward_pre_hook(remember(name))
    with torch.no_grad():
        network(torch.zeros(1, *shape, dtype=torch.float64))
    layers = dict(network.named_modules())
    found = {}
    for name, inner in seen.items():
        # A dense layer acts on the last axis only, whatever stands before it.
        items = inner[-1:] if isinstance(layers[name], nn.Linear) else inner
        found[name] = float(torch.linalg.svdvals(dense_matrix(layers[name], items))[0])
    return found


def main() -> None:
    """Write expected.toml beside this file."""
    lines = [
        "# What is true about the sample models: operator norms of the real layers, from the",
        "# dense matrix of torch's own operation in float64. Written by truth.py.",
    ]
    for title, make, shape in (
        ("mlp", MLP, MLP.input_shape),
        ("cnn", ChainCNN, ChainCNN.input_shape),
        ("resnet", ResidualNet, ResidualNet.input_shape),
        ("attention", Attention, Attention.input_shape),
        ("sequential", sequential, SEQUENTIAL_SHAPE),
    ):
        lines += ["", f"[{title}]", f"input_shape = {list(shape)}", "", f"[{title}.norms]"]
        lines += [f'"{name}" = {norm:.12g}' for name, norm in norms(seeded(make), shape).items()]
    path = Path(__file__).with_name("expected.toml")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
