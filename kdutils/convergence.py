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

from scipy.stats import spearmanr

from kdutils.claims import Record, Values, by_seed, history, logged, paired
from kdutils.errors import unknown


def sizes(record: Record) -> dict[str, int]:
    """Training pairs of each language in a record."""
    return record["provenance"]["data"]["train_rows"]


def validation_curves(record: Record, arm: str) -> dict[str, list[float]]:
    """Language -> its validation loss V_l after each epoch (fact L2, in nats). Raises UserError where there is none."""
    return {one: _curve(record, arm, f"smoothed_loss_{one}") for one in record["settings"]["languages"]}


def _curve(record: Record, arm: str, metric: str) -> list[float]:
    if curve := history(record, arm, metric)[1]:
        return curve
    raise unknown("logged eval metric", metric, logged([record], arm, "eval"))


def convergence_epochs(record: Record, arm: str) -> dict[str, int]:
    """Language -> the epoch of its lowest validation loss, counted from 1; the first where there are several."""
    return {language: curve.index(min(curve)) + 1 for language, curve in validation_curves(record, arm).items()}


def distance_to_best(record: Record, arm: str) -> float:
    """sum_l V_l(e*) - min_e V_l(e), with e* the epoch of the lowest overall loss: what one checkpoint for all costs."""
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
    """Latest minus earliest convergence epoch of the languages, less the mean span of one language over the seeds."""
    having = [record for record in records if "baseline" in record["arms"] and _finite(record, "baseline")]
    epochs = [convergence_epochs(record, "baseline") for record in having]
    if len(epochs) < 2:
        return {}
    spans = [max(found[one] for found in epochs) - min(found[one] for found in epochs) for one in epochs[0]]
    noise = sum(spans) / len(spans)
    return measured("baseline", lambda r, arm: _span(convergence_epochs(r, arm)) - noise)(records)


def _span(epochs: dict[str, int]) -> int:
    return max(epochs.values()) - min(epochs.values())


def overfitting(record: Record, arm: str) -> float:
    """How far the smallest language's loss has risen from its lowest to the end."""
    own = sizes(record)
    curve = validation_curves(record, arm)[min(own, key=own.get)]
    return curve[-1] - min(curve)


def _finite(record: Record, arm: str) -> bool:
    """Whether every validation loss of an arm is a number; claims are not graded by others."""
    curves = [_curve(record, arm, "smoothed_loss"), *validation_curves(record, arm).values()]
    return all(math.isfinite(loss) for curve in curves for loss in curve)
