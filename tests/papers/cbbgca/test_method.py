"""CBBGCA's two stages as training methods: the paper's loop, pieces, kills, and what the teacher runs on."""

from __future__ import annotations

import copy
import math
import random
import time

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdutils.core.errors import Paused, UserError
from kdutils.data.batches import EOS, MASK, collate_translation
from kdutils.losses.divergences import kl_divergence, label_smoothed_nll
from kdutils.models.build import translation_model
from kdutils.models.forward import counted_logits
from kdutils.papers.cbbgca import method as paper
from kdutils.papers.cbbgca.cmlm import CMLM
from kdutils.papers.cbbgca.method import CBBGCA, JointTraining, joint_passes, teacher_logits, teacher_scores
from kdutils.papers.cbbgca.objective import SELECTIONS, joint_loss, kd_weight, selected_parts, uniform_mask
from kdutils.training.checkpoints import seeded
from kdutils.training.loop import fit
from kdutils.training.method import Method, Step
from tests import tiny
from tests.papers.cbbgca.test_cmlm import by_hand, sentence
from tests.tiny import assert_same_weights, killed, one_sentence, timeless

NOW = Step(update=4, updates=10, epoch=0, logged=True)
SILENT = Step(update=4, updates=10, epoch=0, logged=False)
SMOOTHINGS = [(0.0, "uniform"), (0.1, "uniform"), (0.1, "others")]


def translator(dropout: float = 0.0, seed: int = 0):
    """A translator in float64 whose probabilities differ, in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = translation_model(tiny.VOCABULARY, 16, 2, 2, 16, dropout, max_length=16).double()
    with torch.no_grad():
        net.get_input_embeddings().weight.mul_(2.0)
    return net.train()


def masked_model(seed: int = 9, dropout: float = 0.0) -> CMLM:
    """A masked language model on a translator of its own, frozen as `fit` leaves a teacher."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CMLM(translator(dropout, seed)).double().eval().requires_grad_(False)


def second_stage(teacher: CMLM | None = None, **options) -> CBBGCA:
    method = CBBGCA(**options)
    method.teacher = teacher
    return method


@pytest.fixture
def batch():
    """Five pairs of unequal length, so that there is padding."""
    made = collate_translation()(tiny.examples(5))
    assert made["targets"].numel() < made["labels"].numel()
    return made


def counts(*batches) -> dict[str, int]:
    return {"targets": sum(one["targets"].numel() for one in batches)}


def gradients(*modules: nn.Module) -> list[Tensor]:
    """What the parameters hold, zeros where there is nothing; they start anew."""
    found = []
    for p in {id(p): p for module in modules for p in module.parameters()}.values():
        found.append(torch.zeros_like(p) if p.grad is None else p.grad.clone())
        p.grad = None
    return found


def assert_equal(one, other, rtol: float = 1e-9) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-12)


def alone(net: nn.Module, source: Tensor, words: Tensor) -> Tensor:
    """The translator's logits (n + 1, V) for the words of one sentence and its end, without padding."""
    read = torch.cat([torch.tensor([1]), words])[None]
    return net(input_ids=source[None], decoder_input_ids=read, use_cache=False).logits[0]


def smoothed(log_p: Tensor, right: int, epsilon: float, convention: str) -> Tensor:
    classes = len(log_p)
    wrong = epsilon / classes if convention == "uniform" else epsilon / (classes - 1)
    target = torch.full_like(log_p, wrong)
    target[right] = 1.0 - epsilon + (wrong if convention == "uniform" else 0.0)
    return -(target * log_p).sum()


# ---------------------------------------------------------------- stage 1


def joint(net: nn.Module, **options) -> JointTraining:
    method = JointTraining(**options)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        method.attach(net)
    method.networks.double()
    return method


