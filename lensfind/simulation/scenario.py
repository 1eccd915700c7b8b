"""Scenario: what to draw, checked; made from the keys scenario, population and scene of ``conf/scenario/*.yaml``."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from lensfind.errors import LensfindError
from lensfind.simulation.settings import Range, build, check_least, check_number, check_range, check_shares

__all__ = ["KINDS", "SYSTEMS", "Deflectors", "Neighbours", "Scenario", "Sources"]

SYSTEMS = ("lens", "compound_arc", "double_ring", "deflector", "outside")
"""Kinds around a deflector of the lens population: one mass and one source; two masses; two sources; the lens galaxy
without any source; a source so far off the axis that it lies outside the caustic and has one image."""

KINDS = (
    *SYSTEMS,
    "twin",
    "elliptical",
    "disc",
    "spiral",
    "ring",
    "merger",
    "edge_on",
    "satellites",
    "star",
)
"""All kinds: further twins (a lens again, its source removed) and galaxies that are no lenses."""

WEIGHTINGS = ("uniform_theta_e", "cross_section")


@dataclass(frozen=True)
class Deflectors:
    """``population.deflector`` and ``population.middle``. ``sigma_v`` [low, high] km/s; ``z`` [low, high]; ``q``,
    ``r_e`` (arcsec) and ``magnitude`` (VIS): [low, high] instead of the population's, or None."""

    sigma_v: Range
    z: Range
    q: Range | None
    r_e: Range | None
    magnitude: Range | None


@dataclass(frozen=True)
class Mass:
    """``scene.mass``. ``shear``: sigma of each external component; ``axis_scatter`` deg and ``ellipticity_scatter``: of
    the mass about the light's."""

    shear: float
    axis_scatter: float
    ellipticity_scatter: float


@dataclass(frozen=True)
class Sources:
    """``scene.source`` and ``scene.source2``.

    ``limit``: unlensed B + distance modulus, AB mag; ``z`` [low, high]; ``impact`` [low, high]: distance from the
    optical axis in Einstein radii, uniform in the annulus; ``template``: "blue" or "red" colours; ``r_e``, ``q``,
    ``magnitude`` (VIS) as in :class:`Deflectors`; ``structure``: shares of smooth, clumpy and spiral sources;
    ``images``: folder of FITS images of real galaxies to take the place of all three, or None.
    """

    limit: float
    z: Range
    impact: Range
    template: str
    r_e: Range | None
    q: Range | None
    magnitude: Range | None
    structure: Mapping[str, float]
    images: str | None


@dataclass(frozen=True)
class Neighbours:
    """``scene.neighbours``: what else is in the stamp, alike for every kind. ``limit``: of field galaxies, r or B +
    distance modulus; ``satellites``, ``stars``: mean number per stamp; ``star_magnitude`` VIS [low, high]."""

    limit: float
    satellites: float
    stars: float
    star_magnitude: Range


@dataclass(frozen=True)
class Population:
    """``population``. ``weighting``: lens-source pairs uniform in theta_E ("uniform_theta_e", for training) or by
    number times cross-section theta_E^2 ("cross_section"), theta_E within ``theta_e`` [arcsec]; ``galaxy_limit``:
    magnitude limit of ordinary central galaxies (r or B + distance modulus)."""

    weighting: str
    theta_e: Range
    deflector: Deflectors
    middle: Deflectors
    galaxy_limit: float


@dataclass(frozen=True)
class SceneSettings:
    """``scene``. ``middle_offset``: of the middle galaxy from the axis in theta_E (compound_arc); ``features``: radii
    in arcsec of spiral arms, rings, tails."""

    mass: Mass
    source: Sources
    source2: Sources
    middle_offset: Range
    features: Range
    neighbours: Neighbours


@dataclass(frozen=True)
class Scenario:
    """What to draw.

    ``number`` is the scenario's address in the seeds. ``mix``: share of each of :data:`KINDS`. ``label``: the rule over
    catalogue columns that makes class 1. ``keep_undetectable``: keep lenses that fail the rule (label 0, kind as drawn)
    instead of drawing again. ``expect``: least ``arc_snr`` and ``contrast`` that an analytic estimate must promise
    before an arc is rendered at all. ``select``: {column: number or [low, high]}, further demands on columns that
    are known or measured before acceptance. ``attempts``: draws per object before giving up.
    """

    name: str
    number: int
    mix: Mapping[str, float]
    label: str
    keep_undetectable: bool
    expect: Mapping[str, float]
    select: Mapping[str, Any]
    attempts: int
    population: Population
    scene: SceneSettings

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Scenario":
        """Checked scenario of a plain nested mapping ``{scenario: ..., population: ..., scene: ...}``.

        Raises:
            LensfindError: A key is unknown or missing, or a value is impossible.
        """
        if not isinstance(config, Mapping) or not {"scenario", "population", "scene"} <= set(config):
            raise LensfindError(
                "a scenario with the keys scenario, population and scene", f"{config!r:.80}", "See conf/scenario."
            )
        parts = {"population": config["population"], "scene": config["scene"]}
        for key in ("scenario", "population", "scene"):
            _mapping(key, config[key])
        raw = build(cls, {**config["scenario"], **parts}, "scenario")
        _mapping("scenario.select", raw.select)
        if not isinstance(raw.keep_undetectable, bool):
            raise LensfindError(
                "scenario.keep_undetectable true or false",
                repr(raw.keep_undetectable),
                "Set scenario.keep_undetectable=false.",
            )
        mix = check_shares("scenario.mix", raw.mix, KINDS)
        if mix["twin"] > mix["lens"] + 1e-9:
            raise LensfindError(
                "scenario.mix with at least as many lenses as twins, which are made of them",
                f"lens {mix['lens']}, twin {mix['twin']}",
                "Lower scenario.mix.twin.",
            )
        check_least("scenario.attempts", raw.attempts, 1, whole=True)
        check_least("scenario.number", raw.number, 0, whole=True)
        if not isinstance(raw.expect, Mapping) or set(raw.expect) != {"arc_snr", "contrast"}:
            raise LensfindError(
                "scenario.expect with arc_snr and contrast", str(raw.expect), "Set both; 0 asks nothing."
            )
        for key, value in raw.expect.items():
            check_least(f"scenario.expect.{key}", value, 0)
        return replace(
            raw,
            mix=mix,
            expect={key: float(value) for key, value in raw.expect.items()},
            select={key: check_range(f"scenario.select.{key}", v, -1e9, 1e9) for key, v in raw.select.items()},
            population=_population(config["population"]),
            scene=_scene(config["scene"]),
        )


