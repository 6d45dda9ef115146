"""Exported programs that write in place: bounded as what they compute, or not at all."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import jacrev

import lipaudit


class Net(nn.Module):
    """One dense layer, then code that writes."""

    def __init__(self, code: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.code = code

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.code(self.fc(x), x)


def rectified(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.relu_(y) + x


def read_again(y: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    y.mul_(5)
    return y


def residual(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y += 3 * x
    return y - x


def through_a_view(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y = y * 2
    y[:, 0] += 50 * x[:, 1]
    return y


def seen_by_a_view(y: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    part = y[:, 0]
    y.mul_(50)
    return part


def seen_by_another_view(y: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    part, flat = y[:, 0], y.view(-1)
    flat.mul_(50)
    return part


def read_before(y: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    doubled = y * 2
    y.mul_(0)
    return doubled


PLAIN = (rectified, read_again, residual, read_before)
VIEWS = (through_a_view, seen_by_a_view, seen_by_another_view)


@pytest.mark.parametrize("code", PLAIN + VIEWS)
def test_the_bound_holds_for_what_is_computed(
    code: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = Net(code).eval()
    # Not turned into values first, as `run_decompositions` would.
    program = torch.export.export(net, (torch.zeros(1, 4),))
    assert "_" in str(program.graph)
    torch.export.save(program, tmp_path / "net.pt2")
    (model,) = lipaudit.bound(tmp_path / "net.pt2").models
    assert model.bound is not None
    x = torch.randn(1, 4)
    jacobian = jacrev(net)(x).reshape(-1, 4)
    steepest = float(torch.linalg.matrix_norm(jacobian, 2))
    assert not model.bound.certified or model.bound.measure.upper >= steepest * (1 - 1e-6)
    assert model.bound.certified == (code in PLAIN)
