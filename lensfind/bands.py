"""The four Euclid bands: pixel scale, native stamp size, named sets, and the check of a user's choice.

Everything that touches a stamp takes its geometry from here; this file knows no other part of lensfind.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lensfind.errors import LensfindError

__all__ = ["BANDS", "BAND_SETS", "UNIT", "Band", "band_set_name", "check_bands"]

UNIT = "electron/s"
"""Unit of every stamp in memory and on disk (FITS ``BUNIT``; astropy parses it)."""


@dataclass(frozen=True)
class Band:
    """Geometry of one band's native stamp."""

    name: str
    pixel_scale: float
    """Side of a pixel in arcsec."""
    size: int
    """Side of the stamp in pixels."""


BANDS: Mapping[str, Band] = {
    "J": Band("J", 0.3, 66),
    "Y": Band("Y", 0.3, 66),
    "H": Band("H", 0.3, 66),
    "VIS": Band("VIS", 0.1, 200),
}
"""All bands in the channel order of Wilde et al. 2022 (MNRAS 512, 3464)."""

BAND_SETS: Mapping[str, tuple[str, ...]] = {
    "j": ("J",),
    "y": ("Y",),
    "h": ("H",),
    "jyh": ("J", "Y", "H"),
    "vis": ("VIS",),
    "all": ("J", "Y", "H", "VIS"),
}
"""The named sets behind ``bands=...``."""


def check_bands(bands: Iterable[str], *, offered: Iterable[str] | None = None, by: str = "the data") -> tuple[str, ...]:
    """The bands as a tuple in the given order, or an error that names the way out.

    Args:
        bands: Names out of :data:`BANDS`.
        offered: The bands that ``by`` has; None asks only that the names exist.
        by: What offers them, for the message.

    Raises:
        LensfindError: No band, an unknown name, a name twice, or a band that is not offered.
    """
    chosen = tuple(bands) if isinstance(bands, Iterable) and not isinstance(bands, str) else (bands,)
    if not chosen or any(band not in BANDS for band in chosen) or len(set(chosen)) < len(chosen):
        raise LensfindError(
            f"one or more different bands out of {', '.join(BANDS)}",
            f"[{', '.join(map(str, chosen))}]",
            f"Choose a set with bands={'|'.join(BAND_SETS)}, or freely with data.bands=[J,H].",
        )
    missing = [] if offered is None else [band for band in chosen if band not in set(offered)]
    if offered is not None and missing:
        have = [band for band in BANDS if band in set(offered)]
        raise LensfindError(
            f"{by} to have the bands {', '.join(chosen)}",
            f"only {', '.join(have) or 'none'} (missing: {', '.join(missing)})",
            "Choose a network or bands=... that need no others, or data that have them.",
        )
    return chosen


def band_set_name(bands: Iterable[str]) -> str:
    """Short name of a set, as in run folders: ``"vis"``, ``"jyh"``, ``"all"``, or the joined names (``"jh"``)."""
    chosen = check_bands(bands)
    return next((name for name, members in BAND_SETS.items() if members == chosen), "".join(chosen).lower())
