"""The app: several methods at once, the gallery in a real browser, W&B media, and refusals."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.table import Table

from lensfind import LensFinder, LensfindError, apps
from lensfind.data import finish, write_shard
from lensfind.interpretation.run import PAGES
from tests.conftest import compose, noise_stamps

QUICK = (
    "method.occlusion.window=11",
    "method.integrated_gradients.steps=2",
    "method.class_image.n=1",
    "method.class_image.steps=3",
    "method.deep_dream.steps=3",
    "method.kernel_image.kernels=[0,1]",
    "method.kernel_image.steps=3",
    "method.faithfulness.methods=[gradient,guided_backprop]",
    "method.faithfulness.perturbations=1",
    "method.faithfulness.steps=4",
    "method.faithfulness.settings={gradient:{score:logit}}",
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """An untrained OU-66 that calls everything a lens, as a checkpoint of ours."""
    torch.manual_seed(0)
    finder = LensFinder("ou66", ("J", "H"))
    with torch.no_grad():
        finder.net.fc_layer[2].bias[1] += 20
    path = tmp_path_factory.mktemp("checkpoint") / "best.ckpt"
    content = {
        "state_dict": finder.state_dict(),
        "hyper_parameters": dict(finder.hparams),
        "lensfind": finder.provenance,
    }
    torch.save(content, path)
    return path


def write(root: Path, planes: bool) -> Path:
    """Five pairs of noise; lenses have a patch, which the planes know of."""
    stamps = noise_stamps(10, bands=("J", "H"))
    label = np.arange(10) % 2
    mask, arc = np.zeros((10, 200, 200), np.uint8), np.zeros((10, 200, 200), np.float32)
    mask[label == 1, 90:120, 120:150] = 1
    for cube in stamps.values():
        cube[label == 1, 30:40, 40:50] += 0.2
    arc[mask == 1] = 0.2
    catalogue = Table({"id": np.arange(10) + 50, "label": label, "pair": np.arange(10) // 2})
    write_shard(root, 0, stamps, catalogue, planes={"ARC": arc, "MASK": mask} if planes else None)
    finish(root, {}, shards=1, lens_rule="pair")
    return root


@pytest.fixture(scope="module")
def twins(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("twins") / "store", planes=True)


def interpret(checkpoint: Path, store: Path, folder: Path, *overrides: str) -> Path:
    base = (f"checkpoint={checkpoint}", "data=shards", f"data.root={store}", f"output_dir={folder}", "run_id=test")
    return apps.interpret(compose("interpret", *base, *overrides))


@pytest.fixture(scope="module")
def everything(checkpoint, twins, tmp_path_factory) -> Path:
    """One run of all methods over a lens and its twin, logged to W&B offline."""
    folder = tmp_path_factory.mktemp("interpreted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        return interpret(checkpoint, twins, folder, "method=all", "ids=[51,50]", "logger=wandb", *QUICK)


def test_all_is_every_method():
    assert set(compose("interpret", "checkpoint=x", "method=all").method) == set(PAGES)
    two = compose("interpret", "checkpoint=x", "method=[occlusion,guided_grad_cam]", "method.occlusion.window=8").method
    assert list(two) == ["occlusion", "guided_grad_cam"]
    assert two.occlusion.window == 8
    assert list(compose("interpret", "checkpoint=x", "method=kernels").method) == ["kernels"]
    assert list(compose("interpret", "checkpoint=x").method) == ["occlusion"]


def test_every_method_leaves_its_files(everything):
    names = {path.name for path in everything.iterdir()}
    for method in ("occlusion", "gradient", "integrated_gradients", "grad_cam", "guided_backprop", "guided_grad_cam"):
        assert {f"{method}.npz", f"{method}_50.png", f"{method}_51.png"} <= names
        with np.load(everything / f"{method}.npz") as arrays:
            assert arrays["id"].tolist() == [51, 50]
            assert len(arrays["map"]) == 2
    assert {"class_image_lens_0.gif", "deep_dream_non_lens_51.gif", "class_image_scores.csv"} <= names
    assert {"kernels.png", "kernel_image_layer.0.png", "kernel_activation.csv", "kernel_activation_51.png"} <= names
    rows = (everything / "faithfulness.csv").read_text().splitlines()
    assert rows[0].startswith("method,randomisation_spearman")
    assert [row.split(",")[0] for row in rows[1:]] == ["gradient", "guided_backprop"]
    table = dict(zip(rows[0].split(","), rows[1].split(","), strict=True))
    assert table["twin_pairs"] == "1"  # those that were asked for
    assert float(table["chance"]) == pytest.approx(30**2 / 200**2, rel=0.1)


def test_gallery_holds_everything_and_points_nowhere(everything):
    page = (everything / "gallery.html").read_text()
    pictures = [path for path in everything.iterdir() if path.suffix in (".png", ".gif")]
    assert page.count("data:image/") == len(pictures)
    assert not re.search(r"https?://|src=\"(?!data:)|<script|<link|url\(", page)
    for method in PAGES:
        assert f"<h2>{method}</h2>" in page


def test_gallery_opens_in_chromium_without_network(everything, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium: apt-get install chromium")
    page = (everything / "gallery.html").read_text()
    count = """<script>onload = () => {
        const pictures = [...document.images], whole = pictures.filter(p => p.complete && p.naturalWidth > 0);
        const asked = performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:'));
        document.title = `${whole.length} of ${pictures.length}, ${asked.length} asked`;
    }</script>"""
    (tmp_path / "page.html").write_text(page.replace("</body>", count + "</body>"))
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [browser, *arguments, profile, "--virtual-time-budget=20000", (tmp_path / "page.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    total = page.count("<img")
    assert total > 30
    assert f"<title>{total} of {total}, 0 asked</title>" in done.stdout, done.stderr[-500:]


def test_wandb_gets_figures_and_gifs(everything):
    (run,) = everything.glob("wandb/offline-run-*")
    media = [path for path in (run / "files" / "media").rglob("*") if path.is_file()]
    pictures = [path for path in everything.iterdir() if path.suffix == ".png"]
    assert sum(path.suffix == ".png" for path in media) == len(pictures)
    assert sum(path.suffix == ".gif" for path in media) == len(list(everything.glob("*.gif")))
    assert any("faithfulness" in str(path) and path.name.startswith("table") for path in media)


def test_a_failing_guided_method_says_so_in_its_figures(everything):
    page = (everything / "gallery.html").read_text()
    rows = (everything / "faithfulness.csv").read_text().splitlines()
    fails = ",fails," in next(row for row in rows if row.startswith("guided_backprop"))
    section = page.split("<h2>guided_backprop</h2>")[1].split("</section>")[0]
    assert ("Fails the parameter-randomisation test" in section) == fails


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["ids=[7]"], "1 unknown"),
        (["ids=[]"], "ids of objects"),
        (["ids=[51,51]"], "1 twice"),
        (["method=faithfulness", "ids=[51]", "method.faithfulness.n=a"], "n of 1"),
        (["method=faithfulness", "ids=[51]", "method.faithfulness.n=0"], "n of 1"),
        (["method=faithfulness", "ids=[51]", "method.faithfulness.steps=0"], "steps of 1"),
        (["method=faithfulness", "ids=[51]", "method.faithfulness.steps=a"], "steps of 1"),
        (["method=faithfulness", "ids=[51]", "method.faithfulness.perturbations=0"], "perturbations of 1"),
        (["method=faithfulness", "ids=[51]", "method.faithfulness.seed=-1"], "seed of 0"),
        (
            ["method=faithfulness", "ids=[51]", "method.faithfulness.settings={gradient:{foo:1}}"],
            "settings of gradient",
        ),
        (["method=faithfulness", "ids=[51]", "method.faithfulness.settings={gradiant:{}}"], "settings of gradiant"),
        (
            ["method=faithfulness", "ids=[51]", "method.faithfulness.settings={occlusion:{bands:each}}"],
            "settings of occlusion",
        ),
        (["method=faithfulness", "ids=[51]", "method.faithfulness.localisation=maybe"], "localisation to be"),
        (["method=deep_dream", "method.deep_dream.every=0"], "every"),
        (["method=deep_dream", "method.deep_dream.every=ten"], "every"),
        (["method=deep_dream", "method.deep_dream.every=-1"], "every"),
        (["method=deep_dream", "method.deep_dream.seed=-1"], "seed"),
        (["method=kernel_image", "method.kernel_image.seed=-1"], "seed"),
        (["n=0"], "one or more objects"),
        (["rows=train"], "one or more objects"),
        (["rows=most"], "rows to be train"),
        (["method=[]"], "methods out of faithfulness"),
        (["method=grad_cam", "method.grad_cam.layer=layer.77"], "a layer of ou66-jh"),
        (["method=kernel_image", "method.kernel_image.kernels=[99]"], "kernels of layer.0, 0 to 49"),
        (["logger=csv", "name=x"], "logger=wandb, or none"),
        (["judges=[nowhere.ckpt]", "method=class_image", "method.class_image.steps=1"], "a checkpoint file"),
    ],
)
def test_refusals(checkpoint, twins, tmp_path, overrides, message):
    with pytest.raises(LensfindError, match=message) as error:
        interpret(checkpoint, twins, tmp_path, *overrides)
    assert len(error.value.args) == 3


def test_data_without_truth_are_refused_for_localisation_and_judged_without(checkpoint, tmp_path):
    plain = write(tmp_path / "store", planes=False)
    method = ["method=faithfulness", "ids=[51]", "method.faithfulness.n=1", *QUICK[-4:]]
    with pytest.raises(LensfindError, match="truth plane MASK"):
        interpret(checkpoint, plain, tmp_path / "out", *method)
    folder = interpret(checkpoint, plain, tmp_path / "out", *method, "method.faithfulness.localisation=false")
    row = (folder / "faithfulness.csv").read_text().splitlines()[1]
    assert ",nan," in row


def test_data_without_the_networks_bands_are_refused(checkpoint, tmp_path):
    root = tmp_path / "store"
    write_shard(root, 0, noise_stamps(2, bands=("VIS",)), Table({"id": [1, 2], "label": [0, 1]}))
    finish(root, {}, shards=1, lens_rule="none")
    with pytest.raises(LensfindError, match=r"VIS \(no J, H\)"):
        interpret(checkpoint, root, tmp_path / "out")


def test_no_lens_to_judge(checkpoint, tmp_path):
    root = tmp_path / "store"
    write_shard(root, 0, noise_stamps(2, bands=("J", "H")), Table({"id": [1, 2], "label": [0, 0]}))
    finish(root, {}, shards=1, lens_rule="none")
    with pytest.raises(LensfindError, match="to explain"):
        interpret(checkpoint, root, tmp_path / "out", "method=faithfulness", "ids=[1]")


def test_a_guided_figure_has_the_verdict_of_its_own_setting(checkpoint, twins, tmp_path):
    quick = ["ids=[51]", "method.guided_grad_cam.layer=layer.0", "method.faithfulness.methods=[guided_grad_cam]"]
    quick += ["method.faithfulness.n=1", "method.faithfulness.perturbations=1", "method.faithfulness.steps=2"]
    warned = []
    for number, given in enumerate(("null", "{guided_grad_cam:{layer:layer.5}}")):
        setting = f"method.faithfulness.settings={given}"
        folder = interpret(
            checkpoint, twins, tmp_path / str(number), "method=[faithfulness,guided_grad_cam]", *quick, setting
        )
        row = (folder / "faithfulness.csv").read_text().splitlines()[1]
        assert f"layer=layer.{5 if number else 0}" in row
        warned.append("randomisation test (Adebayo" in (folder / "gallery.html").read_text().split("<h2>guided")[1])
    alone = interpret(checkpoint, twins, tmp_path / "alone", "method=guided_grad_cam", *quick[:2])
    assert warned[1] == ("randomisation test (Adebayo" in (alone / "gallery.html").read_text())
