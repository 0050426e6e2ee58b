"""Batches that can be planned, repeated and resumed, and the collates that turn examples into padded tensors.

>>> batches = Batches(translation_examples(rows, tokenizer, 64), collate_translation(), max_tokens=2000)
>>> for batch in batches: ...

Training asks `Batches` for two things only: `plan(epoch)`, which says which examples go together, and
`batch(epoch, index)`, which builds the tensors of one of them. Both depend on nothing but the seed and their
arguments, so a run that was interrupted goes on with the very batches it would have seen. Tokenizers and
examples come from `kdutils.data.tokens`; their names can be imported from here too.
"""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kdutils.core.errors import UserError
from kdutils.core.files import digest
from kdutils.data.tokens import (
    BOS,
    EOS,
    MASK,
    PAD,
    SPECIALS,
    UNK,
    Example,
    Examples,
    classification_examples,
    load_tokenizer,
    masked_lm_examples,
    required,
    save_tokenizer,
    source_ids,
    train_tokenizer,
    translation_examples,
)

__all__ = [
    "BOS", "EOS", "IGNORED", "MASK", "PAD", "SPECIALS", "UNK", "Batch", "Batches", "Example", "Examples",
    "classification_examples", "collate_classification", "collate_masked_lm", "collate_translation",
    "load_tokenizer", "masked_lm_examples", "save_tokenizer", "source_ids", "train_tokenizer",
    "translation_examples",
]  # fmt: skip

IGNORED = -100  # the label of a position that does not count, as in transformers and torch

Batch = dict[str, Tensor]


# --- collates: examples become padded tensors -----------------------------------------------------


def collate_translation(pad: int = PAD, bos: int = BOS) -> Callable[[list[Example]], Batch]:
    """Makes a function from B translation examples to one batch, padded on the right.

    input_ids, attention_mask (B, S); decoder_input_ids (B, T), the target shifted right behind `bos`; labels
    (B, T) with -100 at pads; positions (N,), flat indices into B*T of the labels that count; targets (N,).
    """

    def collate(rows: list[Example]) -> Batch:
        labels, content = _padded([row["target"] for row in rows], IGNORED)
        decoder = torch.full_like(labels, bos)
        decoder[:, 1:] = torch.where(content[:, 1:] == 1, labels[:, :-1], pad)
        return {**_inputs([row["source"] for row in rows], pad), "decoder_input_ids": decoder, **_counted(labels)}

    return collate


def collate_classification(pad: int = PAD) -> Callable[[list[Example]], Batch]:
    """Makes a function from B examples to input_ids, attention_mask (B, S), labels (B,), also as targets.

    Labels are classes, or the floats of a regression.

    Examples with "token_type_ids" give these too, (B, S).
    """

    def collate(rows: list[Example]) -> Batch:
        batch = _inputs([row["input_ids"] for row in rows], pad)
        if "token_type_ids" in rows[0]:
            batch["token_type_ids"], _ = _padded([row["token_type_ids"] for row in rows], 0)
        labels = torch.tensor([row["label"] for row in rows])
        return {**batch, "labels": labels, "targets": labels}

    return collate


