"""Is a map about the network, and about the lens? Five tests of every attribution method, one table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import torch
from captum.metrics import infidelity, sensitivity_max
from numpy.typing import NDArray
from rich.progress import Progress
from scipy.stats import spearmanr
from torch import Tensor

from lensfind.errors import LensfindError
from lensfind.finder import LensFinder, Stamps, resample
from lensfind.interpretation import attribution
from lensfind.interpretation.measures import Relevance, cascade, deletion_insertion, localisation, similarity
from lensfind.interpretation.occlusion import occlude, spread
from lensfind.interpretation.probe import choice, score, sky, undisturbed

__all__ = ["METHODS", "Truth", "Verdict", "faithfulness", "randomisation", "relevance"]

METHODS = ("occlusion", "gradient", "integrated_gradients", "grad_cam", "guided_backprop", "guided_grad_cam")
FAILS = 0.5
"""A method fails the randomisation test if its maps' |Spearman| with their own stays above this on average while the
head and the upper half of the layers are made random. Ours: Adebayo et al. show curves and give no number. SSIM is in
the table, but decides nothing: it is high for any two maps that are empty where the stamp is."""


@dataclass(frozen=True)
class Truth:
    """What the simulator knows of N lenses.

    Attributes:
        mask: (N, 200, 200) True where the lensed source shines (VIS pixels).
        twins: The same stamps without the source, or None.
    """

    mask: NDArray[np.bool_]
    twins: Stamps | None = None


@dataclass
class Verdict:
    """The tests of one method: numbers per object or stage; NaN where a test was not possible."""

    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    stages: list[str] = field(default_factory=list)
    spearman: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    deletion: list[float] = field(default_factory=list)
    insertion: list[float] = field(default_factory=list)
    random_deletion: list[float] = field(default_factory=list)
    random_insertion: list[float] = field(default_factory=list)
    pointing: list[float] = field(default_factory=list)
    mass: list[float] = field(default_factory=list)
    rank: list[float] = field(default_factory=list)
    chance: list[float] = field(default_factory=list)
    causal: float = float("nan")
    pairs: int = 0
    infidelity: list[float] = field(default_factory=list)
    sensitivity: list[float] = field(default_factory=list)

    @property
    def fails_randomisation(self) -> bool:
        """Whether the maps hardly change when the network's weights are made random."""
        return _mean(self.spearman[: (len(self.spearman) + 1) // 2]) > FAILS

    def row(self) -> dict[str, Any]:
        """One line of the table."""
        return {
            "method": self.method,
            "randomisation_spearman": _mean(self.spearman),
            "randomisation_ssim": _mean(self.ssim),
            "randomisation": "fails" if self.fails_randomisation else "passes",
            "deletion": _mean(self.deletion),
            "deletion_random": _mean(self.random_deletion),
            "insertion": _mean(self.insertion),
            "insertion_random": _mean(self.random_insertion),
            "pointing": _mean(self.pointing),
            "relevance_mass": _mean(self.mass),
            "relevance_rank": _mean(self.rank),
            "chance": _mean(self.chance),
            "twin_spearman": self.causal,
            "twin_pairs": self.pairs,
            "infidelity": _mean(self.infidelity),
            "max_sensitivity": _mean(self.sensitivity),
            "settings": " ".join(f"{key}={value}" for key, value in self.settings.items()) or "default",
        }

    def sentence(self) -> str:
        """What a reader should do with maps of this method."""
        parts = []
        if self.fails_randomisation:
            parts.append("do not read it as what the network learnt: it looks much the same with random weights")
        else:
            parts.append("it depends on the trained weights")
        # Both tests must beat a random ranking on most objects to count.
        better = _share(self.deletion, self.random_deletion, lower=True), _share(self.insertion, self.random_insertion)
        if min(better) > 0.5:
            parts.append(f"removing what it marks hurts the lens score more than random pixels do ({better[0]:.0%})")
        else:
            parts.append("its ranking of pixels is no better than a random one at deletion, insertion or both")
        if self.pointing:
            gain = _mean(self.mass) / _mean(self.chance)
            where = "on the arc" if gain > 1.5 else "hardly more often on the arc than chance"
            parts.append(f"its relevance lies {where} ({gain:.1f} x the arc's share of the stamp)")
        if np.isfinite(self.causal):
            parts.append(
                f"relevance on the arc {'follows' if self.causal > 0.3 else 'does not follow'} what removing the source"
                f" costs (Spearman {self.causal:.2f}, {self.pairs} pairs)"
            )
        return f"{self.method}: " + "; ".join(parts) + "."


def relevance(method: str, settings: Mapping[str, Any] | None = None) -> Relevance:
    """A method of this package as maps of preprocessed images, positive where it sees evidence for a lens.

    Args:
        method: One of :data:`METHODS`.
        settings: Its keyword arguments; for occlusion those of :func:`~lensfind.interpretation.occlusion.occlude`.
    """
    choice("methods", method, METHODS)
    settings = dict(settings or {})
    function = getattr(attribution, method) if method != "occlusion" else occlude
    known = [
        key
        for key, one in signature(function).parameters.items()
        if one.kind is one.KEYWORD_ONLY and key not in ("native", "progress")
    ]
    wrong = [key for key in settings if key not in known]
    if wrong:
        raise LensfindError(
            f"settings of {method} out of {', '.join(known)}", wrong[0], "Correct method.faithfulness.settings."
        )
    if method == "occlusion":
        return partial(_occlusion, **settings)
    return lambda finder, images: torch.from_numpy(function(finder, images, **settings)).to(images)


def _occlusion(finder: LensFinder, images: Tensor, **settings: Any) -> Tensor:
    # A coarser square than the paper's: 20 x 20 squares of 1 arcsec, since these tests need thousands of maps.
    settings = _occlusion_settings(finder, settings)
    window, stride = settings["window"], settings.get("stride")
    with undisturbed(finder), torch.no_grad():
        maps = [occlude(finder, image, range(len(image)), **settings) for image in images]
        return spread(finder, -torch.stack(maps)[:, None], window=window, stride=stride).to(images)


def _occlusion_settings(finder: LensFinder, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"window": max(finder.net.size // 20, 1), "baseline": "sky", "score": "log_odds", **settings}


def _flat(maps: Tensor, method: str) -> NDArray[np.float64]:
    """(N, S, S): bands summed; the plain gradient without its sign, which says only what brighter pixels would do."""
    summed = maps.abs().sum(1) if method == "gradient" else maps.sum(1)
    flat: NDArray[np.float64] = summed.detach().cpu().double().numpy()
    return flat


def randomisation(finder: LensFinder, images: Tensor, method: str, maker: Relevance, seed: int = 0) -> Verdict:
    """Test (a) alone: Spearman and SSIM of the maps with those of ever more random networks, a mean per stage."""
    verdict = Verdict(method)
    with undisturbed(finder):
        trained = maker(finder, images)
        for stage, random in cascade(finder, seed):
            pairs = [similarity(*maps) for maps in zip(trained, maker(random, images), strict=True)]
            verdict.stages.append(stage)
            verdict.spearman.append(_mean([pair[0] for pair in pairs]))
            verdict.ssim.append(_mean([pair[1] for pair in pairs]))
    return verdict


def faithfulness(
    finder: LensFinder,
    stamps: Stamps,
    truth: Truth | None = None,
    *,
    methods: Sequence[str] = METHODS,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    steps: int = 16,
    perturbations: int = 8,
    seed: int = 0,
    progress: bool = False,
) -> list[Verdict]:
    """Judge attribution methods on lenses.

    (a) Parameter randomisation, cascading (Adebayo et al. 2018). (b) Deletion and insertion on log-odds with a sky
    baseline (Petsiuk et al. 2018) against a random ranking. (c) Localisation on the arc. (d) Over pairs with and
    without the source: Spearman of the drop in log-odds with the relevance on the arc. (e) Infidelity (normalised;
    Yeh et al. 2019; squares set to sky) and maximal sensitivity to noise of 0.02, both by captum.

    Args:
        finder: Any finder; it is left as it was.
        stamps: Native stamps of N lenses.
        truth: For (c) and, with twins, (d); None leaves both out.
        methods: Out of :data:`METHODS`.
        settings: method -> its settings.
        steps: Of deletion and insertion.
        perturbations: Draws of (e).
        seed: Of random weights, rankings and perturbations.
        progress: Show a progress bar.

    Raises:
        LensfindError: No methods or an unknown one; a mask without pixels; or see :meth:`LensFinder.preprocess`.
    """
    if not methods:
        raise LensfindError("methods to judge", "none", f"Set method.faithfulness.methods=[{METHODS[0]}].")
    for key, value, least in (("steps", steps, 1), ("perturbations", perturbations, 1), ("seed", seed, 0)):
        if type(value) is not int or value < least:
            raise LensfindError(
                f"{key} of {least} or more", f"{key}={value!r}", f"Set method.faithfulness.{key}={least}."
            )
    unknown = [key for key in settings or {} if key not in METHODS]
    if unknown:
        raise LensfindError(
            f"settings of {', '.join(METHODS)}", f"settings of {unknown[0]}", "Correct method.faithfulness.settings."
        )
    makers = {method: relevance(method, (settings or {}).get(method)) for method in methods}
    verdicts = []
    with undisturbed(finder), Progress(disable=not progress, transient=True) as bar:
        images = finder.preprocess(stamps)
        masks = None if truth is None else _masks(truth.mask, finder.net.size)
        drop = None
        if truth is not None and truth.twins is not None:
            with torch.no_grad():
                drop = (_log_odds(finder, images) - _log_odds(finder, finder.preprocess(truth.twins))).numpy()
        task = bar.add_task("", total=4 * len(makers))
        for method, maker in makers.items():
            bar.update(task, description=f"{method}: randomisation")
            verdict = randomisation(finder, images, method, maker, seed)
            given = dict((settings or {}).get(method) or {})
            verdict.settings = _occlusion_settings(finder, given) if method == "occlusion" else given
            bar.update(task, advance=1, description=f"{method}: deletion")
            maps = _flat(maker(finder, images), method)
            _deletion(verdict, finder, images, maps, steps, seed)
            bar.update(task, advance=1, description=f"{method}: localisation")
            if masks is not None:
                _localisation(verdict, maps, masks, drop)
            bar.update(task, advance=1, description=f"{method}: infidelity")
            _captum_metrics(verdict, finder, images, method, maker, perturbations, seed)
            bar.update(task, advance=1)
            verdicts.append(verdict)
    return verdicts


def _deletion(
    verdict: Verdict, finder: LensFinder, images: Tensor, maps: NDArray[np.float64], steps: int, seed: int
) -> None:
    for number, (image, one) in enumerate(zip(images, maps, strict=True)):
        deletion, insertion = deletion_insertion(finder, image, one, steps=steps)
        ranking = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,))).random(one.shape)
        random = deletion_insertion(finder, image, ranking, steps=steps)
        verdict.deletion.append(deletion)
        verdict.insertion.append(insertion)
        verdict.random_deletion.append(random[0])
        verdict.random_insertion.append(random[1])


def _localisation(
    verdict: Verdict, maps: NDArray[np.float64], masks: NDArray[np.bool_], drop: NDArray[np.float64] | None
) -> None:
    on_arc = []
    for one, mask in zip(maps, masks, strict=True):
        pointing, mass, rank = localisation(one, mask)
        verdict.pointing.append(pointing)
        verdict.mass.append(mass)
        verdict.rank.append(rank)
        verdict.chance.append(float(mask.mean()))
        on_arc.append(float(one[mask].sum()))
    if drop is not None:
        verdict.pairs = len(drop)
        if len(drop) >= 4 and np.ptp(on_arc) > 0 and np.ptp(drop) > 0:
            verdict.causal = float(spearmanr(drop, on_arc).statistic)


def _captum_metrics(
    verdict: Verdict, finder: LensFinder, images: Tensor, method: str, maker: Relevance, draws: int, seed: int
) -> None:
    side = max(images.shape[-1] // 10, 1)
    blank = sky(images).expand_as(images)

    def forward(x: Tensor) -> Tensor:
        return score(finder.forward(x))

    # Integrated gradients and occlusion say what the light that is there contributes, the others a slope per unit.
    whole = method in ("occlusion", "integrated_gradients")

    def squares(x: Tensor) -> tuple[Tensor, Tensor]:
        base = blank.repeat_interleave(len(x) // len(blank), 0)
        mask = torch.zeros_like(x)
        for k, (row, column) in enumerate(torch.randint(0, x.shape[-1] - side + 1, (len(x), 2)).tolist()):
            mask[k, :, row : row + side, column : column + side] = 1
        return (mask if whole else mask * (x - base)), torch.where(mask > 0, base, x)

    def explain(inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
        (x,) = inputs if isinstance(inputs, tuple) else (inputs,)  # sensitivity_max hands over a tuple
        maps = maker(finder, x)
        return maps if maps.shape == x.shape else maps.expand_as(x) / x.shape[1]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # captum draws from torch's default generator, which is put back afterwards
        for k in range(len(images)):
            one, blank = images[k : k + 1], sky(images[k : k + 1]).expand_as(images[k : k + 1])
            found = infidelity(forward, squares, one, explain(one), n_perturb_samples=4 * draws, normalize=True)
            verdict.infidelity.append(float(found))
            with torch.enable_grad():
                found = sensitivity_max(explain, one, n_perturb_samples=max(draws // 4, 1), max_examples_per_batch=1)
            verdict.sensitivity.append(float(found))


def _masks(mask: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Masks on the network's grid: pixels that the arc covers by half, or its most covered one."""
    covered = resample(torch.from_numpy(mask.astype(np.float32)), size).numpy()
    top = covered.max(axis=(1, 2), keepdims=True)
    if not (top > 0).all():
        number = int(np.flatnonzero(top.ravel() <= 0)[0])
        raise LensfindError(
            "lenses whose MASK has pixels", f"an empty one (number {number} of the selection)", "Leave it out of ids."
        )
    result: NDArray[np.bool_] = covered >= np.minimum(0.5, top)
    return result


def _log_odds(finder: LensFinder, images: Tensor) -> Tensor:
    return torch.cat([score(finder.forward(chunk)) for chunk in torch.split(images, 32)]).cpu().double()


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _share(one: Sequence[float], other: Sequence[float], lower: bool = False) -> float:
    """Share of objects where ``one`` beats ``other``."""
    if not one:
        return float("nan")
    return float(np.mean(np.asarray(one) < np.asarray(other) if lower else np.asarray(one) > np.asarray(other)))
