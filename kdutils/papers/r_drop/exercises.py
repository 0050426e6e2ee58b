"""The exercises of the notebook on R-Drop: what is right, and hints that do not give it away.

>>> check("r_drop.symmetric_kl", answer)  # kdutils.notebook.exercises
"""

from __future__ import annotations

import torch

from kdutils.losses.divergences import symmetric_kl
from kdutils.models.build import translation_model
from kdutils.papers.r_drop.objective import r_drop_loss
from kdutils.study.exercises import function, number, prediction


def _logits(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _effective_alpha() -> float:
    """The KL term of the released BERT code at a batch size of 8, in units of Eq. 4's mean over the batch."""
    z = _logits(2, 8, 2)
    released = 0.5 * symmetric_kl(z[0], z[1], reduction="sum")  # 0.5 * (KL12 + KL21) / 2, summed over the batch
    return float(released / symmetric_kl(z[0], z[1]))


DROPOUT = (
    "zero, then above zero",
    "above zero both times, larger at 0.5",
    "above zero both times, smaller at 0.5",
    "zero both times, as nothing has been trained",
)


def _dropout() -> tuple[str, str]:
    """The KL between two passes of a small untrained model, with dropout 0 and 0.5."""
    kl = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for dropout in (0.0, 0.5):
            torch.manual_seed(1)
            model = translation_model(24, width=16, layers=1, heads=2, feedforward=16, dropout=dropout).train()
            words = torch.randint(5, 24, (4, 6))  # (sentences, words), as source and as target
            one, two = (model(input_ids=words, decoder_input_ids=words, use_cache=False).logits for _ in range(2))
            kl.append(float(symmetric_kl(one, two)))
    told = f"The KL of Eq. (2) between two passes is {kl[0]:.3g} nats at dropout 0 and {kl[1]:.3g} nats at 0.5."
    if kl[0] == 0:
        return DROPOUT[0] if kl[1] > 0 else DROPOUT[3], told
    return DROPOUT[1] if kl[1] > kl[0] else DROPOUT[2], told


IDENTICAL = ("zero", "the gradient of its cross-entropy", "1 + alpha times the gradient of its cross-entropy")


def _identical() -> tuple[str, str]:
    """The gradient of Eq. 4 on the logits of pass 1 when pass 2 gives the same, with alpha 5 and without the KL."""
    z, y = _logits(6, 5), torch.arange(6) % 5
    gradients = []
    for alpha in (5.0, 0.0):
        passes = torch.stack([z, z]).requires_grad_()
        r_drop_loss(passes, y, alpha).backward()
        gradients.append(passes.grad[0])
    ours, cross_entropy = gradients
    told = f"The gradient has the norm {ours.norm():.4f} with alpha = 5 and {cross_entropy.norm():.4f} with alpha = 0."
    if torch.allclose(ours, torch.zeros_like(ours), atol=1e-12):
        return IDENTICAL[0], told
    return IDENTICAL[1] if torch.allclose(ours, cross_entropy) else IDENTICAL[2], told


EXERCISES = {
    "symmetric_kl": function(
        "a function of two tensors of logits, each (n, V), that returns Eq. (2) as the mean over the n positions",
        symmetric_kl,
        lambda: {"ordinary logits": _logits(2, 5, 7), "logits in the thousands": 4000 * _logits(2, 5, 7)},
        hint="Average both directions, then the positions; and what is the logarithm of a probability that became 0?",
        told="It also stays finite where probabilities become 0, and it does not matter which pass comes first.",
    ),
    "dropout": prediction(
        "your prediction of the KL between two passes of an untrained model, at dropout 0 and then at 0.5",
        DROPOUT,
        _dropout,
        hint="What does a pass draw at random, and what is left of that at dropout 0?",
    ),
    "alpha": number(
        "a number, the alpha of Eq. (4) to which the released BERT code amounts at a batch size of 8,",
        _effective_alpha,
        hint="The cross-entropies of that code are means over the batch: is its KL one too?",
        told="The cross-entropies are means over the batch and the KL is a sum, so alpha grows with the batch.",
    ),
    "identical": prediction(
        "your prediction of the gradient that Eq. (4) with alpha = 5 sends to the logits of pass 1 "
        "when both passes give the same logits",
        IDENTICAL,
        _identical,
        hint="Where does a divergence have its smallest value, and what is its slope there?",
    ),
}
