"""The predictions table: exact round trips in four formats, ranks by hand, clashes, full disks, bounded memory."""

import builtins
import csv
import errno
import os
import tracemalloc

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from lensfind import LensfindError
from lensfind.evaluation import predictions
from lensfind.evaluation.predictions import FORMATS, Predicted, ranks, write_predictions

N = 7
LABEL = np.array([1, 0, 1, 0, 0, 1, 0])
P = np.array([0.1 + 0.2, 0.5, 1 - 2**-53, 5e-324, 1.0, 1.0, 0.30000000000000004])
SPLIT = np.array(["test"] * 6 + ["val"])


def catalogue() -> Table:
    table = Table({"id": [2**53 + 1, 3, -1, 4, 5, 6, 7], "label": LABEL})
    table["theta_e"] = [0.1, np.nan, 1 / 3, -0.0, np.inf, 1e300, np.nan]
    table["theta_e"].unit, table["theta_e"].description = "arcsec", "Einstein radius, σ of it too"
    table["flux"] = MaskedColumn(np.arange(7.0) / 10, mask=LABEL == 0, unit="electron / s")
    table["n_pix"] = MaskedColumn(np.arange(7), mask=[0, 1, 0, 0, 0, 0, 1], description="pixels")
    table["kind"] = ["lens", "a, b", 'quo"te', "Ωmega", "line\nbreak", "x", "lens"]
    table["good"] = [True, False, True, True, False, False, True]
    table["single"] = np.array([0.1, 2, 3, np.nan, 5, 6, 1e-40], dtype=np.float32)
    table["Größe"] = np.arange(7, dtype=np.int16) - 3
    table["big_endian"] = (np.arange(7) / 7).astype(">f8")
    table["bytes"] = [b"one", b"two", b"", b"four", b"5", b"6", b"7"]
    return table


def one(**more) -> dict[str, Predicted]:
    return {"OU-J": Predicted(P, 0.4, **more)}


def read(path) -> Table:
    if path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow.parquet").read_table(path)
        table = Table()
        for name, column in zip(arrow.column_names, arrow.columns, strict=True):
            text = str(column.type) == "string"
            blank = column.is_null().to_numpy()
            values = [("" if text else 0) if value is None else value for value in column.to_pylist()]
            dtype = np.str_ if text else column.type.to_pandas_dtype()
            table[name] = MaskedColumn(np.array(values, dtype=dtype), mask=blank)
            table[name].unit = arrow.schema.field(name).metadata[b"unit"].decode() or None
            table[name].description = arrow.schema.field(name).metadata[b"description"].decode()
        return table
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        return Table(rows=rows, names=header, dtype=[str] * len(header))
    return Table.read(path, format={".fits": "fits", ".ecsv": "ascii.ecsv"}[path.suffix])


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_cell_reads_back_exactly(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(predictions, "_CHUNK", 3)  # rows over several chunks
    path, table = tmp_path / f"predictions{suffix}", catalogue()
    write_predictions(path, table, LABEL, SPLIT, one(p_calibrated=P / 3, p_survey=P / 7))
    back = read(path)
    size = "Gr\\xf6\\xdfe" if suffix == ".fits" else "Größe"
    assert back.colnames[:9] == ["id", "label", "split", "p_lens", "p_calibrated", "p_survey", "rank", "found", "flag"]
    assert back.colnames[9:] == [*table.colnames[2:8], size, *table.colnames[9:]]
    expected = {"p_lens": P, "p_calibrated": P / 3, "p_survey": P / 7, "id": table["id"], "label": LABEL}
    expected |= {"theta_e": table["theta_e"], "big_endian": table["big_endian"], size: table["Größe"]}
    for name, values in expected.items():
        np.testing.assert_array_equal(np.asarray(back[name]).astype(np.asarray(values).dtype), np.asarray(values), name)
    np.testing.assert_array_equal(np.asarray(back["single"]).astype(np.float32), table["single"])
    assert [str(v) for v in back["kind"]] == list(table["kind"])
    assert [str(v) if v is not np.ma.masked else "" for v in back["bytes"]] == ["one", "two", "", "four", "5", "6", "7"]
    assert [str(v) in ("1", "True") for v in back["good"]] == list(table["good"])
    for name in ("flux", "n_pix"):
        blank = table[name].mask
        kept = np.asarray(back[name])[~blank].astype(float)
        np.testing.assert_array_equal(kept, np.asarray(table[name])[~blank].astype(float))
        if suffix == ".csv":
            assert (np.asarray(back[name])[blank] == "").all()
        else:
            assert (np.ma.getmaskarray(back[name][blank]) | np.isnan(np.asarray(back[name])[blank].astype(float))).all()
    if suffix != ".csv":
        assert str(back["theta_e"].unit) == "arcsec"
        assert "electron" in str(back["flux"].unit)
    if suffix in (".ecsv", ".parquet"):
        assert back["theta_e"].description == "Einstein radius, σ of it too"
    if suffix == ".fits":
        with fits.open(path) as hdus:
            hdus.verify("exception")
            keys = hdus[1].header
            assert keys["TUNIT10"] == "arcsec"
            assert keys["TCOMM8"] == "1: P(lens) > 0.4"
            assert path.stat().st_size % 2880 == 0


@pytest.mark.parametrize("suffix", FORMATS)
def test_no_rows_are_a_table_too(tmp_path, suffix):
    path, none = tmp_path / f"none{suffix}", np.zeros(0)
    write_predictions(path, catalogue()[:0], none.astype(int), none.astype(str), {"a": Predicted(none, 0.5)})
    assert len(read(path)) == 0


def test_ranks_by_hand():
    assert ranks([0.2, 0.9, 0.2, 0.1]).tolist() == [2, 1, 2, 4]
    # The last two are 1 in probability; log-odds tell them apart, but not the first from the third.
    assert ranks([0.5, 0.1, 0.5, 1.0, 1.0], [0, -2.2, 0, 40, 41]).tolist() == [3, 5, 3, 2, 1]
    assert ranks([]).tolist() == []
    scipy_stats = pytest.importorskip("scipy.stats")
    p = np.round(np.random.default_rng(0).random(500), 2)
    np.testing.assert_array_equal(ranks(p), scipy_stats.rankdata(-p, method="min"))


def test_outcomes_and_ranks_stand_in_the_table(tmp_path):
    write_predictions(tmp_path / "p.csv", catalogue(), LABEL, SPLIT, one())
    rows = list(csv.DictReader((tmp_path / "p.csv").open(encoding="utf-8")))
    flags = ["missed", "false_positive", "found", "rejected", "false_positive", "found", "rejected"]
    assert [row["flag"] for row in rows] == flags
    assert [row["found"] for row in rows] == list("0110110")
    assert [row["rank"] for row in rows] == list("5437115")  # 0.1 + 0.2 is 0.30000000000000004
    assert "p_survey" not in rows[0]


def test_several_networks_and_names_that_clash(tmp_path):
    table = catalogue()
    table["label"] = 1 - LABEL  # another label than the one the networks are judged by
    table["Split"], table["CAT_split"] = 1, 2
    networks = {"OU-J": Predicted(P, 0.4), "a,b": Predicted(P / 2, 0.5, p_survey=P)}
    write_predictions(tmp_path / "p.ecsv", table, LABEL, SPLIT, networks)
    back = Table.read(tmp_path / "p.ecsv")
    scores = ["p_lens_OU-J", "rank_OU-J", "found_OU-J", "flag_OU-J"]
    assert back.colnames[3:12] == [*scores, "p_lens_a,b", "p_survey_a,b", "rank_a,b", "found_a,b", "flag_a,b"]
    assert back["cat_label"].tolist() == (1 - LABEL).tolist()
    assert back["cat_Split"].tolist() == [1] * N
    assert back["cat_CAT_split"].tolist() == [2] * N


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"p{suffix}"
    path.write_text("old")

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LensfindError, match="no space left"):
        write_predictions(path, catalogue(), LABEL, SPLIT, one())
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def _table(**columns) -> Table:
    return Table({"id": np.arange(N)} | columns)


