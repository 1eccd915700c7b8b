"""evaluate.py as its users run it: every question at once, several networks, wrong input, W&B."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.table import Table

from lensfind import LensFinder, LensfindError, apps
from lensfind.data import Store, finish, write_shard
from lensfind.evaluation import scores
from tests.conftest import ROOT, compose, noise_stamps, run_app
from tests.test_inputs import other_run
from tests.test_wandb import Written

QUICK = ("bootstrap.resamples=50",)


@pytest.fixture(scope="module")
def trained(trained: Path, tmp_path_factory) -> Path:
    """A copy of the shared run, since calibrations are written beside its checkpoint."""
    return Path(shutil.copytree(trained, tmp_path_factory.mktemp("copy") / trained.name))


def evaluate(folder: Path, *overrides: str) -> dict:
    """The app in this process."""
    return apps.evaluate(compose("evaluate", *QUICK, f"output_dir='{folder}'", *overrides))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    """Weights in the published format that read VIS, so that the networks differ in their bands."""
    path = tmp_path_factory.mktemp("weights") / "vis.pt"
    torch.manual_seed(3)
    torch.save(LensFinder("ou200", ("VIS",)).net.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def everything(trained, untrained, tmp_path_factory) -> tuple[Path, dict]:
    """Two networks, asked all there is to ask, as a command."""
    folder = tmp_path_factory.mktemp("evaluation")
    done = run_app(
        "evaluate.py",
        f"checkpoint=[{trained},{untrained}]",
        "threshold=f1",
        "calibration=isotonic",
        "rare.n=8",
        "sensitivity.n=3",
        "sensitivity.properties={theta_e: [0.5, 1.0], noise: [1.0, 2.0]}",
        "predictions=fits",
        *QUICK,
        f"data_dir={folder / 'sets'}",
        f"hydra.run.dir={folder / 'out'}",
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "report.html" in done.stdout
    return folder / "out", json.loads((folder / "out" / "metrics.json").read_text())


def test_networks_and_ensembles_stand_side_by_side(everything, trained, untrained):
    folder, content = everything
    names = [network["name"] for network in content["networks"]]
    assert names == ["ou66-jyh", "vis", "mean of probabilities", "mean of log-odds"]
    ours, other, *ensembles = content["networks"]
    assert ours["checkpoint"] == str(trained / "checkpoints" / "best.ckpt")
    assert other["checkpoint"] == str(untrained)
    assert [network["ensemble_of"] for network in ensembles] == [names[:2]] * 2
    assert content["agreement"]["networks"] == names
    table = Table.read(folder / "predictions.fits")
    both = np.stack([table["p_lens_ou66-jyh"], table["p_lens_vis"]])
    np.testing.assert_allclose(table["p_lens_mean of probabilities"], both.mean(0), atol=1e-12)
    odds = np.log(both / (1 - both)).mean(0)
    np.testing.assert_allclose(table["p_lens_mean of log-odds"], 1 / (1 + np.exp(-odds)), atol=1e-9)


def test_scores_are_those_of_the_predictions(everything):
    folder, content = everything
    table = Table.read(folder / "predictions.fits")
    assert set(table["split"]) == {"test"}
    for network in content["networks"]:
        found = scores(table["label"], table[f"p_lens_{network['name']}"], network["threshold"], resamples=50)
        assert network["metrics"] == pytest.approx(found.values)
        for name, interval in found.intervals.items():
            assert network["intervals"][name] == (interval and pytest.approx(interval)), name
        assert network["undefined"] == found.undefined


def test_threshold_and_calibration_come_from_validation(everything, trained, store):
    folder, content = everything
    first = content["networks"][0]
    assert first["threshold_from"] == "highest F1 on 33 validation rows"
    stored = json.loads((trained / "checkpoints" / "best.calibration.json").read_text())
    assert stored["method"] == "isotonic"
    assert stored["checkpoint_sha256"] == first["sha256"]
    table = Table.read(folder / "predictions.fits")
    p = np.asarray(table["p_lens_ou66-jyh"])
    mended = np.interp(np.log(p / (1 - p)), stored["log_odds"], stored["p_lens"])
    np.testing.assert_allclose(table["p_calibrated_ou66-jyh"], mended, atol=1e-9)
    # Bayes: the odds change by the ratio of the prior odds.
    prior = stored["n_lenses"] / stored["n"]
    odds = mended / (1 - mended) * (5e-4 / (1 - 5e-4)) / (prior / (1 - prior))
    np.testing.assert_allclose(table["p_survey_ou66-jyh"], odds / (1 + odds), rtol=1e-6)


def test_stored_calibration(everything, trained, store, tmp_path):
    """Fitted once, used where there are no validation rows, with a warning if it saw them; of its own network only."""
    used = evaluate(tmp_path, f"checkpoint={trained}", "calibration=stored", "rows=all")
    assert used["warnings"] == [
        "ou66-jyh was trained on 95 of these objects: its scores are too good.",
        "The calibration of ou66-jyh was fitted on some of these objects.",
    ]
    assert used["networks"][0]["calibration"]["method"] == "isotonic"
    assert used["networks"][0]["threshold"] == 0.5
    assert "no validation rows" in used["networks"][0]["threshold_from"]
    beside = trained / "checkpoints" / "best.calibration.json"
    kept = beside.read_text()
    try:
        beside.write_text(kept.replace(used["networks"][0]["sha256"], "0" * 64))
        with pytest.raises(LensfindError, match="one of another network"):
            evaluate(tmp_path, f"checkpoint={trained}", "calibration=stored")
    finally:
        beside.write_text(kept)


def test_rare_lenses_are_counted_by_hand(everything):
    _, content = everything
    for network in content["networks"]:
        assert [row["scenario"] for row in network["rare"]] == ["single_lens", "compound_arc", "double_ring"]
        for row in network["rare"]:
            assert row["n"] == 8
            assert row["recall"] == row["n_found"] / 8
            assert row["lower"] <= row["recall"] <= row["upper"]
            assert (row["matched"] is None) == bool(row["why_not_matched"])


def test_sensitivity_is_of_networks_that_can_be_asked(everything):
    _, content = everything
    for network in content["networks"][:2]:
        assert [row["property"] for row in network["sensitivity"]] == ["theta_e", "noise"]
        assert all(len(row["values"]) == len(row["p_median"]) == 2 for row in network["sensitivity"])


def test_completeness_adds_up(everything):
    folder, content = everything
    lenses = content["data"]["n_lenses"]
    for network in content["networks"]:
        found = network["metrics"]["recall"] * lenses
        for bins in network["completeness"].values():
            assert sum(one["n"] for one in bins) == lenses
            assert sum(one["n_found"] for one in bins) == pytest.approx(found)
    table = Table.read(folder / "completeness_ou66-jyh.fits", hdu="THETA_E")
    assert str(table["low"].unit) == "arcsec"
    assert table["n"].sum() == lenses


def test_false_positives_by_kind_add_up(everything):
    _, content = everything
    kinds = content["networks"][0]["false_positives"]
    assert sum(row["n"] for row in kinds) == content["data"]["n_nonlenses"]
    assert {"kind", "n", "n_found", "rate", "lower", "upper"} == set(kinds[0])


def test_every_file_that_is_named_is_there(everything):
    folder, content = everything
    assert {"predictions.fits", "report.html", "roc.png", "survey.png", "rare.png", "sensitivity.png"} <= set(
        content["files"]
    )
    assert all((folder / name).stat().st_size for name in content["files"])
    page = (folder / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    for network in content["networks"]:
        assert network["name"] in page


def test_the_code_of_the_docs_reads_the_selection_function(trained, tmp_path, monkeypatch):
    evaluate(tmp_path, f"checkpoint={trained}")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "evaluation.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    assert {"low", "high", "completeness"} <= set(names["table"].colnames)
    assert {"low_2", "high_2", "n"} <= set(names["pairs"].colnames)


def test_names_may_hold_anything(trained, store, tmp_path, capsys):
    """What matplotlib, rich and HTML would read as their own."""
    odd = tmp_path / "x$a_$ [b] <i>.pt"
    torch.save(LensFinder("ou66", ("H",)).net.state_dict(), odd)
    with pytest.raises(LensfindError, match="which 1 band"):
        evaluate(tmp_path / "out", f"checkpoint='{odd}'")  # of one NISP band nobody can tell which
    torch.save(LensFinder("ou66", ("J", "Y", "H")).net.state_dict(), odd)
    content = evaluate(tmp_path / "[out]", f"checkpoint='{odd}'", "data=shards", f"data.root={store}")
    assert content["networks"][0]["name"] == "x$a_$ [b] <i>"
    assert "x$a_$ [b] <i>" in capsys.readouterr().out
    assert "<i>" not in (tmp_path / "[out]" / "report.html").read_text()


def test_an_evaluation_keeps_out_of_a_run(trained):
    with pytest.raises(LensfindError, match="a folder of its own"):
        evaluate(trained, f"checkpoint={trained}")


def test_a_catalogue_without_kinds_can_be_compared(trained, store, tmp_path):
    """A set from elsewhere: only what its columns can tell is told."""
    full = Store(store)
    bare = full.catalogue[["id", "label", "ein_area", "arc_snr"]][:40]
    write_shard(tmp_path / "bare", 0, full.read(np.arange(40), full.bands), bare)
    finish(tmp_path / "bare", {}, shards=1, lens_rule="theirs")
    named = ("data=shards", f"data.root={tmp_path / 'bare'}", f"rare.double_ring.root={store}")
    content = evaluate(tmp_path / "out", f"checkpoint={trained}", *named)
    (row,) = content["networks"][0]["rare"]
    assert "no single lenses" in row["why_not_matched"]
    assert [kind["kind"] for kind in content["networks"][0]["false_positives"]] == ["non-lens"]
    assert "theta_e" in content["networks"][0]["selection"]["missing"]


def one_class(root: Path, label: int) -> Path:
    """Ten objects of noise, all of one class."""
    write_shard(root, 0, noise_stamps(10, bands=("VIS",)), Table({"id": np.arange(10), "label": np.full(10, label)}))
    finish(root, {}, shards=1, lens_rule="none")
    return root


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_gives_null_with_reasons(untrained, tmp_path, label):
    root = one_class(tmp_path / "store", label)
    content = evaluate(tmp_path / "out", f"checkpoint={untrained}", "data=shards", f"data.root={root}")
    network = content["networks"][0]
    assert network["metrics"]["auroc"] is None
    assert "both classes" in network["undefined"]["auroc"]
    assert (network["metrics"]["recall"] is None) == (label == 0)
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["survey.prevalence=0"], "prevalence between 0 and 1"),
        (["survey.prevalence=1.5"], "prevalence between 0 and 1"),
        (["survey.prevalence=rare"], "prevalence between 0 and 1"),
        (["survey.n_objects=inf"], "survey of at least one object"),
        (["survey.top=2000000"], "top between"),
        (["survey.top=null"], "top between"),
        (["bootstrap.resamples=-1"], "resamples"),
        (["predictions=xls"], "predictions out of csv"),
        (["rows=some"], "rows to be"),
        (["threshold=loud"], "threshold as a number"),
        (["threshold={fpr: 0.1}", "rows=all"], "validation rows for threshold"),
        (["calibration=temperature", "rows=all"], "validation rows for calibration"),
        (["calibration=magic"], "calibration out of"),
        (["selection.properties=[theta_e,mood]"], "mood"),
        (["selection.bins=0"], "bins"),
        (["selection=null"], "selection with its keys"),
        (["threshold=2"], "threshold as a number"),
        (["sensitivity.n=abc"], "sensitivity.n"),
        (["rare.double_ring.root=nowhere"], "nowhere"),
        (["sensitivity.n=2", "sensitivity.properties={mood: [1]}"], "sensitivity.properties"),
        (["logger=csv"], "logger=wandb"),
    ],
)
def test_wrong_settings_are_told_before_the_scoring(trained, tmp_path, monkeypatch, overrides, message):
    monkeypatch.setattr("lensfind.evaluation.run.predict", lambda *_, **__: pytest.fail("has scored"))
    with pytest.raises(LensfindError, match=message):
        evaluate(tmp_path / "out", f"checkpoint={trained}", *overrides)
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_sensitivity_wants_a_simulated_set(untrained, tmp_path):
    root = one_class(tmp_path / "store", 1)
    with pytest.raises(LensfindError, match="simulate"):
        evaluate(
            tmp_path, f"checkpoint={untrained}", "data=shards", f"data.root={root}", "sensitivity.n=2", "threshold=0.5"
        )


def test_a_sweeps_folder_is_one_table(trained, tmp_path, capsys):
    for name in ("a", "b"):
        other_run(trained, tmp_path / "sweep" / name, lambda content, name=name: content["lensfind"].update(note=name))
    content = evaluate(tmp_path / "out", f"checkpoint={tmp_path / 'sweep'}")
    assert [network["name"] for network in content["networks"]][:2] == ["ou66-jyh (a)", "ou66-jyh (b)"]
    assert content["networks"][0]["metrics"] == content["networks"][1]["metrics"]
    assert content["agreement"]["same_decision"][0][1] == 1
    assert "(b)" in capsys.readouterr().out


def test_a_users_own_rare_set(trained, store, tmp_path):
    """Any folder of shards can stand for a rare configuration."""
    content = evaluate(tmp_path, f"checkpoint={trained}", f"rare.double_ring.root={store}")
    (row,) = content["networks"][0]["rare"]
    assert row["scenario"] == "double_ring"
    assert row["n"] == int((Store(store).catalogue["label"] == 1).sum())


def test_wandb_gets_tables_and_figures(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    content = evaluate(tmp_path / "out", f"checkpoint={trained}", "logger=wandb")
    written = Written(tmp_path / "out")
    assert written.exit_code == 0
    assert written.summary["ou66-jyh/auroc"] == pytest.approx(content["networks"][0]["metrics"]["auroc"])
    assert written.config["survey"]["prevalence"] == 5e-4
    table = json.loads(written.media("evaluation/scores").read_text())
    assert table["columns"] == ["network", "metric", "value", "low", "high", "note"]
    assert {row[1] for row in table["data"]} == set(content["networks"][0]["metrics"])
    for name in ("evaluation/survey", "evaluation/completeness", "evaluation/false_positives"):
        assert written.logged(name)["path"]
    assert written.media("evaluation/roc").read_bytes().startswith(b"\x89PNG")
