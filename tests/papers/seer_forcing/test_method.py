"""Seer Forcing as a training method and as an experiment; its objective is in test_objective.py."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from kdutils.core.errors import UserError
from kdutils.data.batches import collate_translation
from kdutils.models.build import translation_model
from kdutils.models.forward import counted_logits
from kdutils.papers.seer_forcing import method as paper
from kdutils.papers.seer_forcing.decoder import two_decoders
from kdutils.papers.seer_forcing.experiment import ARMS, EXPERIMENTS
from kdutils.papers.seer_forcing.method import SeerForcing
from kdutils.papers.seer_forcing.objective import adversarial_losses, l2_loss, seer_loss
from kdutils.study.experiment import resolve
from kdutils.training.loop import fit
from kdutils.training.method import Method, Step
from tests import tiny
from tests.tiny import one_sentence

NOW = Step(update=2, updates=10, epoch=0, logged=True)
SILENT = Step(update=3, updates=10, epoch=0, logged=False)
TRANSFERS = ("kd", "l2", "adversarial")


def pair(method: SeerForcing, dropout: float = 0.0, layers: int = 2, seed: int = 0):
    """A translator in float64 and the method attached to it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = translation_model(tiny.VOCABULARY, 16, layers, 2, 16, dropout, max_length=16)
        method.attach(net)
    method.networks.double()
    return net.double().train()


@pytest.fixture
def batch():
    """Five pairs of unequal length, so that there is padding."""
    made = collate_translation()(tiny.examples(5))
    assert made["targets"].numel() < made["labels"].numel()
    return made


def apart(net, method, batch):
    """(logits, hidden) as `two_decoders` gives them, from runs that share nothing and hooks that only look."""
    caught = {}
    handles = [
        net.get_decoder().layers[0].register_forward_pre_hook(lambda m, args: caught.update(embedded=args[0])),
        net.lm_head.register_forward_pre_hook(lambda m, args: caught.update(hidden=args[0])),
    ]
    own = counted_logits(net, batch)
    for handle in handles:
        handle.remove()
    encoded = net.get_encoder()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0]
    lengths = (batch["labels"] >= 0).sum(1)
    foreseen = method.networks["seer"](caught["embedded"], encoded, batch["attention_mask"], lengths)
    student, foreseen = (states.flatten(0, 1)[batch["positions"]] for states in (caught["hidden"], foreseen))
    return torch.stack([own, net.lm_head(foreseen)]), torch.stack([student, foreseen])


def gradients(*modules) -> list[torch.Tensor]:
    """What the parameters hold, zeros where there is nothing; they start anew."""
    found = []
    for p in (p for module in modules for p in module.parameters()):
        found.append(torch.zeros_like(p) if p.grad is None else p.grad.clone())
        p.grad = None
    return found


def assert_equal(one, other) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def largest(tensors) -> float:
    return max(float(t.abs().max()) for t in tensors)


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize(("epsilon", "convention"), [(0.0, "uniform"), (0.1, "uniform"), (0.1, "others")])
def test_without_dropout_it_is_the_objective_of_two_separate_decoders(alpha, epsilon, convention, batch):
    method = SeerForcing(alpha, epsilon=epsilon, convention=convention)
    net, counts = pair(method), {"targets": batch["targets"].numel()}
    logits, _ = apart(net, method, batch)
    smoothing = {"epsilon": epsilon, "convention": convention}
    expected = seer_loss(logits, batch["targets"], alpha, **smoothing)
    torch.testing.assert_close(method.loss(net, batch, counts, SILENT)["loss"], expected)
    method = SeerForcing(alpha, full_cross_entropy=True, **smoothing)
    net = pair(method)
    full = seer_loss(logits, batch["targets"], weights=(1.0, 1.0, 1.0 - alpha), **smoothing)
    torch.testing.assert_close(method.loss(net, batch, counts, SILENT)["loss"], full)
    assert alpha == 1.0 or full > expected + 0.1


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_the_alternatives_put_their_term_in_the_place_of_distillation(alpha, batch):
    counts = {"targets": batch["targets"].numel()}
    for transfer in ("l2", "adversarial"):
        method = SeerForcing(alpha, transfer, 3.0)
        net = pair(method)
        logits, (student, seer) = apart(net, method, batch)
        expected = seer_loss(logits, batch["targets"], weights=(alpha, 1.0, 0.0))
        if transfer == "l2":
            expected = expected + (1 - alpha) * 3.0 * l2_loss(student, seer)
        else:
            fooling, telling = adversarial_losses(method.networks["discriminator"], student, seer)
            expected = expected + (1 - alpha) * 3.0 * fooling + telling
        torch.testing.assert_close(method.loss(net, batch, counts, SILENT)["loss"], expected)