@pytest.mark.parametrize("weight", [0.0, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("epsilon", "convention"), SMOOTHINGS)
def test_the_loss_of_stage_1_is_equation_8_sentence_by_sentence(epsilon, convention, shared, weight, batch):
    """Hidden are the words that the same random state hides; without dropout nothing else is drawn."""
    net = translator()
    method = joint(net, joint_weight=weight, shared_encoder=shared, epsilon=epsilon, convention=convention)
    cmlm, total = method.networks["cmlm"], 0.0
    torch.manual_seed(5)
    hidden = uniform_mask((batch["labels"] >= 0) & (batch["labels"] != EOS))
    for row in range(5):
        source, words = sentence(batch, row)
        log_p = alone(net, source, words).log_softmax(-1)
        asked = [*words.tolist(), EOS]
        total += weight * sum(smoothed(log_p[t], y, epsilon, convention) for t, y in enumerate(asked))
        own = hidden[row, : len(words)]
        assert own.any()
        log_q = by_hand(cmlm, source, words.masked_fill(own, MASK)).log_softmax(-1)
        total += (1 - weight) * sum(
            smoothed(log_q[t], int(words[t]), epsilon, convention) for t in own.nonzero()[:, 0].tolist()
        )
    torch.manual_seed(5)
    loss = method.loss(net, batch, {"targets": 40}, SILENT)["loss"]
    torch.testing.assert_close(loss, total / 40, rtol=1e-9, atol=0)


def test_with_dropout_the_loss_of_stage_1_is_that_of_the_same_draws(batch):
    net = translator(0.3)
    method = joint(net)
    cmlm = method.networks["cmlm"].train()
    torch.manual_seed(5)
    terms = method.loss(net, batch, counts(batch), NOW)
    torch.manual_seed(5)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "decoder_input_ids")}
    found = net(**inputs, use_cache=False)
    hidden = uniform_mask((batch["labels"] >= 0) & (batch["labels"] != EOS))
    reads, words = paper.cmlm_inputs(batch["labels"], hidden, MASK, EOS)
    here = hidden.flatten().nonzero()[:, 0]
    guessed = cmlm(reads, words, here, found.encoder_last_hidden_state, batch["attention_mask"])
    logits, targets = found.logits.flatten(0, 1)[batch["positions"]], batch["targets"]
    asked, n = batch["labels"].flatten()[here], len(targets)
    expected = joint_loss(logits, targets, guessed, asked, 0.7, 0.1) / n
    torch.testing.assert_close(terms["loss"], expected, rtol=1e-9, atol=0)
    # the logged parts: both without smoothing, each a mean over its own words
    torch.testing.assert_close(terms["nll"], label_smoothed_nll(logits, targets))
    torch.testing.assert_close(terms["cmlm_nll"], label_smoothed_nll(guessed, asked))
    assert set(terms) == {"loss", "nll", "cmlm_nll"} and not terms["nll"].requires_grad
    assert set(method.loss(net, batch, counts(batch), SILENT)) == {"loss"}


@pytest.fixture
def fixed_masks(monkeypatch):
    """Which words are hidden depends on the words alone: so that a batch can be cut into pieces."""
    monkeypatch.setattr(paper, "uniform_mask", lambda words: words & (torch.arange(words.shape[1]) % 2 == 0))


@pytest.mark.parametrize("shared", [True, False])
def test_four_pieces_of_stage_1_are_the_whole(shared, fixed_masks):
    """Also where the pieces count different numbers of words: all is divided by the targets of the update."""
    net, rows, collate = translator(), tiny.examples(12), collate_translation()
    method, whole = joint(net, shared_encoder=shared), collate_translation()(rows)
    one = method.loss(net, whole, counts(whole), SILENT)["loss"]
    one.backward()
    expected = gradients(net, method.networks)
    pieces = [collate(rows[a:b]) for a, b in ((0, 1), (1, 3), (3, 4), (4, 12))]
    losses = [method.loss(net, piece, counts(*pieces), SILENT)["loss"] for piece in pieces]
    sum(losses).backward()
    torch.testing.assert_close(sum(losses), one, rtol=1e-12, atol=0)
    assert_equal(gradients(net, method.networks), expected)


def test_the_shared_encoder_learns_from_both_and_each_decoder_from_its_own(fixed_masks, batch):
    found = {}
    for weight in (1.0, 0.0, 0.7):
        net = translator()
        method = joint(net, joint_weight=weight)
        method.loss(net, batch, counts(batch), SILENT)["loss"].backward()
        parts = (net.get_encoder().layers, net.get_decoder().layers, method.networks["cmlm"].decoder.layers)
        found[weight] = [gradients(part) for part in parts]
    largest = {w: [max(float(g.abs().max()) for g in part) for part in parts] for w, parts in found.items()}
    assert min(largest[1.0][:2]) > 1e-3 and largest[1.0][2] == 0.0
    assert largest[0.0][0] > 1e-3 and largest[0.0][1] == 0.0 and largest[0.0][2] > 1e-3
    for part in range(3):
        mixed = [0.7 * a + 0.3 * b for a, b in zip(found[1.0][part], found[0.0][part], strict=True)]
        assert_equal(found[0.7][part], mixed)


def test_without_a_shared_encoder_the_translators_learns_from_its_own_words_alone(fixed_masks, batch):
    net = translator()
    method = joint(net, shared_encoder=False)
    method.loss(net, batch, counts(batch), SILENT)["loss"].backward()
    cmlm = method.networks["cmlm"]
    mine, theirs = gradients(net.get_encoder().layers), gradients(cmlm.encoder.layers)
    Method(0.1).loss(net, batch, counts(batch), SILENT)["loss"].backward()
    assert_equal(mine, [0.7 * g for g in gradients(net.get_encoder().layers)])
    assert all(g.abs().max() > 0 for g in theirs if g.ndim > 1)


def test_a_rising_lambda_goes_from_a_half_to_one():
    steps = [Step(update, 8, 0, False) for update in range(1, 9)]
    assert [JointTraining(rising=True).weight(step) for step in steps] == [0.5 + k / 16 for k in range(8)]
    assert {JointTraining(0.6).weight(step) for step in steps} == {0.6}


