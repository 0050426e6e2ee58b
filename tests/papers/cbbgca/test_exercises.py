"""The exercises on CBBGCA: right, wrong and missing answers, and that no message gives an answer away."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F

from kdutils.data.batches import BOS, EOS, MASK, PAD
from kdutils.notebook.exercises import kept
from kdutils.papers.cbbgca.exercises import EXERCISES, KNOWN, SELECTED
from tests import exercise_checks
from tests.exercise_checks import told_right, told_what_to_do, told_wrong


def by_hand(p, q, y, alpha):
    target = alpha * q + (1 - alpha) * F.one_hot(torch.tensor(y), len(p))
    return p - target


def by_autograd(p, q, y, alpha):
    z = p.log().requires_grad_()
    kl, ce = F.kl_div(z.log_softmax(-1), q, reduction="sum"), F.cross_entropy(z, torch.tensor(y))
    return torch.autograd.grad(alpha * kl + (1 - alpha) * ce, z)[0]


def reversed_kl(p, q, y, alpha):
    z = p.log().requires_grad_()
    kl, ce = F.kl_div(q.log(), z.softmax(-1), reduction="sum"), F.cross_entropy(z, torch.tensor(y))
    return torch.autograd.grad(alpha * kl + (1 - alpha) * ce, z)[0]


def onehot(p, y):
    return F.one_hot(torch.tensor(y), len(p)).double()


def masked(targets, hidden):
    return [MASK if one else word for word, one in zip(targets, hidden, strict=True) if word != EOS]


def as_in_bert(targets, hidden):
    return [MASK if one and word % 10 else word for word, one in zip(targets, hidden, strict=True)][:-1]


# a wrong answer, and what is said of it besides the hint
WRONG_GRADIENTS = [
    (lambda p, q, y, a: -by_hand(p, q, y, a), "which sign has a gradient"),
    (lambda p, q, y, a: by_hand(p, q, y, 1 - a), "the label that of the teacher"),
    (lambda p, q, y, a: p - q, "does not change with alpha"),
    (lambda p, q, y, a: a * (p - q), "becomes of the label at a selected word"),
    (lambda p, q, y, a: p - a * q - onehot(p, y), "weigh together"),
    (lambda p, q, y, a: a * (p - q) + p - onehot(p, y), "full weight beside the teacher"),
    (lambda p, q, y, a: -a * q / p - (1 - a) * onehot(p, y) / p, "gradient by the probabilities"),
    (reversed_kl, "in the other order"),
    (lambda p, q, y, a: p - onehot(p, y), ""),
    (lambda p, q, y, a: by_hand(p, q, y, a) / len(p), ""),
    (lambda p, q, y, a: by_hand(p, q, y, a)[None], ""),
    (lambda p, q, y, a: by_hand(p, q, y, a)[y], ""),
]
WRONG_INPUTS = [
    (lambda y, hidden: [BOS, *masked(y, hidden)[:-1]], "slot t does not hold word t"),
    (lambda y, hidden: [MASK if h else w for w, h in zip([BOS, *y], hidden, strict=False)][:-1], "read in the next"),
    (lambda y, hidden: [BOS, *masked(y, hidden)], "still begins"),
    (lambda y, hidden: [*masked(y, hidden), EOS], "end of the sentence still has a slot"),
    (lambda y, hidden: [*masked(y, hidden), PAD], "leave that slot out"),
    (lambda y, hidden: [w for w, h in zip(y, hidden, strict=True) if not h and w != EOS], "leave no gap"),
    (lambda y, hidden: masked(y, [not h for h in hidden]), "hides the words that are to be seen"),
    (lambda y, hidden: y[:-1], "sees every word"),
    (as_in_bert, "as in BERT"),
    (lambda y, hidden: [BOS, *masked(y, hidden), EOS], ""),
    (lambda y, hidden: [PAD if w == MASK else w for w in masked(y, hidden)], "as in BERT"),
    (lambda y, hidden: [len(y)], ""),
]
RIGHT = {
    "gradient": [by_hand, by_autograd, lambda *a: by_hand(*a).float(), lambda *a: by_hand(*a).tolist()],
    "input": [masked, lambda y, hidden: torch.tensor(y).masked_fill(torch.tensor(hidden), MASK)[:-1]],
    "full_weight": [(0.7, 0), [0.7, 0.0], torch.tensor([0.7, 0.0]), (7 / 10, 0 / 10)],
    "selecting": [SELECTED[0]],
    "hidden": [KNOWN[1]],
}
WRONG = {
    "gradient": [*(one for one, _ in WRONG_GRADIENTS), 0.5],
    "input": [*(one for one, _ in WRONG_INPUTS), [17, MASK]],
    "full_weight": [(0, 0.7), (0.3, 0), (0.7, 0.7), (0.7, 1), (1, 1), (70, 0), 0.7, (0.7, 0, 0), "most", (0.7, None)],
    "selecting": SELECTED[1:],
    "hidden": [KNOWN[0], *KNOWN[2:]],
}
# What would give an answer away: the right option, the right number, the code.
AWAY = {
    "gradient": r"p - |- q|softmax\(|[Oo]ne.?hot|alpha \*|1 - alpha|alpha q",
    "input": r"zip|\[:|MASK|==|\bif\b",
    "full_weight": r"0\.7|7/10|70|0\.0|\bzero\b|\bseven\b|\bnone\b",
    "selecting": r"\bfewer\b|\bless\b",
    "hidden": re.escape(KNOWN[1]) + r"|\blength\b|\bhow many\b",
}


def said(capsys, name, answer) -> str:
    return exercise_checks.said(capsys, f"cbbgca.{name}", answer)


@pytest.mark.parametrize(("name", "answer"), [(name, one) for name, all_ in RIGHT.items() for one in all_])
def test_a_right_answer_is_told_so_with_a_reason(capsys, name, answer):
    told_right(capsys, f"cbbgca.{name}", answer)


@pytest.mark.parametrize(("name", "answer"), [(name, one) for name, all_ in WRONG.items() for one in all_])
def test_a_wrong_answer_gets_the_hint_and_not_the_answer(capsys, name, answer):
    told_wrong(capsys, f"cbbgca.{name}", answer, AWAY[name])


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("answer", [..., None])
def test_an_untouched_cell_says_what_to_do(capsys, name, answer):
    told_what_to_do(capsys, f"cbbgca.{name}", answer, AWAY[name])


@pytest.mark.parametrize("name", ["gradient", "input"])
def test_a_function_that_is_not_written_yet_counts_as_untouched(capsys, name):
    def answer(*arguments): ...

    assert said(capsys, name, answer).startswith("… not answered yet")


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [("gradient", *one) for one in WRONG_GRADIENTS] + [("input", *one) for one in WRONG_INPUTS],
)
def test_mistakes_that_many_make_are_named(capsys, name, answer, words):
    told = said(capsys, name, answer).partition("). ")[2].removesuffix(EXERCISES[name].hint + "\n")
    assert words in told and bool(told) == bool(words)


def test_which_of_the_two_shares_is_wrong_is_said(capsys):
    assert "in the wrong order" in said(capsys, "full_weight", (0, 0.7))
    assert "The second number is not right yet." in said(capsys, "full_weight", (0.7, 0.7))
    assert "The first number is not right yet." in said(capsys, "full_weight", (0.3, 0))
    assert "from 0 to 1" in said(capsys, "full_weight", (70, 0))
    assert "Two numbers are wanted" in said(capsys, "full_weight", 0.7)
    assert "weigh 7 in all in the paper's form and 0 in the mix" in said(capsys, "full_weight", (0.7, 0))


def test_a_prediction_that_is_no_option_is_offered_the_options(capsys):
    out = said(capsys, "hidden", "nothing")
    assert "Choose one of" in out and all(option in out for option in KNOWN)


def numbers(text: str) -> list[float]:
    return [float(one) for one in re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?", text.partition("). ")[2])]


def test_dropout_makes_words_unconfident_that_the_clean_pass_knows(capsys):
    updates, rate, words, noisy, draws, clean = numbers(said(capsys, "selecting", "more"))
    assert (updates, rate, words, draws) == (80, 0.3, 100, 20)  # twenty sentences of five words, ends left out
    assert 0 < clean < noisy - 10 < words


def test_behind_masks_alone_the_teacher_knows_the_source_and_the_number_of_words(capsys):
    words, number, source = numbers(said(capsys, "hidden", KNOWN[3]))
    assert words == 0 and number > 0.01 and source > 0.1


def test_checking_leaves_the_random_numbers_of_the_reader_alone():
    before = torch.get_rng_state()
    for name, answers in RIGHT.items():
        EXERCISES[name].test(answers[0])
    assert torch.equal(before, torch.get_rng_state())


def test_the_exercises_are_found_by_their_full_names():
    assert [kept(f"cbbgca.{name}") for name in EXERCISES] == list(EXERCISES.values())
    assert sum(bool(exercise.options) for exercise in EXERCISES.values()) == 2  # and a pair of numbers to predict
