"""The store: round trip, killed writers, full disks, other processes, and reading in bounded memory."""

import os
import pickle
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy import units as u
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from numpy.typing import NDArray

from lensfind.bands import BANDS
from lensfind.data import Store, finish, shard_done, verify, write_shard
from lensfind.errors import LensfindError

NISP = ("J", "H")


def noise(n: int, seed: int = 0, bands: tuple[str, ...] = NISP) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return {b: rng.normal(0.0, 1e-11, (n, BANDS[b].size, BANDS[b].size)).astype(np.float32) for b in bands}


def rows(n: int, first: int = 0) -> Table:
    ids = np.arange(first, first + n)
    return Table({"id": ids, "label": ids % 2, "theta_e": ids / 10})


def make_store(
    root: Path, sizes: tuple[int, ...] = (4, 3), bands: tuple[str, ...] = NISP
) -> dict[str, NDArray[np.float32]]:
    """A store with ids 0, 1, ...; returns all its stamps."""
    parts, first = [], 0
    for number, n in enumerate(sizes):
        parts.append(noise(n, number, bands))
        write_shard(root, number, parts[-1], rows(n, first))
        first += n
    finish(root, {"seed": 1}, shards=len(sizes), lens_rule="theta_e > 0")
    return {band: np.concatenate([part[band] for part in parts]) for band in bands}


def test_read_gives_what_was_written_in_the_order_asked(tmp_path: Path) -> None:
    stamps = make_store(tmp_path, bands=("VIS", "J"))
    store = Store(tmp_path)
    assert store.bands == ("J", "VIS")
    assert len(store) == 7
    asked = np.array([6, 0, 3, 4, 3])
    got = store.read(asked, ["VIS", "J"])
    assert list(got) == ["VIS", "J"]
    for band in got:
        np.testing.assert_array_equal(got[band], stamps[band][asked])
        assert got[band].dtype == np.float32
        assert got[band].dtype.isnative
        got[band][:] = 0  # a copy, writeable
    np.testing.assert_array_equal(store.read([6], ["J"])["J"], stamps["J"][[6]])
    assert store.read([], ["J"])["J"].shape == (0, 66, 66)


