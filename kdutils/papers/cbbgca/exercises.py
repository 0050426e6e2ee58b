"""The exercises of the notebook on CBBGCA: what is right, and hints that do not give it away.

>>> check("cbbgca.gradient", answer)  # kdutils.notebook.exercises
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kdutils.data.batches import BOS, EOS, MASK, PAD, collate_translation
from kdutils.losses.divergences import label_smoothed_nll
from kdutils.models.build import translation_model
from kdutils.models.forward import counted_logits, mode
from kdutils.papers.cbbgca.cmlm import CMLM
from kdutils.papers.cbbgca.objective import MIXES, cbbgca_loss, cmlm_inputs, kd_weight, select_unconfident
from kdutils.study.exercises import Exercise, prediction

VOCABULARY = 24


def _logits(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the reader's GPU too


def _translator() -> Any:
    shape = {"width": 16, "layers": 1, "heads": 2, "feedforward": 16}
    return translation_model(VOCABULARY, **shape, dropout=0.3, max_length=16)


def _batch(*pairs: tuple[list[int], list[int]]) -> dict[str, Tensor]:
    """A batch of pairs of sentences, whose ends are added."""
    return collate_translation()([{"source": [*s, EOS], "target": [*t, EOS]} for s, t in pairs])


def _same(one: Any, other: Any) -> bool:
    one, other = (torch.as_tensor(each).detach().double() for each in (one, other))
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def _compared(
    answer: Callable, right: Callable, mistakes: dict[str, Callable], cases: Sequence[tuple]
) -> tuple[bool | None, str]:
    """Whether a function returns what the right one does in all cases; of mistakes that many make, which it is."""
    given = [answer(*case) for case in cases]
    if any(one is None or one is ... for one in given):
        return None, ""
    for told, function in {"": right, **mistakes}.items():
        if all(_same(one, function(*case)) for one, case in zip(given, cases, strict=True)):
            return not told, told
    return False, ""


# --- Eq. (12) ----------------------------------------------------------------------------------------------------


def _onehot(p: Tensor, y: int) -> Tensor:
    return torch.zeros_like(p).index_fill(0, torch.tensor(y), 1.0)


def _gradient(p: Tensor, q: Tensor, y: int, alpha: float) -> Tensor:
    """By the logits of one selected word, from the loss that training uses: (V,)."""
    logits = p.log()[None].requires_grad_()
    loss = cbbgca_loss(logits, torch.tensor([y]), q.log()[None], torch.tensor([True]), alpha, reduction="sum")
    return torch.autograd.grad(loss, logits)[0][0]


GRADIENT_MISTAKES = {
    "It is the step that lowers the loss: which sign has a gradient?": (
        lambda p, q, y, alpha: -_gradient(p, q, y, alpha)
    ),
    "The teacher has the weight of the label, and the label that of the teacher.": (
        lambda p, q, y, alpha: _gradient(p, q, y, 1 - alpha)
    ),
    "It does not change with alpha.": lambda p, q, y, alpha: p - q,
    "What becomes of the label at a selected word?": lambda p, q, y, alpha: alpha * (p - q),
    "How much do the teacher and the label weigh together?": lambda p, q, y, alpha: p - alpha * q - _onehot(p, y),
    "The label has its full weight beside the teacher, as at a word that is not selected.": (
        lambda p, q, y, alpha: alpha * (p - q) + p - _onehot(p, y)
    ),
    "It is the gradient by the probabilities, and there is a softmax between them and the logits.": (
        lambda p, q, y, alpha: -(alpha * q + (1 - alpha) * _onehot(p, y)) / p
    ),
    "Its divergence has the two models in the other order: over which of them does Eq. (12) average?": (
        lambda p, q, y, alpha: alpha * p * ((p / q).log() - p @ (p / q).log()) + (1 - alpha) * (p - _onehot(p, y))
    ),
}


def _right_gradient(answer: Callable) -> tuple[bool | None, str]:
    p, q = _logits(2, 5).softmax(-1)
    cases = [(p, q, 3, 0.4), (p, q, 0, 1.0), (p, q, 1, 0.0), (p, p, 2, 0.75), (*_logits(2, 9).softmax(-1), 8, 0.9)]
    right, told = _compared(answer, _gradient, GRADIENT_MISTAKES, cases)
    if right:
        told = (
            "It is what autograd finds for the loss of the training: teacher and label make up one target, whose "
            "weight is 1 at any alpha."
        )
    return right, told


# --- the teacher's input -----------------------------------------------------------------------------------------


def _teachers_input(targets: list[int], hidden: list[bool]) -> list[int]:
    inputs, words = cmlm_inputs(torch.tensor([targets]), torch.tensor([hidden]), MASK, EOS, PAD)
    return inputs[words].tolist()


INPUT_MISTAKES = {
    "It is shifted by one, as the translator's input is: slot t does not hold word t.": (
        lambda targets, hidden: [BOS, *_teachers_input(targets, hidden)[:-1]]
    ),
    "It is shifted by one, so that what is asked for in one slot can be read in the next.": (
        lambda targets, hidden: _teachers_input([BOS, *targets[:-2], EOS], hidden)
    ),
    "It still begins as the translator's input does.": (
        lambda targets, hidden: [BOS, *_teachers_input(targets, hidden)]
    ),
    "The end of the sentence still has a slot: is it a word, and can it be selected?": (
        lambda targets, hidden: [MASK if one else word for word, one in zip(targets, hidden, strict=True)]
    ),
    "Only a batch has padding at the end of the sentence: leave that slot out.": (
        lambda targets, hidden: [*_teachers_input(targets, hidden), PAD]
    ),
    "Hidden words leave no gap: where would the teacher be asked for them?": (
        lambda targets, hidden: [word for word in _teachers_input(targets, hidden) if word != MASK]
    ),
    "It hides the words that are to be seen, and shows those that are to be guessed.": (
        lambda targets, hidden: _teachers_input(targets, [not one for one in hidden])
    ),
    "The teacher sees every word, also those that it is asked for.": lambda targets, hidden: targets[:-1],
}


def _right_input(answer: Callable) -> tuple[bool | None, str]:
    words = list(range(5, 35))
    cases = [
        ([17, 8, 23, 9, EOS], [False, True, False, True, False]),
        ([11, 12, EOS], [False, False, False]),
        ([7, EOS], [True, False]),
        ([*words, EOS], [*(word % 3 > 0 for word in words), False]),
    ]
    right, told = _compared(answer, _teachers_input, INPUT_MISTAKES, cases)
    if right:
        told = "Slot t of it is compared with the translator's output t, whose input is the word before."
    elif right is False and not told:
        # wrong at the hidden words alone, and some of these are not [M]
        *_, (targets, hidden) = cases
        ours = [int(one) for one in answer(targets, hidden)]
        if len(ours) == len(words) and all(
            one == word for one, word, unseen in zip(ours, targets, hidden, strict=False) if not unseen
        ):
            told = "Some hidden words are kept, or replaced by others, as in BERT: what does this paper put there?"
    return right, told


# --- the first update of stage 2 ---------------------------------------------------------------------------------

WORDS, CHOSEN = 10, 3


def _label_weights(mix: str) -> Tensor:
    """The weight of each word's label at the first update: how far the gradient moves when the label does: (WORDS,)."""
    targets, selected, found = torch.arange(WORDS) % 6, torch.arange(WORDS) < CHOSEN, []
    for labels in (targets, targets + 1):
        logits = _logits(WORDS, 7).requires_grad_()
        teacher, alpha = _logits(CHOSEN, 7), kd_weight(update=0, total=100)
        loss = cbbgca_loss(logits, labels, teacher, selected, alpha, reduction="sum", mix=mix)
        found.append(torch.autograd.grad(loss, logits)[0])
    return (found[1] - found[0])[torch.arange(WORDS), targets]


