"""The judge itself: a network whose reasons are known must come out well, a random one like chance."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lensfind import LensFinder, LensfindError
from lensfind.interpretation import Truth, faithfulness
from lensfind.interpretation.faithfulness import METHODS, relevance
from lensfind.interpretation.measures import cascade, deletion_insertion, localisation, similarity
from lensfind.interpretation.occlusion import occlusion, spread

CELL = 11


class Planted(nn.Module):
    """log-odds = how much brighter than the sky the planted patch can be seen anywhere; a toy with body and head."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 66
        self.layer = nn.Sequential(nn.Conv2d(1, 2, 5), nn.ReLU(), nn.Dropout(0.2))
        self.fc_layer = nn.Sequential(nn.Linear(2 * 62 * 62, 2))
        with torch.no_grad():
            self.layer[0].weight.zero_()
            self.layer[0].weight[0] = 0.04
            self.layer[0].bias.copy_(torch.tensor([-0.6, 0.0]))
            self.fc_layer[0].weight.zero_()
            self.fc_layer[0].weight[1, : 62 * 62] = 1.0
            self.fc_layer[0].bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc_layer(self.layer(x).flatten(1))


def planted(n: int, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray]]:
    """Noise with a bright patch of 11 x 11 pixels at random places; its mask on the VIS grid; the same without it."""
    rng = np.random.default_rng(seed)
    twins = rng.uniform(0, 0.4, (n, 66, 66)).astype(np.float32)
    twins[:, 0, 0], twins[:, 0, 65] = 0.0, 1.0  # one range for all, so that scaling takes nothing away
    stamps, mask = twins.copy(), np.zeros((n, 200, 200), bool)
    for k in range(n):
        row, column = rng.integers(2, 66 - CELL - 2, 2)
        stamps[k, row : row + CELL, column : column + CELL] = rng.uniform(0.85, 1)
        first = [round(a * 200 / 66) for a in (row, column)]
        mask[k, first[0] : first[0] + 33, first[1] : first[1] + 33] = True
    return {"H": stamps}, mask, {"H": twins}


@pytest.fixture(scope="module")
def toy() -> LensFinder:
    finder = LensFinder("ou66", ("H",))
    finder.net = Planted()
    return finder.eval()


def test_the_planted_patch_is_found_and_a_random_network_scores_chance(toy):
    stamps, mask, twins = planted(12)
    settings = {name: {"layer": "layer.1"} for name in ("grad_cam", "guided_grad_cam")}
    methods = [m for m in METHODS if m != "occlusion"]
    verdicts = faithfulness(toy, stamps, Truth(mask, twins), methods=methods, settings=settings, perturbations=1)
    for verdict in verdicts:
        assert np.mean(verdict.pointing) == 1.0, verdict.method
        assert np.mean(verdict.mass) > 0.8, verdict.method
        assert np.mean(verdict.rank) > 0.8, verdict.method
        assert np.mean(verdict.deletion) < np.mean(verdict.random_deletion), verdict.method
        assert np.mean(verdict.insertion) > np.mean(verdict.random_insertion), verdict.method
        assert verdict.pairs == 12
    whole = next(v for v in verdicts if v.method == "integrated_gradients")
    assert whole.causal > 0.5
    assert np.mean(verdicts[0].chance) == pytest.approx(CELL**2 / 66**2, rel=0.2)


def test_a_randomised_network_scores_chance(toy):
    """The same network with random weights, a new draw per stamp: the patch is no more than any other place."""
    stamps, mask, _ = planted(24)
    images, maker, hits = toy.preprocess(stamps), relevance("gradient"), []
    masks = mask[:, 1::3, 1::3][:, :66, :66]
    for seed in range(10):
        random = list(cascade(toy, seed))[-1][1]
        maps = maker(random, images).abs().sum(1).double().numpy()
        hits += [localisation(one, there)[0] for one, there in zip(maps, masks, strict=True)]
    chance = masks.mean()
    assert np.mean(hits) == pytest.approx(chance, abs=4 * np.sqrt(chance / len(hits)))


def test_occlusion_finds_the_patch_too(toy):
    stamps, mask, _ = planted(4)
    (verdict,) = faithfulness(toy, stamps, Truth(mask), methods=["occlusion"], perturbations=1)
    assert np.mean(verdict.pointing) == 1.0
    assert np.isnan(verdict.causal)


def test_localisation_by_hand():
    relevance_map = np.zeros((4, 4))
    mask = np.zeros((4, 4), bool)
    mask[0, :2] = True
    relevance_map[0, 0], relevance_map[3, 3], relevance_map[2, 2] = 3, 2, -9
    assert localisation(relevance_map, mask) == (1.0, 0.6, 0.5)
    assert localisation(np.zeros((4, 4)), mask) == (2 / 16, 0.0, 2 / 16)  # nothing said: chance
    assert localisation(mask.astype(float), mask) == (1.0, 1.0, 1.0)


