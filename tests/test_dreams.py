"""Images made by a network: the released recipe to the printed digit, one core, batches, seeds, transfer."""

import copy
import csv

import numpy as np
import pytest
import torch
from torch import nn

import lensfind
from lensfind import LensFinder, LensfindError
from lensfind.finder import probability
from lensfind.interpretation import class_image, deep_dream, kernel_image, kernels, transfer
from lensfind.interpretation.drawing import gif
from lensfind.interpretation.dreams import field_of_view
from lensfind.interpretation.optimise import Recipe, optimise
from tests.conftest import noise_stamps


@pytest.fixture(scope="module")
def finder() -> LensFinder:
    torch.manual_seed(3)
    return LensFinder("ou66", ("J", "H")).eval()


@pytest.mark.slow
def test_paper_recipe_reproduces_the_golden_reference(reference):
    """Every printed loss, and P to 1e-6, over the 99 steps of the released notebook."""
    folder = reference / "published"
    finder = lensfind.load(folder / "OU_200_Weights.pt")
    with (folder / "class_image_ou200_nonlens.csv").open(newline="") as file:
        golden = list(csv.DictReader(file))
    start = str(folder / "input_noise_OU200.npy")
    made = class_image(finder, target="non_lens", recipe="paper", start=start, every=1)
    assert made.objective.shape == (len(golden), 1) == (99, 1)
    assert [f"{-value:.2f}" for value in made.objective[:, 0]] == [row["minus_logit"] for row in golden]
    with torch.no_grad():
        p_lens = torch.cat([probability(finder(torch.from_numpy(frame))) for frame in made.frames[:99]]).numpy()
    assert np.abs(p_lens - [float(row["p_lens"]) for row in golden]).max() < 1e-6
    assert np.abs(1 - p_lens - [float(row["p_nonlens"]) for row in golden]).max() < 1e-6


@pytest.mark.parametrize(
    "settings", [{"tv": 0.0, "jitter": 0, "flips": False}, {"tv": 1.0, "fourier": True}, {"recipe": "paper"}]
)
def test_ascent_climbs_and_stays_an_image(finder, settings):
    made = class_image(finder, target="lens", n=2, steps=12, every=5, **settings)
    assert made.images.shape == (2, 2, 66, 66)
    assert made.steps.tolist() == [0, 5, 10, 12]
    assert made.frames.shape == (4, 2, 2, 66, 66)
    assert made.images.min() >= -1e-6
    assert made.images.max() <= 1 + 1e-6
    with torch.no_grad():
        first, last = (finder(torch.from_numpy(made.frames[k])).diff()[:, 0] for k in (0, -1))
    assert (last > first).all()
    np.testing.assert_array_equal(made.frames[-1], made.images)


def test_seeded_runs_are_identical_and_seeds_matter(finder):
    one, same, other = (class_image(finder, n=1, steps=5, seed=seed).images for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.1


def test_a_batch_is_its_singles(finder):
    stamps = noise_stamps(2, bands=finder.bands)
    together = deep_dream(finder, stamps, steps=6)
    first = deep_dream(finder, {band: cube[:1] for band, cube in stamps.items()}, steps=6)
    np.testing.assert_allclose(first.images[0], together.images[0], atol=1e-4)
    start = torch.rand(2, 2, 66, 66, generator=torch.Generator().manual_seed(0))
    both = class_image(finder, recipe="paper", start=start, steps=6).images
    np.testing.assert_allclose(
        class_image(finder, recipe="paper", start=start[1:], steps=6).images[0], both[1], atol=1e-5
    )


def test_penalties_do_what_they_say():
    start = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0))

    def push(images):
        return 10 * images[:, :, :10].mean((1, 2, 3))

    plain = Recipe(steps=30, scale="none", jitter=0, flips=False, tv=0)
    free = optimise(push, start, plain).images
    near = optimise(push, start, Recipe(**{**vars(plain), "distance": 100.0})).images
    smooth = optimise(push, start, Recipe(**{**vars(plain), "tv": 20.0})).images
    assert np.abs(near - start.numpy()).mean() < 0.5 * np.abs(free - start.numpy()).mean()
    assert np.abs(np.diff(smooth)).mean() < 0.5 * np.abs(np.diff(free)).mean()
    np.testing.assert_array_equal(free[:, :, 10:], start.numpy()[:, :, 10:])


def test_kernel_images_raise_their_own_kernel_and_all_fit_in_a_batch(finder):
    made = kernel_image(finder, layer="layer.4", kernels=[0, 7], recipe="paper")
    with torch.no_grad():
        first, last = (finder.net.layer[:5](torch.from_numpy(made.frames[k])).mean((2, 3)) for k in (0, -1))
    assert last[0, 0] > first[0, 0]
    assert last[1, 7] > first[1, 7]
    assert len(made.objective) == 50
    # Later rounding decides which pixel of a pool is the larger one, and Adam makes much of it.
    both, single = (kernel_image(finder, layer="layer.4", kernels=k, recipe="paper", steps=15) for k in ([0, 7], 7))
    np.testing.assert_allclose(single.images[0], both.images[1], atol=2e-4)
    assert kernel_image(finder, steps=1).images.shape == (50, 2, 66, 66)


