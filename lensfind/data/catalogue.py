"""The lens rule, which makes labels out of catalogue columns, and the splits into train, val and test."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from lensfind.errors import LensfindError

__all__ = ["PARTS", "assign_splits", "check_split", "lens_labels"]

PARTS = ("train", "val", "test")

_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


def lens_labels(catalogue: Table, rule: str) -> NDArray[np.int64]:
    """Labels (N,), int64, 1 where ``rule`` holds.

    Args:
        catalogue: N rows.
        rule: Comparisons of numeric columns and numbers with ``and``, ``or``, ``not`` and parentheses, e.g. that of
            Wilde et al. 2022: ``"n_source_im > 0 and mag_eff > 1.6 and n_pix_source > 20"``. It is parsed, never run.
            A comparison with a blank or NaN is false (so ``not`` of it is true).

    Raises:
        LensfindError: The rule is anything else, or names a column that is missing or not numeric.

    >>> lens_labels(Table({"mag_eff": [1.2, 3.4, float("nan")]}), "mag_eff > 1.6").tolist()
    [0, 1, 0]
    """
    if not isinstance(rule, str):
        raise _bad_rule(str(rule), "not text")
    try:
        tree = ast.parse(rule.strip(), mode="eval").body
        return _truth(tree, catalogue, rule).astype(np.int64)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:  # of the parser
        raise _bad_rule(rule, str(error)) from error


def _bad_rule(rule: str, why: str) -> LensfindError:
    return LensfindError(
        "a lens rule of comparisons, and, or, not, parentheses, columns and numbers",
        f"{rule[:100]!r} ({why})",
        "Set data.lens_rule, e.g. data.lens_rule='n_source_im > 0 and mag_eff > 1.6'.",
    )


def _truth(node: ast.expr, catalogue: Table, rule: str) -> NDArray[np.bool_]:
    if isinstance(node, ast.BoolOp):
        join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return np.asarray(join.reduce([_truth(value, catalogue, rule) for value in node.values]))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_truth(node.operand, catalogue, rule)
    if isinstance(node, ast.Compare) and all(type(op) in _COMPARE for op in node.ops):
        terms = [_number(term, catalogue, rule) for term in (node.left, *node.comparators)]
        true = np.ones(len(catalogue), dtype=bool)
        for op, left, right in zip(node.ops, terms, terms[1:], strict=False):  # a < b < c
            true &= _COMPARE[type(op)](left, right) & ~np.isnan(left) & ~np.isnan(right)
        return true
    raise _bad_rule(rule, f"{ast.unparse(node)!r:.60} is not a comparison")


def _number(node: ast.expr, catalogue: Table, rule: str) -> NDArray[np.float64]:
    """A column or a number as float64, with NaN for blanks."""
    if isinstance(node, ast.Name):
        if node.id not in catalogue.colnames:
            raise LensfindError(
                f"a catalogue with the column {node.id}, which the lens rule {rule[:100]!r} uses",
                f"only {', '.join(catalogue.colnames)}",
                "Change data.lens_rule, or use the catalogue that has it.",
            )
        column = catalogue[node.id]
        if column.dtype.kind not in "iufb" or column.ndim != 1:
            raise _bad_rule(rule, f"column {node.id} is {column.dtype}, not numeric")
        return np.where(getattr(column, "mask", False), np.nan, np.asarray(column, dtype=np.float64))
    sign = 1.0
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        sign, node = (-1.0 if isinstance(node.op, ast.USub) else 1.0), node.operand
    if isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        return np.asarray(sign * float(node.value))  # type: ignore[arg-type]
    raise _bad_rule(rule, f"{ast.unparse(node)!r:.60} is neither a column nor a number")


_SPLITS: Mapping[str, Mapping[str, Any]] = {  # kind -> keys and their defaults
    "fraction": {"train": 0.0, "val": 0.0, "test": 0.0, "seed": 0},
    "rows": {"train": 0, "val": 0, "test": 0},
    "column": {"column": "split"},
    "none": {},
}


def assign_splits(labels: NDArray[np.integer[Any]], split: Mapping[str, Any], catalogue: Table) -> NDArray[np.str_]:
    """Part of each row, (N,): ``"train"``, ``"val"``, ``"test"`` or ``"unused"``.

    Args:
        labels: (N,), 0 or 1.
        split: One of

            - ``{kind: fraction, train: 0.8, val: 0.1, test: 0.1, seed: 0}``: at random, the same fractions of lenses
              and of non-lenses (largest remainder); what a sum below 1 leaves is unused. Where the catalogue has a
              column ``pair``, rows of one pair (0 or more) come into one part;
            - ``{kind: rows, train: 45000, val: 3000, test: 12000}``: in catalogue order, as Wilde et al. 2022 did; the
              rest is unused;
            - ``{kind: column, column: split}``: a text column with these words;
            - ``{kind: none}``: everything is test.
        catalogue: N rows; only ``kind: column`` reads it.

    Raises:
        LensfindError: Unknown kind, key or word; fractions or rows out of range; more rows than there are; a part that
            is asked for or has rows, but no lens or no non-lens (``kind: none`` excepted).
    """
    options = check_split(split)
    labels = np.asarray(labels)
    parts = np.full(len(labels), "unused")
    if split["kind"] == "none":
        parts[:] = "test"
        return parts
    if split["kind"] == "fraction":
        rng = np.random.default_rng(options["seed"])
        fractions = np.array([options[part] for part in PARTS])
        group = _groups(catalogue, len(labels))
        for rows in _strata(labels, group):
            rows = rng.permutation(rows)
            ends = np.cumsum(_counts(len(rows), fractions))
            for part, first, last in zip(PARTS, [0, *ends], ends, strict=False):
                parts[rows[first:last]] = part
        parts = parts[group]
    elif split["kind"] == "rows":
        ends = np.cumsum([options[part] for part in PARTS])
        if ends[-1] > len(labels):
            raise LensfindError(
                f"at least {ends[-1]} rows for split {dict(split)}",
                f"{len(labels)}",
                "Use more data, fewer rows (data.split.train=N, also val and test), or split=fraction.",
            )
        for part, first, last in zip(PARTS, [0, *ends], ends, strict=False):
            parts[first:last] = part
    else:
        parts = _from_column(catalogue, options["column"])
    for part in PARTS:
        lenses, size = int(labels[parts == part].sum()), int(np.sum(parts == part))
        if (size or options.get(part)) and lenses in (0, size):
            raise LensfindError(
                f"lenses and non-lenses in the split {part}",
                f"{lenses} lenses among {size} rows",
                "Use more data, another data.lens_rule or data.split.seed, or set that part to 0.",
            )
    return parts


def _groups(catalogue: Table, n: int) -> NDArray[np.int64]:
    """For each row the first row of its pair, or itself: (n,)."""
    if "pair" not in catalogue.colnames or catalogue["pair"].dtype.kind not in "iu":
        return np.arange(n)
    pair = np.asarray(catalogue["pair"].filled(-1) if hasattr(catalogue["pair"], "filled") else catalogue["pair"])
    _, first, inverse = np.unique(pair, return_index=True, return_inverse=True)
    return np.asarray(np.where(pair >= 0, first[inverse], np.arange(n)), dtype=np.int64)


def _strata(labels: NDArray[np.integer[Any]], group: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows to be shared out, those of each label by themselves; of a pair only its first row, in their own stratum."""
    alone = np.bincount(group, minlength=len(labels))[group] == 1
    first = (group == np.arange(len(labels))) & ~alone
    strata = [np.flatnonzero(alone & (labels == label)) for label in (0, 1)]
    return [rows for rows in (*strata, np.flatnonzero(first)) if len(rows)]


