"""Occlusion maps: against a network whose map is known, against captum, and against brute force."""

import copy

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from torch import nn

import lensfind
from lensfind import LensFinder, LensfindError
from lensfind.finder import probability
from lensfind.interpretation import occlusion
from tests.conftest import noise_stamps


class Linear(nn.Module):
    """logit(lens) = sum of weight * image, logit(non-lens) = 0."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.size = weight, weight.shape[-1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lens = (x.double() * self.weight).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(lens), lens], dim=1)


@pytest.fixture
def linear() -> LensFinder:
    """Two bands; light in the lower left quarter speaks for a lens, elsewhere against it."""
    finder = LensFinder("ou66", ("J", "H"))
    weight = -torch.full((2, 66, 66), 1e-3, dtype=torch.float64)
    weight[:, :33, :33] = 3e-3
    finder.net = Linear(weight)
    return finder


@pytest.mark.parametrize(("window", "stride", "side"), [(1, 1, 66), (6, 6, 11), (7, 5, 13), (8, 3, 21), (66, 1, 1)])
def test_linear_network_gives_the_analytic_map(linear, window, stride, side):
    stamps = noise_stamps(2, bands=("J", "H"))
    x = linear.preprocess(stamps).double()
    maps = occlusion(linear, stamps, window=window, stride=stride)
    assert maps.shape == (2, side, side)
    assert maps.dtype == np.float32
    light = (x * linear.net.weight).sum(1)
    logit = light.sum((1, 2))
    for row in range(side):
        for column in range(side):
            r, c = row * stride, column * stride
            lost = light[:, r : r + window, c : c + window].sum((1, 2))
            expected = torch.sigmoid(logit - lost) - torch.sigmoid(logit)
            np.testing.assert_allclose(maps[:, row, column], expected.numpy(), atol=1e-7)


def test_covering_lens_evidence_is_negative(linear):
    maps = occlusion(linear, noise_stamps(1, bands=("J", "H")), window=33)
    assert maps[0, 0, 0] < 0
    assert (maps[0].ravel()[1:] > 0).all()


@pytest.mark.parametrize(("architecture", "bands", "side"), [("ou66", ("J", "H"), 66), ("ou200", ("VIS",), 50)])
def test_the_papers_settings(architecture, bands, side, monkeypatch):
    finder = LensFinder(architecture, bands).eval()
    # The squares only, not 2,500 passes through the network.
    monkeypatch.setattr(finder, "forward", lambda x: torch.stack([x.mean((1, 2, 3)), x.mean((1, 2, 3)) * 2], dim=1))
    assert occlusion(finder, noise_stamps(1, bands=bands)).shape == (1, side, side)


def test_agrees_with_captum_where_squares_do_not_overlap():
    finder = LensFinder("ou66", ("H",)).eval()
    stamps = noise_stamps(1, bands=("H",))
    captum = Occlusion(lambda x: probability(finder(x))).attribute(
        finder.preprocess(stamps), (1, 11, 11), strides=(1, 11, 11), perturbations_per_eval=8
    )
    np.testing.assert_allclose(
        occlusion(finder, stamps, window=11)[0], -captum[0, 0, ::11, ::11].detach().numpy(), atol=2e-6
    )


def test_batches_do_not_matter_and_nothing_stays_behind():
    finder = LensFinder("ou66", ("J",)).train()
    finder.net.requires_grad_(True)
    before = copy.deepcopy(finder.state_dict())
    stamps = noise_stamps(2, bands=("J",))
    kept = stamps["J"].copy()
    together = occlusion(finder, stamps, window=11, batch_size=64)
    np.testing.assert_allclose(occlusion(finder, stamps, window=11, batch_size=5), together, atol=1e-6)
    for k in range(2):
        single = occlusion(finder, {"J": stamps["J"][k : k + 1]}, window=11)
        np.testing.assert_allclose(single[0], together[k], atol=1e-6)
    assert finder.training
    assert all(module.training for module in finder.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in finder.parameters())
    assert all(torch.equal(value, before[key]) for key, value in finder.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in finder.modules())
    np.testing.assert_array_equal(stamps["J"], kept)


def test_published_network_against_brute_force(reference):
    """A corner, the centre and the far edge of an OU-66 map, occluded by hand."""
    finder = lensfind.load(reference / "published" / "OU_66_Weights.pt")
    stamps = noise_stamps(1)
    maps = occlusion(finder, stamps, window=22)
    x = finder.preprocess(stamps)
    for row, column in ((0, 0), (1, 1), (2, 1)):
        covered = x.clone()
        covered[..., row * 22 : row * 22 + 22, column * 22 : column * 22 + 22] = 0
        expected = (probability(finder(covered)) - probability(finder(x))).item()
        assert maps[0, row, column] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 67}, "window of 1 to 66"),
        ({"window": 0}, "window of 1 to 66"),
        ({"window": 2.0}, "window of 1 to 66"),
        ({"window": 4, "stride": 5}, "stride of 1 to 4"),
        ({"stride": 0}, "stride of 1 to 1"),
        ({"batch_size": 0}, "batch size"),
    ],
)
def test_bad_settings(linear, settings, message):
    with pytest.raises(LensfindError, match=message):
        occlusion(linear, noise_stamps(1, bands=("J", "H")), **settings)


def test_mode_returns_after_an_error(linear):
    linear.train()
    with pytest.raises(LensfindError, match="missing: H"):
        occlusion(linear, noise_stamps(1, bands=("J",)))
    assert linear.training
