"""Systems simulated per second: the plain lenstronomy way, and both engines.

    OMP_NUM_THREADS=1 python benchmarks/simulate.py [workers] [profile]

All render the same scenes in one run, four bands without noise:

- plain: as Wilde et al. 2022's notebook: for each system, one after the other, kcorrect photometry galaxy by galaxy,
  then one SimAPI image per band in native pixels without supersampling;
- engine=lenstronomy and engine=torch: photometry of all galaxies at once, one grid three times finer than VIS.

A scene of `training` is a lens with a clumpy source (every second one) or a galaxy; of `double_ring` a lens and two
sources, the nearer with a mass of its own; each with and without nine field galaxies, of which the notebook has none.
Rates are per CPU second of one process (what other programs do does not count) and, for torch, measured over
``workers`` processes by the clock.
"""

import cProfile
import pstats
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from joblib import Parallel, delayed
from lenstronomy.SimulationAPI.sim_api import SimAPI
from lenstronomy.Util.param_util import phi_q2_ellipticity

from lensfind.bands import BANDS
from lensfind.simulation.components import ROLES, Batch, Lights, Masses
from lensfind.simulation.cosmology import COSMOLOGY
from lensfind.simulation.engines import get_engine
from lensfind.simulation.instrument import Survey
from lensfind.simulation.photometry import REST_BAND, apparent_magnitudes, dirichlet_coefficients

SURVEY = Survey.from_config(yaml.safe_load((Path(__file__).parents[1] / "conf" / "survey" / "euclid.yaml").read_text()))
LENS, SOURCE, SOURCE2, _, FIELD = range(len(ROLES))


def scenes(kind: str, n: int, neighbours: int, seed: int) -> Batch:
    """``n`` scenes of ``kind``, with magnitudes drawn from kcorrect templates."""
    rng = np.random.default_rng([seed, neighbours])
    masses: list[dict[str, float]] = []
    lights: list[dict[str, float]] = []

    def light(i: int, role: int, z: float, r_e: float, index: float = 1.0, x: float = 0.0, y: float = 0.0) -> None:
        shape = {"q": rng.uniform(0.4, 1), "angle": rng.uniform(0, np.pi)}
        lights.append({"object": i, "role": role, "z": z, "x": x, "y": y, "r_e": r_e, "n": index, "colour": 0} | shape)

    for i in range(n):
        light(i, LENS, 0.5, rng.uniform(0.4, 1.0), 4.0)
        if kind == "double_ring" or i % 2:
            theta = rng.uniform(0.6, 2.0)
            e, gamma = rng.normal(0, 0.1, 2), rng.normal(0, 0.05, 2)
            masses.append({"object": i, "z": 0.5, "theta_e": theta, "e1": e[0], "e2": e[1]})
            masses[-1] |= {"gamma1": gamma[0], "gamma2": gamma[1]}
            x, y = rng.uniform(-0.4, 0.4, 2) * theta
            light(i, SOURCE, 1.2 if kind == "double_ring" else 2.0, rng.uniform(0.1, 0.4), 1.0, x, y)
            if kind == "double_ring":
                masses.append({"object": i, "z": 1.2, "theta_e": 0.2, "x": x, "y": y})
                light(i, SOURCE2, 2.0, rng.uniform(0.1, 0.4), 1.0, x + rng.normal(0, 0.1), y + rng.normal(0, 0.1))
            else:
                for _ in range(3):  # clumps
                    light(i, SOURCE, 2.0, 0.05, 0.5, x + rng.normal(0, 0.15), y + rng.normal(0, 0.15))
        for _ in range(neighbours):
            red = rng.random() < 0.2
            light(i, FIELD, np.nan, *((0.3, 4.0) if red else (0.2, 1.0)), *rng.uniform(-10, 10, 2))

    def columns(rows: list[dict[str, float]], names: Any) -> dict[str, Any]:
        integer = ("object", "role", "profile")
        return {
            key: np.array([row.get(key, 0) for row in rows], dtype=np.int64 if key in integer else np.float64)
            for key in names
            if key != "magnitudes"
        }

    magnitudes = np.zeros((len(lights), 4))
    batch = Batch(
        n,
        np.full(n, 2.0),
        Masses(**columns(masses, Masses.__annotations__)),
        Lights(**columns(lights, Lights.__annotations__), magnitudes=magnitudes),
    )
    magnitudes[:] = photometry_at_once(batch)
    return batch


def photometry_at_once(batch: Batch) -> Any:
    """Magnitudes (L, 4) of all lights together."""
    z = np.nan_to_num(batch.lights.z, nan=0.7)
    coefficients = dirichlet_coefficients(np.random.default_rng(0), "red", z)
    return apparent_magnitudes(coefficients, z, np.full(len(z), -21.5), "red")


def photometry_per_galaxy(z: float) -> Any:
    """One galaxy's four magnitudes by SkyPy's own calls."""
    from skypy.galaxies.spectrum import kcorrect

    coefficients = dirichlet_coefficients(np.random.default_rng(0), "red", np.array([z]))
    mass = kcorrect.stellar_mass(coefficients, np.array([-21.5]), REST_BAND["red"])
    bands = [f"Euclid-{band}" for band in BANDS]
    return kcorrect.apparent_magnitudes(coefficients, np.array([z]), bands, COSMOLOGY, stellar_mass=mass)


