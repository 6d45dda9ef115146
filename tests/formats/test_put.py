"""Put: what is wanted of a weight arrives in the tensors of the file that make it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

from lipaudit.errors import NotCertified
from lipaudit.formats.detect import read_model
from lipaudit.graph.constant import put_of, rescale_of
from lipaudit.torch import spectral_norm as divided
from tests.formats.putting import UNITS, assert_near, rewritten, weights, write

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def layers(*, one_d: bool = True) -> dict[str, nn.Module]:
    made: dict[str, nn.Module] = {
        "linear": nn.Linear(5, 4),
        "conv2d": nn.Conv2d(3, 4, 3),
        "conv3d": nn.Conv3d(2, 3, 2),
        "transposed": nn.ConvTranspose2d(3, 4, 3),
        "grouped": nn.Conv2d(4, 6, 3, groups=2),
    }
    return made | ({"conv1d": nn.Conv1d(3, 4, 5)} if one_d else {})


def saved(module: nn.Module, folder: Path) -> Path:
    torch.save(module.state_dict(), folder / "in.pt")
    return folder / "in.pt"


def effective(module: nn.Module, path: Path) -> torch.Tensor:
    """Return the weight that torch itself computes from the written file, in float64."""
    module.load_state_dict(torch.load(path, weights_only=True))
    module = module.eval().double()
    layer = module[0] if isinstance(module, nn.Sequential) else module
    for hook in layer._forward_pre_hooks.values():
        hook(layer, ())  # the old style computes the weight before each call
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_stored_tensor_takes_what_is_wanted(dtype: torch.dtype, tmp_path: Path) -> None:
    path = saved(nn.Sequential(nn.Linear(5, 4)).to(dtype), tmp_path)
    wanted, made = rewritten(path, tmp_path / "out.pt", "0")
    assert torch.equal(made, wanted.to(dtype).to(torch.float64))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_a_quantized_tensor_takes_nothing(dtype: torch.dtype, tmp_path: Path) -> None:
    save_file({"0.weight": torch.ones(3, 4).to(dtype)}, tmp_path / "in.safetensors")
    model = read_model(str(tmp_path / "in.safetensors"))
    assert put_of(model.tensors["0.weight"]) is None
    assert rescale_of(model.tensors["0.weight"]) is None


@pytest.mark.parametrize("name", layers())
@pytest.mark.parametrize("style", ["new", "old"])
@pytest.mark.parametrize("dim", [0, 1, -1, None])
def test_weight_norm(name: str, style: str, dim: int | None, tmp_path: Path) -> None:
    torch.manual_seed(4)
    make = parametrizations.weight_norm if style == "new" else old_weight_norm
    module = nn.Sequential(make(layers()[name], dim=dim))  # type: ignore[arg-type] # None is meant
    path = saved(module, tmp_path)
    wanted, made = rewritten(path, tmp_path / "out.pt", "0")
    assert_near(made, wanted, torch.float32)
    assert_near(effective(module, tmp_path / "out.pt"), wanted, torch.float32)
    before, after = (torch.load(p, weights_only=True) for p in (path, tmp_path / "out.pt"))
    assert torch.equal(before["0.bias"], after["0.bias"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weight_norm_in_every_type(dtype: torch.dtype, tmp_path: Path) -> None:
    """Small directions and large lengths: v keeps its size, so that its cast loses nothing."""
    torch.manual_seed(5)
    module = parametrizations.weight_norm(nn.Linear(6, 5, bias=False)).to(dtype)
    with torch.no_grad():
        module.parametrizations.weight.original0 *= 2.0**-12
    wanted, made = rewritten(saved(nn.Sequential(module), tmp_path), tmp_path / "out.pt", "0")
    assert_near(made, wanted, dtype)


def test_weight_norm_keeps_what_stays_and_has_no_0_over_0(tmp_path: Path) -> None:
    torch.manual_seed(6)
    module = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)))
    path, out = saved(module, tmp_path), tmp_path / "out.pt"
    wanted = weights(read_model(str(path)))["0"].values()
    wanted[1] = 0
    wanted[2] = torch.arange(4)
    _, made = rewritten(path, out, "0", wanted)
    assert_near(made, wanted, torch.float32)
    assert_near(effective(module, out), wanted, torch.float32)
    before, after = (torch.load(p, weights_only=True) for p in (path, out))
    for part in ("original0", "original1"):
        key = f"0.parametrizations.weight.{part}"
        assert torch.equal(before[key][0], after[key][0])
    assert torch.equal(before[key][1], after[key][1])
    assert after["0.parametrizations.weight.original0"][1] == 0


def test_weight_norm_is_rescaled_by_g_alone(tmp_path: Path) -> None:
    module = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(2, 3, 3)))
    model = read_model(str(saved(module, tmp_path)))
    weight = weights(model)["0"]
    rescale = rescale_of(weight)
    assert rescale is not None
    patch = rescale(0.3)
    assert list(patch) == ["0.parametrizations.weight.original0"]
    write(model, patch, tmp_path / "out.pt")
    assert_near(effective(module, tmp_path / "out.pt"), weight.values() * 0.3, torch.float32)


@pytest.mark.parametrize("name", layers())
@pytest.mark.parametrize("style", ["new", "old"])
def test_spectral_norm(name: str, style: str, tmp_path: Path) -> None:
    torch.manual_seed(7)
    make = parametrizations.spectral_norm if style == "new" else old_spectral_norm
    module = nn.Sequential(make(layers()[name]))
    path = saved(module, tmp_path)
    wanted, made = rewritten(path, tmp_path / "out.pt", "0")
    # uᵀ W v is 1 but for the rounding of v, which is that of a sum of its entries at most.
    assert_near(made, wanted, torch.float32)
    assert_near(effective(module, tmp_path / "out.pt"), wanted, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e3])
def test_spectral_norm_in_every_type(dtype: torch.dtype, size: float, tmp_path: Path) -> None:
    torch.manual_seed(8)
    module = parametrizations.spectral_norm(nn.Linear(6, 5, bias=False)).to(dtype)
    wanted = torch.rand(5, 6, dtype=torch.float64).add(0.5) * size
    _, made = rewritten(saved(nn.Sequential(module), tmp_path), tmp_path / "out.pt", "0", wanted)
    assert_near(made, wanted, dtype)


def test_spectral_norm_is_rescaled_without_its_weight(tmp_path: Path) -> None:
    torch.manual_seed(9)
    module = nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(2, 3, 3)))
    model = read_model(str(saved(module, tmp_path)))
    weight = weights(model)["0"]
    rescale = rescale_of(weight)
    assert rescale is not None
    assert "training" in weight.put_note
    patch = rescale(0.3)
    assert list(patch) == ["0.parametrizations.weight.0._v"]
    write(model, patch, tmp_path / "out.pt")
    assert_near(effective(module, tmp_path / "out.pt"), weight.values() * 0.3, torch.float32)


def test_spectral_norm_starts_anew_where_the_stored_vector_sees_nothing(tmp_path: Path) -> None:
    module = nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 3, bias=False)))
    blind = torch.tensor([1.0, 0.0, 0.0])
    state = {f"0.parametrizations.weight.0._{part}": blind for part in "uv"}
    module.load_state_dict(state, strict=False)
    wanted = torch.diag(torch.tensor([0.0, 2.0, 3.0], dtype=torch.float64))
    path, out = saved(module, tmp_path), tmp_path / "out.pt"
    _, made = rewritten(path, out, "0", wanted)
    assert_near(made, wanted, torch.float32)
    # In training torch goes on from these vectors: they are the leading ones.
    module.load_state_dict(torch.load(out, weights_only=True))
    module.train()
    assert torch.linalg.svdvals(module[0].weight)[0].item() == pytest.approx(1, rel=1e-4)


def test_spectral_norm_cannot_be_0(tmp_path: Path) -> None:
    module = nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 2)))
    put = put_of(weights(read_model(str(saved(module, tmp_path))))["0"])
    assert put is not None
    with pytest.raises(NotCertified, match="divides by its norm"):
        put(torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_stored_divisor(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(12)
    module = nn.Sequential(divided(nn.Conv2d(3, 4, 3), to=0.1, input_shape="3x8x8")).to(dtype)
    path, out = saved(module.eval(), tmp_path), tmp_path / "out.pt"
    wanted, made = rewritten(path, out, "0")
    assert_near(made, wanted, dtype)
    assert_near(effective(module, out), wanted, dtype)
    before, after = (torch.load(p, weights_only=True) for p in (path, out))
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    assert changed == ["0.parametrizations.weight.original"]


def test_a_stored_divisor_stays_when_its_weight_is_rescaled(tmp_path: Path) -> None:
    torch.manual_seed(13)
    layer = divided(nn.Linear(4, 3)).eval()
    module = nn.Sequential(layer)
    model = read_model(str(saved(module, tmp_path)))
    weight = weights(model)["0"]
    rescale = rescale_of(weight)
    assert rescale is not None
    assert "training" in weight.put_note
    expected = layer.get_parameter("parametrizations.weight.original").detach().double()
    expected = 0.3 * expected / layer.get_buffer("parametrizations.weight.0._divisor").double()
    write(model, rescale(0.3), tmp_path / "out.pt")
    assert_near(effective(module, tmp_path / "out.pt"), expected, torch.float32)


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
def test_a_pickled_module(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(10)
    conv = nn.Conv2d(2, 3, 3)
    conv = old_weight_norm(conv) if kind == "weight_norm" else old_spectral_norm(conv)
    module = nn.Sequential(conv, nn.ReLU()).eval()
    torch.save(module, tmp_path / "in.pt")
    wanted, made = rewritten(tmp_path / "in.pt", tmp_path / "out.pt", "0")
    assert_near(made, wanted, torch.float32)
    loaded = torch.load(tmp_path / "out.pt", weights_only=False)
    assert isinstance(loaded, nn.Sequential)
    torch.save(loaded.state_dict(), tmp_path / "state.pt")
    assert_near(effective(module, tmp_path / "state.pt"), wanted, torch.float32)


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
@pytest.mark.parametrize("name", ["linear", "conv2d", "transposed"])
def test_an_exported_program(kind: str, name: str, tmp_path: Path) -> None:
    torch.manual_seed(11)
    make = getattr(parametrizations, kind)
    module = make(layers()[name]).eval()
    shape = (2, 5) if name == "linear" else (1, 3, 6, 6)
    program = torch.export.export(module, (torch.zeros(shape),))
    torch.export.save(program, tmp_path / "in.pt2")
    model = read_model(str(tmp_path / "in.pt2"))
    (title,) = weights(model)
    wanted, made = rewritten(tmp_path / "in.pt2", tmp_path / "out.pt2", title)
    assert_near(made, wanted, torch.float32)
    x = torch.randn(shape)
    loaded = torch.export.load(tmp_path / "out.pt2").module()
    parametrize.remove_parametrizations(module, "weight")
    with torch.no_grad():
        module.weight.copy_(wanted)
    torch.testing.assert_close(loaded(x), module(x), rtol=1e-5, atol=1e-5)


def test_units_are_those_of_the_types() -> None:
    for dtype, unit in UNITS.items():
        assert torch.finfo(dtype).eps == 2 * unit