def test_the_rising_lambda_reaches_the_loss(fixed_masks, batch):
    net = translator()
    rising, plain = joint(net, rising=True), {w: joint(net, joint_weight=w) for w in (0.5, 0.75)}
    for update, weight in ((1, 0.5), (5, 0.75)):
        step = Step(update, 8, 0, False)
        ours = rising.loss(net, batch, counts(batch), step)["loss"]
        assert torch.equal(ours, plain[weight].loss(net, batch, counts(batch), step)["loss"])


@pytest.mark.parametrize("shared", [True, False])
def test_given_a_teacher_stage_1_goes_on_with_a_copy_of_it(shared):
    net, first = translator(), translator()
    given = joint(first, shared_encoder=shared).networks["cmlm"].eval().requires_grad_(False)
    with torch.no_grad():
        for p in given.parameters():
            p.add_(0.1)
    before = copy.deepcopy(given.state_dict())
    method = JointTraining(shared_encoder=shared)
    method.teacher = given
    method.attach(net)
    mine = method.networks["cmlm"]
    assert_same_weights(mine, given)
    assert method.teacher is None and all(p.requires_grad for p in mine.parameters())
    with torch.no_grad():
        for p in mine.parameters():
            p.mul_(2.0)
    assert all(torch.equal(before[name], one) for name, one in given.state_dict().items())
    assert mine.projection is net.get_output_embeddings() and (mine.encoder is net.get_encoder()) == shared


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"joint_weight": 1.5}, "joint_weight from 0 to 1"), ({"joint_weight": math.nan}, "joint_weight from 0 to 1"),
        ({"threshold": -0.1}, "threshold from 0 to 1"), ({"epsilon": 1.0}, "epsilon"),
        ({"convention": "foo"}, "no label-smoothing convention 'foo'"),
    ],
)  # fmt: skip
def test_options_of_stage_1_that_cannot_work_are_one_sentence(options, words):
    with pytest.raises(UserError, match=words) as caught:
        JointTraining(**options)
    one_sentence(caught.value)


def test_what_an_update_of_stage_1_costs_in_plain_ones():
    """Counted by hand: attention 4 matrices in the encoder and 8 in the decoder, two in the feed-forward."""
    encoder, decoder, project = 2 * (4 * 64**2 + 2 * 64 * 256), 2 * (8 * 64**2 + 2 * 64 * 256), 1000 * 64
    plain = encoder + decoder + project
    assert joint_passes(2, 64, 256, 1000) == pytest.approx((plain + decoder + project / 2) / plain)
    assert joint_passes(2, 64, 256, 1000, False) == pytest.approx((2 * plain - project / 2) / plain)
    for shared in (True, False):
        assert joint(translator(), shared_encoder=shared).passes == joint_passes(2, 16, 16, tiny.VOCABULARY, shared)


# ---------------------------------------------------------------- stage 2: the paper's loop


def chosen_in(p: Tensor, words: Tensor, which: str, epsilon: float) -> list[list[int]]:
    """The words (by their place) of one sentence that each pass of the teacher hides; p (n + 1, V)."""
    right = [float(p[t, y]) for t, y in enumerate(words.tolist())]
    best = p.argmax(-1).tolist()
    n = range(len(right))
    return {
        "unconfident": lambda: [[t for t in n if right[t] <= epsilon]],
        "wrong": lambda: [[t for t in n if best[t] != int(words[t])]],
        "confident": lambda: [[t for t in n if right[t] > 1 - epsilon]],
        "all": lambda: [list(n)],
        "parts": lambda: [
            [t for t in n if (right[t] > part / 5 or part == 0) and right[t] <= (part + 1) / 5] for part in range(5)
        ],
    }[which]()


def pseudo_code(net, cmlm, batch, alpha, which="unconfident", epsilon=0.2, mix="selected", smoothing=(0.1, "uniform")):
    """Stage 2 as the paper writes it, one sentence after another; also KL and CE apart, and how many are selected."""
    total, soft, plain, number = 0.0, 0.0, 0.0, 0
    for row in range(len(batch["labels"])):
        source, words = sentence(batch, row)
        log_p = alone(net, source, words).log_softmax(-1)
        teaches = {}
        for part in chosen_in(log_p.detach().exp(), words, which, epsilon):
            if part:
                said = by_hand(cmlm, source, words.clone().index_fill(0, torch.tensor(part), MASK)).detach()
                teaches |= {t: said[t].log_softmax(-1) for t in part}
        for t, y in enumerate([*words.tolist(), EOS]):
            labels = smoothed(log_p[t], y, *smoothing)
            plain = plain - log_p[t, y]
            if t in teaches:
                apart = (teaches[t].exp() * (teaches[t] - log_p[t])).sum()
                total = total + alpha * apart + (1 - alpha) * labels
                soft, number = soft + apart, number + 1
            else:
                total = total + labels * (1.0 if mix == "selected" else 1.0 - alpha)
    return total, soft, plain, number


