"""The rendering engines against each other, analytic lenses, and brute force."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from astropy.io import fits
from lenstronomy.LensModel.lens_model import LensModel
from scipy.special import gammainc

from lensfind.bands import BANDS
from lensfind.errors import LensfindError
from lensfind.simulation.components import PROFILES, ROLES, Batch, Lights, Masses
from lensfind.simulation.cosmology import COSMOLOGY, einstein_radius
from lensfind.simulation.engines import get_engine
from lensfind.simulation.engines.lenstronomy import _brightness, _rays
from lensfind.simulation.engines.torch import sie_deflection
from lensfind.simulation.instrument import Survey, gaussian_share, psf_kernel

CONFIG = yaml.safe_load((Path(__file__).parents[1] / "conf" / "survey" / "euclid.yaml").read_text())
GALAXY = {"role": "lens", "profile": "sersic", "z": np.nan, "r_e": 0.5, "n": 1.0, "q": 1.0, "magnitude": 20.0}
SOURCE = GALAXY | {"role": "source", "z": 2.0, "r_e": 0.15, "x": 0.1, "y": -0.05}
MASS = {"z": 0.5, "theta_e": 1.2}
ELLIPSE = MASS | {"e1": 0.12, "e2": -0.08, "gamma1": 0.04, "gamma2": -0.03, "x": 0.02, "y": 0.01}

render, reference = get_engine("torch"), get_engine("lenstronomy")


@pytest.fixture(scope="module")
def survey() -> Survey:
    return Survey.from_config(CONFIG)


def with_psf(**psf: Any) -> Survey:
    return Survey.from_config(CONFIG | {"bands": {name: band | psf for name, band in CONFIG["bands"].items()}})


def batch(*objects: tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], images: Any = ()) -> Batch:
    """Objects as (masses, lights), z_convention 2."""
    masses = [mass | {"object": i} for i, (some, _) in enumerate(objects) for mass in some]
    lights = [GALAXY | light | {"object": i} for i, (_, some) in enumerate(objects) for light in some]

    def column(rows: list[Any], key: str) -> Any:
        names = {"role": ROLES, "profile": PROFILES}.get(key)
        values = [row.get(key, 0.0) for row in rows]
        if names:
            values = [names.index(value) for value in values]
        return np.array(values, dtype=np.int64 if names or key == "object" else np.float64)

    return Batch(
        len(objects),
        np.full(len(objects), 2.0),
        Masses(**{key: column(masses, key) for key in Masses.__annotations__}),
        Lights(
            **{key: column(lights, key) for key in Lights.__annotations__ if key != "magnitudes"},
            magnitudes=np.array([np.broadcast_to(light["magnitude"], 4) for light in lights], dtype=float),
        ),
        images,
    )


def total(stamps: Mapping[str, Any], survey: Survey, name: str = "VIS", magnitude: float = 20.0) -> float:
    return float(stamps[name].sum(dtype=float) / survey.bands[name].flux(magnitude))


# --- the two engines


def picture() -> tuple[Any, float]:
    y, x = np.mgrid[-20:20, -25:25]
    image = np.exp(-(x**2 + 2 * y**2) / 80) * (1.2 + np.sin(x / 2) * np.cos(y / 3))
    return image / image.sum(), 0.05


def sweep() -> dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    cases: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}
    shape = {"q": 0.6, "angle": 0.4, "x": 0.05, "y": 0.05}  # in the centre of a VIS pixel
    for n, r_e in ((0.5, 0.03), (0.5, 1.0), (1.0, 0.3), (1.0, 1.0), (2.5, 0.3), (4.0, 0.1), (4.0, 1.0)):
        cases[f"n {n} r_e {r_e}"] = ([], [shape | {"n": n, "r_e": r_e}])
        for q in (1.0, 0.999999, 0.2):
            e = (1 - q) / (1 + q)
            mass = MASS | {"e1": 0.6 * e, "e2": 0.8 * e, "gamma1": 0.04, "gamma2": -0.03, "x": 0.05, "y": 0.05}
            cases[f"lensed n {n} r_e {r_e} q {q}"] = ([mass], [SOURCE | shape | {"n": n, "r_e": r_e, "x": 0.15}])
    ring, image = (
        {"profile": "ring", "r_e": 0.5, "n": 0.2, "q": 0.7, "angle": 0.5},
        {"profile": "image", "n": 0.0, "angle": 0.4},
    )
    for name, light in (("ring", ring), ("image", image)):
        cases[name] = ([], [light | {"x": 0.3}])
        cases[f"lensed {name}"] = ([ELLIPSE], [SOURCE | light | {"z": 1.5}])
    cases["star"] = ([], [{"profile": "point", "x": 0.21, "y": -4.3}])
    cases["at the edge"] = ([], [{"n": 4.0, "x": 9.9, "y": -10.2}, {"x": 3.0, "y": 9.0}])
    second = {"z": 1.0, "theta_e": 0.5, "e1": 0.05, "x": 0.3, "y": 0.2, "gamma2": 0.02}
    for z in (1.5, 2.0, 3.5):
        cases[f"two planes z {z}"] = ([ELLIPSE, second], [SOURCE | {"z": z}])
    cases["middle galaxy and clumps"] = (
        [second, ELLIPSE],
        [
            {"n": 4.0, "z": 0.5, "magnitude": 19.0},
            {"role": "middle", "n": 4.0, "z": 1.0, "r_e": 0.3, "x": 0.3, "y": 0.2},
            SOURCE | {"z": 3.0, "magnitude": (21.0, 22.0, 23.0, 24.0)},
            SOURCE | {"z": 3.0, "n": 0.5, "r_e": 0.04, "x": 0.2, "magnitude": (23.0, 22.0, 21.0, 20.0)},
            SOURCE | {"z": 3.0, "n": 0.5, "r_e": 0.06, "y": 0.1},
            SOURCE | {"z": 1.5, "role": "source2", "x": -0.1},
        ],
    )
    return cases


@pytest.mark.filterwarnings("ignore:Cosmology is provided")
def test_engines_agree(survey: Survey) -> None:
    """To 1e-3 of the peak, over profiles, q -> 1 and q = 0.2, centred pixels, two planes and redshifts.

    Within 1e-4 but for clumpy sources, which torch samples on one tile and lenstronomy on one per clump.
    """
    cases = sweep()
    together = batch(*cases.values(), images=(picture(),))
    fast, slow = render(together, survey), reference(together, survey)
    for role in ROLES:
        for name in BANDS:
            for i, case in enumerate(cases):
                peak = slow[role][name][i].max()
                if peak > 0:
                    limit = 5e-4 if "clumps" in case else 1e-4
                    assert np.abs(fast[role][name][i] - slow[role][name][i]).max() < limit * peak, (case, role, name)
                else:
                    assert not fast[role][name][i].any(), (case, role, name)


@pytest.mark.filterwarnings("ignore:Cosmology is provided")
@pytest.mark.parametrize("psf", ["moffat", "kernel"])
def test_engines_agree_with_any_psf(tmp_path: Path, psf: str) -> None:
    axis = np.arange(-40, 41) * 0.03
    header = fits.Header({"PIXSCALE": 0.03})
    fits.writeto(tmp_path / "psf.fits", np.exp(-np.hypot(axis, 1.5 * axis[:, None]) / 0.15), header)
    optics = with_psf(psf="moffat" if psf == "moffat" else str(tmp_path / "psf.fits"))
    some = batch(([ELLIPSE], [{"n": 4.0, "z": 0.5}, SOURCE, {"role": "field", "profile": "point", "x": 3.0}]))
    fast, slow = render(some, optics), reference(some, optics)
    for role in ("lens", "source", "field"):
        for name in BANDS:
            assert np.abs(fast[role][name] - slow[role][name]).max() < 2e-4 * slow[role][name].max()


@pytest.mark.parametrize("name", list(sweep())[::3])
def test_pixels_do_not_depend_on_the_batch(survey: Survey, name: str) -> None:
    """Bit by bit: alone, in any place of any batch, with other roles asked for, and on any number of threads."""
    cases = sweep()
    names = list(cases)
    whole = render(batch(*cases.values(), images=(picture(),)), survey)
    alone = render(batch(cases[name], images=(picture(),)), survey)
    rng = np.random.default_rng(len(name))
    others = [str(other) for other in rng.permutation(names)[:5] if other != name]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    few = render(batch(*(cases[other] for other in [*others, name]), images=(picture(),)), survey)
    assert torch.get_num_threads() == 2  # left as it was
    torch.set_num_threads(threads)
    role = ROLES.index(str((GALAXY | cases[name][1][0])["role"]))
    only = render(batch(cases[name], images=(picture(),)), survey, ["VIS"], roles=[ROLES[role]])
    assert list(only) == [ROLES[role]]
    assert list(only[ROLES[role]]) == ["VIS"]
    for role_name, stamps in alone.items():
        for band, stamp in stamps.items():
            assert stamp.dtype == np.float32
            assert stamp[0].tobytes() == whole[role_name][band][names.index(name)].tobytes()
            assert stamp[0].tobytes() == few[role_name][band][-1].tobytes()
    assert only[ROLES[role]]["VIS"].tobytes() == alone[ROLES[role]]["VIS"].tobytes()


# --- against what is known without either


@pytest.mark.parametrize(
    ("masses", "light", "tolerance"),
    [
        ([], {"r_e": 0.3}, 3e-3),
        ([], {"n": 0.5, "r_e": 0.05, "x": 0.02}, 2e-3),
        ([], {"n": 4.0, "r_e": 0.5, "x": 0.013, "y": -0.027, "q": 0.7}, 5e-3),
        ([ELLIPSE], SOURCE, 3e-3),
        ([ELLIPSE], SOURCE | {"n": 0.5, "r_e": 0.03}, 3e-3),
        ([ELLIPSE], SOURCE | {"r_e": 0.4, "q": 0.5}, 3e-3),
        ([ELLIPSE, {"z": 1.0, "theta_e": 0.5, "x": 0.3}], SOURCE, 3e-3),
    ],
)
@pytest.mark.filterwarnings("ignore:Cosmology is provided")
def test_cells_are_fine_enough(survey: Survey, masses: Any, light: Any, tolerance: float) -> None:
    """Against lenstronomy on cells of 0.0037 arcsec everywhere, in parts of the peak."""
    some = batch((masses, [light]))
    role = str((GALAXY | light)["role"])
    stamps = render(some, survey, roles=[role])[role]
    cell, half = 0.1 / 27, 2.7
    axis = (np.arange(round(2 * half / cell)) + 0.5) * cell - half
    rays, brightness = _rays(some, 0), _brightness(some, 0)
    image = np.concatenate(
        [
            brightness(*rays(*(part.ravel() for part in np.meshgrid(axis, rows)))).reshape(-1, len(axis))
            for rows in np.array_split(axis, 8)
        ]
    )
    for name in ("VIS", "J"):
        band = BANDS[name]
        inner = round(half / band.pixel_scale)
        share = gaussian_share(np.arange(-inner, inner + 1) * band.pixel_scale, axis, survey.bands[name].psf_fwhm)
        expected = share @ image @ share.T * cell**2 * survey.bands[name].flux(20.0)
        cut = slice(band.size // 2 - inner, band.size // 2 + inner)
        rim = round(1.2 / band.pixel_scale)  # dark beyond the cells of this test
        error = (stamps[name][0][cut, cut] - expected)[rim:-rim, rim:-rim]
        assert np.abs(error).max() < tolerance * expected.max()


def test_ring_radius_and_magnification_of_an_isothermal_sphere(survey: Survey) -> None:
    ring = render(batch(([MASS], [SOURCE | {"r_e": 0.05, "x": 0.0, "y": 0.0}])), survey)["source"]["VIS"][0]
    axis = (np.arange(200) - 99.5) * 0.1
    radius = np.hypot(axis, axis[:, None])
    assert np.average(radius, weights=ring) == pytest.approx(1.2, rel=5e-3)
    for beta in (0.3, 0.6):  # mu = 2 theta_e / beta inside the ring, for a source that is small against beta
        stamps = render(batch(([MASS], [SOURCE | {"r_e": 0.02, "x": beta, "y": 0.0}])), survey)["source"]
        for name in BANDS:
            assert total(stamps, survey, name) == pytest.approx(2 * 1.2 / beta, rel=5e-3)
        right = stamps["VIS"][0][:, 100:].sum() / stamps["VIS"][0].sum()
        assert right == pytest.approx((1.2 / beta + 1) / (2 * 1.2 / beta), abs=2e-3)


def test_the_convention_of_the_einstein_radius(survey: Survey) -> None:
    """theta_E belongs to z_convention: 1.302" (sigma 250 km/s, z 0.5, z_source 3.5) with a massless plane at z 1."""
    import astropy.units as u

    theta = float(einstein_radius(250 * u.km / u.s, 0.5, 3.5).value)
    assert theta == pytest.approx(1.302, abs=5e-4)
    axis = (np.arange(200) - 99.5) * 0.1
    radius = np.hypot(axis, axis[:, None])
    for z in (0.8, 3.5):
        light = SOURCE | {"z": z, "r_e": 0.02, "x": 0.0, "y": 0.0}
        some = batch(([{"z": 0.5, "theta_e": theta}, {"z": 1.0, "theta_e": 0.0}], [light]))
        some = Batch(1, np.array([3.5]), some.masses, some.lights)
        stamp = render(some, survey, ["VIS"])["source"]["VIS"][0]
        expected = float(einstein_radius(250 * u.km / u.s, 0.5, z).value)
        blur = (0.16 / 2.355) ** 2 + 0.1**2 / 12  # a ring blurred by sigma is wider by sigma^2 / 2 R
        assert np.average(radius, weights=stamp) == pytest.approx(expected + blur / (2 * expected), rel=5e-3)


