"""Sensitivity probe: finders with a known answer, the arithmetic of the rows, and what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.table import Table
from scipy.special import expit
from torch import Tensor

from lensfind import figures
from lensfind.bands import BANDS
from lensfind.data.store import Store
from lensfind.errors import LensfindError
from lensfind.evaluation.sensitivity import choose_ids, sensitivity
from lensfind.finder import LensFinder
from lensfind.simulation import simulate
from lensfind.simulation.vary import PROPERTIES, variations
from tests.test_scenarios import settings

Row = dict[str, Any]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lenses 0 and 2, and their twins 1 and 3."""
    folder = tmp_path_factory.mktemp("probe") / "twins"
    simulate(folder, n=4, seed=5, **settings("scenario=twin", "scene.neighbours.limit=23"))
    return folder


class Counting(LensFinder):
    """Log-odds = ``gain`` times the stamps' total, summed over its bands; counts what it has scored."""

    def __init__(self, bands: tuple[str, ...], gain: float = 0.01) -> None:
        super().__init__("ou66", bands)
        self.gain, self.scored = gain, 0

    def log_odds(self, stamps: Mapping[str, Any], batch_size: int = 64) -> Tensor:
        self.scored += len(stamps[self.bands[0]])
        return self.gain * sum(torch.from_numpy(stamps[b].sum(axis=(1, 2), dtype=np.float64)) for b in self.bands)


def by_property(rows: list[Row]) -> dict[str, Row]:
    return {row["property"]: row for row in rows}


def test_rows_are_the_scores_of_the_varied_stamps(root: Path) -> None:
    finders = {"vis": Counting(("VIS",)), "all": Counting(("J", "Y", "H", "VIS"), 0.005)}
    asked = {"source_brightness": [1, -1.5], "noise": [2], "missing_band": None}
    found = sensitivity(finders, root, [0, 2], asked, {"vis": 0.6, "all": 0.9}, progress=False)
    one = next(variations(root, [0, 2]))
    for name, threshold in (("vis", 0.6), ("all", 0.9)):
        rows = by_property(found[name])
        assert list(rows) == list(asked)
        assert rows["source_brightness"]["values"] == [-1.5, 0.0, 1.0]
        assert rows["missing_band"]["values"] == ["none", *BANDS]
        assert rows["missing_band"]["reference"] == "none"
        for key, row in rows.items():
            scores = np.stack([finders[name].log_odds(one.make(key, value).stamps) for value in row["values"]])
            p = expit(scores)
            assert row["p_median"] == pytest.approx(p.mean(axis=1))  # of two
            assert row["p_low"] == pytest.approx(p.min(axis=1) + 0.16 * np.ptp(p, axis=1))
            assert row["p_high"] == pytest.approx(p.min(axis=1) + 0.84 * np.ptp(p, axis=1))
            assert row["log_odds_median"] == pytest.approx(scores.mean(axis=1))
            change = scores - scores[row["values"].index(row["reference"])]
            assert row["log_odds_change"] == pytest.approx(change.mean(axis=1))
            assert row["recall"] == pytest.approx((p > threshold).mean(axis=1))
            assert row["n"] == 2
            for share, low, high in zip(row["recall"], row["recall_low"], row["recall_high"], strict=True):
                z = 1.959963984540054
                middle = (share + z**2 / 4) / (1 + z**2 / 2)
                half = z / (1 + z**2 / 2) * np.sqrt(share * (1 - share) / 2 + z**2 / 16)
                assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-6)
    vis = by_property(found["vis"])
    assert vis["source_brightness"]["log_odds_change"][0] > 0 > vis["source_brightness"]["log_odds_change"][2]
    assert vis["missing_band"]["log_odds_change"][1:4] == [0, 0, 0]  # it reads none of them
    assert vis["missing_band"]["log_odds_change"][4] < 0
    json.dumps(found, allow_nan=False)


def test_nothing_is_scored_twice(root: Path) -> None:
    """The unchanged stamps once, and no stamp that differs only in bands which the finder does not read."""
    finder = Counting(("VIS",))
    asked = {"source_colour": [-1.0, 1.0], "noise": [0.5, 1.0], "missing_band": ["J", "VIS"]}
    rows = by_property(sensitivity({"one": finder}, root, [0], asked, progress=False)["one"])
    assert finder.scored == 3  # unchanged, noise 0.5, without VIS
    assert rows["source_colour"]["log_odds_change"] == [0, 0, 0]
    assert rows["missing_band"]["values"] == ["none", "VIS"]  # nobody reads J


def test_usual_values_and_real_networks(root: Path) -> None:
    torch.manual_seed(0)
    finders = {"h": LensFinder("ou66", ("H",)), "vis": LensFinder("ou66", ("VIS",))}
    found = sensitivity(finders, root, [0], None, progress=False)
    rows = by_property(found["h"])
    assert list(rows) == list(PROPERTIES)
    assert rows["missing_band"]["values"] == ["none", "H", "VIS"]
    stamps = Store(root).read([0])
    for row in rows.values():
        here = row["values"].index(row["reference"])
        assert row["p_median"][here] == pytest.approx(float(finders["h"].predict_proba(stamps)[0]), abs=1e-12)
        assert row["log_odds_change"][here] == 0
    panels = figures.sensitivity(found).axes
    assert len(panels) >= len(PROPERTIES)


def test_choice_of_lenses() -> None:
    table = Table({"id": np.arange(100) + 1000, "label": np.arange(100) % 2})
    chosen = choose_ids(table, 10, seed=1)
    assert len(set(chosen)) == 10
    assert all(i % 2 for i in chosen)
    assert chosen == choose_ids(table, 10, seed=1) != choose_ids(table, 10, seed=2)
    assert choose_ids(table, 1000) == list(range(1001, 1100, 2))
    for catalogue, n, message in (
        (table[::2], 3, "none in 50 rows"),
        (table, 0, "sensitivity.n of 1 or more"),
        (table["id",], 3, "without label"),
    ):
        with pytest.raises(LensfindError, match=message):
            choose_ids(catalogue, n)


def test_bad_questions(root: Path) -> None:
    finders = {"vis": Counting(("VIS",))}
    for ids, asked, message in (
        ([], None, "lenses to probe"),
        ([0, 1], {"noise": [2.0]}, "object 1, which is none"),
        ([0], {"redshift": [2.0]}, "sensitivity.properties out of theta_e"),
        ([0], {"noise": 2.0}, "a list of values of noise"),
        ([0], {"noise": [-1.0]}, "noise as a number from 0"),
        ([9], {"noise": [2.0]}, "ids from 0 to 3"),
    ):
        with pytest.raises(LensfindError, match=message):
            sensitivity(finders, root, ids, asked, progress=False)  # type: ignore[arg-type]
    with pytest.raises(LensfindError, match="one or more finders"):
        sensitivity({}, root, [0], progress=False)
    broken = {"vis": Counting(("VIS",), float("nan"))}
    with pytest.raises(LensfindError, match="NaN or infinite ones by vis"):
        sensitivity(broken, root, [0], {"noise": [2.0]}, progress=False)
