"""LSSD's claims, each measured by hand on crafted records, supported by some and contradicted by others."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest

from kdutils.papers.lssd.claims import CLAIMS
from kdutils.papers.lssd.experiment import EXPERIMENTS
from kdutils.study import claims
from kdutils.study.experiment import resolve

SIZES = {"es": 10, "ko": 30, "de": 90}
# validation losses after five epochs: without LSSD es is best after 2, ko after 3, de after 5; all together after 3
CURVES = {
    "baseline": {
        "": [4.0, 3.0, 2.8, 2.9, 2.85],
        "es": [3.0, 2.0, 2.5, 3.0, 3.5], "ko": [4.0, 3.5, 3.0, 3.2, 3.3], "de": [5.0, 4.0, 3.0, 2.5, 2.0],
    },
    "lssd": {  # together after 4
        "": [4.0, 3.0, 2.9, 2.7, 2.8],
        "es": [3.0, 2.0, 2.1, 2.2, 2.4], "ko": [4.0, 3.5, 3.0, 3.0, 3.1], "de": [5.0, 4.0, 3.0, 2.5, 2.4],
    },
}  # fmt: skip
TAUGHT = {"es": [0, 0, 0, 1, 2], "ko": [0, 0, 0, 0, 1], "de": [0, 0, 0, 0, 0]}
BLEU = {  # of es, ko and de
    "baseline": (10.0, 20.0, 30.0), "baseline_compute": (10.5, 20.5, 30.5), "lssd": (13.0, 21.5, 30.0),
    "overall": (11.0, 21.0, 31.0), "individual": (10.0, 19.0, 31.0), "whole": (12.0, 21.0, 30.0),
    "released": (12.5, 20.0, 29.0),
}  # fmt: skip


def record(seed: int = 1, **settings) -> dict:
    """A record in which every claim holds, but for the sweeps."""
    arms = {}
    for arm, bleu in BLEU.items():
        curves = CURVES["lssd" if arm == "lssd" else "baseline"]
        rows = [
            {
                "kind": "eval",
                "update": 10 * epoch,
                "epoch": 2 * epoch,
                **{_name("smoothed_loss", one): v[epoch] for one, v in curves.items()},
            }
            for epoch in range(5)
        ]
        for epoch, row in enumerate(rows if arm == "lssd" else ()):
            row |= {f"taught_{one}": float(counts[epoch]) for one, counts in TAUGHT.items()}
        metrics = {f"test_bleu_{one}": score for one, score in zip(SIZES, bleu, strict=True)}
        metrics |= {"test_bleu": sum(bleu) / 3, "test_smoothed_loss": 2.0 if arm == "lssd" else 2.5}
        metrics["validation_smoothed_loss"] = min(curves[""])
        metrics |= {"own_best_bleu": 20.5, "average_bleu": 21.25}
        train = {"kind": "train", "update": 15, "epoch": 1, "smoothed_loss_es": 0.0, "taught_es": 99.0}
        arms[arm] = {"metrics": metrics, "history": [*rows[:2], train, *rows[2:]]}
    data = {"train_rows": dict(SIZES)}
    return {
        "seed": seed,
        "settings": {"languages": list(SIZES), "teacher_age": 2, "temperature": 1.0, "epoch_rows": 0, **settings},
        "arms": arms,
        "provenance": {"data": data},
    }


def _name(score: str, language: str) -> str:
    return f"{score}_{language}" if language else score


def evaluations(one: dict, arm: str) -> list[dict]:
    return [row for row in one["arms"][arm]["history"] if row["kind"] == "eval"]


def claim(name: str) -> claims.Claim:
    return next(one for one in CLAIMS if one.id == name)


def swapped(one: dict, arm: str = "baseline") -> dict:
    """LSSD and another arm have changed their places."""
    arms = one["arms"]
    return {**one, "arms": {**arms, "lssd": arms[arm], arm: arms["lssd"]}}


def reversed_sizes(one: dict) -> dict:
    """The smallest language is the largest."""
    return {**one, "provenance": {"data": {"train_rows": dict(zip(SIZES, (90, 30, 10), strict=True))}}}


def noisy(one: dict) -> dict:
    """All languages are at their best in the same epoch, which is another one in each seed."""
    one = copy.deepcopy(one)
    for epoch, row in enumerate(evaluations(one, "baseline")):
        row |= {f"smoothed_loss_{language}": 1.0 if epoch == one["seed"] else 2.0 for language in SIZES}
    return one


def controls_win(one: dict) -> dict:
    """The best students of each language need no distillation."""
    one = copy.deepcopy(one)
    one["arms"]["baseline"]["metrics"] |= {"own_best_bleu": 30.0, "average_bleu": 30.0}
    return one


# what each claim measures in `record`, and a record that contradicts it
MEASURED = {
    "L1a": (2.0, noisy), "L1b": (3.0, reversed_sizes), "L1c": (1.0, reversed_sizes),
    "L2": (0.3 - 1.5, swapped), "L3": (0.0, swapped), "L4a": (1.5, swapped), "L4b": (1.5, swapped),
    "L4d": (-0.5, swapped),
    "L4c": (1.0, lambda one: swapped(one, "baseline_compute")), "L5": (0.5, lambda one: swapped(one, "overall")),
    "L6a": (-1.0, reversed_sizes), "L8": (0.4 - 1.5, swapped),
    "L4o": (1.0, controls_win), "L4m": (0.25, controls_win), "L10": (0.5, lambda one: swapped(one, "whole")),
    "LR": (1.0, lambda one: swapped(one, "released")),
    "L9": (1.5, lambda one: swapped(one, "individual")),
}  # fmt: skip


@pytest.mark.parametrize("name", MEASURED)
def test_each_claim_measures_what_a_hand_finds_and_can_fail(name):
    number, contradicting = MEASURED[name]
    records = [record(seed) for seed in (1, 2, 3)]
    assert claim(name).measure(records) == pytest.approx(dict.fromkeys((1, 2, 3), number))
    alone = replace(claim(name), needs=(), published=None)  # what must hold before is tried below
    assert claims.grade(alone, records).verdict == claims.SUPPORTED
    grade = claims.grade(alone, [contradicting(one) for one in records])
    assert grade.verdict == claims.CONTRADICTED, grade


def test_every_claim_is_tried_here():
    assert [one.id for one in CLAIMS if one.id not in MEASURED] == ["L7a", "L7b"]


def sweep(losses: dict[float, float], seeds=(1, 2, 3)) -> list[dict]:
    """Records over weights whose LSSD has these validation losses; the baseline's fall with the weight."""
    found = []
    for weight, loss in losses.items():
        for seed in seeds:
            found.append(record(seed, alpha=weight))
            for arm, number in (("lssd", loss), ("baseline", -weight)):
                found[-1]["arms"][arm]["metrics"]["validation_smoothed_loss"] = number
    return found