def test_nothing_stays_behind():
    torch.manual_seed(0)
    finder = LensFinder("ou66", ("J",)).train()
    before, state = copy.deepcopy(finder.state_dict()), torch.get_rng_state()
    deep_dream(finder, noise_stamps(1, bands=("J",)), steps=2)
    kernel_image(finder, kernels=[1], steps=2)
    class_image(finder, n=1, steps=2, recipe="paper")
    assert all(module.training for module in finder.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in finder.parameters())
    assert all(torch.equal(value, before[key]) for key, value in finder.state_dict().items())
    assert not any(module._forward_hooks or module._backward_hooks for module in finder.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_start_that_no_gradient_leaves_is_refused(finder):
    """Noise of single pixels leaves the published OU-200 dead; here all ReLUs are shut by hand."""
    dead = copy.deepcopy(finder)
    with torch.no_grad():
        dead.net.layer[0].bias.fill_(-1e3)
    with pytest.raises(LensfindError, match="gradients of exactly zero"):
        class_image(dead, n=1, steps=2)


def test_published_ou200_can_leave_our_noise(reference):
    finder = lensfind.load(reference / "published" / "OU_200_Weights.pt")
    made = class_image(finder, n=1, steps=2, recipe="paper")
    assert made.objective[1] > made.objective[0]


def test_transfer_scores_as_other_networks_see_it():
    torch.manual_seed(0)
    maker, same, vis = (LensFinder("ou66", bands).eval() for bands in (("J", "H"), ("H",), ("VIS",)))
    images = np.random.default_rng(0).random((3, 2, 66, 66), dtype=np.float32)
    scores = transfer(images, maker, {"h": same, "vis": vis})
    assert scores["vis"] is None
    np.testing.assert_allclose(scores["h"], same.predict_proba({"H": images[:, 1]}).numpy(), atol=1e-6)


def test_kernels_are_the_first_weights(finder):
    weights = kernels(finder)
    assert weights.shape == (50, 2, 3, 3)
    np.testing.assert_array_equal(weights, finder.net.layer[0].weight.detach().numpy())
    assert [field_of_view(finder, f"layer.{k}") for k in (0, 2, 4)] == [3, 4, 8]
    with pytest.raises(LensfindError, match="a network with a convolution"):
        kernels(type("Bare", (), {"net": nn.Linear(2, 2)})())


def test_a_gif_moves():
    from io import BytesIO

    from PIL import Image

    frames = np.random.default_rng(0).random((3, 2, 30, 30), dtype=np.float32)
    with Image.open(BytesIO(gif(frames, ["a", "b", "c"], ["J", "H"]))) as image:
        assert image.n_frames == 3
        assert image.size == (2 * 122, 148)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: class_image(f, target="star"), "target to be one of lens"),
        (lambda f: class_image(f, recipe="fast"), "recipe to be one of default"),
        (lambda f: class_image(f, n=0), "n of 1 or more"),
        (lambda f: class_image(f, steps=0), "steps >= 1"),
        (lambda f: class_image(f, rate=-1), "steps >= 1, rate > 0"),
        (lambda f: class_image(f, colour=1), "settings out of steps"),
        (lambda f: class_image(f, start="nowhere.npy"), "an image to start from"),
        (lambda f: class_image(f, start=np.zeros((1, 4, 200, 200))), r"finite images \(n, 2, 66, 66\)"),
        (lambda f: kernel_image(f, layer="layer.1"), r"layer.0 \(Conv2d\)"),
        (lambda f: kernel_image(f, kernels=[50]), "kernels of layer.0, 0 to 49"),
        (lambda f: kernel_image(f, kernels=[]), "kernels of layer.0"),
        (lambda f: deep_dream(f, noise_stamps(1, bands=("VIS",))), "missing: J, H"),
    ],
)
def test_bad_settings_are_refused(finder, call, message):
    with pytest.raises(LensfindError, match=message) as error:
        call(finder)
    assert len(error.value.args) == 3


def test_a_gif_is_wide_enough_for_its_score():
    import io

    from PIL import Image, ImageDraw

    from lensfind.interpretation.drawing import gif

    line = "ou66-vis to non_lens, step 100: P(lens) = 0.1234"
    with Image.open(io.BytesIO(gif(np.zeros((2, 1, 8, 8), np.float32), [line, line], ["VIS"]))) as picture:
        assert picture.width >= ImageDraw.Draw(Image.new("L", (1, 1))).textlength(line) + 3
