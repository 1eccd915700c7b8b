"""Completeness against analytic laws and by hand; its file; false positives by kind."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from lensfind import LensfindError
from lensfind.evaluation.mistakes import false_positives, worst
from lensfind.evaluation.selection import LENS_PROPERTIES, round_edges, selection_function, shares, write_selection


def lenses(n: int = 20_000, seed: int = 0) -> Table:
    """A catalogue with the simulator's columns that completeness is counted against."""
    rng = np.random.default_rng(seed)
    table = Table({"label": np.ones(n, dtype=np.int64), "kind": np.full(n, "lens")})
    table["theta_e"] = rng.uniform(0.3, 2.9, n)
    table["theta_e"].unit = "arcsec"
    table["arc_snr"] = 20 * rng.pareto(1.5, n) + 20
    table["mag_eff"] = 1.6 + rng.exponential(3, n)
    table["z_source"] = rng.uniform(0.3, 4.0, n)
    table["contrast"] = rng.random(n)
    for name, mean in (("mag_source", 25.0), ("mag_lens", 20.0)):
        table[name] = rng.normal(mean, 1.0, n)
        table[f"{name}_VIS"] = table[name]
        table[f"{name}_H"] = table[name] - rng.normal(1.5, 0.4, n)
    return table


def chance(theta: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-6 * (theta - 1.2)))


