"""Scenarios: what is drawn, that everything can be made again, that the rare configurations are physically right."""

import filecmp
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from omegaconf import OmegaConf
from scipy.stats import kstest

from lensfind import apps
from lensfind.bands import BANDS
from lensfind.data.catalogue import assign_splits, lens_labels
from lensfind.data.store import Store, verify
from lensfind.errors import LensfindError
from lensfind.simulation import again, simulate
from lensfind.simulation.columns import COLUMNS, catalogue
from lensfind.simulation.components import ROLES
from lensfind.simulation.draws import Uniforms
from lensfind.simulation.engines import get_engine
from lensfind.simulation.instrument import Survey
from lensfind.simulation.negatives import NEGATIVES, surroundings
from lensfind.simulation.objects import NUMBERS, Objects, draw_kinds, simulate_objects
from lensfind.simulation.parts import Parts
from lensfind.simulation.scenario import KINDS, Scenario
from lensfind.simulation.scenes import attempt_numbers
from lensfind.simulation.systems import compose as add_system
from lensfind.simulation.systems import double_ratio, propose
from lensfind.simulation.systems import expected as promising
from tests.conftest import compose

FEW = "scene.neighbours.limit=23"
ENGINE = {"name": "torch", "device": "cpu", "oversampling": 3}


def settings(*overrides: str) -> dict[str, Any]:
    """scenario, survey and engine as simulate() takes them, of a command line."""
    config: Any = OmegaConf.to_container(compose("simulate", *overrides, "output_dir=x"), resolve=False)
    whole = {key: config[key] for key in ("scenario", "population", "scene")}
    return {"scenario": whole, "survey": config["survey"], "engine": config["engine"]}


def scenario(*overrides: str) -> Scenario:
    return Scenario.from_config(settings(*overrides)["scenario"])


@pytest.fixture(scope="module")
def survey() -> Survey:
    return Survey.from_config(settings()["survey"])


def draw(plan: Scenario, kind: str, n: int, seed: int = 0) -> Any:
    """Possible proposals of a kind."""
    draws = Uniforms(np.random.default_rng(seed).random((n, NUMBERS)))
    system, reasons = propose(kind, draws, plan)
    good = np.flatnonzero(reasons.texts == "")
    return system.take(good), draws.take(good)


# --- populations


def test_uniform_theta_e_is_uniform_and_cross_section_is_a_survey() -> None:
    plan = scenario("scenario=training")
    system, _ = draw(plan, "lens", 1500)
    assert len(system.centre) > 500
    assert kstest(system.values["theta_e"], "uniform", args=(0.5, 2.0)).pvalue > 0.01
    assert (system.source.z > system.centre.z).all()
    assert (np.hypot(system.source.x, system.source.y) <= system.values["theta_e"]).all()
    natural, _ = draw(scenario("scenario=single_lens"), "lens", 1500)
    # Collett 2015's Euclid lenses: theta_E 0.64 +- 0.42, sigma_v 217 +- 51 (before the label's selection)
    assert np.median(natural.values["theta_e"]) == pytest.approx(0.64, abs=0.2)
    assert np.median(natural.centre.sigma_v) == pytest.approx(217, abs=30)


def test_stress_axes_from_the_command_line() -> None:
    plan = scenario("scenario=single_lens", "population.deflector.sigma_v=[250,350]", "scene.source.z=2")
    system, _ = draw(plan, "lens", 300)
    assert 250 <= system.centre.sigma_v.min() <= system.centre.sigma_v.max() <= 350
    assert system.source.z == pytest.approx(2.0)
    plan = scenario(
        "population.deflector.sigma_v=300", "population.deflector.z=0.5", "scene.source.z=2", "scene.source.impact=0",
        "scene.source.template=red", "scene.source.magnitude=22", "scene.source.q=[0.9,1]",
        "population.deflector.q=0.8",
    )  # fmt: skip
    system, _ = draw(plan, "lens", 100)
    assert np.ptp(system.values["theta_e"]) == pytest.approx(0)  # everything that makes it is fixed
    assert system.source.magnitudes[:, 3] == pytest.approx(22)
    assert system.centre.q == pytest.approx(0.8)
    assert system.source.q.min() >= 0.9
    assert np.abs(system.source.x).max() == 0