VARIANTS = [
    {},
    {"threshold": 0.05},
    {"threshold": 0.0},
    {"threshold": 1.0},
    {"mix": "all"},
    {"schedule": "constant", "alpha": 0.5},
    {"schedule": "constant", "alpha": 1.0},
    {"alpha": 0.4},
    {"epsilon": 0.0},
    {"convention": "others"},
    {"selection": "clean"},
    *({"which": which} for which in ("wrong", "confident", "all", "parts")),
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_loss_of_stage_2_is_the_papers_loop(options, batch):
    net, cmlm = translator(), masked_model()
    method = second_stage(cmlm, **options)
    alpha = {"constant": method.alpha, "linear": method.alpha * 0.7}[method.schedule]  # three of ten updates behind
    smoothing = (method.epsilon, method.convention)
    total, soft, plain, number = pseudo_code(
        net, cmlm, batch, alpha, method.which, method.threshold, method.mix, smoothing
    )
    assert number > 0 or method.threshold == 0.0 or method.which == "confident"
    (total / 40).backward()
    expected = gradients(net)
    terms = method.loss(net, batch, {"targets": 40}, NOW)
    terms["loss"].backward()
    torch.testing.assert_close(terms["loss"], total / 40, rtol=1e-9, atol=0)
    assert_equal(gradients(net), expected, rtol=1e-7)
    n = len(batch["targets"])
    right = {"nll": plain / 40, "kd": soft / 40, "selected": number / 40, "alpha": alpha * n / 40}
    assert set(terms) == {"loss", *right} and not any(terms[name].requires_grad for name in right)
    for name, value in right.items():
        assert terms[name].item() == pytest.approx(torch.as_tensor(value).item(), rel=1e-6, abs=1e-9), name
    assert set(method.loss(net, batch, {"targets": 40}, SILENT)) == {"loss"}


def test_alpha_is_1_at_the_first_update_and_1_over_k_at_the_last():
    steps = [Step(update, 4, 0, False) for update in (1, 2, 3, 4)]
    assert [CBBGCA().weight(step) for step in steps] == [1.0, 0.75, 0.5, 0.25]
    assert [CBBGCA(alpha=0.5).weight(step) for step in steps] == [0.5, 0.375, 0.25, 0.125]
    assert {CBBGCA(schedule="constant", alpha=0.5).weight(step) for step in steps} == {0.5}
    assert all(CBBGCA().weight(step) == kd_weight(step.update - 1, 4) for step in steps)


@pytest.mark.parametrize(
    "options", [{"alpha": 0.0}, {"threshold": 0.0}, {"threshold": 0.0, "which": "random"}], ids=str
)
def test_with_no_weight_or_no_word_it_is_plain_training_to_the_last_bit(options, batch):
    net, cmlm = translator().float(), masked_model().float()
    plain = Method(0.1).loss(net, batch, counts(batch), SILENT)["loss"]
    plain.backward()
    expected = gradients(net)
    runs = looked_at(cmlm)
    terms = second_stage(cmlm, **options).loss(net, batch, counts(batch), NOW)
    terms["loss"].backward()
    assert torch.equal(terms["loss"], plain) and terms["selected"] == terms["kd"] == 0.0
    assert all(torch.equal(one, other) for one, other in zip(gradients(net), expected, strict=True))
    assert runs == {"encoder": [], "decoder": []}


# ---------------------------------------------------------------- stage 2: what the teacher runs on


def looked_at(cmlm: CMLM) -> dict[str, list[int]]:
    """How many sentences each pass of the teacher's encoder and decoder will have computed."""
    rows: dict[str, list[int]] = {"encoder": [], "decoder": []}
    for name, seen in rows.items():
        getattr(cmlm, name).register_forward_pre_hook(
            lambda module, args, given, seen=seen: seen.append(len(given["input_ids"])), with_kwargs=True
        )
    return rows


def words_of(batch) -> Tensor:
    return (batch["labels"] >= 0) & (batch["labels"] != EOS)


def flat(batch, cells: list[tuple[int, int]]) -> Tensor:
    """A boolean over the targets of a batch, True at the (row, slot) given."""
    wide = torch.zeros(batch["labels"].shape, dtype=torch.bool)
    for row, slot in cells:
        assert words_of(batch)[row, slot]
        wide[row, slot] = True
    return wide.flatten()[batch["positions"]]


def test_the_teacher_runs_on_the_sentences_that_have_a_selected_word_alone(batch):
    cmlm = masked_model()
    rows = looked_at(cmlm)
    found = teacher_logits(cmlm, batch, [flat(batch, [(1, 0), (1, 1), (4, 0)])])
    assert rows == {"encoder": [2], "decoder": [2]} and found.shape == (3, tiny.VOCABULARY)
    parts = [flat(batch, [(3, 0)]), flat(batch, []), flat(batch, [(row, 1) for row in range(5)])]
    found = teacher_logits(cmlm, batch, parts)
    assert rows == {"encoder": [2, 1, 5], "decoder": [2, 1, 5]} and found.shape == (6, tiny.VOCABULARY)
    nothing = teacher_logits(cmlm, batch, [flat(batch, [])] * 2)
    assert rows["encoder"] == [2, 1, 5] and nothing.shape == (0, tiny.VOCABULARY)
    assert nothing.dtype == cmlm.projection.weight.dtype


def test_its_rows_stand_in_the_order_of_the_words_each_with_its_own_part_hidden(batch):
    cmlm = masked_model()
    parts = [[(0, 1), (2, 0), (4, 0)], [(0, 0), (4, 1)], [], [(1, 1), (2, 1)]]
    expected = []
    for row, slot in sorted(cell for part in parts for cell in part):
        (part,) = (part for part in parts if (row, slot) in part)
        source, words = sentence(batch, row)
        here = torch.tensor([t for r, t in part if r == row])
        expected.append(by_hand(cmlm, source, words.clone().index_fill(0, here, MASK))[slot])
    found = teacher_logits(cmlm, batch, [flat(batch, part) for part in parts])
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-12)
    one = teacher_logits(cmlm, batch, [flat(batch, parts[3])])
    torch.testing.assert_close(one, torch.stack([expected[number] for number in (2, 4)]), rtol=1e-9, atol=1e-12)
    assert not found.requires_grad