def _mapping(where: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise LensfindError(f"{where} as a mapping of keys to values", repr(value), f"Mend {where}, see conf/scenario.")


_LIMITS = (0.0, 40.0)  # magnitude limits; a bright one is how to have no field galaxies
_SCATTER = {"shear": 0.5, "axis_scatter": 180.0, "ellipticity_scatter": 0.5}
_BOUNDS = {"q": (0.05, 1.0), "r_e": (0.01, 10.0), "magnitude": (10.0, 32.0)}


def _ranges(one: Any, where: str, **bounds: Range) -> Any:
    """``one`` with its ranges checked; those of ``_BOUNDS`` may be None."""
    checked = {key: check_range(f"{where}.{key}", getattr(one, key), *limits) for key, limits in bounds.items()}
    names = {field.name for field in fields(one)}
    for key, limits in _BOUNDS.items():
        if key in names and getattr(one, key) is not None:
            checked[key] = check_range(f"{where}.{key}", getattr(one, key), *limits)
    return replace(one, **checked)


def _population(config: Mapping[str, Any]) -> Population:
    raw = build(Population, config, "population")
    if raw.weighting not in WEIGHTINGS:
        raise LensfindError(
            f"population.weighting out of {', '.join(WEIGHTINGS)}",
            str(raw.weighting),
            f"Set population.weighting={WEIGHTINGS[0]}.",
        )
    check_number("population.galaxy_limit", raw.galaxy_limit, *_LIMITS)
    both = {
        key: _ranges(
            build(Deflectors, config[key], f"population.{key}"),
            f"population.{key}",
            sigma_v=(0.0 if key == "middle" else 50.0, 500.0),
            z=(0.02, 2.0),  # to which the velocity dispersion function is taken
        )
        for key in ("deflector", "middle")
    }
    return replace(raw, theta_e=check_range("population.theta_e", raw.theta_e, 0.05, 5.0), **both)


def _scene(config: Mapping[str, Any]) -> SceneSettings:
    raw = build(SceneSettings, config, "scene")
    mass = build(Mass, config["mass"], "scene.mass")
    for key, most in _SCATTER.items():
        check_number(f"scene.mass.{key}", getattr(mass, key), 0.0, most)
    neighbours = build(Neighbours, config["neighbours"], "scene.neighbours")
    check_number("scene.neighbours.limit", neighbours.limit, *_LIMITS)
    check_least("scene.neighbours.satellites", neighbours.satellites, 0)
    check_least("scene.neighbours.stars", neighbours.stars, 0)
    stars = check_range("scene.neighbours.star_magnitude", neighbours.star_magnitude, 10.0, 32.0)
    near, far = _source(config["source"], "scene.source"), _source(config["source2"], "scene.source2")
    folders = {near.images, far.images} - {None}
    if len(folders) > 1:
        raise LensfindError(
            "one folder of galaxies for both sources",
            f"scene.source.images={near.images}, scene.source2.images={far.images}",
            "Set scene.source2.images to that of scene.source, or one of them to null.",
        )
    return replace(
        raw,
        mass=mass,
        source=near,
        source2=far,
        middle_offset=check_range("scene.middle_offset", raw.middle_offset, 0.0, 5.0),
        features=check_range("scene.features", raw.features, 0.1, 8.0),
        neighbours=replace(neighbours, star_magnitude=stars),
    )


def _source(config: Mapping[str, Any], where: str) -> Sources:
    raw = build(Sources, config, where)
    if raw.template not in ("blue", "red"):
        raise LensfindError(f"{where}.template blue or red", str(raw.template), f"Set {where}.template=blue.")
    check_number(f"{where}.limit", raw.limit, *_LIMITS)
    if raw.images is not None and not isinstance(raw.images, str):
        raise LensfindError(
            f"{where}.images as a folder of FITS images, or null", repr(raw.images), f"Set {where}.images=null."
        )
    checked: Sources = _ranges(raw, where, z=(0.02, 5.0), impact=(0.0, 10.0))
    return replace(checked, structure=check_shares(f"{where}.structure", raw.structure, ("smooth", "clumpy", "spiral")))
