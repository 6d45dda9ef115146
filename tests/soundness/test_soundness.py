"""The long run in small: a fixed sample holds, and bounds that are wrong on purpose do not."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lipaudit.enclosure import Enclosure
from lipaudit.graph.constant import computed
from lipaudit.graph.node import ONNX_DOMAIN, TORCH_DOMAIN, Edge, Graph, Node
from lipaudit.layers import catalog, pointwise, pooling, standardization
from lipaudit.layers.base import AbstractGainLayer, Gain, Unbounded
from lipaudit.operators.base import Norm
from lipaudit.operators.convolution import SizedConvolution, as_circular
from tests.soundness import graphs, run
from tests.soundness.attack import Attack
from tests.soundness.claims import NOT_RUN, Claim, case_of, judge
from tests.soundness.files import Written, to_onnx
from tests.soundness.graphs import DrawnGraph
from tests.soundness.maps import OfModule
from tests.soundness.modules import Drawn
from tests.soundness.trial import shortened, tried
from tests.soundness.weights import Chance

SAMPLE = range(100_000, 100_040)
MOST = 100


def test_no_claim_about_a_fixed_sample_is_false() -> None:
    records = [run.record_of(seed) for seed in SAMPLE]
    assert not [r for r in records if r["outcome"] in {"crash", "too slow"} or r.get("violations")]
    assert not run.failures(records)
    assert run.attacked(records) >= len(SAMPLE) // 2
    assert len({record["format"] for record in records}) >= 5


def test_a_seed_says_everything() -> None:
    first, second = tried(SAMPLE[0]), tried(SAMPLE[0])
    assert first.verdict == second.verdict


def test_every_registered_kind_can_be_drawn() -> None:
    drawn = {
        (one.node.domain, one.node.op)
        for domain in (ONNX_DOMAIN, TORCH_DOMAIN)
        for one in graphs.examples(domain)
    }
    assert drawn == {(kind.domain, kind.op) for kind in catalog.all_kinds()}


def _shrunk(monkeypatch: pytest.MonkeyPatch, layer: type[AbstractGainLayer], share: float) -> None:
    """Let a layer state a part of its gain only."""
    honest: Callable[..., Gain | Unbounded] = layer.gain

    def gain(self: AbstractGainLayer, shapes: Any) -> Gain | Unbounded:
        stated = honest(self, shapes)
        if isinstance(stated, Unbounded):
            return stated
        by = Enclosure.exactly(share)
        return replace(stated, factors=tuple(factor.times(by) for factor in stated.factors))

    monkeypatch.setattr(layer, "gain", gain)


def _without_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    def gain(self: pooling.MaxPool, shapes: Any) -> Gain:
        del self, shapes
        return Gain((Enclosure.exactly(1),))

    monkeypatch.setattr(pooling.MaxPool, "gain", gain)


def _circular(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the norm of zero padding from the circle of the same size, as papers do."""
    honest = SizedConvolution.norm

    def norm(self: SizedConvolution) -> Norm:
        around = as_circular(self)
        return honest(around) if isinstance(around, SizedConvolution) else around.norm()

    monkeypatch.setattr(SizedConvolution, "norm", norm)