def test_the_options_of_the_seer_reach_it(batch):
    method = SeerForcing(reading="masked", shift=1, dropout=0.4)
    pair(method)
    seer = method.networks["seer"]
    assert (seer.reading, seer.shift, seer.dropout) == ("masked", 1, 0.4)
    s = resolve(EXPERIMENTS, "demo", {"reading": "masked", "shift": 3, "seer_dropout": 0.2, "alpha": 0.3,
                                      "full_cross_entropy": True, "l2_weight": 5, "adversarial_weight": 7})  # fmt: skip
    s = s["translation"]
    made = {arm.name: arm.method(s) for arm in ARMS}
    for name in ("joint", "seer_forcing", "l2", "adversarial"):
        assert made[name].options == {"reading": "masked", "shift": 3, "dropout": 0.2}
        assert (made[name].epsilon, made[name].convention) == (0.1, "uniform")
    assert made["seer_forcing"].weights == (1.0, 1.0, 0.7) and made["joint"].weights == (1.0, 1.0, 0.0)
    assert made["l2"].transfer_weight == pytest.approx(3.5)
    assert made["adversarial"].transfer_weight == pytest.approx(4.9)
    assert type(made["baseline"]) is type(made["baseline_compute"]) is Method
    assert made["baseline"].epsilon == 0.1


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_the_gradient_of_the_pieces_is_that_of_the_whole(transfer, batch):
    """Also where the pieces count different numbers of targets: the loss is a share of the whole update."""
    method = SeerForcing(0.4, transfer)
    net, rows = pair(method), tiny.examples(9)
    whole = collate_translation()(rows)
    counts = method.count(whole)
    assert counts == {"targets": sum(len(row["target"]) for row in rows)}
    one = method.loss(net, whole, counts, NOW)
    one["loss"].backward()
    expected = gradients(net, method.networks)
    assert min(float(g.abs().max()) for g in expected[:3]) > 0
    total = dict.fromkeys(one, 0.0)
    for piece in (rows[:1], rows[1:3], rows[3:]):
        terms = method.loss(net, collate_translation()(piece), counts, NOW)
        terms["loss"].backward()
        total = {name: total[name] + terms[name].item() for name in total}
    assert_equal(gradients(net, method.networks), expected)
    assert total == pytest.approx({name: term.item() for name, term in one.items()}, rel=1e-6)


def test_the_parts_are_only_computed_where_they_are_written_down(batch):
    method = SeerForcing(0.3)
    net, n = pair(method), batch["targets"].numel()
    assert set(method.loss(net, batch, {"targets": n}, SILENT)) == {"loss"}
    terms = method.loss(net, batch, {"targets": 2 * n}, NOW)
    own, seer = apart(net, method, batch)[0].log_softmax(-1)
    right = batch["targets"][:, None]
    expected = {
        "nll": -own.gather(1, right).mean() / 2,
        "seer_nll": -seer.gather(1, right).mean() / 2,
        "seer_kl": (seer.exp() * (seer - own)).sum(-1).mean() / 2,
    }
    assert set(terms) == {"loss", *expected}
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)
        assert not terms[name].requires_grad