def _full_weight(answer: Sequence[float]) -> tuple[bool, str]:
    wanted = [float(_label_weights(mix).isclose(torch.ones((), dtype=torch.float64)).double().mean()) for mix in MIXES]
    ours = torch.as_tensor(answer).double().flatten().tolist()
    if len(ours) != 2:
        return False, "Two numbers are wanted, (paper, mix)."
    if max(ours) > 1:
        return False, "They are shares, from 0 to 1."
    paper, mix = (abs(one - other) < 0.005 for one, other in zip(ours, wanted, strict=True))
    if paper and mix:
        total = [float(_label_weights(one).sum()) for one in MIXES]
        return True, (
            f"Run at the first update, the labels of the {WORDS} words weigh {total[0]:.0f} in all in the paper's form "
            f"and {total[1]:.0f} in the mix, where words that nobody teaches go without any loss."
        )
    if _same(ours, wanted[::-1]):
        return False, "The two numbers are in the wrong order."
    return False, "" if not (paper or mix) else f"The {'second' if paper else 'first'} number is not right yet."


# --- which pass selects ------------------------------------------------------------------------------------------

SELECTED = ("fewer", "as many", "more")


def _selecting(updates: int = 80, draws: int = 20) -> tuple[str, str]:
    """Words that a small translator is unconfident of on passes with dropout, and on its clean pass."""
    with torch.random.fork_rng(devices=[]):
        _seed(1)
        model = _translator().train()
        pairs = [(words, words[::-1]) for words in torch.randint(5, VOCABULARY, (20, 5)).tolist()]
        batch = _batch(*pairs)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(updates):
            label_smoothed_nll(counted_logits(model, batch), batch["targets"], epsilon=0.1).backward()
            optimizer.step()
            optimizer.zero_grad()
        words, counts = batch["targets"] != EOS, []
        for training, times in ((True, draws), (False, 1)):
            with mode(model, training), torch.no_grad():
                logits = counted_logits(model, batch, times).view(times, -1, VOCABULARY)
            chosen = [select_unconfident(one, batch["targets"], 0.2, words).sum() for one in logits]
            counts.append(float(torch.stack(chosen).double().mean()))
    noisy, clean = counts
    told = (
        f"After {updates} updates with dropout 0.3, of {int(words.sum())} words {noisy:.1f} are selected with dropout, "
        f"in the mean of {draws} draws, and {clean:.0f} without."
    )
    return SELECTED[1 + (clean > noisy + 1) - (clean < noisy - 1)], told


