"""Choice of the threshold on P(lens), on rows that are not the test's."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from lensfind.errors import LensfindError
from lensfind.evaluation.ranking import Ranking, first_at, last_at, pure_until, rank, resolved_completeness
from lensfind.evaluation.scores import checked

__all__ = ["choose_threshold"]


def choose_threshold(label: ArrayLike, p_lens: ArrayLike, goal: str | Mapping[str, float]) -> float:
    """The threshold that reaches a goal on these objects, meant to be those of the validation split.

    Args:
        label: (N,), 0 or 1, both present.
        p_lens: (N,), P(lens) in [0, 1].
        goal: ``"f1"`` for the highest F1; ``{"fpr": x}`` for the highest true positive rate with no more than that
            false positive rate; ``{"purity": x, "prevalence": y}`` for the highest with that purity at that prevalence.
            Of thresholds that find equally many lenses, the one with the fewest false positives.

    Returns:
        A threshold for found = P(lens) > threshold, half-way between the neighbouring values of P(lens) that it parts,
        so that rounding does not move an object across. (Neighbouring floats have nothing between: then the lower.)

    Raises:
        LensfindError: See :func:`lensfind.evaluation.scores.scores`; the goal is unknown, one class is missing, or the
            objects cannot reach or resolve the goal.
    """
    r = rank(*checked(label, p_lens))
    if not r.n_lenses or not r.n_others:
        raise LensfindError(
            "lenses and non-lenses to choose a threshold on",
            f"{r.n_lenses} lenses and {r.n_others} non-lenses",
            "Choose validation rows with both classes, or give threshold=0.5.",
        )
    match goal:
        case "f1":
            f1 = 2 * r.tp[0] / np.maximum(r.tp[0] + r.fp[0] + r.n_lenses, 1)
            if r.p[-1] == 0:
                f1[-1] = -1  # P(lens) = 0 is above no threshold
            head = int(np.argmax(f1))
        case {"fpr": float(fpr)} if len(goal) == 1 and 0 < fpr < 1:
            head = _at_fpr(r, fpr)
        case {"purity": float(purity), "prevalence": float(prevalence)} if (
            len(goal) == 2 and 0 < purity < 1 and 0 < prevalence < 1
        ):
            head = _at_purity(r, purity, prevalence)
        case _:
            raise LensfindError(
                'a goal "f1", {fpr: x} or {purity: x, prevalence: y} with numbers between 0 and 1',
                repr(goal),
                "Set threshold={fpr: 1e-3}, for example.",
            )
    # The same lenses with the fewest others: the head ends with a group that holds a lens.
    head = int(first_at(r.tp, r.tp[0, head])[0])
    if not head or (head == r.p.size and r.p[-1] == 0):
        raise LensfindError(
            f"a threshold with {goal} that finds a lens",
            "none: a non-lens ranks above every lens, or every lens has P(lens) 0",
            "Choose another goal (threshold=f1) or train for longer.",
        )
    lower = r.p[head] if head < r.p.size else 0.0
    middle = (lower + r.p[head - 1]) / 2
    return float(middle if middle < r.p[head - 1] else lower)


def _at_fpr(r: Ranking, fpr: float) -> int:
    if r.n_others * fpr * (1 + 1e-12) < 1:
        raise LensfindError(
            f"at least {np.ceil((1 - 1e-9) / fpr):.0f} non-lenses for a threshold of false positive rate {fpr:g}",
            f"{r.n_others}",
            "Use more validation rows, or set threshold={fpr: " + f"{1 / r.n_others:.1g}" + "}.",
        )
    return int(last_at(r.fp, r.n_others * fpr)[0])


def _at_purity(r: Ranking, purity: float, prevalence: float) -> int:
    head = int(pure_until(r, purity, prevalence)[0])
    least = resolved_completeness(r, purity, prevalence)
    if r.tp[0, head] / r.n_lenses * (1 + 1e-12) < least:
        rate = 1 / (least * r.n_others) * max(int(r.tp[0, head]), 1) / r.n_lenses
        raise LensfindError(
            f"a threshold with purity {purity:g} at prevalence {prevalence:g}, which takes a false positive rate of "
            f"{rate:.2g}",
            f"{r.n_others} non-lenses, which resolve none below {1 / r.n_others:.2g}",
            "Use more validation rows, or a lower purity (threshold={purity: 0.1, prevalence: "
            + f"{prevalence:g}"
            + "}).",
        )
    return head