def test_impossible_demands_are_named() -> None:
    with pytest.raises(LensfindError, match="behind its lens"):
        draw(scenario("population.deflector.z=[1,1.5]", "scene.source.z=[0.1,0.5]"), "lens", 4)
    for override, message in (
        ("scenario.mix.lens=0.9", "add up to 1"),
        ("population.weighting=none", "population.weighting"),
        ("population.theta_e=[2,1]", "population.theta_e"),
        ("scenario.attempts=0", "scenario.attempts"),
        ("+scene.colour=3", "unknown colour"),
        ("scene.source.template=green", "blue or red"),
        ("scenario.mix={lens: 0.2, twin: 0.36}", "as many lenses as twins"),
        ("population.middle.z=[2.2,3.0]", r"population\.middle\.z .* within 0\.02 to 2; got \[2\.2, 3\.0\]"),
    ):
        with pytest.raises(LensfindError, match=message):
            scenario(override)


def test_every_range_may_be_one_number(survey: Survey) -> None:
    system, _ = draw(scenario("scenario=compound_arc", "population.middle.z=0.9"), "compound_arc", 100)
    assert len(system.centre) > 5
    assert system.second.z == pytest.approx(0.9)
    system, _ = draw(scenario("scenario=double_ring", "scene.source2.z=2.5"), "double_ring", 100)
    assert len(system.centre) > 5
    assert system.second.z == pytest.approx(2.5)


def test_the_commonest_reason_is_told_when_draws_run_out(survey: Survey) -> None:
    plan = scenario("scenario=single_lens", FEW, "scenario.attempts=3", "+scenario.select={mag_lens: 5}")
    proposed = propose("lens", Uniforms(attempt_numbers(0, plan, 4, 0)), plan)
    promising(proposed[0], plan, survey, proposed[1])
    reasons = [text or "mag_lens outside scenario.select.mag_lens" for text in proposed[1].texts]
    text, times = Counter(reasons).most_common(1)[0]
    assert text != reasons[-1]
    with pytest.raises(LensfindError, match=re.escape(f"only rejected ones, {times / 16:.0%} of them for: {text}.")):
        simulate_objects(0, [4], plan, survey, get_engine(**ENGINE))


def test_kinds_come_in_their_shares_and_twins_behind_their_lenses() -> None:
    plan = scenario("scenario=training")
    kinds, origins = draw_kinds(3, range(6000), plan)
    for kind in KINDS:
        share = plan.mix[kind]
        assert kinds.count(kind) / 6000 == pytest.approx(share, abs=4 * np.sqrt(max(share, 1e-4) / 6000))
    for index, (kind, origin) in enumerate(zip(kinds, origins, strict=True)):
        assert origin == (index - 1 if kind == "twin" else index)
        assert kind != "twin" or kinds[origin] == "lens"


def test_surroundings_have_their_density_and_know_no_kind() -> None:
    plan = scenario()
    addresses = [(0, i, 2) for i in range(300)]
    parts = Parts()
    field, satellites, stars = surroundings(0, plan, addresses, np.full(300, 0.5), parts)
    assert np.mean(field) == pytest.approx(9, abs=1.5)
    assert np.mean(satellites) == pytest.approx(0.4, abs=0.12)
    assert np.mean(stars) == pytest.approx(0.25, abs=0.1)
    lights = parts.batch(300, np.ones(300)).lights
    assert len(lights) == (field + satellites + stars).sum()
    assert set(lights.role.tolist()) == {ROLES.index("field")}


# --- rare configurations