@pytest.mark.parametrize("which", SELECTIONS)
def test_the_end_of_a_sentence_is_never_selected(which, batch):
    """Whatever the translator makes of it: at a threshold of 1 all words are selected, and no end."""
    net, asked = translator(), []
    cmlm = masked_model()
    cmlm.decoder.register_forward_pre_hook(
        lambda module, args, given: asked.append(given["input_ids"]), with_kwargs=True
    )
    with torch.no_grad():
        net.get_input_embeddings().weight[EOS] *= -3.0  # no end is expected
    terms = second_stage(cmlm, threshold=1.0, which=which).loss(net, batch, {"targets": 1}, NOW)
    words = int(words_of(batch).sum())
    assert terms["selected"] == words if which != "wrong" else 0 < terms["selected"] <= words
    assert words == len(batch["targets"]) - 5
    assert sum(int((inputs == MASK).sum()) for inputs in asked) == terms["selected"]
    assert not any((inputs == EOS).any() for inputs in asked)


def test_random_words_are_as_many_of_each_sentence(batch):
    net, found = translator(), {}
    for which in ("unconfident", "random"):
        cmlm, asked = masked_model(), []
        cmlm.decoder.register_forward_pre_hook(
            lambda module, args, given, asked=asked: asked.append(given["input_ids"]), with_kwargs=True
        )
        torch.manual_seed(0)
        loss = second_stage(cmlm, which=which, threshold=0.05).loss(net, batch, {"targets": 1}, SILENT)["loss"]
        found[which] = (asked[0] == MASK).sum(1).tolist(), asked[0], loss.item()
    assert found["random"][0] == found["unconfident"][0] and found["random"][2] != found["unconfident"][2]


def test_the_words_are_chosen_on_the_pass_with_dropout_or_on_a_clean_one(batch, monkeypatch):
    """In the first case that pass is the one that is trained on, and no other is made."""
    net, judged, passes = translator(0.4), [], []
    monkeypatch.setattr(
        paper, "selected_parts", lambda logits, *rest: judged.append(logits) or selected_parts(logits, *rest)
    )
    net.register_forward_pre_hook(lambda module, args: passes.append(module.training))
    with torch.no_grad(), seeded(0):
        net.eval()
        clean = counted_logits(net, batch)
        net.train()
    for selection, ways in (("training", [True]), ("clean", [True, False])):
        passes.clear()
        torch.manual_seed(3)
        second_stage(masked_model(), selection=selection).loss(net, batch, counts(batch), SILENT)["loss"].backward()
        assert passes == ways and all(module.training for module in net.modules())
        assert not judged[-1].requires_grad
    torch.manual_seed(3)
    drawn = counted_logits(net, batch)
    assert torch.equal(judged[0], drawn.detach()) and torch.equal(judged[1], clean)
    assert not torch.equal(judged[0], judged[1])


@pytest.mark.parametrize("selection", ["training", "clean"])
def test_its_own_clean_pass_can_teach_in_the_place_of_a_teacher(selection, batch):
    net = translator(0.4)
    method = CBBGCA(speaker="itself", selection=selection, threshold=0.3, schedule="constant", epsilon=0.0)
    method.attach(net)  # needs no teacher
    torch.manual_seed(3)
    terms = method.loss(net, batch, {"targets": 1}, NOW)
    torch.manual_seed(3)
    drawn = counted_logits(net, batch).log_softmax(-1)
    net.eval()
    clean, right = counted_logits(net, batch).detach().log_softmax(-1), batch["targets"][:, None]
    net.train()
    judged = clean if selection == "clean" else drawn
    chosen = (judged.gather(1, right)[:, 0].exp() <= 0.3) & (batch["targets"] != EOS)
    apart = (clean.exp() * (clean - drawn)).sum(-1)
    expected = torch.where(chosen, apart, -drawn.gather(1, right)[:, 0]).sum()
    torch.testing.assert_close(terms["loss"], expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(terms["kd"], apart[chosen].sum(), rtol=1e-9, atol=0)
    assert apart[chosen].sum() > 1e-3 and method.extra_scores(net, []) == {}


def test_without_dropout_it_has_nothing_to_teach_itself(batch):
    net = translator()
    terms = CBBGCA(speaker="itself").loss(net, batch, counts(batch), NOW)
    assert terms["selected"] > 0 and abs(terms["kd"]) < 1e-12


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({}, 4 / 3), ({"selection": "clean"}, 5 / 3), ({"speaker": "itself"}, 4 / 3),
        ({"speaker": "itself", "selection": "clean"}, 4 / 3),
    ],
    ids=str,
)  # fmt: skip
def test_what_an_update_of_stage_2_costs_in_plain_ones(options, passes):
    assert CBBGCA(**options).passes == pytest.approx(passes) and CBBGCA.passes == 4 / 3


