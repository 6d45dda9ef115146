"""clip_ and certify_ on live modules: dense matrices, the paper's function, what must survive."""

import copy
import gc
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, weight_norm

import lipaudit
from lipaudit.errors import NotCertified, UsageError
from lipaudit.torch import Clipper, certify_, clip_, spectral_norm
from lipaudit.torch import clipping as clipping_room
from tests.oracles import (
    appendix_a,
    clipped_matrix,
    conv_matrix,
    dense,
    frequency_maximum,
    singular_values,
)
from tests.torch_api.modules import geometry_of


def seeded(module: Callable[[], nn.Module], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return module()


def net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 5),
    )


def largest(weight: torch.Tensor) -> float:
    return float(singular_values(weight.detach().double().flatten(1)).max())


def test_a_dense_layer_is_projected_exactly() -> None:
    layer = seeded(lambda: nn.Linear(7, 5)).double()
    expected = clipped_matrix(layer.weight.detach(), 0.4)
    (done,) = clip_(layer, to=0.4) or ()
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=0, atol=1e-9)
    assert (done.looked_at, done.of, done.reason) == (1, 1, "")
    assert done.change > 0.01


def test_a_convolution_gets_one_pair_of_projections() -> None:
    layer = seeded(lambda: nn.Conv2d(4, 6, 3, padding=1)).double()
    expected = appendix_a(layer.weight.detach(), (9, 7), 0.5)
    clip_(layer, to=0.5, input_shape="4x9x7")
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=0, atol=1e-9)
    twice = appendix_a(expected, (9, 7), 0.5)
    clip_(layer, to=0.5, input_shape="4x9x7")
    torch.testing.assert_close(layer.weight.detach(), twice, rtol=0, atol=1e-9)


def test_pairs_in_one_call_are_calls_in_a_row() -> None:
    layer = seeded(lambda: nn.Conv2d(4, 6, 3, padding=1)).double()
    expected = layer.weight.detach()
    for _ in range(4):
        expected = appendix_a(expected, (12, 12), 0.5)
    clip_(layer, to=0.5, pairs=4)
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=0, atol=1e-9)


def test_groups_of_a_single_tap_are_clipped_apart() -> None:
    layer = seeded(lambda: nn.Conv2d(4, 6, 1, groups=2)).double()
    blocks = layer.weight.detach().reshape(2, 3, 2)
    expected = torch.stack([clipped_matrix(block, 0.3) for block in blocks])
    clip_(layer, to=0.3)
    torch.testing.assert_close(layer.weight.detach().reshape(2, 3, 2), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv1d(3, 4, 5, stride=2, dilation=3),
        lambda: nn.Conv2d(4, 4, 3, groups=2, stride=2, padding=1),
        lambda: nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1),
        lambda: nn.Conv3d(2, 3, 2, padding=1),
        lambda: nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"),
        lambda: nn.Conv2d(3, 3, 3, padding="same", dilation=2),
    ],
)
def test_many_calls_bring_every_geometry_to_the_limit(make: Callable[[], nn.Module]) -> None:
    layer = seeded(make).double()
    with torch.no_grad():
        layer.weight.mul_(3.0)
    geometry = geometry_of(layer)
    for _ in range(40):
        clip_(layer, to=0.8)
    found = frequency_maximum(
        layer.weight.detach(), geometry, {1: 400, 2: 60, 3: 20}[geometry.rank]
    )
    assert 0.8 * 0.97 <= found <= 0.8 * 1.05