def collate_masked_lm(
    tokenizer: PreTrainedTokenizerBase,
    probability: float = 0.15,
    replace: tuple[float, float, float] = (0.8, 0.1, 0.1),
    token_weights: Tensor | None = None,
) -> Callable[[list[Example], torch.Generator | None], Batch]:
    """Makes a function from B texts to a batch in which some tokens are hidden, anew at every call.

    Each token is selected with `probability`, special tokens never. Of the selected ones, the shares in
    `replace` become <mask>, become a random ordinary token, and stay as they are. With `token_weights` (V,),
    instead, exactly ceil(probability * tokens of the batch, special ones included) are drawn without replacement
    from the ordinary ones, in proportion to their weights: over the whole batch, as in DistilBERT's code, so a row
    may get none. A token of weight 0 is never drawn.
    The batch has input_ids, attention_mask, labels (B, S), the last -100 where nothing is asked; positions
    (N,), flat indices into B*S of the selected tokens; targets (N,), their true ids; tokens (M,), flat indices of
    all that is no padding; asked, a list: which of the M are the N selected ones. N may be 0. The last two are told
    because whoever looked for them on a GPU would have to wait for it.
    """
    _check_masking(probability, replace)
    pad = required(tokenizer, "pad_token_id", "masked language modelling")
    mask = required(tokenizer, "mask_token_id", "masked language modelling")
    special = torch.zeros(len(tokenizer), dtype=torch.bool)
    special[tokenizer.all_special_ids] = True
    ordinary = (~special).nonzero()[:, 0]
    weights = None if token_weights is None else _checked_weights(token_weights, len(tokenizer))

    def collate(rows: list[Example], generator: torch.Generator | None = None) -> Batch:
        batch = _inputs([row["input_ids"] for row in rows], pad)
        ids = batch["input_ids"]
        maskable = ~special[ids] & batch["attention_mask"].bool()
        tokens = batch["attention_mask"].flatten().nonzero()[:, 0]
        selected = _select(ids, maskable, probability, weights, len(tokens), generator)
        labels = ids.masked_fill(~selected, IGNORED)
        fate = torch.rand(ids.shape, generator=generator)
        random_ids = ordinary[torch.randint(len(ordinary), ids.shape, generator=generator)]
        hidden = torch.where(fate < replace[0], torch.full_like(ids, mask), random_ids)
        batch["input_ids"] = torch.where(selected & (fate < replace[0] + replace[1]), hidden, ids)
        counted = _counted(labels)
        asked = torch.searchsorted(tokens, counted["positions"]).tolist()
        return {**batch, **counted, "tokens": tokens, "asked": asked}

    return collate


