"""Vary: one property of an object changes by what was asked, and everything else stays, to the byte where it can."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from speclite.filters import load_filters

from lensfind.bands import BANDS
from lensfind.data.store import Store
from lensfind.errors import LensfindError
from lensfind.simulation import simulate
from lensfind.simulation.instrument import Survey
from lensfind.simulation.vary import _WAVELENGTH, PROPERTIES, Variations, Varied, variations
from tests.test_scenarios import settings

Array = NDArray[np.float64]
N = {"twin": 3, "training": 4, "compound_arc": 2, "double_ring": 2}
SIMPLE = "scene.neighbours.limit=23"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Store of a scenario's name; made on first use."""
    root = tmp_path_factory.mktemp("varied")

    def of(name: str) -> Path:
        simulate(root / name, n=N[name], seed=5, **settings(f"scenario={name}", SIMPLE), shard_size=2)
        return root / name

    return of


@pytest.fixture(scope="module")
def survey() -> Survey:
    return Survey.from_config(settings()["survey"])


@pytest.fixture(scope="module")
def twins(folder: Callable[[str], Path]) -> Variations:
    """Objects 0 and 2 are lenses, 1 the twin of 0."""
    return next(variations(folder("twin"), [0, 1, 2]))


def total(images: NDArray[np.float32]) -> Array:
    return images.sum(axis=(1, 2), dtype=np.float64)


def moments(image: NDArray[np.float32], scale: float) -> tuple[float, float]:
    """Flux-weighted mean radius about the stamp's centre and variance along x, arcsec."""
    axis = (np.arange(len(image)) - (len(image) - 1) / 2) * scale
    weight = image.astype(np.float64) / image.sum(dtype=np.float64)
    mean = (weight * axis).sum()
    return float((weight * np.hypot(axis, axis[:, None])).sum()), float((weight * (axis - mean) ** 2).sum())


def same(one: Varied, other: Varied, *keys: str) -> None:
    for key in keys:
        for band in BANDS:
            np.testing.assert_array_equal(getattr(one, key)[band], getattr(other, key)[band])


@pytest.mark.parametrize("name", list(N))
def test_unchanged_objects_are_the_stores_bytes(folder: Callable[[str], Path], name: str) -> None:
    ids = [1, 0, *range(2, N[name])]  # in any order
    varied = next(variations(folder(name), ids))
    there = Store(folder(name)).read(ids)
    for key, one in PROPERTIES.items():
        for band in BANDS:
            assert varied.make(key, one.reference).stamps[band].tobytes() == there[band].tobytes()
    # What goes the whole way of a change, and changes nothing, comes back to the same bytes, too.
    for way in (varied._expose(varied._planes), varied._expose(varied._planes, noise=1.0, hidden=1e-12)):
        assert np.mean(way.stamps["VIS"] != there["VIS"]) < 1e-3
    alone = next(variations(folder(name), [1], ["H"]))
    for key, value in (("theta_e", 1.3), ("psf_width", 1.5), ("noise", 2.0), ("occluded_arc", 0.5)):
        np.testing.assert_array_equal(alone.make(key, value).stamps["H"][0], varied.make(key, value).stamps["H"][0])


def test_einstein_radius(twins: Variations) -> None:
    before, after = twins.unchanged, twins.make("theta_e", 1.3)
    assert not after.arc["VIS"][1].any()  # the twin has none
    for i in (0, 2):
        radius, _ = moments(before.arc["VIS"][i], 0.1)
        larger, _ = moments(after.arc["VIS"][i], 0.1)
        assert larger / radius == pytest.approx(1.3, rel=0.08)  # less than that: the source keeps its size
    for band in BANDS:  # all that is not the arc
        lens = before.noiseless[band] - before.arc[band]
        np.testing.assert_allclose(after.noiseless[band] - after.arc[band], lens, rtol=1e-5, atol=1e-5)
    dark = (before.arc["VIS"] == 0) & (after.arc["VIS"] == 0)
    assert 0.1 < dark.mean() < 1
    np.testing.assert_array_equal(after.stamps["VIS"][dark], before.stamps["VIS"][dark])


