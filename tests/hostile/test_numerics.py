"""Numbers that ordinary linear algebra stumbles over, each against truth in many digits."""

import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file

import lipaudit
from lipaudit.enclosure import Rigor
from lipaudit.results import LayerResult, ModelReport
from tests import offline
from tests.commands import Commands

RNG = np.random.default_rng(11)


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    server = Commands(tmp_path_factory.mktemp("commands"))
    yield server
    server.close()


def saved(folder: Path, **weights: torch.Tensor) -> Path:
    path = folder / "m.safetensors"
    save_file({f"{name}.weight": value.contiguous() for name, value in weights.items()}, path)
    return path


def inspected(path: Path, **asked: Any) -> ModelReport:
    (model,) = lipaudit.inspect(path, **asked).models
    return model


def only(model: ModelReport) -> LayerResult:
    assert not model.skipped
    (layer,) = model.layers
    return layer


def true_norm(matrix: torch.Tensor) -> mpmath.mpf:
    """Return the largest singular value in 60 digits."""
    with mpmath.workdps(60):
        exact = mpmath.matrix([[mpmath.mpf(float(x)) for x in row] for row in matrix])
        largest = max(abs(x) for x in exact)
        return max(mpmath.svd_r(exact / largest, compute_uv=False)) * largest


def log10(value: mpmath.mpf) -> mpmath.mpf:
    with mpmath.workdps(60):
        return mpmath.log10(value)


def assert_encloses(layer: LayerResult, truth: mpmath.mpf) -> None:
    """Check both ends, as numbers and as logarithms, and that they are close to the truth."""
    assert layer.norm.rigor is Rigor.PROVED
    assert layer.norm.lower <= truth <= layer.norm.upper
    exponent = log10(truth)
    assert layer.norm.log10_lower <= exponent <= layer.norm.log10_upper
    assert math.isfinite(layer.norm.log10_upper)
    assert layer.norm.log10_upper - layer.norm.log10_lower < 1e-6


SIGNS = torch.tensor([[1.0, -1.0, 0.5], [-0.25, 1.0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        (1e308, torch.float64),
        (1.7e308, torch.float64),
        (3e38, torch.float32),
        (6e4, torch.float16),
        (3e38, torch.bfloat16),
        (1e-42, torch.float32),
        (1e-310, torch.float64),
        (5e-324, torch.float64),
        (6e-8, torch.float16),
        (1e-39, torch.bfloat16),
    ],
    ids=str,
)
def test_sizes_at_the_ends_of_a_type(size: float, dtype: torch.dtype, tmp_path: Path) -> None:
    weight = (SIGNS * size).to(dtype)
    assert bool(torch.isfinite(weight).all())
    assert bool(weight.any())
    layer = only(inspected(saved(tmp_path, fc=weight)))
    assert_encloses(layer, true_norm(weight.to(torch.float64)))


def test_a_norm_beyond_float64_is_known_by_its_logarithm(tmp_path: Path) -> None:
    weight = torch.full((9, 9), 1.5e308, dtype=torch.float64)
    layer = only(inspected(saved(tmp_path, fc=weight)))
    assert math.isinf(layer.norm.upper)
    truth = log10(mpmath.mpf(1.5e308) * 9)
    assert layer.norm.log10_lower <= truth <= layer.norm.log10_upper < 310


def test_entries_of_very_different_size(tmp_path: Path) -> None:
    weight = torch.tensor([[1e300, 0.0], [0.0, 1e-300], [1e-10, 1.0]], dtype=torch.float64)
    assert_encloses(only(inspected(saved(tmp_path, fc=weight))), true_norm(weight))


def test_a_kernel_of_very_small_numbers(tmp_path: Path) -> None:
    kernel = torch.zeros(2, 2, 1, 1, dtype=torch.float64)
    kernel[..., 0, 0] = torch.tensor([[3e-320, 1e-320], [0.0, 2e-320]], dtype=torch.float64)
    (layer,) = inspected(saved(tmp_path, conv=kernel)).layers
    truth = true_norm(kernel[..., 0, 0])
    assert layer.norm.lower <= truth <= layer.norm.upper
    assert layer.norm.upper <= truth * mpmath.mpf(4)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([math.nan] * 4, "4 of 4 values are NaN"),
        ([1.0, math.inf, 0.0, 0.0], "1 of 4 values are infinite"),
        ([1.0, -math.inf, math.nan, 0.0], "2 of 4 values are NaN or infinite"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "bound"])