def plain(batch: Batch) -> None:
    """The notebook's way: everything one by one."""
    masses, lights = batch.masses, batch.lights
    for i in range(batch.n_objects):
        mine, of = np.flatnonzero(lights.object == i), np.flatnonzero(masses.object == i)
        for k in mine:
            if not (lights.role[k] == SOURCE and lights.n[k] == 0.5):  # clumps have their galaxy's colours
                photometry_per_galaxy(float(np.nan_to_num(lights.z[k], nan=0.7)))
        lensed = [k for k in mine if len(of) and lights.z[k] > masses.z[of].min()]
        bare = [k for k in mine if k not in lensed]
        lens: list[dict[str, Any]] = []
        for m in of:
            lens.append({"theta_E": masses.theta_e[m], "e1": masses.e1[m], "e2": masses.e2[m]})
            lens[-1] |= {"center_x": masses.x[m], "center_y": masses.y[m]}
            lens.append({"gamma1": masses.gamma1[m], "gamma2": masses.gamma2[m]})
        model: dict[str, Any] = {
            "lens_model_list": ["SIE", "SHEAR"] * len(of),
            "source_light_model_list": ["SERSIC_ELLIPSE"] * len(lensed),
            "lens_light_model_list": ["SERSIC_ELLIPSE"] * len(bare),
        }
        if len(of) > 1:
            model |= {"lens_redshift_list": list(np.repeat(masses.z[of], 2)), "z_source_convention": 2.0}
            model |= {"source_redshift_list": list(lights.z[lensed]), "z_source": 2.0, "cosmo": COSMOLOGY}
        for j, (name, band) in enumerate(BANDS.items()):
            one = SURVEY.bands[name]
            camera = {"read_noise": one.read_noise, "pixel_scale": band.pixel_scale, "ccd_gain": 1.0}
            camera |= {"exposure_time": one.exposure_time, "sky_brightness": one.sky, "seeing": one.psf_fwhm}
            camera |= {"magnitude_zero_point": one.zero_point, "num_exposures": one.exposures, "psf_type": "GAUSSIAN"}
            api = SimAPI(band.size, camera, model)
            kwargs = []
            for some in (bare, lensed):
                kwargs.append([])
                for k in some:
                    e1, e2 = phi_q2_ellipticity(lights.angle[k], lights.q[k])
                    kwargs[-1].append({"magnitude": lights.magnitudes[k, j], "R_sersic": lights.r_e[k], "e1": e1})
                    kwargs[-1][-1] |= {"n_sersic": lights.n[k], "e2": e2, "center_x": lights.x[k]}
                    kwargs[-1][-1] |= {"center_y": lights.y[k]}
            lens_light, source, _ = api.magnitude2amplitude(kwargs[0], kwargs[1])
            api.image_model_class({"supersampling_factor": 1}).image(lens, source, lens_light)


def by_engine(name: str) -> Callable[[Batch], None]:
    render = get_engine(name)

    def run(batch: Batch) -> None:
        photometry_at_once(batch)
        render(batch, SURVEY, list(BANDS), roles=[ROLES[k] for k in np.unique(batch.lights.role)])

    return run


def rate(run: Callable[[Batch], None], batch: Batch, repeats: int = 1) -> float:
    """Systems per CPU second of this process, the best of ``repeats``."""
    run(batch.take(np.arange(2)))  # imports, tables, caches
    best = 0.0
    for _ in range(repeats):
        start = time.process_time()
        run(batch)
        best = max(best, batch.n_objects / (time.process_time() - start))
    return best


def _worker(kind: str, neighbours: int, seed: int) -> int:
    by_engine("torch")(scenes(kind, 128, neighbours, seed))
    return 128


def main(workers: int, profile: bool) -> None:
    warnings.simplefilter("ignore")
    print(f"{'systems per CPU second':34s} {'plain':>7s} {'lenstronomy':>12s} {'torch':>7s} {'torch/plain':>12s}")
    for kind in ("training", "double_ring"):
        for neighbours in (0, 9):
            many = scenes(kind, 128, neighbours, 1)
            slow = rate(plain, many.take(np.arange(6)))
            middle = rate(by_engine("lenstronomy"), many.take(np.arange(4)))
            fast = rate(by_engine("torch"), many, 3)
            name = f"{kind}, {neighbours} neighbours"
            print(f"{name:34s} {slow:7.1f} {middle:12.1f} {fast:7.0f} {fast / slow:12.1f}", flush=True)
    with Parallel(n_jobs=workers) as pool:
        pool(delayed(_worker)("training", 9, k) for k in range(workers))
        start = time.perf_counter()
        done = sum(pool(delayed(_worker)("training", 9, k) for k in range(2 * workers)))
        print(
            f"torch, training, 9 neighbours, {workers} processes: {done / (time.perf_counter() - start):.0f} systems/s"
        )
    if profile:
        watch = cProfile.Profile()
        watch.runcall(by_engine("torch"), scenes("training", 128, 9, 1))
        pstats.Stats(watch).sort_stats("tottime").print_stats(14)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2, "profile" in sys.argv)