def test_double_ring_ratio(survey: Survey) -> None:
    """beta = theta_E1 / theta_E2 of FACTS, where the nearer source has no mass."""
    axis = (np.arange(200) - 99.5) * 0.1
    radius = np.hypot(axis, axis[:, None])
    lights = [SOURCE | {"z": 1.0, "r_e": 0.04, "x": 0.0, "y": 0.0}]
    lights += [SOURCE | {"z": 3.0, "role": "source2", "r_e": 0.04, "x": 0.0, "y": 0.0}]
    stamps = render(batch(([MASS | {"theta_e": 1.8}], lights)), survey, ["VIS"])
    near, far = (np.average(radius, weights=stamps[role]["VIS"][0]) for role in ("source", "source2"))
    distance = COSMOLOGY.angular_diameter_distance
    beta = distance(0.5, 1.0) * distance(3.0) / (distance(1.0) * distance(0.5, 3.0))
    assert near / far == pytest.approx(float(beta), rel=0.01)


@pytest.mark.parametrize("q", [1.0, 0.99999999, 0.9999, 0.7, 0.2])
def test_deflection_in_float32_is_lenstronomys(q: float) -> None:
    """Also as q -> 1, and finite at the centre itself."""
    x, y = (part.ravel() for part in np.meshgrid(np.linspace(-4, 4, 81), np.linspace(-4, 4, 81)))
    expected = LensModel(["SIE"]).alpha(x, y, [{"theta_E": 1.3, "e1": (1 - q) / (1 + q), "e2": 0.0}])
    capped = min(q, 0.99999999)
    b, ratio, e = (torch.tensor(v) for v in (1.3 * np.sqrt(capped), capped, np.sqrt(1 - capped**2)))
    got = sie_deflection(torch.tensor(x).float(), torch.tensor(y).float(), b.float(), ratio.float(), e.float())
    away = np.hypot(x, y) > 1e-9
    for one, other in zip(got, expected, strict=True):
        assert np.isfinite(one.numpy()).all()
        np.testing.assert_allclose(one.numpy()[away], other[away], atol=2e-6)


