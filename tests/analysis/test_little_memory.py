"""Networks with a weight that has no room in float64: bounded all the same, run nowhere."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lipaudit
from lipaudit.errors import NotCertified
from lipaudit.graph.constant import Constant
from lipaudit.layers import execution
from lipaudit.results import Report

ROOM = 40_000
"""Bytes: the large weight takes 24,000 as it is stored, 48,000 in float64."""


class Multiplied(nn.Module):
    """A large layer in front of a product of two signals, finite only through their values."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Linear(20, 20), nn.Linear(20, 300)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.large(torch.relu(self.small(x)))
        made: torch.Tensor = y * torch.tanh(y)
        return made


@pytest.fixture
def chain() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 300)).eval()


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the bytes of every constant that is turned into float64 as a whole."""
    sizes: list[int] = []
    values = Constant.values

    def noted(constant: Constant) -> torch.Tensor:
        sizes.append(8 * constant.items)
        return values(constant)

    monkeypatch.setattr(Constant, "values", noted)
    for name in ("ranges", "linear_parts", "forward", "samples"):
        module = getattr(__import__(f"lipaudit.analysis.{name}").analysis, name)

        def load(constant: Constant, dtype: torch.dtype | None) -> torch.Tensor:
            sizes.append(8 * constant.items)
            return execution.load(constant, dtype)

        monkeypatch.setattr(module, "load", load)
    return sizes


def bound(module: nn.Module, warnings: list[str], **wishes: object) -> Report:
    return lipaudit.bound(
        module,
        input_shape=(1, 20),
        max_memory=ROOM,
        warn=warnings.append,
        **wishes,  # type: ignore[arg-type]
    )


def test_a_bound_without_a_lower_end_says_why(chain: nn.Sequential, converted: list[int]) -> None:
    warnings: list[str] = []
    found = bound(chain, warnings).models[0].bound
    assert found is not None
    top = math.prod(
        float(torch.linalg.svdvals(layer.weight.detach().double())[0])
        for layer in chain
        if isinstance(layer, nn.Linear)
    )
    assert found.certified
    assert 0 < found.measure.upper <= top * (1 + 1e-6)
    assert found.measure.lower == 0
    (warning,) = [text for text in warnings if "lower bound" in text]
    assert "over --max-memory (40,000 bytes)" in warning
    assert max(converted) <= ROOM
    whole = lipaudit.bound(chain, input_shape=(1, 20)).models[0].bound
    assert whole is not None
    assert 0 < whole.measure.lower <= found.measure.upper


def test_what_the_values_behind_it_would_show_is_left_out_in_words(converted: list[int]) -> None:
    torch.manual_seed(2)
    module = Multiplied().eval()
    warnings: list[str] = []
    found = bound(module, warnings, input_range=(-1.0, 1.0)).models[0].bound
    assert found is not None
    assert not found.measure.is_finite
    (warning,) = [text for text in warnings if "no values are bounded" in text]
    assert "large" in warning
    assert max(converted) <= ROOM
    whole = lipaudit.bound(module, input_shape=(1, 20), input_range=(-1.0, 1.0)).models[0].bound
    assert whole is not None
    assert whole.measure.is_finite


def test_how_it_rounds_is_not_looked_at(chain: nn.Module, converted: list[int]) -> None:
    running = bound(chain, [], executed="float32", input_radius=1.0).models[0].running
    assert running is not None
    assert not running.error.is_finite
    (reason,) = running.reasons
    assert "48,000 bytes in float64, over --max-memory (40,000 bytes)" in reason
    assert max(converted) <= ROOM
    whole = lipaudit.bound(chain, input_shape=(1, 20), executed="float32", input_radius=1.0)
    assert whole.models[0].running is not None
    assert whole.models[0].running.error.is_finite


def test_samples_that_cannot_be_run_are_refused(chain: nn.Module, tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.ones((3, 20)))
    with pytest.raises(NotCertified) as caught:
        bound(chain, [], data=str(tmp_path / "data.npy"))
    assert caught.value.slug == "memory"
    assert caught.value.hint == "give --max-memory 48000"
    data = str(tmp_path / "data.npy")
    assert lipaudit.bound(chain, input_shape=(1, 20), data=data, max_memory=48_000)
