"""The simulator against analytic lenses, astropy, SkyPy and the tables of Euclid."""

import os
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pytest
import yaml
from astropy.io import fits
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from lenstronomy.Cosmo.lens_cosmo import LensCosmo
from omegaconf import OmegaConf

from lensfind.bands import BANDS
from lensfind.data.store import Store
from lensfind.errors import LensfindError
from lensfind.simulation import again, photometry, population, simulate
from lensfind.simulation.components import Batch, Masses
from lensfind.simulation.cosmology import COSMOLOGY, distance, distance_modulus, einstein_radius, sigma_for
from lensfind.simulation.detect import critical_area_and_images, detectability
from lensfind.simulation.draws import Uniforms
from lensfind.simulation.instrument import Survey
from lensfind.simulation.parts import Parts
from tests.test_scenarios import FEW, settings

CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture(scope="module")
def survey() -> Survey:
    return Survey.from_config(yaml.safe_load((CONF / "survey" / "euclid.yaml").read_text()))


def uniforms(n: int, seed: int = 0) -> Uniforms:
    return Uniforms(np.random.default_rng(seed).random((n, 16)))


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
        coefficients = photometry.dirichlet_coefficients(uniforms(len(z)), colour, z)
        m = photometry.apparent_magnitudes(coefficients, z, np.full(2000, -21.0), colour)
        assert np.median(m[:, order.index("VIS")] - m[:, order.index("H")]) == pytest.approx(expected, abs=width)


@pytest.mark.filterwarnings("ignore")
def test_magnitudes_are_skypys() -> None:
    from skypy.galaxies.spectrum import kcorrect

    z = np.array([0.13, 0.77, 1.51, 3.9])
    bands = [f"Euclid-{band}" for band in BANDS]
    for colour, rest in photometry.REST_BAND.items():
        coefficients = photometry.dirichlet_coefficients(uniforms(len(z), 1), colour, z)
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
    galaxies = population.early_types(uniforms(4000), sigma, np.full(4000, 0.5))
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


# --- noise


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


# --- detection


def test_detectability_by_hand(survey: Survey) -> None:
    sigma = survey.bands["VIS"].sigma(BANDS["VIS"])
    arc, centre = np.zeros((2, 200, 200), dtype=np.float32), np.zeros((2, 200, 200), dtype=np.float32)
    arc[0, 0, :25] = 5 * sigma
    arc[0, 1, :] = 0.5 * sigma
    centre[0, 0, :25] = 15 * sigma
    seen = {key: value[0] for key, value in detectability(arc, centre, survey, np.full(2, 50 * sigma)).items()}
    assert seen["n_pix_source"] == 25
    assert seen["mag_eff"] == pytest.approx((125 + 100) / 50, rel=1e-5)
    assert seen["contrast"] == pytest.approx(0.25, rel=1e-5)
    photons = survey.bands["VIS"].noise_scale(BANDS["VIS"]) ** 2 * 500 * sigma / survey.bands["VIS"].time
    assert seen["arc_snr"] == pytest.approx(125 * sigma / np.sqrt(25 * sigma**2 + photons), rel=1e-5)
    nothing = {key: value[1] for key, value in detectability(arc, centre, survey, np.full(2, 1.0)).items()}
    assert set(nothing.values()) == {0.0}


def lens(theta_e: float, e1: float = 0.0, gamma1: float = 0.0, second: float = 0.0) -> Batch:
    """A mass at z = 0.5 and maybe another at z = 1; deflections for z = 3.5."""
    parts, one = Parts(), np.zeros(1, dtype=np.int64)
    parts.mass(one, np.array([0.5]), np.array([theta_e]), e1, gamma1=gamma1)
    if second:
        parts.mass(one, np.array([1.0]), np.array([second]))
    return parts.batch(1, np.array([3.5]))


