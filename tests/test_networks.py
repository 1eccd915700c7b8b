"""Networks, preprocessing and the files that hold them, against the published weights and skimage."""

import csv
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from skimage.transform import resize

import lensfind
from lensfind import LensFinder, LensfindError
from lensfind.bands import BAND_SETS, BANDS
from lensfind.finder import resample
from lensfind.nets import OU66, OU200, Dropout
from tests.conftest import noise_stamps

# FACTS of Wilde et al. 2022: file, name, architecture, bands, parameters.
SEVEN = [
    ("OU_J_Weights.pt", "OU-J", OU66, "j", 201_842),
    ("OU_Y_Weights.pt", "OU-Y", OU66, "y", 201_842),
    ("OU_H_Weights.pt", "OU-H", OU66, "h", 201_842),
    ("OU_JYH_Weights.pt", "OU-JYH", OU66, "jyh", 202_742),
    ("OU_66_Weights.pt", "OU-66", OU66, "all", 203_192),
    ("OU_VIS_Weights.pt", "OU-VIS", OU200, "vis", 327_882),
    ("OU_200_Weights.pt", "OU-200", OU200, "all", 331_632),
]


@pytest.mark.parametrize(("file", "name", "net", "bands", "parameters"), SEVEN)
def test_published_files(file, name, net, bands, parameters, reference, tmp_path):
    """Every published file loads by content, under any name, into our own class, and gives the same logits."""
    path = shutil.copyfile(reference / "published" / file, tmp_path / "weights")
    finder = lensfind.load(path)
    assert finder.provenance == {"source": "published", "name": name}
    assert finder.bands == BAND_SETS[bands]
    assert finder.n_parameters == parameters == sum(p.numel() for p in net(len(finder.bands)).parameters())
    assert not finder.training
    state = torch.load(path, map_location="cpu", weights_only=True)
    ours = net(len(finder.bands))
    ours.load_state_dict({key.replace("VIS_layer", "layer"): value for key, value in state.items()})
    stamps = noise_stamps(3, bands=finder.bands)
    x = finder.preprocess(stamps)
    assert x.shape == (3, len(finder.bands), finder.net.size, finder.net.size)
    torch.testing.assert_close(finder(x), ours.eval()(x))
    # An independent reading of the published state dict: nothing but functional calls.
    torch.testing.assert_close(finder(x), functional_forward(state, x, net is OU66), atol=1e-4, rtol=1e-4)


def functional_forward(state, x, ou66):
    """The paper's forward pass written out by hand from the tensors of a state dict."""
    pools = {0, 4, 8} if ou66 else {0, 1, 2, 3}
    convolutions = [key for key in state if "layer." in key and not key.startswith("fc") and key.endswith("weight")]
    for number, key in enumerate(convolutions):
        x = torch.relu(torch.conv2d(x, state[key], state[key.replace("weight", "bias")]))
        x = torch.max_pool2d(x, 2) if number in pools else x
    x = torch.relu(x.flatten(1) @ state["fc_layer.0.weight"].T + state["fc_layer.0.bias"])
    return x @ state["fc_layer.2.weight"].T + state["fc_layer.2.bias"]


def test_golden_reference(reference):
    """99 steps of class-image generation with OU-200, as printed by the released code."""
    finder = lensfind.load(reference / "published" / "OU_200_Weights.pt")
    x = torch.from_numpy(np.load(reference / "published" / "input_noise_OU200.npy")).float()
    with open(reference / "published" / "class_image_ou200_nonlens.csv", newline="") as file:
        printed = list(csv.DictReader(file))
    assert len(printed) == 99
    for step in printed:
        x = ((x - x.min()) / (x.max() - x.min())).requires_grad_()
        logits = finder(x)
        loss = -logits[0, 0]
        (gradient,) = torch.autograd.grad(loss, x)
        assert f"{loss.item():.2f}" == step["minus_logit"], f"step {step['step']}"
        p = torch.softmax(logits[0].detach(), 0)
        assert abs(p[0].item() - float(step["p_nonlens"])) < 1e-6
        assert abs(p[1].item() - float(step["p_lens"])) < 1e-6
        x = (x - 0.1 * gradient).clip(0, 1).detach()


