"""Tutor-KD as a training method: the whole by hand, who learns from what, which pass sees what, pieces and padding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdutils.core.errors import UserError
from kdutils.data.batches import Batches, collate_masked_lm, train_tokenizer
from kdutils.models.build import masked_lm
from kdutils.papers.tutor_kd import method as paper
from kdutils.papers.tutor_kd.method import LOGITS, SAMPLERS, STEPS, PlainKD, TutorKD, rewritten, write
from kdutils.papers.tutor_kd.objective import WEIGHTS, total_loss
from kdutils.papers.tutor_kd.student import judging_student, predicting_student, student_config
from kdutils.training.checkpoints import seeded
from kdutils.training.loop import fit
from kdutils.training.method import Step
from tests import tiny
from tests.corpus_files import TEXTS
from tests.papers.tutor_kd.test_student import scores_by_hand, shaken
from tests.tiny import assert_same_weights, one_sentence

NOW, SILENT = Step(1, 10, 0, logged=True), Step(1, 10, 0, logged=False)
ODD, EVEN = Step(3, 10, 0, logged=True), Step(4, 10, 0, logged=True)
PROBABILITY = 0.3  # of a word to be chosen


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 60)


def rows_of(tokenizer, texts=TEXTS) -> list[dict[str, list[int]]]:
    return [{"input_ids": ids[:16]} for ids in tokenizer(texts).input_ids]


@pytest.fixture
def data(tokenizer):
    """Six rows with padding in which something stands; words are hidden, replaced and kept, none in the first row."""
    collate = collate_masked_lm(tokenizer, PROBABILITY, (0.4, 0.3, 0.3))
    rows = [{"input_ids": row["input_ids"][: 5 + 2 * n]} for n, row in enumerate(rows_of(tokenizer, TEXTS[:6]))]
    found = (collate(rows, torch.Generator().manual_seed(seed)) for seed in range(999))
    one = next(one for one in found if (one["labels"][0] == -100).all() and len(one["positions"]) > 8)
    one["input_ids"] = one["input_ids"].where(one["attention_mask"].bool(), 9)
    left = one["input_ids"].flatten()[one["positions"]] == one["targets"]
    assert (one["attention_mask"] == 0).any() and left.any() and not left.all()
    return one


def cut(data: dict, rows: slice = slice(None), pads: int = 0) -> dict:
    """Some rows of a batch, with so many more columns of padding; what is in the padding is arbitrary."""
    fills = {"input_ids": 7, "attention_mask": 0, "labels": -100}
    found = {name: F.pad(data[name][rows], (0, pads), value=fill) for name, fill in fills.items()}
    found["positions"] = (found["labels"].flatten() != -100).nonzero()[:, 0]
    found["tokens"] = found["attention_mask"].flatten().nonzero()[:, 0]
    return found | {"targets": found["labels"].flatten()[found["positions"]]}


def unchosen(data: dict) -> dict:
    """The same rows with nothing chosen."""
    return cut({**data, "labels": torch.full_like(data["labels"], -100)})


def teacher_of(tokenizer, layers: int = 4, heads: int = 2) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = shaken(masked_lm(len(tokenizer), 8, layers, heads, 12, dropout=0.0, max_length=40))
    with torch.no_grad():
        net.bert.embeddings.word_embeddings.weight.mul_(3.0)  # it is sure of some words
    return net


@pytest.fixture
def teacher(tokenizer):
    """In evaluation mode; that it is never given a gradient is the method's own doing."""
    return teacher_of(tokenizer)


def student_of(teacher, kind=judging_student, layers: int = 2, width: int = 6, dropout: float = 0.0) -> nn.Module:
    """A narrower student of half the layers, whose embeddings are narrower still."""
    return shaken(kind(student_config(teacher.config, layers, width, 4, dropout=dropout), seed=3)).train()


def taught(kind, teacher, student, **options):
    """A method that is attached to a student, in float64, with the same networks at every call."""
    method = kind(**options)
    method.teacher = teacher
    with torch.random.fork_rng():
        torch.manual_seed(1)
        method.attach(student)
    shaken(method.networks).train()
    return method


@pytest.fixture
def pair(teacher):
    """(method, student): Tutor-KD as released."""
    student = student_of(teacher)
    return taught(TutorKD, teacher, student), student


@pytest.fixture
def likeliest(monkeypatch):
    """What the writer thinks likeliest is written: so that a batch can be cut, or passed again."""
    monkeypatch.setattr(paper, "write", lambda logits, sampler: logits.argmax(-1))


def learnt(loss: Tensor, *networks: nn.Module) -> list[Tensor]:
    """A loss and its gradient by every parameter of some networks, zeros where there is none."""
    weights = [weight for one in networks for weight in one.parameters()]
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return [loss.detach(), *(w.new_zeros(w.shape) if g is None else g for w, g in zip(weights, found, strict=True))]


def step(method, student, data, counts=None, now=SILENT) -> list[Tensor]:
    """The loss of a batch, and its gradient by student, projection and tutor."""
    return learnt(method.loss(student, data, counts or method.count(data), now)["loss"], student, method.networks)


def assert_equal(found, right, rtol: float = 1e-8) -> None:
    scale = max(float(one.abs().max()) for one in right)
    for one, other in zip(found, right, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=1e-3 * rtol * scale)


# ---------------------------------------------------------------- the whole, by hand