# ---------------------------------------------------------------- stage 2: gradients, pieces, precision


@pytest.mark.parametrize("options", [option for option in VARIANTS if option.get("selection") != "clean"], ids=str)
def test_the_gradient_of_the_pieces_of_stage_2_is_that_of_the_whole(options):
    """Pieces without a selected word among them; every sum is divided by the targets of the update."""
    net, method = translator(), second_stage(masked_model(), **options)
    rows, collate = tiny.examples(12), collate_translation()
    whole = collate(rows)
    one = method.loss(net, whole, counts(whole), NOW)
    one["loss"].backward()
    expected = gradients(net)
    total = dict.fromkeys(one, 0.0)
    for a, b in ((0, 1), (1, 3), (3, 4), (4, 12)):
        terms = method.loss(net, collate(rows[a:b]), counts(whole), NOW)
        terms["loss"].backward()
        total = {name: total[name] + float(terms[name]) for name in total}
    assert_equal(gradients(net), expected)
    assert total == pytest.approx({name: float(term) for name, term in one.items()}, rel=1e-6)


def test_no_gradient_reaches_the_teacher_and_none_of_its_weights_is_the_students(batch):
    net, cmlm = translator(), masked_model().requires_grad_(True)  # were it not frozen
    second_stage(cmlm, threshold=1.0).loss(net, batch, counts(batch), SILENT)["loss"].backward()
    assert all(p.grad is None for p in cmlm.parameters())
    assert all(p.grad is not None for p in net.parameters())


def test_the_student_reacts_to_its_teacher(batch):
    net = translator()
    losses = [
        second_stage(masked_model(seed)).loss(net, batch, counts(batch), SILENT)["loss"].item() for seed in (9, 10)
    ]
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stage", [1, 2])
def test_half_precision_is_close_and_finite(stage, dtype, batch, fixed_masks):
    net = translator().float()
    method = joint(net) if stage == 1 else second_stage(masked_model().float(), threshold=1.0)
    if stage == 1:
        method.networks.float()
    exact = method.loss(net, batch, counts(batch), SILENT)["loss"].item()
    with torch.autocast("cpu", dtype=dtype):
        half = method.loss(net, batch, counts(batch), NOW)
    half["loss"].backward()
    assert half["loss"].dtype == torch.float32 and half["loss"].item() == pytest.approx(exact, rel=0.02)
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_a_batch_of_sentences_without_words_trains_on_their_ends(batch):
    empty = collate_translation()([{"source": [7, 2], "target": [2]}] * 2)
    net = translator()
    for method in (joint(net), second_stage(masked_model(), threshold=1.0)):
        terms = method.loss(net, empty, counts(empty), NOW)
        terms["loss"].backward()
        assert all(torch.as_tensor(term).isfinite() for term in terms.values())
        assert all(g.isfinite().all() for g in gradients(net))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 1.5}, "threshold from 0 to 1"), ({"which": "hard"}, "no selection of words 'hard'"),
        ({"schedule": "cosine"}, "no schedule of alpha 'cosine'"), ({"alpha": -1.0}, "alpha from 0 to 1"),
        ({"alpha": math.nan}, "alpha from 0 to 1"), ({"mix": "convex"}, "no mix of labels and teacher 'convex'"),
        ({"selection": "cleen"}, "no pass to select by 'cleen'. Did you mean 'clean'"),
        ({"speaker": "me"}, "no teacher 'me'. Known: cmlm, itself"), ({"epsilon": -0.1}, "epsilon"),
        ({"convention": "foo"}, "no label-smoothing convention"),
    ],
    ids=str,
)  # fmt: skip
def test_options_of_stage_2_that_cannot_work_are_one_sentence(options, words):
    with pytest.raises(UserError, match=words) as caught:
        CBBGCA(**options)
    one_sentence(caught.value)


def test_without_a_teacher_stage_2_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(UserError, match="give the method one as its teacher") as caught:
        fit(tiny.model(), CBBGCA(), tiny.batches(), tiny.recipe(), folder=tmp_path / "run")
    one_sentence(caught.value)
    assert not list(tmp_path.rglob("*.jsonl"))
    CBBGCA(alpha=0.0).attach(tiny.model())


def test_a_teacher_on_the_students_own_encoder_is_refused_before_anything_is_trained():
    """To freeze the teacher would freeze the student, and a student that moves would move its teacher."""
    net = tiny.model()
    for shared in (True, False):  # the embeddings are shared in any case
        with pytest.raises(UserError, match="The teacher shares weights with the student") as caught:
            fit(net, second_stage(CMLM(net, shared)), tiny.batches(), tiny.recipe())
        one_sentence(caught.value)


