"""LSTM, GRU and RNN as torch.export shows them: the same results, and a bound that holds."""

import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lipaudit
from lipaudit.analysis import propagate
from lipaudit.formats.detect import read_model
from lipaudit.formats.live import from_module
from lipaudit.layers import network
from lipaudit.layers.execution import run
from tests.formats.programs import Applied, Shape, assert_same, both_readings, jacobian_norm

Made = Callable[[], nn.Module]

LAYERS: dict[str, tuple[Made, Shape]] = {
    "lstm": (lambda: nn.LSTM(3, 4), (5, 2, 3)),
    "lstm bidirectional": (
        lambda: nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True),
        (2, 5, 3),
    ),
    "lstm without bias": (lambda: nn.LSTM(3, 4, 3, bias=False, dropout=0.5), (5, 2, 3)),
    "gru": (lambda: nn.GRU(3, 4, batch_first=True), (2, 5, 3)),
    "gru bidirectional": (lambda: nn.GRU(3, 4, 2, bidirectional=True), (5, 2, 3)),
    "gru without bias": (lambda: nn.GRU(3, 4, 2, bias=False, batch_first=True), (2, 5, 3)),
    "gru without batch": (lambda: nn.GRU(3, 4), (5, 3)),
    "rnn": (lambda: nn.RNN(3, 4, 2), (5, 2, 3)),
    "rnn relu": (
        lambda: nn.RNN(3, 4, nonlinearity="relu", bidirectional=True, batch_first=True),
        (2, 5, 3),
    ),
    "rnn without bias": (lambda: nn.RNN(3, 4, bias=False), (5, 2, 3)),
    "lstm cell": (lambda: nn.LSTMCell(3, 4), (2, 3)),
    "gru cell": (lambda: nn.GRUCell(3, 4, bias=False), (2, 3)),
    "rnn cell": (lambda: nn.RNNCell(3, 4), (2, 3)),
    "rnn relu cell": (lambda: nn.RNNCell(3, 4, nonlinearity="relu"), (2, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_graph_computes_what_the_module_computes(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    assert_same(make(), [shape], tmp_path)


@pytest.mark.parametrize("name", LAYERS)
def test_the_gain_covers_every_jacobian(name: str) -> None:
    torch.manual_seed(2)
    make, shape = LAYERS[name]
    module = make().eval()
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(1.5)
    outputs_only = Applied(lambda x: first(module(x)))
    read = network.build(from_module(outputs_only, [shape]).graph)
    (source,), (output,) = read.graph.inputs, read.graph.outputs
    flow = propagate.flow(read, source.name, propagate.step_gains(read, {}), propagate.summed)
    points = [scale * torch.randn(shape, dtype=torch.float64) for scale in (0.0, 0.3, 1.0, 3.0)]
    module.double()
    norms = [jacobian_norm(outputs_only, point) for point in points]
    assert 0 < max(norms) <= flow.edges[output.name].upper < math.inf


def test_the_bound_of_a_live_network_is_proved() -> None:
    torch.manual_seed(6)
    module = nn.Sequential(
        nn.LSTM(3, 4, batch_first=True), Applied(lambda x: x[0]), nn.Linear(4, 1)
    )
    found = lipaudit.bound(module, input_shape=(2, 3)).models[0].bound
    assert found is not None
    assert found.certified, found.reasons
    norm = jacobian_norm(module.double(), torch.randn(1, 2, 3, dtype=torch.float64))
    assert norm <= found.measure.upper < math.inf


def first(made: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return made if isinstance(made, torch.Tensor) else made[0]


class GivenStates(nn.Module):
    """An LSTM that starts from stored states, and yields only what it ends in."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, 2, bidirectional=True)
        self.register_buffer("hidden", torch.randn(4, 2, 4))
        self.register_buffer("memory", torch.randn(4, 2, 4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, (h, c) = self.lstm(x, (self.hidden, self.memory))
        return h, c


class SignalState(nn.Module):
    """A network whose recurrent part starts from what another part computes."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(3, 4)
        self.gru = nn.GRU(3, 4, batch_first=True)
        self.rnn = nn.RNN(4, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.start(x.mean(dim=1))).unsqueeze(0)
        made, last = self.gru(x, h)
        both: torch.Tensor = self.rnn(made, last)[0]
        return both


@pytest.mark.parametrize("make", [GivenStates, SignalState])
def test_initial_states_are_what_the_module_gives(make: Made, tmp_path: Path) -> None:
    torch.manual_seed(3)
    assert_same(make(), [(2, 2, 3)], tmp_path)


def test_the_weights_are_named_by_their_keys() -> None:
    model = lipaudit.load(nn.GRU(3, 4, bidirectional=True), input_shape=(5, 3))
    (step,) = [step for step in network.build(model.graph).steps if step.node.op == "GRU"]
    assert step.constants[1].sources == ("weight_ih_l0", "weight_ih_l0_reverse")
    assert step.constants[2].sources == ("weight_hh_l0", "weight_hh_l0_reverse")
    assert set(step.constants[3].sources) == {
        f"bias_{which}_l0{side}" for which in ("ih", "hh") for side in ("", "_reverse")
    }
    assert all(step.constants[at].entry_error == 0 for at in (1, 2, 3))


def test_a_batch_of_any_size_starts_from_zeros(tmp_path: Path) -> None:
    torch.manual_seed(4)
    module = nn.LSTM(2, 2, 2, batch_first=True).eval()
    x = torch.randn(3, 2, 2)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "open.pt2")
    model = read_model(str(tmp_path / "open.pt2"))
    (source,), output = model.graph.inputs, model.graph.outputs[0]
    for samples in (2, 7):
        x = torch.randn(samples, 2, 2)
        made = run(
            network.build(model.graph, {source.name: (samples, 2, 2)}), {source.name: x}, None
        )
        torch.testing.assert_close(made[output.name], module(x)[0])
    read = network.build(model.graph, {source.name: (1, 2, 2)})
    flow = propagate.flow(read, source.name, propagate.step_gains(read, {}), propagate.summed)
    assert flow.edges[output.name].is_finite


@pytest.mark.parametrize(
    ("argument", "value", "reason"),
    [
        ("num_layers", {"as_int": 2}, "other parameters"),
        ("num_layers", {"as_int": 0}, "other parameters"),
        ("num_layers", {"as_int": -(2**70)}, "other parameters"),
        ("bidirectional", {"as_bool": True}, "other parameters"),
        ("params", {"as_none": True}, "params is no list of tensors"),
        ("hx", {"as_int": 3}, "hx is no tensor"),
        ("train", {"as_bool": True}, "training"),
    ],
)
def test_a_call_that_makes_no_sense_is_named(
    argument: str, value: dict[str, object], reason: str, tmp_path: Path
) -> None:
    both_readings(nn.GRU(3, 4, dropout=0.0), [(5, 1, 3)], tmp_path)

    def change(document: dict[str, Any]) -> None:
        for node in document["graph_module"]["graph"]["nodes"]:
            for entry in node["inputs"]:
                if node["target"].endswith("gru.input"):
                    entry["arg"] = value if entry["name"] == argument else entry["arg"]
                    entry["arg"] = {"as_float": 0.5} if entry["name"] == "dropout" else entry["arg"]

    rewritten(tmp_path / "m.pt2", change)
    report = lipaudit.bound(tmp_path / "m.pt2").models[0]
    assert report.bound is not None
    assert not report.bound.certified
    assert f"aten.gru ({reason})" in report.bound.reasons[0]


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    with zipfile.ZipFile(path) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    (graph,) = [name for name in members if name.endswith("models/model.json")]
    document = json.loads(members[graph])
    change(document)
    members[graph] = json.dumps(document).encode()
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members.items():
            new.writestr(name, data)


def test_what_onnx_has_no_node_for_is_refused_by_name() -> None:
    projected = nn.LSTM(3, 4, proj_size=2)
    found = lipaudit.bound(projected, input_shape=(5, 3)).models[0].bound
    assert found is not None
    assert not found.certified
    assert "aten.lstm (projected states)" in found.reasons[0]
