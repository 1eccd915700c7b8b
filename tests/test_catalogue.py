"""The lens rule (which must never run code) and the splits."""

from typing import Any

import numpy as np
import pytest
from astropy.table import MaskedColumn, Table

from lensfind.data import assign_splits, lens_labels
from lensfind.errors import LensfindError

TABLE = Table(
    {
        "n": MaskedColumn([1, 2, 0, 5, 3], mask=[False, False, False, True, False]),
        "mag": [1.7, 1.5, 2.0, 9.0, np.nan],
        "flag": [True, False, True, False, True],
        "name": ["a", "b", "c", "d", "e"],
    }
)


@pytest.mark.parametrize(
    ("rule", "labels"),
    [
        ("n > 0", [1, 1, 0, 0, 1]),  # the fourth is blank
        ("n > 0 and mag > 1.6", [1, 0, 0, 0, 0]),
        ("n > 0 or mag > 1.6", [1, 1, 1, 1, 1]),
        ("not n > 0", [0, 0, 1, 1, 0]),
        ("not (n > 0 and mag > 1.6)", [0, 1, 1, 1, 1]),
        ("0 < n <= 2", [1, 1, 0, 0, 0]),
        ("mag != 1.5", [1, 0, 1, 1, 0]),  # a comparison with NaN is false, != too
        ("mag == 1.5 or n == 0", [0, 1, 1, 0, 0]),
        ("n > -1", [1, 1, 1, 0, 1]),
        ("n >= mag", [0, 1, 0, 0, 0]),
        ("flag == True", [1, 0, 1, 0, 1]),
        ("1 < 2", [1, 1, 1, 1, 1]),
    ],
)
def test_rules(rule: str, labels: list[int]) -> None:
    got = lens_labels(TABLE, rule)
    assert got.tolist() == labels
    assert got.dtype == np.int64
    assert got.shape == (5,)


@pytest.mark.parametrize(
    "rule",
    [
        "__import__('os').system('touch hacked') > 0",
        "n.__class__ > 0",
        "(lambda: 1)() > 0",
        "[x for x in (1,)] > 0",
        "n[0] > 0",
        "n + 1 > 0",
        "2 ** 999999999 > n",
        "n > 'a'",
        "n > 1j",
        "n > None",
        "n in (1, 2)",
        "n is 1",
        "n",
        "True",
        "",
        "n >",
        "n > 0; import os",
        "(n := 3) > 0",
        "n > 0\x00",
        "name > 0",
        "n > 1" + "0" * 400,
        "(" * 5000 + "n > 0" + ")" * 5000,
        "not " * 20000 + "n > 0",
        f"{'1' * 5000} > n",
    ],
)
def test_rules_that_are_none(rule: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LensfindError, match="data.lens_rule"):
        lens_labels(TABLE, rule)
    assert not list(tmp_path.iterdir())


def test_a_rule_with_a_column_that_is_missing() -> None:
    with pytest.raises(LensfindError, match="column n_source_im.*only n, mag, flag, name"):
        lens_labels(TABLE, "n > 0 and n_source_im > 0")


def test_a_rule_on_no_rows() -> None:
    assert lens_labels(TABLE[:0], "n > 0").shape == (0,)


LABELS = np.array([1] * 33 + [0] * 70)
FRACTION = {"kind": "fraction", "train": 0.8, "val": 0.1, "test": 0.1, "seed": 3}


def counts(parts: np.ndarray, labels: np.ndarray = LABELS) -> dict[str, tuple[int, int]]:
    return {
        str(p): (int(np.sum(labels[parts == p] == 0)), int(np.sum(labels[parts == p] == 1))) for p in np.unique(parts)
    }


def test_fractions_are_stratified_by_largest_remainder() -> None:
    parts = assign_splits(LABELS, FRACTION, Table())
    # lenses: 26.4, 3.3, 3.3 -> 27, 3, 3 (the largest remainder is that of train); non-lenses 56, 7, 7
    assert counts(parts) == {"train": (56, 27), "val": (7, 3), "test": (7, 3)}
    np.testing.assert_array_equal(parts, assign_splits(LABELS, dict(FRACTION), Table()))
    assert (parts != assign_splits(LABELS, {**FRACTION, "seed": 4}, Table())).any()


