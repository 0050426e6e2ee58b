"""The exercises on Tutor-KD: right, wrong and missing answers, and that no message gives an answer away."""

from __future__ import annotations

import math
import re

import pytest
import torch

from kdutils.notebook.exercises import kept
from kdutils.papers.tutor_kd.exercises import BASELINE, ENTROPY, EXERCISES, ROUTED
from tests import exercise_checks
from tests.exercise_checks import told_right, told_what_to_do, told_wrong


def p(z, token):
    return z.softmax(-1)[torch.arange(len(z)), token]


def at(z, token):
    return z[torch.arange(len(z)), token]


def ratio(z, x, w):
    return (p(z, w) / p(z, x)).clamp(max=1)


def by_logits(z, x, w):
    return (at(z, w) - at(z, x)).clamp(max=0).exp()


def in_a_loop(z, x, w):
    rows = [row.softmax(-1).tolist() for row in z]
    return [min(1.0, row[b] / row[a]) for row, a, b in zip(rows, x.tolist(), w.tolist(), strict=True)]


def reward(z, x, w):
    return p(z, x) - p(z, w)


# a wrong answer, and what is said of it besides the hint
WRONG_RATIOS = [
    (lambda z, x, w: p(z, w) / p(z, x), "could sigmoid(o) follow"),
    (lambda z, x, w: ratio(z, w, x), "far less likely?"),
    (lambda z, x, w: p(z, x) / p(z, w), "and some of your values are above 1"),
    (lambda z, x, w: p(z, w) - p(z, x), "two rare words"),
    (reward, "the written word lowers it"),
    (lambda z, x, w: p(z, w), "of the written word alone"),
    (lambda z, x, w: p(z, x), "of the original word alone"),
    (lambda z, x, w: at(z, w) - at(z, x), "on the scale of logits"),
    (lambda z, x, w: p(z, w).log() - p(z, x).log(), "on the scale of logits"),
    (lambda z, x, w: p(z, w).log() / p(z, x).log(), "all negative"),
    (lambda z, x, w: p(z, w) / (p(z, w) + p(z, x)), "It is 1/2"),
    (lambda z, x, w: (w == x).float(), "same word"),
    (lambda z, x, w: at(z, w) / at(z, x), ""),
    (lambda z, x, w: ratio(z, x, w)[:, None], ""),
    (lambda z, x, w: ratio(z, x, w).mean(), ""),
    (lambda z, x, w: 1 - ratio(z, x, w), ""),
]
WRONG_REWARDS = [
    (lambda z, x, w: -reward(z, x, w), "the other sign: it pays"),
    (lambda z, x, w: at(z, x) - at(z, w), "whose difference is the same"),
    (lambda z, x, w: p(z, x).log() - p(z, w).log(), "whose difference is the same"),
    (lambda z, x, w: at(z, w) - at(z, x), "and has the other sign"),
    (lambda z, x, w: at(z, x), "one logit"),
    (lambda z, x, w: p(z, x).log(), "one log-probability"),
    (lambda z, x, w: p(z, x) / p(z, w), "quotient, which has no bound"),
    (lambda z, x, w: p(z, w) / p(z, x), "quotient, and it pays"),
    (ratio, "the modified logit"),
    (lambda z, x, w: p(z, x), "the original word alone"),
    (lambda z, x, w: -p(z, w), "the written word alone"),
    (lambda z, x, w: reward(z, x, w).abs(), "sees through the word"),
    (lambda z, x, w: reward(z, x, w).clamp(min=0), "pays nothing for a teacher that is misled"),
    (lambda z, x, w: reward(z, x, w).sum(), ""),
    (lambda z, x, w: 2 * reward(z, x, w), ""),
    (lambda z, x, w: reward(z, x, w)[:, None], ""),
]
RIGHT = {
    "ratio": [ratio, by_logits, in_a_loop, lambda *a: ratio(*a).float()],
    "reward": [reward, lambda *a: reward(*a).float(), lambda *a: reward(*a).tolist()],
    "route": [ROUTED[0]],
    "entropy": [ENTROPY[1]],
    "baseline": [BASELINE[1]],
}
WRONG = {
    "ratio": [*(one for one, _ in WRONG_RATIOS), 1.0],
    "reward": [*(one for one, _ in WRONG_REWARDS), 0.0],
    "route": ROUTED[1:],
    "entropy": [ENTROPY[0], ENTROPY[2]],
    "baseline": [BASELINE[0], *BASELINE[2:]],
}
# What would give an answer away: the right option, the right number, the code.
AWAY = {
    "ratio": r"min\(|clamp|softmax|gather|exp\(|p_T|[dD]ivid|[qQ]uotient|\bat most\b|\bcap|p\(",
    "reward": r"softmax|gather|p_T|[sS]ubtract|p\(| - |minus",
    "route": re.escape(ROUTED[0]) + r"|\b(only|alone)\b|\bdetach|no gradient",
    "entropy": r"\bfalls?\b|\blower\b|\bless\b|[cC]ollapse",
    "baseline": r"\bstays?\b|\bfalls?\b|\b[zZ]ero\b|\b[uU]nbiased|\blower\b|\bless\b",
}


