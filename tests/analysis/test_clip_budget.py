"""A bound of the whole network: met with about the least change there is, by brute force."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import lipaudit
from lipaudit.errors import NotCertified
from lipaudit.results import ClipReport

Weights = list[torch.Tensor]
POINTS = 80


def drawn(seed: int, *sizes: int) -> Weights:
    torch.manual_seed(seed)
    return [torch.randn(out, inner) for inner, out in itertools.pairwise(sizes)]


def chain_file(folder: Path, weights: Weights) -> Path:
    """Write W_n relu(... relu(W_1 x)) as a bare state dict."""
    state = {f"{2 * at}.weight": weight for at, weight in enumerate(weights)}
    torch.save(state, folder / "in.pt")
    return folder / "in.pt"


def skip_file(folder: Path, weights: Weights) -> Path:
    """Write x + W_2 relu(W_1 x) in ONNX."""
    first, second = weights
    size = first.shape[1]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "b"], ["s"]),
            helper.make_node("Add", ["x", "s"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, size])],
        [helper.make_tensor_value_info("y", 1, [1, size])],
        [
            numpy_helper.from_array(first.T.contiguous().numpy(), "a"),
            numpy_helper.from_array(second.T.contiguous().numpy(), "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "in.onnx")
    return folder / "in.onnx"


def stored(path: Path) -> Weights:
    if path.suffix == ".onnx":
        initial = onnx.load(path).graph.initializer
        return [torch.from_numpy(numpy_helper.to_array(one).copy()).T for one in initial]
    return list(torch.load(path, weights_only=True).values())


def change(before: Weights, after: Weights) -> float:
    return math.sqrt(sum(float((b - a).norm()) ** 2 for b, a in zip(before, after, strict=True)))


def norms(weights: Weights) -> list[float]:
    return [float(torch.linalg.svdvals(weight.double())[0]) for weight in weights]


def costs(weight: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return limits and by how much a matrix changes when it is clipped to them, squared."""
    values = torch.linalg.svdvals(weight.double()).numpy()
    limits = np.linspace(0.0, values[0], POINTS + 1)[1:]
    return limits, np.square(np.maximum(values[:, None] - limits, 0)).sum(0)


def least_change(weights: Weights, product: float) -> float:
    """Search a grid of limits of which the product is at most that; the last one follows."""
    *free, last = weights
    tables = [costs(weight) for weight in free]
    values = torch.linalg.svdvals(last.double()).numpy()
    best = math.inf
    for choice in itertools.product(range(POINTS), repeat=len(free)):
        used = math.prod(table[0][at] for table, at in zip(tables, choice, strict=True))
        rest = np.square(np.maximum(values - product / used, 0)).sum()
        best = min(best, rest + sum(t[1][at] for t, at in zip(tables, choice, strict=True)))
    return math.sqrt(best)


def clipped(path: Path, **order: float) -> tuple[ClipReport, Weights]:
    out = path.with_name(f"out{path.suffix}")
    report = lipaudit.clip(path, output=out, force=True, **order)  # type: ignore[arg-type] # floats
    return report, stored(out)


def jacobian_norm(run: Callable[[torch.Tensor], torch.Tensor], size: int) -> float:
    """Return the largest norm of a Jacobian at random points: no bound may be below."""
    torch.manual_seed(0)
    return max(
        float(
            torch.linalg.matrix_norm(
                torch.func.jacrev(run)(torch.randn(size, dtype=torch.float64)), 2
            )
        )
        for _ in range(200)
    )