@pytest.mark.parametrize("n", [0.5, 1.0, 2.5, 4.0])
@pytest.mark.parametrize("r_e", [0.05, 0.3, 0.8])
def test_magnitudes_in_are_magnitudes_out(survey: Survey, n: float, r_e: float) -> None:
    """Flux within the stamp against the integral of the Sersic profile, at a place off every pixel's centre."""
    stamps = render(batch(([], [{"n": n, "r_e": r_e, "x": 0.013, "y": -0.027, "magnitude": 21.3}])), survey)["lens"]
    for name, band in BANDS.items():
        half = band.size * band.pixel_scale / 2
        edge = np.linspace(0, np.pi / 4, 200)  # a square's share of a round profile
        inside = gammainc(2 * n, (1.9992 * n - 0.3271) * (half / np.cos(edge) / r_e) ** (1 / n)).mean()
        assert -2.5 * np.log10(total(stamps, survey, name, 21.3) / inside) == pytest.approx(0, abs=0.01)


def test_magnitudes_of_other_profiles(survey: Survey) -> None:
    for light in ({"profile": "ring", "n": 0.2}, {"profile": "point"}, {"profile": "image", "n": 0.0}):
        stamps = render(batch(([], [light | {"x": 0.31, "y": 0.17}]), images=(picture(),)), survey)["lens"]
        for name in BANDS:
            assert -2.5 * np.log10(total(stamps, survey, name)) == pytest.approx(0, abs=0.01)