def test_critical_area_and_images() -> None:
    """pi theta_E^2 for an SIS and an SIE; image counts of the analytic caustics; the SIS's image outside is one."""
    for e1 in (0.0, 0.15):
        area, _ = critical_area_and_images(lens(1.2, e1), 0, 3.5, 0.1, 0.05)
        assert area == pytest.approx(np.pi * 1.2**2, rel=0.01)
    assert critical_area_and_images(lens(1.2), 0, 3.5, 0.6, 0.1)[1] == 2
    assert critical_area_and_images(lens(1.2), 0, 3.5, 1.3, 0.0)[1] == 1
    assert critical_area_and_images(lens(1.2, 0.2), 0, 3.5, 0.02, 0.01)[1] == 4
    assert critical_area_and_images(lens(1.2), 0, 0.4, 0.6, 0.1) == (0.0, 1)  # in front of the lens
    # An SIS with shear: critical curve of area pi theta^2 (1 + gamma^2 ...) / (1 - gamma^2); larger than without.
    assert critical_area_and_images(lens(1.2, gamma1=0.1), 0, 3.5, 0.1, 0.05)[0] > np.pi * 1.2**2
    # Two coaxial spheres deflect more than the first alone.
    both, _ = critical_area_and_images(lens(1.0, second=0.5), 0, 3.5, 0.1, 0.05)
    assert both > 1.3 * np.pi


def test_a_near_source_sees_the_einstein_radius_of_its_own_redshift() -> None:
    """Reduced for z = 3.5, asked for z = 1: the area shrinks as the distances say."""
    ratio = float(distance(0.5, 1.0) * distance(0, 3.5) / (distance(0, 1.0) * distance(0.5, 3.5)))
    area, _ = critical_area_and_images(lens(1.2), 0, 1.0, 0.05, 0.02)
    assert np.sqrt(area / np.pi) == pytest.approx(1.2 * ratio, rel=0.01)


def test_a_batch_of_some_objects_keeps_their_rows() -> None:
    parts, objects = Parts(), np.array([0, 1, 2], dtype=np.int64)
    parts.mass(objects, np.full(3, 0.5), np.array([1.0, 2.0, 3.0]))
    parts.light(objects, "source", np.arange(12.0).reshape(3, 4), z=np.array([1.0, 2.0, 3.0]))
    some = parts.batch(3, np.array([1.0, 2.0, 3.0])).take(np.array([2, 0]))
    assert isinstance(some.masses, Masses)
    assert some.masses.theta_e.tolist() == [3.0, 1.0]
    assert some.lights.magnitudes[0, 0] == 8.0
    assert some.z_convention.tolist() == [3.0, 1.0]


# --- settings and folders


@pytest.mark.parametrize("name", ["n_neighbours", "n_satellites", "n_stars", "id", "pair", "attempt", "kind", "beauty"])
def test_select_of_what_is_not_known_is_refused(tmp_path: Path, name: str) -> None:
    plan = settings("scenario=single_lens", f"+scenario.select.{name}=1")
    with pytest.raises(LensfindError, match=rf"got {name}.* Remove scenario\.select\.{name}"):
        simulate(tmp_path / "set", n=1, seed=0, **plan)
    assert not (tmp_path / "set").exists()


def test_a_folder_is_free_until_something_is_made_in_it(tmp_path: Path) -> None:
    plan: dict[str, Any] = {"n": 2, "seed": 0, "shard_size": 1, **settings("scenario=non_lens", FEW)}
    wrong = settings("scenario=single_lens", "scene.source.z=[4.1,5]", "scenario.attempts=3")
    with pytest.raises(LensfindError, match=r"only rejected"):
        simulate(tmp_path / "set", **(plan | wrong))  # found after the folder was claimed
    for label in ("theta_e >", "beauty > 3", "n_stars > 1"):
        bad = settings("scenario=single_lens", f"scenario.label='{label}'")
        with pytest.raises(LensfindError, match="scenario.label as a rule") as raised:
            simulate(tmp_path / "new", **(plan | bad))
        assert "lens_rule" not in str(raised.value)
    assert not (tmp_path / "new").exists()
    assert not simulate(tmp_path / "set", slice="1/2", **plan)  # mended
    with pytest.raises(LensfindError, match=r"begun with another .*output=DIR"):
        simulate(tmp_path / "set", slice="2/2", **(plan | {"seed": 1}))
    assert simulate(tmp_path / "set", slice="2/2", **plan)


