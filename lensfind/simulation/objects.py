"""Objects from their addresses: proposals -> components -> images -> detection -> noise, and their catalogue rows.

Object ``index`` of a scenario draws from ``SeedSequence(seed, spawn_key=(scenario number, index, stream, ...))``:
stream 0 is the kind, 1 the physics of each block of attempts, 2 the surroundings, 3 the noise of each band, 4 that of
the arc's own photons. So any object is made again alone, in any order and company, and its noise and neighbours stay
when its physics change. A twin has the address of its lens.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from lensfind.bands import BANDS
from lensfind.data.catalogue import lens_labels
from lensfind.errors import LensfindError
from lensfind.simulation.columns import COLUMNS, blank, centre_columns, check_columns, system_columns
from lensfind.simulation.components import Batch
from lensfind.simulation.detect import critical_area_and_images, detectability
from lensfind.simulation.draws import Uniforms, generator
from lensfind.simulation.engines import Engine
from lensfind.simulation.exposure import LIGHT, expose, sum_of
from lensfind.simulation.instrument import Survey
from lensfind.simulation.negatives import draw_negative
from lensfind.simulation.parts import Images, Parts
from lensfind.simulation.population import VIS
from lensfind.simulation.scenario import SYSTEMS, Scenario
from lensfind.simulation.scenes import BLOCK, NUMBERS, Scenes, addresses, attempt_numbers, compose_batch, draw_kinds
from lensfind.simulation.systems import System, compose, expected, imaged, propose

__all__ = ["Objects", "simulate_objects"]

Image = NDArray[np.float32]
Array = NDArray[np.float64]
Rows = dict[str, NDArray[Any]]

UNDETECTABLE = "lens not detectable: the rule of the label is false"


@dataclass(frozen=True)
class Objects:
    """``stamps``: band -> (N, n, n) float32 electron/s; ``noiseless``: the same without noise; ``arc``: (N, 200, 200)
    noiseless lensed sources in VIS; ``rows``: columns (N,), see :data:`COLUMNS`; ``rejects``: (id, reason) of every
    earlier attempt of each object."""

    stamps: Mapping[str, Image]
    noiseless: Mapping[str, Image]
    arc: Image
    rows: Rows
    rejects: Sequence[Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class _Accepted:
    """What stands for the objects of one kind: their numbers, columns, attempts and rejects."""

    numbers: NDArray[np.float64]  # (n, NUMBERS)
    rows: Rows
    rejects: list[list[tuple[str, str]]]


@dataclass(frozen=True)
class _Maker:
    seed: int
    scenario: Scenario
    survey: Survey
    engine: Engine
    images: Images

    def accept(self, kind: str, indices: Sequence[int]) -> _Accepted:
        """The first attempt of each object that is possible, promising, detectable and selected."""
        n = len(indices)
        rejects: list[list[tuple[str, str]]] = [[] for _ in indices]
        kept = np.empty((n, NUMBERS))
        rows: dict[int, dict[str, Any]] = {}
        pending = list(range(n))
        block = 0
        while pending:
            drawn = np.stack(
                [attempt_numbers(self.seed, self.scenario, indices[i], block) for i in pending]
            )  # (pending, BLOCK, NUMBERS)
            tried = self._try_block(kind, drawn, [BLOCK * block + a for a in range(BLOCK)])
            still = []
            for place, i in enumerate(pending):
                reasons, row = tried[place]
                rejects[i] += [(f"{indices[i]}/{BLOCK * block + a}", text) for a, text in enumerate(reasons)]
                if row is None:
                    still.append(i)
                else:
                    kept[i], rows[i] = drawn[place, len(reasons)], row | {"attempt": len(rejects[i])}
            pending, block = still, block + 1
            if pending and BLOCK * block >= self.scenario.attempts:
                texts = [text for _, text in rejects[pending[0]]]
                text, times = Counter(texts).most_common(1)[0]
                raise LensfindError(
                    f"object {indices[pending[0]]} ({kind}) within scenario.attempts={self.scenario.attempts} draws",
                    f"only rejected ones, {times / len(texts):.0%} of them for: {text}",
                    "Ask less of scenario.label, scenario.expect and scenario.select, widen the ranges of population "
                    "and scene, or raise scenario.attempts.",
                )
        return _Accepted(kept, {key: np.array([rows[i][key] for i in range(n)]) for key in COLUMNS}, rejects)

    def _try_block(
        self, kind: str, drawn: NDArray[np.float64], attempts: list[int]
    ) -> list[tuple[list[str], dict[str, Any] | None]]:
        """For each object the reasons of the rejected attempts before the accepted one, and its row (or None)."""
        n = len(drawn)
        draws = Uniforms(drawn.reshape(n * BLOCK, NUMBERS))
        if kind not in SYSTEMS:
            parts, all_of = Parts(), np.arange(n * BLOCK)
            centre, feature = draw_negative(kind, draws, self.scenario, parts, all_of)
            known = centre_columns(centre) | {"r_feature": feature}
            columns = blank(kind, n * BLOCK) | known
            texts = self._selected(known, np.full(n * BLOCK, "", dtype=object)).reshape(n, BLOCK)
            found = []
            for i, line in enumerate(texts):
                good = next((a for a, text in enumerate(line) if not text), BLOCK)
                row = {k: v[i * BLOCK + good] for k, v in columns.items()} if good < BLOCK else None
                found.append((list(line[:good]), row))
            return found
        system, reasons = propose(kind, draws, self.scenario)
        system = imaged(system, draws, self.scenario)
        expected(system, self.scenario, self.survey, reasons)
        known = system_columns(system)
        columns = blank(kind, n * BLOCK) | known
        texts = self._selected(known, reasons.texts).reshape(n, BLOCK)
        rows: list[dict[str, Any] | None] = [None] * n
        begin, active = [0] * n, list(range(n))
        while active:
            first = {i: next((a for a in range(begin[i], BLOCK) if not texts[i, a]), BLOCK) for i in active}
            active = [i for i in active if first[i] < BLOCK]
            if not active:
                break
            at = np.array([i * BLOCK + first[i] for i in active])
            chosen = {key: value[at] for key, value in columns.items()}
            whole, why = self._detect(system.take(at), draws.take(at), chosen)
            again = []
            for place, i in enumerate(active):
                if why[place]:
                    texts[i, first[i]] = why[place]
                    begin[i] = first[i] + 1
                    again.append(i)
                else:
                    rows[i] = {key: value[place] for key, value in whole.items()}
            active = again
        found = []
        for i in range(n):
            good = next((a for a in range(BLOCK) if not texts[i, a]), BLOCK)
            found.append((list(texts[i, :good]), rows[i]))
        return found

    def _selected(self, known: Rows, texts: NDArray[np.object_]) -> NDArray[np.object_]:
        """Reasons (N,), with those of ``scenario.select`` added; only the ``known`` columns are asked, and one that
        means nothing for an object (NaN) passes."""
        for name, (low, high) in self.scenario.select.items():
            if name in known:
                value = np.asarray(known[name], dtype=np.float64)
                with np.errstate(invalid="ignore"):
                    texts[((value < low) | (value > high)) & (texts == "")] = f"{name} outside scenario.select.{name}"
        return texts

    def _detect(self, system: System, draws: Uniforms, columns: Rows) -> tuple[Rows, NDArray[np.object_]]:
        """The columns with those of detection, and the reason against each object (or "")."""
        n = len(system.z_convention)
        why = np.full(n, "", dtype=object)
        if system.source is None:
            return columns, why
        parts = Parts()
        compose(system, draws, self.scenario, self.images, parts, np.arange(n))
        batch = parts.batch(n, system.z_convention, self.images)
        double = system.kind == "double_ring"
        roles = ["lens", "source"] + (["source2"] if double else []) + (["middle"] if system.second else [])
        planes = self.engine(batch, self.survey, ["VIS"], roles=roles)
        lens = planes["lens"]["VIS"]
        if system.kind == "compound_arc":
            lens = lens + planes["middle"]["VIS"]
        flux = self.survey.bands["VIS"].flux
        source = planes["source"]["VIS"]
        measured: Rows = dict(detectability(source, lens, self.survey, flux(system.source.magnitudes[:, VIS])))
        measured["ein_area"], measured["n_source_im"] = self._geometry(batch, system)
        if double and system.second is not None:
            outer = detectability(planes["source2"]["VIS"], lens, self.survey, flux(system.second.magnitudes[:, VIS]))
            measured |= {f"{key}_2": outer[key] for key in ("mag_eff", "n_pix_source", "arc_snr", "contrast")}
        measured["collett"] = _collett(columns | measured, self.survey)
        columns = columns | measured
        if system.kind == "outside":
            why[columns["n_source_im"] != 1] = "source inside the caustic after all"
        elif not self.scenario.keep_undetectable:
            named = {key: value for key, value in columns.items() if key in self.scenario.label}
            why[lens_labels(Table(named), self.scenario.label) == 0] = UNDETECTABLE
        return columns, self._selected(measured, why)

    def _geometry(self, batch: Batch, system: System) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        assert system.source is not None
        z, x, y = system.source.z, system.source.x, system.source.y
        found = [critical_area_and_images(batch, i, float(z[i]), float(x[i]), float(y[i])) for i in range(len(z))]
        return np.array([area for area, _ in found]), np.array([number for _, number in found], dtype=np.int64)


def _collett(columns: Rows, survey: Survey) -> NDArray[np.int64]:
    """Collett 2015's criteria: theta_E^2 > x_s^2 + y_s^2, mu > 3, mu r_s > seeing, S/N > 20."""
    inside = columns["theta_e"] ** 2 > columns["x_source"] ** 2 + columns["y_source"] ** 2
    resolved = columns["mag_eff"] * columns["r_source"] > survey.bands["VIS"].psf_fwhm
    return np.asarray(inside & resolved & (columns["mag_eff"] > 3) & (columns["arc_snr"] > 20), dtype=np.int64)