# ---------------------------------------------------------------- what is known of the teacher


def known(net, cmlm, batches, epsilon: float, training: bool) -> dict[str, float]:
    """`teacher_scores` written again, word by word; with dropout where `training`, in the order of the batches."""
    sums, words, number = {}, 0, 0
    for batch in batches:
        net.train(training)
        with torch.no_grad():
            judged = counted_logits(net, batch).log_softmax(-1)
            net.eval()
            clean, place = counted_logits(net, batch).log_softmax(-1), 0
        for row in range(len(batch["labels"])):
            source, right = sentence(batch, row)
            own = judged[place : place + len(right)]
            hidden = torch.tensor([float(own[t, y].exp()) <= epsilon for t, y in enumerate(right.tolist())]).bool()
            said = by_hand(cmlm, source, right.masked_fill(hidden, MASK)).log_softmax(-1)
            for t in hidden.nonzero()[:, 0].tolist():
                y, q, p, free = int(right[t]), said[t], own[t], clean[place + t]
                for name, value in {
                    "teacher_loss": -q[y], "teacher_accuracy": q.argmax() == y, "student_loss": -p[y],
                    "student_accuracy": p.argmax() == y, "teacher_kl": (q.exp() * (q - p)).sum(),
                    "clean_loss": -free[y], "clean_accuracy": free.argmax() == y,
                }.items():  # fmt: skip
                    sums[name] = sums.get(name, 0.0) + float(value)
                number += 1
            words, place = words + len(right), place + len(right) + 1
    means = {name: total / number for name, total in sums.items() if training or not name.startswith("clean")}
    return {"selected_share": number / words, **means}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("epsilon", [0.02, 0.2, 1.0])
def test_what_the_teacher_knows_is_what_a_plain_recomputation_finds(epsilon, training):
    net, cmlm = translator(0.3), masked_model(dropout=0.3)
    batches = list(tiny.batches(12, max_tokens=30))
    assert len({len(batch["targets"]) for batch in batches}) > 1  # a mean of means would differ
    found = teacher_scores(net, cmlm.train(), batches, epsilon, training)
    cmlm.eval()
    with seeded(0):
        expected = known(net, cmlm, batches, epsilon, training)
    assert found.keys() == expected.keys() and 0 < found["selected_share"] <= 1
    assert found == pytest.approx(expected, rel=1e-6)
    assert epsilon < 1.0 or found["selected_share"] == 1.0
    assert found == teacher_scores(net, cmlm, iter(batches), epsilon, training)


def test_where_no_word_is_unconfident_only_the_share_is_a_number():
    net, cmlm = translator(), masked_model()
    for batches in (list(tiny.batches(4)), []):
        found = teacher_scores(net, cmlm, batches, 0.0)
        assert found.pop("selected_share") == 0.0
        assert len(found) == 5 and all(map(math.isnan, found.values()))


def test_looking_leaves_modes_random_numbers_weights_and_gradients_alone(batch):
    net, cmlm = translator(0.3), masked_model(dropout=0.3)
    Method().loss(net, batch, counts(batch), SILENT)["loss"].backward()
    net.get_encoder().eval()
    cmlm.decoder.train()
    modules = [*net.modules(), *cmlm.modules()]
    modes, slopes = [m.training for m in modules], [p.grad.clone() for p in net.parameters()]
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    before, theirs = tiny.weights(net), tiny.weights(cmlm)
    kept = {name: one.clone() for name, one in batch.items()}
    for training in (False, True):
        teacher_scores(net, cmlm, [batch], 0.2, training)
    assert modes == [m.training for m in modules] and len(set(modes)) == 2
    assert all(torch.equal(one, p.grad) for one, p in zip(slopes, net.parameters(), strict=True))
    assert all(p.requires_grad for p in net.parameters()) and all(p.grad is None for p in cmlm.parameters())
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert all(torch.equal(one, net.state_dict()[name]) for name, one in before.items())
    assert all(torch.equal(one, cmlm.state_dict()[name]) for name, one in theirs.items())
    assert all(torch.equal(kept[name], batch[name]) for name in kept)


def test_both_stages_look_at_their_teacher_in_every_evaluation():
    net, cmlm, held_out = translator(), masked_model(), list(tiny.held_out())
    stage_1, stage_2 = joint(net, threshold=0.1), second_stage(cmlm, threshold=0.1)
    assert stage_1.extra_scores(net, held_out) == teacher_scores(net, stage_1.networks["cmlm"], held_out, 0.1)
    assert stage_2.extra_scores(net, held_out) == teacher_scores(net, cmlm, held_out, 0.1)
    assert CBBGCA(alpha=0.0).extra_scores(net, held_out) == {}


# ---------------------------------------------------------------- trainings


def method_of(stage: int, **options) -> Method:
    """The method of a stage for a run of `tiny.train`; its teacher is the same whenever it is made."""
    if stage == 1:
        return JointTraining(**options)
    return second_stage(masked_model(dropout=0.1).float().requires_grad_(True), **{"threshold": 0.3, **options})