def _counts(total: int, fractions: NDArray[np.float64]) -> NDArray[np.int64]:
    """``total * fractions`` in whole numbers by largest remainder; their sum is ``total`` if that of fractions is 1."""
    shares = np.append(fractions, max(0.0, 1.0 - fractions.sum())) * total
    shares = np.where(np.abs(shares - np.rint(shares)) < 1e-9 * max(total, 1), np.rint(shares), shares)
    counts = np.floor(shares).astype(np.int64)
    order = np.argsort(counts - shares, kind="stable")  # largest remainder first, train before val before test
    counts[order[: total - counts.sum()]] += 1
    parts: NDArray[np.int64] = counts[: len(fractions)]
    return parts


def check_split(split: Mapping[str, Any]) -> dict[str, Any]:
    """The split with its defaults filled in, or the LensfindError that :func:`assign_splits` tells of."""
    kind = split.get("kind")
    if not isinstance(kind, str) or kind not in _SPLITS:
        raise LensfindError(
            f"a split of kind {', '.join(_SPLITS)}", f"{kind!r:.60}", "Choose with split=fraction|paper|..."
        )
    defaults = _SPLITS[kind]
    unknown = [str(key) for key in split if key != "kind" and key not in defaults]
    if unknown:
        raise LensfindError(
            f"for the split of kind {kind} no keys but {', '.join(defaults) or 'kind'}",
            ", ".join(unknown),
            "Correct the spelling of data.split.",
        )
    options = {**defaults, **split}
    numbers = [options[part] for part in PARTS if part in defaults]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers)
    if kind == "fraction" and not (
        numeric and all(0 <= value <= 1 for value in numbers) and 0 < sum(numbers) <= 1 + 1e-9
    ):
        raise LensfindError(
            "fractions from 0 to 1 with a sum above 0 and at most 1", f"{dict(split)}", "Set data.split."
        )
    if kind == "fraction" and (type(options["seed"]) is not int or options["seed"] < 0):
        raise LensfindError("a seed of 0 or more", f"{options['seed']!r:.60}", "Set data.split.seed=0.")
    if kind == "rows" and not (all(type(value) is int and value >= 0 for value in numbers) and sum(numbers) > 0):
        raise LensfindError("counts of rows, 0 or more, not all 0", f"{dict(split)}", "Set data.split.")
    return options


def _from_column(catalogue: Table, name: str) -> NDArray[np.str_]:
    if name not in catalogue.colnames:
        raise LensfindError(
            f"a catalogue with the column {name}, which the split uses",
            f"only {', '.join(catalogue.colnames)}",
            "Name it with data.split.column=NAME, or use split=fraction.",
        )
    column = catalogue[name]
    words = np.asarray(column.filled("unused") if hasattr(column, "filled") else column)
    if words.dtype.kind == "S":
        words = np.char.decode(words)
    words = np.char.strip(words) if words.dtype.kind == "U" else words.astype(str)
    words = np.where(words == "", "unused", words)
    odd = sorted(set(words.tolist()) - {*PARTS, "unused"})
    if odd:
        raise LensfindError(
            f"train, val, test or blank in column {name}", f"{', '.join(odd[:5])}", "Correct the column."
        )
    return words
