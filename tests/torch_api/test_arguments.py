"""Arguments: what is a number is one number everywhere; what makes no sense is one line."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lipaudit.errors import UsageError
from lipaudit.torch import Clipper, Monitor, certify_, clip_, spectral_norm
from tests.oracles import singular_values


@pytest.mark.parametrize(
    "to", ["1.0", None, [1.0], torch.ones(2), 1j, 10**400, "a\nb", 0, np.float32("nan")]
)
def test_limits_that_are_no_numbers_are_refused(to: Any) -> None:
    layer = nn.Linear(2, 2)
    for call in (clip_, certify_, Clipper, spectral_norm):
        with pytest.raises(UsageError, match="cannot clip to") as raised:
            call(layer, to=to)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "to", [np.float32(0.3), np.float64(0.3), torch.tensor(0.5), 1, np.int64(1)]
)
def test_limits_of_any_kind_of_number_hold_exactly(to: Any) -> None:
    torch.manual_seed(0)
    layer: Any = nn.Linear(6, 6)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(6) * (float(to) * 1.5))
    clip_(layer, to=to)
    assert float(singular_values(layer.weight.detach().double()).max()) < float(to) * (1 + 1e-5)
    (done,) = certify_(layer, to=to)
    assert done.after.upper <= float(to)
    assert float(singular_values(layer.weight.detach().double()).max()) <= float(to)
    assert isinstance(spectral_norm(nn.Linear(2, 2), to=to), nn.Module)


def test_a_limit_in_a_tensor_is_not_compared_in_its_precision() -> None:
    layer: Any = nn.Linear(3, 3).double()
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3) * 0.500000005)
    (done,) = certify_(layer, to=torch.tensor(0.5))  # type: ignore[arg-type]
    assert done.after.upper <= 0.5
    assert float(layer.weight.detach().abs().max()) <= 0.5


@pytest.mark.parametrize("count", ["a", 1.5, None, 0, -1, [1]])
def test_counts_are_whole_numbers(count: Any) -> None:
    layer = nn.Linear(2, 2)
    for call in (
        lambda: clip_(layer, every=count),
        lambda: clip_(layer, pairs=count),
        lambda: Clipper(layer, every=count),
        lambda: Monitor(layer, print, every=count),
        lambda: Monitor(layer, print, power_steps=count),
        lambda: spectral_norm(layer, n_power_iterations=count),
    ):
        with pytest.raises(UsageError, match="whole number"):
            call()
    assert clip_(layer, every=np.int64(2)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("layers", [["0"], ("0",), 0, b"0"])
def test_names_of_layers_are_one_string(layers: Any) -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    for call in (
        lambda: clip_(net, layers=layers),
        lambda: Clipper(net, layers=layers),
        lambda: certify_(net, layers=layers),
        lambda: Monitor(net, print, layers=layers),
    ):
        with pytest.raises(UsageError, match="layers is a"):
            call()


def test_blanks_around_globs_do_not_count() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    assert [one.name for one in clip_(net, layers=" 0, 2 ") or ()] == ["0", "2"]