def _select(
    ids: Tensor,
    maskable: Tensor,
    probability: float,
    weights: Tensor | None,
    tokens: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Which of the (B, S) tokens are asked for, as a boolean (B, S)."""
    if weights is None:
        return maskable & (torch.rand(ids.shape, generator=generator) < probability)
    chances = (weights[ids] * maskable).flatten()
    count = min(math.ceil(probability * tokens), int((chances > 0).sum()))
    selected = torch.zeros_like(maskable).flatten()
    if count:
        selected[torch.multinomial(chances, count, replacement=False, generator=generator)] = True
    return selected.reshape(ids.shape)


def _check_masking(probability: float, replace: Sequence[float]) -> None:
    if not 0.0 < probability <= 1.0:
        raise UserError(f"The masking probability is {probability}: choose one above 0 and up to 1.")
    if len(replace) != 3 or min(replace) < 0.0 or abs(sum(replace) - 1.0) > 1e-6:
        raise UserError(f"replace is {replace}: give three shares (mask, random, kept) that sum to 1.")


def _checked_weights(weights: Tensor, vocab_size: int) -> Tensor:
    weights = torch.as_tensor(weights, dtype=torch.float32)
    if weights.shape != (vocab_size,) or not bool((weights >= 0).all() and weights.isfinite().all()):
        raise UserError(f"token_weights must be {vocab_size} finite numbers of at least 0, one for each token.")
    return weights


def _inputs(sequences: list[list[int]], pad: int) -> Batch:
    ids, mask = _padded(sequences, pad)
    return {"input_ids": ids, "attention_mask": mask}


def _padded(sequences: Sequence[Sequence[int]], value: int) -> tuple[Tensor, Tensor]:
    """Sequences filled up on the right to the longest, (B, S), and 1 where there is content, (B, S)."""
    lengths = np.array([len(sequence) for sequence in sequences])
    content = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(content.shape, value, dtype=np.int64)
    ids[content] = np.concatenate(sequences)
    return torch.from_numpy(ids), torch.from_numpy(content.astype(np.int64))


def _counted(labels: Tensor) -> Batch:
    """The labels with what training needs of them: flat positions that count, and their targets."""
    flat = labels.flatten()
    positions = (flat != IGNORED).nonzero()[:, 0]
    return {"labels": labels, "positions": positions, "targets": flat[positions]}


# --- batches --------------------------------------------------------------------------------------


class Batches:
    """A stream of batches that is known in advance: the same seed and epoch always give the same batches.

    Examples of similar length go together, so that little is padded; which of them, and in what order the
    batches come, is drawn anew each epoch. `max_tokens` bounds the padded cells of a batch, counted as its
    rows times its longest sequence (for translation: of the longer side); `batch_size` bounds its rows; one
    of the two is needed. `lengths` replaces the lengths found in the examples (the longest list of each).
    With shuffle=False the batches are the same in every epoch, from short to long, as suits evaluation.

    `collate(rows)` builds the tensors; one with a second parameter gets a torch.Generator made from the seed,
    the epoch and the index, for what it draws itself (the masks of masked language modelling).

    To sample otherwise (one language a batch, a temperature, epochs of another size), override `plan` and let
    `pack` cut the examples that you drew.

    Raises UserError for no examples, no budget, or an example that is longer than `max_tokens`.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        collate: Callable[..., Batch],
        *,
        max_tokens: int | None = None,
        batch_size: int | None = None,
        lengths: Sequence[int] | None = None,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        self.examples, self.collate = examples, collate
        self.max_tokens, self.batch_size = max_tokens, batch_size
        self.seed, self.shuffle = seed, shuffle
        self._sides = _sides(examples, lengths)  # one tuple an example: the lengths of its sequences
        self.lengths = [max(sides, default=1) for sides in self._sides]
        self._draws = len(inspect.signature(collate).parameters) > 1
        self._plans: dict[int, list[list[int]]] = {}
        self._check()

    def _check(self) -> None:
        if not self.lengths:
            raise UserError("There are no examples to make batches of: check the data set.")
        if self.max_tokens is None and self.batch_size is None:
            raise UserError("Batches need a budget: set max_tokens or batch_size.")
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}: it must be at least 1.")
        if self.max_tokens is not None and max(self.lengths) > self.max_tokens:
            raise UserError(
                f"The longest example has {max(self.lengths)} tokens, more than "
                f"max_tokens={self.max_tokens}: raise max_tokens, or shorten the examples with max_length."
            )

    def plan(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch as lists of example indices: a pure function of the seed and the epoch."""
        draw = random.Random(f"{self.seed}-{epoch}")
        order = list(range(len(self.examples)))
        if self.shuffle:
            draw.shuffle(order)  # survives the sorting in `pack` among examples of equal length
        batches = self.pack(order)
        if self.shuffle:
            draw.shuffle(batches)
        return batches

    def pack(self, order: Iterable[int]) -> list[list[int]]:
        """Sorts examples by length, ties as they come, and cuts them into batches that keep to the budget."""
        batches: list[list[int]] = []
        for index in sorted(order, key=lambda i: (self.lengths[i], self._sides[i])):
            # sorted, so the new example is the longest of the batch that it joins
            if batches and self._fits(len(batches[-1]) + 1, self.lengths[index]):
                batches[-1].append(index)
            else:
                batches.append([index])
        return batches

    def _fits(self, rows: int, longest: int) -> bool:
        few = self.batch_size is None or rows <= self.batch_size
        return few and (self.max_tokens is None or rows * longest <= self.max_tokens)

    def batch(self, epoch: int, index: int) -> Batch:
        """Batch `index` of `epoch`, on the CPU; whenever it is asked for, its random draws are the same."""
        chosen = self._planned(epoch)[index]
        compact = isinstance(self.examples, Examples)
        rows = self.examples.arrays(chosen) if compact else [self.examples[i] for i in chosen]
        if not self._draws:
            return self.collate(rows)
        number = int(digest(f"{self.seed}-{epoch}-{index}")[:15], 16)
        return self.collate(rows, torch.Generator().manual_seed(number))

    def _planned(self, epoch: int) -> list[list[int]]:
        """`plan`, kept for epoch 0 (for `len`) and for the epoch that is being read."""
        if epoch not in self._plans:
            self._plans = {kept: plan for kept, plan in self._plans.items() if kept == 0}
            self._plans[epoch] = self.plan(epoch)
        return self._plans[epoch]

    def __len__(self) -> int:
        return len(self._planned(0))

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch(0, index) for index in range(len(self)))

    @property
    def padding(self) -> float:
        """The share of epoch 0's cells that are padding, 0 to 1, over all sequences (source and target)."""
        cells = content = 0
        for indices in self._planned(0):
            for side in zip(*(self._sides[i] for i in indices), strict=True):
                cells += len(side) * max(side)
                content += sum(side)
        return 1.0 - content / cells if cells else 0.0


def _sides(examples: Sequence[Example], lengths: Sequence[int] | None) -> list[tuple[int, ...]]:
    if lengths is None and isinstance(examples, Examples):
        return examples.lengths()
    if lengths is None:
        return [tuple(len(value) for value in row.values() if isinstance(value, list)) for row in examples]
    if len(lengths) != len(examples):
        raise UserError(f"There are {len(lengths)} lengths for {len(examples)} examples: give one for each.")
    return [(length,) for length in lengths]
