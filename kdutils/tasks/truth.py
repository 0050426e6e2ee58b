"""The true distribution of a hidden word, which only the embedded grammar knows, as a measure of a masked LM.

>>> asked = questions(corpus.splits["test"], tokenizer, "en", 100)
>>> truth_scores(model, asked)
{'truth_kl': 0.41, 'truth_mass': 0.97}

The cross-entropy on a text mixes two things: how uncertain the hidden word truly is, and how wrong the model is. On
real text nobody can tell them apart. Here the grammar gives P(word | the others) exactly, so what a model adds to
the unavoidable uncertainty is a number of its own: KL(truth || model), 0 for a model that knows the language.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from kdutils.core.errors import UserError
from kdutils.data.batches import required
from kdutils.models.forward import mode

QUESTIONS = 80  # of a split: each costs the grammar about 20 ms, once


@dataclass(frozen=True)
class Question:
    """A sentence with one hidden word, and the truth about it."""

    words: tuple[str, ...]  # the sentence; the word at `hidden` is what stood there
    hidden: int
    ids: tuple[int, ...]  # with the mask token in the word's place
    position: int  # of the mask token
    truth: dict[int, float]  # token id -> probability; sums to 1

    @property
    def gap(self) -> str:
        """The sentence with a line in place of the hidden word."""
        word = self.words[self.hidden]
        tail = word[len(word.rstrip(".,")) :]
        return " ".join([*self.words[: self.hidden], "____" + tail, *self.words[self.hidden + 1 :]])


def questions(
    rows: Sequence[dict], tokenizer: PreTrainedTokenizerBase, language: str, most: int, seed: int = 0, longest: int = 0
) -> list[Question]:
    """One hidden word in each of up to `most` sentences {"text"} of the grammar, drawn at random by `seed`.

    Left out are the words whose place some word could take that is not one known token, since a masked LM gives a
    probability to a token, and sentences of more than `longest` tokens (0: none). Raises UserError when no question
    is left.
    """
    draw, found = random.Random(seed), []
    for row in rows:
        if len(found) == most:
            break
        words = row["text"].split()
        asked = _question(words, draw.randrange(len(words)), tokenizer, language)
        found += [asked] if asked and (not longest or len(asked.ids) <= longest) else []
    if not found:
        raise UserError("No hidden word of these sentences has single tokens for all its answers: raise vocab_size.")
    return found


def _question(words: list[str], hidden: int, tokenizer: PreTrainedTokenizerBase, language: str) -> Question | None:
    from kdutils.grammar import corpus as grammar  # the largest part of the suite: only for who asks

    possible = grammar.masked_distribution(words, hidden, language)
    tails = {word[len(word.rstrip(".,")) :] for word in possible}
    if len(tails) > 1:  # a comma that comes and goes with the word is a second token to guess
        return None
    encoded = {word: _ids(tokenizer, word.rstrip(".,")) for word in possible}
    if any(len(ids) != 1 or ids[0] == tokenizer.unk_token_id for ids in encoded.values()):
        return None
    pieces = [_ids(tokenizer, word) for word in words]
    first, last = _ids(tokenizer, "", special=True)
    before = [first, *(token for piece in pieces[:hidden] for token in piece)]
    mask = required(tokenizer, "mask_token_id", "masked language modelling")
    after = [*pieces[hidden][1:], *(token for piece in pieces[hidden + 1 :] for token in piece), last]
    truth: dict[int, float] = {}
    for word, p in possible.items():
        truth[encoded[word][0]] = truth.get(encoded[word][0], 0.0) + p
    return Question(tuple(words), hidden, (*before, mask, *after), len(before), truth)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, special: bool = False) -> list[int]:
    return tokenizer(text, add_special_tokens=special)["input_ids"]


@torch.no_grad()
def predictions(model: nn.Module, asked: Sequence[Question]) -> Tensor:
    """log P(token | sentence) of each question under a masked LM, dropout off: (Q, V) in float32, on the CPU."""
    longest = max(len(question.ids) for question in asked)
    pad = model.config.pad_token_id or 0
    ids = torch.tensor([[*question.ids, *[pad] * (longest - len(question.ids))] for question in asked])
    content = torch.tensor([[1] * len(q.ids) + [0] * (longest - len(q.ids)) for q in asked])
    device = next(model.parameters()).device
    with mode(model, training=False):
        logits = model(input_ids=ids.to(device), attention_mask=content.to(device)).logits
    rows = torch.arange(len(asked), device=device)
    chosen = logits[rows, torch.tensor([question.position for question in asked], device=device)]
    return chosen.float().log_softmax(-1).cpu()


def truth_table(asked: Sequence[Question], vocabulary: int) -> Tensor:
    """The true probabilities of all tokens, (Q, V)."""
    table = torch.zeros(len(asked), vocabulary)
    for row, question in zip(table, asked, strict=True):
        row[list(question.truth)] = torch.tensor(list(question.truth.values()))
    return table


def truth_scores(model: nn.Module, asked: Sequence[Question]) -> dict[str, float]:
    """truth_kl: mean KL(truth || model), in nats; truth_mass: the probability that possible words get, 0 to 1."""
    logs = predictions(model, asked).double()
    truth = truth_table(asked, logs.shape[-1]).double()
    apart = torch.where(truth > 0, truth * (truth.log() - logs), 0.0).sum(-1)
    mass = torch.where(truth > 0, logs.exp(), 0.0).sum(-1)
    return {"truth_kl": float(apart.mean()), "truth_mass": float(mass.mean())}
