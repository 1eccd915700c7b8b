"""Gradient methods against the released rules, captum and analytic answers; the network is left as it was."""

import copy

import numpy as np
import pytest
import torch
from captum.attr import GuidedBackprop, LayerAttribution, LayerGradCam
from torch import nn

import lensfind
from lensfind import LensFinder, LensfindError
from lensfind.interpretation import (
    grad_cam,
    gradient,
    guided_backprop,
    guided_grad_cam,
    integrated_gradients,
    occlusion,
)
from lensfind.interpretation.incremental import Incremental
from lensfind.interpretation.probe import default_layer, find_layer, score, sky
from tests.conftest import noise_stamps
from tests.test_interpretation import Linear

METHODS = (gradient, integrated_gradients, grad_cam, guided_backprop, guided_grad_cam)


@pytest.fixture(scope="module")
def finder() -> LensFinder:
    torch.manual_seed(1)
    return LensFinder("ou66", ("J", "H")).eval()


def released_guided_backprop(finder: LensFinder, x: torch.Tensor) -> torch.Tensor:
    """The rule as released: clamp what leaves each ReLU of the body backwards; the head's stays as it is."""
    hooks = [
        module.register_full_backward_hook(lambda module, grad_in, grad_out: (grad_in[0].clamp(min=0),))
        for module in finder.net.layer
        if isinstance(module, nn.ReLU)
    ]
    x = x.clone().requires_grad_()
    finder.net.fc_layer(finder.net.layer(x).flatten(1))[:, 1].sum().backward()
    for hook in hooks:
        hook.remove()
    finder.zero_grad()
    return x.grad


def test_guided_backprop_is_the_released_rule(finder):
    stamps = noise_stamps(2, bands=finder.bands)
    expected = released_guided_backprop(finder, finder.preprocess(stamps))
    np.testing.assert_allclose(guided_backprop(finder, stamps), expected.numpy(), rtol=1e-5, atol=1e-8)


def test_guided_head_is_captums(finder):
    stamps = noise_stamps(1, bands=finder.bands)
    expected = GuidedBackprop(finder.net).attribute(finder.preprocess(stamps).requires_grad_(), target=1)
    ours = guided_backprop(finder, stamps, guide_head=True)
    np.testing.assert_allclose(ours, expected.detach().numpy(), rtol=1e-5, atol=1e-8)
    assert np.abs(ours - guided_backprop(finder, stamps)).max() > 1e-6


