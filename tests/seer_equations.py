"""A float64 copy of the seer decoder, with loops over heads and positions; small models, and what a seer is given.

No formula here comes from kdutils. Where the weights are complex the states are: a complex step gives the gradient.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import Tensor, nn
from transformers import BartConfig, BartForConditionalGeneration, MarianConfig, MarianMTModel

from kdutils.data.batches import collate_translation
from kdutils.models.build import translation_model
from kdutils.papers.seer_forcing.decoder import SeerDecoder

WIDTH, HEADS, VOCABULARY = 8, 2, 24
ARCHITECTURES = ("pre_norm", "marian", "bart")  # the last two are post-norm
READINGS = ("reversed", "masked")
TARGETS, SOURCES = (5, 3, 1, 2), (4, 1, 3, 2)  # lengths of the sentences of a batch

everywhere = pytest.mark.parametrize("name", ARCHITECTURES)
both_readings = pytest.mark.parametrize("reading", READINGS)


def scrambled(module: nn.Module, seed: int) -> nn.Module:
    """Random numbers for all weights, biases and norms too: what stands at 0 or 1 hides what is done with it."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            norm = "norm" in name and name.endswith("weight")
            weight.copy_(norm + 0.4 * torch.randn(weight.shape, generator=draw, dtype=torch.float64))
    return module


def build(name: str, layers: int = 2, dropout: float = 0.0, **changes) -> nn.Module:
    if name == "pre_norm":
        model = translation_model(VOCABULARY, WIDTH, layers, HEADS, 12, dropout, max_length=16)
    else:
        pairs = {"marian": (MarianConfig, MarianMTModel), "bart": (BartConfig, BartForConditionalGeneration)}
        config, kind = pairs[name]
        sides = {f"{side}_{what}": value for side in ("encoder", "decoder")
                 for what, value in (("layers", layers), ("attention_heads", HEADS), ("ffn_dim", 12))}  # fmt: skip
        model = kind(config(
            vocab_size=VOCABULARY, d_model=WIDTH, dropout=dropout, max_position_embeddings=16, pad_token_id=0,
            bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, scale_embedding=name == "marian", **sides,
            activation_function="relu" if name == "marian" else "gelu", **changes,
        ))  # fmt: skip
    return scrambled(model.double(), 1).eval()


def seer_of(model: nn.Module, **options) -> SeerDecoder:
    return scrambled(SeerDecoder(model.get_decoder(), **options).double(), 2).eval()


def batch_of(targets: tuple[int, ...] = TARGETS, sources: tuple[int, ...] = SOURCES) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)

    def words(length: int) -> list[int]:
        return [*torch.randint(5, VOCABULARY, (length - 1,), generator=draw).tolist(), 2]

    return collate_translation()(
        [{"source": words(s), "target": words(t)} for s, t in zip(sources, targets, strict=True)]
    )


def states(targets: tuple[int, ...] = TARGETS, sources: tuple[int, ...] = SOURCES, padded: int = 2):
    """embedded, encoded, source_mask, lengths: what a seer is given, with garbage at the padding."""
    draw, shape = torch.Generator().manual_seed(4), (len(targets), max(targets) + padded, WIDTH)
    x = torch.randn(shape, generator=draw, dtype=torch.float64)
    h = torch.randn(len(sources), max(sources) + padded, WIDTH, generator=draw, dtype=torch.float64)
    lengths, words = torch.tensor(targets), torch.arange(h.shape[1]) < torch.tensor(sources)[:, None]
    x[torch.arange(x.shape[1]) >= lengths[:, None]] *= 100
    h[~words] *= 100
    return x, h, words, lengths


# ---------------------------------------------------------------- the equations, of one sentence, without padding


def linear(w: dict, name: str, x: np.ndarray) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def layer_norm(w: dict, name: str, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def attend(w: dict, name: str, queries: np.ndarray, keys: np.ndarray, seen) -> np.ndarray:
    """seen(i): the keys that query i may see; with none its context is zero."""
    q, k, v = (linear(w, f"{name}.{p}_proj", x) for p, x in (("q", queries), ("k", keys), ("v", keys)))
    context, width = np.zeros(q.shape, np.result_type(q, k, v)), WIDTH // HEADS
    for i in range(len(q)):
        for head in (slice(h * width, (h + 1) * width) for h in range(HEADS)):
            if len(seen(i)):
                scores = k[seen(i), head] @ q[i, head] / math.sqrt(width)
                weights = np.exp(scores - scores.real.max())
                context[i, head] = weights / weights.sum() @ v[seen(i), head]
    return linear(w, f"{name}.out_proj", context)


ACTIVATIONS = {
    "relu": lambda x: np.where(x.real > 0, x, 0.0),
    "gelu": lambda x: x / 2 * (1 + erf(x / math.sqrt(2))),
}


def equations(w: dict, x: np.ndarray, h: np.ndarray, name: str, reading="reversed", shift=2, real=None) -> np.ndarray:
    """U of one sentence, (n, d), from its inputs and its encoded source.

    `real`: x is a row with so many words and padding behind them, which the released code turns round as a whole.
    """
    n, last = len(x), max(int(key.split(".")[1]) for key in w if key.startswith("layers"))
    act = ACTIVATIONS["gelu" if name == "bart" else "relu"]

    def around(norm: str, s: np.ndarray, inner) -> np.ndarray:
        return s + inner(layer_norm(w, norm, s)) if name == "pre_norm" else layer_norm(w, norm, s + inner(s))

    def self_attention(i: int, s: np.ndarray, seen) -> np.ndarray:
        at = f"layers.{i}.self_attn"
        return around(f"{at}_layer_norm", s, lambda s: attend(w, at, s, s, seen))

    def rest(i: int, s: np.ndarray) -> np.ndarray:
        at = f"layers.{i}.encoder_attn"
        s = around(f"{at}_layer_norm", s, lambda s: attend(w, at, s, h, lambda _: range(len(h))))
        inner, outer = f"layers.{i}.fc1", f"layers.{i}.fc2"
        return around(f"layers.{i}.final_layer_norm", s, lambda s: linear(w, outer, act(linear(w, inner, s))))

    def causal(i: int) -> range:
        return range(min(i + 1, n if real is None else real))

    def stream(s: np.ndarray, seen) -> np.ndarray:
        for i in range(last):
            s = rest(i, self_attention(i, s, seen))
        return self_attention(last, s, seen)

    past = stream(x, causal)
    if reading == "masked":
        future = stream(x, lambda i: range(i + shift, n))
    else:
        turned = stream(x[::-1], causal)[::-1]
        future = np.stack([turned[i + shift] if i + shift < n else 0 * turned[0] for i in range(n)])
    u = rest(last, linear(w, "join", np.concatenate([past, future], -1)))
    return layer_norm(w, "final_norm", u) if name == "pre_norm" else u


def numbers(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def same(actual: Tensor, expected: np.ndarray | Tensor) -> None:
    torch.testing.assert_close(actual.detach(), torch.as_tensor(expected), rtol=1e-9, atol=1e-11)