# --- epsilon = 1 -------------------------------------------------------------------------------------------------

KNOWN = (
    "on the source sentence alone",
    "on the source sentence and the number of target words",
    "on the source sentence and the target words",
    "on nothing: it says the same for any pair of sentences",
)


def _known() -> tuple[str, str]:
    """How much the teacher's first word changes with the words, the number of words and the source, all hidden."""
    with torch.random.fork_rng(devices=[]):
        _seed(1)
        teacher = CMLM(_translator()).eval()

    def first_word(source: list[int], target: list[int]) -> Tensor:
        batch = _batch((source, target))
        inputs, words = cmlm_inputs(batch["labels"], batch["labels"] != EOS, MASK, EOS, PAD)
        encoded = teacher.encoded(batch["input_ids"], batch["attention_mask"])
        return teacher(inputs, words, torch.tensor([0]), encoded, batch["attention_mask"]).double()

    with torch.no_grad():
        before, other = first_word([5, 6, 7], [8, 9, 10]), [[11, 12, 13], [8, 9, 10, 11, 12]]
        after = [*(first_word([5, 6, 7], one) for one in other), first_word([14, 15, 16], [8, 9, 10])]
    words, number, source = (float((one - before).abs().max()) for one in after)
    told = (
        f"Its logits of the first word change by up to {words:.2g} with other target words, by {number:.2g} with two "
        f"words more, by {source:.2g} with another source."
    )
    if words > 1e-5:
        return KNOWN[2], told
    return KNOWN[1] if number > 1e-5 else KNOWN[0] if source > 1e-5 else KNOWN[3], told


EXERCISES = {
    "gradient": Exercise(
        "a function of p, q (V,), the index y of the right word and alpha that returns the gradient (V,) of Eq. (12) "
        "by the logits of one selected word",
        _right_gradient,
        hint="Read both terms as one cross-entropy, and ask what its target is and what softmax makes of it.",
    ),
    "input": Exercise(
        f"a function of the labels of a sentence, a list of ids that ends with {EOS}, and of a list that says of each "
        f"whether it is hidden, that returns the list of ids that the teacher reads ([M] is {MASK})",
        _right_input,
        hint="One slot for each word, in its own place, and nothing that only the translator needs.",
    ),
    "full_weight": Exercise(
        f"your prediction of the share of the labels of {WORDS} words that keep their full weight at the first update "
        f"of stage 2 when {CHOSEN} are selected, as two numbers: (in the paper's form, in the mix over all words),",
        _full_weight,
        hint="What is alpha at update 0, and which labels does each of the two forms multiply by what it leaves?",
    ),
    "selecting": prediction(
        "your prediction of how many words are selected when dropout is switched off in the pass that selects",
        SELECTED,
        _selecting,
        hint="What does noise in the hidden states do to the probability of a word that the model has learned?",
    ),
    "hidden": prediction(
        "your prediction of what the teacher's guesses depend on at epsilon = 1, where all words are selected at once",
        KNOWN,
        _known,
        hint="What does its decoder read when every slot holds the same symbol, and what else reaches it?",
    ),
}