def test_double_ring_radii_follow_beta(survey: Survey) -> None:
    """Without a mass in the middle, two coaxial sources make rings whose radii have the ratio beta, to 1 %."""
    plan = scenario(
        "scenario=double_ring", "population.middle.sigma_v=0", "scene.source.impact=0", "scene.source2.impact=0",
        "scene.mass.shear=0", "scene.mass.ellipticity_scatter=0", "population.deflector.q=1",
        "scene.source.r_e=0.05", "scene.source2.r_e=0.05", "scene.source.q=1", "scene.source2.q=1",
        "scene.source.structure={smooth: 1, clumpy: 0, spiral: 0}",
        "scene.source2.structure={smooth: 1, clumpy: 0, spiral: 0}",
    )  # fmt: skip
    system, draws = draw(plan, "double_ring", 40)
    some = np.arange(6)
    system, draws = system.take(some), draws.take(some)
    assert (system.values["mass_2"] == 0).all()
    parts = Parts()
    add_system(system, draws, plan, (), parts, some)
    planes = get_engine(**ENGINE)(parts.batch(6, system.z_convention), survey, ["VIS"], roles=["source", "source2"])
    axis = (np.arange(200) - 99.5) * 0.1
    radius = np.hypot(*np.meshgrid(axis, axis))
    rings = {role: [np.average(radius, weights=image) for image in planes[role]["VIS"]] for role in planes}
    measured = np.array(rings["source"]) / np.array(rings["source2"])
    beta = double_ratio(system.centre.z, system.source.z, system.second.z)
    np.testing.assert_allclose(measured, beta, rtol=0.01)
    np.testing.assert_allclose(system.values["beta"], beta, rtol=1e-6)


def test_compound_arcs_have_their_parts_at_their_redshifts() -> None:
    plan = scenario("scenario=compound_arc")
    system, draws = draw(plan, "compound_arc", 60)
    n = len(system.centre)
    assert (system.centre.z < system.second.z).all()
    assert (system.second.z < system.source.z).all()
    parts = Parts()
    add_system(system, draws, plan, (), parts, np.arange(n))
    batch = parts.batch(n, system.z_convention)
    assert np.bincount(batch.masses.object).tolist() == [2] * n
    middle = batch.lights.role == ROLES.index("middle")
    assert batch.lights.z[middle] == pytest.approx(system.second.z)  # lensed by the front galaxy
    assert np.isnan(batch.lights.z[batch.lights.role == ROLES.index("lens")]).all()
    source = batch.lights.role == ROLES.index("source")  # clumps and all: the magnitude is that of the catalogue
    flux = np.bincount(batch.lights.object[source], 10 ** (-0.4 * batch.lights.magnitudes[source, 3]), n)
    np.testing.assert_allclose(-2.5 * np.log10(flux), system.source.magnitudes[:, 3], atol=1e-9)


@pytest.mark.parametrize("kind", list(NEGATIVES))
def test_hard_negatives_have_lights_and_no_mass(kind: str) -> None:
    parts, draws = Parts(), Uniforms(np.random.default_rng(4).random((40, NUMBERS)))
    centre, radius = NEGATIVES[kind](draws, scenario(), parts, np.arange(40))
    batch = parts.batch(40, np.ones(40))
    assert len(batch.masses) == 0
    assert set(batch.lights.object.tolist()) == set(range(40))
    assert np.isfinite(batch.lights.magnitudes).all()
    assert (batch.lights.r_e > 0).all()
    assert len(centre) == 40
    flux = np.stack([np.bincount(batch.lights.object, 10 ** (-0.4 * band), 40) for band in batch.lights.magnitudes.T])
    drawn = -2.5 * np.log10(flux.T)
    alone = np.isnan(radius)  # an edge-on disc beside a red galaxy is no part of it
    if kind in ("elliptical", "disc", "spiral", "ring", "edge_on"):
        whole = alone if kind == "edge_on" else np.full(40, True)
        np.testing.assert_allclose(centre.magnitudes[whole], drawn[whole], atol=0.01)
        assert (centre.magnitudes > drawn - 0.01).all()
    else:
        assert (centre.magnitudes > drawn).all()
    if kind in ("spiral", "ring", "merger", "satellites", "star"):
        assert np.isfinite(radius).all()


# --- objects and stores


@pytest.fixture(scope="module")
def twins(survey: Survey) -> Objects:
    return simulate_objects(0, range(4), scenario("scenario=twin", FEW), survey, get_engine(**ENGINE))