def test_padding_that_copies_counts() -> None:
    layer = seeded(lambda: nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect", bias=False))
    layer = layer.double()
    for _ in range(40):
        clip_(layer, to=1.0)
    matrix = dense(lambda x: layer(x).detach(), (3, 4, 4))
    assert float(singular_values(matrix).max()) <= 1.02


def test_it_acts_on_each_nth_call_and_says_so() -> None:
    model = net()
    results = [clip_(model, to=0.5, every=3) for _ in range(7)]
    assert [found is not None for found in results] == [False, False, True] * 2 + [False]
    names = [done.name for done in results[2] or ()]
    assert names == ["0", "3", "6"]


def test_other_arguments_count_on_their_own() -> None:
    model = net()
    assert clip_(model, to=0.5, every=2, layers="6") is None
    assert clip_(model, to=0.5, every=2, layers="0,3") is None
    assert [done.name for done in clip_(model, to=0.5, every=2, layers="6") or ()] == ["6"]


def test_a_forgotten_module_is_forgotten() -> None:
    gc.collect()
    before = len(clipping_room._MEMORIES)
    model = net()
    clip_(model)
    assert len(clipping_room._MEMORIES) == before + 1
    del model
    gc.collect()
    assert len(clipping_room._MEMORIES) == before


def test_small_layers_cost_no_look_until_they_have_grown() -> None:
    layer = seeded(lambda: nn.Conv2d(8, 8, 3, padding=1))
    with torch.no_grad():
        layer.weight.mul_(0.05)
    kept = layer.weight.detach().clone()
    clipper = Clipper(layer, to=1.0)
    looks = [clipper.clip()[0].looked_at for _ in range(3)]
    assert looks == [74, 0, 0]
    assert torch.equal(layer.weight, kept)
    with torch.no_grad():
        layer.weight.add_(1e-4)
    assert clipper.clip()[0].looked_at == 0
    with torch.no_grad():
        layer.weight[:, :, 1, 1] += torch.eye(8)
    assert clipper.clip()[0].looked_at == 74
    assert frequency_maximum(layer.weight.detach().double(), geometry_of(layer), 12) < 1.2


def test_remembering_changes_no_result() -> None:
    torch.manual_seed(1)
    first: Any = nn.Conv2d(6, 6, 3, padding=1).double()
    second = copy.deepcopy(first)
    remembering = Clipper(first, to=0.9)
    looked = []
    for round_ in range(12):
        looked.append(remembering.clip()[0].looked_at)
        Clipper(second, to=0.9).clip()
        torch.testing.assert_close(first.weight, second.weight, rtol=0, atol=1e-9)
        with torch.no_grad():
            change = 2e-4 * torch.randn_like(first.weight) * (round_ % 3)
            first.weight += change
            second.weight += change
    assert 0 < min(looked) < 74


def test_training_state_survives() -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters())
    torch.autograd.backward(model(torch.randn(4, 3, 8, 8)).sum())
    optimizer.step()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    states = copy.deepcopy(optimizer.state_dict())
    clip_(model, to=0.3, input_shape=(3, 8, 8))
    assert model.training
    assert all(part.training for part in model.modules())
    assert not model[0].weight.requires_grad
    assert model[3].weight.requires_grad
    assert model[3].weight.is_leaf
    assert [parameter.data_ptr() for parameter in model.parameters()] == pointers
    again = optimizer.state_dict()["state"]
    assert all(torch.equal(again[key]["exp_avg"], states["state"][key]["exp_avg"]) for key in again)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) != key.endswith("weight") or key.startswith("1.")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_coarse_types_keep_theirs(dtype: torch.dtype) -> None:
    layer = seeded(lambda: nn.Conv2d(4, 4, 3, padding=1)).to(dtype)
    expected = appendix_a(layer.weight.detach().double(), (12, 12), 0.5)
    clip_(layer, to=0.5)
    assert layer.weight.dtype == dtype
    torch.testing.assert_close(layer.weight.detach().double(), expected, rtol=0, atol=5e-3)


def test_tied_weights_are_clipped_once() -> None:
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    expected = clipped_matrix(first.weight.detach().double(), 0.3)
    done = clip_(nn.Sequential(first, nn.ReLU(), second), to=0.3) or ()
    assert [bool(one.reason) for one in done] == [False, True]
    torch.testing.assert_close(first.weight.detach().double(), expected, rtol=0, atol=1e-5)
    assert second.weight is first.weight


def test_weight_norm_is_written_through_its_right_inverse() -> None:
    layer: Any = parametrizations.weight_norm(seeded(lambda: nn.Conv2d(3, 4, 3, padding=1)))
    parameters = dict(layer.named_parameters())
    expected = appendix_a(layer.weight.detach().double(), (12, 12), 0.4)
    (done,) = clip_(layer, to=0.4) or ()
    assert not done.reason
    torch.testing.assert_close(layer.weight.detach().double(), expected, rtol=0, atol=1e-5)
    assert all(dict(layer.named_parameters())[key] is value for key, value in parameters.items())


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (parametrizations.spectral_norm, "does not keep"),
        (parametrizations.orthogonal, "does not keep"),
        (lambda layer: spectral_norm(layer, to=5.0), "does not keep"),
        (weight_norm, "hook"),
    ],
)
def test_other_parametrizations_are_left_alone_and_said(
    wrap: Callable[[nn.Module], nn.Module], said: str
) -> None:
    layer: Any = wrap(seeded(lambda: nn.Linear(5, 5)))
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    (done,) = clip_(layer, to=0.5) or ()
    assert said in done.reason
    assert done.reason
    after = layer.state_dict()
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=0)


def test_weights_without_numbers_are_left_alone() -> None:
    bad = nn.Linear(3, 3)
    with torch.no_grad():
        bad.weight[0, 0] = math.nan
    model: Any = nn.Sequential(bad, nn.LazyLinear(4), nn.Linear(2, 2, device="meta"))
    reasons = [done.reason for done in clip_(model, to=0.5) or ()]
    assert "not finite" in reasons[0]
    assert "not initialized" in reasons[1]
    assert "no real numbers" in reasons[2]