def passed(net: nn.Module, text: Tensor, data: dict, layers) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """What the head says, and hidden states and scores of some layers, of a plain full pass."""
    out = net(input_ids=text, attention_mask=data["attention_mask"], output_hidden_states=True)
    scores = [scores_by_hand(net.base_model, out.hidden_states[layer - 1], layer) for layer in layers]
    return out.logits, [out.hidden_states[layer] for layer in (0, *layers)], scores


def followed(method, data: dict, ours, theirs) -> Tensor:
    """L_hidden + L_att over the tokens that are no padding, sentence by sentence."""
    total, projection = 0.0, method.networks["projection"]
    for row, length in enumerate(data["attention_mask"].sum(-1).tolist()):
        for h, other in zip(ours[1], theirs[1], strict=True):
            total = total + (projection(h[row, :length]) - other[row, :length]).square().mean(-1).sum()
        for a, other in zip(ours[2], theirs[2], strict=True):
            if method.attention:
                apart = (a - other)[row, :, :length, :length]
                total = total + apart.square().mean((0, 2)).sum()
    return total / data["attention_mask"].sum()


def by_hand(method: TutorKD, student, data: dict, pick=lambda logits: logits.argmax(-1)) -> dict[str, Tensor]:
    """The sheet's loop in plain passes: everything by its formula, padding left out."""
    n, tokens = len(data["targets"]), data["attention_mask"].sum()
    where, original = data["positions"], data["targets"]

    def at(values: Tensor) -> Tensor:
        return values.flatten(0, 1)[where]

    def p(logits: Tensor, token: Tensor) -> Tensor:
        return logits.softmax(-1).gather(-1, token[:, None])[:, 0]

    with torch.no_grad():
        first, hidden, _ = passed(method.teacher, data["input_ids"], data, [4])
        first = at(first)
    writer = method.networks["tutor"](at(hidden[-1])) if method.sampler == "tutor" else first
    written = pick(writer)
    text = data["input_ids"].clone()
    text.view(-1)[where] = written
    with torch.no_grad():
        theirs = passed(method.teacher, text, data, [2, 4])
    ours = passed(student, text, data, [1, 2])
    right = (p(first, written) / p(first, original)).clamp(max=1.0)
    if method.logits == "modified":
        a, wanted = ours[0].sigmoid(), torch.ones_like(ours[0])
        wanted.view(-1)[where] = right
        cross = -wanted * F.logsigmoid(ours[0]) - (1 - wanted) * F.logsigmoid(-ours[0])
        logit, a = cross[data["attention_mask"].bool()].sum() / tokens, at(a)
    else:
        q, student_p = at(theirs[0]).log_softmax(-1), at(ours[0]).log_softmax(-1)
        logit = (q.exp() * (q - student_p)).sum() / tokens
        a = (p(at(ours[0]), written) / p(at(ours[0]), original)).clamp(1e-6, 1 - 1e-6)
    teachers = p(at(theirs[0]), original) - p(at(theirs[0]), written)
    students = (right - a.detach()).abs()
    rewards = method.rewards[0] * teachers + method.rewards[1] * students
    parts = {"representation": followed(method, data, ours, theirs), "logit": logit, "reward": rewards.sum() / n}
    if method.sampler == "tutor":
        log_g, log_p = writer.log_softmax(-1), first.log_softmax(-1)
        parts["policy"] = -(log_g.gather(-1, written[:, None])[:, 0] * (rewards - method.baseline)).sum() / n
        parts["tutor"] = (log_p.exp() * (log_p - log_g)).sum() / n
    else:
        parts["policy"] = parts["tutor"] = torch.zeros(())
    names = ("representation", "logit", "policy", "tutor")
    parts["loss"] = sum(weight * parts[name] for weight, name in zip(method.weights, names, strict=True))
    return parts | {"written": written, "teachers": teachers, "students": students, "first": first,
                    "second": at(theirs[0]), "writer": writer}  # fmt: skip


WHOLES = [
    {},
    {"weights": (1.0, 0.0, 0.0, 0.0)},
    {"weights": (0.0, 1.0, 0.0, 0.0)},
    {"weights": (0.0, 0.0, 1.0, 0.0)},
    {"weights": (0.0, 0.0, 0.0, 1.0)},
    {"weights": (2.0, 3.0, 5.0, 7.0), "attention": False},
    {"rewards": (2.0, 0.5)},
    {"rewards": (0.0, 1.0)},
    {"rewards": (1.0, 0.0)},
    {"sampler": "teacher"},
    {"sampler": "argmax"},
    {"sampler": "random"},
    {"logits": "plain"},
    {"logits": "plain", "sampler": "teacher", "rewards": (0.5, 3.0)},
]


@pytest.mark.parametrize("options", WHOLES, ids=str)
def test_the_loss_and_its_gradient_are_the_equations(options, teacher, data, likeliest):
    kind = predicting_student if options.get("logits") == "plain" else judging_student
    student = student_of(teacher, kind)
    method = taught(TutorKD, teacher, student, **options)
    right = by_hand(method, student, data)
    found = step(method, student, data)
    assert_equal(found, learnt(right["loss"], student, method.networks))
    assert sum(float(one.abs().max()) > 1e-6 for one in found) > 4
    terms = method.loss(student, data, method.count(data), NOW)
    assert terms.keys() == {"loss", "hidden", "logit", "policy", "tutor", "reward"} | (
        {"attention"} if method.attention else set()
    )
    torch.testing.assert_close(terms["hidden"] + terms.get("attention", 0.0), right["representation"])
    for name in ("logit", "policy", "tutor", "reward"):
        torch.testing.assert_close(terms[name], right[name], check_dtype=False)
    assert method.loss(student, data, method.count(data), SILENT).keys() == {"loss"}