def test_a_twin_is_its_lens_without_the_source(twins: Objects) -> None:
    assert twins.rows["kind"].tolist() == ["lens", "twin"] * 2
    assert twins.rows["pair"].tolist() == [0, 0, 2, 2]
    assert twins.rows["id"].tolist() == [0, 1, 2, 3]
    for band in BANDS:
        lens, twin = twins.stamps[band][0].astype(float), twins.stamps[band][1].astype(float)
        light = twins.noiseless[band][0] - twins.noiseless[band][1].astype(float)
        dark = light < 1e-9 + 1e-6 * light.max()
        np.testing.assert_allclose(lens[dark], twin[dark], atol=1e-4)  # the same noise where there is no arc
        assert abs((lens - twin).sum() - light.sum()) < 0.3 * light.sum()
    assert (twins.arc[1] == 0).all()
    assert twins.arc[0].max() > 0
    assert np.isnan(twins.rows["theta_e"][1])
    assert twins.rows["z_lens"][0] == twins.rows["z_lens"][1]


def test_pairs_come_into_one_split(twins: Objects) -> None:
    table = catalogue([twins.rows] * 30, "arc_snr > 0")
    table["pair"] = np.repeat(np.arange(60), 2)
    split = {"kind": "fraction", "train": 0.6, "val": 0.2, "test": 0.2}
    parts = assign_splits(np.asarray(table["label"]), split, table)
    assert (parts[0::2] == parts[1::2]).all()
    assert sorted(set(parts.tolist())) == ["test", "train", "val"]
    table["pair"] = -1
    assert (assign_splits(np.asarray(table["label"]), split, table)[0::2] != parts[0::2]).any()


def test_rows_labels_and_rejects(survey: Survey) -> None:
    plan = scenario("scenario=training", FEW)
    made = simulate_objects(0, range(24), plan, survey, get_engine(**ENGINE))
    table = catalogue([made.rows], plan.label)
    assert set(COLUMNS) < set(table.colnames)
    assert str(table["theta_e"].unit) == "arcsec"
    assert len(set(table["kind"])) > 4
    assert (table["label"] == (table["kind"] == "lens")).all()
    assert (table["label"] == lens_labels(table, plan.label)).all()
    own = table["kind"] != "twin"
    assert [len(lines) for lines in made.rejects] == list(np.where(own, table["attempt"], 0))
    reasons = {reason.split(":")[0] for lines in made.rejects for _, reason in lines}
    assert {"source in front of lens", "lens not detectable"} <= reasons
    lens = table["label"] == 1
    total = made.arc[lens].sum(axis=(1, 2), dtype=float)
    expected = survey.bands["VIS"].flux(table["mag_source"][lens]) * table["mag_eff"][lens]
    np.testing.assert_allclose(total, expected, rtol=1e-4)


def test_undetectable_lenses_keep_their_kind_and_hopeless_demands_end(survey: Survey) -> None:
    plan = scenario("scenario=single_lens", FEW, "scenario.keep_undetectable=true")
    made = simulate_objects(3, range(8), plan, survey, get_engine(**ENGINE))
    table = catalogue([made.rows], plan.label)
    assert set(table["kind"]) == {"lens"}
    assert 0 in table["label"]
    far = scenario("scenario=single_lens", "scene.source.z=[4.1,5]", "scenario.attempts=3")
    with pytest.raises(LensfindError, match=r"source beyond z = 3\.97"):
        simulate_objects(0, [0], far, survey, get_engine(**ENGINE))
    bright = replace(scenario("scenario=training", FEW), select={"mag_eff": (8.0, 1e3)})
    bright = replace(bright, mix={kind: float(kind == "lens") for kind in KINDS})
    assert simulate_objects(0, range(3), bright, survey, get_engine(**ENGINE)).rows["mag_eff"].min() >= 8


def test_select_asks_what_is_measured_after_it_is_measured(survey: Survey) -> None:
    """Also of whole numbers, which have no NaN for "not yet"; kinds without the column pass."""
    plan = scenario("scenario=twin", FEW, "+scenario.select={n_source_im: 4, n_pix_source: [100, 5000]}")
    rows = simulate_objects(0, range(4), plan, survey, get_engine(**ENGINE)).rows
    lens = rows["kind"] == "lens"
    assert (rows["n_source_im"][lens] == 4).all()
    assert (rows["n_pix_source"][lens] >= 100).all()
    plan = scenario("scenario=double_ring", FEW, "+scenario.select={n_pix_source_2: [100, 5000], collett: 1}")
    rows = simulate_objects(0, [0], plan, survey, get_engine(**ENGINE)).rows
    assert rows["n_pix_source_2"][0] >= 100
    assert rows["collett"][0] == 1
    mixed = scenario(
        "scenario=non_lens", FEW, "+scenario.select={n_source_im: 4, q_lens: [0.7, 1]}", "scenario.mix.outside=0",
        "scenario.mix.elliptical=0.28",
    )  # fmt: skip
    rows = simulate_objects(0, range(6), mixed, survey, get_engine(**ENGINE)).rows
    assert (rows["q_lens"] >= 0.7).all()


