"""A plain mapping from a config file becomes a checked dataclass, with errors that name the key."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from lensfind.errors import LensfindError

__all__ = ["build", "check_range"]

T = TypeVar("T")


def build(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """``kind(**values)``, where ``where`` is the dotted place in the config, e.g. ``scenario.source``.

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


def check_range(where: str, value: Any, low: float, high: float) -> tuple[float, float]:
    """An ascending pair of numbers within [low, high], or an error that names the key ``where``."""
    try:
        first, last = (float(v) for v in value)
    except (TypeError, ValueError):
        first, last = 1.0, 0.0
    if not low <= first <= last <= high:
        raise LensfindError(
            f"{where} to be [low, high] within {low:g} to {high:g}", str(value), f"Set {where}=[{low:g},{high:g}]."
        )
    return first, last