def found_by_law(table: Table, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random(len(table)) < chance(np.asarray(table["theta_e"]))


def test_wilson_intervals_by_hand():
    """p~ = (k + z^2 / 2) / (n + z^2), half width z / (n + z^2) sqrt(k (n - k) / n + z^2 / 4)."""
    share, lower, upper = shares([7, 0, 10, 0], [10, 10, 10, 0])
    z, k, n = 1.959963984540054, np.array([7, 0, 10]), 10
    half = z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    np.testing.assert_allclose(share[:3], [0.7, 0, 1])
    np.testing.assert_allclose(lower[:3], (k + z**2 / 2) / (n + z**2) - half, atol=1e-12)
    np.testing.assert_allclose(upper[:3], (k + z**2 / 2) / (n + z**2) + half, atol=1e-12)
    assert np.isnan([share[3], lower[3], upper[3]]).all()


def test_an_analytic_selection_is_recovered_within_its_intervals():
    table = lenses()
    counted = selection_function(table, found_by_law(table)).tables["theta_e"]
    assert 6 <= len(counted) <= 12
    truth = [
        chance(np.asarray(table["theta_e"]))[(table["theta_e"] >= row["low"]) & (table["theta_e"] < row["high"])].mean()
        for row in counted
    ]
    inside = (counted["lower"] <= truth) & (truth <= counted["upper"])
    assert inside.sum() >= len(counted) - 1
    flat = selection_function(table, found_by_law(table)).tables["z_source"]
    assert np.abs(flat["completeness"] - chance(np.asarray(table["theta_e"])).mean()).max() < 0.05


def test_intervals_cover_the_truth_in_about_95_of_100():
    hits, bins = 0, 0
    table = lenses(4000)
    theta = np.asarray(table["theta_e"])
    for seed in range(40):
        counted = selection_function(table, found_by_law(table, seed + 100), properties=["theta_e"]).tables["theta_e"]
        for row in counted:
            p = chance(theta)[(theta >= row["low"]) & (theta < row["high"])].mean()
            hits, bins = hits + (row["lower"] <= p <= row["upper"]), bins + 1
    assert 0.92 < hits / bins < 0.995  # a mixture of chances in a bin scatters a little less than a binomial


def test_marginal_sums_are_the_totals():
    table = lenses(3000)
    found = found_by_law(table)
    table["theta_e"][:7] = np.nan
    table["arc_snr"] = MaskedColumn(table["arc_snr"], mask=np.arange(3000) >= 2990)
    selection = selection_function(table, found)
    assert (selection.n, selection.n_found, selection.missing) == (3000, found.sum(), {})
    assert selection.properties == [one.name for one in LENS_PROPERTIES]
    for counted in selection.tables.values():
        assert counted["n"].sum() + counted.meta["n_blank"] == 3000
        assert not np.isnan(np.ma.compressed(counted["completeness"])).any()
        assert (np.ma.getmaskarray(counted["completeness"]) == (counted["n"] == 0)).all()
    assert selection.tables["theta_e"].meta["n_blank"] == 7
    assert selection.tables["theta_e,arc_snr"].meta["n_blank"] == 17
    assert selection.tables["theta_e"]["n_found"].sum() == found[7:].sum()
    pair, one = selection.tables["theta_e,mag_source"], selection.tables["theta_e"]
    for name in ("n", "n_found"):
        assert np.asarray(pair[name]).reshape(len(one), -1).sum(axis=1).tolist() == one[name].tolist()


def test_counts_by_hand():
    table = Table({"theta_e": [0.5, 0.99, 1.0, 1.5, 2.0], "mag_eff": [2.0, 3.0, 9.0, 0.0, np.inf]})
    found = np.array([False, True, True, True, False])
    selection = selection_function(table, found, properties=["theta_e", "mag_eff"], bins=3)
    one = selection.tables["theta_e"]
    assert one["low"].tolist() == [0.5, 1.0, 1.5]
    assert (one["n"].tolist(), one["n_found"].tolist()) == ([2, 1, 2], [1, 1, 1])
    assert selection.tables["mag_eff"].meta["n_blank"] == 2  # zero has no logarithm


@pytest.mark.parametrize("bins", [1, 3, 8, 20])
@pytest.mark.parametrize("log", [False, True])
def test_edges_are_round_and_hold_everything(bins, log):
    rng = np.random.default_rng(3)
    for values in (rng.uniform(0.31, 2.9, 500), rng.normal(25, 1, 500), 10 ** rng.normal(2, 1, 500), np.full(3, 0.7)):
        edges = round_edges(values, bins, log=log)
        assert (np.diff(edges) > 0).all()
        assert edges[0] <= values.min()
        assert edges[-1] >= values.max()
        assert np.array_equal(edges, [float(f"{edge:.4g}") for edge in edges])
    edges = round_edges(rng.uniform(0, 1, 1000), bins)
    assert abs(len(edges) - 1 - bins) <= max(1, bins // 2)


def test_edges_do_not_run_after_an_outlier():
    values = np.append(np.random.default_rng(0).uniform(0, 1, 1000), 1e9)
    assert len(round_edges(values)) < 20


def test_whole_numbers_have_bins_of_whole_numbers():
    table = Table({"n_source_im": [2, 2, 3, 4, 4]})
    counted = selection_function(table, np.ones(5, dtype=bool), properties=["n_source_im"]).tables["n_source_im"]
    assert counted["low"].tolist() == [2, 3, 4]
    assert counted["n"].tolist() == [2, 1, 2]


def test_challenge_columns_and_any_column_can_be_asked_for():
    rng = np.random.default_rng(0)
    names = ("mag_source", "mag_lens", "z_source", "mag_eff", "ein_area", "sb_contrast", "color_diff", "halo_mass")
    table = Table({name: rng.uniform(1, 5, 100) for name in names})
    found = rng.random(100) < 0.5
    selection = selection_function(table, found)
    assert {"mag_source", "mag_eff", "ein_area", "sb_contrast", "color_diff"} <= set(selection.properties)
    assert set(selection.missing) == {"theta_e", "arc_snr", "contrast", "color_source", "color_lens"}
    assert "mag_source_VIS" in selection.missing["color_source"]
    asked = selection_function(
        table, found, properties=["halo_mass", "mag_lens - mag_source"], pairs=[("z_source", "halo_mass")]
    )
    assert list(asked.tables) == ["halo_mass", "mag_lens - mag_source", "z_source,halo_mass"]
    assert sum(asked.tables["z_source,halo_mass"]["n"]) == 100


def test_the_file_reads_back_with_units_and_without_a_date(tmp_path):
    table = lenses(300)
    selection = selection_function(table, found_by_law(table))
    path = tmp_path / "folder" / "selection.fits"
    about = {"network": "OU-66 é " + "x" * 80, "threshold": 0.73, "checkpoint": "f" * 64}
    write_selection(path, selection, **about)
    for name, counted in selection.tables.items():
        back = Table.read(path, hdu=name.upper())
        assert back.colnames == counted.colnames
        assert [str(back[c].unit or "") for c in back.colnames] == [str(counted[c].unit or "") for c in back.colnames]
        for column in counted.colnames:
            np.testing.assert_array_equal(
                np.ma.filled(np.ma.asarray(back[column], dtype=float), -1),
                np.ma.filled(np.ma.asarray(counted[column], dtype=float), -1),
            )
        assert (back.meta["THRESH"], back.meta["LEVEL"], back.meta["CHECKPT"]) == (0.73, 0.95, "f" * 64)
        assert back.meta["NETWORK"].startswith("OU-66 ? xx")
    assert str(Table.read(path, hdu="THETA_E")["low"].unit) == "arcsec"
    with fits.open(path) as hdus:
        assert hdus[0].header["NFOUND"] == selection.n_found
        hdus.verify("exception")
    first = path.read_bytes()
    write_selection(path, selection, **about)
    assert path.read_bytes() == first
    assert [file.name for file in path.parent.iterdir()] == ["selection.fits"]


def test_lenses_without_any_property_are_told(tmp_path):
    selection = selection_function(lenses(0), np.empty(0, dtype=bool))
    assert selection.tables == {}
    assert "without lenses" in selection.missing["theta_e"]
    write_selection(tmp_path / "s.fits", selection, network="n", threshold=0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"properties": ["theta_x"]}, "got a catalogue without the column theta_x.*theta_e"),
        ({"properties": ["kind"]}, "kind that holds no numbers"),
        ({"properties": ["blank"]}, "blank for every lens"),
        ({"pairs": [("theta_e", "nothing")]}, "without the column nothing"),
        ({"bins": 0}, "Set bins=8"),
        ({"found": np.ones(5)}, "one True or False"),
        ({"found": np.ones(4, dtype=bool)}, "one True or False"),
    ],
)
def test_bad_questions(change, message):
    table = lenses(5)
    table["blank"] = np.nan
    arguments = {"found": np.ones(5, dtype=bool)} | change
    with pytest.raises(LensfindError, match=message):
        selection_function(table, **arguments)


