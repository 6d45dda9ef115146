"""Build the sample models: small networks in every format, with reproducible weights.

    python sample_models/build.py FOLDER

What is true about them stands in expected.toml, worked out by truth.py without lipaudit.
"""

import argparse
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from networks import MLP, SEQUENTIAL_SHAPE, Attention, ChainCNN, ResidualNet, sequential
from safetensors.torch import save_file
from torch import nn


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Make a network in inference mode whose weights are the same on every machine."""
    torch.manual_seed(20190506)
    network = make().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            if module.running_mean is not None and module.running_var is not None:
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network


def build(folder: Path) -> list[Path]:
    """Write every sample model into the folder and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    mlp = seeded(MLP)
    torch.save(mlp.state_dict(), folder / "mlp.pt")
    save_file(mlp.state_dict(), folder / "mlp.safetensors", metadata={"format": "pt"})
    _save_sharded(mlp, folder / "mlp_sharded")
    torch.save(seeded(sequential), folder / "sequential.pt")
    exported = torch.export.export(seeded(ChainCNN), (torch.zeros(1, *ChainCNN.input_shape),))
    torch.export.save(exported, folder / "cnn.pt2")
    for name, make, shape in (
        ("mlp", MLP, MLP.input_shape),
        ("cnn", ChainCNN, ChainCNN.input_shape),
        ("resnet", ResidualNet, ResidualNet.input_shape),
        ("attention", Attention, Attention.input_shape),
        ("sequential", sequential, SEQUENTIAL_SHAPE),
    ):
        _export_onnx(seeded(make), shape, folder / f"{name}.onnx")
    return sorted(path for path in folder.iterdir() if path.name != "clipped.pt")


def _save_sharded(network: nn.Module, folder: Path) -> None:
    """Write a folder as Hugging Face lays it out: two shards and an index."""
    folder.mkdir(exist_ok=True)
    weights = network.state_dict()
    keys = sorted(weights)
    shards = {
        "model-00001-of-00002.safetensors": keys[: len(keys) // 2],
        "model-00002-of-00002.safetensors": keys[len(keys) // 2 :],
    }
    for name, part in shards.items():
        save_file({key: weights[key] for key in part}, folder / name, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(w.numel() * w.element_size() for w in weights.values())},
        "weight_map": {key: name for name, part in shards.items() for key in part},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _export_onnx(network: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its own future
        torch.onnx.export(
            network,
            (torch.zeros(1, *shape),),
            path,
            input_names=["x"],
            output_names=["y"],
            external_data=False,
            dynamo=True,
            optimize=False,  # keep the batch norms and transposes that people ship
            verbose=False,
        )


def main() -> None:
    """Build the models into the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for path in build(parser.parse_args().folder):
        print(f"built {path}")


if __name__ == "__main__":
    main()