def test_a_sweep_compares_the_best_above_one_with_the_best_below():
    """An alpha of 1 is on neither side, and 0 is no distillation."""
    high, low = sweep({0.25: 3.0, 1.0: 0.1, 2.5: 2.0, 5.0: 2.2}), sweep({0.0: 0.1, 0.25: 2.0, 0.5: 1.9, 2.5: 3.0})
    for found, number in ((high, -1.0), (low, 1.1), (low[::-1], 1.1)):
        for name in ("L7a", "L7b"):
            assert claim(name).measure(found) == pytest.approx(dict.fromkeys((1, 2, 3), number))
    verdicts = [claims.grade(claim(name), found).verdict for found in (high, low) for name in ("L7a", "L7b")]
    assert verdicts == [claims.SUPPORTED, claims.CONTRADICTED, claims.CONTRADICTED, claims.SUPPORTED]


def test_a_sweep_needs_both_sides_and_takes_the_seeds_that_have_all():
    for weights in ({0.5: 1.0, 1.0: 0.5}, {1.0: 1.0, 2.5: 0.5}, {0.0: 1.0, 2.5: 0.5}):
        assert claim("L7a").measure(sweep(weights)) == {}
    some = sweep({0.5: 1.0, 1.0: 0.8}) + sweep({2.5: 0.5}, seeds=(2, 3))
    assert claim("L7a").measure(some) == {2: -0.5, 3: -0.5}
    assert claims.grade(claim("L7a"), [record(seed) for seed in (1, 2, 3)]).verdict == claims.NOT_RUN


