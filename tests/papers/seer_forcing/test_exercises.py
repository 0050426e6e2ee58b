"""The exercises on Seer Forcing: right, wrong and missing answers, and that no message gives an answer away."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F

from kdutils.papers.seer_forcing.exercises import EXERCISES, MOVED, REACHED, SHIFTED
from tests.exercise_checks import told_right, told_what_to_do, told_wrong


def by_index(x, lengths):
    t, last = torch.arange(x.shape[1]), lengths[:, None] - 1
    return x.gather(1, torch.where(t <= last, last - t, t))


def by_target(p_c, p_s, y, alpha):
    return p_c - alpha * F.one_hot(torch.tensor(y), len(p_c)) - (1 - alpha) * p_s


def by_autograd(p_c, p_s, y, alpha):
    z = p_c.log().requires_grad_()
    loss = alpha * F.cross_entropy(z, torch.tensor(y)) + (1 - alpha) * F.kl_div(z.log_softmax(-1), p_s, reduction="sum")
    return torch.autograd.grad(loss, z)[0]


RIGHT = {
    "reverse": (by_index, lambda x, lengths: by_index(x, lengths).clone()),
    "gradient": (by_target, by_autograd),
    "shift": SHIFTED[1:2],
    "padding": MOVED[2:3],
    "reached": REACHED[1:2],
}
WRONG = {
    "reverse": (
        lambda x, lengths: x.flip(1),  # padding and all, as the released code does
        lambda x, lengths: x,
        lambda x, lengths: by_index(x, lengths)[:, :-1],
        lambda x, lengths: by_index(x, (lengths + 1).clamp(max=x.shape[1])),
        lambda x, lengths: 1 / 0,
    ),
    "gradient": (
        lambda p_c, p_s, y, alpha: -by_target(p_c, p_s, y, alpha),
        lambda p_c, p_s, y, alpha: by_target(p_c, p_s, y, 1 - alpha),
        lambda p_c, p_s, y, alpha: alpha * by_target(p_c, p_s, y, 1.0),  # the seer left out
        lambda p_c, p_s, y, alpha: by_target(p_c, p_s, y, 0.5),
        lambda p_c, p_s, y, alpha: by_target(p_c, p_s, y, alpha)[y],
    ),
    "shift": (SHIFTED[0], *SHIFTED[2:], "more"),
    "padding": (*MOVED[:2], MOVED[3], 2),
    "reached": (REACHED[0], REACHED[2], None.__class__),
}
AWAY = {"reverse": "gather|last - t", "gradient": r"p_c - |one.?hot", "shift": SHIFTED[1], "padding": MOVED[2],
        "reached": REACHED[1]}  # fmt: skip


def away(name: str, answer: object) -> str:
    """What no message may hold; a wrong prediction is told what the options are, by which nothing is given away."""
    asked = not EXERCISES[name].options or answer in EXERCISES[name].options
    return AWAY[name] if asked else "a secret"


@pytest.mark.parametrize(("name", "answer"), [(name, answer) for name, some in RIGHT.items() for answer in some])
def test_a_right_answer_is_told_so_with_a_reason(capsys, name, answer):
    told_right(capsys, f"seer_forcing.{name}", answer)


@pytest.mark.parametrize(("name", "answer"), [(name, answer) for name, some in WRONG.items() for answer in some])
def test_a_wrong_answer_gets_a_hint_and_not_the_answer(capsys, name, answer):
    told_wrong(capsys, f"seer_forcing.{name}", answer, away(name, answer))


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("answer", [None, ...], ids=str)
def test_an_exercise_that_is_not_answered_says_what_to_do(capsys, name, answer):
    told_what_to_do(capsys, f"seer_forcing.{name}", answer, AWAY[name])


def test_a_function_that_returns_dots_is_not_answered(capsys):
    told_what_to_do(capsys, "seer_forcing.gradient", lambda p_c, p_s, y, alpha: ..., AWAY["gradient"])


def test_hints_do_not_hold_the_answer():
    for name, exercise in EXERCISES.items():
        assert not re.search(AWAY[name], exercise.hint) and exercise.hint.endswith("?")
    assert sum(bool(exercise.options) for exercise in EXERCISES.values()) >= 2


def test_the_predictions_disturb_nobodys_random_numbers():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    for name in ("padding", "reached"):
        EXERCISES[name].test(EXERCISES[name].options[0])
    assert torch.equal(torch.random.get_rng_state(), before)