def test_slices_that_start_together_share_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one's simulation.yaml appears just after this one saw that there is none."""
    plan: dict[str, Any] = {"n": 2, "shard_size": 1, **settings("scenario=non_lens", FEW)}
    root, inside = tmp_path / "set", Path.is_file

    def late(path: Path) -> bool:
        there = inside(path)
        if path == root / "simulation.yaml" and not there:
            root.mkdir()
            path.write_bytes(b"seed: 0")
        return there

    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_file", late)
        assert not simulate(root, seed=0, slice="1/2", **plan)
    assert simulate(root, seed=0, slice="2/2", **plan)


def test_another_psf_file_is_another_set(tmp_path: Path) -> None:
    file = tmp_path / "psf.fits"

    def kernel(width: float) -> None:
        y, x = np.mgrid[:21, :21] - 10
        hdu = fits.PrimaryHDU(np.exp(-(x**2 + y**2) / (2 * width**2)))
        hdu.header["PIXSCALE"] = 0.05
        hdu.writeto(file, overwrite=True)

    kernel(1.5)
    plan: dict[str, Any] = {"n": 2, "seed": 0, "shard_size": 1}
    plan |= settings("scenario=non_lens", FEW, f"survey.bands.VIS.psf='{file}'")
    simulate(tmp_path / "set", slice="1/2", **plan)
    kernel(2.5)
    with pytest.raises(LensfindError, match="begun with another psf"):
        simulate(tmp_path / "set", slice="2/2", **plan)
    kernel(1.5)
    assert simulate(tmp_path / "set", slice="2/2", **plan)
    kernel(2.5)
    with pytest.raises(LensfindError, match="other PSF files"):
        again(tmp_path / "set", [0])


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("workers=abc", "workers"), ("workers=null", "workers"), ("workers=1.5", "workers"),
        ("survey.bands.VIS.psf_fwhm=abc", "psf_fwhm"), ("survey.bands.VIS.sky=abc", "sky"),
        ("survey.bands.VIS.zero_point=nan", "zero_point"), ("survey.bands.VIS.read_noise=-4", "read_noise"),
        ("survey.bands.VIS.depth=abc", "depth"), ("survey.bands=5", "survey.bands"),
        ("scenario.expect=5", "scenario.expect"), ("scenario.expect.arc_snr=abc", "scenario.expect.arc_snr"),
        ("scenario.select=5", "scenario.select"), ("scenario.number=1.5", "scenario.number"),
        ("scenario.attempts=.inf", "scenario.attempts"), ("scenario.label=5", "scenario.label"),
        ("scenario.keep_undetectable=abc", "scenario.keep_undetectable"), ("scenario.mix.star=nan", "scenario.mix"),
        ("scenario=5", "scenario"), ("population.galaxy_limit=abc", "population.galaxy_limit"),
        ("scene.source.limit=abc", "scene.source.limit"), ("scene.source.z='12'", "scene.source.z"),
        ("scene.source.images=5", "scene.source.images"), ("scene.neighbours.limit=null", "scene.neighbours.limit"),
        ("scene.mass.shear=5", "scene.mass.shear"), ("engine.device=abc", "engine.device"),
        ("engine.device=cuda:99", "engine.device"), ("engine.foo=1", "engine.foo"), ("engine.name=3", "engine.name"),
        ("engine.oversampling=2", "engine.oversampling"), ("planes=null", "planes"), ("planes=[5]", "planes"),
    ],
)  # fmt: skip
def test_hostile_settings_are_refused_before_a_folder_is_claimed(tmp_path: Path, override: str, named: str) -> None:
    keys, _, value = override.partition("=")
    plan: dict[str, Any] = {"n": 1, "seed": 0, "workers": 1, **settings("scenario=single_lens", FEW)}
    *folders, last = keys.split(".")
    place = plan | plan["scenario"] if folders and folders[0] in plan["scenario"] else plan
    for folder in folders:
        place = place[folder]
    place[last] = yaml.safe_load({"nan": ".nan"}.get(value, value))
    with pytest.raises(LensfindError) as raised:
        simulate(tmp_path / "set", **plan)
    assert named in raised.value.args[0] + raised.value.args[2]
    assert all(raised.value.args)
    assert not (tmp_path / "set").exists()


