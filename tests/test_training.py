"""Training through the whole house: one shared real run, then what must hold about it."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.errors import ConfigCompositionException, HydraException
from hydra.utils import instantiate

import lensfind
from lensfind import LensFinder, LensfindError, apps
from lensfind.cli import command_line
from lensfind.data import LensData
from tests.conftest import ROOT, SMALL, compose, run_app

NAMES = ("loss", "auroc", "average_precision", "f1", "precision", "recall", "accuracy")


def history(folder: Path) -> list[dict[str, str]]:
    """metrics.csv, one mapping per epoch."""
    epochs: dict[str, dict[str, str]] = {}
    with (folder / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if not row.get("test/loss"):
                epochs.setdefault(row["epoch"], {}).update({key: value for key, value in row.items() if value})
    return list(epochs.values())


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]


def same_weights(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_leaves_what_it_promises(trained):
    for name in ("config.yaml", "metrics.csv", "metrics.json", "predictions.csv"):
        assert (trained / name).stat().st_size > 0, name
    for picture in ("mosaic.png", "learning_curves.png", "roc.png", "pr.png"):
        assert (trained / picture).read_bytes()[:4] == b"\x89PNG"
    assert list(trained.glob("occlusion*.png"))
    assert sorted(path.name for path in (trained / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert not [path for path in trained.rglob("*") if "=" in path.name]
    rows = history(trained)
    assert len(rows) == 3
    assert all(math.isfinite(float(rows[-1][f"{split}/{name}"])) for split in ("train", "val") for name in NAMES)


def test_logged_numbers_are_those_of_the_checkpoint(trained, store):
    """Loss and metrics recomputed from best.ckpt, by hand and by scikit-learn, are the logged ones."""
    from sklearn import metrics

    finder = lensfind.load(trained)
    data = LensData(str(store), finder.bands, split=finder.provenance["data"]["split"])
    data.setup("fit")
    rows = data.rows("val")
    stamps, label = data.store.read(rows, finder.bands), data.labels[rows]
    with torch.no_grad():
        logits = finder(finder.preprocess(stamps)).double().numpy()
    log_p = logits - np.logaddexp(*logits.T)[:, None]
    train = data.labels[data.rows("train")]
    assert finder.hparams["class_weights"] == pytest.approx([train.mean(), 1 - train.mean()])
    weight = np.where(label == 1, 1 - train.mean(), train.mean())
    loss = -(weight * log_p[np.arange(len(label)), label]).sum() / weight.sum()
    best = min(history(trained), key=lambda row: float(row["val/loss"]))
    assert float(best["val/loss"]) == pytest.approx(loss, rel=1e-4)
    p = np.exp(log_p[:, 1])
    assert float(best["val/auroc"]) == pytest.approx(metrics.roc_auc_score(label, p), abs=1e-4)
    assert float(best["val/average_precision"]) == pytest.approx(metrics.average_precision_score(label, p), abs=1e-4)
    assert float(best["val/accuracy"]) == pytest.approx(metrics.accuracy_score(label, p > 0.5), abs=1e-4)


def test_predictions_of_train_and_evaluate_are_one(trained, tmp_path):
    """evaluate.py with nothing but the checkpoint scores every one of the same test rows, with the same result."""
    again = apps.evaluate(compose("evaluate", f"checkpoint={trained}", "threshold=0.5", f"output_dir={tmp_path}"))
    logged = json.loads((trained / "metrics.json").read_text())["metrics"]
    (network,) = again["networks"]
    assert {key: network["metrics"][key] for key in logged} == pytest.approx(logged, abs=1e-5)
    tables = []
    for folder in (trained, tmp_path):
        with (folder / "predictions.csv").open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    assert list(tables[0][0]) == ["id", "label", "p_lens", "split"]
    assert list(tables[1][0])[:7] == ["id", "label", "split", "p_lens", "rank", "found", "flag"]
    assert [r["id"] for r in tables[0]] == [r["id"] for r in tables[1]]
    np.testing.assert_allclose(*[[float(r["p_lens"]) for r in table] for table in tables], atol=1e-6)
    assert {r["split"] for r in tables[1]} == {"test"}


def test_two_runs_with_one_seed_are_identical(trained, store, tmp_path):
    folder = tmp_path / "again"
    overrides = [*SMALL, f"data.root={store}", "trainer.max_epochs=3", "occlusion_maps=0"]
    assert run_app("train.py", *overrides, f"hydra.run.dir={folder}", cwd=tmp_path).returncode == 0
    assert same_weights(folder / "checkpoints" / "last.ckpt", trained / "checkpoints" / "last.ckpt")


def test_resume_is_the_run_that_was_not_stopped(trained, store, tmp_path):
    """Two epochs, then resumed for a third: the weights and history of the run of three, bit by bit."""
    folder = tmp_path / "first"
    overrides = [*SMALL, f"data.root={store}", "occlusion_maps=0"]
    assert (
        run_app("train.py", *overrides, "trainer.max_epochs=2", f"hydra.run.dir={folder}", cwd=tmp_path).returncode == 0
    )
    assert len(history(folder)) == 2
    moved = folder.rename(tmp_path / "moved")
    done = run_app("train.py", f"resume={moved}", "trainer.max_epochs=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not folder.exists()
    assert same_weights(moved / "checkpoints" / "last.ckpt", trained / "checkpoints" / "last.ckpt")
    assert [r["val/loss"] for r in history(moved)] == [r["val/loss"] for r in history(trained)]


def test_a_folder_is_one_run(trained, store):
    """The same command does nothing more; another configuration is refused by name."""
    overrides = [*SMALL, f"data.root={store}", f"output_dir={trained}"]
    before = (trained / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    metrics = apps.train(compose("train", *overrides, "trainer.max_epochs=3"))
    assert metrics["test/auroc"] == pytest.approx(
        json.loads((trained / "metrics.json").read_text())["metrics"]["auroc"]
    )
    assert (trained / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before
    with pytest.raises(LensfindError, match=r"trainer.max_epochs: 3 there, 4 now"):
        apps.train(compose("train", *overrides, "trainer.max_epochs=4"))
    with pytest.raises(LensfindError, match="resume to be the folder of a run"):
        apps.train(compose("train", *overrides, f"resume={trained.parent}"))


@pytest.mark.slow
def test_two_processes_are_one(store, tmp_path):
    """DDP on two CPU processes: without dropout the validation metrics of every epoch are those of one process."""
    # Adam turns the rounding of a gradient near zero into a whole step: small steps keep that below what is compared.
    rate = 1e-5
    common = [*SMALL, f"data.root={store}", "trainer.max_epochs=2", "occlusion_maps=0", "data.batch_size=20"]
    common += ["model.dropout=0", f"model.learning_rate={rate}"]
    one = run_app("train.py", *common, f"hydra.run.dir={tmp_path / 'one'}", cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    two = run_app("train.py", *common, *ddp, f"hydra.run.dir={tmp_path / 'two'}", cwd=tmp_path)
    assert two.returncode == 0, two.stderr
    for a, b in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        for name in NAMES:
            assert float(b[f"val/{name}"]) == pytest.approx(float(a[f"val/{name}"]), abs=1e-4), name
    # Ten steps of nearly the same direction: an unweighted mean over the devices would not give that.
    last = [weights(tmp_path / run_ / "checkpoints" / "last.ckpt") for run_ in ("one", "two")]
    apart = torch.cat(
        [(last[0][key] - last[1][key]).abs().flatten() for key in last[0] if last[0][key].is_floating_point()]
    )
    assert float(apart.mean()) < 0.05 * 10 * rate
    tables = [(tmp_path / run_ / "predictions.csv").read_text().splitlines() for run_ in ("one", "two")]
    assert [line.split(",")[:2] for line in tables[0]] == [line.split(",")[:2] for line in tables[1]]


@pytest.mark.slow
def test_sweep_of_the_paper(store, tmp_path):
    """Seven checkpoints, seven folders, one table; killed in the middle, the same command goes on where it was."""
    command = [
        "sweep=paper",
        "trainer=debug",
        "data=shards",
        f"data.root={store}",
        "data.batch_size=8",
        "occlusion_maps=0",
        "trainer.max_epochs=2",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
    ]
    log = (tmp_path / "log").open("w")
    killed = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *command], cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
    )
    third = tmp_path / "sweep" / "ou66-h" / "checkpoints" / "last.ckpt"
    for _ in range(1800):
        if third.exists() or killed.poll() is not None:
            break
        __import__("time").sleep(0.1)
    os.killpg(killed.pid, 9)
    killed.wait()
    first = tmp_path / "sweep" / "ou66-j"
    assert (first / "metrics.json").is_file()
    assert not (tmp_path / "sweep" / "comparison.csv").exists()
    stamp = (first / "checkpoints" / "best.ckpt").stat().st_mtime_ns
    done = run_app("train.py", *command, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (first / "checkpoints" / "best.ckpt").stat().st_mtime_ns == stamp
    names = ["ou200-all", "ou200-vis", "ou66-all", "ou66-h", "ou66-j", "ou66-jyh", "ou66-y"]
    assert sorted(p.parent.parent.name for p in (tmp_path / "sweep").glob("*/checkpoints/best.ckpt")) == names
    with (tmp_path / "sweep" / "comparison.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["run"] for row in table] == names
    assert all(name in done.stdout for name in names)
    bands = {p.parent.parent.name: lensfind.load(p).bands for p in (tmp_path / "sweep").glob("*/checkpoints/best.ckpt")}
    assert bands["ou66-y"] == ("Y",)
    assert bands["ou200-all"] == ("J", "Y", "H", "VIS")


@pytest.mark.slow
def test_joblib_launcher(store, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = run_app(
        "train.py",
        "-m",
        "experiment=ou_j,ou_h",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "trainer=debug",
        "data=shards",
        f"data.root={store}",
        "data.batch_size=16",
        "occlusion_maps=0",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(p.parent.parent.name for p in (tmp_path / "sweep").glob("*/checkpoints/best.ckpt")) == [
        "ou66-h",
        "ou66-j",
    ]
    assert (tmp_path / "sweep" / "comparison.csv").is_file()


def test_command_line(tmp_path):
    (tmp_path / "manifest.yaml").touch()
    assert command_line("train", [f"data={tmp_path}"]) == ["data=shards", f"data.root='{tmp_path}'"]
    (tmp_path / "challenge" / "Public" / "EUC_VIS").mkdir(parents=True)
    assert command_line("train", [f"data={tmp_path}/challenge"])[0] == "data=challenge"
    assert command_line("train", ["data=simulated", "model=ou66"]) == ["data=simulated", "model=ou66"]
    swept = command_line("train", ["-m", "model.learning_rate=1e-3,1e-4", "experiment=ou_j,ou_y"])[-1]
    assert swept == "hydra.sweep.subdir='${name}_learning_rate-${model.learning_rate}'"
    assert (
        command_line("train", ["sweep=paper", "patience=1,2"])[-1]
        == "hydra.sweep.subdir='${name}_patience-${patience}'"
    )
    assert command_line("train", ["-m", "split=paper,fraction"])[-1].endswith("_${hydra:runtime.choices.split}'")
    assert command_line("evaluate", ["-m", "checkpoint=a,b"]) == ["-m", "checkpoint=a,b"]
    assert command_line("train", ["-m", "experiment=ou_j,ou_y", "seed=1"]) == ["-m", "experiment=ou_j,ou_y", "seed=1"]


def test_processes_in_a_sweep_are_refused(store, tmp_path):
    overrides = ["-m", "experiment=ou_j", "trainer=ddp", "trainer.accelerator=cpu", f"data={store}"]
    done = run_app("train.py", *overrides, f"hydra.sweep.dir={tmp_path}", cwd=tmp_path)
    assert done.returncode != 0
    assert "one device per job inside a sweep" in done.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=ou67"], "ou200"),
        (["bands=k"], "jyh"),
        (["trainer.max_epoch=3"], "max_epoch"),
        (["model.learning_rat=3"], "learning_rat"),
        (["nonsense=3"], "nonsense"),
    ],
)
def test_unknown_options_and_keys(overrides, message):
    with pytest.raises((ConfigCompositionException, HydraException), match=message):
        compose("train", *overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["patience=-1"], "patience to be"),
        (["monitor=val/foo"], "val/auroc"),
        (["trainer.max_epochs=0"], "max_epochs to be"),
        (["trainer.limit_val_batches=0"], "limit_val_batches to be"),
        (["seed=-1"], "seed to be"),
        (["data.bands=[J,K]"], r"out of J, Y, H, VIS; got \[J, K\]"),
        (["data.bands=[]"], r"got \[\]"),
        (["model.dropout=2"], r"dropout in \[0, 1\)"),
        (["data.root=nowhere"], "nowhere"),
        (["data.batch_size=0"], "batch_size"),
        (["data.split.train=0.99", "data.split.val=0.005", "data.split.test=0.005"], "split (val|test)"),
        (["data.lens_rule=no_such_column > 1"], "no_such_column"),
    ],
)
def test_bad_values(overrides, message, store, tmp_path):
    with pytest.raises((LensfindError, HydraException), match=message):
        apps.train(compose("train", *SMALL, f"data.root={store}", f"output_dir={tmp_path}", *overrides))


def test_bands_that_the_data_lack(trained, store, tmp_path):
    """A checkpoint that reads J, Y, H on a set with VIS alone."""
    from lensfind.data import Store, finish, write_shard

    full = Store(store)
    write_shard(tmp_path / "vis", 0, full.read(np.arange(10), ["VIS"]), full.catalogue[:10])
    finish(tmp_path / "vis", {}, shards=1, lens_rule="label == 1")
    with pytest.raises(LensfindError, match=r"VIS \(no J, Y, H\)"):
        apps.evaluate(
            compose(
                "evaluate",
                f"checkpoint={trained}",
                "data=shards",
                f"data.root={tmp_path / 'vis'}",
                f"output_dir={tmp_path}",
            )
        )


def test_evaluate_published_weights_and_other_data(trained, store, reference, tmp_path):
    """Published weights score a named set, all of it; our checkpoint on its own set keeps to the test rows."""
    found = apps.evaluate(
        compose(
            "evaluate",
            f"checkpoint={reference}/published/OU_H_Weights.pt",
            "data=shards",
            f"data.root={store}",
            f"output_dir={tmp_path}",
        )
    )
    assert found["networks"][0]["name"] == "OU-H"
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 161
    apps.evaluate(
        compose(
            "evaluate", f"checkpoint={trained}", "data=shards", f"data.root={store}", f"output_dir={tmp_path / 'own'}"
        )
    )
    assert len((tmp_path / "own" / "predictions.csv").read_text().splitlines()) == 33


def test_interpret(trained, store, tmp_path):
    """Arrays and a figure for the objects asked for; unknown ids are named."""
    from lensfind.data import Store

    ids = [int(i) for i in Store(store).catalogue["id"][:2]]
    apps.interpret(compose("interpret", f"checkpoint={trained}", f"ids={ids}", f"output_dir={tmp_path}"))
    arrays = np.load(tmp_path / "occlusion.npz")
    assert arrays["id"].tolist() == ids
    assert arrays["map"].shape == (2, 66, 66)
    assert np.abs(arrays["map"]).max() > 0
    assert len(list(tmp_path.glob("occlusion*.png"))) == 2
    with pytest.raises(LensfindError, match="1 unknown"):
        apps.interpret(compose("interpret", f"checkpoint={trained}", "ids=[-5]", f"output_dir={tmp_path}"))


def test_checkpoint_in_a_script(trained):
    """Two lines of Python give a finder that is ready for use."""
    finder = lensfind.load(trained / "checkpoints" / "best.ckpt")
    assert isinstance(finder, LensFinder)
    assert not finder.training
    assert finder.provenance["config"]["seed"] == 0


def test_the_seed_orders_the_rows(store, tmp_path):
    """``seed`` reaches the shuffling as well as the weights."""
    orders = []
    for seed in (0, 1):
        cfg = compose("train", *SMALL, f"data.root={store}", f"seed={seed}", f"output_dir={tmp_path}")
        data = instantiate(cfg.data, _convert_="all")
        data.setup("fit")
        orders.append(torch.cat([batch["row"] for batch in data.train_dataloader()]).tolist())
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_damaged_runs_are_named(trained, store, tmp_path):
    """A run whose last checkpoint or configuration is damaged is refused by name, not with a stack trace."""
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    last = copy / "checkpoints" / "last.ckpt"
    content = last.read_bytes()
    (copy / "metrics.json").unlink()  # else it has ended, and nothing is read
    for damage in (b"", content[: len(content) // 2], content[:5000] + b"\x00\x01" + content[5002:]):
        last.write_bytes(damage)
        with pytest.raises(LensfindError, match=r"last\.ckpt"):
            apps.train(compose("train", f"resume={copy}", "output_dir=unused"))
    for text in ("{", "", "a: 1\n"):
        (copy / "config.yaml").write_text(text)
        with pytest.raises(LensfindError, match=r"config\.yaml"):
            apps.train(compose("train", f"resume={copy}", "output_dir=unused"))


def test_a_checkpoint_finds_its_data_from_any_folder(store, tmp_path, monkeypatch):
    """Relative paths on the command line are absolute in the run."""
    monkeypatch.chdir(store.parent)
    overrides = [*SMALL, f"data.root={store.name}", "trainer=debug", "occlusion_maps=0"]
    apps.train(compose("train", *overrides, f"output_dir={tmp_path / 'run'}"))
    monkeypatch.chdir(tmp_path)
    found = apps.evaluate(compose("evaluate", f"checkpoint={tmp_path / 'run'}", f"output_dir={tmp_path / 'e'}"))
    assert found["data"]["root"] == str(store)


def test_options_beside_the_training_set_count(trained, store, tmp_path):
    """Naming the set of the training keeps its split, and nothing else of it."""
    named = ["data=shards", f"data.root={store}", f"output_dir={tmp_path}"]
    usual = apps.evaluate(compose("evaluate", f"checkpoint={trained}", *named))
    other = apps.evaluate(compose("evaluate", f"checkpoint={trained}", *named, "data.lens_rule='theta_e > 1.2'"))
    assert usual["data"]["n_objects"] == other["data"]["n_objects"] == 32
    assert other["data"]["n_lenses"] < usual["data"]["n_lenses"]