def test_fractions_below_one_leave_rows_unused() -> None:
    parts = assign_splits(LABELS, {"kind": "fraction", "train": 0.5, "test": 0.2}, Table())
    # lenses: 16.5, 6.6 and 9.9 unused -> 16, 7, 10
    assert counts(parts) == {"train": (35, 16), "test": (14, 7), "unused": (21, 10)}
    assert "val" not in parts


@pytest.mark.parametrize("fractions", [(1 / 3, 1 / 3, 1 / 3), (0.7, 0.2, 0.1), (0.6, 0.3, 0.1), (1.0, 0.0, 0.0)])
def test_fractions_that_sum_to_one_use_all(fractions: tuple[float, ...]) -> None:
    for n in range(20, 60, 3):
        labels = np.arange(n) % 2
        parts = assign_splits(
            labels, {"kind": "fraction", **dict(zip(("train", "val", "test"), fractions, strict=True))}, Table()
        )
        assert "unused" not in parts
        for name, fraction in zip(("train", "val", "test"), fractions, strict=True):
            assert abs(np.sum(parts == name) - fraction * n) < 2


def test_rows_in_file_order() -> None:
    labels = np.arange(20) % 2
    parts = assign_splits(labels, {"kind": "rows", "train": 10, "val": 4, "test": 2}, Table())
    assert parts.tolist() == ["train"] * 10 + ["val"] * 4 + ["test"] * 2 + ["unused"] * 4
    with pytest.raises(LensfindError, match="at least 21 rows.*got 20"):
        assign_splits(labels, {"kind": "rows", "train": 10, "val": 4, "test": 7}, Table())


def test_a_column() -> None:
    words = ["train", "train ", "test", "test", "", "unused"]
    labels = np.array([0, 1, 0, 1, 1, 1])
    for column in (words, np.array(words, dtype="S8"), MaskedColumn(words, mask=[0, 0, 0, 0, 1, 0])):
        parts = assign_splits(labels, {"kind": "column"}, Table({"split": column}))
        assert parts.tolist() == ["train", "train", "test", "test", "unused", "unused"]
    with pytest.raises(LensfindError, match="column part.*only split"):
        assign_splits(labels, {"kind": "column", "column": "part"}, Table({"split": words}))
    with pytest.raises(LensfindError, match="train, val, test or blank in column split; got trian"):
        assign_splits(labels, {"kind": "column"}, Table({"split": ["trian", *words[1:]]}))
    with pytest.raises(LensfindError, match="train, val, test or blank"):
        assign_splits(labels, {"kind": "column"}, Table({"split": np.arange(6)}))


def test_none_is_all_test_even_without_lenses() -> None:
    assert assign_splits(np.zeros(3, int), {"kind": "none"}, Table()).tolist() == ["test"] * 3


@pytest.mark.parametrize(
    "split",
    [
        {},
        {"kind": "fractions", "train": 1.0},
        {"kind": ["fraction"]},
        {"kind": "fraction", "trian": 0.8},
        {"kind": "fraction", "train": 0.8, "val": 0.3},
        {"kind": "fraction", "train": -0.1, "val": 0.3},
        {"kind": "fraction", "train": "0.8"},
        {"kind": "fraction", "train": float("nan")},
        {"kind": "fraction", "train": True},
        {"kind": "fraction"},
        {"kind": "fraction", "train": 0.8, "seed": -1},
        {"kind": "fraction", "train": 0.8, "seed": None},
        {"kind": "rows", "train": 0.5},
        {"kind": "rows", "train": -5},
        {"kind": "rows", "train": 5, "seed": 0},
        {"kind": "rows"},
        {"kind": "none", "train": 0.5},
        {"kind": "column", "name": "split"},
    ],
)
def test_splits_that_are_none(split: dict[str, Any]) -> None:
    with pytest.raises(LensfindError):
        assign_splits(LABELS, split, Table({"split": ["train"] * len(LABELS)}))


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_in_a_split(label: int) -> None:
    labels = np.array([0, 1] * 5 + [label] * 5)
    with pytest.raises(
        LensfindError, match=f"lenses and non-lenses in the split val; got {5 * label} lenses among 5 rows"
    ):
        assign_splits(labels, {"kind": "rows", "train": 10, "val": 5}, Table())
    with pytest.raises(LensfindError, match="in the split train"):
        assign_splits(np.full(40, label), FRACTION, Table())
