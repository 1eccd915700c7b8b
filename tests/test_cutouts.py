"""Cut-outs become stamps: flux by the zero point, geometry by the centre, padding like noise, errors with a way out."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from lensfind.bands import BANDS
from lensfind.data.cutouts import ZERO_POINTS, read_cutout, read_cutouts
from lensfind.errors import LensfindError

CHECKOUT = Path(__file__).resolve().parents[1]
REFERENCE = Path(os.environ.get("LENSFIND_REFERENCE", CHECKOUT.parent / "shared"))
MAGZERO = {"VIS": 24.6, "Y": 29.8, "J": 30.0, "H": 29.9}
needs_cutouts = pytest.mark.skipif(
    not (REFERENCE / "euclid_q1").is_dir(), reason="no real cut-outs: set LENSFIND_REFERENCE to the reference folder"
)


def write_cutout(path: Path, side: int, kind: str = "FLUX", seed: int = 0, **header: Any) -> dict[str, np.ndarray]:
    """A cut-out of noise in the Q1 format; header keywords replace the default ones, None removes one."""
    rng = np.random.default_rng(seed)
    hdus, images = [fits.PrimaryHDU()], {}
    for band, magzero in MAGZERO.items():
        prefix = "VIS" if band == "VIS" else f"NIR_{band}"
        images[band] = rng.normal(5.0, 1.0, (side, side)).astype(np.float32)
        rms = np.full((side, side), 2.0, dtype=np.float32)
        rms[0, :3] = 1e16  # as where the survey has masked
        hdu = fits.ImageHDU(images[band].copy(), name=f"{prefix}_{kind}")
        keys = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CD1_1": -0.1 / 3600, "CD2_2": 0.1 / 3600}
        for key, value in (keys | {"MAGZERO": magzero} | header).items():
            if value is not None:
                hdu.header[key] = value
        hdus += [hdu, fits.ImageHDU(np.eye(5), name=f"{prefix}_PSF"), fits.ImageHDU(rms, name=f"{prefix}_RMS")]
    fits.HDUList(hdus).writeto(path)
    return images


def flux_scale(band: str) -> float:
    return 10 ** ((ZERO_POINTS[band] - MAGZERO[band]) / 2.5)


def test_large_cutouts_are_cropped_about_the_centre(tmp_path: Path) -> None:
    images = write_cutout(tmp_path / "a.fits", 300, "BGSUB")
    stamps = read_cutout(tmp_path / "a.fits")
    assert list(stamps) == list(BANDS)
    for band, stamp in stamps.items():
        assert stamp.dtype == np.float32
        n = BANDS[band].size
        assert stamp.shape == (1, n, n)
        image = images[band].astype(float)
        if band == "VIS":
            expected = image[50:250, 50:250]
        else:  # 3x3 sums, one offset at a time
            expected = sum(image[51 + y : 249 : 3, 51 + x : 249 : 3] for y in range(3) for x in range(3))
        np.testing.assert_allclose(stamp[0], expected * flux_scale(band), rtol=1e-6)


def test_small_cutouts_are_padded_with_their_noise(tmp_path: Path) -> None:
    images = write_cutout(tmp_path / "a.fits", 100)
    stamps = read_cutout(tmp_path / "a.fits", seed=3)
    vis = stamps["VIS"][0] / flux_scale("VIS")
    np.testing.assert_allclose(vis[50:150, 50:150], images["VIS"], rtol=1e-6)
    border = np.ones((200, 200), dtype=bool)
    border[50:150, 50:150] = False
    assert vis[border].std() == pytest.approx(2.0, rel=0.03)  # 30,000 draws: 0.4 % at one sigma
    assert abs(vis[border].mean()) < 0.06
    j = stamps["J"][0] / flux_scale("J")
    inner = images["J"][2:98, 2:98].astype(float)  # px 51..147 of 198: the whole super-pixels 17..48
    np.testing.assert_allclose(j[17:49, 17:49], inner.reshape(32, 3, 32, 3).sum(axis=(1, 3)), rtol=1e-5)
    assert j[:16].std() == pytest.approx(3 * 2.0, rel=0.1)
    again, other = read_cutout(tmp_path / "a.fits", ["J"], seed=3), read_cutout(tmp_path / "a.fits", ["J"], seed=4)
    np.testing.assert_array_equal(again["J"], stamps["J"])  # whatever other bands are read
    assert not np.array_equal(other["J"], stamps["J"])


@pytest.mark.parametrize("side", [199, 200, 201])
def test_odd_sides_keep_the_centre_within_half_a_pixel(tmp_path: Path, side: int) -> None:
    write_cutout(tmp_path / "a.fits", side)
    with fits.open(tmp_path / "a.fits", mode="update") as hdus:
        hdus["VIS_FLUX"].data[side // 2, side // 2] = 1000
    stamp = read_cutout(tmp_path / "a.fits", ["VIS"])["VIS"][0]
    assert np.unravel_index(stamp.argmax(), stamp.shape) == (100, 100)


def test_cutouts_are_stacked_in_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.fits" for i in range(2)]
    for i, path in enumerate(paths):
        write_cutout(path, 210, seed=i)
    stamps = read_cutouts(paths, ["H", "VIS"])
    assert {band: cube.shape for band, cube in stamps.items()} == {"H": (2, 66, 66), "VIS": (2, 200, 200)}
    for i, path in enumerate(paths):
        np.testing.assert_array_equal(stamps["H"][i], read_cutout(path)["H"][0])
    with pytest.raises(LensfindError, match="got none"):
        read_cutouts([])


@pytest.mark.filterwarnings("ignore:File may have been truncated", "ignore:Error validating header")
def test_unfit_cutouts(tmp_path: Path) -> None:
    def complains(path: Path, told: str, **options: Any) -> None:
        with pytest.raises(LensfindError, match=told):
            read_cutout(path, **options)

    path = tmp_path / "a.fits"
    complains(path, "not a file")
    path.write_bytes(b"")
    complains(path, "truncated or damaged")
    path.unlink()
    for name, header, told in (
        ("zero", {"MAGZERO": None}, r"MAGZERO .* header without it"),
        ("scale", {"CD1_1": -0.3 / 3600, "CD2_2": 0.3 / 3600}, r'0\.1" per pixel .* 0\.3"'),
        ("wcs", {"CD1_1": None, "CD2_2": None, "CTYPE1": None, "CTYPE2": None}, r'0\.1" per pixel'),
    ):
        write_cutout(tmp_path / name, 60, **header)
        complains(tmp_path / name, told)
    write_cutout(path, 60)
    complains(path, "different bands", bands=["K"])
    whole = path.read_bytes()
    for cut in (len(whole) - 1, len(whole) - 2880, len(whole) // 2, 100):
        (tmp_path / "cut.fits").write_bytes(whole[:cut])
        complains(tmp_path / "cut.fits", "truncated or damaged")
    with fits.open(path, mode="update") as hdus:
        hdus["NIR_J_FLUX"].data[30, 30] = np.nan
        hdus["NIR_H_FLUX"].data[:] = 1
        del hdus["VIS_RMS"], hdus["NIR_Y_FLUX"]
    complains(path, "1 NaN or infinite pixels", bands=["J"])
    complains(path, "one constant value", bands=["H"])
    complains(path, "VIS_RMS", bands=["VIS"])
    complains(path, r"NIR_Y_BGSUB or NIR_Y_FLUX .* images of VIS, J, H", bands=["Y"])


@needs_cutouts
def test_real_cutouts_have_euclid_sky() -> None:
    # Flux in electron/s is checked against a magnitude: the same aperture in MAGZERO's own units.
    for path in sorted((REFERENCE / "euclid_q1").glob("*.fits")):
        stamps = read_cutout(path)
        with fits.open(path) as hdus:
            for band, stamp in stamps.items():
                prefix = "VIS" if band == "VIS" else f"NIR_{band}"
                raw = hdus[f"{prefix}_BGSUB" if f"{prefix}_BGSUB" in hdus else f"{prefix}_FLUX"]
                c, w = raw.data.shape[0] // 2, 15
                mag = raw.header["MAGZERO"] - 2.5 * np.log10(raw.data[c - w : c + w, c - w : c + w].sum(dtype=float))
                n, v = BANDS[band].size // 2, round(w / (BANDS[band].pixel_scale / 0.1))
                ours = ZERO_POINTS[band] - 2.5 * np.log10(stamp[0, n - v : n + v, n - v : n + v].sum(dtype=float))
                assert ours == pytest.approx(mag, abs=1e-4 if band == "VIS" else 0.02), (path.name, band)


@needs_cutouts
def test_the_documented_example_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = (CHECKOUT / "docs" / "real_cutouts.md").read_text()
    monkeypatch.setenv("LENSFIND_REFERENCE", str(REFERENCE))
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(compile(code, "docs/real_cutouts.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["cut-out", "OU-VIS", "OU-200"]
    documented = re.search(r"```text\n(.*?)```", text, flags=re.DOTALL)
    assert documented is not None
    for line, told in zip(printed[1:], documented[1].splitlines()[1:], strict=True):
        assert line.split()[0] == told.split()[0]
        scores, expected = (np.array(row.split()[1:], dtype=float) for row in (line, told))
        np.testing.assert_allclose(scores, expected, atol=2e-3)