def same(one: Path, two: Path) -> None:
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    assert filecmp.cmpfiles(one, two, names, shallow=False) == (names, [], [])


def test_store_is_the_same_for_workers_slices_and_after_a_kill(tmp_path: Path) -> None:
    plan: Mapping[str, Any] = {
        "n": 14, "seed": 11, "shard_size": 3, "planes": ["ARC", "MASK"], **settings("scenario=training", FEW)
    }  # fmt: skip
    assert simulate(tmp_path / "one", workers=1, **plan)
    for workers in (2, 4):
        simulate(tmp_path / f"workers{workers}", workers=workers, **plan)
        same(tmp_path / "one", tmp_path / f"workers{workers}")
    assert [simulate(tmp_path / "slices", slice=f"{k}/3", **plan) for k in (3, 1, 2)] == [False, False, True]
    same(tmp_path / "one", tmp_path / "slices")
    for name in ("manifest.yaml", "shard-00001.fits", "shard-00004.fits"):  # as if killed
        (tmp_path / "slices" / name).unlink()
    (tmp_path / "slices" / ".shard-00004.fits.123").write_bytes(b"half")
    simulate(tmp_path / "slices", workers=2, **plan)
    same(tmp_path / "one", tmp_path / "slices")

    store = Store(tmp_path / "one")
    assert not verify(tmp_path / "one")
    assert list(store.catalogue["id"]) == list(range(14))
    assert store.planes == ("ARC", "MASK")
    planes = store.read(range(14), ["ARC", "MASK"])
    assert ((planes["MASK"] > 0).sum(axis=(1, 2)) >= store.catalogue["n_pix_source"]).all()
    for i in (5, 13):  # any row again, by itself
        alone = again(tmp_path / "one", [i])
        for name, stamp in store.read([i], list(BANDS)).items():
            assert stamp[0].tobytes() == alone.stamps[name][0].tobytes()
    with pytest.raises(LensfindError, match="ids from 0 to 13"):
        again(tmp_path / "one", [99])


@pytest.mark.parametrize("name", ["training", "compound_arc", "double_ring"])
def test_an_object_is_the_same_in_any_company(survey: Survey, name: str) -> None:
    """Stamps, columns and rejects, bit by bit: PSF products of many tiles at once would show here."""
    plan, engine = scenario(f"scenario={name}"), get_engine(**ENGINE)
    together = simulate_objects(0, range(12), plan, survey, engine)
    for i in (3, 10):
        alone = simulate_objects(0, [i], plan, survey, engine)
        for band in BANDS:
            assert alone.stamps[band][0].tobytes() == together.stamps[band][i].tobytes()
        for column in COLUMNS:
            np.testing.assert_array_equal(alone.rows[column][0], together.rows[column][i])
        assert alone.rejects[0] == together.rejects[i]


def test_app_draws_pictures_and_exports_the_challenge(tmp_path: Path) -> None:
    from lensfind.data.layout import find_layout
    from lensfind.data.truth import read_truth

    root = tmp_path / "set"
    apps.simulate(
        compose("simulate", "n=6", FEW, "shard_size=3", "workers=1", "export=challenge", f"output_dir={root}")
    )
    for name in ("mosaic.png", "bands.png", "distributions.png"):
        assert (root / name).stat().st_size > 5000
    found = find_layout(root / "challenge")
    assert set(found.images) == set(BANDS)
    lines = found.truth.read_text().splitlines()
    assert 26 <= sum(line.startswith("#") for line in lines) <= 28
    truth = read_truth(found.truth)
    assert len(truth.table) == 6
    assert not truth.rejects
    store = Store(root)
    image = fits.getdata(found.images["VIS"] / "imageEUC_VIS-1.fits")
    assert (np.asarray(image) == store.read([0], ["VIS"])["VIS"][0]).all()