def test_the_batch_tells_the_passes_apart(pair, data, likeliest):
    """What is right above would not be, were the passes or the words mixed up."""
    method, student = pair
    right = by_hand(method, student, data)
    words = data["targets"][:, None], right["written"][:, None]
    assert (right["written"] != data["targets"]).sum() > 4
    for name in ("first", "second"):
        p = right[name].softmax(-1)
        right[name] = p.gather(-1, words[0]) - p.gather(-1, words[1]), (p.gather(-1, words[1]) / p.gather(-1, words[0]))
    for one, other in zip(right["first"], right["second"], strict=True):
        assert (one - other).abs().max() > 0.01
    ratio = right["first"][1]
    assert (ratio > 1).any() and (ratio < 1).any()
    assert right["teachers"].abs().max() > 0.01 and right["students"].max() > 0.05


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("weights", [WEIGHTS, (2.0, 3.0, 0.0, 0.0), (0.0, 1.0, 1.0, 1.0)], ids=str)
def test_plain_distillation_is_its_equation(weights, attention, teacher, data):
    """The student and the teacher both see the masked text; all is divided by the tokens."""
    student = student_of(teacher, predicting_student)
    method = taught(PlainKD, teacher, student, weights=weights, attention=attention)
    found = step(method, student, data)
    with torch.no_grad():
        theirs = passed(teacher, data["input_ids"], data, [2, 4])
    ours = passed(student, data["input_ids"], data, [1, 2])
    p, q = (one[0].flatten(0, 1)[data["positions"]].log_softmax(-1) for one in (theirs, ours))
    kl = (p.exp() * (p - q)).sum() / data["attention_mask"].sum()
    representation = followed(method, data, ours, theirs)
    assert_equal(found, learnt(weights[0] * representation + weights[1] * kl, student, method.networks))
    terms = method.loss(student, data, method.count(data), NOW)
    torch.testing.assert_close(terms["logit"], kl)
    torch.testing.assert_close(terms["hidden"] + terms.get("attention", 0.0), representation)
    assert method.modules().keys() == {"projection"}


# ---------------------------------------------------------------- who learns from what


def moved(gradients: dict[str, Tensor | None]) -> dict[str, set[bool]]:
    """By part of the networks, whether its parameters have a gradient that is not 0."""
    parts = {"encoder": "electra.encoder", "embeddings": "electra.embeddings", "head": "discriminator_predictions",
             "projection": "projection", "tutor": "tutor"}  # fmt: skip
    return {
        part: {g is not None and bool(g.abs().max() > 1e-9) for name, g in gradients.items() if name.startswith(start)}
        for part, start in parts.items()
    }


def gradients(method, student, data, now=NOW) -> dict[str, Tensor | None]:
    for one in (student, method.networks, method.teacher):
        one.zero_grad(set_to_none=True)
    method.loss(student, data, method.count(data), now)["loss"].backward()
    assert all(weight.grad is None for weight in method.teacher.parameters())
    return {name: weight.grad for one in (student, method.networks) for name, weight in one.named_parameters()}


@pytest.mark.parametrize(
    ("weights", "learn"),
    [
        ((1, 0, 0, 0), {"encoder", "embeddings", "projection"}),
        ((0, 1, 0, 0), {"encoder", "embeddings", "head"}),
        ((0, 0, 1, 0), {"tutor"}),
        ((0, 0, 0, 1), {"tutor"}),
        ((0, 0, 0, 0), set()),
    ],
    ids=["representation", "logit", "policy", "tutor", "nothing"],
)
def test_each_term_reaches_its_own_parameters_and_no_others(weights, learn, teacher, data, likeliest):
    student = student_of(teacher)
    method = taught(TutorKD, teacher, student, weights=weights)
    before = {name: one.clone() for name, one in teacher.state_dict().items()}
    found = moved(gradients(method, student, data))
    for part, some in found.items():
        assert (True in some) == (part in learn), part
    if "tutor" in learn:
        assert found["tutor"] == {True}
    assert all(torch.equal(one, before[name]) for name, one in teacher.state_dict().items())


def test_both_parts_of_the_representation_reach_every_layer_of_the_student(teacher, data, likeliest):
    student = student_of(teacher)
    for attention in (True, False):
        method = taught(TutorKD, teacher, student, weights=(1, 0, 0, 0), attention=attention)
        found = gradients(method, student, data)
        for layer in range(2):
            own = {
                n: g for n, g in found.items() if n.startswith(f"electra.encoder.layer.{layer}.attention.self.query")
            }
            assert len(own) == 2 and all(one.abs().max() > 1e-9 for one in own.values())


def test_the_tutor_is_not_paid_through_the_student_and_the_student_learns_nothing_of_the_pay(pair, data, likeliest):
    """Other rewards change the tutor's gradient and no other."""
    method, student = pair
    before = gradients(method, student, data)
    method.rewards = (7.0, 0.0)
    after = gradients(method, student, data)
    for name in before:
        assert torch.equal(before[name], after[name]) != name.startswith("tutor")


