"""The challenge folder becomes a store: what is good arrives unchanged and in order, what is bad is listed."""

import csv
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from lensfind.bands import BANDS
from lensfind.data.challenge import challenge_data, pack
from lensfind.data.layout import BadImageError, find_layout, read_stamp
from lensfind.data.store import Store
from lensfind.data.truth import read_truth
from lensfind.errors import LensfindError

RULE = "n_source_im > 0 and mag_eff > 1.6 and n_pix_source > 20"
SCALE = 2.0**-36  # 1.5e-11, the challenge's order of magnitude; a power of two, so that no bit of a stamp is lost
COLUMNS = (
    *("x_crit", "y_crit", "source_ID", "z_source", "z_lens", "mag_source", "ein_area", "n_crit", "r_source"),
    *("crit_area", "n_pix_source", "source_flux", "n_pix_lens", "lens_flux", "n_source_im", "mag_eff", "sb_contrast"),
    *("color_diff", "n_gal_3", "n_gal_5", "n_gal_10", "halo_mass", "star_mass", "mag_lens", "n_sources"),
)


def write_challenge(
    folder: Path,
    stamps: Mapping[str, np.ndarray],
    catalogue: Table,
    *,
    below: str = "Public",
    id_name: str = "ID",
    table: str = "image_catalog2.0train.csv",
    quirks: bool = True,
    scale: float = SCALE,
) -> dict[str, str]:
    """A folder in the layout of the lens-finding challenge 2.0 with the given objects, in their order.

    Args:
        folder: To be made.
        stamps: Band -> (N, n, n); only these bands are written, times ``scale``, as big-endian float32.
        catalogue: ``id`` and ``label``; those of its columns that the challenge has are written for lenses, and the
            rule's columns are invented so that :data:`RULE` gives ``label`` back.
        below: Folder between, "" for none.
        id_name: Header of the id column, "ID" or "Euclid ID".
        table: Name of the truth table.
        quirks: Also write malformed rows and rows without images, under ids from 9,000,001 on.
        scale: Factor from the stamps to the files.

    Returns: id -> kind of every reject that a reader must list ("" for the id that cannot be read).
    """
    base = folder / below
    base.mkdir(parents=True)
    for band, cube in stamps.items():
        (base / f"EUC_{band}").mkdir()
        for number, stamp in zip(catalogue["id"], cube, strict=True):
            image = fits.PrimaryHDU((np.asarray(stamp) * np.float32(scale)).astype(">f4"))
            image.writeto(base / f"EUC_{band}" / f"imageEUC_{band}-{number}.fits")
    lines = [f"# comment {line}, with a comma" for line in range(27)]
    lines.append(",".join(['""', id_name, *COLUMNS]))
    invented = {"n_source_im": "2", "mag_eff": "3.5", "n_pix_source": "120"}
    for row, entry in enumerate(catalogue):
        lens = bool(entry["label"])
        values = {name: repr(float(entry[name])) for name in COLUMNS if name in catalogue.colnames and lens}
        values |= invented if lens else {"n_source_im": "0", "n_pix_source": ""}
        lines.append(",".join([f'"{row + 1}"', str(entry["id"]), *(values.get(name, "") for name in COLUMNS)]))
        if quirks and row == len(catalogue) // 2:
            lines += [
                '"",9000001,1,2',
                ",".join(['""', "9000002", *["1"] * (len(COLUMNS) + 1)]),
                ",".join(['""', "9000003", "a word", *["1"] * (len(COLUMNS) - 1)]),
                ",".join(['""', "", *["1"] * len(COLUMNS)]),
                ",".join(['""', "9000004", *["1"] * len(COLUMNS)]),
            ]
    (base / table).write_text("\n".join(lines) + "\n")
    malformed = dict.fromkeys(("9000001", "9000002", "9000003", ""), "malformed row")
    return malformed | {"9000004": "missing image"} if quirks else {}