def test_the_teacher_stays_as_it_is_while_the_student_learns():
    net = tiny.model()
    cmlm = CMLM(tiny.model(seed=5))
    before = tiny.weights(cmlm)
    fit(net, second_stage(cmlm, schedule="constant"), tiny.batches(), tiny.recipe(updates=5))
    assert all(torch.equal(one, cmlm.state_dict()[name]) for name, one in before.items())
    assert all(p.grad is None and not p.requires_grad for p in cmlm.parameters())
    assert not any(module.training for module in cmlm.modules())
    start = tiny.model().state_dict()
    assert any(not torch.equal(one, start[name]) for name, one in net.state_dict().items())


@pytest.mark.parametrize("shared", [True, False])
def test_stage_1_trains_both_models_and_stage_2_has_nothing_beside_its_student(shared):
    net, other = tiny.model(), tiny.model()
    first, fresh = JointTraining(shared_encoder=shared), JointTraining(shared_encoder=shared)
    with seeded(7):
        fresh.attach(other)
    with seeded(7):
        fit(net, first, tiny.batches(), tiny.recipe(updates=4))
    assert set(first.modules()) == {"cmlm"} and second_stage(masked_model()).modules() == {}
    pairs = [(net, other), (first.modules()["cmlm"], fresh.modules()["cmlm"])]
    for trained, start in pairs:
        before = start.state_dict()
        still = [name for name, one in trained.named_parameters() if torch.equal(one, before[name])]
        assert not still


def test_stage_1_teaches_both_models():
    torch.manual_seed(0)
    net, method = tiny.model(0.0), JointTraining(0.5, epsilon=0.0)
    rows = fit(net, method, tiny.batches(), tiny.recipe(updates=60, accumulation=1, log_every=5)).history
    assert rows[-1]["nll"] < rows[0]["nll"] - 0.5 and rows[-1]["cmlm_nll"] < rows[0]["cmlm_nll"] - 0.3
    assert rows[0].keys() >= {"loss", "nll", "cmlm_nll", "learning_rate"}


def test_distillation_moves_the_student_towards_its_teacher():
    """On all words, with the teacher's whole weight: the divergence of what it says falls."""
    cmlm, apart = CMLM(tiny.model(0.0, seed=5)), {}
    cmlm.eval().requires_grad_(False)
    batch = collate_translation()(tiny.examples())
    words = batch["targets"] != EOS
    for alpha in (0.0, 1.0):
        net = tiny.model(0.0)
        method = second_stage(cmlm, threshold=1.0, schedule="constant", alpha=alpha)
        for when in ("before", "after"):
            with torch.no_grad():
                apart[alpha, when] = float(
                    kl_divergence(teacher_logits(cmlm, batch, [words]), counted_logits(net, batch)[words])
                )
            if when == "before":
                fit(net, method, tiny.batches(), tiny.recipe(updates=30, accumulation=1))
    assert apart[1.0, "after"] < 0.5 * apart[1.0, "before"] and apart[1.0, "after"] < 0.5 * apart[0.0, "after"]


RUNS = [(1, {}), (1, {"shared_encoder": False}), (1, {"rising": True}), (2, {}), (2, {"which": "random"})]


def everything(fitted) -> dict[str, str]:
    return {name: tiny.fingerprint(one) for name, one in {"model": fitted.model, **fitted.method.modules()}.items()}


@pytest.mark.parametrize(("stage", "options"), RUNS, ids=str)
def test_a_run_that_pauses_after_every_update_ends_with_the_same_numbers(stage, options, tmp_path):
    whole, pauses, pieces = tiny.train(tmp_path / "whole", method_of(stage, **options), updates=6, behind=4), 0, None
    while pieces is None:
        try:
            pieces = tiny.train(
                tmp_path / "pieces", method_of(stage, **options), updates=6, behind=4, until=time.monotonic()
            )
        except Paused:
            pauses += 1
    assert pauses == 5 and pieces.resumed_at == 5
    assert timeless(pieces.history) == timeless(whole.history)
    assert everything(pieces) == everything(whole)
    assert set(everything(whole)) == ({"model", "cmlm"} if stage == 1 else {"model"})
    names = {"selected_share", "teacher_loss", "teacher_kl", "student_loss"}
    assert all(names <= row.keys() for row in whole.history if row["kind"] == "eval")


def a_run(folder: str, stage: int) -> None:
    tiny.train(folder, method_of(stage), updates=6)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_killed_run_ends_as_if_nothing_had_happened(stage, tmp_path):
    whole = tiny.train(tmp_path / "whole", method_of(stage), updates=6)
    for kill_at in (5, 2):  # after the checkpoint of update 3, and again before the one of update 6
        killed(a_run, kill_at, folder=str(tmp_path / "killed"), stage=stage)
    ended = tiny.train(tmp_path / "killed", method_of(stage), updates=6)
    assert ended.resumed_at == 3 and timeless(ended.history) == timeless(whole.history)
    assert everything(ended) == everything(whole)