def test_a_tutor_that_is_not_asked_does_not_exist(teacher):
    for sampler in SAMPLERS:
        method = taught(TutorKD, teacher, student_of(teacher), sampler=sampler)
        assert set(method.modules()) == ({"projection", "tutor"} if sampler == "tutor" else {"projection"})
    assert method.modules()["projection"].weight.shape == (8, 6)


def test_the_teacher_decides_what_the_student_and_the_tutor_learn(teacher, data, likeliest):
    student, found = student_of(teacher), []
    for factor in (1.0, 1.5):
        with torch.no_grad():
            teacher.bert.embeddings.word_embeddings.weight.mul_(factor)
        found.append(gradients(taught(TutorKD, teacher, student), student, data))
    for name in ("electra.encoder.layer.0.output.dense.weight", "discriminator_predictions.dense.weight",
                 "projection.weight", "tutor.3.weight"):  # fmt: skip
        assert (found[0][name] - found[1][name]).abs().max() > 1e-4


# ---------------------------------------------------------------- which pass sees what


def watched(monkeypatch, method, student) -> dict[str, list]:
    """Texts that are read, rows that are projected onto the vocabulary, what the tutor and the writer are given."""
    seen = {"teacher": [], "student": [], "rows": [], "tutor": [], "writer": []}

    def look(name):
        def hook(_module, inputs, named):
            assert torch.equal(named["attention_mask"], seen["mask"])
            text = inputs[0] if inputs else named["input_ids"]
            seen[name].append((text.clone(), torch.is_grad_enabled()))

        return hook

    method.teacher.base_model.register_forward_pre_hook(look("teacher"), with_kwargs=True)
    student.base_model.register_forward_pre_hook(look("student"), with_kwargs=True)
    for net in (method.teacher, student):
        if net.get_output_embeddings() is not None:
            net.get_output_embeddings().register_forward_hook(lambda _m, _i, out: seen["rows"].append(out.shape[:-1]))
    if "tutor" in method.networks:
        method.networks["tutor"].register_forward_hook(
            lambda _m, given, out: seen["tutor"].append((given[0].shape[0], torch.is_grad_enabled()))
        )

    def writing(logits, sampler):
        seen["writer"].append((logits.detach().clone(), sampler))
        return torch.arange(len(logits)) + 11  # every position is given a word of its own

    monkeypatch.setattr(paper, "write", writing)
    return seen