def objects(n: int = 12, bands: tuple[str, ...] = ("J", "VIS"), seed: int = 1) -> tuple[dict[str, np.ndarray], Table]:
    """Noise stamps in electron/s and their catalogue; ids neither sorted nor of one length."""
    rng = np.random.default_rng(seed)
    stamps = {b: rng.normal(size=(n, BANDS[b].size, BANDS[b].size)).astype(np.float32) for b in bands}
    ids = rng.permutation(np.r_[np.arange(7, 7 + n // 2), np.arange(200000, 200000 + n - n // 2)])
    return stamps, Table({"id": ids, "label": rng.permutation(np.arange(n) % 2), "z_lens": rng.uniform(0.1, 1, n)})


def rejects(store: Path) -> list[tuple[str, str]]:
    with (store / "rejects.csv").open() as file:
        return [(row["id"], row["reason"]) for row in csv.DictReader(file)]


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}


def image(folder: Path, band: str, number: Any) -> Path:
    return folder / "Public" / f"EUC_{band}" / f"imageEUC_{band}-{number}.fits"


def test_good_rows_arrive_unchanged_and_bad_ones_are_listed(tmp_path: Path) -> None:
    (stamps, catalogue), folder = objects(16), tmp_path / "challenge"
    expected = write_challenge(folder, stamps, catalogue)
    ids = [str(i) for i in catalogue["id"]]
    nan = np.full((66, 66), 1.0)
    nan[3, 3] = np.nan
    for number, pixels in ((ids[0], nan), (ids[1], np.ones((66, 66))), (ids[2], np.eye(65))):
        fits.writeto(image(folder, "J", number), pixels.astype(">f4"), overwrite=True)
    whole = image(folder, "VIS", ids[3]).read_bytes()
    image(folder, "VIS", ids[3]).write_bytes(whole[:-1])
    image(folder, "VIS", ids[4]).write_bytes(b"not FITS")
    image(folder, "VIS", ids[5]).unlink()
    shutil.copy(image(folder, "J", ids[6]), image(folder, "J", "00" + ids[6]))
    table = folder / "Public" / "image_catalog2.0train.csv"
    row = next(line for line in table.read_text().splitlines() if f",{ids[7]}," in line)
    table.write_text(table.read_text() + row + "\n")
    shutil.copy(image(folder, "J", ids[9]), image(folder, "J", 8999999))
    kinds = ["not finite", "constant", "wrong shape", "truncated image", "unreadable image", "missing image"]
    kinds += ["ambiguous image", "duplicate id", "ignored id"]
    expected |= {**dict(zip(ids, kinds, strict=False)), "8999999": "no truth row"}
    before, store_root = snapshot(folder), tmp_path / "store"
    pack(folder, store_root, lens_rule=RULE, ignored_ids=[int(ids[8]), 5], shard_size=5)

    assert snapshot(folder) == before
    store = Store(store_root)
    assert list(store.bands) == ["J", "VIS"]
    assert [str(i) for i in store.catalogue["id"]] == ids[9:]
    np.testing.assert_array_equal(store.catalogue["label"], catalogue["label"][9:])
    lens = np.array(store.catalogue["label"] == 1)
    np.testing.assert_array_equal(store.catalogue["z_lens"][lens], catalogue["z_lens"][9:][lens])
    assert np.isnan(store.catalogue["mag_eff"][~lens]).all()
    read = store.read(np.arange(len(store)), ("VIS", "J"))
    for band in ("J", "VIS"):
        np.testing.assert_array_equal(read[band], stamps[band][9:] * np.float32(SCALE))
    listed = rejects(store_root)
    assert {number: reason.split(":")[0] for number, reason in listed} == expected
    assert len(listed) == len(expected) + 1  # both rows of the duplicate
    assert dict(listed)["9000001"] == f"malformed row: line {27 + 1 + 9 + 1}: 4 fields, expected 27"
    assert "x_crit is 'a word'" in dict(listed)["9000003"]
    assert "J" in dict(listed)[ids[0]]
    assert "VIS" in dict(listed)[ids[5]]
    counts = store.manifest["counts"]
    assert counts["rejected"] == {kind: [r.split(":")[0] for _, r in listed].count(kind) for kind in counts["rejected"]}
    assert counts["objects"] + sum(counts["rejected"].values()) == 16 + 5 + 1 + 1  # nothing is lost between


def test_parallel_resumed_and_repeated_packing_give_the_same_bytes(tmp_path: Path) -> None:
    folder, one, two = tmp_path / "challenge", tmp_path / "one", tmp_path / "two"
    write_challenge(folder, *objects(), id_name="Euclid ID", below="a/b/Public")
    pack(folder, one, lens_rule=RULE, shard_size=4)
    pack(folder, two, lens_rule=RULE, shard_size=4, workers=2)
    contents = {path.name: path.read_bytes() for path in one.iterdir()}
    assert len([name for name in contents if name.startswith("shard-")]) == 5  # 17 rows
    assert {path.name: path.read_bytes() for path in two.iterdir()} == contents

    kept = snapshot(two)
    (two / "manifest.yaml").unlink()
    (two / "shard-00001.fits").unlink()
    (two / "shard-00002.fits").write_bytes(contents["shard-00002.fits"][:5000])
    pack(folder, two, lens_rule=RULE, shard_size=4)
    assert {path.name: path.read_bytes() for path in two.iterdir()} == contents
    same = [path for path, state in snapshot(two).items() if kept[path] == state]
    assert [Path(path).name for path in same] == ["shard-00000.fits", "shard-00003.fits", "shard-00004.fits"]

    shutil.rmtree(folder)
    pack(folder, two, lens_rule=RULE, shard_size=4)  # a finished store asks for nothing


def test_data_module_packs_once_and_serves_the_bands(tmp_path: Path) -> None:
    stamps, catalogue = objects(20)
    write_challenge(tmp_path / "challenge", stamps, catalogue)
    split = {"kind": "fraction", "train": 0.5, "val": 0.3, "test": 0.2, "seed": 0}

    def data(rule: str = RULE, ignored: tuple[int, ...] = (), bands: tuple[str, ...] = ("VIS",)) -> Any:
        return challenge_data(
            tmp_path / "challenge", tmp_path / "stores", bands, rule, ignored, shard_size=8, split=split, batch_size=4
        )

    first = data()
    first.prepare_data()
    first.setup("fit")
    np.testing.assert_array_equal(first.labels, catalogue["label"])
    batch = next(iter(first.loader(np.array([3, 1]))))
    np.testing.assert_array_equal(batch["stamps"]["VIS"].numpy(), stamps["VIS"][[3, 1]] * np.float32(SCALE))
    state = snapshot(tmp_path / "stores")
    again = data(bands=("J",))  # the store holds every band of the folder
    again.prepare_data()
    assert snapshot(tmp_path / "stores") == state
    roots = {str(d.hparams["root"]) for d in (first, again, data(rule="n_source_im > 0"), data(ignored=(7,)))}
    assert len(roots) == 3
    with pytest.raises(LensfindError, match=r"missing: Y"):
        data(bands=("Y", "J"))


@pytest.mark.parametrize("id_name", ["ID", "Euclid ID"])
def test_truth_table_reader(tmp_path: Path, id_name: str) -> None:
    path = tmp_path / "table.csv"
    text = (
        f'# one\n#\n"","{id_name}","a", b\n"1",000012,NA,1e3\n\n"2",7,"-1.5",\n# more\n'
        '"3,8,1,2\n"4",-9,1,2\n"5",99999999999999999999,1,2\n'
    )
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b'"6",10,\xff,1\r\n"7",11,3,4')
    truth = read_truth(path)
    assert truth.table.colnames == ["id", "a", "b"]
    assert list(truth.table["id"]) == [12, 7, 11]
    np.testing.assert_array_equal(truth.table["a"], [np.nan, -1.5, 3])
    np.testing.assert_array_equal(truth.table["b"], [1000, np.nan, 4])
    assert list(truth.position) == [0, 1, 6]
    assert truth.rows == 7
    lines = [(position, reason.split(": ")[1]) for position, _, reason in truth.rejects]
    assert lines == [(2, "line 8"), (3, "line 9"), (4, "line 10"), (5, "line 11")]
    assert truth.ids == {12, 7, 10, 11}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# only a comment\n", "none"),
        ("id;a\n1;2\n", "id;a"),
        ("source_ID,a\n1,2\n", "source_ID"),
        ("ID,a,A\n1,2,3\n", "more than once"),
        ("ID,label\n1,1\n", "label more than once"),
    ],
)
def test_unfit_truth_tables(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(LensfindError, match=told):
        read_truth(tmp_path / "table.csv")


def test_unfit_folders(tmp_path: Path) -> None:
    def complains(folder: Path, told: str, **options: Any) -> None:
        with pytest.raises(LensfindError, match=told):
            pack(folder, tmp_path / "store", **{"lens_rule": RULE, **options})
        assert not (tmp_path / "store").exists()

    folder = tmp_path / "challenge"
    complains(folder, "does not exist")
    folder.mkdir()
    complains(folder, r"Expected folders EUC_VIS.*data=shards")
    write_challenge(folder / "set", *objects(4))
    complains(folder, "n_lines", lens_rule="n_lines > 0")
    complains(folder, r"truth=nothing\.csv, which is no file", truth="nothing.csv")
    complains(folder, "workers=0", workers=0)
    (tmp_path / "file").touch()
    with pytest.raises(LensfindError, match="Choose a folder that you may write to"):
        pack(folder, tmp_path / "file" / "store", lens_rule=RULE, workers=2)
    table = folder / "set" / "Public" / "image_catalog2.0train.csv"
    (folder / "predictions.csv").write_text("id,p\n1,0.5\n")
    assert find_layout(folder).truth == table  # by its name
    shutil.copy(table, folder / "EuclidDataFile2.0train.csv")
    complains(folder, r"one truth table; got 2: .*data\.truth")
    assert find_layout(folder, "EuclidDataFile2.0train.csv").truth.parent == folder
    (folder / "EuclidDataFile2.0train.csv").unlink()
    (folder / "predictions.csv").unlink()
    (folder / "strange.csv").write_text(f"ID,{','.join(COLUMNS)}\n" + "5" + ",1" * len(COLUMNS) + "\n")
    complains(folder, "no such one", truth="strange.csv")
    (folder / "strange.csv").unlink()
    table.unlink()
    complains(folder, "without any CSV file.*test set came without")
    write_challenge(folder / "second", *objects(4))
    complains(folder, r"one folder EUC_VIS|one folder EUC_J")


@pytest.mark.parametrize("dtype", ["u1", ">i2", ">u2", ">i4", ">f4", ">f8"])
def test_image_reader_agrees_with_astropy(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "imageEUC_J-1.fits"
    header = fits.Header([("OBJECT", "END / 'quoted'"), ("NOTE", 1.5, "BITPIX = 8"), *[("HISTORY", "x")] * 40])
    fits.writeto(path, np.random.default_rng(2).integers(0, 250, (66, 66)).astype(dtype), header)
    np.testing.assert_array_equal(read_stamp(tmp_path, [path.name], "J"), fits.getdata(path).astype(np.float32))


@pytest.mark.parametrize("cut", [0, 79, 2000, 2880, 2881, 17000, 20303, 23039])
def test_no_cut_file_is_read(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "imageEUC_J-1.fits"
    fits.writeto(path, np.random.default_rng(3).normal(size=(66, 66)).astype(">f4"))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(BadImageError, match=r"truncated|unreadable"):
        read_stamp(tmp_path, [path.name], "J")


def test_a_damaged_header_is_a_reject_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "imageEUC_J-1.fits"
    fits.writeto(path, np.random.default_rng(4).normal(size=(66, 66)).astype(">f4"))
    whole = path.read_bytes()
    rng, refused = np.random.default_rng(5), 0
    for _ in range(300):
        damaged = np.frombuffer(whole, dtype=np.uint8).copy()
        damaged[rng.integers(0, 6 * 80, 4)] = rng.integers(32, 127, 4)
        path.write_bytes(damaged.tobytes())
        try:
            read_stamp(tmp_path, [path.name], "J")
        except BadImageError:
            refused += 1
    assert refused > 100
