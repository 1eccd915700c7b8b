"""What all figures share: line colours, resolution, and how names of networks and kinds are written."""

from collections.abc import Iterable

__all__ = ["BLUE", "COLOURS", "DPI", "GREEN", "LONGEST", "ORANGE", "RED", "legend_columns", "literal", "shortened"]

BLUE, ORANGE, RED, GREEN = "#0072B2", "#E69F00", "#D55E00", "#009E73"
COLOURS = (BLUE, RED, GREEN, "#CC79A7", ORANGE, "#56B4E9", "black", "#882255", "#999933")
"""Okabe & Ito's, which colour-blind readers tell apart, and two of Tol's for more than seven lines."""
DPI = 150
"""Pixels per inch."""
LONGEST = 30
"""Letters of a name in a legend."""


def literal(text: object) -> str:
    """Text that matplotlib writes as it stands: ``$`` begins no formula, ``_`` in front hides nothing from a legend."""
    plain = str(text).replace("$", r"\$")
    return f"\u200b{plain}" if plain.startswith("_") else plain


def shortened(name: object, most: int = LONGEST) -> str:
    """A name for a legend or an axis, :func:`literal`; a longer one loses its middle, since runs differ at the end.

    Example:
        >>> shortened("ou200-vis_learning_rate-0.0001_seed-12")
        'ou200-vis_learning…001_seed-12'
    """
    text = str(name)
    if len(text) > most:
        tail = (most - 1) * 2 // 5
        text = f"{text[: most - 1 - tail]}…{text[-tail:]}"
    return literal(text)


def legend_columns(labels: Iterable[str], room: int, most: int) -> int:
    """Columns, ``most`` at the most, for which labels have room in a line of so many letters."""
    return max(1, min(most, room // (max((len(label) for label in labels), default=0) + 6)))  # 6: line and gaps