@pytest.mark.parametrize("logits", LOGITS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_teacher_reads_the_masked_and_then_the_written_text_and_the_student_the_written_one(
    sampler, logits, teacher, data, monkeypatch
):
    student = student_of(teacher, predicting_student if logits == "plain" else judging_student)
    method = taught(TutorKD, teacher, student, sampler=sampler, logits=logits)
    n, kept = len(data["targets"]), data["input_ids"].clone()
    seen = watched(monkeypatch, method, student)
    seen["mask"] = data["attention_mask"]
    method.loss(student, data, method.count(data), NOW)["loss"].backward()
    (masked, first), (written, second) = seen["teacher"]
    assert not first and not second  # no gradient is recorded
    assert torch.equal(masked, kept) and torch.equal(data["input_ids"], kept)
    # all chosen positions, also those that the masking had left or replaced, and no others
    assert written.flatten()[data["positions"]].tolist() == list(range(11, 11 + n))
    elsewhere = torch.ones(kept.numel(), dtype=torch.bool).index_fill(0, data["positions"], False)
    assert torch.equal(written.flatten()[elsewhere], kept.flatten()[elsewhere])
    ((read, learns),) = seen["student"]
    assert torch.equal(read, written) and learns
    # no logits of positions that were not chosen: the tutor's features are taken before the projection
    assert seen["rows"] == [(0,), (n,), (n,)] + [(n,)] * (logits == "plain")
    assert seen["tutor"] == [(n, True)] * (sampler == "tutor")
    ((given, name),) = seen["writer"]
    right = by_hand(method, student, data, lambda logits: torch.arange(len(logits)) + 11)
    assert name == sampler and torch.allclose(given, right["writer"].detach(), rtol=1e-9, atol=1e-12)


def test_plain_distillation_has_one_pass_each_and_projects_the_chosen_positions(teacher, data, monkeypatch):
    student = student_of(teacher, predicting_student)
    method = taught(PlainKD, teacher, student)
    seen = watched(monkeypatch, method, student)
    seen["mask"], n = data["attention_mask"], len(data["targets"])
    method.loss(student, data, method.count(data), NOW)["loss"].backward()
    assert [grad for _, grad in seen["teacher"]] == [False] and [grad for _, grad in seen["student"]] == [True]
    assert all(torch.equal(text, data["input_ids"]) for name in ("teacher", "student") for text, _ in seen[name])
    assert seen["rows"] == [(n,), (n,)] and not seen["writer"]
    assert all(weight.grad is None for weight in teacher.parameters())


@pytest.mark.parametrize("kind", [TutorKD, PlainKD])
def test_the_inverted_mask_is_given_to_teacher_and_student_alike(kind, teacher, data, likeliest):
    """It changes what both compute, and not which positions count."""
    student = student_of(teacher, judging_student if kind is TutorKD else predicting_student)
    found, masks = [], []
    for net in (teacher.base_model, student.base_model):
        net.register_forward_pre_hook(lambda _m, _i, named: masks.append(named["attention_mask"]), with_kwargs=True)
    for inverted in (False, True):
        method = taught(kind, teacher, student, inverted_mask=inverted)
        for one in (teacher, student, method.networks):
            one.float()
        found.append(step(method, student, data))
    passes = 3 if kind is TutorKD else 2
    assert len(masks) == 2 * passes and all(torch.equal(one, data["attention_mask"]) for one in masks[:passes])
    for one in masks[passes:]:
        assert torch.equal(one[:, 0, 0] == 0, data["attention_mask"] == 0) and one.min() == -1e4
    assert abs(found[0][0] - found[1][0]) > 1e-3 and all(one.isfinite().all() for one in found[1])


# ---------------------------------------------------------------- padding, pieces, nothing chosen

KINDS = [
    (TutorKD, {}),
    (TutorKD, {"baseline": 0.5}),
    (TutorKD, {"logits": "plain"}),
    (TutorKD, {"sampler": "teacher", "attention": False}),
    (TutorKD, {"steps": "alternating"}),
    (PlainKD, {}),
]


def made(kind, options, teacher):
    judges = kind is TutorKD and options.get("logits") != "plain"
    student = student_of(teacher, judging_student if judges else predicting_student)
    return taught(kind, teacher, student, **options), student


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
def test_accumulated_pieces_and_more_padding_change_nothing(kind, options, teacher, data, likeliest):
    method, student = made(kind, options, teacher)
    counts = method.count(data)
    assert counts == {"targets": int((data["labels"] != -100).sum()), "tokens": int(data["attention_mask"].sum())}
    for now in (ODD, EVEN):
        whole = step(method, student, data, now=now)
        assert_equal(step(method, student, cut(data, pads=9), now=now), whole)
        pieces = [
            cut(data, slice(0, 1)),
            cut(data, slice(1, 4), 5),
            cut(data, slice(4, 6), 1),
        ]  # the first: none chosen
        assert len(pieces[0]["targets"]) == 0
        parts = [step(method, student, piece, counts, now) for piece in pieces]
        assert_equal([sum(some) for some in zip(*parts, strict=True)], whole)


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
def test_a_batch_in_which_nothing_is_chosen_has_a_loss_and_no_gradient_for_the_tutor(kind, options, teacher, data):
    method, student = made(kind, options, teacher)
    empty = unchosen(data)
    counts = {name: max(1, count) for name, count in method.count(empty).items()}  # as the loop does
    assert len(empty["targets"]) == 0
    for now in (ODD, EVEN):
        found = step(method, student, empty, counts, now)
        assert all(one.isfinite().all() for one in found)
        terms = method.loss(student, empty, counts, now)
        assert not any(bool(terms.get(name, 0.0)) for name in ("policy", "tutor", "reward"))
        assert terms["hidden"] > 0
        if "tutor" in method.networks:
            assert not any(one.any() for one in learnt(terms["loss"], method.networks["tutor"])[1:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kind", "options"), [(TutorKD, {}), (TutorKD, {"logits": "plain"}), (PlainKD, {})], ids=str)
def test_a_wrapped_student_under_autocast_learns_about_the_same(kind, options, dtype, teacher, data, monkeypatch):
    monkeypatch.setattr(paper, "write", lambda logits, _sampler: torch.arange(len(logits)) + 11)
    method, student = made(kind, options, teacher)
    for one in (teacher, student, method.networks):
        one.float()
    right = step(method, student, data)
    wrapped = nn.Module()
    wrapped.module, wrapped.forward = student, student.forward  # as under data parallelism
    with torch.autocast("cpu", dtype=dtype):
        found = step(method, wrapped, data)
    assert found[0].dtype == torch.float32
    whole = [torch.cat([one.flatten().float() for one in some]) for some in (found, right)]
    assert (whole[0] - whole[1]).norm() < 0.1 * whole[1].norm()


# ---------------------------------------------------------------- who writes


def test_a_draw_has_the_probabilities_of_its_logits():
    z = torch.tensor([0.0, 1.0, -1.0, 2.0, -30.0])
    with seeded(0):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            for sampler in ("tutor", "teacher"):
                drawn = write(z.to(dtype).expand(20_000, 5).requires_grad_(), sampler)
                shares, p = torch.bincount(drawn, minlength=5) / 20_000, z.softmax(-1)
                assert drawn.shape == (20_000,) and not drawn.requires_grad
                assert ((shares - p).abs() <= 4.5 * (p * (1 - p) / 20_000).sqrt()).all()
        pairs = write(z[:2].expand(40_000, 2), "tutor").view(-1, 2)
        p = torch.outer(z[:2].softmax(-1), z[:2].softmax(-1))  # two rows are drawn on their own
        together = torch.bincount(pairs[:, 0] * 2 + pairs[:, 1], minlength=4).view(2, 2) / 20_000
        assert ((together - p).abs() <= 4.5 * (p * (1 - p) / 20_000).sqrt()).all()


def test_argmax_takes_the_likeliest_and_random_any():
    z = torch.tensor([[0.0, 3.0, 1.0], [9.0, -1e30, 8.0]])
    assert write(z, "argmax").tolist() == [1, 0]
    with seeded(0):
        shares = torch.bincount(write(z[1].expand(30_000, 3), "random"), minlength=3) / 30_000
        assert (shares - 1 / 3).abs().max() < 4.5 * (2 / 9 / 30_000) ** 0.5
        again = [write(torch.randn(50, 9, generator=torch.Generator().manual_seed(0)), "tutor") for _ in range(2)]
        assert not torch.equal(*again)  # every call draws anew


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_rows_and_extreme_logits_are_written_too(sampler):
    assert write(torch.zeros(0, 7), sampler).tolist() == []
    z = torch.tensor([[1e30, -1e30, 0.0]]).expand(100, 3)
    drawn = write(z, sampler)
    assert drawn.dtype == torch.long
    assert sampler == "random" or not drawn.any()


def test_the_written_text_differs_at_the_chosen_positions_only():
    text = torch.arange(12).view(3, 4)
    batch = {"input_ids": text.clone(), "positions": torch.tensor([1, 4, 11])}
    assert rewritten(batch, torch.tensor([70, 71, 72])).tolist() == [[0, 70, 2, 3], [71, 5, 6, 7], [8, 9, 10, 72]]
    assert torch.equal(batch["input_ids"], text)
    nothing = rewritten({**batch, "positions": torch.zeros(0, dtype=torch.long)}, torch.zeros(0, dtype=torch.long))
    assert torch.equal(nothing, text)


# ---------------------------------------------------------------- two kinds of steps


def test_alternating_updates_teach_the_tutor_and_then_the_student(teacher, data, likeliest):
    """The two together are the joint update: each term is taken once, with the same samples."""
    student = student_of(teacher)
    joint = step(taught(TutorKD, teacher, student), student, data)
    method = taught(TutorKD, teacher, student, steps="alternating")
    kinds, recorded = {}, []
    for net in (method.networks["tutor"], student):
        net.register_forward_hook(lambda *_: recorded.append(torch.is_grad_enabled()))
    for name, now in (("odd", ODD), ("even", EVEN)):
        recorded.clear()
        found = gradients(method, student, data, now)
        assert recorded == [name == "odd", name == "even"]  # nothing is kept for a backward pass that never comes
        kinds[name] = [torch.zeros(()) if g is None else g for g in found.values()]
        for weight, gradient in found.items():
            assert (gradient is not None) == (weight.startswith("tutor") == (name == "odd")), weight
        terms = method.loss(student, data, method.count(data), now)
        assert (terms["policy"] == terms["tutor"] == 0) == (name == "even")
        assert terms["reward"] != 0 and terms["hidden"] > 0
        parts = (terms["hidden"] + terms["attention"], terms["logit"], terms["policy"], terms["tutor"])
        torch.testing.assert_close(terms["loss"], total_loss(*parts), check_dtype=False)
    assert_equal([a + b for a, b in zip(kinds["odd"], kinds["even"], strict=True)], joint[1:])


def test_without_a_tutor_every_update_teaches_the_student(teacher, data):
    for sampler in SAMPLERS[1:]:
        student = student_of(teacher)
        method = taught(TutorKD, teacher, student, sampler=sampler, steps="alternating")
        for now in (ODD, EVEN):
            assert gradients(method, student, data, now)["projection.weight"].abs().max() > 0


def trained(method, teacher, tokenizer, student, **changes):
    """Trains a student in float32 on the demo's kind of batches."""
    method.teacher = teacher.float()
    batches = Batches(rows_of(tokenizer), collate_masked_lm(tokenizer, PROBABILITY), batch_size=8)
    with seeded(7):
        return fit(student.float(), method, batches, tiny.recipe(**{"accumulation": 1, **changes}))


def test_in_training_an_odd_update_leaves_the_student_alone_and_an_even_one_the_tutor(teacher, tokenizer):
    """To the last bit, although weights decay; jointly, all move at once."""
    start = {}
    for steps in STEPS:
        for updates in (0, 1, 2):
            student, method = student_of(teacher), TutorKD(steps=steps)
            trained(method, teacher, tokenizer, student, updates=updates, warmup=0, weight_decay=0.1)
            start[steps, updates] = {"student": student, **method.modules()}

    def same(steps: str, one: int, other: int, part: str) -> bool:
        ours, theirs = (start[steps, updates][part].state_dict() for updates in (one, other))
        return all(torch.equal(ours[name], theirs[name]) for name in ours)

    for part in ("student", "projection", "tutor"):
        assert not same("joint", 0, 1, part) and not same("joint", 1, 2, part)
        assert same("alternating", 0, 1, part) == (part != "tutor")
        assert same("alternating", 1, 2, part) == (part == "tutor")


# ---------------------------------------------------------------- the running mean of the reward


def test_the_running_mean_is_over_the_rewards_of_an_update_and_is_taken_off(teacher, data, likeliest):
    student = student_of(teacher)
    method = taught(TutorKD, teacher, student, baseline=0.75)
    pieces = [cut(data, slice(1, 3)), cut(data, slice(3, 6))]
    assert len({len(piece["targets"]) for piece in pieces}) == 2  # a mean of means would be another number
    plain, mean, counts = by_hand(method, student, data), 0.0, method.count(data)
    for update in (1, 2, 3):
        for piece in pieces:
            method.loss(student, piece, counts, SILENT)
        method.after_update(student, SILENT)
        mean = 0.75 * mean + 0.25 * float(plain["reward"])
        assert float(method.baseline) == pytest.approx(mean, rel=1e-5), update
    assert abs(mean) > 1e-3
    right = by_hand(method, student, data)
    assert_equal(step(method, student, data), learnt(right["loss"], student, method.networks), rtol=1e-6)
    assert abs(right["policy"] - plain["policy"]) > 1e-3
    method.after_update(student, SILENT)
    kept = method.baseline.clone()
    method.loss(student, unchosen(data), {"targets": 1, "tokens": 1}, SILENT)
    method.after_update(student, SILENT)  # an update that chose nothing earned nothing, which is not 0
    assert torch.equal(method.baseline, kept)


def test_without_one_nothing_is_ever_taken_off(pair, data, likeliest):
    method, student = pair
    first = step(method, student, data)
    method.after_update(student, SILENT)
    assert float(method.baseline) == 0.0
    assert all(torch.equal(a, b) for a, b in zip(step(method, student, data), first, strict=True))


def test_the_students_updates_do_not_move_the_mean(teacher, data, likeliest):
    student = student_of(teacher)
    method = taught(TutorKD, teacher, student, baseline=0.5, steps="alternating")
    seen = []
    for update in (1, 2, 3):
        now = Step(update, 10, 0, logged=False)
        method.loss(student, data, method.count(data), now)
        method.after_update(student, now)
        seen.append(float(method.baseline))
    assert seen[0] != 0 and seen[1] == seen[0] and seen[2] == pytest.approx(1.5 * seen[0])


def test_the_running_mean_is_saved_and_restored(teacher, data, likeliest):
    student = student_of(teacher)
    method, fresh = (taught(TutorKD, teacher, student, baseline=0.5) for _ in range(2))
    method.loss(student, data, method.count(data), SILENT)
    method.after_update(student, SILENT)
    state = {name: one.clone() for name, one in method.state().items()}
    expected = step(method, student, data)
    assert abs(step(fresh, student, data)[0] - expected[0]) > 1e-4
    fresh.after_update(student, SILENT)
    fresh.restore(state)
    assert torch.equal(fresh.baseline, method.baseline) and float(method.baseline) != 0
    assert all(torch.equal(a, b) for a, b in zip(step(fresh, student, data), expected, strict=True))


# ---------------------------------------------------------------- it distils


def apart(method, student, data, monkeypatch) -> dict[str, float]:
    """How far the student is from its teacher, with the same words written whoever writes."""
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(paper, "write", lambda logits, _sampler: torch.arange(len(logits)) + 11)
        terms = method.loss(student, data, method.count(data), EVEN)
    return {part: terms[part].item() for part in ("hidden", "attention", "logit")}


DISTILS = [(TutorKD, {}), (TutorKD, {"logits": "plain"}), (TutorKD, {"steps": "alternating"}), (PlainKD, {})]


@pytest.mark.parametrize(("kind", "options"), DISTILS, ids=str)
def test_the_student_moves_towards_its_teacher(kind, options, teacher, tokenizer, data, monkeypatch):
    """And without the weights of its own terms it stays where it is, whatever the tutor learns."""
    judges = kind is TutorKD and options.get("logits") != "plain"
    ends = {}
    for name, weights, updates in (("start", WEIGHTS, 0), ("taught", WEIGHTS, 30), ("untaught", (0, 0, 1, 1), 3)):
        student = student_of(teacher, judging_student if judges else predicting_student)
        method = kind(weights=weights, **options)
        trained(method, teacher, tokenizer, student, updates=updates, weight_decay=0.0)
        ends[name] = apart(method, student, data, monkeypatch)
    assert ends["untaught"] == ends["start"]
    for part, start in ends["start"].items():
        assert ends["taught"][part] < 0.85 * start, part


def test_the_tutor_learns_the_teachers_words_and_what_pays(teacher, tokenizer, data):
    found = {}
    for name, weights in (("start", None), ("plausible", (0.0, 0.0, 0.0, 1.0)), ("paid", (0.0, 0.0, 1.0, 0.0))):
        student, method = student_of(teacher), TutorKD(weights=weights or WEIGHTS, rewards=(1.0, 1.0))
        updates = {"start": 0, "plausible": 40, "paid": 100}[name]
        trained(method, teacher, tokenizer, student, updates=updates, learning_rate=1e-2, weight_decay=0.0)
        with torch.no_grad():
            tutor = float(method.loss(student, data, method.count(data), NOW)["tutor"])
        found[name] = {"tutor": tutor, **method.extra_scores(student, [data] * 8)}
    earned = {name: one["tutor_teacher_reward"] + one["tutor_student_reward"] for name, one in found.items()}
    assert found["plausible"]["tutor"] < 0.5 * found["start"]["tutor"]
    assert found["plausible"]["tutor_plausible"] > 1.5 * found["start"]["tutor_plausible"]
    assert earned["paid"] > earned["start"] + 0.05 and earned["paid"] > earned["plausible"] + 0.1
    sampled = found["paid"]["sampled_teacher_reward"] + found["paid"]["sampled_student_reward"]
    assert earned["paid"] > sampled + 0.1


# ---------------------------------------------------------------- scores on held-out words

SCORES = ("teacher_reward", "student_reward", "easy", "plausible", "kept", "entropy")


@pytest.mark.parametrize("logits", LOGITS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_scores_are_means_over_the_words_of_all_batches(sampler, logits, teacher, data, likeliest):
    student = student_of(teacher, predicting_student if logits == "plain" else judging_student)
    method = taught(TutorKD, teacher, student, sampler=sampler, logits=logits)
    batches = [{**cut(data, rows, pads), "asked": []} for rows, pads in ((slice(0, 2), 0), (slice(2, 6), 3))]
    found = method.extra_scores(student, batches)
    own = "sampled" if sampler == "teacher" else sampler
    assert found.keys() == {f"{who}_{name}" for who in {"sampled", own} for name in SCORES} | {"loss"}
    for who in {"sampled", own}:
        teaching = method if who == "tutor" else taught(TutorKD, teacher, student, sampler="teacher", logits=logits)
        right, words, original = by_hand(teaching, student, data), len(data["targets"]), data["targets"][:, None]
        written, p = right["written"][:, None], right["writer"].softmax(-1)
        expected = {
            "teacher_reward": right["teachers"], "student_reward": right["students"],
            "easy": right["second"].softmax(-1).gather(-1, original),
            "plausible": right["first"].softmax(-1).gather(-1, written),
            "kept": (written == original).double(), "entropy": -(p * p.log()).sum(-1),
        }  # fmt: skip
        for name, values in expected.items():
            assert found[f"{who}_{name}"] == pytest.approx(values.sum().item() / words, rel=1e-5), (who, name)
        if who == own:
            assert found["loss"] == pytest.approx(right["logit"].item(), rel=1e-5)


def test_the_scores_are_always_the_same_and_leave_everything_as_it_was(teacher, data, tokenizer):
    student = student_of(teacher, dropout=0.5)
    method = taught(TutorKD, teacher, student, baseline=0.5)
    before = [{name: one.clone() for name, one in net.state_dict().items()} for net in (student, method.networks)]
    torch.manual_seed(3)
    state, first = torch.get_rng_state(), method.extra_scores(student, [data])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    assert method.extra_scores(student, iter([data])) == first
    assert student.training and method.networks["tutor"].training and not teacher.training
    assert method.extra_scores(student.eval(), [data]) == first  # dropout was off
    student.train()
    assert all(not one.any() for one in (method.earned, method.baseline))
    for net, weights in zip((student, method.networks), before, strict=True):
        assert all(torch.equal(one, weights[name]) for name, one in net.state_dict().items())
        assert all(weight.grad is None for weight in net.parameters())
    assert first["tutor_entropy"] > 0 and all(math.isfinite(one) for one in first.values())


def test_scores_of_batches_in_which_nothing_is_chosen_are_numbers(pair, data):
    method, student = pair
    with_some, without = (method.extra_scores(student, some) for some in ([data], [unchosen(data)]))
    assert without.keys() == with_some.keys()
    assert all(math.isfinite(one) for one in without.values())


# ---------------------------------------------------------------- a run that goes on, and refusals


@pytest.mark.parametrize("steps", STEPS)
def test_a_run_in_pieces_ends_with_the_same_numbers(steps, teacher, tokenizer, tmp_path):
    ends = {}
    for name, until in (("whole", (6,)), ("pieces", (3, 6))):
        for updates in until:
            student = student_of(teacher, dropout=0.1).float()
            method = TutorKD(steps=steps, baseline=0.5)
            method.teacher = teacher.float()
            batches = Batches(rows_of(tokenizer), collate_masked_lm(tokenizer, PROBABILITY), batch_size=8)
            recipe = tiny.recipe(updates=updates, schedule="constant_with_warmup", accumulation=2)
            with seeded(7):
                ended = fit(student, method, batches, recipe, folder=tmp_path / name)
        ends[name] = student, method
    assert ended.resumed_at == 3
    assert_same_weights(*(one[0] for one in ends.values()))
    assert_same_weights(*(one[1].networks for one in ends.values()))
    assert torch.equal(*(one[1].baseline for one in ends.values())) and float(method.baseline) != 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": "beam"}, "beam.*Known: tutor, teacher, argmax, random"),
        ({"steps": "minmax"}, "minmax.*Known: joint, alternating"),
        ({"logits": "raw"}, "raw.*Known: modified, plain"),
        *(({"baseline": wrong}, "baseline from 0 to below 1") for wrong in (1.0, -0.1, math.nan)),
        *(({"rewards": wrong}, "two factors of at least 0") for wrong in ((-1.0, 1.0), (1.0, math.nan), (1.0,),
                                                                          (1.0, 1.0, 1.0), (math.inf, 0.0))),
        *(({"weights": wrong}, "four weights of at least 0") for wrong in ((1, 1, 1), (1, 1, 1, -1), (math.nan,) * 4)),
    ],
    ids=str,
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(UserError, match=words) as caught:
        TutorKD(**options)
    one_sentence(caught.value)
    if "weights" in options:
        with pytest.raises(UserError, match=words):
            PlainKD(**options)


def test_students_that_cannot_follow_the_teacher_are_refused_before_anything_is_trained(tokenizer, teacher):
    for kind, refused, words in (
        (TutorKD, student_of(teacher_of(tokenizer, 3), layers=3), "student of 3 layers cannot follow a teacher of 4"),
        (TutorKD, student_of(teacher_of(tokenizer, heads=1)), "as many heads as its teacher"),
        (TutorKD, student_of(teacher, predicting_student), "make it by `judging_student`"),
        (PlainKD, student_of(teacher), "make it by `predicting_student`"),
    ):
        method = kind()
        with pytest.raises(UserError, match="Distillation needs a teacher") as caught:
            method.attach(refused)
        one_sentence(caught.value)
        method.teacher = teacher
        with pytest.raises(UserError, match=words) as caught:
            method.attach(refused)
        one_sentence(caught.value)
    plain = TutorKD(logits="plain")
    plain.teacher = teacher
    with pytest.raises(UserError, match="make it by `predicting_student`"):
        plain.attach(student_of(teacher))
