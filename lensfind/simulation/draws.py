"""Draws: every object's own random numbers, turned into populations for many objects at once.

An object's uniform numbers come from its own address, ``SeedSequence(seed, spawn_key=address)``, as one row of a table;
the physics then works on columns by inverse distribution functions. So an object is the same alone or in any batch.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincinv, ndtri

__all__ = ["Uniforms", "generator"]

Array = NDArray[np.float64]


def generator(seed: int, *address: int) -> np.random.Generator:
    """The generator at an address."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=address))


class Uniforms:
    """Rows of independent numbers in (0, 1), one row per object, handed out column by column.

    Args:
        values: (N, K).
        used: Columns already handed out.
    """

    def __init__(self, values: ArrayLike, used: int = 0) -> None:
        # Never 0 or 1, whose normal deviates are infinite.
        self._values = np.clip(np.asarray(values, dtype=np.float64), 2.0**-54, 1 - 2.0**-53)
        self._used = used

    def __len__(self) -> int:
        return len(self._values)

    def take(self, rows: NDArray[np.int64]) -> "Uniforms":
        """Some rows, going on behind the columns already handed out."""
        return Uniforms(self._values[rows], self._used)

    def block(self, columns: int) -> Array:
        """The next columns, (N, columns)."""
        first, self._used = self._used, self._used + columns
        if self._used > self._values.shape[1]:
            raise IndexError(f"{self._used} numbers asked of objects that drew {self._values.shape[1]}")
        return np.ascontiguousarray(self._values[:, first : self._used])

    def uniform(self, low: ArrayLike = 0.0, high: ArrayLike = 1.0) -> Array:
        """(N,) uniform between ``low`` and ``high``, scalars or (N,)."""
        return np.asarray(low + self.block(1)[:, 0] * (np.asarray(high) - low))

    def within(self, bounds: Sequence[float]) -> Array:
        """(N,) uniform within [low, high]."""
        return self.uniform(*bounds)

    def normal(self) -> Array:
        """(N,) standard normal."""
        return np.asarray(ndtri(self.block(1)[:, 0]))

    def integers(self, low: int, high: int) -> NDArray[np.int64]:
        """(N,) whole numbers from ``low`` to ``high``, both included."""
        return np.asarray(np.floor(self.uniform(low, high + 1)), dtype=np.int64)

    def gamma(self, alpha: Array) -> Array:
        """Gamma deviates of the shapes ``alpha`` (N, K), scale 1."""
        return np.asarray(gammaincinv(alpha, self.block(alpha.shape[1])))
