"""Scenes: what stands in each object's stamp, composed from the numbers at its address."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensfind.simulation.components import Batch
from lensfind.simulation.draws import Uniforms, generator
from lensfind.simulation.negatives import Surroundings, draw_negative, surroundings
from lensfind.simulation.parts import Images, Parts
from lensfind.simulation.scenario import SYSTEMS, Scenario
from lensfind.simulation.systems import compose, propose

__all__ = ["BLOCK", "NUMBERS", "Scenes", "addresses", "attempt_numbers", "compose_batch", "draw_kinds", "scenes"]

Array = NDArray[np.float64]

BLOCK = 16  # attempts drawn at once for an object; part of the address
NUMBERS = 192  # of one attempt


@dataclass(frozen=True)
class Scenes:
    """N objects before they are drawn. ``kinds``: of each; ``batch``: a scene for every distinct address, ascending;
    ``at`` (N,): each object's place there; ``origins`` (N,): index of its address. A twin is its lens's scene without
    the light of :data:`LIGHT` ``arc``."""

    kinds: list[str]
    origins: list[int]
    at: NDArray[np.int64]
    batch: Batch

    @property
    def twin(self) -> NDArray[np.bool_]:
        """(N,): which are twins."""
        return np.array([kind == "twin" for kind in self.kinds])


def draw_kinds(seed: int, indices: Sequence[int], scenario: Scenario) -> tuple[list[str], list[int]]:
    """Kind of each object, and the index whose address it has: its own, or that of the lens before it for a twin.

    Objects 2 j and 2 j + 1 are a lens and its twin with the probability 2 mix.twin; else both draw for themselves.
    """
    twins, names = scenario.mix["twin"], [kind for kind in scenario.mix if kind != "twin"]
    shares = np.array([scenario.mix[kind] - (twins if kind == "lens" else 0.0) for kind in names])
    upto = np.cumsum(shares) / max(1 - 2 * twins, 1e-12)
    kinds, origins = [], []
    for index in indices:
        first = generator(seed, scenario.number, index - index % 2, 0).random(2)
        if first[0] < 2 * twins:
            kinds.append("twin" if index % 2 else "lens")
            origins.append(index - index % 2)
            continue
        own = generator(seed, scenario.number, index, 0).random(2)[1]
        kinds.append(names[min(int(np.searchsorted(upto, own, side="right")), int(np.flatnonzero(shares > 0)[-1]))])
        origins.append(index)
    return kinds, origins


def attempt_numbers(seed: int, scenario: Scenario, index: int, block: int) -> Array:
    """The numbers of a block of an object's attempts, (BLOCK, NUMBERS)."""
    return generator(seed, scenario.number, index, 1, block).random((BLOCK, NUMBERS))


def addresses(
    kinds: Sequence[str], origins: Sequence[int]
) -> tuple[list[int], NDArray[np.int64], dict[str, NDArray[np.int64]]]:
    """Of what :func:`draw_kinds` gives: the distinct addresses, ascending, each object's place among them, and the
    places of every kind that is drawn there."""
    unique = sorted(set(origins))
    kind_of = {o: "lens" if kind == "twin" else kind for kind, o in zip(kinds, origins, strict=True)}
    names = sorted(set(kind_of.values()))
    of_kind = {name: np.flatnonzero([kind_of[origin] == name for origin in unique]) for name in names}
    return unique, np.searchsorted(unique, origins), of_kind


def compose_batch(
    seed: int,
    scenario: Scenario,
    of_kind: Mapping[str, NDArray[np.int64]],
    origins: Sequence[int],
    numbers: Array,
    z_lens: Array,
    images: Images = (),
) -> tuple[Batch, Surroundings]:
    """The scenes at ``origins`` from the numbers (n, NUMBERS) of their accepted attempts, and what stands around;
    ``of_kind``: the places of every kind among them."""
    parts, convention = Parts(), np.ones(len(origins))
    for kind, places in of_kind.items():
        draws = Uniforms(numbers[places])
        if kind not in SYSTEMS:
            draw_negative(kind, draws, scenario, parts, places)
            continue
        system, _ = propose(kind, draws, scenario)
        compose(system, draws, scenario, images, parts, places)
        convention[places] = system.z_convention
    around = [(scenario.number, origin, 2) for origin in origins]
    counts = surroundings(seed, scenario, around, z_lens, parts)
    return parts.batch(len(origins), convention, images), counts


def scenes(
    seed: int,
    indices: Sequence[int],
    attempts: Sequence[int],
    z_lens: Sequence[float],
    scenario: Scenario,
    images: Images = (),
) -> Scenes:
    """The scenes of objects whose accepted attempts are known: nothing is drawn in vain.

    Args:
        seed, indices, scenario, images: Of :func:`lensfind.simulation.objects.simulate_objects`.
        attempts, z_lens: (N,) columns ``attempt`` and ``z_lens`` of their catalogue rows.
    """
    kinds, origins = draw_kinds(seed, indices, scenario)
    unique, at, of_kind = addresses(kinds, origins)
    first = [origins.index(origin) for origin in unique]
    block = [divmod(int(attempts[i]), BLOCK) for i in first]
    numbers = np.stack(
        [attempt_numbers(seed, scenario, o, number)[row] for o, (number, row) in zip(unique, block, strict=True)]
    )
    batch, _ = compose_batch(
        seed, scenario, of_kind, unique, numbers, np.asarray(z_lens, dtype=np.float64)[first], images
    )
    return Scenes(kinds, origins, at, batch)