def test_with_dropout_the_seer_draws_while_it_teaches(batch):
    method = SeerForcing(0.0, epsilon=0.0, dropout=0.5)
    net, counts = pair(method), {"targets": 1}
    first, second = (method.loss(net, batch, counts, SILENT)["loss"].item() for _ in range(2))
    assert first != second
    torch.manual_seed(3)
    drawn = method.loss(net, batch, counts, NOW)
    torch.manual_seed(3)
    logits, _ = two_decoders(net, method.networks["seer"], batch)
    torch.testing.assert_close(
        drawn["loss"], seer_loss(logits, batch["targets"], 0.0, epsilon=0.0, reduction="sum"), rtol=1e-9, atol=0
    )


# ---------------------------------------------------------------- gradient routes


def test_with_alpha_one_the_conventional_decoder_has_the_plain_gradient(batch):
    """The encoder and the embeddings get the seer's too: that is what training two decoders side by side means."""
    method, counts = SeerForcing(1.0), {"targets": batch["targets"].numel()}
    net = pair(method)
    decoder, encoder = net.get_decoder().layers, net.get_encoder().layers
    Method(0.1).loss(net, batch, counts, SILENT)["loss"].backward()
    plain, plain_encoder = gradients(decoder), gradients(encoder)
    net.zero_grad()
    seer_loss(apart(net, method, batch)[0], batch["targets"], weights=(0.0, 1.0, 0.0)).backward()
    own_encoder = gradients(encoder)
    assert largest(gradients(decoder)) == 0.0
    net.zero_grad(), method.networks.zero_grad()
    method.loss(net, batch, counts, SILENT)["loss"].backward()
    assert_equal(gradients(decoder), plain)
    assert_equal(gradients(encoder), [a + b for a, b in zip(plain_encoder, own_encoder, strict=True)])
    assert largest(own_encoder) > 1e-3


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_seer_learns_from_its_labels_alone(transfer, alpha, batch):
    counts = {"targets": batch["targets"].numel()}
    found = []
    for method in (SeerForcing(1.0), SeerForcing(alpha, transfer, 2.0, full_cross_entropy=True)):
        net = pair(method)
        method.loss(net, batch, counts, SILENT)["loss"].backward()
        found.append(gradients(method.networks["seer"]))
    assert_equal(*found)
    assert all(g.any() for g in found[0])


def test_the_discriminator_is_trained_by_its_own_loss_and_moves_nobody_else(batch):
    """What `telling` says reaches no decoder; what `fooling` says reaches no discriminator, whatever its weight."""
    counts, judged, moved = {"targets": batch["targets"].numel()}, {}, {}
    for weight in (0.0, 5.0):
        method = SeerForcing(0.5, "adversarial", weight)
        net = pair(method)
        _, (student, seer) = apart(net, method, batch)
        method.loss(net, batch, counts, SILENT)["loss"].backward()
        judged[weight] = gradients(method.networks["discriminator"])
        moved[weight] = gradients(net.get_decoder().layers)
        adversarial_losses(method.networks["discriminator"], student, seer)[1].backward()
        assert_equal(gradients(method.networks["discriminator"]), judged[weight])
    assert_equal(judged[0.0], judged[5.0])
    method = SeerForcing(0.5, "l2", 0.0)
    net = pair(method)
    method.loss(net, batch, counts, SILENT)["loss"].backward()
    assert_equal(gradients(net.get_decoder().layers), moved[0.0])
    assert largest(a - b for a, b in zip(moved[0.0], moved[5.0], strict=True)) > 1e-4


# ---------------------------------------------------------------- looking


