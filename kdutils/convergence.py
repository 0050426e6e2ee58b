"""When each language of a multilingual translator is at its best, from the records of its training.

>>> convergence_epochs(record, "baseline")
{'es': 17, 'de': 26}
>>> distance_to_best(record, "baseline")                   # nats, summed over the languages
0.107

An epoch is the time between two evaluations; they count from 1. Losses are label-smoothed, in nats a token.
"""

from __future__ import annotations

from collections.abc import Callable

from scipy.stats import spearmanr

from kdutils.claims import Record, Values, history, paired


def sizes(record: Record) -> dict[str, int]:
    """Training pairs of each language in a record."""
    return record["provenance"]["data"]["train_rows"]


def validation_curves(record: Record, arm: str) -> dict[str, list[float]]:
    """Language -> its validation loss V_l after each epoch (fact L2, in nats)."""
    return {one: history(record, arm, f"smoothed_loss_{one}")[1] for one in record["settings"]["languages"]}


def convergence_epochs(record: Record, arm: str) -> dict[str, int]:
    """Language -> the epoch of its lowest validation loss, counted from 1; the first where there are several."""
    return {language: curve.index(min(curve)) + 1 for language, curve in validation_curves(record, arm).items()}


def distance_to_best(record: Record, arm: str) -> float:
    """sum_l V_l(e*) - min_e V_l(e), with e* the epoch of the lowest overall loss: what one checkpoint for all costs."""
    overall = history(record, arm, "smoothed_loss")[1]
    chosen = overall.index(min(overall))
    return sum(curve[chosen] - min(curve) for curve in validation_curves(record, arm).values())


def epochs_taught(record: Record, arm: str = "lssd") -> dict[str, int]:
    """Language -> the number of epochs in which it was distilled, as the training counted them."""
    return {one: int(history(record, arm, f"taught_{one}")[1][-1]) for one in record["settings"]["languages"]}


def measured(arm: str, number: Callable[[Record, str], float], over: str = ""):
    """A number of each record's arm, seed by seed; minus that of another arm where one is named."""

    def one(records: list[Record], name: str) -> Values:
        return {record["seed"]: float(number(record, name)) for record in records if name in record["arms"]}

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
    epochs = [convergence_epochs(record, "baseline") for record in records if "baseline" in record["arms"]]
    if len(epochs) < 2:
        return {}
    spans = [max(found[one] for found in epochs) - min(found[one] for found in epochs) for one in epochs[0]]
    noise = sum(spans) / len(spans)
    seeds = [record["seed"] for record in records if "baseline" in record["arms"]]
    return {seed: max(e.values()) - min(e.values()) - noise for seed, e in zip(seeds, epochs, strict=True)}


def overfitting(record: Record, arm: str) -> float:
    """How far the smallest language's loss has risen from its lowest to the end."""
    own = sizes(record)
    curve = validation_curves(record, arm)[min(own, key=own.get)]
    return curve[-1] - min(curve)
