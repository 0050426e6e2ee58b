"""From text to token ids: training, saving and loading a tokenizer, and rows of text turned into examples.

>>> texts = [row[side] for row in rows for side in ("src", "tgt")]
>>> tokenizer = train_tokenizer(texts, 1000, "translation")
>>> examples = translation_examples(rows, tokenizer, max_length=64)
>>> examples.note
'3 of 800 rows were longer than 64 tokens and were dropped.'
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from kdutils.core.errors import UserError, unknown
from kdutils.core.files import explained, make_folder
from kdutils.models.build import loading

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")  # their ids are 0 to 4
PAD, BOS, EOS, UNK, MASK = range(5)

Example = dict[str, list[int] | int]


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
    texts = list(texts)
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


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Writes the files that plain `AutoTokenizer.from_pretrained(folder)` reads."""
    with explained(folder):
        tokenizer.save_pretrained(make_folder(folder))


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """Loads a tokenizer from a folder, or by its name from the Hugging Face hub; UserError when it cannot.

    Code that lies beside it is never run.
    """
    with loading("tokenizer", str(name)):
        return AutoTokenizer.from_pretrained(str(name), trust_remote_code=False)


# --- examples: rows of text become lists of token ids ---------------------------------------------


class Examples(list):
    """A list of examples that also knows how many rows were too long, and what was done with them."""

    def __init__(self, examples: Iterable[Example], too_long: int = 0, note: str = "") -> None:
        super().__init__(examples)
        self.too_long = too_long  # rows that were dropped or truncated
        self.note = note  # the same as a sentence for the reader; empty when no row was too long


def translation_examples(
    rows: Sequence[dict], tokenizer: PreTrainedTokenizerBase, max_length: int, too_long: str = "drop"
) -> Examples:
    """Rows {"src", "tgt"} become {"source", "target"}: lists of ids, each with </s> as its last.

    A row with a side of more than `max_length` ids, </s> included, is dropped (too_long="drop": half a
    sentence would teach the model to stop early) or its sides are cut to that length (too_long="truncate").
    `.too_long` of the result counts these rows and `.note` says so in a sentence. Raises UserError when no
    row is left.
    """
    if too_long not in ("drop", "truncate"):
        raise unknown("way with rows that are too long", too_long, ("drop", "truncate"))
    end = required(tokenizer, "eos_token_id", "translation")
    _check_room(max_length, specials=1)
    sources = _plain_ids(tokenizer, [row["src"] for row in rows])
    targets = _plain_ids(tokenizer, [row["tgt"] for row in rows])
    examples = [
        {"source": source[: max_length - 1] + [end], "target": target[: max_length - 1] + [end]}
        for source, target in zip(sources, targets, strict=True)
        if too_long == "truncate" or max(len(source), len(target)) < max_length
    ]
    over = sum(max(len(s), len(t)) >= max_length for s, t in zip(sources, targets, strict=True))
    return _examples(examples, over, len(rows), max_length, "dropped" if too_long == "drop" else "truncated")


def classification_examples(rows: Sequence[dict], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Examples:
    """Rows {"text", "label"}, for pairs "text_b" too, become {"input_ids", "label"}, cut to `max_length` ids.

    Special tokens are those of the tokenizer: `<s> first </s> second </s>` for the ones trained here. One
    from the hub that tells the two texts apart (BERT) adds "token_type_ids". Of a pair, the longer text is
    cut first.
    Raises UserError when there are no rows, or when only some of them are pairs.
    """
    pairs = [row["text_b"] for row in rows if "text_b" in row]
    if pairs and len(pairs) < len(rows):
        raise UserError("Some rows have a 'text_b' and some have not: give every row a pair of texts, or none.")
    fields, over = _encoded(tokenizer, [row["text"] for row in rows], pairs or None, max_length)
    examples = [
        {**{name: ids[i] for name, ids in fields.items()}, "label": int(row["label"])} for i, row in enumerate(rows)
    ]
    return _examples(examples, over, len(rows), max_length, "truncated")


def masked_lm_examples(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, too_long: str = "truncate"
) -> Examples:
    """Texts become {"input_ids"} with the tokenizer's special tokens around them, of at most `max_length` ids.

    A longer text is cut ("truncate"), or becomes as many pieces as it needs, each with its own special tokens
    ("split": nothing is lost). Nothing is masked here: `collate_masked_lm` draws new positions for every batch.
    """
    if too_long not in ("truncate", "split"):
        raise unknown("way with texts that are too long", too_long, ("truncate", "split"))
    if too_long == "truncate":
        fields, over = _encoded(tokenizer, list(texts), None, max_length)
        return _examples([{"input_ids": ids} for ids in fields["input_ids"]], over, len(texts), max_length, "truncated")
    _check_room(max_length, tokenizer.num_special_tokens_to_add())
    plain = tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
    room = max_length - tokenizer.num_special_tokens_to_add()
    over = [i for i, ids in enumerate(plain) if len(ids) > max_length]
    inner = _plain_ids(tokenizer, [texts[i] for i in over])
    pieces = {i: _pieces(plain[i], ids, room) for i, ids in zip(over, inner, strict=True)}
    examples = [{"input_ids": ids} for i, whole in enumerate(plain) for ids in pieces.get(i, [whole])]
    return _examples(examples, len(over), len(texts), max_length, "split")


def _pieces(whole: list[int], inner: list[int], room: int) -> list[list[int]]:
    """A text's ids cut into pieces of `room`, each between the special tokens that the whole text stands between."""
    start = next(i for i in range(len(whole)) if whole[i : i + len(inner)] == inner)
    before, after = whole[:start], whole[start + len(inner) :]
    return [before + inner[i : i + room] + after for i in range(0, len(inner), room)]


def source_ids(sentences: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[list[int]]:
    """Sentences to translate, encoded as the sources of `translation_examples`, cut to `max_length` ids."""
    end = required(tokenizer, "eos_token_id", "translation")
    return [ids[: max_length - 1] + [end] for ids in _plain_ids(tokenizer, list(sentences))]


def _plain_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


def _encoded(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], pairs: list[str] | None, max_length: int
) -> tuple[dict[str, list[list[int]]], int]:
    """The id fields that the tokenizer gives its models, and how many texts had to be cut."""
    _check_room(max_length, tokenizer.num_special_tokens_to_add(pair=pairs is not None))
    if not texts:
        return {"input_ids": []}, 0
    plain = tokenizer(texts, pairs, return_attention_mask=False, verbose=False)
    over = sum(len(ids) > max_length for ids in plain["input_ids"])
    if over:
        plain = tokenizer(texts, pairs, truncation=True, max_length=max_length, return_attention_mask=False)
    return {name: plain[name] for name in ("input_ids", "token_type_ids") if name in plain}, over


def _examples(examples: list[Example], over: int, rows: int, max_length: int, done: str) -> Examples:
    if not examples:
        raise UserError(
            f"No example is left of {rows} rows at a max_length of {max_length}: "
            + ("raise max_length." if rows else "the data set is empty, so check its source.")
        )
    note = f"{over:,} of {rows:,} rows were longer than {max_length} tokens and were {done}." if over else ""
    return Examples(examples, over, note)


def required(tokenizer: PreTrainedTokenizerBase, attribute: str, purpose: str) -> int:
    value = getattr(tokenizer, attribute, None)
    if value is None:
        raise UserError(f"This tokenizer has no {attribute}, which {purpose} needs: choose another tokenizer.")
    return value


def _check_room(max_length: int, specials: int) -> None:
    if max_length <= specials:
        raise UserError(f"max_length is {max_length}, but {specials} special tokens and a word need more: raise it.")
