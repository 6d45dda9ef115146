"""A small network in a file, with layers of every sort of work: several seconds in all."""

from pathlib import Path

import torch


def written(folder: Path) -> Path:
    """Write a checkpoint of twelve layers and return its path."""
    torch.manual_seed(3)
    weights: dict[str, torch.Tensor] = {}
    for number in range(8):
        weights[f"conv{number}.weight"] = torch.randn(8, 8, 3, 3)
    for number in range(3):
        weights[f"fc{number}.weight"] = torch.randn(24 + number, 32)
    weights["bad.weight"] = torch.full((4, 4), torch.nan)
    path = folder / "net.pt"
    torch.save(weights, path)
    return path
