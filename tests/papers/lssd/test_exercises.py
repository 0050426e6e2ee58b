"""The exercises on LSSD: right, wrong and missing answers, and that no message gives an answer away."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from kdutils.notebook.exercises import kept
from kdutils.papers.lssd.exercises import EXERCISES, HALVED, ITSELF
from tests import exercise_checks
from tests.exercise_checks import told_right, told_what_to_do, told_wrong


def switched(losses, *, ties=False, at_once=False):
    """Algorithm 1 as printed."""
    on, best, taught = False, math.inf, []
    for epoch, loss in enumerate([*losses, 0.0], start=1):
        if on or (at_once and epoch > 1):
            taught.append(epoch)
        replaced = loss <= best if ties else loss < best
        on, best = not replaced, min(best, loss)
    return taught


def target_of(p, q, y, alpha):
    return (1 + alpha) * p - F.one_hot(torch.tensor(y), len(p)) - alpha * q


WRONG_SCHEDULES = [
    (lambda losses: switched(losses, at_once=True), "the student itself"),
    (lambda losses: switched(losses, ties=True), "A tie replaces no teacher"),
    (lambda losses: [epoch - 1 for epoch in switched(losses)], "one epoch off"),
    (lambda losses: [epoch for epoch in switched(losses) if epoch <= len(losses)], "after the last loss is missing"),
    (lambda losses: [], ""),
]
RIGHT = {
    "schedule": [switched, lambda losses: torch.tensor(switched(losses))],
    "gradient": [target_of, lambda *a: target_of(*a).float(), lambda *a: target_of(*a).tolist()],
    "itself": [ITSELF[0]],
    "halved": [HALVED[1]],
}
WRONG = {
    "schedule": [*(one for one, _ in WRONG_SCHEDULES), [4, 5, 7]],
    "gradient": [
        lambda p, q, y, a: -target_of(p, q, y, a),
        lambda p, q, y, a: target_of(p, q, y, a) / 2,
        lambda p, q, y, a: p - q,
    ],
    "itself": ITSELF[1:],
    "halved": [HALVED[0], *HALVED[2:]],
}
# What would give an answer away: the right option, the right numbers, the code.
AWAY = {
    "schedule": r"\[|append|[<>]|enumerate",
    "gradient": r"p - q|[Oo]ne.?hot|alpha \*",
    "itself": r"\bzero\b|\bnothing\b",
    "halved": r"\bhalf\b|1/2",
}


def said(capsys, name, answer) -> str:
    return exercise_checks.said(capsys, f"lssd.{name}", answer)


@pytest.mark.parametrize(("name", "answer"), [(name, one) for name, all_ in RIGHT.items() for one in all_])
def test_a_right_answer_is_told_so_with_a_reason(capsys, name, answer):
    told_right(capsys, f"lssd.{name}", answer)


@pytest.mark.parametrize(("name", "answer"), [(name, one) for name, all_ in WRONG.items() for one in all_])
def test_a_wrong_answer_gets_the_hint_and_not_the_answer(capsys, name, answer):
    told_wrong(capsys, f"lssd.{name}", answer, AWAY[name])


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("answer", [..., None])
def test_an_untouched_cell_says_what_to_do(capsys, name, answer):
    told_what_to_do(capsys, f"lssd.{name}", answer, AWAY[name])


@pytest.mark.parametrize("name", ["schedule", "gradient"])
def test_a_function_that_is_not_written_yet_counts_as_untouched(capsys, name):
    def answer(*arguments): ...

    assert said(capsys, name, answer).startswith("… not answered yet")


@pytest.mark.parametrize(("answer", "words"), WRONG_SCHEDULES)
def test_mistakes_that_many_make_are_named(capsys, answer, words):
    told = said(capsys, "schedule", answer).partition("). ")[2].removesuffix(EXERCISES["schedule"].hint + "\n")
    assert words in told and bool(told) == bool(words)


def test_the_predictions_tell_what_happened_in_numbers(capsys):
    assert "in the released one" in said(capsys, "halved", HALVED[0])
    assert "twice the teacher's entropy" in said(capsys, "itself", ITSELF[1])


def test_checking_leaves_the_random_numbers_of_the_reader_alone():
    before = torch.get_rng_state()
    for name, answers in RIGHT.items():
        EXERCISES[name].test(answers[0])
    assert torch.equal(before, torch.get_rng_state())


def test_the_exercises_are_found_by_their_full_names():
    assert [kept(f"lssd.{name}") for name in EXERCISES] == list(EXERCISES.values())
    assert sum(bool(exercise.options) for exercise in EXERCISES.values()) == 2