def test_training_with_clipping_keeps_norms_near_the_limit() -> None:
    model = net()
    torch.manual_seed(0)
    inputs, targets = torch.randn(64, 3, 8, 8), torch.randint(0, 5, (64,))
    free = copy.deepcopy(model)
    for trained, limit in ((model, 1.0), (free, None)):
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.05, momentum=0.9)
        for _ in range(40):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(trained(inputs), targets))
            optimizer.step()
            if limit is not None:
                clip_(trained, to=limit, every=2)
    norms = [
        frequency_maximum(model[i].weight.detach().double(), geometry_of(model[i]), 32)
        for i in (0, 3)
    ]
    wild = [
        frequency_maximum(free[i].weight.detach().double(), geometry_of(free[i]), 32)
        for i in (0, 3)
    ]
    assert max(norms) < 1.15
    assert largest(model[6].weight) <= 1.0 + 1e-5
    assert max(wild) > 1.4


def test_a_clipper_is_copied_and_pickled_with_its_module() -> None:
    clipper = Clipper(net(), to=0.5, every=2)
    assert clipper.step() is None
    again = pickle.loads(pickle.dumps(clipper))  # noqa: S301 - what was just written
    other: Any = copy.deepcopy(clipper)
    for one in (clipper, again, other):
        assert one.step() is not None
    theirs, ours = dict(again.module.named_parameters()), dict(clipper.module.named_parameters())
    assert all(torch.equal(theirs[key], ours[key]) for key in ours)


@pytest.mark.parametrize("arguments", [{"to": 0.0}, {"to": math.nan}, {"every": 0}, {"pairs": 0}])
def test_what_makes_no_sense_is_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        clip_(net(), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_certified_layers_meet_the_limit(dtype: torch.dtype) -> None:
    model = net().to(dtype)
    found = certify_(model, to=0.6)
    for index in (0, 3):
        weight = model[index].weight.detach().double()
        assert model[index].weight.dtype == dtype
        assert frequency_maximum(weight, geometry_of(model[index]), 80) <= 0.6
        matrix = conv_matrix(weight, geometry_of(model[index]), (weight.shape[1], 8, 8))
        assert float(singular_values(matrix).max()) <= 0.6
    assert largest(model[6].weight) <= 0.6
    assert all(one.after.upper <= 0.6 for one in found)
    assert all(one.after.upper > 0.55 for one in found)
    assert [one.change > 0 for one in found] == [one.before.upper > 0.6 for one in found]
    kept = copy.deepcopy(model.state_dict())
    again = certify_(model, to=0.6)
    assert all(one.change == 0 for one in again)
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())


def test_projecting_stays_nearer_than_scaling() -> None:
    layer = seeded(lambda: nn.Conv2d(6, 6, 3, padding=1))
    before = layer.weight.detach().clone()
    (found,) = certify_(layer, to=0.5)
    scaled = 1.0 - 0.5 / found.before.upper
    assert found.change < 0.9 * scaled
    assert math.isclose(
        found.change, float((layer.weight.detach() - before).norm() / before.norm()), rel_tol=1e-5
    )


def test_a_certificate_for_one_size_is_that_of_the_operator() -> None:
    layer = seeded(lambda: nn.Conv2d(2, 3, 3, padding=1))
    with torch.no_grad():
        layer.weight.mul_(4)
    certify_(layer, to=1.0, input_shape="2x4x4")
    geometry = geometry_of(layer)
    truth = singular_values(conv_matrix(layer.weight.detach().double(), geometry, (2, 4, 4))).max()
    assert 0.9 < float(truth) <= 1.0


def test_certificates_of_weight_norm_and_of_tied_layers() -> None:
    torch.manual_seed(0)
    conv: Any = parametrizations.weight_norm(nn.Conv2d(3, 3, 3, padding=1))
    down, up = nn.Conv2d(3, 3, 4, stride=2, padding=1), nn.ConvTranspose2d(3, 3, 4, stride=4)
    up.weight = down.weight
    model: Any = nn.Sequential(conv, down, up)
    found = certify_(model, to=0.4)
    assert [one.name for one in found] == ["0", "1", "2"]
    assert parametrize.is_parametrized(conv, "weight")
    assert up.weight is down.weight
    for part in (conv, down, up):
        weight = part.weight.detach().double()
        assert frequency_maximum(weight, geometry_of(part), 60) <= 0.4


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_nothing_is_changed_where_a_layer_cannot_be_certified() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4), parametrizations.orthogonal(nn.Linear(4, 4)))
    stuck: Any = nn.Sequential(nn.Linear(4, 4), weight_norm(nn.Linear(4, 4)))
    kept = copy.deepcopy(stuck.state_dict())
    with pytest.raises(NotCertified, match="hook"):
        certify_(stuck, to=0.1)
    assert all(torch.equal(value, kept[key]) for key, value in stuck.state_dict().items())
    with pytest.raises(NotCertified, match=r"layer '1' .* does not keep"):
        certify_(model, to=0.1)


def test_what_cannot_be_written_may_meet_the_limit_already() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), parametrizations.orthogonal(nn.Linear(4, 4)))
    found = certify_(model, to=1.001)
    assert found[1].after.upper <= 1.001
    assert found[1].change == 0
    with pytest.raises(NotCertified, match="not initialized"):
        certify_(nn.LazyLinear(3))


def test_the_package_is_reached_both_ways() -> None:
    assert lipaudit.torch.clip_ is clip_
