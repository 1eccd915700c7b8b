"""A plain mapping from a config file becomes a checked dataclass, with errors that name the key."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from lensfind.errors import LensfindError

__all__ = ["Range", "build", "check_least", "check_number", "check_range", "check_shares"]

T = TypeVar("T")
Range = tuple[float, float]


def build(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """``kind(**values)``, where ``where`` is the dotted place in the config, e.g. ``scene.source``.

    Raises:
        LensfindError: ``values`` is no mapping, or a key is unknown or missing.
    """
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(values, Mapping):
        raise LensfindError(f"{where} to be a mapping of {', '.join(sorted(names))}", repr(values), "Mend the config.")
    unknown, missing = sorted(set(values) - names), sorted(names - set(values))
    if unknown or missing:
        raise LensfindError(
            f"{where} with the keys {', '.join(sorted(names))}",
            "; ".join(
                f"{what} {', '.join(keys)}" for what, keys in (("unknown", unknown), ("missing", missing)) if keys
            ),
            f"Set it as {where}.{missing[0] if missing else sorted(names)[0]}=...",
        )
    return kind(**values)


def check_range(where: str, value: Any, low: float, high: float) -> Range:
    """An ascending pair of numbers within [low, high]; one number is both. Else an error that names the key."""
    try:
        given = [value, value] if isinstance(value, int | float) and not isinstance(value, bool) else value
        first, last = (float("nan") if isinstance(given, str) else float(v) for v in given)
    except (TypeError, ValueError):
        first, last = 1.0, 0.0
    if not low <= first <= last <= high:
        raise LensfindError(
            f"{where} to be a number or [low, high] within {low:g} to {high:g}",
            str(value),
            f"Set {where}=[{low:g},{high:g}].",
        )
    return first, last


def check_least(where: str, value: Any, low: float, *, whole: bool = False) -> None:
    """An error that names the key ``where`` unless ``value`` is a (whole) number of at least ``low``."""
    if not _is_number(value) or not value >= low or (whole and not isinstance(value, int)):
        what = f"{where} as a whole number" if whole else where
        raise LensfindError(f"{what} of at least {low:g}", repr(value), f"Set {where}={low:g} or more.")


def check_number(where: str, value: Any, low: float, high: float, *, above: bool = False) -> None:
    """An error that names the key ``where`` unless ``value`` is a number from (or ``above``) ``low`` to ``high``."""
    if not _is_number(value) or not low <= value <= high or (above and value == low):
        limits = f"{'above' if above else 'from'} {low:g} {f'to {high:g}' if math.isfinite(high) else 'on'}"
        raise LensfindError(f"{where} as a number {limits}", repr(value), f"Set {where} to such a number.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_shares(where: str, shares: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, float]:
    """Shares of ``names`` (absent: 0) that add up to 1, or an error that names the key ``where``."""
    try:
        full = {name: float(shares.get(name) or 0.0) for name in names}
    except (AttributeError, TypeError, ValueError):
        full = {}
    whole = abs(sum(full.values()) - 1) <= 1e-6  # false of NaN
    if not full or set(shares) - set(names) or min(full.values()) < 0 or not whole:
        raise LensfindError(
            f"{where} with shares of {', '.join(names)} that add up to 1",
            str(shares),
            f"Set shares that do, e.g. {where}.{names[0]}=1.0 and the others 0.",
        )
    return full