def test_without_a_depth_the_noise_is_ideal() -> None:
    plan = settings("survey.bands.VIS.depth=null")
    assert Survey.from_config(plan["survey"]).bands["VIS"].noise_scale(BANDS["VIS"]) == 1.0


def test_store_of_another_config_is_refused(tmp_path: Path) -> None:
    plan: dict[str, Any] = {"n": 2, "shard_size": 2, **settings("scenario=non_lens", FEW)}
    simulate(tmp_path / "set", seed=0, **plan)
    before = (tmp_path / "set" / "manifest.yaml").stat().st_mtime_ns
    simulate(tmp_path / "set", seed=0, **plan)
    assert (tmp_path / "set" / "manifest.yaml").stat().st_mtime_ns == before
    with pytest.raises(LensfindError, match="begun with another seed"):
        simulate(tmp_path / "set", seed=1, **plan)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("mine")
    with pytest.raises(LensfindError, match="other files"):
        simulate(tmp_path / "other", seed=0, **plan)
    for key, value in (("n", 0), ("shard_size", 0), ("workers", 0), ("slice", "5/4"), ("planes", ["FLAT"])):
        with pytest.raises(LensfindError, match=key):
            simulate(tmp_path / "new", **(plan | {"seed": 0, key: value}))


def test_default_folders_of_other_settings_do_not_meet() -> None:
    """Of what is in the folder already (scenario, n, seed), or changes no byte, nothing is added."""

    def folder(*overrides: str) -> str:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra_compose("simulate", overrides=list(overrides), return_hydra_config=True)
        run = OmegaConf.to_container(config.hydra.run, resolve=True)
        assert OmegaConf.select(config, "hydra.sweep.subdir") == run["dir"]
        return os.path.normpath(run["dir"])

    assert folder("n=7", "workers=2", "slice=1/2") == "simulations/training-n7-seed0"
    assert folder("scenario=twin", "seed=3", "output=DIR") == "DIR"
    assert folder("n=7", "scene.features=1.0") == "simulations/scene.features-1.0/training-n7-seed0"
    others = [folder(o) for o in ("scene.source.z=2", "scene.source.z=3", "shard_size=3", "planes=[ARC]")]
    assert len(set(others)) == 4


def test_real_galaxies_as_sources(tmp_path: Path) -> None:
    y, x = np.mgrid[:41, :41] - 20
    u, v = 0.8 * x + 0.6 * y, 0.8 * y - 0.6 * x
    hdu = fits.PrimaryHDU(np.exp(-((u / 6) ** 2 + (v / 4) ** 2) / 2).astype(np.float32))
    hdu.header["PIXSCALE"] = 0.03
    (tmp_path / "galaxies").mkdir()
    hdu.writeto(tmp_path / "galaxies" / "one.fits")
    plan = settings("scenario=single_lens", FEW, f"scene.source.images='{tmp_path / 'galaxies'}'")
    simulate(tmp_path / "set", n=2, seed=0, shard_size=2, **plan)
    store = Store(tmp_path / "set")
    assert (store.catalogue["label"] == 1).all()
    assert list(store.manifest["made_by"]["images"]) == ["one.fits"]
    half = np.sqrt(2 * np.log(2) * 6 * 4) * 0.03  # of a Gaussian
    np.testing.assert_allclose(store.catalogue["r_source"], half, rtol=0.03)
    np.testing.assert_allclose(store.catalogue["q_source"], 4 / 6, rtol=0.03)
    with pytest.raises(LensfindError, match="FITS images"):
        simulate(tmp_path / "none", n=2, seed=0, **settings("scenario=single_lens", f"scene.source.images={tmp_path}"))
    two = f"scene.source2.images='{tmp_path}'", f"scene.source.images='{tmp_path / 'galaxies'}'"
    with pytest.raises(LensfindError, match="one folder of galaxies"):
        simulate(tmp_path / "two", n=2, seed=0, **settings("scenario=double_ring", *two))