# --- PSF and pixels


@pytest.mark.parametrize("kind", ["gaussian", "moffat", "kernel"])
def test_psf_conserves_flux_place_and_width(tmp_path: Path, kind: str) -> None:
    """A star between the cells: flux to 1e-3, its place, and a Gaussian's width to 0.1 %."""
    axis = np.arange(-60, 61) * 0.03
    fits.writeto(
        tmp_path / "psf.fits",
        np.exp(-(axis**2 + axis[:, None] ** 2) / (2 * 0.2**2)),
        fits.Header({"PIXSCALE": 0.03}),
    )
    optics = with_psf(psf=str(tmp_path / "psf.fits") if kind == "kernel" else kind)
    stamps = render(batch(([], [{"profile": "point", "x": 0.123, "y": -0.345}])), optics)["lens"]
    for name, band in BANDS.items():
        # A Moffat of beta = 3 has 0.1 % of its light beyond 15 (VIS) or 5 (NISP) arcsec.
        assert total(stamps, optics, name) == pytest.approx(1, abs=1e-3 if kind != "moffat" else 2e-3)
        across = stamps[name][0] / stamps[name][0].sum(dtype=float)
        at = (np.arange(band.size) - (band.size - 1) / 2) * band.pixel_scale
        x, y = (across.sum(axis=0) * at).sum(), (across.sum(axis=1) * at).sum()
        assert (x, y) == pytest.approx((0.123, -0.345), abs=1e-3)
        if kind != "moffat":
            sigma = 0.2 if kind == "kernel" else optics.bands[name].psf_fwhm / 2.35482
            variance = (across.sum(axis=0) * (at - x) ** 2).sum()
            assert variance == pytest.approx(sigma**2 + band.pixel_scale**2 / 12, rel=3e-3)


