"""The simulator against analytic lenses, astropy, SkyPy and the tables of Euclid."""

import filecmp
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pytest
import yaml
from lenstronomy.Cosmo.lens_cosmo import LensCosmo
from scipy.special import gammainc
from scipy.stats import kstest

from lensfind.bands import BANDS
from lensfind.data.catalogue import lens_labels
from lensfind.data.store import Store
from lensfind.errors import LensfindError
from lensfind.simulation import photometry, population
from lensfind.simulation.cosmology import COSMOLOGY, distance, distance_modulus, einstein_radius, sigma_for
from lensfind.simulation.detect import detectability, image_count
from lensfind.simulation.instrument import FINE, FINE_SCALE, Survey, fine_axis
from lensfind.simulation.make import simulate
from lensfind.simulation.objects import COLUMNS, catalogue, simulate_object
from lensfind.simulation.population import Galaxies
from lensfind.simulation.render import arc_plane, galaxy_plane, render
from lensfind.simulation.scene import Mass, Rejected, Scenario, Scene, draw_neighbours, draw_scene

CONF = Path(__file__).parents[1] / "conf"


def config(group: str, name: str, **changes: Any) -> dict[str, Any]:
    return yaml.safe_load((CONF / group / f"{name}.yaml").read_text()) | changes


@pytest.fixture(scope="module")
def survey() -> Survey:
    return Survey.from_config(config("survey", "euclid"))


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return Scenario.from_config(config("scenario", "training"))


def galaxy(**values: float) -> Galaxies:
    """One round 20 mag galaxy in the middle."""
    given = {"z": 0.5, "sigma_v": 200.0, "r_e": 0.5, "n": 1.0, "q": 1.0, "angle": 0.0, "x": 0.0, "y": 0.0} | values
    magnitudes = np.full((1, 4), given.pop("magnitude", 20.0))
    return Galaxies(**{key: np.array([value]) for key, value in given.items()}, magnitudes=magnitudes)


# --- cosmology and populations


def test_distances_are_astropys() -> None:
    z = np.array([0.02, 0.1, 0.5, 1.0, 3.5, 5.0])
    np.testing.assert_allclose(distance(0, z).value, COSMOLOGY.angular_diameter_distance(z).value, rtol=1e-5)
    np.testing.assert_allclose(distance_modulus(z), COSMOLOGY.distmod(z).value, atol=1e-4)
    between = COSMOLOGY.angular_diameter_distance(0.5, 3.5).value
    assert distance(0.5, 3.5).to_value(u.Mpc) == pytest.approx(between, rel=1e-6)


def test_einstein_radius_belongs_to_the_convention_redshift() -> None:
    sigma = 250 * u.km / u.s
    assert einstein_radius(sigma, 0.5, 3.5).to_value(u.arcsec) == pytest.approx(1.302, abs=5e-4)
    for z_source in (1.0, 3.5):
        expected = LensCosmo(0.5, z_source, cosmo=COSMOLOGY).sis_sigma_v2theta_E(250)
        assert einstein_radius(250e3 * u.m / u.s, 0.5, z_source).value == pytest.approx(expected, rel=1e-4)
    assert einstein_radius(sigma, 0.5, 0.4) < 0  # no lens
    assert sigma_for(einstein_radius(sigma, 0.5, 3.5), 0.5, 3.5).value == pytest.approx(250)
    with pytest.raises(u.UnitConversionError):
        einstein_radius(250 * u.arcsec, 0.5, 3.5)


def test_colours_of_a_red_and_a_blue_galaxy_at_z_1() -> None:
    z = np.ones(2000)
    order = list(BANDS)
    for colour, expected, width in (("red", 2.5, 0.1), ("blue", 1.35, 0.1)):
        coefficients = photometry.dirichlet_coefficients(np.random.default_rng(0), colour, z)
        m = photometry.apparent_magnitudes(coefficients, z, np.full(2000, -21.0), colour)
        assert np.median(m[:, order.index("VIS")] - m[:, order.index("H")]) == pytest.approx(expected, abs=width)