def test_any_astronomer_can_open_a_shard(tmp_path: Path) -> None:
    stamps = make_store(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a wrong checksum would be a warning
        with fits.open(tmp_path / "shard-00000.fits", checksum=True) as shard:
            assert [hdu.name for hdu in shard] == ["PRIMARY", "J", "H", "CATALOGUE", "REJECTS"]
            np.testing.assert_array_equal(shard["J"].data, stamps["J"][:4])
            assert shard["J"].header["BUNIT"] == "electron/s"
            assert shard["J"].header["PIXSCALE"] == 0.3
            assert all("CHECKSUM" in hdu.header and "DATASUM" in hdu.header for hdu in shard)


def test_made_again_it_is_the_same_bytes(tmp_path: Path) -> None:
    make_store(tmp_path / "a")
    time.sleep(1.1)  # FITS dates count seconds
    make_store(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_catalogue_survives_with_types_units_and_masks(tmp_path: Path) -> None:
    table = QTable(rows(4))
    table["ID"] = np.array([9, 8, 7, 6], dtype=np.int32)  # FITS names know no case
    table["name"] = ["a", "longer", "", "d"]
    table["none"] = ["", "", "", ""]
    table["flag"] = [True, False, True, False]
    table["mag"] = np.array([1.0, np.nan, np.inf, -2.5], dtype=np.float32)
    table["r"] = [1.0, 2.0, 3.0, 4.0] * u.arcsec
    table["n"] = MaskedColumn([999999, 2, 3, 4], mask=[False, True, False, False])
    table["x"] = MaskedColumn([1.0, np.nan, 3.0, 4.0], mask=[True, False, False, False], unit="solMass")
    table["s"] = MaskedColumn(["", "b", "c", "d"], mask=[False, True, False, False])
    table["b"] = MaskedColumn([True, False, True, False], mask=[False, True, True, False])
    table["u"] = np.array([1, 2**32 - 1, 0, 3], dtype=np.uint32)
    table["vector"] = np.arange(8.0).reshape(4, 2)
    for number in range(2):
        part = table.copy()
        part["id"] += 4 * number
        if number:
            part["name"] = ["much longer than in the first", "", "x", "y"]
        write_shard(tmp_path, number, noise(4, number), part)
    finish(tmp_path, {}, shards=2, lens_rule="")
    got = Store(tmp_path).catalogue
    assert got.colnames == table.colnames
    for name in set(table.colnames) - {"id", "name"}:
        first = got[name][:4]
        assert first.dtype == table[name].dtype, name
        mask = np.asarray(getattr(table[name], "mask", np.zeros(4, bool)))
        if name != "vector":
            np.testing.assert_array_equal(np.asarray(getattr(first, "mask", np.zeros(4, bool))), mask, err_msg=name)
        np.testing.assert_array_equal(
            np.asarray(first)[~mask], np.asarray(getattr(table[name], "value", table[name]))[~mask]
        )
    assert got["r"].unit == u.arcsec
    assert got["x"].unit == u.solMass
    assert got["name"][:5].tolist() == ["a", "longer", "", "d", "much longer than in the first"]
    assert got["id"].dtype == np.int64
    assert got["id"].tolist() == list(range(8))


def test_planes_units_rejects_and_manifest(tmp_path: Path) -> None:
    arc = np.zeros((2, 66, 66), dtype=np.float32)
    mask = np.ones((2, 5, 5), dtype=np.uint8)  # 25 bytes: blocks of odd length for verify
    write_shard(tmp_path, 0, noise(2), rows(2), [("7", "missing image: J"), ("ü,1", "missing image: H\nVIS")],
                planes={"ARC": arc, "MASK": mask}, unit="adu")  # fmt: skip
    finish(tmp_path, {"n": 4}, shards=1, lens_rule="theta_e > 0")
    store = Store(tmp_path)
    assert store.planes == ("ARC", "MASK")
    got = store.read([1], ["J", "MASK"])
    np.testing.assert_array_equal(got["MASK"], mask[:1])
    assert set(store.read([0])) == {"J", "H"}
    manifest = yaml.safe_load((tmp_path / "manifest.yaml").read_text())
    assert manifest["counts"] == {"objects": 2, "lenses": 1, "rejected": {"missing image": 2}}
    assert manifest["bands"]["J"] == {"pixel_scale": 0.3, "size": 66, "unit": "adu"}
    assert manifest["made_by"]["n"] == 4
    assert set(manifest["made_by"]["versions"]) == {"lensfind", "numpy", "astropy"}
    assert (tmp_path / "rejects.csv").read_text() == ('id,reason\n7,missing image: J\n"ü,1","missing image: H\nVIS"\n')
    assert verify(tmp_path) == []


def test_all_rejected_shards(tmp_path: Path) -> None:
    empty = {band: np.zeros((0, 66, 66), dtype=np.float32) for band in NISP}
    write_shard(tmp_path, 0, empty, Table(), [("0", "constant: J")])
    write_shard(tmp_path, 1, noise(2), rows(2))
    write_shard(tmp_path, 2, empty, rows(0), [("3", "constant: H")])
    finish(tmp_path, {}, shards=3, lens_rule="")
    store = Store(tmp_path)
    assert [shard["rows"] for shard in store.manifest["shards"]] == [0, 2, 0]
    np.testing.assert_array_equal(store.read([1, 0], ["H"])["H"], noise(2)["H"][::-1])
    assert verify(tmp_path) == []
    write_shard(tmp_path / "none", 0, empty, Table(), [("0", "constant: J")])
    finish(tmp_path / "none", {}, shards=1, lens_rule="")
    assert len(Store(tmp_path / "none")) == 0
    assert verify(tmp_path / "none") == []


def _spoil(value: float) -> Callable[[dict[str, NDArray[np.float32]]], None]:
    def spoil(stamps: dict[str, NDArray[np.float32]]) -> None:
        stamps["H"][2, 5:, 5] = value

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_spoil(np.nan), "object 12: not finite: H"),
        (_spoil(np.inf), "object 12: not finite: H"),
        (lambda s: s["H"][2].fill(0.5), "object 12: constant: every pixel of H is 0.5"),
        (lambda s: s.update(H=s["H"][:, :65]), r"object 10: wrong shape: H is \(65, 66\), not \(66, 66\)"),
        (lambda s: s.update(H=s["H"].astype(np.float64) * 1e60), "not finite: H"),
        (lambda s: s.update(H=s["H"][:2]), "3 H stamps.*got 2"),
        (lambda s: s.update(X=s["H"]), "bands out of J, Y, H, VIS"),
        (dict.clear, "one or more different bands"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_bad_stamps_do_not_enter(
    tmp_path: Path, spoil: Callable[[dict[str, NDArray[np.float32]]], None], words: str
) -> None:
    stamps = noise(3)
    spoil(stamps)
    with pytest.raises(LensfindError, match=words):
        write_shard(tmp_path, 0, stamps, rows(3, 10))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.remove_column("id"), "column id"),
        (lambda t: t.remove_column("label"), "column label"),
        (lambda t: t.replace_column("id", [1.0, 2.0, 3.0]), "integer id"),
        (lambda t: t.replace_column("id", MaskedColumn([1, 2, 3], mask=[0, 1, 0])), "integer id"),
        (lambda t: t.replace_column("id", [4, 5, 4]), "id 4 twice"),
        (lambda t: t.replace_column("label", [0, 1, 2]), "labels 0 and 1"),
        (lambda t: t.add_column(["ä", "b", "c"], name="text"), "ASCII"),
        (lambda t: t.add_column(np.array([{}, {}, {}], dtype=object), name="thing"), "numbers, booleans or ASCII"),
    ],
)
def test_unfit_catalogues_do_not_enter(tmp_path: Path, change: Callable[[Table], None], words: str) -> None:
    table = rows(3)
    change(table)
    with pytest.raises(LensfindError, match=words):
        write_shard(tmp_path, 0, noise(3), table)
    assert list(tmp_path.iterdir()) == []