def test_a_moffat_has_its_fwhm() -> None:
    kernel = psf_kernel("moffat", 0.5, 3.0, 0.05)
    middle = kernel[len(kernel) // 2]
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert middle[len(middle) // 2 + 5] == pytest.approx(middle.max() / 2, rel=1e-4)


def test_bad_settings_are_named(tmp_path: Path, survey: Survey) -> None:
    with pytest.raises(LensfindError, match="engine.name"):
        get_engine("galsim")
    with pytest.raises(LensfindError, match="oversampling"):
        render(batch(([], [{}])), survey, oversampling=2)
    with pytest.raises(LensfindError, match="psf"):
        with_psf(psf="nowhere.fits")
    fits.writeto(tmp_path / "plain.fits", np.ones((5, 5)))
    with pytest.raises(LensfindError, match="PIXSCALE"):
        render(batch(([], [{}])), with_psf(psf=str(tmp_path / "plain.fits")))
    with pytest.raises(ValueError, match="lensed point"):
        render(batch(([MASS], [SOURCE | {"profile": "point"}])), survey)


def test_oversampling_changes_little(survey: Survey) -> None:
    some = batch(([ELLIPSE], [SOURCE | {"r_e": 0.3}]))
    coarse, middle, fine = (render(some, survey, ["VIS"], oversampling=k)["source"]["VIS"] for k in (1, 3, 9))
    assert np.abs(middle - fine).max() < 6e-3 * fine.max()
    assert np.abs(coarse - fine).max() < 0.05 * fine.max()
