"""What certify_ and Monitor vouch for: every size, torch's own layers, and no more than that."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.errors import NotCertified, UsageError
from lipaudit.torch import Monitor, certificate, certify_, clip_, settle_, spectral_norm
from tests.oracles import dense, singular_values


class TwoSizes(nn.Module):
    """A circular convolution of 5 numbers, then of 4."""

    def __init__(self, scale: float) -> None:
        """Take [-1, 2, -1], whose norm is that of the highest frequency: 4 only at even sizes."""
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular", bias=False).double()
        with torch.no_grad():
            kernel = torch.tensor([-1.0, 2.0, -1.0], dtype=torch.float64) * scale
            self.conv.weight.copy_(kernel.reshape(1, 1, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the convolution twice."""
        found: torch.Tensor = self.conv(self.conv(x)[..., :4])
        return found

    def norm_at(self, size: int) -> float:
        """Return the norm of torch's own convolution, from its matrix."""
        matrix = dense(lambda x: self.conv(x).detach(), (1, size))
        return float(singular_values(matrix).max())


class Standardized(nn.Conv2d):
    """A convolution that makes another weight of the one it has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Standardize the weight."""
        weight = self.weight / self.weight.std() * 3
        return functional.conv2d(x, weight, self.bias, padding=self.padding)


class Inner(nn.Conv2d):
    """The same, further inside."""

    def _conv_forward(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return functional.conv2d(x, 3 * weight, bias, padding=self.padding)


class Named(nn.Conv2d):
    """A convolution of another name, but torch's own."""


def test_a_certificate_holds_at_every_size_in_use() -> None:
    model = TwoSizes(1.0)
    (found,) = certify_(model, to=1.0, input_shape=(1, 5))
    assert found.after.rigor is Rigor.PROVED
    assert max(model.norm_at(5), model.norm_at(4)) <= found.after.upper <= 1.0
    assert model.norm_at(4) > model.norm_at(5)


def test_more_sizes_than_are_proved_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "_MANY_SIZES", 1)
    model = TwoSizes(1.0)
    (found,) = certify_(model, to=1.0, input_shape=(1, 5))
    assert max(model.norm_at(n) for n in range(3, 9)) <= found.after.upper <= 1.0


def test_the_upper_bound_in_training_holds_at_every_size_in_use() -> None:
    model = TwoSizes(0.3)
    values = Monitor(model, print, proved=True, input_shape=(1, 5)).measure()
    assert values["conv/norm_at_most"] >= model.norm_at(4) > model.norm_at(5)


@pytest.mark.parametrize("kind", [Standardized, Inner])
def test_a_subclass_with_its_own_forward_is_not_vouched_for(kind: type[nn.Conv2d]) -> None:
    torch.manual_seed(0)
    layer = kind(3, 4, 3, padding=1).double()
    bias = layer.bias
    assert bias is not None
    with torch.no_grad():
        bias.zero_()
        layer.weight.mul_(0.3)
    matrix = dense(lambda x: layer(x).detach(), (3, 6, 6))
    torch_norm = singular_values(
        dense(lambda x: functional.conv2d(x, layer.weight.detach(), padding=1), (3, 6, 6))
    ).max()
    assert float(singular_values(matrix).max()) > 2 * float(torch_norm)
    kept = layer.weight.detach().clone()
    with pytest.raises(NotCertified, match="forward"):
        certify_(nn.Sequential(layer), to=2 * float(torch_norm))
    (done,) = clip_(nn.Sequential(layer), to=0.1) or ()
    assert "forward" in done.reason
    assert torch.equal(layer.weight, kept)
    assert Monitor(nn.Sequential(layer), print).measure() == {}
    with pytest.raises(NotCertified, match="forward"):
        settle_(nn.Sequential(spectral_norm(layer)))


def test_a_forward_of_one_object_counts() -> None:
    layer: Any = nn.Linear(3, 3)
    layer.forward = lambda x: 5 * functional.linear(x, layer.weight)
    with pytest.raises(NotCertified, match="forward"):
        certify_(layer, to=10.0)


def test_subclasses_and_parametrizations_that_run_as_torch_does_are_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        Named(2, 2, 3), parametrizations.weight_norm(nn.Linear(3, 3)), spectral_norm(Named(2, 2, 1))
    )
    assert [one.name for one in certify_(model, to=0.5)] == ["0", "1", "2"]


@pytest.mark.parametrize("glob", ["nope*", "0,nope", ""])
def test_a_glob_that_matches_nothing_is_refused(glob: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    for call in (
        lambda: certify_(model, layers=glob),
        lambda: clip_(model, layers=glob),
        lambda: Monitor(model, print, layers=glob).measure(),
    ):
        with pytest.raises(UsageError, match="matches no layer") as raised:
            call()
        assert raised.value.slug == "clip-layers"


@pytest.mark.parametrize(
    ("module", "name", "said"),
    [
        (nn.LSTM(3, 4), "LSTM", "weight_hh_l0"),
        (nn.Embedding(5, 3), "Embedding", "weight"),
        (nn.MultiheadAttention(4, 2), "MultiheadAttention", "in_proj_weight"),
        (nn.Sequential(nn.Bilinear(2, 2, 2)), "0", "Bilinear"),
        (parametrizations.weight_norm(nn.GRU(2, 2), "weight_ih_l0"), "ParametrizedGRU", "_ih_l0"),
    ],
)
def test_other_weights_are_listed_and_not_called_bounded(
    module: nn.Module, name: str, said: str
) -> None:
    found = {one.name: one for one in certify_(module, to=1e6)}
    assert said in found[name].reason
    assert found[name].after == Enclosure.unknown()
    done = {one.name: one for one in clip_(module, to=1e6) or ()}
    assert said in done[name].reason
    assert set(found) == set(done)
    assert all((one.reason == "") == (one.after.upper <= 1e6) for one in found.values())


def test_normalizations_and_vectors_are_not_listed() -> None:
    model = nn.Sequential(
        nn.BatchNorm2d(3), nn.LayerNorm((2, 2)), nn.GroupNorm(1, 3), nn.PReLU(), nn.Linear(2, 2)
    )
    assert [one.name for one in certify_(model)] == ["4"]


@pytest.mark.parametrize(
    "wrap", [parametrizations.spectral_norm, spectral_norm, parametrizations.weight_norm]
)
def test_a_parameter_that_is_shared_with_a_parametrization_is_named(wrap: Any) -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(4, 4), wrap(nn.Linear(4, 4))
    chain = second.parametrizations.weight
    stored = list(dict(chain.named_parameters()))[-1]
    setattr(chain, stored, first.weight)
    model = nn.Sequential(first, second)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(NotCertified, match="'0', '1' share"):
        certify_(model, to=0.1)
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
    assert all(one.change == 0 for one in certify_(model, to=100.0))


def test_a_divisor_is_settled_by_a_proof_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(spectral_norm(nn.Linear(4, 4))).eval()
    proved = certificate.proved_norm

    def numerical(*arguments: Any) -> Enclosure:
        found = proved(*arguments)
        return Enclosure(found.lo, found.hi, Rigor.NUMERICAL)

    monkeypatch.setattr(certificate, "proved_norm", numerical)
    with pytest.raises(NotCertified, match="not proved"):
        settle_(model)
