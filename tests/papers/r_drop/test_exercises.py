"""The exercises on R-Drop: right, wrong and missing answers, and that no message gives an answer away."""

from __future__ import annotations

import re

import pytest
import torch
from torch.nn import functional as F

from kdutils.losses.divergences import symmetric_kl
from kdutils.notebook.exercises import kept
from kdutils.papers.r_drop.exercises import DROPOUT, EXERCISES, IDENTICAL
from tests import exercise_checks
from tests.exercise_checks import told_right, told_what_to_do, told_wrong


def closed_form(one, two):
    return ((one.softmax(-1) - two.softmax(-1)) * (one - two)).sum(-1).mean() / 2


def with_log_softmax(one, two):
    p, q = one.log_softmax(-1), two.log_softmax(-1)
    return sum(F.kl_div(a, b, log_target=True, reduction="batchmean") for a, b in ((p, q), (q, p))) / 2


def with_log_of_softmax(one, two):
    p, q = one.softmax(-1), two.softmax(-1)
    return ((p - q) * (p / q).log()).sum(-1).mean() / 2


RIGHT = {
    "symmetric_kl": [symmetric_kl, closed_form, with_log_softmax],
    "dropout": [DROPOUT[0]],
    "alpha": [4, 4.0, torch.tensor(4.0), 3.99],
    "identical": [IDENTICAL[1]],
}
WRONG = {
    "symmetric_kl": [
        lambda one, two: 2 * closed_form(one, two),
        lambda one, two: closed_form(one, two).expand(5),
        lambda one, two: F.kl_div(one.log_softmax(-1), two.softmax(-1), reduction="batchmean"),
        with_log_of_softmax,
        lambda one: one,
        0.5,
    ],
    "dropout": DROPOUT[1:],
    "alpha": [0.5, 8, 2, 1, float("nan"), "eight", [8]],
    "identical": [IDENTICAL[0], IDENTICAL[2]],
}
# What would give an answer away: the right option, the right number, the code.
AWAY = {
    "symmetric_kl": r"softmax|z_|<p|log_",
    "dropout": re.escape(DROPOUT[0]),
    "alpha": r"(?<![(\d.])4(?![)\d])|\bfour\b|\bsum\b",
    "identical": re.escape(f'"{IDENTICAL[1]}"') + r"|\bis zero\b",
}


def said(capsys, name, answer) -> str:
    return exercise_checks.said(capsys, f"r_drop.{name}", answer)


@pytest.mark.parametrize(("name", "answer"), [(name, one) for name, all_ in RIGHT.items() for one in all_])
def test_a_right_answer_is_told_so_with_a_reason(capsys, name, answer):
    told_right(capsys, f"r_drop.{name}", answer)


@pytest.mark.parametrize(("name", "answer"), [(name, one) for name, all_ in WRONG.items() for one in all_])
def test_a_wrong_answer_gets_the_hint_and_not_the_answer(capsys, name, answer):
    told_wrong(capsys, f"r_drop.{name}", answer, AWAY[name])


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("answer", [..., None])
def test_an_untouched_cell_says_what_to_do(capsys, name, answer):
    told_what_to_do(capsys, f"r_drop.{name}", answer, AWAY[name])


def test_a_function_that_is_not_written_yet_counts_as_untouched(capsys):
    def answer(one, two): ...

    assert said(capsys, "symmetric_kl", answer).startswith("… not answered yet")
    assert said(capsys, "symmetric_kl", lambda one, two: ...).startswith("… not answered yet")


def test_a_naive_logarithm_is_found_out_by_large_logits_alone(capsys):
    assert "On logits in the thousands it returns nan or infinity." in said(capsys, "symmetric_kl", with_log_of_softmax)


def test_a_prediction_that_is_no_option_is_offered_the_options(capsys):
    out = said(capsys, "identical", "nothing")
    assert "Choose one of" in out and all(option in out for option in IDENTICAL)


def test_a_prediction_tells_what_happened_in_numbers(capsys):
    assert re.search(r"is 0 nats at dropout 0 and 0\.\d+ nats at 0\.5", said(capsys, "dropout", DROPOUT[2]))
    out = said(capsys, "identical", IDENTICAL[0])
    first, second = re.search(r"norm (\d\.\d+) with alpha = 5 and (\d\.\d+) with alpha = 0", out).groups()
    assert first == second != "0.0000"


def test_checking_leaves_the_random_numbers_of_the_reader_alone():
    before = torch.get_rng_state()
    for name, answers in RIGHT.items():
        EXERCISES[name].test(answers[0])
    assert torch.equal(before, torch.get_rng_state())


def test_the_exercises_are_found_by_their_full_names():
    assert [kept(f"r_drop.{name}") for name in EXERCISES] == list(EXERCISES.values())
    assert sum(bool(exercise.options) for exercise in EXERCISES.values()) == 2