@pytest.mark.parametrize("broken", [0.25, 0.5, 2.5, 5.0])
def test_a_sweep_in_which_a_run_diverged_has_no_best_weight(broken):
    records = sweep({weight: math.nan if weight == broken else weight for weight in (0.25, 0.5, 2.5, 5.0)})
    assert math.isnan(claim("L7a").measure(records)[1])
    assert claims.grade(claim("L7a"), records).verdict == claims.INCONCLUSIVE


@pytest.mark.parametrize("language", SIZES)
def test_the_least_gain_is_that_of_the_language_that_gains_least(language):
    one, other = record(), record()
    one["arms"]["lssd"]["metrics"][f"test_bleu_{language}"] = 5.0
    lost = 5.0 - one["arms"]["baseline"]["metrics"][f"test_bleu_{language}"]
    assert claim("L3").measure([one]) == {1: lost}
    other["arms"]["lssd"]["metrics"][f"test_bleu_{language}"] = math.nan
    assert math.isnan(claim("L3").measure([other])[1])


def test_the_language_that_gains_least_is_the_same_in_all_seeds():
    """es gains 3, -5 and 3, on average more than de, which gains nothing: one bad seed does not choose it."""
    records = [record(seed) for seed in (1, 2, 3)]
    records[1]["arms"]["lssd"]["metrics"]["test_bleu_es"] = 5.0
    assert claim("L3").measure(records) == {1: 0.0, 2: 0.0, 3: 0.0}
    records[1]["arms"]["lssd"]["metrics"]["test_bleu_es"] = 1.0
    assert claim("L3").measure(records) == {1: 3.0, 2: -9.0, 3: 3.0}


def test_the_span_is_what_exceeds_the_noise_between_the_seeds():
    """Best epochs (2, 3, 5), (1, 3, 5), (2, 3, 4): mean gaps 2, 8/3, 4/3; between seeds es and de 2/3, ko 0."""
    records = [record(seed) for seed in (1, 2, 3)]
    evaluations(records[1], "baseline")[0]["smoothed_loss_es"] = 1.0
    evaluations(records[2], "baseline")[3]["smoothed_loss_de"] = 1.0
    noise = 4 / 9
    assert claim("L1a").measure(records) == pytest.approx({1: 2 - noise, 2: 8 / 3 - noise, 3: 4 / 3 - noise})
    assert claim("L1a").measure(records[:1]) == {}


def test_ties_are_read_by_the_first_epoch_and_constants_have_no_rank():
    tied = record()
    for row in evaluations(tied, "baseline"):
        row |= {f"smoothed_loss_{language}": 1.0 for language in SIZES}
    assert claim("L1b").measure([tied]) == claim("L1c").measure([tied]) == {1: 0.0}
    equal = {**record(), "provenance": {"data": {"train_rows": dict.fromkeys(SIZES, 5)}}}
    assert claim("L1c").measure([equal]) == claim("L6a").measure([equal]) == {1: 0.0}


def past_its_best(one: dict) -> dict:
    """de, too, is at its best before the end, and es is taught in half of the epochs: all that the claims need."""
    one = copy.deepcopy(one)
    for arm in one["arms"]:
        evaluations(one, arm)[-1]["smoothed_loss_de"] = 2.6
    return one


def test_the_headline_needs_languages_past_their_best_teachers_that_speak_and_data_read_often():
    """de's loss still falls; read 8 times; es taught in 2 of 5 epochs."""
    records = [record(seed) for seed in (1, 2, 3)]
    headline = replace(claim("L4a"), published=None)
    grade = claims.grade(headline, records)
    assert grade.verdict == claims.NOT_TESTABLE and "past its best epoch" in grade.reason
    whole = [past_its_best(one) for one in records]
    assert claims.grade(headline, whole).verdict == claims.SUPPORTED
    seldom = copy.deepcopy(whole)
    for one in seldom:
        for row in evaluations(one, "baseline"):
            row["epoch"] = 4
    assert "read at least 5 times" in claims.grade(headline, seldom).reason
    silent = copy.deepcopy(whole)
    for one in silent:
        evaluations(one, "lssd")[-1].update(taught_es=0.0, taught_ko=0.0)
    assert "teachers speak" in claims.grade(headline, silent).reason