@pytest.mark.parametrize(("size_in", "size_out"), [(200, 66), (66, 200), (66, 66)])
def test_resampling_is_skimages(size_in, size_out):
    """Order 1, anti-aliased when shrinking, to 1e-3 of the range (in fact to float32 rounding), in batch."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(4, size_in, size_in)).astype(np.float32) * 1e-11
    images[0, 70 % size_in, 3] = 1e-9  # a bright pixel near the edge
    ours = resample(torch.from_numpy(images), size_out).numpy()
    for image, got in zip(images, ours, strict=True):
        wanted = resize(image.astype(float), (size_out, size_out), order=1)
        assert np.abs(got - wanted).max() < 1e-5 * np.ptp(image)


def test_preprocess_scales_every_band_of_every_image():
    finder = LensFinder("ou200", BAND_SETS["all"], class_weights=[0.5, 0.5])
    x = finder.preprocess(noise_stamps(2))
    assert x.shape == (2, 4, 200, 200)
    assert x.dtype == torch.float32
    assert torch.equal(x.amin((2, 3)), torch.zeros(2, 4))
    assert torch.equal(x.amax((2, 3)), torch.ones(2, 4))


def test_predict_proba_takes_any_number_and_kind():
    """One stamp or many, numpy of either byte order or torch, any linear unit: the same P(lens), also in train mode."""
    finder = LensFinder("ou66", BAND_SETS["all"]).eval()
    stamps = noise_stamps(5)
    p = finder.predict_proba(stamps)
    assert p.shape == (5,)
    assert p.dtype == torch.float64
    assert bool(((p > 0) & (p < 1)).all())
    one = torch.cat([finder.predict_proba({b: s[i : i + 1] for b, s in stamps.items()}) for i in range(5)])
    torch.testing.assert_close(one, p, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(finder.predict_proba(stamps, batch_size=2), p, rtol=1e-5, atol=1e-7)
    big_endian = {b: s.astype(">f4") for b, s in stamps.items()}
    torch.testing.assert_close(finder.predict_proba(big_endian), p)
    tiny = {b: torch.from_numpy(s) * 1e-9 for b, s in stamps.items()}
    torch.testing.assert_close(finder.predict_proba(tiny), p, rtol=1e-3, atol=1e-5)
    finder.train()
    torch.testing.assert_close(finder.predict_proba(stamps), p)
    assert finder.training


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    """A finder in another precision takes the same stamps."""
    finder = LensFinder("ou66", ["H"]).to(dtype)
    assert finder.predict_proba(noise_stamps(2, bands=("H",)) | {"id": None}).shape == (2,)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("VIS"), "missing: VIS"),
        (lambda s: s.update(VIS=s["VIS"][:, :66, :66]), r"VIS \(N, 200, 200\)"),
        (lambda s: s.update(VIS=s["VIS"][0]), r"VIS \(200, 200\)"),
        (lambda s: s.update(H=s["H"][:1]), r"H \(1, 66, 66\)"),
        (lambda s: s.update({b: x[:0] for b, x in s.items()}), r"\(0, 66, 66\)"),
        (lambda s: s["J"].__setitem__((1, 5, 5), np.nan), "band J of stamp 1"),
        (lambda s: s["Y"].__setitem__((0, 5, 5), np.inf), "band Y of stamp 0"),
        (lambda s: s["H"].__setitem__(0, 3.0), "band H of stamp 0"),
    ],
)
def test_bad_stamps(spoil, message):
    stamps = noise_stamps(2)
    spoil(stamps)
    with pytest.raises(LensfindError, match=message):
        LensFinder("ou66", BAND_SETS["all"]).predict_proba(stamps)


@pytest.mark.parametrize(
    "settings",
    [
        {"architecture": "ou67"},
        {"bands": []},
        {"bands": ["J", "K"]},
        {"bands": ["J", "J"]},
        {"bands": None},
        {"architecture": ["ou66"]},
        {"class_weights": 5},
        {"learning_rate": 0.0},
        {"learning_rate": "fast"},
        {"dropout": 1.0},
        {"class_weights": [1.0]},
        {"class_weights": [0.0, 1.0]},
    ],
)
def test_bad_settings(settings):
    with pytest.raises(LensfindError):
        LensFinder(**settings)


class Hostile:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_hostile_and_damaged_checkpoints(tmp_path):
    """Nothing runs, and each file gets a sentence that names it."""
    trap = tmp_path / "trap"
    whole = tmp_path / "whole.pt"
    torch.save({f"layer.{i}": torch.zeros(1000) for i in range(9)}, whole)
    files = {
        "empty": b"",
        "truncated": whole.read_bytes()[:-3000],
        "text": b"not a checkpoint at all\n",
        "pickle": pickle.dumps(Hostile(trap)),
    }
    torch.save({"state_dict": Hostile(trap), "hyper_parameters": {}, "lensfind": {}}, tmp_path / "hostile")
    torch.save([1, 2, 3], tmp_path / "list")
    torch.save({"layer.0.weight": torch.zeros(2, 2)}, tmp_path / "others")
    torch.save({0: torch.zeros(2)}, tmp_path / "numbers")
    torch.save({"layer.0.weight": torch.zeros(2, 2).to_sparse()}, tmp_path / "sparse")
    flipped = bytearray(whole.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    files["flipped"] = bytes(flipped)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in [*files, "hostile", "list", "others", "numbers", "sparse", "whole.pt", "missing", "."]:
        with pytest.raises(LensfindError, match="Expected .*; got .*"):
            lensfind.load(tmp_path / name)
    assert not trap.exists()


def test_checkpoint_cannot_name_code(tmp_path):
    """Lightning imports whatever ``_instantiator`` names; lensfind.load refuses such a file instead."""
    settings = dict(LensFinder("ou66", ["J"]).hparams) | {"_instantiator": "os.system"}
    state = LensFinder("ou66", ["J"]).state_dict()
    torch.save({"state_dict": state, "hyper_parameters": settings, "lensfind": {}}, tmp_path / "x.ckpt")
    with pytest.raises(LensfindError, match="_instantiator"):
        lensfind.load(tmp_path / "x.ckpt")
    del settings["_instantiator"]
    torch.save(
        {"state_dict": state, "hyper_parameters": settings | {"bands": ["J", "Y"]}, "lensfind": {}}, tmp_path / "x"
    )
    with pytest.raises(LensfindError, match="bands J, Y"):
        lensfind.load(tmp_path / "x")
    state["net.layer.0.weight"][0] = torch.nan
    torch.save({"state_dict": state, "hyper_parameters": settings, "lensfind": {}}, tmp_path / "y")
    with pytest.raises(LensfindError, match="NaN or infinity in net.layer.0.weight"):
        lensfind.load(tmp_path / "y")


def test_weights_in_the_published_format(tmp_path):
    """Own weights in that format: the shape tells the network, and where it leaves the band open one has to say it."""
    torch.save(OU66(3).state_dict(), tmp_path / "three.pt")
    assert lensfind.load(tmp_path / "three.pt").bands == ("J", "Y", "H")
    torch.save(OU66(1).state_dict(), tmp_path / "one.pt")
    with pytest.raises(LensfindError, match='bands=\\["H"\\]'):
        lensfind.load(tmp_path / "one.pt")
    finder = lensfind.load(tmp_path / "one.pt", bands=["H"])
    assert finder.bands == ("H",)
    assert finder.provenance["source"] == "published format"
    with pytest.raises(LensfindError, match="1 band"):
        lensfind.load(tmp_path / "one.pt", bands=["H", "J"])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dropout(memory_format):
    """Right share, right scale, independent elements, identity in eval mode, and the default generator's seed rules."""
    x = torch.ones(20, 50, 30, 31).to(memory_format=memory_format)
    dropout = Dropout(0.2)
    torch.manual_seed(1)
    y = dropout(x)
    assert y.is_contiguous(memory_format=memory_format)
    assert abs((y == 0).float().mean().item() - 0.2) < 5 * (0.2 * 0.8 / x.numel()) ** 0.5 + 1 / 65536
    torch.testing.assert_close(y.max().item(), 1.25, rtol=1e-4, atol=0)
    kept = (y != 0).float()
    shares = kept.flatten(2).mean(2)
    assert shares.std() < 1.2 * (0.2 * 0.8 / (30 * 31)) ** 0.5
    torch.manual_seed(1)
    assert torch.equal(dropout(x), y)
    assert torch.equal(dropout.eval()(x), x)
    odd = torch.ones(8, 6)[:, ::2]
    assert Dropout(0.5)(odd).shape == (8, 3)


def test_gradients_pass_through_dropout():
    x = torch.ones(4, 3, 5, 5, requires_grad=True)
    y = Dropout(0.5)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_band_table():
    assert {name: (band.size, band.pixel_scale) for name, band in BANDS.items()} == {
        "J": (66, 0.3),
        "Y": (66, 0.3),
        "H": (66, 0.3),
        "VIS": (200, 0.1),
    }


def test_eight_images_can_be_learnt():
    """The network, the loss and the labels fit together: eight noise images are learnt by heart."""
    torch.manual_seed(0)
    finder = LensFinder("ou66", ["H"], dropout=0.0, class_weights=[0.5, 0.5])
    stamps = noise_stamps(8, bands=("H",))
    label = torch.tensor([0, 1] * 4)
    optimiser = torch.optim.Adam(finder.parameters(), lr=1e-3)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(finder.logits(stamps), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    p = finder.predict_proba(stamps)
    assert bool((p[label == 1] > 0.9).all())
    assert bool((p[label == 0] < 0.1).all())