@pytest.mark.parametrize("name", ["compound_arc", "double_ring"])
def test_einstein_radius_of_two_planes(folder: Callable[[str], Path], name: str) -> None:
    """The lens equation of isothermal masses and shears is free of scale, so that whole configurations scale."""
    varied = next(variations(folder(name), [0, 1], ["VIS"]))
    before, after = varied.unchanged, varied.make("theta_e", 1.25)
    for i in range(2):
        ratio = moments(after.arc["VIS"][i], 0.1)[0] / moments(before.arc["VIS"][i], 0.1)[0]
        assert ratio == pytest.approx(1.25, rel=0.05)


def test_brightness_and_colour(twins: Variations) -> None:
    before = twins.unchanged
    bright, red = twins.make("source_brightness", -2.5 * np.log10(2)), twins.make("source_colour", 0.8)
    lenses = [0, 2]
    for band in BANDS:
        ratio = total(bright.arc[band][lenses]) / total(before.arc[band][lenses])
        assert ratio == pytest.approx(2, rel=1e-5)
        np.testing.assert_allclose(
            bright.noiseless[band] - bright.arc[band], before.noiseless[band] - before.arc[band], rtol=1e-5, atol=1e-5
        )
    magnitude = {b: -2.5 * np.log10(total(red.arc[b][lenses]) / total(before.arc[b][lenses])) for b in BANDS}
    assert magnitude["VIS"] == pytest.approx(0, abs=1e-12)
    assert magnitude["VIS"] - magnitude["H"] == pytest.approx(0.8, abs=1e-5)
    assert (magnitude["VIS"] > magnitude["Y"]).all()
    assert (magnitude["Y"] > magnitude["J"]).all()
    assert (magnitude["J"] > magnitude["H"]).all()
    np.testing.assert_array_equal(red.stamps["VIS"], before.stamps["VIS"])
    for band in BANDS:  # the twin knows nothing of a source
        np.testing.assert_array_equal(bright.stamps[band][1], before.stamps[band][1])
    filters = load_filters(*[f"Euclid-{band}" for band in _WAVELENGTH])
    assert list(_WAVELENGTH.values()) == pytest.approx(filters.effective_wavelengths.to_value("um"), abs=1e-4)


def test_psf_width(tmp_path: Path, survey: Survey) -> None:
    """Flux stays and variances of Gaussians add, for a small lens alone, so that nothing leaves the stamp."""
    overrides = (
        "scenario=single_lens", "scenario.keep_undetectable=true", "population.deflector.r_e=0.2",
        "population.theta_e=[0.5,0.6]", "scene.neighbours.limit=16", "scene.neighbours.satellites=0",
        "scene.neighbours.stars=0",
    )  # fmt: skip
    simulate(tmp_path / "one", n=1, seed=0, **settings(*overrides))
    varied = next(variations(tmp_path / "one", [0]))
    wide = varied.make("psf_width", 2.0)
    for name, band in BANDS.items():
        before, after = varied.unchanged.arc[name], wide.arc[name]
        assert total(after) == pytest.approx(total(before), rel=1e-3)
        grown = moments(after[0], band.pixel_scale)[1] - moments(before[0], band.pixel_scale)[1]
        fwhm = survey.bands[name].psf_fwhm
        assert grown == pytest.approx((2**2 - 1) * fwhm**2 / (8 * np.log(2)), rel=0.05)
        noise, old = (v.stamps[name] - v.noiseless[name] for v in (wide, varied.unchanged))
        assert np.corrcoef(noise.ravel(), old.ravel())[0, 1] > 0.99  # the same deviates under another light


