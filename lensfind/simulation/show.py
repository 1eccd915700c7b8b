"""What a simulated set looks like in numbers: distributions against the figures of the literature, and its depth."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfind.bands import BANDS
from lensfind.data.store import Store
from lensfind.simulation.instrument import Survey

__all__ = ["distribution_panels", "measured_depth", "shown_rows"]

Q1_DEPTH = {"VIS": 25.43, "Y": 24.76, "J": 24.93, "H": 24.91}
"""Medians of the RMS maps of five Euclid Q1 cut-outs; VIS 10 sigma in 1.3", NISP 5 sigma in 1.0"."""

_MOST = 200  # stamps whose noise is measured


def measured_depth(store: Store, survey: Survey) -> Mapping[str, NDArray[np.float64]]:
    """AB depth of each of up to 200 stamps by band, in the aperture and at the sigma of the survey's table.

    The noise is the width of the lower tail of the pixels, which light, always positive, changes least.
    """
    rows = np.linspace(0, len(store) - 1, min(len(store), _MOST)).astype(np.int64)
    depth = {}
    for name, stamps in store.read(rows, list(store.bands)).items():
        one, scale = survey.bands[name], BANDS[name].pixel_scale
        flat = stamps.reshape(len(stamps), -1).astype(np.float64)
        # For a Gaussian the 2.5th and the 20th percentile are 1.1183 sigma apart.
        sigma = (np.quantile(flat, 0.2, axis=1) - np.quantile(flat, 0.025, axis=1)) / 1.1183
        aperture = np.pi * (one.depth_aperture / 2 / scale) ** 2
        depth[name] = one.zero_point - 2.5 * np.log10(one.depth_sigma * sigma * np.sqrt(aperture))
    return dict(depth)


def distribution_panels(store: Store) -> dict[str, tuple[dict[str, Any], Sequence[tuple[float, float, str]]]]:
    """Panels of :func:`lensfind.figures.distributions` for a simulated store."""
    table = store.catalogue
    survey = Survey.from_config(store.manifest["made_by"]["survey"])
    lens = np.asarray(table["label"]) == 1

    def both(name: str) -> dict[str, NDArray[np.float64]]:
        values = np.asarray(table[name], dtype=np.float64)
        return {"lenses": values[lens], "others": values[~lens]}

    def of(name: str) -> NDArray[np.float64]:
        values: NDArray[np.float64] = np.asarray(table[name], dtype=np.float64)[lens]
        return values

    colour = {f"deflector {b}": of(f"mag_lens_{b}") for b in BANDS} | {b: of(f"mag_source_{b}") for b in BANDS}
    depth = measured_depth(store, survey)
    return {
        "theta_E [arcsec]": (
            {"theta_E": of("theta_e"), "sqrt(ein_area / pi)": np.sqrt(of("ein_area") / np.pi)}
            | ({"theta_E 2": of("theta_e_2")} if np.isfinite(of("theta_e_2")).any() else {}),
            [(0.64, 0.42, "survey, 0.64 +- 0.42")],
        ),
        "velocity dispersion [km/s]": ({"deflectors": of("sigma_v")}, [(217.0, 51.0, "survey, 217 +- 51")]),
        "redshift": (
            {"deflectors": of("z_lens"), "sources": of("z_source")}
            | ({"sources 2": of("z_source_2")} if np.isfinite(of("z_source_2")).any() else {}),
            [],
        ),
        "VIS magnitude of the central galaxy": (both("mag_lens"), []),
        "VIS magnitude of the source, unlensed": ({"sources": of("mag_source")}, []),
        "VIS - H": (
            {
                "deflectors": colour["deflector VIS"] - colour["deflector H"],
                "sources": colour["VIS"] - colour["H"],
            },
            [(2.5, 0.0, "red at z = 1"), (1.3, 0.0, "blue at z = 1")],
        ),
        "Y - H": (
            {"deflectors": colour["deflector Y"] - colour["deflector H"], "sources": colour["Y"] - colour["H"]},
            [],
        ),
        "log10 magnification": ({"lenses": np.log10(np.maximum(of("mag_eff"), 1e-3))}, []),
        "log10 arc S/N": ({"lenses": np.log10(np.maximum(of("arc_snr"), 1e-3))}, [(np.log10(20), 0.0, "Collett 20")]),
        "arc / (arc + deflector)": ({"lenses": of("contrast")}, []),
        "unlensed half-light radius [arcsec]": ({"sources": of("r_source"), "deflectors": of("r_lens")}, []),
        "depth - Q1 median [mag]": (
            {band: depth[band] - Q1_DEPTH[band] for band in depth},
            [(0.0, 0.1, "allowed")],
        ),
    }


def shown_rows(store: Store, most: int) -> NDArray[np.int64]:
    """Rows for a picture: half lenses (as far as there are), then the other kinds in turn."""
    label, kind = np.asarray(store.catalogue["label"]), np.asarray(store.catalogue["kind"])
    pair = np.asarray(store.catalogue["pair"])
    if (pair >= 0).all():  # twins: each beside its lens
        return np.arange(min(most, len(store)))
    lenses = np.flatnonzero(label == 1)
    others = [np.flatnonzero((label == 0) & (kind == k)) for k in sorted(set(kind[label == 0].tolist()))]
    turns = [rows[turn] for turn in range(most) for rows in others if turn < len(rows)]
    half = most // 2 if turns else most
    chosen = list(lenses[: max(half, most - len(turns))])
    return np.asarray(chosen + turns[: most - len(chosen)], dtype=np.int64)
