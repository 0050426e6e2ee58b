"""The seer decoder against a float64 copy of its equations; what it may see; its padding; attention; dropout."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdutils.core.errors import UserError
from kdutils.papers.seer_forcing.decoder import SeerDecoder, attention, check_seer, two_decoders, visible_positions
from tests.seer_equations import (
    HEADS,
    SOURCES,
    TARGETS,
    WIDTH,
    batch_of,
    both_readings,
    build,
    equations,
    everywhere,
    layer_norm,
    linear,
    numbers,
    same,
    scrambled,
    seer_of,
    states,
)
from tests.tiny import one_sentence

ALMOST_ONE = 1 - 1e-9  # a rate at which everything is dropped


pytestmark = pytest.mark.usefixtures("same_draws")


@everywhere
@both_readings
@pytest.mark.parametrize("shift", [1, 2, 3])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_states_are_the_equations_sentence_by_sentence(name, reading, shift, layers):
    seer, (x, h, words, lengths) = seer_of(build(name, layers), reading=reading, shift=shift), states()
    found = seer(x, h, words, lengths)
    assert found.shape == x.shape and found.isfinite().all()
    for row, (n, s) in enumerate(zip(TARGETS, SOURCES, strict=True)):
        right = equations(numbers(seer), x[row, :n].numpy(), h[row, :s].numpy(), name, reading, shift)
        same(found[row, :n], right)


@everywhere
@both_readings
def test_the_gradients_are_those_of_the_equations(name, reading):
    """A random projection, by complex steps at one number of every weight, and of inputs and source."""
    seer, (x, h, words, lengths) = seer_of(build(name), reading=reading), states()
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    x.requires_grad_(), h.requires_grad_()
    real = torch.arange(x.shape[1]) < lengths[:, None]
    (seer(x, h, words, lengths) * g)[real].sum().backward()
    slopes = {name: weight.grad for name, weight in seer.named_parameters()} | {"x": x.grad, "h": h.grad}
    w = numbers(seer) | {"x": x.detach().numpy(), "h": h.detach().numpy()}
    draw = np.random.default_rng(6)
    for key, slope in slopes.items():
        where = (0, int(draw.integers(1, 4)), 0) if key in "xh" else tuple(draw.integers(slope.shape))
        moved = w | {key: w[key].astype(complex)}
        moved[key][where] += 1e-30j
        projected = sum(
            (equations(moved, moved["x"][row, :n], moved["h"][row, :s], name, reading) * g[row, :n].numpy()).sum()
            for row, (n, s) in enumerate(zip(TARGETS, SOURCES, strict=True))
        )
        same(slope[where], projected.imag / 1e-30)
    assert x.grad[~real].abs().max() == 0 and h.grad[~words].abs().max() == 0


# ---------------------------------------------------------------- what an output may see


def test_the_masks_of_figure_2():
    future_mask = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    past_mask = [[0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert visible_positions(4, "past").int().tolist() == future_mask
    assert visible_positions(4, "future").int().tolist() == past_mask
    assert visible_positions(4, "past", 1).int().tolist() == future_mask
    assert visible_positions(4, "future", 1).int().tolist() == torch.ones(4, 4).triu(1).int().tolist()
    for n in (1, 2, 5):
        answer = torch.ones(n - 1).diag(1).bool()  # input i + 1 is the word that output i predicts
        assert torch.equal(visible_positions(n), ~answer) and visible_positions(n, shift=1).all()
        assert visible_positions(n).dtype == torch.bool
    with pytest.raises(UserError, match="past, future, seer") as caught:
        visible_positions(4, "both")
    one_sentence(caught.value)


def seen_by(seer: SeerDecoder, n: int, padded: int) -> Tensor:
    """(n, n): whether an output changes (rows) when an input does. Nothing lies between a change and none."""
    x, h, words, lengths = states((n,), (3,), padded)
    copies = [tensor.expand(n + 1, *tensor.shape[1:]).clone() for tensor in (x, h, words, lengths)]
    copies[0][torch.arange(n), torch.arange(n)] = 3 * torch.randn(n, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        found = seer(*copies)[:, :n]
    changes = (found[:n] - found[n]).abs().amax(-1).T
    assert ((changes > 1e-7) | (changes < 1e-12)).all()
    return changes > 1e-7


@pytest.mark.parametrize("name", ["pre_norm", "marian"])
@both_readings
@pytest.mark.parametrize("shift", [1, 2])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_an_output_sees_what_it_may_and_nothing_else(name, reading, shift, layers):
    seer = seer_of(build(name, layers), reading=reading, shift=shift)
    for n, padded in ((6, 0), (5, 3), (2, 1), (1, 0)):
        assert torch.equal(seen_by(seer, n, padded), visible_positions(n, "seer", shift))
    later = visible_positions(5, "future", shift)
    if reading == "masked":
        later |= torch.eye(5, dtype=torch.bool)  # the residual of row i is input i, which the past sees too
    for stream, other, right in (("past", slice(WIDTH, None), visible_positions(5, "past")),
                                 ("future", slice(WIDTH), later)):  # fmt: skip
        alone = copy.deepcopy(seer)
        alone.join.weight.data[:, other] = 0.0
        assert torch.equal(seen_by(alone, 5, 1), right), stream


# ---------------------------------------------------------------- the padding of the released code


@everywhere
@pytest.mark.parametrize("padded", [0, 1, 3])
def test_released_padding_turns_the_row_and_masks_it_forward(name, padded):
    seer, (x, h, words, lengths) = seer_of(build(name), released_padding=True), states(padded=padded)
    found = seer(x, h, words, lengths)
    for row, (n, s) in enumerate(zip(TARGETS, SOURCES, strict=True)):
        right = equations(numbers(seer), x[row].numpy(), h[row, :s].numpy(), name, real=n)
        same(found[row, :n], right[:n])


@everywhere
def test_released_padding_matters_only_where_there_is_padding(name):
    model, batch = build(name), batch_of()
    wrong, clean = (seer_of(model, released_padding=flag) for flag in (True, False))
    given = states((4, 4, 4, 4), SOURCES, 0)
    same(wrong(*given), clean(*given).detach())
    given = states(padded=0)
    apart = (wrong(*given) - clean(*given)).abs().amax(-1)
    assert apart[0].max() < 1e-12  # the longest sentence
    assert all((apart[row, :n] > 1e-4).any() for row, n in enumerate(TARGETS) if row)
    logits = [two_decoders(model, seer, batch)[0] for seer in (wrong, clean)]
    assert torch.equal(logits[0][0], logits[1][0]) and (logits[0][1] - logits[1][1]).abs().max() > 1e-2


# ---------------------------------------------------------------- attention


def projections() -> tuple[nn.Module, nn.MultiheadAttention]:
    ours = build("bart").get_decoder().layers[0].encoder_attn
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double()
    parts = [getattr(ours, f"{part}_proj") for part in "qkv"]
    theirs.in_proj_weight.data = torch.cat([part.weight for part in parts]).detach()
    theirs.in_proj_bias.data = torch.cat([part.bias for part in parts]).detach()
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    return ours, theirs


@pytest.mark.parametrize("kind", ["rows", "keys", "heads", "causal"])
def test_attention_is_torchs_own(kind):
    ours, theirs = projections()
    draw = torch.Generator().manual_seed(8)
    q, k = (torch.randn(3, n, WIDTH, generator=draw, dtype=torch.float64) for n in (4, 4 if kind == "causal" else 6))
    shape = {"rows": (1, 1, 4, 6), "keys": (3, 1, 1, 6), "heads": (3, HEADS, 4, 6), "causal": (4, 4)}[kind]
    visible = torch.rand(shape, generator=draw) < 0.6
    visible[..., 1] = True
    visible = torch.ones(4, 4).tril().bool() if kind == "causal" else visible
    blocked = ~visible.expand(3, HEADS, 4, k.shape[1]).flatten(0, 1)
    results = []
    for call in (lambda q, k: attention(ours, q, k, None if kind == "causal" else visible),
                 lambda q, k: theirs(q, k, k, attn_mask=blocked, need_weights=False)[0]):  # fmt: skip
        leaves = [q.clone().requires_grad_(), k.clone().requires_grad_()]
        results.append([value := call(*leaves), *torch.autograd.grad(value.sin().sum(), leaves)])
    for one, other in zip(*results, strict=True):
        same(one, other.detach())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_who_sees_nothing_has_the_context_zero(dtype):
    module = projections()[0].float() if dtype.itemsize < 4 else projections()[0].to(dtype)
    x = torch.randn(2, 5, WIDTH, dtype=next(module.parameters()).dtype).requires_grad_()
    visible = visible_positions(5, "future").expand(2, 1, 5, 5)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype.itemsize < 4):
        found = attention(module, x, x, visible)
    bias = module.out_proj.bias.to(found.dtype)
    assert found.dtype == dtype and torch.equal(found[:, 3:], bias.expand(2, 2, -1))
    assert ((found[:, :3] - bias).abs().amax(-1) > 1e-3).all()
    own = torch.autograd.grad(
        found[:, 3:].float().sum(), [x, module.q_proj.weight, module.v_proj.weight], retain_graph=True
    )
    assert all(slope.abs().max() == 0 for slope in own)
    found.float().sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0


# ---------------------------------------------------------------- dropout


@everywhere
def test_every_sublayer_is_dropped_and_nothing_else(name):
    """At a rate of almost 1 nothing is left of the sublayers but the residuals, their norms and the join."""
    seer, (x, h, words, lengths) = seer_of(build(name), dropout=ALMOST_ONE).train(), states((5,), (3,), 0)
    w = numbers(seer)

    def norms(layer: int, s: np.ndarray, *parts: str) -> np.ndarray:
        for part in parts if name != "pre_norm" else ():
            s = layer_norm(w, f"layers.{layer}.{part}_layer_norm", s)
        return s

    streams = [norms(1, norms(0, s, "self_attn", "encoder_attn", "final"), "self_attn") for s in (x[0].numpy(),) * 2]
    future = np.concatenate([streams[1][2:], np.zeros((2, WIDTH))])
    u = norms(1, linear(w, "join", np.concatenate([streams[0], future], -1)), "encoder_attn", "final")
    same(seer(x, h, words, lengths)[0], layer_norm(w, "final_norm", u) if name == "pre_norm" else u)
    assert (seer.eval()(x, h, words, lengths)[0] - torch.as_tensor(u)).abs().max() > 1e-2


def test_the_rates_of_attention_and_activation_are_the_models():
    model = build("bart", attention_dropout=ALMOST_ONE, activation_dropout=ALMOST_ONE)
    seer, given = seer_of(model), states()
    bare = copy.deepcopy(seer)
    for key, weight in bare.named_parameters():  # no context, no hidden units: what is left are the biases behind
        if key.endswith(("out_proj.weight", "fc2.weight")):
            weight.data.zero_()
    same(seer.train()(*given), bare.eval()(*given).detach())
    same(seer.eval()(*given), seer_of(build("bart"))(*given).detach())  # the same weights, and nothing to drop
    assert (seer(*given) - bare(*given)).abs().max() > 1e-2


def test_the_seer_drops_at_its_own_rate_in_its_own_mode():
    model, given = build("marian", dropout=0.3), states()
    assert seer_of(model).dropout == 0.3 and seer_of(model, dropout=0.0).dropout == 0.0
    for seer, training, draws in ((seer_of(model), True, True), (seer_of(model), False, False),
                                  (seer_of(model, dropout=0.0), True, False)):  # fmt: skip
        seer.train(training)
        before = torch.get_rng_state()
        one, other = seer(*given), seer(*given)
        assert torch.equal(one, other) == torch.equal(before, torch.get_rng_state()) == (not draws)


# ---------------------------------------------------------------- a new seer


@everywhere
def test_a_new_seer_has_the_decoders_layers_and_weights_of_its_own(name):
    model = build(name, layers=3)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    seer = SeerDecoder(model.get_decoder(), shift=2)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert not {w.data_ptr() for w in seer.parameters()} & {w.data_ptr() for w in model.parameters()}
    own = sum(w.numel() for w in model.get_decoder().layers.parameters())
    norm = 2 * WIDTH if name == "pre_norm" else 0
    assert sum(w.numel() for w in seer.parameters()) == own + 2 * WIDTH * WIDTH + WIDTH + norm
    for key, weight in seer.named_parameters():
        if "norm" in key:
            assert (weight == float(key.endswith("weight"))).all(), key
        elif key.endswith("bias"):
            assert (weight == 0).all(), key
        else:
            bound = (6 / sum(weight.shape)) ** 0.5
            assert 0.8 * bound < weight.abs().max() <= bound, key
    with torch.no_grad():
        scrambled(seer, 3)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_new_seer_computes_in_its_decoders_precision():
    seer = SeerDecoder(build("pre_norm").get_decoder())
    assert {weight.dtype for weight in seer.parameters()} == {torch.float64}
    assert seer(*states()).dtype == torch.float64


@pytest.mark.parametrize(
    "options, word",
    [
        ({"reading": "foo"}, "reversed, masked"),
        ({"shift": 0}, "shift"),
        ({"shift": -2}, "shift"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"dropout": float("nan")}, "dropout"),
        ({"reading": "masked", "released_padding": True}, "reversed reading"),
    ],
    ids=str,
)
def test_options_of_no_seer_are_one_sentence(options, word):
    model = build("pre_norm", layers=1)
    for call in (lambda: check_seer(**options), lambda: SeerDecoder(model.get_decoder(), **options)):
        with pytest.raises(UserError, match=word) as caught:
            call()
        one_sentence(caught.value)
    check_seer(), check_seer("masked", 1, 0.0), check_seer("reversed", 3, 0.99, True)
