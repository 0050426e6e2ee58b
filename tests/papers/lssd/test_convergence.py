"""When each language is at its best, and what one checkpoint for all costs: from crafted records."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from kdutils.core.errors import UserError
from kdutils.papers.lssd.convergence import (
    after_the_last_best,
    by_size,
    convergence_epochs,
    distance_to_best,
    epochs_taught,
    later,
    least_gain,
    measured,
    most_taught,
    overfitting,
    passes_over_the_largest,
    sizes,
    span_beyond_noise,
    sweep_sides,
    validation_curves,
)
from kdutils.study import claims
from kdutils.study.claims import Claim, grade

NAN = math.nan
SIZES = {"es": 200, "fr": 500, "ko": 1000}
CURVES = {"es": [5.0, 3.0, 3.5, 3.75, 4.5], "fr": [6.0, 4.0, 2.0, 2.0, 2.25], "ko": [7.0, 6.0, 5.0, 3.0, 4.0]}
OVERALL = [6.0, 4.5, 3.0, 3.25, 3.0]
TAUGHT = {"es": [0, 0, 1, 2, 3], "fr": [0, 0, 0, 0, 1], "ko": [0, 0, 0, 0, 0]}


def evaluations(curves=CURVES, overall=OVERALL, taught=TAUGHT) -> list[dict]:
    """The history of an arm, with a row of training between two evaluations."""
    rows = []
    for epoch, loss in enumerate(overall):
        own = {f"smoothed_loss_{one}": curve[epoch] for one, curve in curves.items()}
        own |= {f"taught_{one}": float(counts[epoch]) for one, counts in taught.items()}
        rows.append({"kind": "train", "update": 10 * epoch + 5, "loss": 0.0, "smoothed_loss_es": 0.0, "taught_es": 99})
        rows.append({"kind": "eval", "update": 10 * epoch + 10, "smoothed_loss": loss, "loss": -loss, **own})
    return rows


def record(seed: int = 1, own_sizes=SIZES, **arms) -> dict:
    """A record with the histories of some arms; a baseline of CURVES where none is given."""
    made = {name: {"history": rows, "metrics": {}} for name, rows in (arms or {"baseline": evaluations()}).items()}
    data = {"train_rows": own_sizes}
    return {"seed": seed, "settings": {"languages": list(own_sizes)}, "arms": made, "provenance": {"data": data}}


def converging(**epochs: int) -> list[dict]:
    """A history in which each language is at its best after so many epochs of ten."""
    curves = {one: [abs(best - epoch) + 1.0 for epoch in range(1, 11)] for one, best in epochs.items()}
    return evaluations(curves, [sum(losses) for losses in zip(*curves.values(), strict=True)], {})


# ---------------------------------------------------------------- one record


def test_the_curves_are_those_of_the_evaluations_in_the_order_of_the_languages():
    assert validation_curves(record(), "baseline") == CURVES
    assert list(validation_curves(record(own_sizes=dict(reversed(SIZES.items()))), "baseline")) == ["ko", "fr", "es"]
    assert sizes(record()) == SIZES


def test_a_language_converges_in_the_first_epoch_of_its_lowest_loss_counted_from_1():
    assert convergence_epochs(record(), "baseline") == {"es": 2, "fr": 3, "ko": 4}


def test_the_distance_is_summed_at_the_first_epoch_of_the_lowest_overall_loss():
    """Overall it is epoch 3: es is 0.5 above its best there, fr at it, ko 2 above."""
    assert distance_to_best(record(), "baseline") == pytest.approx(2.5)
    last = [*OVERALL[:-1], 2.0]
    assert distance_to_best(record(baseline=evaluations(overall=last)), "baseline") == pytest.approx(1.5 + 0.25 + 1.0)


def test_the_distance_is_0_where_all_are_at_their_best_together():
    together = evaluations(dict.fromkeys(SIZES, OVERALL))
    assert distance_to_best(record(baseline=together), "baseline") == 0.0
    draw = np.random.default_rng(0)
    for _ in range(20):
        curves = {one: draw.uniform(1, 9, 5).tolist() for one in SIZES}
        assert distance_to_best(record(baseline=evaluations(curves)), "baseline") >= 0.0


def test_epochs_taught_are_those_of_the_last_evaluation():
    assert epochs_taught(record(lssd=evaluations())) == {"es": 3, "fr": 1, "ko": 0}
    assert epochs_taught(record(other=evaluations()), "other") == {"es": 3, "fr": 1, "ko": 0}
    assert all(type(count) is int for count in epochs_taught(record(lssd=evaluations())).values())


def test_overfitting_is_the_rise_of_the_smallest_language():
    assert overfitting(record(), "baseline") == pytest.approx(1.5)
    assert overfitting(record(own_sizes={"es": 9, "fr": 5, "ko": 9}), "baseline") == pytest.approx(0.25)
    assert overfitting(record(own_sizes={"ko": 5, "es": 9, "fr": 9}), "baseline") == pytest.approx(1.0)


def test_later_is_by_how_much_the_largest_converges_after_the_smallest():
    assert later(record(), "baseline") == 2
    assert later(record(own_sizes={"es": 500, "fr": 100, "ko": 200}), "baseline") == 2 - 3
    assert later(record(own_sizes={"ko": 100, "es": 200, "fr": 500}), "baseline") == 3 - 4


@pytest.mark.parametrize("number", [convergence_epochs, epochs_taught], ids=lambda f: f.__name__)
def test_by_size_is_the_rank_correlation_with_the_sizes(number):
    """Whatever the order in which sizes and numbers come."""
    for own in (SIZES, {"ko": 3, "es": 1, "fr": 2}, {"es": 30, "fr": 10, "ko": 20}, {"es": 7, "fr": 7, "ko": 9}):
        crafted = record(own_sizes=own)
        crafted["settings"]["languages"] = sorted(SIZES)
        numbers = number(crafted, "baseline")
        expected = spearmanr([own[one] for one in SIZES], [numbers[one] for one in SIZES]).statistic
        assert by_size(number)(crafted, "baseline") == pytest.approx(expected)


def test_by_size_rises_from_minus_1_to_1_and_is_0_for_a_constant():
    def correlation(own, **epochs):
        return by_size(convergence_epochs)(record(own_sizes=own, baseline=converging(**epochs)), "baseline")

    assert correlation(SIZES, es=2, fr=3, ko=9) == pytest.approx(1.0)
    assert correlation(SIZES, es=9, fr=3, ko=2) == pytest.approx(-1.0)
    assert correlation(SIZES, es=4, fr=4, ko=4) == 0.0
    assert correlation(dict.fromkeys(SIZES, 5), es=2, fr=3, ko=9) == 0.0


# ---------------------------------------------------------------- several records


def test_measured_is_a_number_of_each_seed_that_has_the_arm():
    records = [record(3), record(1, lssd=evaluations()), record(2)]
    assert measured("baseline", distance_to_best)(records) == pytest.approx({3: 2.5, 2: 2.5})
    assert measured("lssd", lambda found, arm: epochs_taught(found, arm)["es"])(records) == {1: 3.0}
    assert measured("overall", distance_to_best)(records) == measured("lssd", later)([]) == {}


def test_measured_over_another_arm_is_the_difference_seed_by_seed():
    flat = evaluations({one: [2.0, 1.0, 1.0, 1.0, 1.25] for one in SIZES})
    both = [record(seed, baseline=evaluations(), lssd=flat) for seed in (1, 2)]
    records = [*both, record(3), record(4, lssd=flat)]
    found = measured("lssd", overfitting, "baseline")(records)
    assert found == pytest.approx({1: 0.25 - 1.5, 2: 0.25 - 1.5})
    assert measured("baseline", overfitting, "lssd")(records) == pytest.approx({1: 1.25, 2: 1.25})


def test_the_span_is_between_two_languages_less_that_of_one_language_between_two_seeds():
    """Over seeds, es 2, 3, 2 differ by 1, 0, 1; fr not at all; ko 9, 7, 10 by 2, 1, 3: on average (2/3 + 0 + 2) / 3."""
    epochs = [{"es": 2, "fr": 4, "ko": 9}, {"es": 3, "fr": 4, "ko": 7}, {"es": 2, "fr": 4, "ko": 10}]
    records = [record(seed, baseline=converging(**own)) for seed, own in zip((7, 1, 3), epochs, strict=True)]
    expected = {7: (2 + 7 + 5) / 3 - 8 / 9, 1: (1 + 4 + 3) / 3 - 8 / 9, 3: (2 + 8 + 6) / 3 - 8 / 9}
    assert span_beyond_noise(records) == pytest.approx(expected)
    others = [record(8, lssd=converging(es=1, fr=1, ko=1)), *records]
    assert span_beyond_noise(others) == span_beyond_noise(records)


def test_one_seed_or_one_language_has_nothing_to_compare_with():
    alone = [record(seed, {"es": 9}, baseline=converging(es=seed)) for seed in (1, 2)]
    for records in ([record()], [], [record(lssd=evaluations())], alone):
        assert span_beyond_noise(records) == {}
    assert span_beyond_noise([record(1), record(2)]) == pytest.approx({1: 4 / 3, 2: 4 / 3})


def diverged(seed: int) -> dict:
    return record(seed, baseline=evaluations({**CURVES, "es": [5.0, NAN, NAN, NAN, NAN]}))


def test_a_seed_that_diverged_is_no_noise_to_the_others():
    records = [record(1, baseline=converging(es=2, fr=4, ko=9)), record(2, baseline=converging(es=3, fr=4, ko=7))]
    found = span_beyond_noise([*records, diverged(3)])
    assert math.isnan(found.pop(3)) and found == span_beyond_noise(records)


def test_the_same_record_twice_is_one_seed():

    records = [record(1, baseline=converging(es=2, fr=4, ko=9)), record(2, baseline=converging(es=3, fr=4, ko=7))]
    assert span_beyond_noise([records[0], *records]) == span_beyond_noise(records)
    assert span_beyond_noise([records[0], records[0]]) == {}


@pytest.mark.parametrize("number", [measured("baseline", later), span_beyond_noise])
@pytest.mark.parametrize("first", [record, diverged])
def test_seeds_that_diverged_are_inconclusive_even_where_too_few_are_left(number, first):

    records = [first(1), diverged(2), diverged(3)]
    assert grade(Claim("L", "It holds.", number), records).verdict == claims.INCONCLUSIVE


def test_what_follows_the_last_best_epoch_is_a_share_of_the_epochs():
    """Best after 2, 3 and 4 of 5 epochs: one follows. Where the last epoch is the best of one, nothing follows."""
    assert after_the_last_best(record(), "baseline") == pytest.approx(0.2)
    rising = record(baseline=evaluations({**CURVES, "ko": [7.0, 6.0, 5.0, 4.5, 4.0]}))
    assert after_the_last_best(rising, "baseline") == 0.0


def test_the_language_that_is_taught_most_says_whether_anybody_is():
    assert most_taught(record(lssd=evaluations())) == pytest.approx(3 / 5)
    assert most_taught(record(lssd=evaluations(taught={one: [0] * 5 for one in SIZES}))) == 0.0


SAMPLED = [(1.0, 0, 6.0), (1.0, 170, 0.6), (math.inf, 300, 0.6)]


@pytest.mark.parametrize(("temperature", "epoch_rows", "passes"), SAMPLED)
def test_the_largest_language_is_read_as_often_as_the_sampling_takes_it(temperature, epoch_rows, passes):
    """1,000 of 1,700 pairs. Whole epochs take each once; 170 take 100 of them; as many of each of three, also 100."""
    found = record()
    found["settings"] |= {"temperature": temperature, "epoch_rows": epoch_rows}
    for row in found["arms"]["baseline"]["history"]:
        row["epoch"] = row["update"] // 10 + 1
    assert passes_over_the_largest(found, "baseline") == pytest.approx(passes)


def scored(seed: int, settings: dict | None = None, **arms) -> dict:
    """A record of es and ko whose arms have these metrics."""
    made = {name: {"metrics": metrics} for name, metrics in arms.items()}
    return {"seed": seed, "settings": {"languages": ["es", "ko"], **(settings or {})}, "arms": made}


def gains(es: dict[int, float], ko: dict[int, float]) -> list[dict]:
    base = {"bleu_es": 10.0, "bleu_ko": 20.0, "chrf_es": 0.0}
    return [scored(n, lssd={"bleu_es": 10.0 + es[n], "bleu_ko": 20.0 + ko[n]}, baseline=base) for n in es]


def test_the_least_gain_is_that_of_one_language_in_all_seeds():
    """Not the least of each seed, which is lower by chance."""
    found = least_gain("bleu", "lssd", "baseline")
    assert found(gains({1: 1.0, 2: 3.0}, {1: 2.0, 2: -1.0})) == pytest.approx({1: 2.0, 2: -1.0})
    assert found(gains({1: -1.0, 2: 0.5}, {1: 2.0, 2: -0.5})) == pytest.approx({1: -1.0, 2: 0.5})
    assert found([]) == {}


@pytest.mark.parametrize("broken", [{"es": {1: NAN}, "ko": {1: 1.0}}, {"es": {1: 1.0}, "ko": {1: NAN}}], ids=str)
def test_a_gain_that_is_no_number_is_the_least(broken):
    assert math.isnan(least_gain("bleu", "lssd", "baseline")(gains(**broken))[1])


def swept(losses: dict[float, float], seed: int = 1) -> list[dict]:
    return [scored(seed, {"alpha": weight}, lssd={"loss": loss}) for weight, loss in losses.items()]


def test_the_sides_of_a_sweep_are_the_lowest_above_less_the_lowest_below():
    found = sweep_sides("loss", "lssd", "alpha")
    records = swept({0.0: -9.0, 0.25: 3.0, 0.5: 2.5, 1.0: -9.0, 2.5: 2.0, 5.0: 2.25})
    assert found(records) == {1: -0.5}
    assert found(records + swept({0.5: 1.0, 2.5: 4.0}, seed=2)) == {1: -0.5}  # seed 2 lacks some weights


def test_a_sweep_needs_both_sides_and_every_weight():
    found = sweep_sides("loss", "lssd", "alpha")
    assert found(swept({1.0: 1.0, 2.0: 1.0})) == found(swept({0.0: 1.0, 2.0: 1.0})) == found(swept({0.5: 1.0})) == {}
    both = swept({0.5: 1.0, 2.0: 3.0}) + swept({0.5: 1.0, 2.0: 4.0}, 2) + swept({0.5: 1.0}, 3)
    assert found(both) == {1: 2.0, 2: 3.0}
    assert math.isnan(found(swept({0.5: NAN, 0.75: 1.0, 2.0: 3.0}))[1])
    assert sweep_sides("loss", "lssd", "alpha", 3.0)(swept({0.5: 1.0, 2.0: 0.5, 4.0: 5.0})) == {1: 4.5}


NUMBERS = [
    measured("baseline", distance_to_best), measured("baseline", overfitting), measured("baseline", later),
    measured("baseline", by_size(convergence_epochs)), span_beyond_noise,
]  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("broken", [[NAN, 3.0, 3.5, 3.75, 4.5], [5.0, NAN, 3.5, 3.75, 4.5], [5.0, 3.0, 3.5, 3.75, NAN]])
def test_a_loss_that_is_no_number_makes_no_claim(number, broken):
    """Nor does it give way to the numbers of the other epochs."""
    bad = evaluations({**CURVES, "es": broken})
    records = [record(1), record(2, baseline=bad), record(3)]
    assert grade(Claim("L", "It holds.", number), records).verdict == claims.INCONCLUSIVE


@pytest.mark.parametrize("number", [*NUMBERS, measured("baseline", lambda r, arm: epochs_taught(r, arm)["es"])])
def test_an_arm_without_a_history_is_not_run(number):
    records = [record(seed, baseline=[]) for seed in (1, 2, 3)]
    assert grade(Claim("L", "It holds.", number), records).verdict in (claims.NOT_RUN, claims.INCONCLUSIVE)


@pytest.mark.parametrize("number", NUMBERS)
def test_two_records_of_one_seed_that_disagree_are_refused(number):
    """The same record twice is none of that."""
    curves = {"es": [5.0, 4.0, 3.5, 3.25, 3.5], "fr": [2.0, 3.0, 3.5, 4.0, 4.0], "ko": [1.0, 2.0, 2.5, 3.0, 3.5]}
    other = record(1, baseline=evaluations(curves))
    with pytest.raises(UserError, match="seed 1 disagree"):
        number([record(1), other, record(2)])
    assert number([record(1), record(1), record(2)]) == number([record(1), record(2)])