def test_a_gain_of_one_selection_alone_is_not_supported():
    """The last weights are tested as well; here LSSD is behind there."""
    records = [past_its_best(record(seed)) for seed in (1, 2, 3)]
    for one in records:
        for arm, result in one["arms"].items():
            result["metrics"] |= {"last_test_bleu": 25.0 if arm == "baseline" else 24.0}
    grade = claims.grade(claim("L4a"), records)
    assert grade.verdict == claims.INCONCLUSIVE and "The two selections disagree" in grade.reason


@pytest.mark.parametrize("name", [one.id for one in CLAIMS])
@pytest.mark.parametrize("arms", [["lssd"], ["baseline"], ["lssd", "baseline"], ["overall", "individual"]])
def test_records_without_an_arm_are_graded_and_crash_nothing(name, arms):
    few = [{**record(seed), "arms": {arm: record(seed)["arms"][arm] for arm in arms}} for seed in (1, 2, 3)]
    for records in (few, few[:1], few[:2], [], sweep({0.5: 1.0}) + few[:1]):
        grade = claims.grade(claim(name), records)
        assert grade.reason and "\n" not in grade.reason


@pytest.mark.parametrize("name", [*MEASURED, "L7a"])
def test_a_record_without_any_evaluation_crashes_nothing(name):
    silent = [record(seed) for seed in (1, 2, 3)]
    for one in silent:
        for arm in one["arms"].values():
            arm["history"] = []
    assert claims.grade(claim(name), silent).reason


@pytest.mark.parametrize("name", ["L1a", "L1b", "L1c", "L2", "L6a", "L8"])
def test_a_seed_that_diverged_is_no_number(name):
    records = [record(seed) for seed in (1, 2, 3)]
    for arm in ("baseline", "lssd"):
        for language in ("", *SIZES):
            evaluations(records[0], arm)[-1][_name("smoothed_loss", language)] = math.nan
    assert claims.grade(replace(claim(name), needs=()), records).verdict == claims.INCONCLUSIVE


def test_claims_belong_to_their_direction():
    into = {"L4a", "L4c", "L4o", "L2", "L1b", "L7a", "L10", "LR"}
    for experiment, absent in zip(EXPERIMENTS, ({"L4b", "L7b"}, into), strict=True):
        found = {one.id for one in claims.about(CLAIMS, experiment.name)}
        assert found == {one.id for one in CLAIMS} - absent
    assert {one.id: one.over for one in CLAIMS if one.over} == {"L7a": ("alpha",), "L7b": ("alpha",)}
    published = {"L4a": 1.77, "L4b": 0.70, "L5": 0.68, "L10": 0.20}
    assert {one.id: one.published for one in CLAIMS if one.published} == published
    ranks = [one.rank for one in CLAIMS]
    assert ranks.count("headline") == 1 and ranks.count("table") <= 5
    assert all(one.paper and one.unit and one.statement.endswith(".") for one in CLAIMS)


def test_the_papers_own_settings_are_in_the_table():
    """Section 4.1 and Algorithm 1; learning rate, warm-up and length are those of the scripts."""
    shared = {
        "temperature": 1.0, "width": 512, "layers": 6, "heads": 8, "feedforward": 2048, "dropout": 0.3, "warmup": 4000,
        "label_smoothing": 0.1, "smoothing_convention": "others", "learning_rate": 2e-3, "schedule": "inverse_sqrt",
        "weight_decay": 0.0, "clip": 0.0, "max_tokens": 8192, "accumulation": 8, "updates": 200_000, "beams": 5,
        "teacher_age": 2, "form": "paper", "eval_every": 0, "level": "sentence", "select_by": "smoothed_loss",
        "languages": ["bs", "mr", "hi", "mk", "el", "bg", "fr", "ko"], "pivot": "en",
    }  # fmt: skip
    own = {"many_to_one": (2.0, "adaptive", 2.5), "one_to_many": (0.6, "whole", 0.5)}
    for experiment in EXPERIMENTS:
        s = resolve([experiment], "paper")[experiment.name]
        assert {name: s[name] for name in shared} == shared
        assert (s.alpha, s.gate, s.released_alpha) == own[experiment.name]
        assert all(setting.meaning for setting in experiment.settings.settings.values())
        beds = ("demo", "grammar", "small", "study")
        assert {experiment.settings.resolve(preset).dropout for preset in beds} == {0.3}