@pytest.mark.filterwarnings("ignore")
def test_magnitudes_are_skypys() -> None:
    from skypy.galaxies.spectrum import kcorrect

    z = np.array([0.13, 0.77, 1.51, 3.9])
    bands = [f"Euclid-{band}" for band in BANDS]
    for colour, rest in photometry.REST_BAND.items():
        coefficients = photometry.dirichlet_coefficients(np.random.default_rng(1), colour, z)
        mass = kcorrect.stellar_mass(coefficients, np.full(4, -21.0), rest)
        expected = kcorrect.apparent_magnitudes(coefficients, z, bands, COSMOLOGY, stellar_mass=mass)
        got = photometry.apparent_magnitudes(coefficients, z, np.full(4, -21.0), colour)
        np.testing.assert_allclose(got, expected, atol=0.01)
        alone = photometry.apparent_magnitudes(coefficients[1:2], z[1:2], np.full(1, -21.0), colour)
        assert (alone == got[1:2]).all()  # never depends on its batch
    with pytest.raises(ValueError, match="VIS flux"):
        photometry.apparent_magnitudes(coefficients[:1], np.array([3.99]), np.full(1, -21.0), "blue")


@pytest.mark.filterwarnings("ignore")
def test_source_counts_are_those_of_skypys_schechter_function() -> None:
    from skypy.galaxies.redshift import schechter_lf_redshift

    z = np.linspace(0.02, 2.0, 200)
    m_star, phi = -20.40492365 - 0.9408582 * z, 0.00370253 * np.exp(-0.10268436 * z)
    area = 20 * u.arcmin**2
    drawn = schechter_lf_redshift(z, m_star, phi, np.full(200, -1.3), 25.0, area, COSMOLOGY, noise=False)
    sky = population.blue_sky(25.0)
    near = sky.counts[sky.z_edges[1:] <= 2.0].sum()
    assert near * area.to_value(u.arcsec**2) == pytest.approx(len(drawn), rel=0.02)
    assert population.blue_sky(28.0).density.to_value(1 / u.arcsec**2) == pytest.approx(0.06, rel=0.1)


def test_early_types_follow_the_fundamental_plane_and_shapes() -> None:
    sigma = np.full(4000, 250.0)
    m = population.r_band_magnitude(sigma)[0]
    assert -2.97 - 0.37 * m - 0.006 * m**2 == pytest.approx(np.log10(250))
    assert -24 < m < -22
    galaxies = population.early_types(np.random.default_rng(0), sigma, np.full(4000, 0.5))
    v = np.log10(250)
    kpc = galaxies.r_e * distance(0, 0.5).to_value(u.kpc) / u.rad.to(u.arcsec)
    assert np.log10(kpc).mean() == pytest.approx(2.46 - 2.79 * v + 0.84 * v**2, abs=0.01)
    assert np.log10(kpc).std() == pytest.approx(0.11, rel=0.05)
    assert galaxies.q.min() > 0.2
    assert galaxies.q.max() < 1
    assert (1 - galaxies.q).mean() == pytest.approx((0.378 - 0.000572 * 250) * np.sqrt(np.pi / 2), rel=0.03)


def test_velocity_dispersion_function_integrates_to_its_normalisation() -> None:
    sigma = np.linspace(0.01, 900, 200_000)
    total = np.trapezoid(population.velocity_dispersion_function(sigma), sigma)
    assert total == pytest.approx(8e-3 * 0.7**3, rel=1e-3)


# --- rendering and lensing


def test_ring_radius_and_magnification_of_an_isothermal_sphere(survey: Survey) -> None:
    sphere = Mass(1.2, 0.0, 0.0, 0.0, 0.0)
    ring = arc_plane(sphere, galaxy(r_e=0.05, x=1e-6))
    axis = (np.arange(ring.image.shape[1]) + 0.5 + ring.x - FINE / 2) * FINE_SCALE
    radius = np.hypot(*np.meshgrid(axis, axis))
    assert np.average(radius, weights=ring.image) == pytest.approx(1.2, rel=5e-3)
    for beta in (0.3, 0.6):  # mu = 2 theta_e / beta inside the ring, for a source that is small against beta
        source = galaxy(r_e=0.03, x=beta)
        assert arc_plane(sphere, source).image.sum() == pytest.approx(2 * 1.2 / beta, rel=0.01)
        assert image_count(sphere, source) == 2
        side = arc_plane(sphere, source).image.sum(axis=0)
        right = axis_of(arc_plane(sphere, source)) > 0
        assert side[right].sum() / side.sum() == pytest.approx((1.2 / beta + 1) / (2 * 1.2 / beta), abs=0.01)
    assert image_count(replace(sphere, e1=0.2), galaxy(x=1e-3, y=2e-3)) == 4
    assert image_count(sphere, galaxy(x=1.5)) == 1


def axis_of(plane: Any) -> np.ndarray:
    return (np.arange(plane.image.shape[1]) + 0.5 + plane.x - FINE / 2) * FINE_SCALE


