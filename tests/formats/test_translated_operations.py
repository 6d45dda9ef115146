"""ATen operations read through torch.export compute what torch computes, and have their gain."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

import lipaudit
from lipaudit.enclosure import Rigor
from lipaudit.formats.detect import read_model
from lipaudit.formats.live import from_module
from tests.formats.programs import (
    Applied,
    Operation,
    Shape,
    assert_same,
    both_readings,
    computed_by,
    jacobian_norm,
)

BOX: Shape = (2, 3, 4)
WEIGHTS = torch.tensor([1.0, -2.0, 0.5, 3.0])
MASK = torch.tensor([True, False, True, True])
HEADS: Shape = (1, 2, 3, 4)
SEEN = torch.tensor([[True, False, True], [True, True, False], [False, False, False]])
BIAS = torch.tensor([[0.0, -1.0, 1.0], [2.0, 0.5, 0.0], [-math.inf, 0.25, 0.75]])


def attending(*shapes: Shape, **options: Any) -> tuple[Operation, tuple[Shape, ...]]:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        bias = options.get("attn_mask")
        typed = bias.to(q) if bias is not None and bias.is_floating_point() else bias
        stated = options | {"attn_mask": typed}
        return functional.scaled_dot_product_attention(q, k, v, **stated)

    return attend, shapes


OPERATIONS: dict[str, tuple[Operation, tuple[Shape, ...]]] = {
    "glu": (lambda x: functional.glu(x, 1), ((2, 6, 3),)),
    "glu last": (functional.glu, ((2, 3, 4),)),
    "einsum": (lambda x, y: torch.einsum("b i j, bkj -> bik", x, y), (BOX, BOX)),
    "einsum implied": (lambda x: torch.einsum("ijk,k", x, WEIGHTS.to(x)), (BOX,)),
    "var": (lambda x: x.var(-1), (BOX,)),
    "var all": (lambda x: x.var(), (BOX,)),
    "var biased": (lambda x: x.var((0, 2), unbiased=False, keepdim=True), (BOX,)),
    "var correction": (lambda x: torch.var(x, (1, 2), correction=3), (BOX,)),
    "var_mean": (lambda x: torch.var_mean(x, 1, correction=0), (BOX,)),
    "std": (lambda x: x.std(-1, keepdim=True), (BOX,)),
    "std all": (lambda x: x.std(unbiased=False), (BOX,)),
    "std_mean": (lambda x: torch.std_mean(x, (1, 2)), (BOX,)),
    "rms_norm": (lambda x: functional.rms_norm(x, (3, 4), eps=0.1), (BOX,)),
    "type_as": (lambda x: x.type_as(x.abs()) * 2, (BOX,)),
    "vector norm": (lambda x: torch.linalg.vector_norm(x, dim=(0, 2)), (BOX,)),
    "vector norm all": (lambda x: torch.linalg.vector_norm(x, keepdim=True), (BOX,)),
    "1-norm": (lambda x: x.norm(p=1, dim=1), (BOX,)),
    "max-norm": (lambda x: torch.linalg.vector_norm(x, math.inf, dim=1), (BOX,)),
    "least magnitude": (lambda x: torch.linalg.vector_norm(x, -math.inf), (BOX,)),
    "matrix norm": (torch.linalg.matrix_norm, (BOX,)),
    "linalg.norm": (lambda x: torch.linalg.norm(x, dim=1, keepdim=True), (BOX,)),
    "frobenius": (lambda x: torch.norm(x, "fro", dim=(1, 2)), (BOX,)),
    "logsumexp": (lambda x: torch.logsumexp(x, (0, 2)), (BOX,)),
    "normalize": (lambda x: functional.normalize(x, dim=1), (BOX,)),
    "pairwise distance": (functional.pairwise_distance, (BOX, BOX)),
    "cosine": (lambda x, y: functional.cosine_similarity(x, y, dim=-1), (BOX, BOX)),
    "attention": (functional.scaled_dot_product_attention, (HEADS,) * 3),
    "causal attention": attending(HEADS, (1, 2, 5, 4), (1, 2, 5, 6), is_causal=True, scale=0.7),
    "causal attention without heads": attending(*[(2, 3, 4)] * 3, is_causal=True),
    "attention to what a mask shows": attending(*[HEADS] * 3, attn_mask=SEEN),
    "attention without heads and a mask": attending(
        *[(2, 3, 4)] * 3, attn_mask=torch.stack([SEEN, ~SEEN])
    ),
    "attention with a bias": attending(*[HEADS] * 3, attn_mask=BIAS),
    "grouped attention": attending(
        (1, 4, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4), enable_gqa=True, is_causal=True
    ),
    "pixel shuffle": (lambda x: functional.pixel_shuffle(x, 2), ((1, 8, 2, 3),)),
    "pixel unshuffle": (lambda x: functional.pixel_unshuffle(x, 2), ((2, 3, 4, 6),)),
    "cumsum": (lambda x: x.cumsum(1), (BOX,)),
    "topk": (lambda x: x.topk(2)[0], (BOX,)),
    "topk of the least": (lambda x: x.topk(2, 1, largest=False)[0], (BOX,)),
    "sort": (lambda x: x.sort(-2, descending=True)[0], (BOX,)),
    "threshold": (lambda x: functional.threshold(x, 0.3, 0.3), (BOX,)),
    "threshold with a jump": (lambda x: functional.threshold(x, 0.3, -1.1), (BOX,)),
    "softshrink": (lambda x: functional.softshrink(x, 0.3), (BOX,)),
    "hardshrink": (lambda x: functional.hardshrink(x, 0.3), (BOX,)),
    "masked_fill": (lambda x: x.masked_fill(MASK, -1.1), (BOX,)),
    "masked_fill above the diagonal": (
        lambda x: x.masked_fill(torch.ones(3, 4, dtype=torch.bool).triu(1), -math.inf).softmax(-1),
        (BOX,),
    ),
    "tril": (lambda x: x.tril(-1), (BOX,)),
    "clamp by tensors": (lambda x: x.clamp(-WEIGHTS.to(x).abs(), WEIGHTS.to(x)), (BOX,)),
    "clamp from above by a tensor": (lambda x: x.clamp(max=WEIGHTS.to(x)), ((2, 3, 1),)),
    "clamp": (lambda x: x.clamp(-0.1, 0.3), (BOX,)),
    "roll": (lambda x: x.roll((1, -5), (0, 2)), (BOX,)),
    "roll of everything": (lambda x: x.roll(5), (BOX,)),
    "average with its own divisor": (
        lambda x: functional.avg_pool2d(x, (2, 3), 2, (1, 1), divisor_override=7),
        ((1, 2, 5, 6),),
    ),
    "index": (lambda x: x[:, torch.tensor([0, -1, 0])], (BOX,)),
    "index of a table": (lambda x: x[..., torch.tensor([[0, 3], [1, 1]])], (BOX,)),
    "index_select": (lambda x: x.index_select(2, torch.tensor([3, 0])), (BOX,)),
    "numbers of the code": (
        lambda x: 0.1 * torch.add((x - 0.7) / 1.3, x, alpha=0.3) + (x * x + 1.1) ** 0.7,
        (BOX,),
    ),
    "a likeness": (lambda x: x * torch.full_like(x, 0.1), (BOX,)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_graph_computes_what_torch_computes(name: str, tmp_path: Path) -> None:
    function, shapes = OPERATIONS[name]
    assert_same(Applied(function), shapes, tmp_path)


def test_an_rms_norm_without_epsilon_takes_that_of_the_type(tmp_path: Path) -> None:
    module = nn.RMSNorm(4).eval()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([0.5, -3.0, 1.0, 2.0]))
    exact = 3.0 / math.sqrt(torch.finfo(torch.float32).eps)
    for model in both_readings(module, [(2, 4)], tmp_path):
        (node,) = [node for node in model.graph.nodes if node.op == "RMSNormalization"]
        assert node.attributes["epsilon"] == torch.finfo(torch.float32).eps
        found = lipaudit.bound(model, input_shape=(4,)).models[0].bound
        assert found is not None
        assert found.certified
        assert found.measure.upper == pytest.approx(exact, rel=1e-6)
        assert found.measure.upper >= exact * (1 - 1e-12)


KNOWN: dict[str, tuple[Operation, Shape, float]] = {
    "F.normalize": (lambda x: functional.normalize(x, dim=-1, eps=0.25), (3, 4), 4.0),
    "F.normalize over channels": (functional.normalize, (3, 4, 5), 1e12),
    "RMS norm": (lambda x: functional.rms_norm(x, (4,), eps=0.0625), (3, 4), 4.0),
    "RMS norm spelled out": (
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.0625),
        (3, 4),
        4.0,
    ),
    "layer norm with torch.var": (
        lambda x: (
            (x - x.mean(-1, keepdim=True))
            / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 0.0625)
        ),
        (3, 4),
        4.0,
    ),
    # x - mean x is a projection, and the norm of what is left never grows faster than that.
    "standard deviation": (lambda x: x.std(-1), (3, 5), 0.5),
    "norm": (lambda x: x.norm(dim=-1), (3, 4), 1.0),
    "logsumexp": (lambda x: x.logsumexp(-1), (3, 4), 1.0),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_constants_are_met(name: str) -> None:
    function, shape, exact = KNOWN[name]
    found = lipaudit.bound(Applied(function), input_shape=shape).models[0].bound
    assert found is not None
    assert found.certified, found.reasons
    assert found.measure.upper == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("exponent", [0.5, -1.5])
def test_a_number_of_the_code_is_not_rounded_to_float32(exponent: float) -> None:
    # (x + 1.1)^p is steepest at x = -1; the float32 next to 1.1 lies above it.
    module = Applied(lambda x: (x + 1.1) ** exponent).double()
    exact = jacobian_norm(module, torch.tensor([[-1.0]], dtype=torch.float64))
    found = lipaudit.bound(module, input_shape=(1,), input_range=(-1.0, 2.0)).models[0].bound
    assert found is not None
    assert found.certified
    assert exact * (1 - 1e-14) <= found.measure.upper <= exact * (1 + 1e-7)


def test_a_factor_of_the_code_is_met_to_the_last_place() -> None:
    for dtype in (torch.float32, torch.float64):
        module = Applied(lambda x: x * 0.1).to(dtype)
        found = lipaudit.bound(module, input_shape=(4,)).models[0].bound
        assert found is not None
        assert 0.1 <= found.measure.upper <= 0.1 * (1 + 1e-14)


def test_a_file_in_float64_keeps_the_numbers_of_the_code(tmp_path: Path) -> None:
    x = torch.linspace(-0.9, 2.0, 8, dtype=torch.float64).reshape(2, 4)
    module = Applied(lambda x: functional.leaky_relu(x - 0.1, 0.3) / (x * x + 1.1))
    torch.export.save(torch.export.export(module, (x,)), tmp_path / "m.pt2")
    model = read_model(str(tmp_path / "m.pt2"))
    (made,) = computed_by(model, [x], None)
    assert made.dtype == torch.float64
    torch.testing.assert_close(made, module(x), rtol=1e-15, atol=1e-15)


def test_numbers_meet_integers_as_integers(tmp_path: Path) -> None:
    module = Applied(lambda x: x.sort(-1)[1] * (2**24 + 1) - 1)
    assert_same(module, [(2, 3)], tmp_path)


def test_clamping_by_larger_tensors_counts_copies() -> None:
    module = Applied(lambda x: x.clamp(max=torch.full((4,), 9.0)))
    found = lipaudit.bound(module, input_shape=(1,)).models[0].bound
    assert found is not None
    assert found.measure.upper == pytest.approx(2.0)


def test_masked_attention_has_a_bound_on_a_bounded_input() -> None:
    torch.manual_seed(7)
    attend, _ = attending(attn_mask=SEEN)
    module = Applied(lambda x: attend(x, x, x))
    found = lipaudit.bound(module, input_shape=(2, 3, 4), input_range=(-1.0, 1.0)).models[0].bound
    assert found is not None
    assert found.certified, found.reasons
    points = 2 * torch.rand(40, 1, 2, 3, 4, dtype=torch.float64) - 1
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        norms = [jacobian_norm(module, point) for point in points]
    assert max(norms) <= found.measure.upper


def test_a_gated_unit_on_a_bounded_input_has_a_bound() -> None:
    torch.manual_seed(5)
    module = nn.Sequential(nn.Linear(3, 8), nn.GLU(), nn.Linear(4, 2)).eval()
    free = lipaudit.bound(module, input_shape=(3,)).models[0].bound
    assert free is not None
    assert not free.certified
    found = lipaudit.bound(module, input_shape=(3,), input_range=(-1.0, 1.0)).models[0].bound
    assert found is not None
    assert found.certified, found.reasons
    exact = module.double()
    points = 2 * torch.rand(40, 1, 3, dtype=torch.float64) - 1
    norms = [jacobian_norm(exact, point) for point in points]
    assert max(norms) <= found.measure.upper < 50 * max(norms)


def weight_normed(module: nn.Module, dim: int = 0) -> nn.Module:
    made: nn.Module = parametrizations.weight_norm(module, dim=dim)
    return made


def spectrally_normed(module: nn.Module) -> nn.Module:
    made: nn.Module = parametrizations.spectral_norm(module)
    return made


# An untrained spectral norm divides by any number: by one near 0 float32 is no truth.
torch.manual_seed(0)
PARAMETRIZED: dict[str, tuple[nn.Module, Shape]] = {
    "weight norm": (weight_normed(nn.Linear(3, 4)), (2, 3)),
    "weight norm of a row": (weight_normed(nn.Linear(3, 1)), (2, 3)),
    "weight norm along inputs": (weight_normed(nn.Linear(3, 4), dim=1), (2, 3)),
    "weight norm of the whole": (weight_normed(nn.Conv2d(3, 4, 3), dim=-1), (1, 3, 5, 5)),
    "weight norm of old": (nn.utils.weight_norm(nn.Conv1d(3, 4, 3)), (1, 3, 5)),
    "spectral norm": (spectrally_normed(nn.Linear(3, 4)), (2, 3)),
    "spectral norm of a convolution": (spectrally_normed(nn.Conv2d(3, 4, 3)), (1, 3, 5, 5)),
    "spectral norm of a square": (spectrally_normed(nn.ConvTranspose1d(4, 4, 3)), (1, 4, 5)),
    "spectral norm of old": (nn.utils.spectral_norm(nn.Linear(3, 4)), (2, 3)),
    "spectral norm of old, transposed": (
        nn.utils.spectral_norm(nn.ConvTranspose2d(2, 3, 3)),
        (1, 2, 4, 4),
    ),
}


@pytest.mark.parametrize("name", PARAMETRIZED)
def test_a_parametrized_weight_is_the_weight_of_its_layer(name: str, tmp_path: Path) -> None:
    made, shape = PARAMETRIZED[name]
    module = nn.Sequential(made).eval()
    stored = {key for key in module.state_dict() if key != "0.bias"}
    module(torch.zeros(shape))  # the older ones make the weight on the way
    weight = made.weight
    assert isinstance(weight, torch.Tensor)
    models = both_readings(module, [shape], tmp_path)
    for model in models:
        (layer,) = lipaudit.inspect(model, input_shape=shape[1:]).models[0].layers
        assert layer.shape == tuple(weight.shape)
        assert set(layer.tensors) == stored
        assert layer.norm.rigor is Rigor.PROVED
        if weight.dim() == 2:
            assert layer.norm.upper == pytest.approx(
                float(torch.linalg.matrix_norm(weight.double(), 2))
            )
    assert_same(module, [shape], tmp_path)


def test_a_parametrized_weight_that_the_signal_scales_stays_a_computation(tmp_path: Path) -> None:
    v = torch.randn(4, 3)

    def function(x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, torch._weight_norm(v.to(x), x.sum().expand(4, 1), 0))

    assert_same(Applied(function), [(2, 3)], tmp_path)


class WithNorms(nn.Module):
    """A weight made by the operation that yields the norms too."""

    def __init__(self) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(torch.randn(4, 3))
        self.weight_g = nn.Parameter(torch.rand(4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, norms = torch._weight_norm_interface(self.weight_v, self.weight_g)
        return functional.linear(x, weight) + norms.mT


def test_the_norms_may_be_a_result_too(tmp_path: Path) -> None:
    module = WithNorms()
    assert_same(module, [(2, 3)], tmp_path)
    (layer,) = lipaudit.inspect(module.float(), input_shape=(3,)).models[0].layers
    assert layer.tensors == ("weight_g", "weight_v")
    assert layer.norm.rigor is Rigor.PROVED


class SameNames(nn.Module):
    """Tensors whose keys are names that torch gives to operations."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.randn(4, 3))
        self.add = nn.Parameter(torch.randn(4))
        self.x = nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.linear) + self.add + self.x


