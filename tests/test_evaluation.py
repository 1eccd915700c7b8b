"""Scores against scikit-learn and by hand; the files and tables of an evaluation; streaming prediction."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn import metrics as sklearn

from lensfind import LensFinder, LensfindError
from lensfind.evaluation import comparison, predict, print_table, scores, undefined, write_evaluation
from lensfind.finder import _metrics
from tests.conftest import noise_stamps


def draw(n: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities that know something, with ties."""
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.2).astype(np.int64)
    return label, np.round(1 / (1 + np.exp(-(rng.normal(size=n) + 2 * label - 1))), 2)


@pytest.mark.parametrize("threshold", [0.5, 0.31])
def test_scores_agree_with_scikit_learn(threshold):
    label, p_lens = draw()
    found = p_lens > threshold
    expected = {
        "auroc": sklearn.roc_auc_score(label, p_lens),
        "average_precision": sklearn.average_precision_score(label, p_lens),
        "f1": sklearn.f1_score(label, found),
        "precision": sklearn.precision_score(label, found),
        "recall": sklearn.recall_score(label, found),
        "accuracy": sklearn.accuracy_score(label, found),
    }
    assert scores(label, p_lens, threshold) == pytest.approx(expected, abs=1e-6)
    assert undefined(label, p_lens, threshold) == {}


def test_scores_by_hand_and_as_logged_in_training():
    label, p_lens = np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.5, 0.7, 0.4, 0.9])
    by_hand = {"auroc": 4 / 6, "f1": 0.5, "precision": 0.5, "recall": 0.5, "accuracy": 0.6}
    by_hand["average_precision"] = 0.5 * 1 + 0.5 * 2 / 4
    assert scores(label, p_lens) == pytest.approx(by_hand)
    logged = _metrics("test")
    logged.update(torch.from_numpy(p_lens), torch.from_numpy(label))
    assert scores(label, p_lens) == {key.removeprefix("test/"): float(v) for key, v in logged.compute().items()}


def test_saturated_scores_stay_ranked():
    """P(lens) so close to 1 that float32 would tie them."""
    assert scores([0, 0, 1, 1], [1 - 4e-12, 1 - 3e-12, 1 - 2e-12, 1 - 1e-12])["auroc"] == 1


@pytest.mark.parametrize(
    ("label", "p_lens", "none"),
    [
        ([0, 0], [0.1, 0.2], {"auroc", "average_precision", "recall", "precision", "f1"}),
        ([0, 0], [0.1, 0.9], {"auroc", "average_precision", "recall"}),
        ([1, 1], [0.6, 0.9], {"auroc", "average_precision"}),
        ([0, 1], [0.1, 0.2], {"precision"}),
        ([], [], {"auroc", "average_precision", "recall", "precision", "f1", "accuracy"}),
    ],
)
def test_undefined_is_none_with_a_reason(label, p_lens, none):
    values = scores(label, p_lens)
    assert {key for key, value in values.items() if value is None} == none == set(undefined(label, p_lens))


@pytest.mark.parametrize(
    ("label", "p_lens", "threshold", "message"),
    [
        ([0, 1], [0.1], 0.5, "as many probabilities"),
        ([0, 2], [0.1, 0.2], 0.5, "labels 0 or 1"),
        ([0, 1], [0.1, 3.0], 0.5, "not logits"),
        ([0, 1], [0.1, np.nan], 0.5, "got nan"),
        ([0, 1], [0.1, 0.2], 1.5, "threshold"),
    ],
)
def test_bad_scores(label, p_lens, threshold, message):
    with pytest.raises(LensfindError, match=message):
        scores(label, p_lens, threshold)


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
    assert content["metrics"] == scores(label, p_lens, 0.2)
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
