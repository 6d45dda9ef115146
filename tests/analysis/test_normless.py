"""Nodes without a norm: what is no number in them is said, and no gate passes over them."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from lipaudit import api
from lipaudit.comparison import Snapshot
from lipaudit.gates.judge import judge
from lipaudit.gates.policy import Baseline, LayerLimit, Policy
from lipaudit.results import ModelReport, Report, Tool

ENOUGH = Policy(max_norm=1e9, max_bound=1e300, accept_assumed=True)
NORMS = Policy(max_norm=1e9)
TOOL = Tool("0", {}, "cpu")


def of_module(module: nn.Module, *, bounded: bool) -> ModelReport:
    work = api.bound if bounded else api.inspect
    return work(module.eval(), input_shape="2").models[0]


def rules(model: ModelReport, policy: Policy) -> set[tuple[str, str, str]]:
    verdict = judge(Report(TOOL, (model,)), policy)
    return {(f.rule, f.severity, f.where) for f in verdict.findings}


@pytest.mark.parametrize("bounded", [False, True], ids=["inspect", "bound"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("made", "key"),
    [
        (lambda: nn.LayerNorm(2), "bias"),
        (lambda: nn.LayerNorm(2), "weight"),
        (lambda: nn.PReLU(2), "weight"),
        (lambda: nn.BatchNorm1d(2), "running_mean"),
        (lambda: nn.BatchNorm1d(2), "running_var"),
    ],
)
def test_a_weight_that_is_no_number_is_found_in_every_node(
    made: type[nn.Module], key: str, value: float, bounded: bool
) -> None:
    module = nn.Sequential(nn.Linear(2, 2), made(), nn.Linear(2, 2))
    dict(module[1].state_dict(keep_vars=True))[key].data[0] = value
    model = of_module(module, bounded=bounded)
    policy = ENOUGH if bounded else NORMS
    assert any(rule == "LIP003" for rule, _, _ in rules(model, policy))
    assert judge(Report(TOOL, (model,)), policy).exit_code == 3


def graph(path: Path, nodes: Sequence[NodeProto], **constants: Sequence[object]) -> str:
    """Write a network from x to y, both 1x2."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2]) for n in ("x", "y")]
    stored = [
        numpy_helper.from_array(np.asarray(value, dtype=np.float32), name)
        for name, value in constants.items()
    ]
    made = helper.make_graph(list(nodes), "g", ends[:1], ends[1:], stored)
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return str(path)


EYE = ((1, 0), (0, 1))


def test_an_infinite_bias_is_no_mask(tmp_path: Path) -> None:
    product = helper.make_node("MatMul", ["x", "W"], ["z"])
    out = helper.make_node("Add", ["z", "b"], ["y"])
    before = helper.make_node("Add", ["z", "b"], ["a"])
    again = helper.make_node("MatMul", ["a", "W"], ["y"])
    masked = helper.make_node("Softmax", ["a"], ["y"])
    for at, nodes in enumerate(([product, out], [product, before, again])):
        path = graph(tmp_path / f"{at}.onnx", nodes, W=EYE, b=(math.inf, 0))
        for report in (api.inspect(path), api.bound(path)):
            assert judge(report, NORMS).exit_code == 3
    path = graph(tmp_path / "mask.onnx", [product, before, masked], W=EYE, b=(-math.inf, 0))
    for report in (api.inspect(path), api.bound(path)):
        assert judge(report, NORMS).exit_code == 0


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write an LSTM of large weights, and a small layer after it."""
    torch.manual_seed(0)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 1, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 1, 1, 1])
    stored = {"W": 500 * torch.rand(1, 12, 2), "R": 500 * torch.rand(1, 12, 3), "H": torch.eye(3)}
    stored["H"] = stored["H"][:, :1].contiguous()
    nodes = [
        helper.make_node("LSTM", ["x", "W", "R"], ["h"], name="memory", hidden_size=3),
        helper.make_node("MatMul", ["h", "H"], ["y"], name="head"),
    ]
    constants = [numpy_helper.from_array(value.numpy(), name) for name, value in stored.items()]
    made = helper.make_graph(nodes, "g", [x], [y], constants)
    path = tmp_path_factory.mktemp("models") / "memory.onnx"
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return str(path)


def test_no_limit_for_norms_passes_over_a_recurrent_node(recurrent: str) -> None:
    (model,) = api.inspect(recurrent).models
    assert model.without_norm == ("memory",)
    assert any("memory" in note for note in model.notes)
    assert rules(model, NORMS) == {("LIP004", "undecided", "memory")}
    # A limit for the other layers says nothing of it, nor does one for the bound.
    assert rules(model, Policy(layer_limits=(LayerLimit("head", 2.0),))) == set()
    (bounded,) = api.bound(recurrent).models
    assert rules(bounded, Policy(max_bound=1e300)) == set()
    (chosen,) = api.inspect(recurrent, layers="head").models
    assert rules(chosen, NORMS) == set()


def test_a_baseline_of_layers_alone_does_not_hold_a_recurrent_node(recurrent: str) -> None:
    (model,) = api.inspect(recurrent).models
    (bounded,) = api.bound(recurrent).models
    alone = Policy(baseline=Baseline("b.json", Snapshot.of(model, "0.1.0")))
    both = Policy(baseline=Baseline("b.json", Snapshot.of(bounded, "0.1.0")))
    assert ("LIP004", "undecided", "memory") in rules(model, alone)
    assert rules(bounded, both) == set()
