"""A model and a seer in one pass: what both compute, what is shared, and what neither may notice."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdutils.models.forward import counted_logits
from kdutils.papers.seer_forcing.decoder import two_decoders
from tests.seer_equations import (
    SOURCES,
    TARGETS,
    VOCABULARY,
    WIDTH,
    batch_of,
    both_readings,
    build,
    equations,
    everywhere,
    layer_norm,
    numbers,
    same,
    seer_of,
)

pytestmark = pytest.mark.usefixtures("same_draws")


def embedded_by_hand(model: nn.Module, ids: Tensor, name: str) -> np.ndarray:
    decoder, table = model.get_decoder(), model.get_input_embeddings().weight
    if name == "bart":
        x = table[ids] + decoder.embed_positions.weight[2 : 2 + len(ids)]
        return layer_norm(numbers(decoder), "layernorm_embedding", x.detach().numpy())
    places = decoder.embed_positions(ids[None])[0] if name == "pre_norm" else decoder.embed_positions.weight[: len(ids)]
    return (math.sqrt(WIDTH) * table[ids] + places).detach().numpy()


@everywhere
@both_readings
def test_both_decoders_from_words_to_logits(name, reading):
    model, batch = build(name), batch_of()
    seer = seer_of(model, reading=reading)
    logits, hidden = two_decoders(model, seer, batch)
    assert logits.shape == (2, sum(TARGETS), VOCABULARY) and hidden.shape == (2, sum(TARGETS), WIDTH)
    same(logits[0], counted_logits(model, batch).detach())
    same(logits, (hidden @ model.get_output_embeddings().weight.T).detach())
    for row, found in enumerate(hidden[1].split(TARGETS)):
        ids, n = batch["input_ids"][row, : SOURCES[row]], TARGETS[row]
        h = model.get_encoder()(input_ids=ids[None]).last_hidden_state[0].detach().numpy()
        x = embedded_by_hand(model, batch["decoder_input_ids"][row, :n], name)
        same(found, equations(numbers(seer), x, h, name, reading))


def test_only_the_positions_asked_for_are_projected_in_their_order():
    model, batch = build("pre_norm"), batch_of()
    seer, chosen = seer_of(model), [7, 0, 4]
    logits, hidden = two_decoders(model, seer, batch)
    few = two_decoders(model, seer, batch | {"positions": batch["positions"][chosen]})
    same(few[0], logits[:, chosen].detach()), same(few[1], hidden[:, chosen].detach())


@everywhere
@both_readings
def test_padding_and_neighbours_change_nothing(name, reading):
    """Whole models, a batch against its sentences one by one, and against wider padding: logits and gradients."""
    model = build(name)
    seer = seer_of(model, reading=reading)
    weights = [weight for part in (model, seer) for weight in part.parameters() if weight.requires_grad]
    g = torch.randn(2, sum(TARGETS), VOCABULARY, generator=torch.Generator().manual_seed(7), dtype=torch.float64)

    def slopes(logits: Tensor, part: Tensor) -> list[Tensor]:
        return torch.autograd.grad((logits * part).sum(), weights, allow_unused=True, materialize_grads=True)

    batch = batch_of()
    logits = two_decoders(model, seer, batch)[0]
    whole, summed = slopes(logits, g), None
    for row, (part, right) in enumerate(zip(g.split(TARGETS, 1), logits.split(TARGETS, 1), strict=True)):
        t, s = TARGETS[row], SOURCES[row]
        cut = {"input_ids": s, "attention_mask": s, "decoder_input_ids": t, "labels": t}
        alone = {key: batch[key][row : row + 1, :length] for key, length in cut.items()}
        found = two_decoders(model, seer, alone | {"positions": torch.arange(t)})[0]
        same(found, right.detach())
        own = slopes(found, part)
        summed = own if summed is None else [a + b for a, b in zip(summed, own, strict=True)]
    wide = {key: F.pad(batch[key], (0, 2), value=-100 if key == "labels" else 0) for key in alone}
    found = two_decoders(model, seer, wide | {"positions": (wide["labels"] >= 0).flatten().nonzero()[:, 0]})[0]
    same(found, logits.detach())
    for one, other, third in zip(whole, summed, slopes(found, g), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(one, third, rtol=1e-8, atol=1e-10)


@both_readings
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_finite_and_near(reading, dtype):
    """Sentences of 1 to 5 words, so that there are rows without a future, and under the masked reading blocked ones."""
    model, batch = build("pre_norm").float(), batch_of()
    seer = seer_of(model, reading=reading).float()
    exact = two_decoders(model, seer, batch)[0]
    with torch.autocast("cpu", dtype=dtype):
        logits, hidden = two_decoders(model, seer, batch)
    assert logits.dtype == dtype and hidden.isfinite().all()
    assert (logits - exact).abs().max() < 0.05 * exact.abs().max()
    logits.float().logsumexp(-1).sum().backward()
    assert all(
        weight.grad is None or weight.grad.isfinite().all() for weight in (*model.parameters(), *seer.parameters())
    )


@everywhere
@both_readings
def test_one_draw_of_the_embedding_dropout_serves_both_decoders(name, reading):
    model, batch = build(name, dropout=0.4).train(), batch_of()
    seer, caught = seer_of(model, reading=reading, dropout=0.0), {}
    handles = [
        model.get_decoder().layers[0].register_forward_pre_hook(lambda m, args: caught.update(x=args[0])),
        model.get_encoder().register_forward_hook(lambda m, args, output: caught.update(h=output[0])),
    ]
    _, hidden = two_decoders(model, seer, batch)
    assert [handle.remove() for handle in handles]
    x, h = caught["x"].detach(), caught["h"].detach().numpy()
    assert 0.2 < (x[0] == 0).double().mean() < 0.6
    for row, found in enumerate(hidden[1].split(TARGETS)):
        n, s = TARGETS[row], SOURCES[row]
        same(found, equations(numbers(seer), x[row, :n].numpy(), h[row, :s], name, reading))


# ---------------------------------------------------------------- what is shared, and what is not


@everywhere
@both_readings
def test_what_both_decoders_need_is_computed_once(name, reading):
    model, batch = build(name, layers=3), batch_of()
    seer, calls = seer_of(model, reading=reading), []
    decoder, cells = model.get_decoder(), (len(SOURCES), max(SOURCES), WIDTH)
    watched = {"encoder": model.get_encoder(), "embedding": decoder.embed_tokens, "positions": decoder.embed_positions,
               "projection": model.get_output_embeddings()}  # fmt: skip
    for part in "kv":
        watched |= {f"{part}{i}": getattr(layer.encoder_attn, f"{part}_proj") for i, layer in enumerate(seer.layers)}
    for key, module in watched.items():
        module.register_forward_hook(
            lambda m, args, output, key=key: calls.append((key, [getattr(a, "shape", a) for a in args]))
        )
    caches = []
    model.register_forward_hook(lambda m, args, output: caches.append(output.past_key_values))
    two_decoders(model, seer, batch)
    assert caches == [None]  # nothing is kept for a generation that does not come
    assert sorted(key for key, _ in calls) == sorted(watched)
    shapes = dict(calls)
    assert shapes["projection"] == [(2 * sum(TARGETS), WIDTH)]
    assert all(shapes[key] == [cells] for key in watched if key[1:].isdigit())


@everywhere
@both_readings
def test_what_the_losses_of_the_two_decoders_reach(name, reading):
    """All of the seer but the biases of the keys, which no softmax feels; with one word, nothing of the future."""
    for targets in (TARGETS, (1, 1, 1, 1)):
        model, batch = build(name), batch_of(targets)
        seer = seer_of(model, reading=reading)
        parts = {"encoder": model.get_encoder().layers, "decoder": model.get_decoder().layers, "seer": seer,
                 "embedding": model.get_input_embeddings()}  # fmt: skip
        for loss in (0, 1):
            model.zero_grad(), seer.zero_grad()
            logits = two_decoders(model, seer, batch)[0][loss]
            F.cross_entropy(logits, batch["targets"]).backward()
            reached = {
                part: {key for key, w in module.named_parameters() if w.grad is not None and w.grad.abs().max() > 1e-9}
                for part, module in parts.items()
            }
            assert reached["encoder"] and reached["embedding"] and bool(reached["decoder"]) == (loss == 0)
            assert bool(reached["seer"]) == (loss == 1)
        missing = {key for key, _ in seer.named_parameters()} - reached["seer"]
        blind = ("self_attn.k_proj.bias", "encoder_attn.k_proj.bias")
        if max(targets) == 1:  # a softmax over one word
            blind += tuple(f"self_attn.{part}" for part in ("q_proj.weight", "q_proj.bias", "k_proj.weight"))
        assert missing == {key for key, _ in seer.named_parameters() if key.endswith(blind)}
        if max(targets) == 1 and reading == "reversed":
            assert seer.join.weight.grad[:, WIDTH:].abs().max() == 0


@pytest.mark.parametrize("which", [0, 1])
def test_the_gradient_of_what_is_shared_is_a_difference_quotient(which):
    model, batch = build("pre_norm"), batch_of()
    seer = seer_of(model)
    loss = lambda: F.cross_entropy(two_decoders(model, seer, batch)[0][which], batch["targets"])  # noqa: E731
    loss().backward()
    word = int(batch["decoder_input_ids"][0, 1])
    spots = [(model.get_input_embeddings().weight, (word, 3)), (model.get_encoder().layers[0].fc1.weight, (2, 3)),
             (model.get_input_embeddings().weight, (int(batch["input_ids"][0, 0]), 1))]  # fmt: skip
    for weight, at in spots:
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                weight[at] += step
                values.append(loss().item())
                weight[at] -= step
        assert weight.grad[at].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6, abs=1e-9)


@everywhere
def test_the_models_own_logits_do_not_know_of_the_seer(name):
    """Also in training: the seer draws after the model has."""
    model, batch = build(name, dropout=0.3), batch_of()
    seer = seer_of(model)
    for training in (False, True):
        model.train(training), seer.train(training)
        found = []
        for call in (lambda: counted_logits(model, batch), lambda: two_decoders(model, seer, batch)[0][0]):
            torch.manual_seed(9)
            found.append(call().detach())
        torch.testing.assert_close(found[1], found[0], rtol=1e-13, atol=1e-13)


def hooks(*modules: nn.Module) -> int:
    every = itertools.chain.from_iterable(module.modules() for module in modules)
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in every)


def test_nothing_hangs_on_the_model_afterwards():
    model, batch = build("pre_norm"), batch_of()
    seer = seer_of(model)
    two_decoders(model, seer, batch)
    assert hooks(model, seer) == 0
    for broken in ({"input_ids": batch["input_ids"] + 1000}, {"attention_mask": batch["attention_mask"][:, :2]}):
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            two_decoders(model, seer, batch | broken)
        assert hooks(model, seer) == 0
    seer.join = nn.Linear(3, 3)
    with pytest.raises(RuntimeError):
        two_decoders(model, seer, batch)
    assert hooks(model, seer) == 0


def test_a_wrapped_model_is_seen_through():
    class Wrapped(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module, self.calls = module, 0

        def forward(self, *args, **kwargs):
            self.calls += 1
            return self.module(*args, **kwargs)

    model, batch = build("bart"), batch_of()
    seer, wrapped = seer_of(model), Wrapped(model)
    for one, other in zip(two_decoders(wrapped, seer, batch), two_decoders(model, seer, batch), strict=True):
        assert torch.equal(one, other)
    assert wrapped.calls == 1  # through the wrapper, which may have work of its own
