"""The exercises on Intra-Distillation: right, wrong and missing answers, and that no message gives an answer away."""

from __future__ import annotations

import itertools
import math
import re

import pytest
import torch

from kdutils.losses.divergences import js_divergence, symmetric_kl, x_divergence
from kdutils.notebook.exercises import kept
from kdutils.papers.intra_distillation.exercises import EXERCISES, GROWTH, RESEEDED, UNITS
from tests import exercise_checks
from tests.exercise_checks import told_right, told_what_to_do, told_wrong


def covariance(z):
    p = z.softmax(-1)
    return ((p - p.mean(0)) * (z - z.mean(0))).mean(0).sum(-1).mean()


def with_the_mean(z):
    logp = z.log_softmax(-1)
    log_mean = logp.logsumexp(0) - math.log(len(z))
    return ((logp.exp() - log_mean.exp()) * (logp - log_mean)).sum(-1).mean()


def all_pairs(z):
    pairs = itertools.combinations(z, 2)
    return sum(2 * symmetric_kl(p, q) for p, q in pairs) / len(z) ** 2


def with_log_of_softmax(z):
    p = z.softmax(-1)
    return ((p - p.mean(0)) * (p.log() - p.mean(0).log())).sum(-1).mean()


RIGHT = {
    "x": [x_divergence, covariance, with_the_mean, all_pairs, lambda z: covariance(z.float())],
    "fair": [10 / 3, 3.33, 3.3, torch.tensor(3.333)],
    "growth": ["4/3 times"],
    "units": [UNITS[1]],
    "reseeded": [RESEEDED[1]],
}
WRONG = {
    "x": [
        lambda z: len(z) * covariance(z),
        lambda z: z.shape[1] * covariance(z),
        lambda z: covariance(z[:2]),
        lambda z: covariance(z).expand(5),
        js_divergence,
        with_log_of_softmax,
        lambda z: z,
        0.5,
    ],
    "fair": [5, 2.5, 3.75, 20 / 3, 7.5, 10, float("nan"), "ten thirds", [3.33]],
    "growth": [one for one in GROWTH if one != "4/3 times"],
    "units": [UNITS[0], *UNITS[2:]],
    "reseeded": [RESEEDED[0], RESEEDED[2]],
}
# What would give an answer away: the right option, the right number, the code.
AWAY = {
    "x": r"softmax|logsumexp|<p|log_|[Cc]ov|raw",
    "fair": r"3\.3|10/3|2/3|\(K - 1\)",
    "growth": r"4/3 times|1\.3\d",
    "units": rf"\b{UNITS[1]}\b|\b[Oo]nly\b",
    "reseeded": re.escape(RESEEDED[1]) + r"|\bsingle\b|\bnothing\b",
}


def said(capsys, name, answer) -> str:
    return exercise_checks.said(capsys, f"intra_distillation.{name}", answer)


@pytest.mark.parametrize(("name", "answer"), [(name, one) for name, all_ in RIGHT.items() for one in all_])
def test_a_right_answer_is_told_so_with_a_reason(capsys, name, answer):
    told_right(capsys, f"intra_distillation.{name}", answer)


@pytest.mark.parametrize(("name", "answer"), [(name, one) for name, all_ in WRONG.items() for one in all_])
def test_a_wrong_answer_gets_the_hint_and_not_the_answer(capsys, name, answer):
    told_wrong(capsys, f"intra_distillation.{name}", answer, AWAY[name])


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("answer", [..., None])
def test_an_untouched_cell_says_what_to_do(capsys, name, answer):
    told_what_to_do(capsys, f"intra_distillation.{name}", answer, AWAY[name])


def test_a_function_that_is_not_written_yet_counts_as_untouched(capsys):
    def answer(z): ...

    assert said(capsys, "x", answer).startswith("… not answered yet")


def test_a_naive_logarithm_is_found_out_by_large_logits_alone(capsys):
    assert "On logits in the thousands it returns nan or infinity." in said(capsys, "x", with_log_of_softmax)


def test_a_divergence_that_needs_two_different_passes_is_found_out(capsys):
    """0/0 where all passes agree."""
    out = said(capsys, "x", lambda z: all_pairs(z) ** 2 / all_pairs(z))
    assert "On three identical passes it returns nan or infinity." in out


def test_a_prediction_that_is_no_option_is_offered_the_options(capsys):
    out = said(capsys, "growth", "twice")
    assert "Choose one of" in out and all(option in out for option in GROWTH)


def numbers(text: str) -> list[float]:
    return [float(one) for one in re.findall(r"\d+\.\d+", text)]


def test_the_draws_are_enough_to_tell_four_thirds_from_the_other_options(capsys):
    two, three, two_error, three_error = numbers(said(capsys, "growth", "the same"))
    assert "200 draws" in EXERCISES["growth"].test("the same")[1] and two_error > 0
    error = three / two * math.hypot(two_error / two, three_error / three)
    apart = {name: abs(value - three / two) / error for name, value in GROWTH.items()}
    assert apart.pop("4/3 times") < 3 and min(apart.values()) > 8


def test_bits_scale_the_raw_spread_and_leave_the_other(capsys):
    std, std_bits, cv, cv_bits = numbers(said(capsys, "units", UNITS[3]))
    assert std_bits / std == pytest.approx(1 / math.log(2), rel=1e-3) and cv == cv_bits > 1


def test_passes_from_one_random_state_leave_the_cross_entropy(capsys):
    loss, norm, cross_entropy, its_norm = numbers(said(capsys, "reseeded", RESEEDED[0]))
    assert loss == cross_entropy > 1 and norm == its_norm > 0.1


def test_checking_leaves_the_random_numbers_of_the_reader_alone():
    before = torch.get_rng_state()
    for name, answers in RIGHT.items():
        EXERCISES[name].test(answers[0])
    assert torch.equal(before, torch.get_rng_state())


def test_the_exercises_are_found_by_their_full_names():
    assert [kept(f"intra_distillation.{name}") for name in EXERCISES] == list(EXERCISES.values())
    assert sum(bool(exercise.options) for exercise in EXERCISES.values()) == 3