def test_non_lenses_have_no_completeness():
    table = lenses(5)
    table["label"][0] = 0
    with pytest.raises(LensfindError, match="lenses only"):
        selection_function(table, np.ones(5, dtype=bool))


def test_false_positives_by_kind():
    kinds = ["lens", "ring", "ring", "ring", "ring", "spiral", "lens", "double_ring"]
    label = [1, 0, 0, 0, 0, 0, 0, 0]
    found = [True, True, False, False, False, False, True, False]
    rows = false_positives(Table({"kind": kinds}), label, found)
    assert [(row["kind"], row["n"], row["n_found"], row["rate"]) for row in rows] == [
        ("lens (undetectable)", 1, 1, 1.0),
        ("ring", 4, 1, 0.25),
        ("double_ring (undetectable)", 1, 0, 0.0),
        ("spiral", 1, 0, 0.0),
    ]
    assert rows[1]["lower"] == pytest.approx(0.0455872608)
    assert rows[1]["upper"] == pytest.approx(0.699358157)
    one = false_positives(Table({"id": range(8)}), label, found)
    assert [(row["kind"], row["n"], row["n_found"]) for row in one] == [("non-lens", 7, 2)]
    assert false_positives(Table({"id": [1]}), [1], [True]) == []
    with pytest.raises(LensfindError, match="each of 1 objects"):
        false_positives(Table({"id": [1]}), [1, 0], [True, False])


def test_the_most_confident_mistakes():
    label = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    p_lens = np.array([0.9, 1.0, 1.0, 0.2, 0.1, 0.9, 0.4, 0.1])
    false, missed = worst(label, p_lens, 2)
    assert (false.tolist(), missed.tolist()) == ([1, 2], [4, 7])
    false, missed = worst(label, p_lens, 9, log_odds=[2.0, 50.0, 60.0, -1.0, -2.2, 2.0, -0.4, -2.3])
    assert (false.tolist(), missed.tolist()) == ([2, 1, 0], [7, 4, 6])
    assert [len(part) for part in worst(label, p_lens, 9, threshold=1.0)] == [0, 4]