def said(capsys, name, answer) -> str:
    return exercise_checks.said(capsys, f"tutor_kd.{name}", answer)


@pytest.mark.parametrize(("name", "answer"), [(name, one) for name, all_ in RIGHT.items() for one in all_])
def test_a_right_answer_is_told_so_with_a_reason(capsys, name, answer):
    told_right(capsys, f"tutor_kd.{name}", answer)


@pytest.mark.parametrize(("name", "answer"), [(name, one) for name, all_ in WRONG.items() for one in all_])
def test_a_wrong_answer_gets_the_hint_and_not_the_answer(capsys, name, answer):
    told_wrong(capsys, f"tutor_kd.{name}", answer, AWAY[name])


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("answer", [..., None])
def test_an_untouched_cell_says_what_to_do(capsys, name, answer):
    told_what_to_do(capsys, f"tutor_kd.{name}", answer, AWAY[name])


@pytest.mark.parametrize("name", ["ratio", "reward"])
def test_a_function_that_is_not_written_yet_counts_as_untouched(capsys, name):
    def answer(*arguments): ...

    assert said(capsys, name, answer).startswith("… not answered yet")


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [("ratio", *one) for one in WRONG_RATIOS] + [("reward", *one) for one in WRONG_REWARDS],
)
def test_mistakes_that_many_make_are_named(capsys, name, answer, words):
    told = said(capsys, name, answer).partition("). ")[2].removesuffix(EXERCISES[name].hint + "\n")
    assert words in told and bool(told) == bool(words)


@pytest.mark.parametrize(("name", "options"), [("route", ROUTED), ("entropy", ENTROPY), ("baseline", BASELINE)])
def test_a_prediction_that_is_no_option_is_offered_the_options(capsys, name, options):
    out = said(capsys, name, "nothing")
    assert "Choose one of" in out and all(option in out for option in options)


def numbers(text: str) -> list[float]:
    return [float(one) for one in re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?", text.partition("). ")[2])]


def test_other_rewards_reach_the_tutor_and_not_the_student(capsys):
    tutor, student = numbers(said(capsys, "route", ROUTED[2]))
    assert tutor > 0.1 and student == 0


def test_without_what_keeps_words_plausible_one_word_is_left(capsys):
    updates, rate, before, after, paid, earned, best = numbers(said(capsys, "entropy", "stay"))
    assert (updates, rate, best) == (200, 0.5, 1.2)
    assert before == pytest.approx(math.log(6), abs=1e-3) and paid == pytest.approx(4.3 / 6, abs=1e-3)
    # the same ascent, of E[R], by hand: dE/dz = G (R - E[R])
    z, rewards = [0.0] * 6, [0.1, 0.4, 0.7, 0.9, 1.0, 1.2]
    for step in range(201):
        whole = sum(map(math.exp, z))
        g = [math.exp(one) / whole for one in z]
        mean = sum(one * pay for one, pay in zip(g, rewards, strict=True))
        if step < 200:
            z = [one + 0.5 * share * (pay - mean) for one, share, pay in zip(z, g, rewards, strict=True)]
    assert earned == pytest.approx(mean, abs=1e-3)
    assert after == pytest.approx(-sum(one * math.log(one) for one in g), abs=1e-3)
    assert after < before / 2 < before and paid < earned < best


def test_a_baseline_changes_the_variance_and_not_the_mean(capsys):
    *rewards, mean, apart, before, after = numbers(said(capsys, "baseline", BASELINE[3]))
    assert rewards == [0.5, 0.8, 1.1, 1.4] and mean == 0.8 and apart < 1e-15
    g = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    for baseline, told in ((0.0, before), (mean, after)):
        # the gradient by the logits of each draw: (G - onehot) (R - b)
        draws = (g - torch.eye(4)) * (torch.tensor(rewards, dtype=torch.float64) - baseline)[:, None]
        assert told == pytest.approx(float(g @ (draws - g @ draws).square().sum(-1)), abs=6e-4)
    assert after < before


def test_checking_leaves_the_random_numbers_of_the_reader_alone():
    before = torch.get_rng_state()
    for name, answers in RIGHT.items():
        EXERCISES[name].test(answers[0])
    assert torch.equal(before, torch.get_rng_state())


def test_the_exercises_are_found_by_their_full_names():
    assert [kept(f"tutor_kd.{name}") for name in EXERCISES] == list(EXERCISES.values())
    assert sum(bool(exercise.options) for exercise in EXERCISES.values()) == 3