@pytest.mark.parametrize(("target", "number"), [("non_lens", 0), ("lens", 1)])
def test_grad_cam_from_zero_is_captums_with_relu(finder, target, number):
    """Wilde+22's sum over channels, but begun at zeros and not at ones, which is what disabled its ReLU."""
    stamps = noise_stamps(2, bands=finder.bands)
    x = finder.preprocess(stamps)
    name, module = find_layer(finder, None)
    place = int(name.split(".")[1]) + 1
    maps = finder.net.layer[:place](x).detach().requires_grad_()
    logits = finder.net.fc_layer(finder.net.layer[place:](maps).flatten(1))
    (slope,) = torch.autograd.grad(logits[:, number].sum(), maps)
    cam = torch.zeros(2, *maps.shape[2:])
    for channel in range(maps.shape[1]):
        cam = cam + slope.mean((2, 3))[:, channel, None, None] * maps[:, channel].detach()
    cam = nn.functional.interpolate(cam.clamp(min=0)[:, None], x.shape[2:], mode="bilinear", align_corners=False)
    captum = LayerGradCam(finder.net, module).attribute(x.requires_grad_(), target=number, relu_attributions=True)
    captum = LayerAttribution.interpolate(captum, tuple(x.shape[2:]), interpolate_mode="bilinear")
    ours = grad_cam(finder, stamps, score="logit", target=target)
    assert ours.shape == (2, 1, 66, 66)
    assert ours.min() == 0
    np.testing.assert_allclose(ours, cam.numpy(), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(ours, captum.detach().numpy(), rtol=1e-4, atol=1e-7)


def test_guided_grad_cam_is_the_product(finder):
    stamps = noise_stamps(1, bands=finder.bands)
    product = grad_cam(finder, stamps, score="logit") * guided_backprop(finder, stamps)
    np.testing.assert_allclose(guided_grad_cam(finder, stamps), product, rtol=1e-5, atol=1e-9)


def linear_finder() -> LensFinder:
    finder = LensFinder("ou66", ("J", "H"))
    finder.net = Linear(torch.randn(2, 66, 66, generator=torch.Generator().manual_seed(0)).double())
    return finder


def test_a_linear_network_has_its_weights_as_gradient():
    finder, stamps = linear_finder(), noise_stamps(2, bands=("J", "H"))
    np.testing.assert_allclose(gradient(finder, stamps)[1], finder.net.weight.numpy(), rtol=1e-6)
    np.testing.assert_allclose(gradient(finder, stamps, target="non_lens"), -gradient(finder, stamps))


def test_integrated_gradients_of_a_linear_network_and_their_sum(finder):
    linear, stamps = linear_finder(), noise_stamps(1, bands=("J", "H"))
    x = linear.preprocess(stamps)
    expected = (x - sky(x)) * linear.net.weight
    np.testing.assert_allclose(integrated_gradients(linear, stamps, steps=4), expected.numpy(), atol=1e-5)
    x = finder.preprocess(stamps)
    with torch.no_grad():
        difference = float(score(finder(x)) - score(finder(sky(x).expand_as(x))))
    assert integrated_gradients(finder, stamps, steps=128).sum() == pytest.approx(difference, abs=0.02)


def test_occlusion_of_one_band_is_analytic_per_band():
    finder, stamps = linear_finder(), noise_stamps(1, bands=("J", "H"))
    x = finder.preprocess(stamps).double()
    each = occlusion(finder, stamps, window=11, bands="each", score="log_odds")
    light = (x * finder.net.weight)[0].reshape(2, 6, 11, 6, 11).sum((2, 4))
    np.testing.assert_allclose(each[0], -light.numpy(), atol=2e-5)
    only = occlusion(finder, stamps, window=11, bands=["H"], score="log_odds")
    np.testing.assert_allclose(only[0], each[0, 1], atol=1e-6)
    both = occlusion(finder, stamps, window=11, score="log_odds")
    np.testing.assert_allclose(both[0], each[0].sum(0), atol=2e-5)
    to_sky = occlusion(finder, stamps, window=11, score="log_odds", baseline="sky")
    light = ((x - sky(x)) * finder.net.weight)[0].reshape(2, 6, 11, 6, 11).sum((0, 2, 4))
    np.testing.assert_allclose(to_sky[0], -light.numpy(), atol=2e-5)


def test_occlusion_in_native_pixels_by_hand():
    """OU-66 sees VIS at 0.303 arcsec; the squares are cut out of its own 0.1 arcsec pixels, and of J's 0.3 arcsec."""
    torch.manual_seed(0)
    finder = LensFinder("ou66", ("J", "VIS")).eval()
    stamps = noise_stamps(1, bands=("J", "VIS"))
    maps = occlusion(finder, stamps, window=50, grid="native", score="log_odds")
    assert maps.shape == (1, 4, 4)
    x = finder.preprocess(stamps)
    covered = {band: cube.copy() for band, cube in stamps.items()}
    low = {band: finder_low(finder, stamps, band) for band in stamps}
    covered["VIS"][0, 50:100, 100:150] = low["VIS"][0]
    covered["J"][0, 16:33, 33:50] = low["J"][0]  # centres within 5 arcsec: (p - 32.5) * 0.3 in [-5, 0) and [0, 5)
    scaled = [
        (lensfind.finder.resample(torch.from_numpy(covered[b]), 66) - low[b][0]) / (low[b][1] - low[b][0])
        for b in ("J", "VIS")
    ]
    with torch.no_grad():
        expected = float(score(finder(torch.stack(scaled, 1))) - score(finder(x)))
    assert maps[0, 1, 2] == pytest.approx(expected, abs=1e-5)


def finder_low(finder: LensFinder, stamps: dict, band: str) -> tuple[float, float]:
    image = lensfind.finder.resample(torch.from_numpy(stamps[band]), finder.net.size)
    return float(image.min()), float(image.max())


@pytest.mark.parametrize(("architecture", "window", "stride"), [("ou66", 1, 1), ("ou66", 7, 5), ("ou200", 4, 4)])
def test_incremental_occlusion_equals_whole_passes(architecture, window, stride):
    """Corners, edges and the middle, each computed in full."""
    torch.manual_seed(0)
    finder = LensFinder(architecture, ("H",)).eval()
    x = finder.preprocess(noise_stamps(1, bands=("H",)))
    level = sky(x)[0, :, 0, 0]
    incremental = Incremental(finder, x[0], window, level, [0])
    assert incremental.cut > 0
    last = finder.net.size - window
    corners = [(0, 0), (0, last), (last, 0), (last, last), (last // 2, last // 3), (13 * stride, 2 * stride), (65, 3)]
    corners = [tuple(min(a, last + stride - 1) for a in corner) for corner in corners]
    with torch.no_grad():
        ours = incremental(corners)
        for k, (row, column) in enumerate(corners):
            covered = x.clone()
            covered[:, :, row : row + window, column : column + window] = level
            np.testing.assert_allclose(ours[k].numpy(), finder(covered)[0].numpy(), atol=2e-5)
        # One square at a time, and again: the kept maps must not take the squares in.
        for _ in range(2):
            alone = torch.cat([incremental([corner]) for corner in corners])
            np.testing.assert_allclose(alone.numpy(), ours.numpy(), atol=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_singles_and_nothing_stays_behind(method):
    torch.manual_seed(0)
    finder = LensFinder("ou66", ("J",)).train()
    finder.net.layer[3].eval()  # mixed modes must come back too
    modes = [module.training for module in finder.modules()]
    before = copy.deepcopy(finder.state_dict())
    stamps = noise_stamps(3, bands=("J",))
    state = torch.get_rng_state()
    together = method(finder, stamps)
    assert torch.equal(torch.get_rng_state(), state)
    for k in range(3):
        single = method(finder, {"J": stamps["J"][k : k + 1]})
        np.testing.assert_allclose(single[0], together[k], rtol=1e-4, atol=1e-4 * np.abs(together).max())
    np.testing.assert_array_equal(method(finder, stamps), together)
    assert [module.training for module in finder.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in finder.parameters())
    assert all(torch.equal(value, before[key]) for key, value in finder.state_dict().items())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    assert not any(getattr(module, kind) for module in finder.modules() for kind in hooks)


def test_default_layers_can_resolve_an_arc():
    assert default_layer(LensFinder("ou66", ("J",))) == "layer.5"
    assert default_layer(LensFinder("ou200", ("VIS",))) == "layer.9"


@pytest.mark.parametrize("method", [guided_backprop, guided_grad_cam])
def test_guided_methods_refuse_a_network_without_relu_modules(finder, method):
    other = copy.deepcopy(finder)
    for number, module in enumerate(other.net.layer):
        if isinstance(module, nn.ReLU):
            other.net.layer[number] = nn.ELU()
    settings = {"layer": "layer.1"} if method is guided_grad_cam else {}
    with pytest.raises(LensfindError, match=r"nn\.ReLU modules"):
        method(other, noise_stamps(1, bands=finder.bands), **settings)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (grad_cam, {"layer": "layer.99"}, "a layer of ou66-jh: layer.0"),
        (grad_cam, {"layer": "fc_layer.1"}, "a layer of the body"),
        (gradient, {"score": "loss"}, "score to be one of log_odds"),
        (gradient, {"target": "galaxy"}, "target to be one of lens"),
        (gradient, {"batch_size": 0}, "batch size of 1"),
        (integrated_gradients, {"baseline": "black"}, "baseline to be one of sky"),
        (integrated_gradients, {"steps": 0}, "steps of 1"),
        (occlusion, {"grid": "sky"}, "grid to be one of network"),
        (occlusion, {"bands": ["VIS"]}, "missing: VIS"),
        (occlusion, {"baseline": "one", "window": 33}, "baseline to be one of zero"),
    ],
)
def test_bad_settings_are_refused_in_three_clauses(finder, method, settings, message):
    with pytest.raises(LensfindError, match=message) as error:
        method(finder, noise_stamps(1, bands=finder.bands), **settings)
    assert len(error.value.args) == 3


@pytest.mark.parametrize("name", ["J", "Y", "H", "JYH", "66", "VIS", "200"])
def test_all_seven_published_networks(reference, name):
    """Every method answers for each, finite, not zero, and per band where it is."""
    finder = lensfind.load(reference / "published" / f"OU_{name}_Weights.pt")
    rng = np.random.default_rng(0)
    stamps = noise_stamps(1)
    for cube in stamps.values():  # a galaxy, so that the scaled image is not all noise
        n = cube.shape[-1]
        y, x = (np.indices((n, n)) - n / 2) / n
        cube += np.exp(-(x**2 + y**2) / 0.003) * rng.uniform(0.5, 1)
    size, bands = finder.net.size, len(finder.bands)
    for method in METHODS:
        maps = method(finder, stamps, **({"steps": 4} if method is integrated_gradients else {}))
        assert maps.shape == (1, 1 if method is grad_cam else bands, size, size)
        assert np.isfinite(maps).all()
        # The ReLU of Grad-CAM may leave nothing for one class of a network that is sure of the other.
        either = [maps, method(finder, stamps, target="non_lens")] if "cam" in method.__name__ else [maps]
        assert any(np.abs(one).max() > 0 for one in either), method.__name__
    maps = occlusion(finder, stamps, window=size // 10, bands="each", score="log_odds")
    assert maps.shape[:2] == (1, bands)
    assert (np.abs(maps).reshape(bands, -1).max(1) > 0).all()
