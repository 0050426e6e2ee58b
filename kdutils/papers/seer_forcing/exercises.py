"""The exercises of the notebook on Seer Forcing: what is right, and hints that do not give it away.

>>> check("seer_forcing.reverse", answer)  # kdutils.notebook.exercises
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdutils.data.batches import EOS, collate_translation
from kdutils.models.build import translation_model
from kdutils.papers.seer_forcing.decoder import SeerDecoder, two_decoders
from kdutils.papers.seer_forcing.objective import seer_loss
from kdutils.study.exercises import function, prediction

VOCABULARY = 24


def _translator() -> Any:
    shape = {"width": 16, "layers": 1, "heads": 2, "feedforward": 16}
    return translation_model(VOCABULARY, **shape, dropout=0.0, max_length=16)


def _batch(*sentences: list[int]) -> dict[str, Tensor]:
    """A batch of sentences that are to be copied; their ends are added."""
    return collate_translation()([{"source": [*words, EOS], "target": [*words, EOS]} for words in sentences])


# --- the reversal of a padded row --------------------------------------------------------------------------------


def _reversed(x: Tensor, lengths: Tensor) -> Tensor:
    rows = x.clone()
    for row, length in zip(rows, lengths.tolist(), strict=True):
        row[:length] = row[:length].flip(0)
    return rows


def _rows() -> dict[str, tuple[Tensor, Tensor]]:
    words = torch.arange(1, 16).reshape(3, 5)
    ragged = torch.tensor([5, 3, 1])
    return {
        "rows without padding": (words, torch.full((3,), 5)),
        "rows with padding": (words * (torch.arange(5) < ragged[:, None]), ragged),
    }


# --- Eq. (7) -----------------------------------------------------------------------------------------------------


def _gradient(p_c: Tensor, p_s: Tensor, y: int, alpha: float) -> Tensor:
    """By the conventional logits of one word, from the loss that training uses, without label smoothing: (V,)."""
    z_c = p_c.log().requires_grad_()
    seer_loss(torch.stack([z_c, p_s.log()])[:, None], torch.tensor([y]), alpha, epsilon=0.0).backward()
    return z_c.grad


def _words() -> dict[str, tuple[Tensor, Tensor, int, float]]:
    p_c, p_s = torch.randn(2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(-1)
    alphas = {"an alpha of 0.25": 0.25, "an alpha of 0": 0.0, "an alpha of 1": 1.0}
    return {name: (p_c, p_s, y, alpha) for y, (name, alpha) in enumerate(alphas.items())}


# --- a shift of one ----------------------------------------------------------------------------------------------

SHIFTED = (
    "the seer knows fewer words, and its lesson is worth less",
    "the seer knows nearly all words, and its lesson is little more than the label",
    "the seer knows nearly all words, and its lesson holds more than before",
    "nothing: both hide the word that is asked for",
)


def _shifted(updates: int = 40) -> tuple[str, str]:
    """Accuracy of a seer on held-out sentences, and how far its lesson is from the label, at both shifts."""
    known, beside = [], []
    with torch.random.fork_rng(devices=[]):
        for shift in (2, 1):
            torch.default_generator.manual_seed(1)  # torch.manual_seed would reseed the reader's GPU too
            model = _translator()
            seer = SeerDecoder(model.get_decoder(), shift=shift)
            train, test = (_batch(*torch.randint(5, VOCABULARY, (n, 6)).tolist()) for n in (40, 20))
            optimizer = torch.optim.Adam([*model.parameters(), *seer.parameters()], lr=0.02)
            for _ in range(updates):
                seer_loss(two_decoders(model, seer, train)[0], train["targets"]).backward()
                optimizer.step()
                optimizer.zero_grad()
            with torch.no_grad():
                p_s = two_decoders(model, seer, test)[0][1].softmax(-1)
            known.append(float((p_s.argmax(-1) == test["targets"]).double().mean()))
            beside.append(float(1 - p_s.gather(-1, test["targets"][:, None]).double().mean()))
    told = (
        f"On held-out sentences the seer is right at {known[0]:.0%} of the words with a shift of 2 and at "
        f"{known[1]:.0%} with 1; it gives {beside[0]:.0%} and {beside[1]:.0%} of its probability to other words than "
        "the label."
    )
    if known[1] > 0.95:
        return SHIFTED[1] if beside[1] < beside[0] else SHIFTED[2], told
    return SHIFTED[0] if known[1] < known[0] - 0.02 else SHIFTED[3], told


# --- padding -----------------------------------------------------------------------------------------------------

MOVED = ("of neither decoder", "of the conventional decoder alone", "of the seer alone", "of both decoders")


def _moved() -> tuple[str, str]:
    """Which logits of a sentence change when three pads are put behind it, where the padded row is reversed."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(1)
        model = _translator().eval()
        seer = SeerDecoder(model.get_decoder(), released_padding=True).eval()
        alone, padded = _batch([5, 6, 7, 8]), _batch([5, 6, 7, 8], list(range(5, 12)))
        ours = padded["positions"] < padded["labels"].shape[1]  # the first sentence, which is shorter by three
        apart = two_decoders(model, seer, padded)[0][:, ours] - two_decoders(model, seer, alone)[0]
    conventional, foreseen = (float(one.abs().max()) for one in apart)
    told = (
        f"A logit changes by up to {conventional:.2g} in the conventional decoder and by up to {foreseen:.2g} in the "
    )
    return MOVED[(conventional > 1e-4) + 2 * (foreseen > 1e-4)], told + "seer."