def looked_at(net, method, batches) -> dict[str, float]:
    """The scores written again, position by position."""
    sums, count = dict.fromkeys(("seer_loss", "seer_accuracy", "seer_kl"), 0.0), 0
    for batch in batches:
        for own, seer, right in zip(*apart(net, method, batch)[0].log_softmax(-1), batch["targets"], strict=True):
            sums["seer_loss"] -= seer[right].item()
            sums["seer_accuracy"] += float(seer.argmax() == right)
            sums["seer_kl"] += sum(math.exp(a) * (a - b) for a, b in zip(seer.tolist(), own.tolist(), strict=True))
            count += 1
    return {name: total / count for name, total in sums.items()}


def most_changed(net, method, row: dict[str, list[int]]) -> tuple[float, float]:
    """The largest change of a seer's logit by its own word and of the model's by a later one, word by word."""
    batch = collate_translation()([row])
    before, leak, past = two_decoders(net, method.networks["seer"], batch)[0], [0.0], [0.0]
    for j in range(1, len(row["target"])):
        other = {**batch, "decoder_input_ids": batch["decoder_input_ids"].clone()}
        other["decoder_input_ids"][0, j] = 1
        change = (two_decoders(net, method.networks["seer"], other)[0] - before).abs().amax(-1)
        leak.append(change[1, j - 1].item())
        past += change[0, :j].tolist()
    return max(leak), max(past)


@pytest.mark.parametrize("reading", ["reversed", "masked"])
def test_what_is_looked_at_is_what_a_plain_recomputation_finds(reading):
    method = SeerForcing(reading=reading, dropout=0.3)
    net = pair(method, dropout=0.3).train()
    batches = list(tiny.batches(12, max_tokens=30))
    assert len({len(batch["targets"]) for batch in batches}) > 1  # a mean of means would differ
    seen = method.extra_scores(net, batches)
    net.eval(), method.networks.eval()
    assert set(seen) == {"seer_loss", "seer_accuracy", "seer_kl", "seer_leak", "past_leak"}
    for name, value in looked_at(net, method, batches).items():
        assert seen[name] == pytest.approx(value, rel=1e-5), name
    assert seen["seer_leak"] <= 1e-5 and seen["past_leak"] <= 1e-5
    assert seen == method.extra_scores(net, iter(batches))


@pytest.mark.parametrize("reading", ["reversed", "masked"])
def test_with_a_shift_of_one_the_answer_leaks_and_the_look_says_how_much(reading):
    method = SeerForcing(reading=reading, shift=1)
    net, rows = pair(method).eval(), sorted(tiny.examples(6), key=lambda row: len(row["target"]))
    batch = collate_translation()(rows)
    seen = method.extra_scores(net, [batch, collate_translation()(rows[:1])])
    method.networks.eval()
    leak, _ = most_changed(net, method, next(row for row in rows if len(row["target"]) == len(rows[-1]["target"])))
    assert leak > 0.1 and seen["seer_leak"] == pytest.approx(leak, rel=1e-4)
    assert seen["past_leak"] <= 1e-5


def test_a_model_that_sees_later_words_is_found_out(monkeypatch):
    """The seer in the place of the conventional decoder sees all that follows but the next word."""
    method = SeerForcing()
    net, row = pair(method).eval(), {"source": [7, 8, 2], "target": [5, 9, 11, 6, 2]}
    both = two_decoders

    def swapped(*arguments):
        logits, hidden = both(*arguments)
        return logits.flip(0), hidden.flip(0)

    method.networks.eval()
    monkeypatch.setattr(paper, "two_decoders", swapped)
    seen = method.extra_scores(net, [collate_translation()([row])])
    monkeypatch.setattr(f"{__name__}.two_decoders", swapped)
    leak, past = most_changed(net, method, row)
    assert past > 0.1 and seen["past_leak"] == pytest.approx(past, rel=1e-4)
    assert leak == seen["seer_leak"] == 0.0  # the conventional one does not see the next word either


