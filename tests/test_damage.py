"""Damaged stores: flipped bytes, shards cut off or missing, manifests that are none. All is found and named."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.io import fits

from lensfind.data import Store, finish, shard_done, verify
from lensfind.data.__main__ import main
from lensfind.errors import LensfindError
from tests.test_store import make_store


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x04
    path.write_bytes(data)


def places(path: Path) -> dict[str, tuple[int, int]]:
    with fits.open(path) as shard:
        return {hdu.name: (hdu.fileinfo()["hdrLoc"], hdu.fileinfo()["datLoc"]) for hdu in shard}


def test_verify_names_the_object_of_a_flipped_byte(tmp_path: Path) -> None:
    make_store(tmp_path)
    path = tmp_path / "shard-00001.fits"
    flip(path, places(path)["H"][1] + 2 * 66 * 66 * 4 + 100)
    (damage,) = verify(tmp_path)
    assert (damage.shard, damage.hdu, damage.id) == ("shard-00001.fits", "H", 6)
    assert "shard-00001.fits H object 6: data" in str(damage)


def test_verify_names_the_row_of_a_flipped_byte_in_the_catalogue(tmp_path: Path) -> None:
    make_store(tmp_path)
    path = tmp_path / "shard-00001.fits"
    with fits.open(path) as shard:
        width = shard["CATALOGUE"].header["NAXIS1"]
    flip(path, places(path)["CATALOGUE"][1] + width + 20)  # theta_e of the second row
    (damage,) = verify(tmp_path)
    assert (damage.shard, damage.hdu, damage.id) == ("shard-00001.fits", "CATALOGUE", 5)
    with pytest.raises(LensfindError, match=r"shard-00001.fits.*CATALOGUE.*checksum.*lensfind.data verify"):
        Store(tmp_path)


def test_verify_finds_any_single_flipped_byte(tmp_path: Path) -> None:
    make_store(tmp_path, sizes=(2,))
    path = tmp_path / "shard-00000.fits"
    whole = path.read_bytes()
    where = places(path)
    rng = np.random.default_rng(0)
    spots = [*rng.integers(0, len(whole), 40), len(whole) - 1]
    spots += [
        start + k for start, _ in where.values() for k in (0, 3, 80, 91, 110, 190, 200, 270, 350, 700, 1000, 2879)
    ]
    for spot in spots:
        flip(path, int(spot))
        owner = [name for name, (start, _) in where.items() if start <= spot][-1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            damage = verify(tmp_path)
        assert damage, f"byte {spot} of {owner}"
        assert owner in {place.hdu for place in damage}, f"byte {spot} of {owner}: {damage}"
        path.write_bytes(whole)
    assert verify(tmp_path) == []


def test_truncated_and_missing_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_store(tmp_path)
    store = Store(tmp_path)
    path = tmp_path / "shard-00001.fits"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5000])
    assert not shard_done(tmp_path, 1)
    assert shard_done(tmp_path, 0)
    assert {place.shard for place in verify(tmp_path)} == {"shard-00001.fits"}
    with pytest.raises(LensfindError, match=f"{len(whole)} bytes.*got {len(whole) - 5000} bytes"):
        Store(tmp_path)
    with pytest.raises(LensfindError, match="cut off"):
        store.read([6], ["J"])
    with pytest.raises(LensfindError, match="missing or cut off"):
        finish(tmp_path, {}, shards=2, lens_rule="")
    path.unlink()
    assert [str(place) for place in verify(tmp_path)] == ["shard-00001.fits: missing"]
    with pytest.raises(LensfindError, match=r"shard-00001.fits.*no such file"):
        Store(tmp_path)
    assert main(["verify", str(tmp_path)]) == 1
    assert "shard-00001.fits: missing" in capsys.readouterr().out
    path.write_bytes(whole)
    assert main(["verify", str(tmp_path)]) == 0
    assert main(["verify", str(tmp_path / "no")]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a\n- b\n",
        "just words",
        "a: [1,",
        "\x00\x01",
        "format: other\nversion: 1\n",
        "format: lensfind-store\nversion: 2\n",
        "format: lensfind-store\nversion: 1\n",
        "!!python/object/apply:os.system ['touch hacked']",
    ],
)
def test_manifests_that_are_none(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path)
    (tmp_path / "manifest.yaml").write_text(text)
    for use in (Store, verify):
        with pytest.raises(LensfindError, match=r"manifest.yaml"):
            use(tmp_path)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bands", {"J": {"pixel_scale": 0.1, "size": 66, "unit": "electron/s"}}),
        ("bands", ["J"]),
        ("bands", {"K": {}}),
        ("planes", None),
        ("shards", [{"name": "../shard-00000.fits", "rows": 4, "bytes": 1}]),
        ("shards", [{"name": "shard-00000.fits", "rows": -4, "bytes": 1}]),
        ("shards", [{"name": "shard-00000.fits", "rows": 4}]),
        ("shards", {"shard-00000.fits": 4}),
        ("version", "1"),
    ],
)
def test_edited_manifests(tmp_path: Path, key: str, value: object) -> None:
    make_store(tmp_path)
    manifest = yaml.safe_load((tmp_path / "manifest.yaml").read_text())
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump({**manifest, key: value}))
    with pytest.raises(LensfindError, match=r"manifest.yaml"):
        Store(tmp_path)


def test_a_manifest_with_other_rows_or_bands(tmp_path: Path) -> None:
    make_store(tmp_path)
    manifest = yaml.safe_load((tmp_path / "manifest.yaml").read_text())
    manifest["shards"][0]["rows"] = 3
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    with pytest.raises(LensfindError, match=r"3 rows in .*shard-00000.fits.*got 4"):
        Store(tmp_path)
    manifest["shards"][0]["rows"] = 4
    manifest["bands"]["Y"] = manifest["bands"]["J"]
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    with pytest.raises(LensfindError, match=r"shard-00000.fits"):
        Store(tmp_path).read([0], ["Y"])
    assert verify(tmp_path)
