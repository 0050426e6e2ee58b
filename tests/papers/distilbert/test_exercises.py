"""The exercises on DistilBERT: right, wrong and missing answers, and that no message gives an answer away."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from transformers import DistilBertForMaskedLM

from kdutils.models.build import masked_lm
from kdutils.notebook.exercises import kept
from kdutils.papers.distilbert.exercises import COPY, EXERCISES, FREE, SQUARE
from kdutils.papers.distilbert.student import LAYER, student_config
from tests import exercise_checks
from tests.exercise_checks import told_right, told_what_to_do, told_wrong


def by_hand(z_s, z_t, T):
    return T * ((z_s / T).softmax(-1) - (z_t / T).softmax(-1))


def by_autograd(z_s, z_t, T):
    z = z_s.clone().requires_grad_()
    kl = F.kl_div((z / T).log_softmax(-1), (z_t / T).softmax(-1), reduction="sum")
    return torch.autograd.grad(T**2 * kl, z)[0]


def rows(z_s, z_t, T):
    """T^2 KL of each position: (n,)."""
    p, q = (z_t / T).softmax(-1), (z_s / T).softmax(-1)
    return T**2 * (p * (p / q).log()).sum(-1)


def hidden(z_s, z_t, y, T):
    return rows(z_s[y >= 0], z_t[y >= 0], T).mean()


def by_torch(z_s, z_t, y, T):
    student, teacher = (z[y != -100] / T for z in (z_s, z_t))
    return T**2 * F.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean")


def in_a_loop(z_s, z_t, y, T):
    found = [float(rows(z_s[i], z_t[i], T)) for i, word in enumerate(y.tolist()) if word != -100]
    return sum(found) / len(found)


def at(z_s, z_t, T):
    """What is hard to see: a gradient that is right at T = 1 alone."""
    return z_s.softmax(-1) - z_t.softmax(-1)


RIGHT = {
    "gradient": [by_hand, by_autograd, lambda *a: by_hand(*a).tolist()],
    "restricted": [hidden, by_torch, in_a_loop, lambda *a: hidden(*a).float()],
    "copy": [COPY[0]],
    "square": [SQUARE[0]],
    "free": [FREE[0]],
}
# a wrong answer, and what is said of it besides the hint
WRONG_FUNCTIONS = {
    "gradient": [
        (lambda z_s, z_t, T: -by_hand(z_s, z_t, T), "On logits at T = 1 it returns another value."),
        (lambda z_s, z_t, T: by_hand(z_s, z_t, T) / T, "On logits at T = 2 it returns another value."),
        (lambda z_s, z_t, T: by_hand(z_s, z_t, T) / T**2, "On logits at T = 2 it returns another value."),
        (lambda z_s, z_t, T: by_hand(z_s, z_t, T) * T, "On logits at T = 2 it returns another value."),
        (at, "On logits at T = 2 it returns another value."),
        (lambda z_s, z_t, T: T * at(z_s, z_t, T), "On logits at T = 2 it returns another value."),
        (lambda z_s, z_t, T: by_hand(z_t, z_s, T), "On logits at T = 1 it returns another value."),
        (lambda z_s, z_t, T: T * (z_s / T).softmax(-1), "On logits at T = 1 it returns another value."),
        (lambda z_s, z_t, T: (z_s - z_t) / 5, "On logits at T = 1 it returns another value."),
        (lambda z_s, z_t, T: by_hand(z_s, z_t, T) / 6, "On logits at T = 1 it returns another value."),
        (lambda z_s, z_t, T: by_hand(z_s, z_t, T) / 0, "On logits at T = 1 it returns nan or infinity."),
        (lambda z_s, z_t, T: by_hand(z_s, z_t, T)[0], "On logits at T = 1 it returns the shape (5,), not (6, 5)."),
        (lambda z_s, z_t, T: by_hand(z_s, z_t, T).sum(), "On logits at T = 1 it returns the shape (), not (6, 5)."),
    ],
    "restricted": [
        (lambda z_s, z_t, y, T: rows(z_s, z_t, T).mean(), "On a text with three masked words it returns another"),
        (lambda z_s, z_t, y, T: hidden(z_s, z_t, y, T) * (y >= 0).sum(), "On a text with three masked words it"),
        (lambda z_s, z_t, y, T: hidden(z_s, z_t, y, T) * (y >= 0).double().mean(), "On a text with three masked"),
        (lambda z_s, z_t, y, T: rows(z_s[y > 0], z_t[y > 0], T).mean(), "On a text with three masked words it"),
        (lambda z_s, z_t, y, T: rows(z_s[y < 0], z_t[y < 0], T).mean(), "On a text with three masked words it"),
        (lambda z_s, z_t, y, T: hidden(z_s, z_t, y, T) / T**2, "On a text with three masked words it returns"),
        (lambda z_s, z_t, y, T: hidden(z_s, z_t, y, T) / T, "On a text with three masked words it returns"),
        (lambda z_s, z_t, y, T: hidden(z_t, z_s, y, T), "On a text with three masked words it returns another"),
        (lambda z_s, z_t, y, T: hidden(z_s, z_t, y, 1.0), "On a text with three masked words it returns another"),
        (lambda z_s, z_t, y, T: by_torch(z_s, z_t, y, 2.0), "On a text of masks it returns another value."),
        (lambda z_s, z_t, y, T: by_torch(z_s, z_t, y, T) / 5, "On a text with three masked words it returns"),
        (lambda z_s, z_t, y, T: F.cross_entropy(z_s, y), "On a text with three masked words it returns another"),
        (lambda z_s, z_t, y, T: rows(z_s, z_t, T)[y >= 0], "it returns the shape (3,), not ()."),
        (lambda z_s, z_t, y, T: rows(z_s, z_t, T) * (y >= 0), "it returns the shape (6,), not ()."),
        (lambda z_s, z_t, y, T: hidden(z_s, z_t, y, 0.0), "it returns nan or infinity."),
    ],
}  # fmt: skip
WRONG = {
    **{name: [*(one for one, _ in found), 0.5] for name, found in WRONG_FUNCTIONS.items()},
    "copy": COPY[1:],
    "square": SQUARE[1:],
    "free": FREE[1:],
}
# What would give an answer away: the right option, the right number, the code.
AWAY = {
    "gradient": r"softmax|[dD]ifference|\bminus\b|T \*|\* T|exp\(|\blog\b|log\(",
    "restricted": r"softmax|>= 0|!= -100|mask=|batchmean|\* T|T\^2|\b[oO]nly\b|\balone\b|\bhidden\b",
    "copy": re.escape(COPY[0]) + r"|\bzero\b|\bboth\b",
    "square": re.escape(SQUARE[0]) + r"|sixteen|\b16\b|\bsquared\b|1 ?/ ?T",
    "free": r"\bstays?\b|\bonly\b|\balone\b|no gradient|unchanged",
}


def said(capsys, name, answer) -> str:
    return exercise_checks.said(capsys, f"distilbert.{name}", answer)


@pytest.mark.parametrize(("name", "answer"), [(name, one) for name, all_ in RIGHT.items() for one in all_])
def test_a_right_answer_is_told_so_with_a_reason(capsys, name, answer):
    told_right(capsys, f"distilbert.{name}", answer)


@pytest.mark.parametrize(("name", "answer"), [(name, one) for name, all_ in WRONG.items() for one in all_])
def test_a_wrong_answer_gets_the_hint_and_not_the_answer(capsys, name, answer):
    told_wrong(capsys, f"distilbert.{name}", answer, AWAY[name])


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("answer", [..., None])
def test_an_untouched_cell_says_what_to_do(capsys, name, answer):
    told_what_to_do(capsys, f"distilbert.{name}", answer, AWAY[name])


@pytest.mark.parametrize("name", WRONG_FUNCTIONS)
def test_a_function_that_is_not_written_yet_counts_as_untouched(capsys, name):
    def answer(*arguments): ...

    assert said(capsys, name, answer).startswith("… not answered yet")


@pytest.mark.parametrize(
    ("name", "answer", "words"), [(name, *one) for name, found in WRONG_FUNCTIONS.items() for one in found]
)
def test_a_wrong_function_is_told_on_which_input_and_in_what(capsys, name, answer, words):
    assert words in said(capsys, name, answer).removesuffix(EXERCISES[name].hint + "\n")


@pytest.mark.parametrize(("name", "options"), [("copy", COPY), ("square", SQUARE), ("free", FREE)])
def test_a_prediction_that_is_no_option_is_offered_the_options(capsys, name, options):
    out = said(capsys, name, "nothing")
    assert "Choose one of" in out and all(option in out for option in options)


def numbers(text: str) -> list[float]:
    return [float(one) for one in re.findall(r"-?\d+(?:\.\d+)?(?:e-\d+)?", text.partition("). ")[2])]


def drawn() -> torch.Tensor:
    """The logits of student and teacher: (2, n, V)."""
    return 2 * torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_a_whole_copy_differs_from_its_teacher_in_nothing_and_from_the_text_in_much(capsys):
    soft, masked, cosine = numbers(said(capsys, "copy", COPY[1]))
    assert max(abs(soft), abs(cosine)) < 1e-6
    # the same copy, part by part and by the library's own losses
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        teacher = masked_lm(60, layers=4, width=16, heads=2, feedforward=32, dropout=0.0).eval()
        student = DistilBertForMaskedLM(student_config(teacher.config, 4)).eval()
        theirs, ours = teacher.bert.embeddings, student.distilbert.embeddings
        head = teacher.cls.predictions
        pairs = [(theirs.word_embeddings, ours.word_embeddings), (theirs.LayerNorm, ours.LayerNorm),
                 (head.transform.dense, student.vocab_transform), (head.decoder, student.vocab_projector),
                 (head.transform.LayerNorm, student.vocab_layer_norm)]  # fmt: skip
        for one, other in zip(teacher.bert.encoder.layer, student.distilbert.transformer.layer, strict=True):
            pairs += [(one.get_submodule(a), other.get_submodule(b)) for a, b in LAYER.items()]
        for one, other in pairs:
            other.load_state_dict(one.state_dict())
        added = theirs.position_embeddings.weight + theirs.token_type_embeddings.weight[0]
        ours.position_embeddings.weight.copy_(added)
        ids = torch.randint(5, 60, (2, 8), generator=torch.Generator().manual_seed(2))
        z_t, z_s = teacher(input_ids=ids).logits, student(input_ids=ids).logits
    torch.testing.assert_close(z_s, z_t)
    assert masked == pytest.approx(float(F.cross_entropy(z_t.flatten(0, 1), ids.flatten())), abs=0.006)
    assert masked == pytest.approx(math.log(60), abs=0.1)  # it has not been trained


def test_without_the_square_the_gradient_falls_with_it(capsys):
    low, high, times = numbers(said(capsys, "square", SQUARE[1]))
    z_s, z_t = drawn()
    wanted = [float(((z_s / T).softmax(-1) - (z_t / T).softmax(-1)).norm() / T) for T in (2.0, 8.0)]
    assert [low, high] == pytest.approx(wanted, abs=6e-4) and times == pytest.approx(wanted[0] / wanted[1], abs=0.06)
    assert 12 < times < 16  # which it tends to as both grow


def test_logits_of_words_that_are_not_asked_for_do_not_move(capsys):
    steps, there, before, after = numbers(said(capsys, "free", FREE[1]))
    z, z_t = drawn()
    asked = [0, 2, 5]
    first = z.clone()
    for _ in range(50):  # by hand: T (q - p) over the three words of the mean
        z[asked] -= 0.5 * by_hand(z, z_t, 2.0)[asked] / 3
    kl = {name: rows(one, z_t, 1.0) for name, one in (("first", first), ("last", z))}
    others = [1, 3, 4]
    assert (steps, before) == (50, after) and before == pytest.approx(float(kl["first"][others].mean()), abs=6e-4)
    assert there == pytest.approx(float(kl["last"][asked].mean()), abs=6e-4)
    assert there < 0.2 * float(kl["first"][asked].mean())


def test_at_a_high_temperature_the_gradient_is_the_difference_of_centred_logits():
    z_s, z_t = drawn()
    centred = (z_s - z_s.mean(-1, keepdim=True)) - (z_t - z_t.mean(-1, keepdim=True))
    torch.testing.assert_close(by_hand(z_s, z_t, 1e5), centred / 5, rtol=1e-3, atol=1e-4)


def test_checking_leaves_the_random_numbers_of_the_reader_alone():
    before = torch.get_rng_state()
    for name, answers in RIGHT.items():
        EXERCISES[name].test(answers[0])
    assert torch.equal(before, torch.get_rng_state())


def test_the_exercises_are_found_by_their_full_names():
    assert [kept(f"distilbert.{name}") for name in EXERCISES] == list(EXERCISES.values())
    assert {*EXERCISES} == {*RIGHT} and sum(bool(exercise.options) for exercise in EXERCISES.values()) == 3