def _reshaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the norm of the kernel as a matrix for that of the convolution, as torch does."""

    def norm(self: SizedConvolution) -> Norm:
        return Norm(Enclosure.exactly(self.reshaped_norm()), "as a matrix")

    monkeypatch.setattr(SizedConvolution, "norm", norm)


def _of(op: str) -> Callable[[Chance], DrawnGraph]:
    return lambda chance: graphs.graph(chance, op=op)


def _alternating(chance: Chance) -> DrawnGraph:
    """Draw a kernel of alternating signs on a short signal between zeros."""
    kernel = chance.uniform(1, 1, 3) * torch.tensor([1.0, -1.0, 1.0])
    node = Node("Conv", "conv", ("x", "w"), ("y",), {"kernel_shape": (3,), "pads": (1, 1)})
    inputs = (Edge("x", (1, 1, chance.of((3, 5, 7)))),)
    return DrawnGraph(Graph((node,), {"w": computed("w", kernel)}, inputs, (Edge("y"),)), {})


Plant = Callable[[pytest.MonkeyPatch], None]
PLANTED: dict[str, tuple[Callable[[Chance], DrawnGraph], Plant]] = {
    "max pooling counted once": (_of("MaxPool"), _without_overlaps),
    "zero padding taken for a circle": (_alternating, _circular),
    "a kernel taken for a matrix": (_of("Conv"), _reshaped),
    "layer norm at usual inputs": (
        _of("LayerNormalization"),
        lambda patch: _shrunk(patch, standardization.LayerNormalization, 0.5),
    ),
    "the slope of GELU taken for 1": (
        _of("Gelu"),
        lambda patch: _shrunk(patch, pointwise.Pointwise, 0.886),
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_wrong_bound_is_found(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    draw, plant = PLANTED[name]
    plant(monkeypatch)
    for seed in range(MOST):
        chance = Chance(seed)
        drawn = draw(chance)
        path = tmp_path / f"{seed}.onnx"
        path.write_bytes(to_onnx(drawn, 23).SerializeToString())
        with shortened(everything=False):
            verdict = judge(case_of(Written("onnx", path, graph=drawn), chance))
        if verdict.violations:
            return
    pytest.fail(f"{MOST} networks did not show it")


def test_the_attack_reaches_known_constants() -> None:
    """Two of a dense layer's units, a pool whose windows share an item, a slope in the middle."""
    pool = Drawn(nn.MaxPool1d(3, 1), (1, 7))
    gelu = Drawn(nn.GELU(), (3,))
    norm = Drawn(nn.LayerNorm(4, eps=1e-2, elementwise_affine=False), (4,))
    for drawn, exact in ((pool, 3**0.5), (gelu, 1.1289041451851548), (norm, 10.0)):
        of = OfModule(drawn)
        found = Attack(of, of.size, torch.Generator().manual_seed(0)).run()
        assert 0.99 * exact <= found.value <= exact * (1 + 1e-9)


@pytest.mark.parametrize(("found", "false"), [(1.0, False), (1.1, True), (float("nan"), True)])
def test_a_claim_is_false_where_more_is_found(found: float, false: bool) -> None:
    assert Claim("bound", 1.0, found).is_false is false


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], int]:
    def ask(networks: int) -> int:
        words = ["run", "--networks", str(networks), "--seed", "5", "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", words)
        return run.main()

    return ask


def record(seed: int, *, attacked: bool = True, **more: Any) -> dict[str, Any]:
    return {"seed": seed, "outcome": "certified", "attacked": attacked, "seconds": 0.1} | more


def test_a_run_goes_on_where_it_ended(
    asked: Callable[[int], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tried_seeds: list[int] = []

    def recorded(seed: int) -> dict[str, Any]:
        tried_seeds.append(seed)
        violations = [{"claim": "bound", "stated": 1.0, "found": 2.0, "how": ""}] * (seed == 7)
        return record(seed, violations=violations)

    monkeypatch.setattr(run, "record_of", recorded)
    monkeypatch.setattr(run, "tried", lambda _, place: (place / "m").write_text("its file"))
    assert asked(2) == 0
    assert asked(4) == 1
    assert tried_seeds == [5, 6, 7, 8]
    assert "violations  1: seeds 7" in capsys.readouterr().out
    kept = tmp_path / "violations" / "7"
    assert json.loads((kept / "record.json").read_text())["seed"] == 7
    assert (kept / "m").read_text() == "its file"


def test_a_run_counts_what_was_attacked(
    asked: Callable[[int], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every fourth network has no bound: others are drawn in their place."""
    monkeypatch.setattr(run, "record_of", lambda seed: record(seed, attacked=seed % 4 != 0))
    assert asked(30) == 0
    assert "networks    39, 30 attacked" in capsys.readouterr().out


LOST: dict[str, dict[str, Any]] = {
    "only": {"outcome": "not certified", "attacked": False, "reason": "an operation"},
    "refused": {"outcome": "refused", "attacked": False},
    "too slow": {"outcome": "too slow", "attacked": False},
    "it cannot be run": {"without": [NOT_RUN]},
    "crashes": {"outcome": "crash"},
}


@pytest.mark.parametrize("why", LOST)
def test_a_run_that_tried_too_little_fails(
    why: str,
    asked: Callable[[int], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lost = LOST[why]
    monkeypatch.setattr(run, "tried", lambda _, place: (place / "m").write_text("its file"))
    monkeypatch.setattr(run, "record_of", lambda seed: record(seed, **(lost if seed % 4 else {})))
    assert asked(40) == 1
    assert re.search(f"FAILED: .*{why}", capsys.readouterr().out)


def test_an_attack_says_what_it_could_not_do() -> None:
    """A map of integers has no slope, one of another size cannot be run at all."""

    def stepped(x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            raise NotImplementedError
        return x.round()

    found = Attack(stepped, 3, torch.Generator().manual_seed(0)).run()
    assert found.value > 1
    assert found.without == "slopes: NotImplementedError"
