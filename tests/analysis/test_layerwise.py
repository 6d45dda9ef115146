"""Measured layers: what a weight that was computed, not stored, leaves of a proof."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal, NoReturn

import pytest
import torch
from torch import nn

import lipaudit
from lipaudit.analysis import sharing
from lipaudit.device import choose
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.graph.constant import Constant, computed
from lipaudit.graph.node import Edge, Graph, Node
from lipaudit.graph.rewrites.padding import join_paddings
from lipaudit.layers import network
from lipaudit.operators.base import Norm
from lipaudit.operators.dense import DenseOperator
from lipaudit.operators.spectrum import Leading
from lipaudit.results import LayerResult, Skipped

ERROR = 1e-3


def measured(weight: torch.Tensor, error: float) -> LayerResult:
    """Measure x -> W x where the entries of W are known up to a relative error."""
    constant = replace(computed("w", weight), entry_error=error)
    node = Node("MatMul", "layer", ("w", "x"), ("y",))
    graph = Graph(
        inputs=(Edge("x", (weight.shape[1],), "float64"),),
        outputs=(Edge("y", (weight.shape[0],), "float64"),),
        nodes=(node,),
        constants={"w": constant},
    )
    (found,) = sharing.measure(network.build(graph), choose("cpu"))
    assert isinstance(found.result, LayerResult)
    return found.result


def test_norm_and_spectrum_hold_every_weight_that_may_be_meant() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    result = measured(weight, ERROR)
    assert result.spectrum is not None
    assert result.spectrum.rigor is Rigor.PROVED
    exact = measured(weight, 0.0)
    assert exact.spectrum is not None
    for _ in range(50):
        signs = torch.randint(0, 2, weight.shape, generator=generator) * 2.0 - 1.0
        values = torch.linalg.svdvals(weight * (1.0 + ERROR * signs)).tolist()
        assert result.norm.lower <= values[0] <= result.norm.upper
        stated = torch.linalg.svdvals(weight).tolist()
        off = max(abs(a - b) for a, b in zip(values, stated, strict=True))
        assert exact.spectrum.radius < off <= result.spectrum.radius


def test_nothing_is_proved_of_a_weight_of_unknown_error() -> None:
    result = measured(torch.eye(3, dtype=torch.float64), math.inf)
    assert result.norm.rigor is Rigor.NUMERICAL
    assert result.spectrum is not None
    assert (result.spectrum.rigor, result.spectrum.radius) == (Rigor.NUMERICAL, 0.0)


@pytest.mark.parametrize("hook", [nn.utils.spectral_norm, nn.utils.weight_norm])
@pytest.mark.parametrize("shape", [None, (3,)])
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weights_that_hooks_compute(hook: object, shape: tuple[int, ...] | None) -> None:
    assert callable(hook)
    net = nn.Sequential(hook(nn.Linear(3, 3))).eval()
    (model,) = lipaudit.inspect(net, device="cpu", input_shape=shape).models
    # A number that is proved, or a name in the list of those without one; never silence.
    assert model.layers or model.skipped


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("size", [5, 6])
def test_a_padding_that_exports_write_apart_is_the_layers_own(
    mode: Literal["zeros", "circular", "reflect", "replicate"], size: int
) -> None:
    torch.manual_seed(size)
    conv = nn.Conv2d(2, 3, (3, 2), padding=(2, 1), stride=(1, 2), padding_mode=mode, bias=False)
    unit = torch.eye(2 * size**2, dtype=torch.float64).reshape(-1, 2, size, size)
    truth = float(torch.linalg.matrix_norm(conv.double()(unit).detach().flatten(1), 2))
    net = nn.Sequential(conv)
    for report in (lipaudit.inspect, lipaudit.bound):
        (model,) = report(net, device="cpu", input_shape=(2, size, size)).models
        (layer,) = model.layers
        assert layer.norm.lower <= truth * (1 + 1e-13)
        assert truth * (1 - 1e-13) <= layer.norm.upper <= truth * (1 + 1e-9)
        assert not any("without the padding" in note for note in model.notes)
    assert model.bound is not None
    assert truth * (1 - 1e-13) <= model.bound.measure.upper <= truth * (1 + 1e-9)


@pytest.mark.parametrize("mode", ["wrap", "reflect"])
def test_a_padding_is_joined_only_where_that_is_the_same(mode: str) -> None:
    # Read twice, it belongs to none of the two.
    pads = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
    weight = torch.ones(1, 1, 3, 3)
    nodes = (
        Node("Pad", "pad", ("x", "p"), ("padded",), {"mode": mode}),
        Node("Conv", "one", ("padded", "w"), ("y",)),
        Node("Conv", "other", ("padded", "w"), ("z",)),
    )
    graph = Graph(
        inputs=(Edge("x", (1, 1, 5, 5), "float32"),),
        outputs=(Edge("y", None, "float32"), Edge("z", None, "float32")),
        nodes=nodes,
        constants={"w": computed("w", weight), "p": computed("p", pads)},
    )
    shapes = network.build(graph).shapes
    assert join_paddings(graph, shapes) is graph
    single = replace(graph, nodes=nodes[:2], outputs=graph.outputs[:1])
    joined = join_paddings(single, shapes)
    assert [(node.op, node.domain) for node in joined.nodes] == [("Conv", "torch")]
    # Around more than once: ONNX can, torch cannot.
    wide = replace(single, constants={**single.constants, "p": computed("p", pads * 6)})
    assert join_paddings(wide, shapes) is wide


def test_a_norm_for_any_geometry_says_which_padding_it_is_for(tmp_path: Path) -> None:
    """[1, 0, 0] with replicate padding has norm √2, with zero or circular padding 1.

    A circle wider than the kernel shows items twice: [1] with one more on each side, √2.
    """
    conv = nn.Conv1d(1, 1, 3, padding=1, padding_mode="replicate", bias=False)
    conv.weight.data = torch.tensor([[[1.0, 0.0, 0.0]]])
    torch.save(nn.Sequential(conv).state_dict(), tmp_path / "bare.pt")
    report = lipaudit.inspect(tmp_path / "bare.pt").models[0]
    assert report.layers[0].norm.upper < 1.001
    assert any("circularly no farther than their kernel" in text for text in report.assumptions)


def test_a_glob_that_means_no_layer_is_said(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)).state_dict(), tmp_path / "net.pt")
    report = lipaudit.inspect(tmp_path / "net.pt", layers="nosuch").models[0]
    assert any("no layer is called 'nosuch'" in note for note in report.notes)


def chain(*weights: Constant) -> Graph:
    """Return matrices one after the other."""
    names = [constant.name for constant in weights]
    return Graph(
        inputs=(Edge("v0", (4,), "float64"),),
        outputs=(Edge(f"v{len(names)}", (4,), "float64"),),
        nodes=tuple(
            Node("MatMul", f"layer {at}", (name, f"v{at}"), (f"v{at + 1}",))
            for at, name in enumerate(names)
        ),
        constants={constant.name: constant for constant in weights},
    )


def reading(fails: Exception) -> Constant:
    """Return a weight that cannot be read."""

    def read() -> NoReturn:
        raise fails

    return replace(computed("first", torch.eye(4, dtype=torch.float64)), read=read)


GOOD = computed("second", torch.eye(4, dtype=torch.float64))
NO_MEMORY = "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"


@pytest.mark.parametrize(
    ("fails", "slug"),
    [
        (TypeError("dtype int3 not supported"), "weight-type"),
        (MemoryError(), "memory"),
        (RuntimeError(NO_MEMORY), "memory"),
    ],
)
def test_a_weight_that_cannot_be_read_is_skipped_alone(fails: Exception, slug: str) -> None:
    graph = chain(reading(fails), GOOD)
    first, second = sharing.measure(network.build(graph), choose("cpu"))
    assert isinstance(first.result, Skipped)
    assert first.result.slug == slug
    assert first.norm is None
    assert isinstance(second.result, LayerResult)


@pytest.mark.parametrize(
    "fails", [MemoryError(), RuntimeError(NO_MEMORY), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_a_layer_that_does_not_fit_the_memory_is_skipped_alone(
    fails: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DenseOperator.norm
    calls = []

    def full_at_first(self: DenseOperator) -> Norm:
        calls.append(self)
        if len(calls) == 1:
            raise fails
        return real(self)

    monkeypatch.setattr(DenseOperator, "norm", full_at_first)
    graph = chain(replace(GOOD, name="first"), GOOD)
    first, second = sharing.measure(network.build(graph), choose("cpu"))
    assert isinstance(first.result, Skipped)
    assert first.result.slug == "memory"
    assert isinstance(second.result, LayerResult)


@pytest.mark.parametrize("fails", [TypeError("a bug"), RuntimeError("another bug")])
def test_a_bug_is_not_taken_for_a_dtype_or_for_memory(
    fails: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: DenseOperator) -> NoReturn:
        raise fails

    monkeypatch.setattr(DenseOperator, "norm", broken)
    with pytest.raises(type(fails), match="bug"):
        sharing.measure(network.build(chain(GOOD)), choose("cpu"))


def test_the_lower_end_is_no_lower_than_the_first_leading_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    truth = float(torch.linalg.matrix_norm(weight, 2))
    wide = Enclosure.of(truth / 2, truth * 2, Rigor.PROVED)
    known = Leading((truth * 0.99, truth * 0.5), "Krylov")
    monkeypatch.setattr(DenseOperator, "norm", lambda _: Norm(wide, "crude"))
    monkeypatch.setattr(DenseOperator, "leading", lambda _: known)
    (found,) = sharing.measure(network.build(chain(computed("w", weight))), choose("cpu"))
    assert isinstance(found.result, LayerResult)
    assert found.result.norm.lower == pytest.approx(truth * 0.99)
    assert found.result.norm.upper == pytest.approx(truth * 2)
    assert found.norm is not None
    assert found.norm.enclosure.lower == pytest.approx(truth * 0.99)
    # Values that are below what is known do not lower it.
    monkeypatch.setattr(DenseOperator, "leading", lambda _: Leading((truth / 4,), "Krylov"))
    (found,) = sharing.measure(network.build(chain(computed("w", weight))), choose("cpu"))
    assert isinstance(found.result, LayerResult)
    assert found.result.norm.lower == pytest.approx(truth / 2)