def simulate_objects(
    seed: int, indices: Sequence[int], scenario: Scenario, survey: Survey, engine: Engine, images: Images = ()
) -> Objects:
    """The objects at some addresses; each the same bytes wherever, whenever and with whomever it is made.

    A draw that is impossible, or a lens that the label's rule does not call one, is rejected and drawn again.

    Args:
        seed: Root seed of the set.
        indices: N objects, each once.
        scenario: What to draw.
        survey: The instrument.
        engine: Of :func:`lensfind.simulation.engines.get_engine`.
        images: Real galaxies, where ``scene.source.images`` asks for them.

    Raises:
        LensfindError: ``scenario.attempts`` draws of an object were all rejected, or see
            :func:`lensfind.simulation.columns.check_columns`.
    """
    check_columns(scenario)
    maker = _Maker(seed, scenario, survey, engine, images)
    kinds, origins = draw_kinds(seed, indices, scenario)
    unique, at, of_kind = addresses(kinds, origins)
    rows = {key: np.empty(len(unique), dtype=kind) for key, (kind, _, _) in COLUMNS.items()}
    numbers = np.empty((len(unique), NUMBERS))
    rejects: dict[int, list[tuple[str, str]]] = {}
    for kind, places in of_kind.items():
        accepted = maker.accept(kind, [unique[place] for place in places])
        numbers[places] = accepted.numbers
        for key in COLUMNS:
            rows[key][places] = accepted.rows[key]
        rejects |= {unique[place]: lines for place, lines in zip(places, accepted.rejects, strict=True)}
    batch, counts = compose_batch(seed, scenario, of_kind, unique, numbers, rows["z_lens"], images)
    rows |= dict(zip(("n_neighbours", "n_satellites", "n_stars"), counts, strict=True))
    planes = engine(batch, survey, list(BANDS))
    base, arcs = ({band: sum_of(planes, light, band) for band in BANDS} for light in LIGHT)
    twin = Scenes(kinds, origins, at, batch).twin
    table = {key: value[at].copy() for key, value in rows.items()}
    for key, value in blank("twin", int(twin.sum())).items():
        if key not in _TWIN_KEEPS:
            table[key][twin] = value
    first = np.array([generator(seed, scenario.number, o - o % 2, 0).random() for o in origins])
    paired = first < 2 * scenario.mix["twin"]
    table |= {"id": np.array(indices), "kind": np.array(kinds), "pair": np.where(paired, origins, -1)}
    noiseless = {b: np.where(twin[:, None, None], base[b][at], base[b][at] + arcs[b][at]) for b in BANDS}
    stamps = {band: np.empty_like(image) for band, image in noiseless.items()}
    for band, one in ((band, survey.bands[band]) for band in BANDS):
        for i, (place, origin) in enumerate(zip(at, origins, strict=True)):
            light = base[band][place], None if twin[i] else arcs[band][place]
            stamps[band][i] = expose(seed, scenario, origin, band, one, *light)
    arc = np.where(twin[:, None, None], np.float32(0), arcs["VIS"][at])
    lines = [[] if t else rejects[o] for t, o in zip(twin, origins, strict=True)]
    return Objects(stamps, noiseless, arc, table, lines)


_TWIN_KEEPS = {
    "attempt",
    "sigma_v",
    "z_lens",
    "mag_lens",
    "r_lens",
    "q_lens",
    "angle_lens",
    "n_neighbours",
    "n_satellites",
    "n_stars",
    *(f"mag_lens_{band}" for band in BANDS),
}
"""Columns of the lens that hold for its twin too: all that are not about the source or its deflection."""
