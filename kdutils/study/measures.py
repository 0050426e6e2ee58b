"""Numbers of recorded runs, one for each seed: metrics, differences, curves, sweeps.

>>> paired_difference(records, "test_bleu", "r_drop", "baseline")
{1: 8.4, 2: 9.2, 3: 3.1}
"""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from scipy import stats

from kdutils.core.errors import UserError, unknown
from kdutils.study.results import Record

Values = dict[int, float]  # seed -> number
Measure = Callable[[Sequence[Record]], Values]


def value(records: Sequence[Record], arm: str, metric: str) -> Values:
    """The final `metric` of `arm` in each seed: {seed: number}; {} when there are no records.

    A number that is missing in some seeds is NaN there, so that a diverged run stays visible. Raises
    UserError when no record has the arm or the metric, or when two records of one seed disagree.
    """
    metrics = [(record["seed"], record["arms"][arm].get("metrics", {})) for record in _with_arm(records, arm)]
    known = sorted({name for _, scores in metrics for name in scores})
    if metrics and metric not in known:
        near = difflib.get_close_matches(metric, known, n=1, cutoff=0.75)
        raise UserError(f"'{metric}' was not measured here." + (f" Did you mean '{near[0]}'?" if near else ""))
    return by_seed(((seed, as_float(scores.get(metric))) for seed, scores in metrics), f"{arm}'s {metric}")


def paired_difference(records: Sequence[Record], metric: str, arm_a: str, arm_b: str) -> Values:
    """`metric` of arm_a minus that of arm_b, seed by seed, over the seeds that have both."""
    return paired(value(records, arm_a, metric), value(records, arm_b, metric))


def paired(a: Values, b: Values, how: Callable[[float, float], float] = operator.sub) -> Values:
    """Combines two quantities seed by seed (difference by default, operator.truediv for a ratio)."""
    return {seed: _safely(how, a[seed], b[seed]) for seed in sorted(a.keys() & b.keys())}


def with_last_weights(records: Sequence[Record]) -> list[Record]:
    """The records as if the last weights had been tested instead of those that the validation chose.

    A run that tested both has "last_test_bleu" beside "test_bleu". [] where a record has not.
    """
    swapped = []
    for record in records:
        arms = {}
        for name, arm in record.get("arms", {}).items():
            metrics = arm.get("metrics", {})
            last = {metric.removeprefix("last_"): x for metric, x in metrics.items() if metric.startswith("last_")}
            if not last:
                return []
            arms[name] = {**arm, "metrics": {**metrics, **last}}
        swapped.append({**record, "arms": arms})
    return swapped if any(record["arms"] for record in swapped) else []


def plateau(arm: str, metric: str, share: float = 0.2) -> Measure:
    """A measure: by how much `metric` still moves at the end of a run, in its own units, up or down.

    It is the mean over the last fifth of the evaluations, compared with that over the fifth before, for a single
    evaluation is noise.
    """

    def moved(curve: list[float]) -> float:
        n = max(1, round(share * len(curve)))
        return abs(float(np.mean(curve[-n:]) - np.mean(curve[-2 * n : -n])))

    return lambda records: from_history(records, arm, metric, moved)


def passes_over_data(arm: str) -> Measure:
    """A measure: how often a run has read its training data."""
    return lambda records: from_history(records, arm, "epoch", max)


def gain(metric: str, ours: str, theirs: str) -> Measure:
    """A measure: `metric` of one arm minus that of another, seed by seed."""
    return lambda records: paired_difference(records, metric, ours, theirs)


def change(arm: str, metric: str) -> Measure:
    """A measure: the last evaluation of a metric minus the first, seed by seed."""
    return lambda records: from_history(records, arm, metric, lambda curve: curve[-1] - curve[0])


def history(record: Record, arm: str, metric: str, kind: str = "eval") -> tuple[list[int], list[float]]:
    """Updates at which `metric` was logged in rows of `kind` ("train" or "eval"), and its values there."""
    rows = record["arms"][arm].get("history", [])
    rows = [row for row in rows if row.get("kind") == kind and metric in row]
    return [int(row["update"]) for row in rows], [as_float(row[metric]) for row in rows]