# --- where the lesson goes ---------------------------------------------------------------------------------------

REACHED = (
    "the conventional decoder's layers alone",
    "the conventional decoder's layers, the encoder and the embeddings",
    "all of these and the seer's layers",
)


def _reached() -> tuple[str, str]:
    """Which parts have a gradient that is not zero under Eq. (6) alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        model = _translator()
        seer, batch = SeerDecoder(model.get_decoder()), _batch([5, 6, 7, 8])
    seer_loss(two_decoders(model, seer, batch)[0], batch["targets"], weights=(0.0, 0.0, 1.0)).backward()
    parts = {
        "the conventional layers": model.get_decoder().layers, "the encoder": model.get_encoder().layers,
        "the embeddings": model.get_input_embeddings(), "the seer's layers": seer,
    }  # fmt: skip
    norms = {
        name: sum(float(p.grad.norm()) for p in part.parameters() if p.grad is not None) for name, part in parts.items()
    }
    told = "Norms of the gradient: " + ", ".join(f"{name} {norm:.2g}" for name, norm in norms.items()) + "."
    conventional, encoder, embeddings, seer_layers = (norm > 0 for norm in norms.values())
    if conventional and encoder and embeddings:
        return REACHED[1 + seer_layers], told
    return REACHED[0], told


EXERCISES = {
    "reverse": function(
        "a function of x (B, T), whose rows hold words and then padding, and lengths (B,) that returns x with the "
        "words of each row turned round and its padding where it was",
        _reversed,
        _rows,
        hint="With which place does place t change, and for which t does it change at all?",
        told="No sentence depends on the company that it keeps in its batch.",
    ),
    "gradient": function(
        "a function of p_c and p_s (V,), the index y of the right word and alpha that returns the gradient (V,) of "
        "Eq. (7) by the conventional logits, without label smoothing,",
        _gradient,
        _words,
        hint="Both terms are one cross-entropy: of what target, and what does the softmax make of its gradient?",
        told="It is what autograd finds for the loss of the training: label and seer make up one target.",
    ),
    "shift": prediction(
        "your prediction of what happens when the future stream is joined with a shift of 1 instead of 2",
        SHIFTED,
        _shifted,
        hint="Which input's state does output i then meet, and which word stands there?",
    ),
    "padding": prediction(
        "your prediction of whose logits change when padding is put behind a sentence, in the released code",
        MOVED,
        _moved,
        hint="Where do the pads stand in a row that is reversed as a whole, and who reads that row?",
    ),
    "reached": prediction(
        "your prediction of what the gradient of Eq. (6) alone reaches",
        REACHED,
        _reached,
        hint="Where is the gradient stopped, and what was computed once for both decoders?",
    ),
}