WRITER = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from tests.test_store import noise, rows
from lensfind.data import shard_done, write_shard
for number in range(40):
    if not shard_done(Path({root!r}), number):
        write_shard(Path({root!r}), number, noise(30, number), rows(30, 30 * number))
        print(number, flush=True)
"""


def test_a_killed_writer_leaves_only_whole_shards_and_goes_on(tmp_path: Path) -> None:
    root = tmp_path / "store"
    code = WRITER.format(root=str(root), path=[str(Path(__file__).resolve().parents[1])])
    written = 0
    for wait in (0.003, 0.019):  # anywhere within the next shards
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        first = int(process.stdout.readline())
        assert first == written, "shards that were whole are kept"
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        names = sorted(path.name for path in root.glob("shard-*.fits"))
        for name in names:
            with fits.open(root / name, checksum=True) as shard:
                np.testing.assert_array_equal(shard["J"].data, noise(30, int(name[6:11]))["J"])
        assert names == [f"shard-{number:05d}.fits" for number in range(len(names))]
        assert all(shard_done(root, number) for number in range(len(names)))
        written = len(names)
    with pytest.raises(LensfindError, match=f"missing or cut off .first: shard-{written:05d}"):
        finish(root, {}, shards=40, lens_rule="")
    (root / ".shard-00039.fits.123").write_bytes(b"left by a killed writer")
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    finish(root, {}, shards=40, lens_rule="")
    assert verify(root) == []
    assert len(Store(root)) == 1200
    assert not [path for path in root.iterdir() if path.name.startswith(".")]


def test_a_full_disk(tmp_path: Path) -> None:
    """A real refusal of the kernel to write on, in the middle of a shard and of the manifest."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
        write_shard(tmp_path, 0, noise(2), rows(2))
        with pytest.raises(LensfindError, match=r"room for shard-00001.fits \(0.3 MB\).*MB free.*run the same command"):
            write_shard(tmp_path, 1, noise(10), rows(10, 2))
        assert [path.name for path in tmp_path.iterdir()] == ["shard-00000.fits"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
        with pytest.raises(LensfindError, match=r"room for manifest.yaml"):
            finish(tmp_path, {}, shards=1, lens_rule="")
        assert [path.name for path in tmp_path.iterdir()] == ["shard-00000.fits"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    finish(tmp_path, {}, shards=1, lens_rule="")
    assert len(Store(tmp_path)) == 2


def test_no_space_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LensfindError, match=r"no space left on device, .* MB free"):
        write_shard(tmp_path, 0, noise(2), rows(2))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    with pytest.raises(LensfindError, match="you may write to"):
        write_shard(tmp_path / "store", 0, noise(2), rows(2))
    with pytest.raises(LensfindError, match=r"no manifest.yaml|does not exist"):
        Store(tmp_path / "store")


def test_unfinished_and_absent_stores(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, noise(2), rows(2))
    with pytest.raises(LensfindError, match=r"unfinished.*goes on"):
        Store(tmp_path)
    with pytest.raises(LensfindError, match="does not exist"):
        Store(tmp_path / "no")


def test_the_set_must_fit_together(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, noise(2), rows(2))
    write_shard(tmp_path, 1, noise(2), rows(2, 1))
    with pytest.raises(LensfindError, match="id 1 twice"):
        finish(tmp_path, {}, shards=2, lens_rule="")
    write_shard(tmp_path, 1, noise(2, bands=("J",)), rows(2, 2))
    with pytest.raises(LensfindError, match="same bands"):
        finish(tmp_path, {}, shards=2, lens_rule="")
    table = rows(2, 2)
    table["more"] = 1
    write_shard(tmp_path, 1, noise(2), table)
    with pytest.raises(LensfindError, match="same catalogue columns"):
        finish(tmp_path, {}, shards=2, lens_rule="")
    assert not (tmp_path / "manifest.yaml").exists()


@pytest.mark.parametrize("bad", [[7], [-1], [0.5], [[0, 1]], [True], ["a"]])
def test_rows_out_of_range(tmp_path: Path, bad: list[object]) -> None:
    make_store(tmp_path)
    with pytest.raises(LensfindError, match="row numbers from 0 to 6"):
        Store(tmp_path).read(bad, ["J"])


def test_bands_that_the_store_lacks(tmp_path: Path) -> None:
    make_store(tmp_path)
    with pytest.raises(LensfindError, match=r"only J, H .missing: VIS"):
        Store(tmp_path).read([0], ["J", "VIS"])


def _read(store: Store, wanted: list[int]) -> NDArray[np.float32]:
    return store.read(wanted, ["J"])["J"]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_other_processes_read_the_same(tmp_path: Path, start: str) -> None:
    stamps = make_store(tmp_path)
    store = Store(tmp_path)
    _read(store, [0, 6])  # maps are open here
    assert len(pickle.dumps(store)) < 20_000, "maps are not pickled"
    with ProcessPoolExecutor(2, mp_context=get_context(start)) as pool:
        for wanted, got in zip([[0, 5], [6, 1]], pool.map(_read, [store] * 2, [[0, 5], [6, 1]]), strict=True):
            np.testing.assert_array_equal(got, stamps["J"][wanted])


MEMORY = """
import sys
import numpy as np
from lensfind.data import Store, verify
def own():  # private memory of this process in MB; pages of mapped files belong to the page cache
    with open("/proc/self/status") as status:
        return sum(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1e3
store = Store(sys.argv[1])
before, most = own(), 0.0
for first in range(0, len(store), 20):
    batch = store.read(np.arange(first, first + 20) % len(store), ["J"])
    most = max(most, own() - before)
verify(sys.argv[1])
print(most, max(most, own() - before))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_stays_bounded(tmp_path: Path) -> None:
    """The set has 87 MB; reading all of it in small batches must take no such memory of its own."""
    for number in range(2):
        write_shard(tmp_path, number, noise(2500, number, ("J",)), rows(2500, 2500 * number))
    finish(tmp_path, {}, shards=2, lens_rule="")
    out = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], check=True, capture_output=True, text=True,
        cwd=Path(__file__).resolve().parents[1],
    ).stdout.split()  # fmt: skip
    assert float(out[0]) < 15
    assert float(out[1]) < 40