def test_deletion_and_insertion_of_a_known_ranking(toy):
    """The planted patch first: all of the score goes (comes) at once."""
    stamps, *_ = planted(1)
    with torch.no_grad():
        image = toy.preprocess(stamps)[0]
        best = (image[0] > 0.5).double().numpy()
        first, last = deletion_insertion(toy, image, best), deletion_insertion(toy, image, -best)
        whole = float(toy(image[None]).diff())
    assert first[0] < 0.3 * whole < 0.6 * whole < first[1]
    assert last[0] > first[0]
    assert last[1] < first[1]


def test_similarity_of_maps():
    one = torch.randn(2, 30, 30, generator=torch.Generator().manual_seed(0))
    other = torch.randn(2, 30, 30, generator=torch.Generator().manual_seed(1))
    assert similarity(one, one) == pytest.approx((1.0, 1.0))
    assert similarity(one, -one)[0] == pytest.approx(1.0)
    rank, ssim = similarity(one, other)
    assert rank < 0.1
    assert ssim < 0.2
    assert similarity(one, torch.zeros_like(one)) == (0.0, 0.0)


def test_cascade_randomises_from_the_head_and_leaves_the_network_alone():
    torch.manual_seed(0)
    finder = LensFinder("ou66", ("J",)).eval()
    for name, value in finder.net.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(value)
    before = copy.deepcopy(finder.net.state_dict())
    stages = []
    for name, random in cascade(finder, 0):
        stages.append(name)
        changed = {k for k, v in random.net.state_dict().items() if not torch.equal(v, before[k])}
        assert changed == {f"{stage}.{kind}" for stage in stages for kind in ("weight", "bias")}
    assert stages[:2] == ["fc_layer.2", "fc_layer.0"]
    assert stages[-1] == "layer.0"
    assert all(torch.equal(v, before[k]) for k, v in finder.net.state_dict().items())
    again = [copy.deepcopy(random.net.state_dict()) for _, random in cascade(finder, 0)]
    assert all(torch.equal(v, again[-1][k]) for k, v in random.net.state_dict().items())


def test_seeded_and_nothing_stays_behind(toy):
    stamps, mask, twins = planted(4)
    state, modes = torch.get_rng_state(), [module.training for module in toy.modules()]
    rows = [
        faithfulness(toy, stamps, Truth(mask, twins), methods=["gradient"], perturbations=4)[0].row() for _ in range(2)
    ]
    assert rows[0] == rows[1]
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in toy.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in toy.parameters())


def test_infidelity_of_the_right_answer_is_small():
    """For a linear network the gradient predicts every perturbation, so infidelity is zero."""
    finder = LensFinder("ou66", ("H",))
    finder.net = nn.Sequential(nn.Flatten(), nn.Linear(66 * 66, 2))
    finder.net.size = 66
    stamps, *_ = planted(2)
    (verdict,) = faithfulness(finder.eval(), stamps, methods=["gradient"], perturbations=8)
    assert np.max(verdict.infidelity) < 1e-4
    assert np.max(verdict.sensitivity) < 1e-5
    assert not verdict.pointing


def test_guided_backprop_of_a_published_network_fails_and_gradient_passes(reference, store):
    import lensfind
    from lensfind.data import Store
    from lensfind.interpretation import randomisation

    finder = lensfind.load(reference / "published" / "OU_66_Weights.pt")
    data = Store(store)
    images = finder.preprocess(data.read(np.flatnonzero(data.catalogue["label"])[:4]))
    fails = {
        m: randomisation(finder, images, m, relevance(m)).fails_randomisation for m in ("gradient", "guided_backprop")
    }
    assert fails == {"gradient": False, "guided_backprop": True}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"methods": []}, "methods to judge"), ({"methods": ["tarot"]}, "methods to be one of occlusion")],
)
def test_bad_settings(toy, settings, message):
    stamps, mask, _ = planted(1)
    with pytest.raises(LensfindError, match=message):
        faithfulness(toy, stamps, Truth(mask), **settings)
    with pytest.raises(LensfindError, match="MASK has pixels"):
        faithfulness(toy, stamps, Truth(np.zeros_like(mask)), methods=["gradient"])


@pytest.mark.parametrize(("window", "stride"), [(7, 7), (20, 2), (12, 2), (11, 11)])
def test_a_planted_patch_is_centred_whatever_the_squares(toy, window, stride):
    _, _, stamps = planted(1)
    stamps["H"][0, 25 : 25 + CELL, 31 : 31 + CELL] = 0.9  # far enough from the edges for whole squares around it
    settings = {"window": window, "stride": stride}
    maps = occlusion(toy, stamps, baseline="sky", score="log_odds", **settings)
    assert maps.shape[1] == -(-(66 - window) // stride) + 1
    spread_out = -spread(toy, torch.from_numpy(maps), **settings).numpy()
    judged = relevance("occlusion", settings)(toy, toy.preprocess(stamps))[:, 0].numpy()
    np.testing.assert_allclose(judged, spread_out, atol=1e-4)
    one = np.clip(spread_out[0], 0, None)
    found = [(one.sum(axis) * np.arange(66)).sum() / one.sum() for axis in (1, 0)]
    np.testing.assert_allclose(found, (30, 36), atol=1.2)
