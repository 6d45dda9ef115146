"""Monitor: lower bounds that become the norms, proved ones above them, and no trace in the net."""

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from lipaudit.errors import ShapeError, UsageError
from lipaudit.torch import Monitor
from tests.oracles import conv_matrix, frequency_maximum, singular_values
from tests.torch_api.modules import geometry_of

Logged = list[tuple[int, dict[str, float]]]


def net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 2, 2, stride=2),
        nn.Flatten(),
        nn.Linear(2 * 36, 5),
    )


def truth(model: Any) -> dict[str, float]:
    found = {
        str(at): frequency_maximum(model[at].weight.detach().double(), geometry_of(model[at]), 200)
        for at in (0, 2)
    }
    found["4"] = float(singular_values(model[4].weight.detach().double()).max())
    return found


def test_it_logs_each_nth_step_and_once_at_the_end() -> None:
    logged: Logged = []
    with Monitor(net(), lambda values, step: logged.append((step, values)), every=3) as monitor:
        for _ in range(7):
            monitor.step()
    assert [step for step, _ in logged] == [3, 6, 7]
    names = {"0/norm_at_least", "2/norm_at_least", "4/norm_at_least"}
    assert all(set(values) == names for _, values in logged)


def test_nothing_is_logged_twice_or_after_an_error() -> None:
    logged: Logged = []
    with Monitor(net(), lambda values, step: logged.append((step, values)), every=2) as monitor:
        monitor.step()
        monitor.step()
    assert [step for step, _ in logged] == [2]

    def fail() -> None:
        with Monitor(net(), lambda values, step: logged.append((step, values))) as failing:
            failing.step()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert len(logged) == 1


def test_lower_bounds_become_the_norms() -> None:
    model = net()
    monitor = Monitor(model, print, proved=True)
    for _ in range(25):
        values = monitor.measure()
    for name, norm in truth(model).items():
        assert math.isclose(values[f"{name}/norm_at_least"], norm, rel_tol=2e-3)
        assert values[f"{name}/norm_at_least"] <= values[f"{name}/norm_at_most"] * (1 + 1e-5)
        assert norm <= values[f"{name}/norm_at_most"] <= norm * 1.01


def test_with_a_shape_the_norms_are_those_of_the_sizes() -> None:
    model = net()
    monitor = Monitor(model, print, layers="0,2", input_shape="2x6x6", power_steps=200)
    values = monitor.measure()
    for name, shape in (("0", (2, 6, 6)), ("2", (4, 3, 3))):
        part = model[int(name)]
        matrix = conv_matrix(part.weight.detach().double(), geometry_of(part), shape)
        expected = float(singular_values(matrix).max())
        assert math.isclose(values[f"{name}/norm_at_least"], expected, rel_tol=1e-4)


def test_the_network_is_left_as_it_was() -> None:
    model = net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Monitor(model, print).measure()
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError):
        Monitor(net(), print, every=0)
    with pytest.raises(ShapeError, match="does not run"):
        Monitor(net(), print, input_shape="3x6x6").measure()


def test_import_alone_does_not_import_torch() -> None:
    code = (
        "import sys, lipaudit; assert 'torch' not in sys.modules; lipaudit.torch.clip_; "
        "assert 'torch' in sys.modules; import lipaudit.torch; "
        "from lipaudit import *; assert 'torch' not in dir() or torch is not lipaudit.torch"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
