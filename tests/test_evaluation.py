"""The files and tables of an evaluation; streaming prediction."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

from lensfind import LensFinder, LensfindError
from lensfind.evaluation import comparison, predict, print_table, scores, write_evaluation
from tests.conftest import noise_stamps


def draw(n: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities that know something, with ties."""
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.2).astype(np.int64)
    return label, np.round(1 / (1 + np.exp(-(rng.normal(size=n) + 2 * label - 1))), 2)


def test_written_evaluation_reads_back_exactly(tmp_path):
    label, p_lens = draw(50)
    p_lens = p_lens / 3 + 1e-13
    folder = tmp_path / "new" / "folder"
    content = write_evaluation(
        folder,
        ids=np.arange(50) + 900_000_000_000,
        label=label,
        p_lens=p_lens,
        split=np.array(["test"] * 49 + ["val"]),
        provenance={"name": "ou66-h", "checkpoint": "best.ckpt", "data": "DIR"},
        threshold=0.2,
    )
    assert {path.name for path in folder.iterdir()} == {"metrics.json", "predictions.csv", "roc.png", "pr.png"}
    assert json.loads((folder / "metrics.json").read_text()) == content
    values = scores(label, p_lens, 0.2).values
    assert content["metrics"] == {name: values[name] for name in content["metrics"]}
    assert list(content["metrics"]) == ["auroc", "average_precision", "f1", "precision", "recall", "accuracy"]
    assert (content["n_objects"], content["n_lenses"], content["n_nonlenses"]) == (50, label.sum(), 50 - label.sum())
    assert content["checkpoint"] == "best.ckpt"
    assert content["versions"]["torch"] == torch.__version__
    with (folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "label", "p_lens", "split"]
    assert [float(row["p_lens"]) for row in rows] == p_lens.tolist()
    assert [int(row["id"]) for row in rows] == (np.arange(50) + 900_000_000_000).tolist()
    assert rows[-1]["split"] == "val"
    assert (folder / "roc.png").read_bytes().startswith(b"\x89PNG")


def test_evaluation_of_one_class_says_why(tmp_path):
    content = write_evaluation(tmp_path, ids=[1, 2], label=[0, 0], p_lens=[0.1, 0.6], split=["test"] * 2, provenance={})
    assert content["metrics"]["auroc"] is None
    assert "0 lenses and 2 non-lenses" in content["undefined"]["auroc"]
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"]["auroc"] is None
    with pytest.raises(LensfindError, match="one id, label"):
        write_evaluation(tmp_path, ids=[1], label=[0, 0], p_lens=[0.1, 0.6], split=["test"] * 2, provenance={})


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    rows = {"ids": [1, 2], "label": [0, 1], "p_lens": [0.1, 0.6], "split": ["test"] * 2, "provenance": {}}
    write_evaluation(tmp_path, **rows)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(LensfindError, match="no space left"):
        write_evaluation(tmp_path, **rows | {"p_lens": [0.2, 0.7]})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_tables(tmp_path):
    rows = [{"network": "ou66-h", "auroc": 0.98765, "f1": None}, {"network": "ou200-vis", "auroc": 1.0, "epochs": 3}]
    comparison(rows, tmp_path / "comparison.csv")
    expected = "network,auroc,f1,epochs\nou66-h,0.98765,,\nou200-vis,1.0,,3\n"
    assert (tmp_path / "comparison.csv").read_text() == expected
    screen = io.StringIO()
    print_table(rows, title="seven", console=Console(file=screen, width=80))
    lines = screen.getvalue().splitlines()
    assert lines[0].strip() == "seven"
    first = next(line for line in lines if "ou66-h" in line)
    assert [cell.strip() for cell in first.strip("│").split("│")] == ["ou66-h", "0.9877", "–", "–"]


def test_predict_streams_what_predict_proba_gives():
    finder = LensFinder("ou66", ("J", "H")).train()
    stamps = noise_stamps(7, bands=("J", "H"))
    rows = [np.array([4, 2, 0]), np.array([1, 3, 5, 6])]
    loader = [
        {
            "stamps": {band: torch.from_numpy(cube[r]) for band, cube in stamps.items()},
            "label": torch.from_numpy(r % 2),
            "row": torch.from_numpy(r),
        }
        for r in rows
    ]
    others = LensFinder("ou66", ("H",))
    found = predict([finder, others], loader, progress=False)
    assert found.row.tolist() == [4, 2, 0, 1, 3, 5, 6]
    assert found.label.tolist() == [0, 0, 0, 1, 1, 1, 0]
    assert found.log_odds.dtype == np.float64
    for k, one in enumerate((finder, others)):
        np.testing.assert_allclose(found.p_lens[k], one.predict_proba(stamps).numpy()[found.row], atol=1e-6)
    assert finder.training
    with pytest.raises(LensfindError, match="objects to score"):
        predict([finder], [], progress=False)


def test_scores_that_are_not_finite_are_refused():
    finder = LensFinder("ou66", ("H",))
    with torch.no_grad():
        finder.net.fc_layer[-1].weight.fill_(torch.inf)
    stamps = {band: torch.from_numpy(cube) for band, cube in noise_stamps(3, bands=("H",)).items()}
    loader = [{"stamps": stamps, "label": torch.tensor([0, 1, 0]), "row": torch.tensor([5, 6, 7])}]
    with pytest.raises(LensfindError, match="3 that are NaN or infinite, the first by ou66-h for row 5"):
        predict([finder], loader, progress=False)
