"""From text to token ids: training, saving and loading a tokenizer, and rows of text turned into examples.

>>> texts = [row[side] for row in rows for side in ("src", "tgt")]
>>> tokenizer = train_tokenizer(texts, 1000, "translation")
>>> examples = translation_examples(rows, tokenizer, max_length=64)
>>> examples.note
'3 of 800 rows were longer than 64 tokens and were dropped.'
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from kdutils.core.errors import UserError, unknown
from kdutils.core.files import explained, make_folder
from kdutils.models.build import loading, located

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")  # their ids are 0 to 4
PAD, BOS, EOS, UNK, MASK = range(5)
PIECE = 1000  # texts in one call of a tokenizer, whose answer takes up to 250 bytes a token until its ids are taken out

Example = dict[str, list[int] | int | str]


# --- tokenizers -----------------------------------------------------------------------------------


def train_tokenizer(texts: Iterable[str], vocab_size: int, task: str = "classification") -> PreTrainedTokenizerFast:
    """Learns a byte-pair encoding of at most `vocab_size` tokens; a small corpus yields fewer (see `len`).

    Words are marked by the space before them, so `decode` gives back the text that was encoded (in Unicode's
    composed form, NFC) as long as its characters occurred in `texts`; only a space in front is lost. The same
    texts give the same tokenizer. `task` says what calling it puts around a text: "translation" `text </s>`;
    "classification" and "text" `<s> text </s>`, or `<s> first </s> second </s>` for a pair, so that an
    encoder has a first position to read a whole sentence from.
    Raises UserError when there is no text, or when the characters alone need more than `vocab_size` tokens.
    """
    start = {"translation": "", "classification": "<s> ", "text": "<s> "}
    if task not in start:
        raise unknown("task", task, start)
    # The trainer's work grows with the square of a word: one of a million letters, which is none, would take hours.
    texts = [re.sub(r"\S{1000}", r"\g<0> ", text) if len(text) > 1000 else text for text in texts]
    if not any(text.strip() for text in texts):
        raise UserError("There is no text to train a tokenizer on: pass at least one sentence.")
    backend = _byte_pairs(texts, vocab_size)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start[task]}$A </s>",
        pair=f"{start[task]}$A </s> $B </s>",
        special_tokens=[("<s>", BOS), ("</s>", EOS)],
    )
    names = ("pad_token", "bos_token", "eos_token", "unk_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,  # decode must not move punctuation
        model_input_names=["input_ids", "attention_mask"],
        **{**dict(zip(names, SPECIALS, strict=True)), "mask_token": _mask_token()},
    )


def _byte_pairs(texts: list[str], vocab_size: int) -> Tokenizer:
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.NFC()
    # a full stop is a token of its own, or every word would come twice: with one and without
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated")]
    )
    backend.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocab_size, 0), min_frequency=2, special_tokens=[*SPECIALS[:MASK], _mask_token()],
        show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(texts, trainer, length=len(texts))
    if backend.get_vocab_size() > vocab_size:  # the trainer keeps every character, whatever it was allowed
        raise UserError(
            f"A vocabulary of {vocab_size} is too small: the characters of these texts and the special "
            f"tokens alone need {backend.get_vocab_size()}, so choose a larger vocab_size."
        )
    return backend


def _mask_token() -> AddedToken:
    """The space before a mask belongs to it: the word that will take its place brings its own."""
    return AddedToken(SPECIALS[MASK], lstrip=True, special=True)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str | Path, longest: int = 0) -> None:
    """Writes the files that plain `AutoTokenizer.from_pretrained(folder)` reads.

    longest: the positions of the model it is for; where its users ask for truncation, texts are cut to so many tokens.
    """
    usual = tokenizer.model_max_length
    tokenizer.model_max_length = min(usual, longest or usual)
    with explained(folder):
        tokenizer.save_pretrained(make_folder(folder))
    tokenizer.model_max_length = usual


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """Loads a tokenizer from a folder, or by its name from the Hugging Face hub; UserError when it cannot.

    Code that lies beside it is never run.
    """
    with loading("tokenizer", str(name)):
        return AutoTokenizer.from_pretrained(located(str(name)), trust_remote_code=False)


# --- examples: rows of text become lists of token ids ---------------------------------------------


class Examples(Sequence):
    """Examples of one kind, kept in 4 bytes a token id; each is made when it is asked for.

    `examples[3]` is a dictionary: lists of token ids, and a label or a language. `too_long` is the number of rows that
    were dropped or cut; `note` is the same as a sentence for the reader, empty when no row was too long.
    """

    def __init__(self, examples: Iterable[Example] = (), too_long: int = 0, note: str = "") -> None:
        self.too_long, self.note = too_long, note
        self._ids: dict[str, array] = {}  # of all examples, one behind the other
        self._ends: dict[str, array] = {}  # where they begin and end, from 0 to the number of ids
        self._plain: dict[str, list] = {}  # what is no list of ids
        self._count = 0
        for example in examples:
            self.append(example)

    def append(self, example: Example) -> None:
        """Adds an example with the fields of those before it."""
        for name, value in example.items():
            if isinstance(value, list):
                self._ids.setdefault(name, array("i")).extend(value)
                self._ends.setdefault(name, array("q", [0])).append(len(self._ids[name]))
            else:
                self._plain.setdefault(name, []).append(value)
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int | slice) -> Any:
        chosen = range(self._count)[index]
        if isinstance(chosen, range):
            return self if chosen == range(self._count) else Examples(self[i] for i in chosen)
        ids = {name: all_ids[slice(*self._ends[name][chosen : chosen + 2])] for name, all_ids in self._ids.items()}
        return {name: own.tolist() for name, own in ids.items()} | {n: own[chosen] for n, own in self._plain.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and [*self] == [*other]

    def arrays(self, indices: Iterable[int]) -> list[dict[str, Any]]:
        """Some of the examples with their ids as arrays that lie in the memory of all: what batches are made of."""
        ids = [(name, np.frombuffer(own, np.int32), self._ends[name]) for name, own in self._ids.items()]
        return [
            {name: all_ids[ends[i] : ends[i + 1]] for name, all_ids, ends in ids}
            | {name: own[i] for name, own in self._plain.items()}
            for i in indices
        ]

    def lengths(self) -> list[tuple[int, ...]]:
        """For each example the lengths of its lists of ids."""
        return [*zip(*(np.diff(ends).tolist() for ends in self._ends.values()), strict=True)]

    def column(self, name: str) -> list:
        """Of all examples a field that is no list of ids."""
        return self._plain[name]

    def holding(self, token: int | None) -> dict[str, int]:
        """For each list of ids, how many of the examples hold a token in it."""
        found = {name: np.flatnonzero(np.frombuffer(own, np.int32) == token) for name, own in self._ids.items()}
        return {name: len({*np.searchsorted(self._ends[name], at, "right")}) for name, at in found.items()}


def translation_examples(
    rows: Sequence[dict], tokenizer: PreTrainedTokenizerBase, max_length: int, too_long: str = "drop"
) -> Examples:
    """Rows {"src", "tgt"} become {"source", "target"}: lists of ids, each with </s> as its last.

    A row with a side of more than `max_length` ids, </s> included, is dropped (too_long="drop": half a
    sentence would teach the model to stop early) or its sides are cut to that length (too_long="truncate").
    `.too_long` of the result counts these rows and `.note` says so in a sentence. Special tokens in a text, such
    as </s>, are read as the characters that they are written with. Raises UserError when no row is left.
    """
    if too_long not in ("drop", "truncate"):
        raise unknown("way with rows that are too long", too_long, ("drop", "truncate"))
    end = required(tokenizer, "eos_token_id", "translation")
    _check_room(max_length, specials=1)
    examples, over = Examples(), 0
    sides = (_plain_ids(tokenizer, [row[side] for row in rows]) for side in ("src", "tgt"))
    for source, target in zip(*sides, strict=True):
        longer = max(len(source), len(target)) >= max_length
        over += longer
        if too_long == "truncate" or not longer:
            examples.append({"source": [*source[: max_length - 1], end], "target": [*target[: max_length - 1], end]})
    return _counted(examples, over, len(rows), max_length, "dropped" if too_long == "drop" else "truncated")


def classification_examples(rows: Sequence[dict], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Examples:
    """Rows {"text", "label"}, for pairs "text_b" too, become {"input_ids", "label"}, cut to `max_length` ids.

    A "score" in place of the label becomes the label as it is, a float.

    Special tokens are those of the tokenizer: `<s> first </s> second </s>` for the ones trained here; in a text
    they are nothing special. One from the hub that tells the two texts apart (BERT) adds "token_type_ids". Of a
    pair, the longer text is cut first.
    Raises UserError when there are no rows, or when only some of them are pairs.
    """
    pairs = [row["text_b"] for row in rows if "text_b" in row]
    if pairs and len(pairs) < len(rows):
        raise UserError("Some rows have a 'text_b' and some have not: give every row a pair of texts, or none.")
    examples, over = Examples(), 0
    encoded = _encoded(tokenizer, [row["text"] for row in rows], pairs or None, max_length)
    for row, (fields, longer) in zip(rows, encoded, strict=True):
        over += longer
        examples.append({**fields, "label": float(row["score"]) if "score" in row else int(row["label"])})
    return _counted(examples, over, len(rows), max_length, "truncated")


def masked_lm_examples(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, too_long: str = "truncate"
) -> Examples:
    """Texts become {"input_ids"} with the tokenizer's special tokens around them, of at most `max_length` ids.

    A longer text is cut ("truncate"), or becomes as many pieces as it needs, each with its own special tokens
    ("split": nothing is lost). Special tokens in a text are read as its other characters are. Nothing is masked
    here: `collate_masked_lm` draws new positions for every batch.
    """
    if too_long not in ("truncate", "split"):
        raise unknown("way with texts that are too long", too_long, ("truncate", "split"))
    examples, over = Examples(), 0
    if too_long == "truncate":
        for fields, longer in _encoded(tokenizer, texts, None, max_length):
            over += longer
            examples.append({"input_ids": fields["input_ids"]})
        return _counted(examples, over, len(texts), max_length, "truncated")
    _check_room(max_length, tokenizer.num_special_tokens_to_add())
    room = max_length - tokenizer.num_special_tokens_to_add()
    for piece, _ in _in_pieces(tokenizer, texts):
        wholes = _called(tokenizer, piece)["input_ids"]
        long = [text for text, ids in zip(piece, wholes, strict=True) if len(ids) > max_length]
        inner = iter(_called(tokenizer, long, add_special_tokens=False)["input_ids"] if long else ())
        over += len(long)
        for whole in wholes:
            for ids in _cut(whole, next(inner), room) if len(whole) > max_length else [whole]:
                examples.append({"input_ids": ids})
    return _counted(examples, over, len(texts), max_length, "split")


def _cut(whole: list[int], inner: list[int], room: int) -> list[list[int]]:
    """A text's ids cut into pieces of `room`, each between the special tokens that the whole text stands between."""
    start = next(i for i in range(len(whole)) if whole[i : i + len(inner)] == inner)
    before, after = whole[:start], whole[start + len(inner) :]
    return [before + inner[i : i + room] + after for i in range(0, len(inner), room)]


