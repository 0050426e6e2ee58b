"""CBBGCA's masked language model: what each slot sees, what it shares with its translator, and what it translates."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdutils.core.errors import UserError
from kdutils.data.batches import EOS, MASK, PAD, collate_translation
from kdutils.models.build import classifier, parameter_count, translation_model
from kdutils.papers.cbbgca.cmlm import CMLM, mask_predict
from kdutils.papers.cbbgca.objective import cmlm_inputs
from tests import tiny
from tests.tiny import one_sentence

pytestmark = pytest.mark.usefixtures("same_draws")


def pair(layers: int = 2, shared: bool = True, dropout: float = 0.0):
    """A translator and a masked language model beside it, in float64."""
    net = translation_model(tiny.VOCABULARY, 16, layers, 2, 16, dropout, max_length=16)
    cmlm = CMLM(net, shared)
    return net.double(), cmlm.double()


@pytest.fixture
def batch():
    """Five pairs of unequal length, so that there is padding on both sides."""
    made = collate_translation()(tiny.examples(5))
    assert (made["attention_mask"] == 0).any() and (made["labels"] < 0).any()
    return made


def hidden_in(batch, share: float = 0.5, seed: int = 0) -> Tensor:
    """Which words (B, T) are hidden: some of each sentence, but not all."""
    words = (batch["labels"] >= 0) & (batch["labels"] != EOS)
    hidden = words & (torch.rand(words.shape, generator=torch.Generator().manual_seed(seed)) < share)
    hidden[:, 0], hidden[:, 1] = True, False
    return hidden & words


def says(cmlm: CMLM, batch, hidden: Tensor, where: Tensor | None = None) -> Tensor:
    """Its logits at the hidden words, or at other slots (B, T)."""
    inputs, words = cmlm_inputs(batch["labels"], hidden, MASK, EOS, PAD)
    positions = (hidden if where is None else where).flatten().nonzero()[:, 0]
    encoded = cmlm.encoded(batch["input_ids"], batch["attention_mask"])
    return cmlm(inputs, words, positions, encoded, batch["attention_mask"])


def attention(layer, asks: Tensor, seen: Tensor) -> Tensor:
    """Every query (n, d) attends to all of seen (m, d), head by head."""
    q, k, v = layer.q_proj(asks), layer.k_proj(seen), layer.v_proj(seen)
    heads = zip(*(one.chunk(layer.num_heads, -1) for one in (q, k, v)), strict=True)
    mixed = [(a @ b.T / math.sqrt(a.shape[-1])).softmax(-1) @ c for a, b, c in heads]
    return layer.out_proj(torch.cat(mixed, -1))


def by_hand(cmlm: CMLM, source: Tensor, inputs: Tensor) -> Tensor:
    """Logits (n, V) at all n slots of one sentence, from its own words alone: no padding, and no mask of any kind."""
    decoder = cmlm.decoder
    encoded = cmlm.encoder(input_ids=source[None], attention_mask=torch.ones_like(source)[None])[0][0]
    # scaled embeddings and the positions 1 to n
    x = cmlm.projection.weight[inputs] * math.sqrt(16) + decoder.embed_positions.weights[1 : len(inputs) + 1]
    for layer in decoder.layers:
        normed = layer.self_attn_layer_norm(x)
        x = x + attention(layer.self_attn, normed, normed)
        x = x + attention(layer.encoder_attn, layer.encoder_attn_layer_norm(x), encoded)
        x = x + layer.fc2(F.relu(layer.fc1(layer.final_layer_norm(x))))
    return decoder.layer_norm(x) @ cmlm.projection.weight.T


def sentence(batch, row: int) -> tuple[Tensor, Tensor]:
    """Source and words of one sentence, without padding and without the end of its translation."""
    labels = batch["labels"][row]
    return batch["input_ids"][row, batch["attention_mask"][row] == 1], labels[(labels >= 0) & (labels != EOS)]


# ---------------------------------------------------------------- what a slot sees


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_it_is_a_decoder_without_a_causal_mask_run_by_hand(share, shared, layers, batch):
    _, cmlm = pair(layers, shared)
    cmlm.eval()
    hidden = hidden_in(batch, share)
    expected = []
    for row in range(5):
        source, words = sentence(batch, row)
        own = hidden[row, : len(words)]
        expected.append(by_hand(cmlm, source, words.masked_fill(own, MASK))[own])
    torch.testing.assert_close(says(cmlm, batch, hidden), torch.cat(expected), rtol=1e-9, atol=1e-12)


def test_a_slot_is_read_where_its_word_stands(batch):
    """Unshifted: what is hidden at slot t does not show at slot t, and all other words do, before and after it."""
    net, cmlm = pair()
    cmlm.eval()
    words = (batch["labels"] >= 0) & (batch["labels"] != EOS)
    row = int(words.sum(1).argmax())
    length = int(words[row].sum())
    assert length > 3
    for t in range(length):
        slot = torch.zeros_like(words).index_put((torch.tensor(row), torch.tensor(t)), torch.tensor(True))
        before = says(cmlm, batch, slot)
        for changed in range(length):
            other = {**batch, "labels": batch["labels"].clone()}
            other["labels"][row, changed] = 5 + (batch["labels"][row, changed] - 4) % 19
            moved = (says(cmlm, other, slot) - before).abs().max()
            assert moved == 0.0 if changed == t else moved > 1e-6, (t, changed)
        # not hidden, the word shows in its own slot
        nothing, other = torch.zeros_like(words), {**batch, "labels": batch["labels"].clone()}
        other["labels"][row, t] = 5 + (batch["labels"][row, t] - 4) % 19
        assert (says(cmlm, other, nothing, slot) - says(cmlm, batch, nothing, slot)).abs().max() > 1e-3


def test_the_shifted_words_of_the_translator_would_show_the_answer(batch):
    """Slot t + 1 of the shifted words holds y_t; the unshifted words hold it nowhere once it is hidden."""
    hidden = hidden_in(batch, 0.9)
    inputs, _ = cmlm_inputs(batch["labels"], hidden, MASK, EOS, PAD)
    for row, t in hidden.nonzero().tolist():
        assert batch["decoder_input_ids"][row, t + 1] == batch["labels"][row, t]
        assert inputs[row, t] == MASK
    assert not (inputs == EOS).any() and not (inputs < 0).any()


def test_the_source_shows_everywhere(batch):
    _, cmlm = pair()
    cmlm.eval()
    hidden = hidden_in(batch)
    other = {**batch, "input_ids": batch["input_ids"].clone()}
    other["input_ids"][:, 0] = 5 + (batch["input_ids"][:, 0] - 4) % 19
    assert (says(cmlm, other, hidden) - says(cmlm, batch, hidden)).abs().amax(-1).min() > 1e-6


def padded(batch, more: int):
    """The batch with more padding on both sides, whose ids are anything."""
    rows = len(batch["labels"])
    wider = {
        "input_ids": F.pad(batch["input_ids"], (0, more), value=7),
        "attention_mask": F.pad(batch["attention_mask"], (0, more)),
        "labels": F.pad(batch["labels"], (0, more), value=-100),
    }
    assert wider["labels"].shape == (rows, batch["labels"].shape[1] + more)
    return {**batch, **wider}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_is_invisible(attention, batch):
    """Also beside a translator that writes its attention out, and would add a mask of booleans to the scores."""
    net, _ = pair()
    net.set_attn_implementation(attention)
    cmlm = CMLM(net).double().eval()
    hidden, more = hidden_in(batch), 3
    wide = padded(batch, more)
    expected = says(cmlm, batch, hidden)
    found = says(cmlm, wide, F.pad(hidden, (0, more)))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    wide["input_ids"][wide["attention_mask"] == 0] = 9
    torch.testing.assert_close(says(cmlm, wide, F.pad(hidden, (0, more))), expected, rtol=1e-9, atol=1e-12)
    assert net.config._attn_implementation == attention


def test_the_end_of_the_translation_is_invisible(batch):
    _, cmlm = pair()
    cmlm.eval()
    hidden = hidden_in(batch)
    expected = says(cmlm, batch, hidden)
    without = {**batch, "labels": batch["labels"].masked_fill(batch["labels"] == EOS, -100)}
    assert torch.equal(says(cmlm, without, hidden), expected)


@pytest.mark.parametrize("labels", [[EOS, -100, -100], [-100] * 3])
def test_a_sentence_without_a_word_is_no_nan_in_value_or_gradient(labels):
    """Some kernels make zeros of a softmax over nothing, others NaN: none is asked for one."""
    _, cmlm = pair()
    batch = {
        "input_ids": torch.tensor([[7, 8, 2], [2, 0, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]),
        "labels": torch.tensor([[9, 5, EOS], labels]),
    }  # fmt: skip
    hidden, seen = torch.tensor([[True, False, False], [False] * 3]), []
    alone = {name: one[:1] for name, one in batch.items()}
    cmlm.decoder.register_forward_pre_hook(
        lambda module, args, given: seen.append(given["attention_mask"]), with_kwargs=True
    )
    for where in (hidden, torch.ones_like(hidden)):
        cmlm.zero_grad()
        logits = says(cmlm, batch, hidden, where)
        assert logits.isfinite().all() and seen[-1].any(-1).all()
        logits.log_softmax(-1)[:, 5].sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in cmlm.parameters())
    # a sentence that has words sees these, and what the other one is given to see is nothing to it
    torch.testing.assert_close(says(cmlm, batch, hidden), says(cmlm, alone, hidden[:1]), rtol=1e-9, atol=1e-12)


def test_asked_for_nothing_it_answers_nothing(batch):
    _, cmlm = pair()
    nothing = torch.zeros(batch["labels"].shape, dtype=torch.bool)
    logits = says(cmlm, batch, nothing)
    assert logits.shape == (0, tiny.VOCABULARY)
    logits.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in cmlm.parameters())


def test_only_the_asked_slots_are_projected(batch):
    _, cmlm = pair()
    rows = []
    cmlm.projection.register_forward_pre_hook(lambda module, inputs: rows.append(tuple(inputs[0].shape)))
    hidden = hidden_in(batch)
    says(cmlm, batch, hidden)
    assert rows == [(int(hidden.sum()), 16)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_says_nearly_the_same(dtype, batch):
    net, cmlm = pair()
    cmlm.float().eval()
    hidden = hidden_in(batch)
    exact = says(cmlm, batch, hidden)
    with torch.autocast("cpu", dtype=dtype):
        half = says(cmlm, batch, hidden)
    assert half.dtype == dtype and (half.float() - exact).abs().max() < 0.1


def test_dropout_is_the_translators_and_off_in_evaluation(batch):
    _, cmlm = pair(dropout=0.3)
    hidden = hidden_in(batch)
    cmlm.train()
    assert not torch.equal(says(cmlm, batch, hidden), says(cmlm, batch, hidden))
    cmlm.eval()
    assert torch.equal(says(cmlm, batch, hidden), says(cmlm, batch, hidden))


# ---------------------------------------------------------------- what it shares


def own(*modules) -> set[int]:
    return {id(p) for module in modules for p in module.parameters()}


def test_with_a_shared_encoder_only_the_decoder_is_its_own():
    net, cmlm = pair()
    assert cmlm.encoder is net.get_encoder() and cmlm.projection is net.get_output_embeddings()
    assert cmlm.decoder.embed_tokens is net.get_decoder().embed_tokens
    new = own(cmlm) - own(net)
    assert new == own(cmlm.decoder) - own(net.get_input_embeddings())
    layers = parameter_count(net.get_decoder()) - parameter_count(net.get_input_embeddings())
    assert sum(p.numel() for p in cmlm.parameters() if id(p) in new) == layers


def test_without_it_the_encoder_is_another_on_the_same_embeddings():
    net, cmlm = pair(shared=False)
    new = own(cmlm) - own(net)
    assert new == own(cmlm.decoder, cmlm.encoder) - own(net.get_input_embeddings())
    assert cmlm.encoder.embed_tokens is net.get_encoder().embed_tokens
    for mine, theirs in ((cmlm.encoder, net.get_encoder()), (cmlm.decoder, net.get_decoder())):
        pairs = list(zip(mine.named_parameters(), theirs.named_parameters(), strict=True))
        matrices = [(a, b) for (name, a), (_, b) in pairs if a.ndim > 1 and "embed" not in name]
        assert matrices and not any(torch.equal(a, b) for a, b in matrices)


def test_the_new_layers_begin_afresh_and_the_translator_stays_as_it_was():
    """Also beside a translator that has been trained: no bias and no norm of it is carried over."""
    net = tiny.model(0.0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.5)
    before = tiny.weights(net)
    cmlm = CMLM(net, shared_encoder=False)
    assert all(torch.equal(before[name], one) for name, one in net.state_dict().items())
    for part in (cmlm.decoder, cmlm.encoder):
        for name, p in part.named_parameters():
            if name.endswith("bias"):
                assert not p.any(), name
            elif "norm" in name:
                assert torch.equal(p, torch.ones_like(p)), name


def test_gradients_reach_all_of_it_and_the_shared_parts(batch):
    for shared in (True, False):
        net, cmlm = pair(shared=shared)
        says(cmlm, batch, hidden_in(batch)).log_softmax(-1)[:, 5].sum().backward()
        assert all(p.grad is not None for p in cmlm.parameters())
        assert all(p.grad.any() for name, p in cmlm.named_parameters() if "k_proj.bias" not in name)
        encoder = [p for p in net.get_encoder().layers.parameters() if p.grad is not None]
        assert bool(encoder) == shared and net.get_input_embeddings().weight.grad.any()
        assert all(p.grad is None for p in net.get_decoder().layers.parameters())


def test_the_exported_translator_knows_nothing_of_it():
    net = tiny.model()
    names, config = set(net.state_dict()), net.config.to_dict()
    CMLM(net)
    assert set(net.state_dict()) == names and net.config.to_dict() == config


def test_it_is_no_part_of_an_encoder_or_of_a_decoder_that_drops_layers():
    encoder = classifier(tiny.VOCABULARY, ("no", "yes"), width=16, layers=1, heads=2, feedforward=16)
    dropping = tiny.model()
    dropping.get_decoder().layerdrop = 0.1
    for net in (encoder, dropping):
        with pytest.raises(UserError, match=f"decoder_layerdrop 0, not {type(net).__name__}") as caught:
            CMLM(net)
        one_sentence(caught.value)


# ---------------------------------------------------------------- translating by it alone


def predicted(cmlm: CMLM, batch, iterations: int) -> list[list[int]]:
    """Translations sentence by sentence, by the transparent decoder: fill in all that is hidden, hide the worst."""
    found = []
    for row in range(len(batch["labels"])):
        source, words = sentence(batch, row)
        length = len(words)
        inputs, sure = torch.full((length,), MASK), torch.zeros(length, dtype=torch.double)
        for step in range(1, iterations + 1):
            p = by_hand(cmlm, source, inputs)
            p[:, : MASK + 1] = -torch.inf
            p = p.softmax(-1)
            for t in range(length):
                if inputs[t] == MASK:
                    sure[t], inputs[t] = p[t].max(), p[t].argmax()
            again = sure.argsort()[: length * (iterations - step) // iterations]
            inputs[again] = MASK
        found.append(inputs.tolist())
    return found


@pytest.mark.parametrize("iterations", [1, 2, 3, 4, 10])
def test_it_translates_as_a_plain_loop_does(iterations, batch):
    _, cmlm = pair(dropout=0.3)
    cmlm.train()  # dropout must be off
    filled = mask_predict(cmlm, batch, iterations)
    cmlm.eval()
    expected = predicted(cmlm, batch, iterations)
    words = (batch["labels"] >= 0) & (batch["labels"] != EOS)
    assert filled.shape == batch["labels"].shape
    assert [row[own].tolist() for row, own in zip(filled, words, strict=True)] == expected
    assert (filled[words] > MASK).all() and (filled[~words] == PAD).all()


def test_more_iterations_change_the_translation_and_nothing_else_is_changed(batch):
    _, cmlm = pair(dropout=0.3)
    cmlm.train()
    cmlm.encoder.eval()
    kept = {name: one.clone() for name, one in batch.items()}
    modes, state, before = [m.training for m in cmlm.modules()], torch.get_rng_state(), copy.deepcopy(cmlm.state_dict())
    one, four = (mask_predict(cmlm, batch, iterations) for iterations in (1, 4))
    assert not torch.equal(one, four) and not four.requires_grad
    assert torch.equal(mask_predict(cmlm, batch), four)  # the default
    assert modes == [m.training for m in cmlm.modules()] and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in cmlm.state_dict().items())
    assert all(torch.equal(kept[name], batch[name]) for name in kept)


def test_it_never_looks_at_the_references_words(batch):
    _, cmlm = pair()
    other = {**batch, "labels": torch.where(batch["labels"] > MASK, 5, batch["labels"])}
    assert torch.equal(mask_predict(cmlm, batch, 3), mask_predict(cmlm, other, 3))


def test_a_special_token_is_no_word_however_likely(batch):
    _, cmlm = pair()
    with torch.no_grad():
        cmlm.projection.weight[: MASK + 1] = 100.0 * cmlm.projection.weight[5]
    filled = mask_predict(cmlm, batch, 2)
    assert set(filled.unique().tolist()) & set(range(1, MASK + 1)) == set()


def test_a_sentence_without_words_stays_empty():
    _, cmlm = pair()
    batch = collate_translation()([{"source": [7, 2], "target": [2]}, {"source": [7, 8, 2], "target": [9, 8, 2]}])
    filled = mask_predict(cmlm, batch)
    assert filled[0].tolist() == [PAD] * 3 and (filled[1, :2] > MASK).all()


@pytest.mark.parametrize("iterations", [0, -1])
def test_no_iteration_is_one_sentence(iterations, batch):
    with pytest.raises(UserError, match=f"at least one iteration, not {iterations}") as caught:
        mask_predict(pair()[1], batch, iterations)
    one_sentence(caught.value)