@pytest.mark.parametrize("n", [1.0, 4.0])
@pytest.mark.parametrize("r_e", [0.05, 0.3, 0.8])
def test_magnitudes_in_are_magnitudes_out(survey: Survey, n: float, r_e: float) -> None:
    """Flux within the stamp against the integral of the Sersic profile, at a place off every pixel's centre."""
    target = galaxy(n=n, r_e=r_e, x=0.013, y=-0.027, magnitude=21.3)
    stamps = render([galaxy_plane(target, 0)], survey)
    b = 2 * n - 1 / 3 + 4 / (405 * n) + 46 / (25515 * n**2)
    for name, band in BANDS.items():
        half = band.size * band.pixel_scale / 2
        edge = np.linspace(0, np.pi / 4, 200)  # a square's share of a round profile
        inside = gammainc(2 * n, b * (half / np.cos(edge) / r_e) ** (1 / n)).mean()
        magnitude = survey.bands[name].zero_point - 2.5 * np.log10(stamps[name].sum(dtype=float) / inside)
        assert magnitude == pytest.approx(21.3, abs=0.01)


def test_psf_and_binning_conserve_flux_centre_and_width(survey: Survey) -> None:
    fine = np.zeros((FINE, FINE), dtype=np.float32)
    fine[FINE // 2 - 1 : FINE // 2 + 1, FINE // 2 - 1 : FINE // 2 + 1] = 25.0
    for name, band in BANDS.items():
        stamp = survey.bands[name].observe(fine, band)
        assert stamp.shape == (band.size, band.size)
        assert stamp.dtype == np.float32
        assert stamp.sum() == pytest.approx(100, rel=1e-5)
        x = (np.arange(band.size) - (band.size - 1) / 2) * band.pixel_scale
        profile = stamp.sum(axis=0) / stamp.sum()
        assert (profile * x).sum() == pytest.approx(0, abs=1e-5)
        sigma = survey.bands[name].psf_fwhm / 2.3548
        variance = sigma**2 + band.pixel_scale**2 / 12 + FINE_SCALE**2 / 4
        assert (profile * x**2).sum() == pytest.approx(variance, rel=1e-3)
    assert len(fine_axis()) == FINE
    assert fine_axis().sum() == pytest.approx(0, abs=1e-9)


def test_blank_noise_is_the_table_and_depth_that_of_q1(survey: Survey) -> None:
    wanted = {"VIS": (25.43, 10, 1.3), "Y": (24.76, 5, 1.0), "J": (24.93, 5, 1.0), "H": (24.91, 5, 1.0)}
    ideal = {"VIS": 25.48, "Y": 24.98, "J": 25.16, "H": 25.16}
    for k, (name, band) in enumerate(BANDS.items()):
        table, (magnitude, significance, diameter) = survey.bands[name], wanted[name]
        blank = np.zeros((band.size, band.size), dtype=np.float32)
        stamps = np.stack([table.expose(blank, band, np.random.default_rng([k, i])) for i in range(12)])
        assert stamps.std() == pytest.approx(table.sigma(band), rel=0.02)
        assert abs(stamps.mean()) < 4 * stamps.std() / np.sqrt(stamps.size)
        area = np.pi * (diameter / 2 / band.pixel_scale) ** 2
        limit = table.zero_point - 2.5 * np.log10(significance * stamps.std() * np.sqrt(area))
        assert limit == pytest.approx(magnitude, abs=0.05)
        unscaled = stamps.std() / table.noise_scale(band)
        assert table.zero_point - 2.5 * np.log10(significance * unscaled * np.sqrt(area)) == pytest.approx(
            ideal[name], abs=0.03
        )


def test_photons_of_the_source_add_their_noise(survey: Survey) -> None:
    table, band = survey.bands["VIS"], BANDS["VIS"]
    bright = np.full((200, 200), 5.0, dtype=np.float32)
    noise = table.expose(bright, band, np.random.default_rng(0)) - bright
    expected = np.sqrt(table.sigma(band) ** 2 + table.noise_scale(band) ** 2 * 5.0 / table.time)
    assert noise.std() == pytest.approx(expected, rel=0.02)


def test_detectability_by_hand(survey: Survey) -> None:
    sigma = survey.bands["VIS"].sigma(BANDS["VIS"])
    arc, centre = np.zeros((200, 200), dtype=np.float32), np.zeros((200, 200), dtype=np.float32)
    arc[0, :25] = 5 * sigma
    arc[1, :] = 0.5 * sigma
    centre[0, :25] = 15 * sigma
    seen = detectability(arc, centre, survey, source_flux=50 * sigma)
    assert seen["n_pix_source"] == 25
    assert seen["mag_eff"] == pytest.approx((125 + 100) / 50, rel=1e-5)
    assert seen["contrast"] == pytest.approx(0.25, rel=1e-5)
    photons = survey.bands["VIS"].noise_scale(BANDS["VIS"]) ** 2 * 500 * sigma / survey.bands["VIS"].time
    assert seen["arc_snr"] == pytest.approx(125 * sigma / np.sqrt(25 * sigma**2 + photons), rel=1e-5)


# --- scenes and objects


def draw_lenses(scenario: Scenario, seed: int, n: int) -> list[Scene]:
    drawn = []
    for index in range(n):
        try:
            drawn.append(draw_scene(np.random.default_rng([seed, index]), scenario, "lens"))
        except Rejected:
            continue
    return drawn


def test_lens_populations(scenario: Scenario) -> None:
    """Uniform in theta_e is uniform; weighted by cross-section, the radii and sigma_v of a survey come out."""
    alike = draw_lenses(scenario, 1, 400)
    assert len(alike) > 300
    theta = np.array([scene.mass.theta_e for scene in alike if scene.mass])
    assert kstest(theta, "uniform", args=(0.5, 2.0)).pvalue > 0.01
    for scene in alike[:50]:
        assert scene.mass
        assert scene.source
        assert scene.source.z[0] > scene.centre.z[0]
        again = einstein_radius(scene.centre.sigma_v * u.km / u.s, scene.centre.z, scene.source.z)
        assert again.value[0] == pytest.approx(scene.mass.theta_e)
        assert np.hypot(scene.source.x[0], scene.source.y[0]) <= scene.mass.theta_e
    natural = draw_lenses(Scenario.from_config(config("scenario", "single_lens")), 2, 400)
    # Collett 2015's Euclid lenses: theta_E 0.64 +- 0.42, sigma_v 217 +- 51 (before our label's selection here)
    assert np.median([scene.mass.theta_e for scene in natural if scene.mass]) == pytest.approx(0.64, abs=0.2)
    assert np.median([scene.centre.sigma_v[0] for scene in natural]) == pytest.approx(217, abs=30)


def test_neighbours_have_the_density_of_the_field(scenario: Scenario) -> None:
    counts = [sum(map(len, draw_neighbours(np.random.default_rng(i), scenario))) for i in range(200)]
    density = population.blue_sky(26.0).density + population.red_sky(26.0).density
    expected = float((density * (20 * u.arcsec) ** 2).value)
    assert np.mean(counts) == pytest.approx(expected, rel=0.1)  # a few lie beyond the templates' end


def test_object_rows_labels_and_rejects(scenario: Scenario, survey: Survey) -> None:
    made = [simulate_object(0, index, scenario, survey) for index in range(16)]
    kinds = {one.row["kind"] for one in made}
    assert "lens" in kinds
    assert len(kinds) > 1
    table = catalogue([one.row for one in made], scenario.label)
    assert set(COLUMNS) < set(table.colnames)
    assert str(table["theta_e"].unit) == "arcsec"
    assert (table["label"] == (table["kind"] == "lens")).all()
    assert (table["label"] == lens_labels(table, scenario.label)).all()
    assert np.isnan(table["theta_e"][table["kind"] != "lens"]).all()
    assert [len(one.rejects) for one in made] == list(table["attempt"])  # every failed draw has its line
    reasons = [reason.split(":")[0] for one in made for _, reason in one.rejects]
    assert "lens not detectable" in reasons
    lens = next(one for one in made if one.arc is not None)
    assert lens.arc is not None
    assert lens.arc.sum() == pytest.approx(
        float(survey.bands["VIS"].flux(lens.row["mag_source"])) * lens.row["mag_eff"], rel=1e-4
    )
    for name, band in BANDS.items():
        assert lens.stamps[name].shape == (band.size, band.size)
        assert lens.stamps[name].dtype == np.float32


def test_undetectable_lenses_keep_their_kind_and_impossible_draws_their_reason(
    scenario: Scenario, survey: Survey
) -> None:
    keep = replace(scenario, mix={"lens": 1.0, "deflector": 0.0, "red": 0.0, "blue": 0.0}, keep_undetectable=True)
    made = [simulate_object(3, index, keep, survey) for index in range(8)]
    table = catalogue([one.row for one in made], keep.label)
    assert (table["kind"] == "lens").all()
    assert 0 in table["label"]
    far = replace(keep, source=replace(keep.source, z=(4.1, 5.0)), attempts=3)
    with pytest.raises(LensfindError, match=r"source beyond z = 3\.97"):
        simulate_object(0, 0, far, survey)
    front = replace(keep, source=replace(keep.source, z=(0.1, 0.2)), deflector=replace(keep.deflector, z=(1.0, 1.5)))
    with pytest.raises(LensfindError, match="source in front of lens"):
        simulate_object(0, 0, replace(front, attempts=2), survey)


# --- stores


def plain(**scenario: Any) -> dict[str, Any]:
    """Small settings: a few objects, neighbours only down to 23 mag."""
    changes = {"neighbour_limit": 23.0} | scenario
    return {"scenario": config("scenario", "training", **changes), "survey": config("survey", "euclid")}


def test_store_is_the_same_for_any_workers_and_after_a_kill(tmp_path: Path, survey: Survey) -> None:
    settings: Mapping[str, Any] = {"n": 7, "seed": 11, "shard_size": 4, **plain()}
    simulate(tmp_path / "one", workers=1, **settings)
    simulate(tmp_path / "two", workers=2, **settings)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    assert "shard-00001.fits" in names
    assert filecmp.cmpfiles(tmp_path / "one", tmp_path / "two", names, shallow=False) == (names, [], [])

    written = (tmp_path / "one" / "shard-00000.fits").stat().st_mtime_ns
    for name in ("manifest.yaml", "shard-00001.fits"):  # as if killed between the shards
        (tmp_path / "one" / name).unlink()
    simulate(tmp_path / "one", workers=1, **settings)
    assert filecmp.cmpfiles(tmp_path / "one", tmp_path / "two", names, shallow=False) == (names, [], [])
    assert (tmp_path / "one" / "shard-00000.fits").stat().st_mtime_ns == written

    store = Store(tmp_path / "two")
    assert len(store) == 7
    assert list(store.catalogue["id"]) == list(range(7))
    assert sum(store.manifest["counts"]["rejected"].values()) == sum(store.catalogue["attempt"])
    alone = simulate_object(11, 5, Scenario.from_config(settings["scenario"]), survey)  # any row again, by itself
    for name, stamp in store.read([5], list(BANDS)).items():
        assert stamp[0].tobytes() == alone.stamps[name].tobytes()


def test_store_of_another_config_is_refused(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"n": 2, "shard_size": 2, **plain(mix={"blue": 1.0})}
    simulate(tmp_path / "set", seed=0, **settings)
    before = (tmp_path / "set" / "manifest.yaml").stat().st_mtime_ns
    simulate(tmp_path / "set", seed=0, **settings)
    assert (tmp_path / "set" / "manifest.yaml").stat().st_mtime_ns == before
    with pytest.raises(LensfindError, match="begun with another seed"):
        simulate(tmp_path / "set", seed=1, **settings)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("mine")
    with pytest.raises(LensfindError, match="other files"):
        simulate(tmp_path / "other", seed=0, **settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mix": {"lens": 0.7, "blue": 0.7}}, "add up to 1"),
        ({"mix": {"quasar": 1.0}}, "scenario.mix"),
        ({"weighting": "none"}, "scenario.weighting"),
        ({"theta_e": [2.0, 1.0]}, "scenario.theta_e"),
        ({"colour": 3}, "unknown colour"),
        ({"attempts": 0}, "scenario.attempts"),
        ({"source": {"limit": 26.0}}, "missing impact, z"),
        ({"label": "beauty > 3"}, "beauty"),
    ],
)
def test_bad_scenarios_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LensfindError, match=message):
        simulate(tmp_path / "set", n=2, seed=0, **plain(**changes))


def test_bad_numbers_and_surveys_are_named(tmp_path: Path) -> None:
    for key, value in (("n", 0), ("seed", -1), ("shard_size", 0), ("workers", 0)):
        with pytest.raises(LensfindError, match=key):
            simulate(tmp_path / "set", **({"n": 2, "seed": 0} | plain() | {key: value}))
    blind = config("survey", "euclid")
    del blind["bands"]["H"]
    with pytest.raises(LensfindError, match="survey.bands"):
        Survey.from_config(blind)


@pytest.mark.parametrize("name", ["training", "single_lens", "non_lens"])
def test_every_scenario_makes_an_object(name: str, survey: Survey) -> None:
    one = simulate_object(1, 1, Scenario.from_config(config("scenario", name)), survey)
    assert one.row["kind"] == "lens" or name != "single_lens"
    assert one.row["kind"] != "lens" or name != "non_lens"