def from_history(
    records: Sequence[Record], arm: str, metric: str, summary: Callable[[list[float]], float], kind: str = "eval"
) -> Values:
    """One number a seed from a curve: `min` (best loss), `lambda v: v[-1] - min(v)` (rise after the minimum).

    A seed without the curve, or with a value in it that is not finite, gives NaN. Raises UserError when no
    record logged the metric.
    """
    curves = [(record["seed"], history(record, arm, metric, kind)[1]) for record in _with_arm(records, arm)]
    if records and not any(curve for _, curve in curves):
        raise unknown(f"logged {kind} metric", metric, logged(records, arm, kind))
    numbers = ((seed, _safely(summary, c) if c and np.isfinite(c).all() else math.nan) for seed, c in curves)
    return by_seed(numbers, f"{arm}'s {metric}")


def sweep_setting(records: Sequence[Record], metric: str, arm: str, setting: str) -> dict[float, Values]:
    """A sweep over a setting: {x: {seed: number}} of runs in which `setting` is x."""
    groups: dict[float, list[Record]] = {}
    for record in records:
        if setting in record.get("settings", {}) and arm in record["arms"]:
            groups.setdefault(record["settings"][setting], []).append(record)
    return {x: value(groups[x], arm, metric) for x in sorted(groups)}


def sweep_gain(
    records: Sequence[Record], metric: str, ours: str, theirs: str, setting: str
) -> list[tuple[float, Values]]:
    """[(x, {seed: ours - theirs})] over the x of a sweep at which both arms were run, in ascending order.

    For numbers of rows 0 stands last: it means all there are.
    """
    one, other = (sweep_setting(records, metric, arm, setting) for arm in (ours, theirs))
    shared = sorted(one.keys() & other.keys(), key=lambda x: x or math.inf)
    return [(x, paired(one[x], other[x])) for x in shared]


def trend(points: Mapping[float, Values]) -> Values:
    """Spearman's rank correlation of a sweep's x with its value, seed by seed: 1 rises, -1 falls throughout.

    A constant sweep has trend 0. Needs three points; fewer give {} (not run).
    """
    return {seed: _rank_correlation(list(points), column) for seed, column in _columns(points).items()}


def peak_inside(points: Mapping[float, Values], low: float, high: float) -> Values:
    """Highest value with low <= x <= high minus the highest outside, seed by seed: above 0 if inside wins."""
    inside = np.array([low <= x <= high for x in points])
    if inside.all() or not inside.any():
        return {}
    columns = {seed: np.array(column) for seed, column in _columns(points).items()}
    return {seed: float(c[inside].max() - c[~inside].max()) for seed, c in columns.items()}


def _columns(points: Mapping[float, Values]) -> dict[int, list[float]]:
    """Seed -> its values in the order of x, for the seeds that have every point of three or more."""
    seeds = set.intersection(*map(set, points.values())) if len(points) >= 3 else set()
    return {seed: [points[x][seed] for x in points] for seed in sorted(seeds)}


def _rank_correlation(x: list[float], y: list[float]) -> float:
    if not all(map(math.isfinite, y)):
        return math.nan
    return float(stats.spearmanr(x, y).statistic) if len(set(y)) > 1 else 0.0


def _with_arm(records: Sequence[Record], arm: str) -> list[Record]:
    having = [record for record in records if arm in record["arms"]]
    if records and not having:
        held = ", ".join(sorted({name for record in records for name in record["arms"]})) or "none"
        raise UserError(f"The arm '{arm}' was not recorded here; these were: {held}.")  # so a claim on it is not run
    return having


def logged(records: Sequence[Record], arm: str, kind: str) -> list[str]:
    """Names of the metrics in the history rows of `kind` of an arm."""
    rows = [row for r in _with_arm(records, arm) for row in r["arms"][arm].get("history", [])]
    names = {name for row in rows if row.get("kind") == kind for name in row}
    return sorted(names - {"update", "kind", "seconds"})


def by_seed(pairs: Iterable[tuple[int, float]], what: str) -> Values:
    """Refuses two different numbers for one seed: they come from different settings and must not be mixed."""
    found: Values = {}
    for seed, number in pairs:
        if repr(found.setdefault(seed, number)) != repr(number):  # repr, because NaN differs from itself
            raise UserError(f"Two records of seed {seed} disagree on {what}: grade one setting at a time.")
    return found


def as_float(value: float | None) -> float:
    """A number of a record; NaN for one that is missing."""
    return math.nan if value is None else float(value)


def _safely(function: Callable[..., float], *arguments) -> float:
    try:
        return float(function(*arguments))
    except ZeroDivisionError:
        return math.nan