def source_ids(sentences: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[list[int]]:
    """Sentences to translate, encoded as the sources of `translation_examples`, cut to `max_length` ids."""
    end = required(tokenizer, "eos_token_id", "translation")
    return [[*ids[: max_length - 1], end] for ids in _plain_ids(tokenizer, sentences)]


def _plain_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator[list[int]]:
    for piece, _ in _in_pieces(tokenizer, texts):
        yield from _called(tokenizer, piece, add_special_tokens=False)["input_ids"]


def _encoded(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
) -> Iterator[tuple[dict[str, list[int]], bool]]:
    """Of each text the id fields that the tokenizer gives its models, and whether it had to be cut."""
    _check_room(max_length, tokenizer.num_special_tokens_to_add(pair=pairs is not None))
    for firsts, seconds in _in_pieces(tokenizer, texts, pairs):
        whole = _called(tokenizer, firsts, seconds)
        longer = [len(ids) > max_length for ids in whole["input_ids"]]
        if any(longer):
            whole = _called(tokenizer, firsts, seconds, truncation=True, max_length=max_length)
        names = [name for name in ("input_ids", "token_type_ids") if name in whole]
        for i, cut in enumerate(longer):
            yield {name: whole[name][i] for name in names}, cut


def _in_pieces(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], pairs: Sequence[str] | None = None
) -> Iterator[tuple[list[str], list[str] | None]]:
    """Texts, or pairs of them, a piece at a time, without what the tokenizer would take for a special token."""
    controls = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    # In a unigram vocabulary </s> is an entry like any other; a space keeps its characters and breaks it.
    taken = [
        token
        for token in tokenizer.all_special_tokens
        if controls & {*_called(tokenizer, [token], add_special_tokens=False)["input_ids"][0]}
    ]

    def cleaned(text: str) -> str:
        for token in taken:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text if text.isascii() else text.encode().decode()  # a copy: Python keeps the UTF-8 that is asked of it

    for start in range(0, len(texts), PIECE):
        sides = [side and [cleaned(text) for text in side[start : start + PIECE]] for side in (texts, pairs)]
        yield sides[0], sides[1]


def _called(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], pairs: list[str] | None = None, **options: Any
) -> Any:
    """The tokenizer's answer with the special tokens that it adds; those in the texts are text."""
    return tokenizer(texts, pairs, split_special_tokens=True, return_attention_mask=False, verbose=False, **options)


def _counted(examples: Examples, over: int, rows: int, max_length: int, done: str) -> Examples:
    if not examples:
        raise UserError(
            f"No example is left of {rows} rows at a max_length of {max_length}: "
            + ("raise max_length." if rows else "the data set is empty, so check its source.")
        )
    examples.too_long = over
    examples.note = f"{over:,} of {rows:,} rows were longer than {max_length} tokens and were {done}." if over else ""
    return examples


def required(tokenizer: PreTrainedTokenizerBase, attribute: str, purpose: str) -> int:
    value = getattr(tokenizer, attribute, None)
    if value is None:
        raise UserError(f"This tokenizer has no {attribute}, which {purpose} needs: choose another tokenizer.")
    return value


def _check_room(max_length: int, specials: int) -> None:
    if max_length <= specials:
        raise UserError(f"max_length is {max_length}, but {specials} special tokens and a word need more: raise it.")