def test_no_numbers_are_named_and_lapack_never_sees_them(
    command: str, values: list[float], said: str, commands: Commands, tmp_path: Path
) -> None:
    path = saved(tmp_path, bad=torch.tensor(values).reshape(2, 2), good=2 * torch.eye(2))
    done = commands.run(command, path, "-f", "json")
    report = json.loads(done.stdout)  # nothing but the report: no word of LAPACK's
    assert (done.code, done.stderr) == (3, "")
    (skipped,) = report["models"][0]["skipped"]
    assert said in skipped["reason"]
    assert "'bad.weight'" in skipped["reason"]
    assert [layer["name"] for layer in report["models"][0]["layers"]] == ["good"]


class Broken:
    """LAPACK that fails to converge the first few times it is asked."""

    def __init__(self, function: Callable[..., Any], times: float) -> None:
        self.function, self.left = function, times

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        if self.left > 0:
            self.left -= 1
            raise torch.linalg.LinAlgError("failed to converge")  # type: ignore[attr-defined]
        return self.function(*arguments, **more)


@pytest.mark.parametrize(
    ("failures", "method", "width"),
    [
        ((0, 0), "SVD, proved by its residual", 1e-9),
        ((1, 0), "SVD of the transpose, proved by its residual", 1e-9),
        ((math.inf, 0), "Cholesky proof", 1e-6),
        ((math.inf, math.inf), "√(‖A‖₁‖A‖∞) (LAPACK did not converge)", math.inf),
    ],
)
def test_every_step_of_the_chain_when_lapack_fails(
    failures: tuple[float, float],
    method: str,
    width: float,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    weight = torch.from_numpy(RNG.standard_normal((5, 7)))
    path = saved(tmp_path, fc=weight)
    svd, eigen = failures
    broken = {"svd": svd, "svdvals": svd, "eigvalsh": eigen, "eigh": eigen}
    for name, times in broken.items():
        monkeypatch.setattr(torch.linalg, name, Broken(getattr(torch.linalg, name), times))
    layer = only(inspected(path))
    truth = true_norm(weight)
    assert layer.norm.method == method
    assert layer.norm.rigor is Rigor.PROVED
    assert layer.norm.lower <= truth <= layer.norm.upper
    assert layer.norm.upper - layer.norm.lower <= max(width, 0) * truth
    # Never worse than the crude bound that ends the chain (Golub & Van Loan 2.3).
    crude = math.sqrt(float(weight.abs().sum(0).max()) * float(weight.abs().sum(1).max()))
    assert layer.norm.upper <= crude * (1 + 1e-9)


def test_float32_is_never_an_upper_bound(tmp_path: Path) -> None:
    weights = {
        f"l{at}": torch.from_numpy(RNG.standard_normal((6, 6)).astype(np.float32))
        for at in range(30)
    }
    below = 0
    for layer in inspected(saved(tmp_path, **weights)).layers:
        weight = weights[layer.name]
        truth = true_norm(weight.to(torch.float64))
        below += float(torch.linalg.svdvals(weight)[0]) < truth
        assert layer.norm.lower <= truth <= layer.norm.upper
    assert below > 5  # what would be wrong every other time


@pytest.mark.parametrize("size", [1e10, 1e-10, 1.0])
def test_a_product_of_400_layers(size: float, tmp_path: Path) -> None:
    layers = {f"l{at:03}": torch.eye(2, dtype=torch.float64) * size for at in range(400)}
    (model,) = lipaudit.bound(saved(tmp_path, **layers)).models
    assert model.bound is not None
    exact = 400 * log10(mpmath.mpf(size))
    assert exact <= model.bound.measure.log10_upper <= exact + mpmath.mpf("1e-6")
    assert model.bound.measure.rigor is Rigor.PROVED
    assert model.bound.measure.upper > 0  # never rounded down to nothing


def test_a_product_that_only_passes_through_the_ends(tmp_path: Path) -> None:
    sizes = [1e200, 1e200, 1e-200, 1e-200, 3.0]
    layers = {f"l{at}": torch.eye(2, dtype=torch.float64) * x for at, x in enumerate(sizes)}
    (model,) = lipaudit.bound(saved(tmp_path, **layers)).models
    assert model.bound is not None
    with mpmath.workdps(60):
        truth = mpmath.fprod(mpmath.mpf(x) for x in sizes)
    assert truth <= model.bound.measure.upper <= truth * mpmath.mpf("1.000001")


def test_layers_between_the_weights_count(tmp_path: Path) -> None:
    """A batch norm that stretches by 10, and a sum over overlapping windows that stretches more."""
    node = helper.make_node
    nodes = [
        node("BatchNormalization", ["x", "s", "b", "m", "v"], ["n"], name="bn", epsilon=0.0),
        node("Relu", ["n"], ["r"]),
        node("MaxPool", ["r"], ["y"], kernel_shape=[3], strides=[1], name="pool"),
    ]
    stored = {"s": 1.0, "b": 0.0, "m": 0.0, "v": 0.01}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 9])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.full(1, x, np.float32), key) for key, x in stored.items()],
    )
    path = tmp_path / "m.onnx"
    imports = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    (model,) = lipaudit.bound(path).models
    # One peak is the largest of three windows: moving it by d moves three outputs by 10 d.
    peak = torch.zeros(1, 1, 9, dtype=torch.float64)
    peak[0, 0, 4] = 1.0
    scale = 1 / math.sqrt(float(np.float32(0.01)))

    def run(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.max_pool1d(torch.relu(x * scale), 3, stride=1).flatten()

    jacobian = torch.autograd.functional.jacobian(run, peak).reshape(-1, 9)  # type: ignore[no-untyped-call]
    attained = float(torch.linalg.matrix_norm(jacobian, 2))
    assert attained == pytest.approx(10 * math.sqrt(3), rel=1e-6)
    assert model.bound is not None
    assert attained * (1 - 1e-12) <= model.bound.measure.upper <= attained * (1 + 1e-6)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_clipped_weights_keep_the_limit_after_the_cast(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = {f"l{at}": torch.from_numpy(RNG.standard_normal((6, 4))).to(dtype) for at in range(9)}
    output = tmp_path / "out.safetensors"
    lipaudit.clip(saved(tmp_path, **weights), to=1.0, output=output)
    for name, stored in load_file(output).items():
        assert stored.dtype is dtype, name
        truth = true_norm(stored.to(torch.float64))
        assert truth <= 1
        assert truth >= 1 - max(8 * torch.finfo(dtype).eps, 1e-7), name


def test_digits_do_not_depend_on_threads(tmp_path: Path) -> None:
    weights = {
        "a": torch.from_numpy(RNG.standard_normal((200, 150))),
        "b": torch.from_numpy(RNG.standard_normal((150, 200))),
    }
    path = saved(tmp_path, **weights)
    printed = {
        subprocess.run(
            [sys.executable, "-m", "lipaudit", "inspect", str(path)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": offline.PATH, "OMP_NUM_THREADS": threads},
        ).stdout
        for threads in ("1", "2", "1")
    }
    assert len(printed) == 1


def test_ranks_of_a_zero_layer_and_of_nothing(tmp_path: Path) -> None:
    zero, empty = torch.zeros(3, 4), torch.zeros(0, 4)
    for layer in inspected(saved(tmp_path, zero=zero, empty=empty)).layers:
        summary = layer.spectrum
        assert summary is not None
        assert (summary.stable_rank, summary.entropy_rank, summary.numerical_rank) == (0, 0, 0)
        assert (layer.norm.lower, layer.norm.upper) == (0, 0)


def test_the_tolerance_of_a_rank_is_the_documented_one(tmp_path: Path) -> None:
    values = torch.tensor([2.0, 1e-3, 1e-17], dtype=torch.float64)
    summary = only(inspected(saved(tmp_path, fc=torch.diag(values)))).spectrum
    assert summary is not None
    assert summary.numerical_rank == 2
    assert summary.tolerance >= 3 * np.finfo(np.float64).eps * 2.0
    assert summary.tolerance < 1e-12


def test_bytes_of_a_denormal_survive_reading(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    text = json.dumps({"fc.weight": {"dtype": "F64", "shape": [1, 1], "data_offsets": [0, 8]}})
    least = struct.pack("<Q", 1)
    path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + least)
    layer = only(inspected(path))
    assert layer.norm.lower <= 5e-324 <= layer.norm.upper <= 1e-323
