"""When each language of a multilingual translator is at its best, from the records of its training.

>>> convergence_epochs(record, "baseline")
{'es': 17, 'de': 26}
>>> distance_to_best(record, "baseline")                   # nats, summed over the languages
0.107

An epoch is the time between two evaluations; they count from 1. Losses are label-smoothed, in nats a token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
from scipy.stats import spearmanr

from kdutils.core.errors import unknown
from kdutils.papers.lssd.multilingual import virtual_epoch
from kdutils.study.measures import Record, Values, by_seed, history, logged, paired, paired_difference, sweep_setting


def sizes(record: Record) -> dict[str, int]:
    """Training pairs of each language in a record."""
    return record["provenance"]["data"]["train_rows"]


def validation_curves(record: Record, arm: str) -> dict[str, list[float]]:
    """Language -> its validation loss L_l^dev after each epoch, in nats. Raises UserError without one."""
    return {one: _curve(record, arm, f"smoothed_loss_{one}") for one in record["settings"]["languages"]}


def _curve(record: Record, arm: str, metric: str) -> list[float]:
    if curve := history(record, arm, metric)[1]:
        return curve
    raise unknown("logged eval metric", metric, logged([record], arm, "eval"))


def convergence_epochs(record: Record, arm: str) -> dict[str, int]:
    """Language -> the epoch of its lowest validation loss, counted from 1; the first where there are several."""
    return {language: curve.index(min(curve)) + 1 for language, curve in validation_curves(record, arm).items()}


def distance_to_best(record: Record, arm: str) -> float:
    """The performance deficit DUB (8), in nats: the loss at the overall best epoch (2) above each language's lowest."""
    overall = _curve(record, arm, "smoothed_loss")
    chosen = overall.index(min(overall))
    return sum(curve[chosen] - min(curve) for curve in validation_curves(record, arm).values())


def epochs_taught(record: Record, arm: str = "lssd") -> dict[str, int]:
    """Language -> the number of epochs in which it was distilled, as the training counted them."""
    return {one: int(_curve(record, arm, f"taught_{one}")[-1]) for one in record["settings"]["languages"]}


def measured(arm: str, number: Callable[[Record, str], float], over: str = ""):
    """A number of each record's arm, seed by seed; minus that of another arm where one is named.

    A seed with a validation loss that is not finite gives NaN.
    """

    def one(records: list[Record], name: str) -> Values:
        having = [record for record in records if name in record["arms"]]
        return by_seed(((r["seed"], float(number(r, name)) if _finite(r, name) else math.nan) for r in having), name)

    return lambda records: paired(one(records, arm), one(records, over)) if over else one(records, arm)


def by_size(number: Callable[[Record, str], dict[str, float]]):
    """The rank correlation of the languages' sizes with a number of theirs; 0 where one of both is constant."""

    def correlation(record: Record, arm: str) -> float:
        own, numbers = sizes(record), number(record, arm)
        if len(set(own.values())) < 2 or len(set(numbers.values())) < 2:
            return 0.0
        return float(spearmanr([own[one] for one in numbers], list(numbers.values())).statistic)

    return correlation


def later(record: Record, arm: str) -> float:
    """Epochs by which the largest language converges after the smallest."""
    own, epochs = sizes(record), convergence_epochs(record, arm)
    return epochs[max(own, key=own.get)] - epochs[min(own, key=own.get)]


def span_beyond_noise(records: list[Record]) -> Values:
    """How far apart the best epochs of two languages lie in a seed, less how far those of one language in two seeds.

    Both are means over pairs, so that neither grows with the number of languages or of seeds. {} for fewer than two of
    either.
    """
    having = {record["seed"]: record for record in records if "baseline" in record["arms"]}
    epochs = [convergence_epochs(record, "baseline") for record in having.values() if _finite(record, "baseline")]
    if len(having) < 2 or (epochs and len(epochs[0]) < 2):
        return {}
    if len(epochs) < 2:  # the others diverged
        return dict.fromkeys(having, math.nan)
    noise = [_mean_gap([found[language] for found in epochs]) for language in epochs[0]]
    usual = sum(noise) / len(noise)
    return measured("baseline", lambda r, arm: _mean_gap([*convergence_epochs(r, arm).values()]) - usual)(records)


def _mean_gap(numbers: list[int]) -> float:
    """The mean distance of two of them."""
    gaps = [abs(a - b) for a, b in combinations(numbers, 2)]
    return sum(gaps) / len(gaps)


def overfitting(record: Record, arm: str) -> float:
    """How far the smallest language's loss has risen from its lowest to the end."""
    own = sizes(record)
    curve = validation_curves(record, arm)[min(own, key=own.get)]
    return curve[-1] - min(curve)


def after_the_last_best(record: Record, arm: str) -> float:
    """The share of the epochs that follow the best epoch of the language that is at its best last."""
    curves = validation_curves(record, arm)
    return 1 - max(convergence_epochs(record, arm).values()) / len(next(iter(curves.values())))


def most_taught(record: Record, arm: str = "lssd") -> float:
    """The share of the epochs in which the language was taught that was taught most."""
    return max(epochs_taught(record, arm).values()) / len(_curve(record, arm, "smoothed_loss"))


def passes_over_the_largest(record: Record, arm: str) -> float:
    """How often the training pairs of the largest language were read, by the sampling of virtual epochs."""
    own, s = sizes(record), record["settings"]
    largest = max(own, key=own.get)
    taken = virtual_epoch(own, s["temperature"], s["epoch_rows"])[largest]
    return max(row["epoch"] for row in record["arms"][arm]["history"]) * taken / own[largest]


def least_gain(metric: str, ours: str, theirs: str):
    """The gain in `<metric>_<language>` of the language that gains least on average, seed by seed."""

    def measure(records: list[Record]) -> Values:
        names = sorted({one for record in records for one in record["settings"]["languages"]})
        gains = [paired_difference(records, f"{metric}_{one}", ours, theirs) for one in names]
        return min((found for found in gains if found), key=_mean_or_least, default={})

    return measure


def _mean_or_least(found: Values) -> float:
    mean = float(np.mean([*found.values()]))
    return mean if math.isfinite(mean) else -math.inf  # a seed that diverged must be seen


def sweep_sides(metric: str, arm: str, setting: str, middle: float = 1.0):
    """The lowest value of a sweep above the middle less the lowest below it (0 left out), seed by seed."""

    def measure(records: list[Record]) -> Values:
        points = sweep_setting(records, metric, arm, setting)
        sides = [
            [found for x, found in points.items() if side(x)] for side in (middle.__lt__, lambda x: 0 < x < middle)
        ]
        if not all(sides):
            return {}
        seeds = set.intersection(*(set(found) for found in sum(sides, [])))
        return {seed: float(np.subtract(*(np.min([f[seed] for f in own]) for own in sides))) for seed in sorted(seeds)}

    return measure


def _finite(record: Record, arm: str) -> bool:
    """Whether every validation loss of an arm is a number; claims are not graded by others."""
    curves = [_curve(record, arm, "smoothed_loss"), *validation_curves(record, arm).values()]
    return all(math.isfinite(loss) for curve in curves for loss in curve)