def test_looking_leaves_modes_random_numbers_and_gradients_alone(batch):
    method = SeerForcing(transfer="adversarial", dropout=0.3)
    net = pair(method, dropout=0.3)
    method.loss(net, batch, {"targets": 9}, NOW)["loss"].backward()
    net.get_encoder().eval(), method.networks["seer"].join.eval()
    modules = [*net.modules(), *method.networks.modules()]
    parameters = [*net.parameters(), *method.networks.parameters()]
    modes, slopes = [m.training for m in modules], [p.grad.clone() for p in parameters if p.grad is not None]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules]
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    kept = {name: tensor.clone() for name, tensor in batch.items()}
    before = tiny.weights(net)
    method.extra_scores(net, [batch])
    assert modes == [m.training for m in modules] and len(set(modes)) == 2
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules]
    assert_equal(slopes, [p.grad for p in parameters if p.grad is not None])
    assert all(p.requires_grad for p in parameters)
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert all(torch.equal(kept[name], batch[name]) for name in kept)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_one_word_and_no_word():
    method = SeerForcing()
    net = pair(method).eval()
    seen = method.extra_scores(net, [collate_translation()([{"source": [7, 2], "target": [2]}])])
    assert seen["seer_leak"] == seen["past_leak"] == 0.0 and seen["seer_loss"] > 0
    batch = collate_translation()(tiny.examples(2))
    nothing = {**batch, "positions": batch["positions"][:0], "targets": batch["targets"][:0],
               "labels": torch.full_like(batch["labels"], -100)}  # fmt: skip
    for batches in ([], [nothing]):
        with pytest.raises(UserError, match="No token of these batches counts") as caught:
            method.extra_scores(net, batches)
        one_sentence(caught.value)
    assert method.extra_scores(net, [nothing, batch]) == method.extra_scores(net, [batch])


# ---------------------------------------------------------------- a training


def trained_by(method: SeerForcing, dropout: float = 0.1, updates: int = 60):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = tiny.model(dropout)
        rows = fit(net, method, tiny.batches(), tiny.recipe(updates=updates, accumulation=1, log_every=5)).history
    net.eval(), method.networks.eval()
    hidden = torch.cat([two_decoders(net, method.networks["seer"], b)[1] for b in tiny.batches()], dim=1).detach()
    return net, rows, hidden


def assert_both_learnt(rows: list[dict]) -> None:
    assert rows[-1]["seer_nll"] < rows[0]["seer_nll"] - 0.5 and rows[-1]["nll"] < rows[0]["nll"] - 0.5


def test_distillation_moves_the_student_towards_its_seer():
    """On new sentences: those of the training both decoders know by heart."""
    kl = {}
    for alpha in (0.25, 1.0):
        method = SeerForcing(alpha, dropout=0.0)
        net, rows, _ = trained_by(method, dropout=0.0, updates=120)
        assert_both_learnt(rows)
        kl[alpha] = method.extra_scores(net, tiny.held_out())["seer_kl"]
    assert kl[0.25] < 0.75 * kl[1.0], kl


def test_l2_brings_the_states_together():
    apart_by = {}
    for weight in (0.0, 5.0):
        method = SeerForcing(0.25, "l2", weight)
        _, rows, hidden = trained_by(method)
        assert_both_learnt(rows)
        apart_by[weight] = l2_loss(*hidden)
    assert apart_by[5.0] < 0.5 * apart_by[0.0]


def test_the_discriminator_learns_to_tell_and_the_student_to_fool_it():
    told = {}
    for weight in (0.0, 5.0):
        method = SeerForcing(0.5, "adversarial", weight)
        _, rows, hidden = trained_by(method)
        assert_both_learnt(rows)
        told[weight] = adversarial_losses(method.networks["discriminator"], *hidden)[1].item()
    assert told[0.0] < 0.7 * 2 * math.log(2)  # a guess costs log 2 a state
    assert told[5.0] > told[0.0] + 0.2
