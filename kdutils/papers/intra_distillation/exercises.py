"""The exercises of the notebook on Intra-Distillation: what is right, and hints that do not give it away.

>>> check("intra_distillation.fair", answer)  # kdutils.notebook.exercises
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kdutils.losses.divergences import label_smoothed_nll, x_divergence
from kdutils.models.build import translation_model
from kdutils.models.forward import counted_logits, mode
from kdutils.papers.intra_distillation.objective import fair_alpha, intra_distillation_loss
from kdutils.papers.intra_distillation.sensitivity import balance
from kdutils.study.exercises import function, number, prediction


def _logits(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the reader's GPU too


def _small() -> tuple[nn.Module, dict[str, Tensor]]:
    """An untrained translator with dropout 0.3, and a batch of four sentences, each its own translation."""
    _seed(1)
    model = translation_model(24, width=16, layers=1, heads=2, feedforward=16, dropout=0.3).double().train()
    words = torch.randint(5, 24, (4, 6))  # (sentences, words)
    positions = torch.arange(words.numel())
    batch = {"input_ids": words, "decoder_input_ids": words, "labels": words, "positions": positions}
    return model, {**batch, "targets": words.flatten()}


def _gradient(loss: Tensor, model: nn.Module) -> Tensor:
    """By all parameters of the model, in one row; the graph stays, as two losses are made of the same passes."""
    parts = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, materialize_grads=True)
    return nn.utils.parameters_to_vector(parts)


GROWTH = {"3/2 times": 3 / 2, "4/3 times": 4 / 3, "the same": 1.0, "9/4 times": 9 / 4}


def _growth(draws: int = 200) -> tuple[str, str]:
    """X of 2 and of 3 passes of one model over one batch, each the mean over `draws` draws of its own."""
    found = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model, batch = _small()
        for passes in (2, 3):
            # the logits of all draws: (draws, K, n, V), and X of each draw: (draws,)
            drawn = counted_logits(model, batch, draws * passes).unflatten(0, (draws, passes))
            each = x_divergence(drawn.transpose(0, 1), reduction="none").mean(-1)
            found.append((float(each.mean()), float(each.std()) / math.sqrt(draws)))
    (two, two_error), (three, three_error) = found
    told = (
        f"Over {draws} draws each, X is {two:.4f} nats with 2 passes and {three:.4f} nats with 3, with standard errors "
        f"of {two_error:.4f} and {three_error:.4f}."
    )
    return min(GROWTH, key=lambda option: abs(GROWTH[option] - three / two)), told


UNITS = ("both grow", "only the raw spread grows", "only the spread over the mean grows", "neither grows")


def _units() -> tuple[str, str]:
    """The balance of a small model whose loss is differentiated in nats, and in bits."""
    found = []
    with torch.random.fork_rng(devices=[]):
        model, batch = _small()
    with mode(model, training=False):
        nats = label_smoothed_nll(counted_logits(model, batch), batch["targets"])
    theta = nn.utils.parameters_to_vector(model.parameters()).detach()
    for loss in (nats, nats / math.log(2)):
        found.append(balance({"all parameters": (theta * _gradient(loss, model)).abs()}))
    (std, cv), (std_bits, cv_bits) = ((one["std"], one["cv"]) for one in found)
    told = f"From nats to bits, std goes from {std:.4g} to {std_bits:.4g} and cv from {cv:.4f} to {cv_bits:.4f}."
    grown = (std_bits > 1.001 * std, cv_bits > 1.001 * cv)  # by more than rounding
    return UNITS[[(True, True), (True, False), (False, True), (False, False)].index(grown)], told


RESEEDED = (
    "zero, with a gradient of zero",
    "the mean cross-entropy, with the gradient of a single pass",
    "the mean cross-entropy, with K times the gradient of a single pass",
)


def _reseeded() -> tuple[str, str]:
    """The loss of three passes, alpha 5, each begun from one random state, beside one cross-entropy."""
    passes = []
    with torch.random.fork_rng(devices=[]):
        model, batch = _small()
        for _ in range(3):
            _seed(2)
            passes.append(counted_logits(model, batch))
    ours = intra_distillation_loss(torch.stack(passes), batch["targets"], alpha=5.0)
    single = label_smoothed_nll(passes[0], batch["targets"])
    gradient, its_gradient = (_gradient(loss, model) for loss in (ours, single))
    told = (
        f"The loss of 3 such passes is {ours:.4f} nats with a gradient of norm {gradient.norm():.4f}; the "
        f"cross-entropy of one of them is {single:.4f} nats, with a gradient of norm {its_gradient.norm():.4f}."
    )
    if not gradient.any():
        return RESEEDED[0], told
    return RESEEDED[1] if torch.allclose(gradient, its_gradient) else RESEEDED[2], told


EXERCISES = {
    "x": function(
        "a function of the logits of K passes, (K, n, V), that returns the X-divergence as the mean over the n "
        "positions, finite for any finite logits,",
        x_divergence,
        lambda: {
            "three ordinary passes": [_logits(3, 5, 7)],
            "logits in the thousands": [4000 * _logits(3, 5, 7)],
            "three identical passes": [_logits(1, 5, 7).expand(3, -1, -1)],
        },
        hint="Average over the passes and over the positions, in both directions; and which logarithm can become "
        "infinite?",
        told="It is finite where probabilities become 0, for any number of passes, and 0 where all passes agree.",
    ),
    "fair": number(
        "a number, the alpha that is for K = 4 passes as strong as alpha = 5 is for two,",
        lambda: fair_alpha(5.0, 4),
        hint="How much larger is X itself, in expectation, with 4 passes than with 2? The weight must make up for it.",
        told="X grows in expectation as (K - 1) / K, here from 1/2 to 3/4, so that 2/3 of the alpha is as strong.",
        tolerance=0.02,  # one decimal is enough
    ),
    "growth": prediction(
        "your prediction of how large X of 3 passes is beside X of 2 passes of the same model with dropout, in the "
        "mean over many draws",
        tuple(GROWTH),
        _growth,
        hint="X is also a sum over all pairs of passes, divided by K squared: how many pairs are there?",
    ),
    "units": prediction(
        "your prediction of what happens to the raw spread (std) of the sensitivities of a model and to their spread "
        "over their mean (cv) when its loss is measured in bits and not in nats",
        UNITS,
        _units,
        hint="By what number is the loss multiplied, and what does that do to a gradient, to a std and to a mean?",
    ),
    "reseeded": prediction(
        "your prediction of what is left of the loss of Intra-Distillation when all K passes begin from the same "
        "random state",
        RESEEDED,
        _reseeded,
        hint="What does each of the two terms see of passes that draw the same masks, and by what is it divided?",
    ),
}