def run_chain(weights: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    *hidden, last = weights
    for weight in hidden:
        x = torch.relu(weight.double() @ x)
    return last.double() @ x


@pytest.mark.parametrize(
    ("sizes", "seed"), [((6, 5, 4), 0), ((6, 20, 3), 1), ((4, 5, 6, 3), 2), ((8, 8, 8, 2), 3)]
)
@pytest.mark.parametrize("share", [0.9, 0.5])
def test_a_chain_changes_about_as_little_as_can_be(
    sizes: tuple[int, ...], seed: int, share: float, tmp_path: Path
) -> None:
    before = drawn(seed, *sizes)
    path = chain_file(tmp_path, before)
    whole = lipaudit.bound(path).models[0].bound
    assert whole is not None
    limit = share * whole.measure.upper
    report, after = clipped(path, bound=limit)
    assert report.met
    assert report.bound is not None
    assert report.bound.after.upper <= limit
    assert jacobian_norm(lambda x: run_chain(after, x), sizes[0]) <= limit
    assert change(before, after) <= 1.02 * least_change(before, limit)
    again = lipaudit.bound(tmp_path / "out.pt").models[0].bound
    assert again is not None
    assert again.measure.upper <= limit


def test_no_layer_is_given_up_where_others_could_change(tmp_path: Path) -> None:
    """To give up a layer can be the least change of all; nobody means that."""
    before = drawn(0, 6, 5, 4)
    path = chain_file(tmp_path, before)
    limit = 0.03 * math.prod(norms(before))
    _, after = clipped(path, bound=limit)
    assert math.prod(norms(after)) >= 0.98 * limit
    assert all(n >= 0.05 * was for n, was in zip(norms(after), norms(before), strict=True))


def test_a_chain_changes_less_than_with_one_limit_for_all(tmp_path: Path) -> None:
    before = drawn(4, 10, 12, 8)
    before[1] *= 4.0
    path = chain_file(tmp_path, before)
    _, uniform = clipped(path, to=2.0)
    bound = lipaudit.bound(tmp_path / "out.pt").models[0].bound
    assert bound is not None
    _, chosen = clipped(path, bound=bound.measure.upper)
    assert change(before, chosen) < 0.99 * change(before, uniform)


@pytest.mark.parametrize("share", [0.8, 0.2])
def test_a_network_with_a_skip(share: float, tmp_path: Path) -> None:
    before = [weight * 0.7 for weight in drawn(5, 6, 9, 6)]
    path = skip_file(tmp_path, before)
    limit = 1.0 + share * math.prod(norms(before))
    report, after = clipped(path, bound=limit)
    assert report.bound is not None
    assert report.bound.after.upper <= limit
    assert jacobian_norm(lambda x: x + run_chain(after, x), 6) <= limit
    assert change(before, after) <= 1.02 * least_change(before, limit - 1.0)


def test_nothing_changes_below_the_bound(tmp_path: Path) -> None:
    path = chain_file(tmp_path, drawn(6, 4, 4, 4))
    report, _ = clipped(path, bound=1e4)
    assert (tmp_path / "out.pt").read_bytes() == path.read_bytes()
    assert not [change for change in report.changes if change.tensors]


def test_what_no_clipping_reaches_is_not_certified(tmp_path: Path) -> None:
    path = skip_file(tmp_path, drawn(7, 4, 4, 4))
    with pytest.raises(NotCertified, match="does not bring the bound"):
        clipped(path, bound=0.9)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["in.onnx"]


def test_an_unknown_graph_is_not_certified(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.randn(3, 5), "b.weight": torch.randn(4, 6)}, tmp_path / "in.pt")
    with pytest.raises(NotCertified):
        clipped(tmp_path / "in.pt", bound=1.0)
    assert [found.name for found in tmp_path.iterdir()] == ["in.pt"]


def test_only_the_chosen_layers_change(tmp_path: Path) -> None:
    before = drawn(8, 5, 6, 4)
    path = chain_file(tmp_path, before)
    lipaudit.clip(path, bound=3.0, output=tmp_path / "out.pt", layers="0")
    after = stored(tmp_path / "out.pt")
    assert torch.equal(after[1], before[1])
    assert math.prod(norms(after)) >= 3.0 * 0.98
