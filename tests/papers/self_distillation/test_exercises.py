"""The exercises on self-distillation: right, wrong and missing answers, and that no message gives an answer away."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F

from kdutils.notebook.exercises import kept
from kdutils.papers.self_distillation.exercises import CHOSEN, EXERCISES, FROZEN, MADE_OF, PROBABILITIES
from kdutils.papers.self_distillation.objective import sda_loss
from tests import exercise_checks
from tests.exercise_checks import told_right, told_what_to_do, told_wrong


def plain(o, teacher, y, weight):
    return F.cross_entropy(o, y) + weight * F.mse_loss(o, teacher.detach())


def by_hand(o, teacher, y, weight):
    with torch.no_grad():
        fixed = teacher.clone()
    nll = o.logsumexp(-1) - o.gather(-1, y[:, None])[:, 0]
    return nll.mean() + weight * ((o - fixed) ** 2).sum() / o.numel()


def teaches_both(o, teacher, y, weight):
    return F.cross_entropy(o, y) + weight * F.mse_loss(o, teacher)


def teaches_nobody(o, teacher, y, weight):
    return F.cross_entropy(o, y) + weight * F.mse_loss(o.detach(), teacher.detach())


def with_log_of_softmax(o, teacher, y, weight):
    return F.nll_loss(o.softmax(-1).log(), y) + weight * F.mse_loss(o, teacher.detach())


def a_queue(t, size):
    held = []
    for update in range(t):
        held = [*held, update][-size:]
    return held


RIGHT = {
    "sda_loss": [sda_loss, plain, by_hand, lambda *a: plain(*a)[None].mean()],
    "window": [
        lambda t, size: list(range(max(0, t - size), t)),
        lambda t, size: [t - k for k in range(1, size + 1) if t >= k],
        lambda t, size: torch.arange(max(0, t - size), t),
        a_queue,
    ],
    "vote": [CHOSEN[2]],
    "frozen": [FROZEN[0]],
    "micro_batches": [MADE_OF[0]],
}
WRONG = {
    "sda_loss": [
        teaches_both,
        teaches_nobody,
        with_log_of_softmax,
        lambda o, teacher, y, weight: F.cross_entropy(o, y),
        lambda o, teacher, y, weight: F.cross_entropy(o, y) + F.mse_loss(o, teacher.detach()),
        lambda o, teacher, y, weight: F.cross_entropy(o, y) + weight * (o - teacher.detach()).square().sum(-1).mean(),
        lambda o, teacher, y, weight: F.cross_entropy(o, y) + weight * F.mse_loss(o.softmax(-1), teacher.softmax(-1)),
        lambda *a: plain(*a).expand(6),
        lambda *a: plain(*a).item(),
        0.5,
    ],
    "window": [
        lambda t, size: list(range(max(0, t - size + 1), t + 1)),  # the present one is in it
        lambda t, size: list(range(t - size, t)),  # before the start
        lambda t, size: list(range(max(1, t - size), t)),  # without the start
        lambda t, size: list(range(t)),
        lambda t, size: [t - 1] * min(t, size),
        lambda t, size: min(t, size),
        lambda t, size: [0.5],
        [4, 5, 6],
    ],
    "vote": [CHOSEN[0], CHOSEN[1], CHOSEN[3]],
    "frozen": FROZEN[1:],
    "micro_batches": MADE_OF[1:],
}
# What would give an answer away: the right option, the code.
AWAY = {
    "sda_loss": r"detach|no_grad|softmax|square|entropy|\*\*|classes and",
    "window": r"range|t - |max\(|\[",
    "vote": re.escape(CHOSEN[2]),
    "frozen": re.escape(FROZEN[0]) + r"|\bequal\b|\bsame\b",
    "micro_batches": re.escape(MADE_OF[0]) + r"|\bthree of four\b",
}


def said(capsys, name, answer) -> str:
    return exercise_checks.said(capsys, f"self_distillation.{name}", answer)


@pytest.mark.parametrize(("name", "answer"), [(name, one) for name, all_ in RIGHT.items() for one in all_])
def test_a_right_answer_is_told_so_with_a_reason(capsys, name, answer):
    told_right(capsys, f"self_distillation.{name}", answer)


@pytest.mark.parametrize(("name", "answer"), [(name, one) for name, all_ in WRONG.items() for one in all_])
def test_a_wrong_answer_gets_the_hint_and_not_the_answer(capsys, name, answer):
    told_wrong(capsys, f"self_distillation.{name}", answer, AWAY[name])


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("answer", [..., None])
def test_an_untouched_cell_says_what_to_do(capsys, name, answer):
    told_what_to_do(capsys, f"self_distillation.{name}", answer, AWAY[name])


@pytest.mark.parametrize("name", ["sda_loss", "window"])
def test_a_function_that_is_not_written_yet_counts_as_untouched(capsys, name):
    def answer(*arguments): ...

    assert said(capsys, name, answer).startswith("… not answered yet")


def test_a_teacher_that_is_trained_is_found_out_by_its_gradient_alone(capsys):
    assert "The value is right, but the teacher is trained as well." in said(capsys, "sda_loss", teaches_both)
    assert "The value is right, but not its gradient." in said(capsys, "sda_loss", teaches_nobody)


def test_a_mean_over_the_rows_alone_is_found_out(capsys):
    out = said(capsys, "sda_loss", WRONG["sda_loss"][5])
    assert "On two classes it returns another value." in out


def test_the_moment_at_which_a_window_is_wrong_is_named(capsys):
    assert "With t = 0 and K = 3 it returns other updates." in said(capsys, "window", WRONG["window"][0])
    assert "With t = 1 and K = 1 it returns other updates." in said(capsys, "window", WRONG["window"][2])
    assert "With t = 7 and K = 3 it returns other updates." in said(capsys, "window", WRONG["window"][3])


def test_a_prediction_that_is_no_option_is_offered_the_options(capsys):
    out = said(capsys, "frozen", "none")
    assert "Choose one of" in out and all(option in out for option in FROZEN)


def numbers(text: str) -> list[float]:
    return [float(one) for one in re.findall(r"[+-]?\d+(?:\.\d+)?(?:e-\d+)?", text.partition("). ")[2])]


def test_the_vote_and_the_mean_of_the_logits_are_those_of_the_probabilities(capsys):
    assert ", ".join(map(str, PROBABILITIES)) in EXERCISES["vote"].ask
    of_a, of_b, apart = numbers(said(capsys, "vote", CHOSEN[0]))
    assert [of_a, of_b] == pytest.approx([sum(PROBABILITIES), 3 - sum(PROBABILITIES)], abs=0.005) and of_a < of_b
    assert apart == pytest.approx(sum(math.log(p / (1 - p)) for p in PROBABILITIES) / 3, abs=0.005) and apart > 0


def test_a_linear_classifier_has_one_teacher_in_both_forms_and_a_deeper_one_has_two(capsys):
    sda, sdv, apart, deep_sda, deep_sdv, deep_apart = numbers(said(capsys, "frozen", FROZEN[2]))
    assert sda == sdv and apart < 1e-12 and deep_apart > 1e-4
    assert deep_apart == pytest.approx(abs(deep_sda - deep_sdv), abs=1e-3) and sda != deep_sda


def test_three_micro_batches_of_four_have_the_student_itself_as_teacher(capsys):
    """The numbers that are told: of 12 micro-batches in 3 updates, zero in 9 at 0 and in 0 at 0.1; in 9 of no age."""
    found = numbers(said(capsys, "micro_batches", MADE_OF[3]))
    assert found[:7] == [12, 3, 9, 0, 0, 0.1, 0.1] and found[7:8] == [9]


def test_checking_leaves_the_random_numbers_of_the_reader_alone():
    before = torch.get_rng_state()
    for name, answers in RIGHT.items():
        EXERCISES[name].test(answers[0])
    assert torch.equal(before, torch.get_rng_state())


def test_the_exercises_are_found_by_their_full_names():
    assert [kept(f"self_distillation.{name}") for name in EXERCISES] == list(EXERCISES.values())
    assert sum(bool(exercise.options) for exercise in EXERCISES.values()) == 3