@pytest.mark.parametrize(
    ("name", "table", "label", "networks", "message"),
    [
        ("p.xlsx", _table(), LABEL, one(), "ends in .csv, .fits, .ecsv, .parquet; got p.xlsx"),
        ("p.csv", Table({"id": [1, 1, 2, 3, 4, 5, 6]}), LABEL, one(), "1 ids more than once, such as 1"),
        ("p.csv", _table(), LABEL[:3], one(), "one value of label for each of 7"),
        ("p.csv", _table(), LABEL, {"x": Predicted(P[:3], 0.5)}, "p_lens of x"),
        ("p.csv", _table(), LABEL, {"x": Predicted(P, 0.5), "X": Predicted(P, 0.5)}, "different names"),
        ("p.fits", _table(image=np.zeros((N, 2))), LABEL, one(), "column image"),
        ("p.csv", _table(image=np.zeros(N, complex)), LABEL, one(), "column image"),
        ("p.fits", _table(huge=np.full(N, 2**64 - 1, np.uint64)), LABEL, one(), "below 2\\^63"),
    ],
)
def test_refusals(tmp_path, name, table, label, networks, message):
    with pytest.raises(LensfindError, match=message) as error:
        write_predictions(tmp_path / name, table, label, SPLIT, networks)
    assert len(error.value.args) == 3
    assert not list(tmp_path.iterdir())


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError("No module named 'pyarrow'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(LensfindError, match=r"lensfind\[parquet\]"):
        write_predictions(tmp_path / "p.parquet", catalogue(), LABEL, SPLIT, one())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".csv", ".fits", ".ecsv"])
def test_memory_does_not_grow_with_rows(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(predictions, "_CHUNK", 500)

    def peak(n: int) -> int:
        rng = np.random.default_rng(0)
        table = Table({"id": np.arange(n)} | {f"c{k}": rng.random(n) for k in range(20)})
        scores = {"x": Predicted(rng.random(n), 0.5)}
        label, split = np.arange(n) % 2, np.full(n, "test")
        tracemalloc.start()
        write_predictions(tmp_path / f"p{suffix}", table, label, split, scores)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    small, large = peak(1_000), peak(9_000)
    # Ranks, the sorted ids and the like are some 100 bytes a row; the table itself has 200 bytes and more.
    assert large - small < 8_000 * 150