def test_noise(twins: Variations) -> None:
    before, after = twins.unchanged, twins.make("noise", 2.0)
    same(before, after, "noiseless", "arc")
    for band in BANDS:
        old, new = before.stamps[band] - before.noiseless[band], after.stamps[band] - after.noiseless[band]
        np.testing.assert_allclose(new, 2 * old, rtol=1e-3, atol=1e-5 * float(np.abs(before.stamps[band]).max()))
    silent = twins.make("noise", 0.0)
    for band in BANDS:
        np.testing.assert_allclose(silent.stamps[band], before.noiseless[band], rtol=1e-6)


def test_occluded_arc(folder: Callable[[str], Path], twins: Variations) -> None:
    gone = twins.make("occluded_arc", 1.0)
    twin = Store(folder("twin")).read([1])
    for band in BANDS:
        assert gone.stamps[band][0].tobytes() == twin[band][0].tobytes()
    whole = twins.unchanged
    last = total(whole.arc["VIS"])
    for share in (0.25, 0.5, 0.9):
        part = twins.make("occluded_arc", share)
        for i in (0, 2):
            left = total(part.arc["VIS"])[i] / total(whole.arc["VIS"])[i]
            assert left == pytest.approx(1 - share, abs=0.05)
            assert total(part.arc["H"])[i] / total(whole.arc["H"])[i] == pytest.approx(1 - share, abs=0.2)
            kept = part.arc["VIS"][i] > 0  # where the arc is left, it is as it was; elsewhere stands the twin
            np.testing.assert_array_equal(part.stamps["VIS"][i][kept], whole.stamps["VIS"][i][kept])
            np.testing.assert_array_equal(part.stamps["VIS"][i][~kept], gone.stamps["VIS"][i][~kept])
            assert not kept.ravel()[whole.arc["VIS"][i].argmax()]
        assert (total(part.arc["VIS"]) <= last).all()
        last = total(part.arc["VIS"])


def test_missing_band(twins: Variations, survey: Survey) -> None:
    before, after = twins.unchanged, twins.make("missing_band", "J")
    for band in set(BANDS) - {"J"}:
        np.testing.assert_array_equal(after.stamps[band], before.stamps[band])
    assert after.stamps["J"].std() == pytest.approx(survey.bands["J"].sigma(BANDS["J"]), rel=0.02)
    assert abs(after.stamps["J"].mean()) < 3 * after.stamps["J"].std() / np.sqrt(after.stamps["J"].size)
    np.testing.assert_array_equal(after.stamps["J"], twins.make("missing_band", "J").stamps["J"])
    np.testing.assert_array_equal(after.stamps["J"][0], after.stamps["J"][1])  # a twin's noise is its lens's
    assert np.abs(after.stamps["J"][0] - after.stamps["J"][2]).max() > 0


def test_bad_changes_and_stores(folder: Callable[[str], Path], twins: Variations, tmp_path: Path) -> None:
    for name, value, message in (
        ("redshift", 1.0, "theta_e, source_brightness"),
        ("theta_e", 0.0, "theta_e as a number from 0.1 to 10"),
        ("theta_e", float("nan"), "theta_e as a number"),
        ("noise", True, "noise as a number"),
        ("occluded_arc", 1.2, "from 0 to 1"),
        ("missing_band", "I", "out of none, J, Y, H, VIS"),
    ):
        with pytest.raises(LensfindError, match=message):
            twins.make(name, value)
    with pytest.raises(LensfindError, match="ids from 0 to 2"):
        next(variations(folder("twin"), [3]))
    other = tmp_path / "other"
    other.mkdir()
    for path in folder("twin").iterdir():
        text = path.read_bytes()
        (other / path.name).write_bytes(text.replace(b"seed: 5", b"seed: 6") if path.suffix == ".yaml" else text)
    with pytest.raises(LensfindError, match="another version of lensfind"):
        next(variations(other, [0]))
    for path in other.iterdir():
        text = path.read_bytes()
        path.write_bytes(text.replace(b"app: simulate", b"app: challenge") if path.suffix == ".yaml" else text)
    with pytest.raises(LensfindError, match="a store made by simulate.py"):
        next(variations(other, [0]))