def test_keys_may_be_names_of_operations(tmp_path: Path) -> None:
    module = SameNames()
    assert_same(module, [(2, 3)], tmp_path)
    (layer,) = lipaudit.inspect(module.float(), input_shape=(3,)).models[0].layers
    assert layer.tensors == ("linear",)


def test_numbers_that_are_cut_to_whole_ones_are_no_identity(tmp_path: Path) -> None:
    for model in both_readings(Applied(lambda x: x.long().float()), (BOX,), tmp_path):
        (report,) = lipaudit.bound(model).models
        assert report.bound is not None
        assert not report.bound.certified
        assert "int64" in report.bound.reasons[0]


def test_what_is_written_in_place_is_seen_by_later_readers() -> None:
    def masked(x: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(4, dtype=torch.bool)
        mask[1] = True
        return torch.where(mask, x, 3 * x)

    def viewed(x: torch.Tensor) -> torch.Tensor:
        doubled = x * 2
        doubled[:, 0] += x[:, 1]
        return doubled * 1

    x = torch.randn(BOX)
    (made,) = computed_by(from_module(Applied(masked), [BOX]), [x], None)
    torch.testing.assert_close(made, masked(x))
    (report,) = lipaudit.bound(from_module(Applied(viewed), [BOX])).models
    assert report.bound is not None
    assert not report.bound.certified
    assert "select_scatter" in report.bound.reasons[0]
