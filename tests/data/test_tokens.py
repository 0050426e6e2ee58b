"""Tokenizers, and rows of text turned into examples."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, BertForMaskedLM, M2M100ForConditionalGeneration, PreTrainedTokenizerFast

from kdutils.core.errors import UserError
from kdutils.data.batches import collate_classification
from kdutils.data.tokens import (
    BOS,
    EOS,
    MASK,
    PAD,
    SPECIALS,
    Examples,
    classification_examples,
    load_tokenizer,
    masked_lm_examples,
    save_tokenizer,
    source_ids,
    train_tokenizer,
    translation_examples,
)
from kdutils.models.build import masked_lm, translation_model
from tests.corpus_files import TEXTS

ROWS = [
    {"src": "The old woman sees a small dog.", "tgt": "Die alte Frau sieht einen kleinen Hund."},
    {"src": "The dog sees the cat.", "tgt": "Der Hund sieht die Katze."},
    {"src": "The cat.", "tgt": "Die Katze."},
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 200)


# --- tokenizers --------------------------------------------------------------------------------------


def test_special_tokens_have_the_first_five_ids(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(SPECIALS)) == [0, 1, 2, 3, 4]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (PAD, BOS, EOS)
    assert (tokenizer.unk_token, tokenizer.mask_token) == ("<unk>", "<mask>")


@pytest.mark.parametrize("text", sorted(set(TEXTS)))
def test_decoding_gives_back_the_text(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer.tokenize(text)) < len(text)  # it has learned words, not only characters


def test_decomposed_letters_are_composed(tokenizer):
    decomposed = "Die alte Frau sieht scho\u0308ne Gru\u0308\u00dfe"
    ids = tokenizer(decomposed)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Die alte Frau sieht schöne Grüße"


def test_an_unknown_character_becomes_unk(tokenizer):
    assert tokenizer.unk_token_id in tokenizer("The 狗 sees.")["input_ids"]


def test_the_task_decides_what_stands_around_a_text():
    plain = train_tokenizer(TEXTS, 200, "translation")
    ids = plain("The dog", add_special_tokens=False)["input_ids"]
    assert plain("The dog")["input_ids"] == [*ids, EOS]
    for task in ("classification", "text"):
        assert train_tokenizer(TEXTS, 200, task)("The dog")["input_ids"] == [BOS, *ids, EOS]


def test_a_vocabulary_below_the_alphabet_is_refused():
    needed = len(set("".join(TEXTS).replace(" ", "▁"))) + len(SPECIALS)
    assert len(train_tokenizer(TEXTS, needed)) == needed
    with pytest.raises(UserError, match=str(needed)):
        train_tokenizer(TEXTS, needed - 1)


def test_a_word_of_a_million_letters_takes_no_hours():
    started = time.monotonic()
    tokenizer = train_tokenizer([*TEXTS, "가나다" * 300_000], 200)
    (example,) = masked_lm_examples(["가나다" * 300_000], tokenizer, 32)
    assert time.monotonic() - started < 30 and len(example["input_ids"]) == 32


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_no_text_is_refused(texts):
    with pytest.raises(UserError, match="no text"):
        train_tokenizer(texts, 100)


def test_an_unknown_task_is_refused():
    with pytest.raises(UserError, match="translation"):
        train_tokenizer(TEXTS, 200, "translatoin")


def test_saving_and_loading_keeps_everything(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    for loaded in (
        load_tokenizer(tmp_path / "tokenizer"),
        AutoTokenizer.from_pretrained(tmp_path / "tokenizer"),
    ):
        assert loaded.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
        assert loaded.special_tokens_map == tokenizer.special_tokens_map
        assert loaded.all_special_ids == tokenizer.all_special_ids
        for text in TEXTS[:6]:
            assert dict(loaded(text, text)) == dict(tokenizer(text, text))
            assert loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize("kind", ["translation", "masked_lm"])
def test_a_tokenizer_saved_beside_its_model_loads_as_it_was(tokenizer, tmp_path, kind):
    build, known = {
        "translation": (translation_model, M2M100ForConditionalGeneration),
        "masked_lm": (masked_lm, BertForMaskedLM),
    }[kind]
    build(len(tokenizer), width=16, layers=1, heads=2, feedforward=16).save_pretrained(tmp_path)
    save_tokenizer(tokenizer, tmp_path)
    assert isinstance(known.from_pretrained(tmp_path), known)
    loaded = AutoTokenizer.from_pretrained(tmp_path)  # the model's type must not bring another tokenizer
    assert [dict(loaded(text)) for text in TEXTS] == [dict(tokenizer(text)) for text in TEXTS]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match="could not be loaded"):
        load_tokenizer(tmp_path)


# --- examples ----------------------------------------------------------------------------------------


def test_translation_examples_end_in_eos(tokenizer):
    examples = translation_examples(ROWS, tokenizer, 64)
    for row, example in zip(ROWS, examples, strict=True):
        for key, text in (("source", row["src"]), ("target", row["tgt"])):
            assert example[key] == [*tokenizer(text, add_special_tokens=False)["input_ids"], EOS]
    assert (examples.too_long, examples.note) == (0, "")


def test_pairs_that_are_too_long_are_dropped_or_cut_and_counted(tokenizer):
    lengths = [max(map(len, example.values())) for example in translation_examples(ROWS, tokenizer, 64)]
    limit = sorted(lengths)[1]
    dropped = translation_examples(ROWS, tokenizer, limit)
    assert len(dropped) == 2 and dropped.too_long == 1 and "dropped" in dropped.note
    cut = translation_examples(ROWS, tokenizer, limit, too_long="truncate")
    assert len(cut) == 3 and cut.too_long == 1 and "truncated" in cut.note
    assert max(len(ids) for example in cut for ids in example.values()) == limit
    assert all(ids[-1] == EOS for example in cut for ids in example.values())
    assert len(translation_examples(ROWS, tokenizer, max(lengths))) == 3
    assert len(translation_examples(ROWS, tokenizer, max(lengths) - 1)) == 2
    with pytest.raises(UserError, match="max_length"):
        translation_examples(ROWS, tokenizer, 2)
    with pytest.raises(UserError, match="truncate"):
        translation_examples(ROWS, tokenizer, 64, too_long="cut")


def test_classification_examples_are_cut_with_their_specials(tokenizer):
    rows = [{"text": TEXTS[0], "label": 1}, {"text": "The dog", "label": 0}]
    ids = tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
    whole = classification_examples(rows, tokenizer, 64)
    assert whole[0] == {"input_ids": [BOS, *ids, EOS], "label": 1}
    cut = classification_examples(rows, tokenizer, 6)
    assert cut[0]["input_ids"] == [BOS, *ids[:4], EOS]
    assert cut.too_long == 1 and whole.too_long == 0 and len(cut) == 2


def test_pairs_of_texts_are_separated(tokenizer):
    rows = [{"text": "The dog", "text_b": "the cat", "label": 1}]
    first, second = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("The dog", "the cat"))
    example = classification_examples(rows, tokenizer, 64)[0]
    assert example["input_ids"] == [BOS, *first, EOS, *second, EOS]
    cut = classification_examples([{**rows[0], "text": TEXTS[0]}], tokenizer, len(second) + 6)
    assert cut[0]["input_ids"][-len(second) - 1 :] == [*second, EOS]  # the longer text pays
    assert cut.too_long == 1
    with pytest.raises(UserError, match="3 special tokens"):
        classification_examples(rows, tokenizer, 3)
    with pytest.raises(UserError, match="text_b"):
        classification_examples([*rows, {"text": "The dog", "label": 0}], tokenizer, 64)


def test_a_tokenizer_with_token_types_passes_them_on(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path)
    typed = AutoTokenizer.from_pretrained(tmp_path, model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    rows = [
        {"text": "The dog", "text_b": "the cat", "label": 1},
        {"text": "The", "text_b": "dog", "label": 0},
    ]
    batch = collate_classification()(classification_examples(rows, typed, 64))
    assert batch["token_type_ids"].shape == batch["input_ids"].shape


def test_masked_lm_examples_are_plain_ids(tokenizer):
    examples = masked_lm_examples(TEXTS, tokenizer, 5)
    assert all(len(example["input_ids"]) <= 5 and MASK not in example["input_ids"] for example in examples)
    assert examples.too_long == sum(len(ids) > 5 for ids in tokenizer(TEXTS)["input_ids"]) > 0


# --- special tokens that stand in a text -----------------------------------------------------------------


def wordpieces() -> PreTrainedTokenizerFast:
    """As BERT's: the special tokens are words in brackets."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "dog", "sep", "mask", "pad", "[", "]"]
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    names |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "eos_token": "[SEP]"}
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def unigrams() -> PreTrainedTokenizerFast:
    """As XLM-R's: the special tokens are entries of the vocabulary, which a text can be cut into."""
    entries = [(token, 0.0) for token in SPECIALS] + [(letter, -5.0) for letter in "▁abcdefghijklmnopqrstuvwxyz</>"]
    backend = Tokenizer(models.Unigram(entries, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token", "mask_token"), SPECIALS, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@pytest.mark.parametrize("kind", ["ours", "wordpieces", "unigrams"])
@pytest.mark.parametrize("saved", [False, True])
def test_a_special_token_in_a_text_is_text(tokenizer, tmp_path, kind, saved):
    chosen = {"ours": lambda: tokenizer, "wordpieces": wordpieces, "unigrams": unigrams}[kind]()
    if saved:
        save_tokenizer(chosen, tmp_path)
        chosen = load_tokenizer(tmp_path)
    controls = {*chosen.all_special_ids} - {chosen.unk_token_id}
    assert len(controls) == 4
    for token in chosen.all_special_tokens:
        text = f"the {token} dog{token}"
        (pair,) = translation_examples([{"src": text, "tgt": text}], chosen, 64)
        assert source_ids([text], chosen, 64) == [pair["source"]] == [pair["target"]]
        assert pair["source"][-1] == chosen.eos_token_id and not controls & {*pair["source"][:-1]}
        plain = len(masked_lm_examples(["the dog"], chosen, 64)[0]["input_ids"])
        added = plain - len(chosen("the dog", add_special_tokens=False)["input_ids"])
        for way in ("truncate", "split"):
            ids = [token for example in masked_lm_examples([text], chosen, 64, way) for token in example["input_ids"]]
            assert sum(token in controls for token in ids) == added
        row = {"text": text, "text_b": text, "label": 0}
        between = chosen.num_special_tokens_to_add(pair=True)
        (example,) = classification_examples([row], chosen, 64)
        assert sum(token in controls for token in example["input_ids"]) == between
        (cut,) = classification_examples([row], chosen, 8)
        assert len(cut["input_ids"]) == 8 and sum(token in controls for token in cut["input_ids"]) == between


def test_a_special_token_in_a_text_can_be_translated_and_read_again():
    texts = ["a tag </s> ends , <s> begins and <pad> <mask> fill"] * 3
    tokenizer = train_tokenizer(texts, 100, "translation")
    (ids,) = source_ids(texts[:1], tokenizer, 99)
    assert tokenizer.decode(ids, skip_special_tokens=True) == texts[0] and ids.count(EOS) == 1


# --- how examples are kept -------------------------------------------------------------------------------


def test_examples_are_kept_in_little_memory_and_come_back_as_they_were():
    rows = [{"source": [5, i, 2], "target": [70_000] * (i % 4), "language": "de" if i % 2 else "ko"} for i in range(9)]
    examples = Examples(rows, 3, "3 rows.")
    assert [*examples] == rows == examples and (len(examples), examples.too_long, examples.note) == (9, 3, "3 rows.")
    assert (examples[-1], examples[2:8:3], examples[:2]) == (rows[-1], rows[2:8:3], rows[:2]) and examples[
        :
    ] is examples
    with pytest.raises(IndexError):
        examples[9]
    assert examples.lengths() == [(3, i % 4) for i in range(9)] and examples.column("language")[:2] == ["ko", "de"]
    for array, row in zip(examples.arrays([7, 1]), (rows[7], rows[1]), strict=True):
        assert {name: value if isinstance(value, str) else value.tolist() for name, value in array.items()} == row
        assert array["source"].dtype == np.int32
    assert examples.holding(70_000) == {"source": 0, "target": 6} and examples.holding(None)["source"] == 0
    assert not Examples() and Examples() == []


def test_a_token_costs_few_bytes(tokenizer):
    texts = [" ".join([f"{TEXTS[i % 6]}"] * 4) for i in range(4000)]
    masked_lm_examples(texts[:10], tokenizer, 64)
    tracemalloc.start()
    examples = masked_lm_examples(texts, tokenizer, 64, "split")
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    tokens = sum(n for (n,) in examples.lengths())
    assert tokens > 100_000 and kept < 6 * tokens and most < 60 * tokens


@pytest.mark.parametrize("piece", [1, 2, 3, 1000])
def test_texts_in_pieces_are_the_texts_at_once(tokenizer, monkeypatch, piece):
    rows = [{"src": text, "tgt": text[::-1], "text": text, "text_b": text[:9], "label": 1} for text in TEXTS[:7]]
    alone = [{"text": row["text"], "label": 0} for row in rows]

    def made():
        yield from (translation_examples(rows, tokenizer, length, "truncate") for length in (12, 99))
        yield from (classification_examples(some, tokenizer, length) for some in (rows, alone) for length in (12, 99))
        yield from (masked_lm_examples(TEXTS[:7], tokenizer, 12, way) for way in ("truncate", "split"))

    whole = [(example, example.note) for example in made()]
    monkeypatch.setattr("kdutils.data.tokens.PIECE", piece)
    assert [(example, example.note) for example in made()] == whole


def test_examples_of_nothing_are_refused(tokenizer):
    labelled = [{"text": "The cat.", "label": 0}]
    builders = ((translation_examples, ROWS), (classification_examples, labelled), (masked_lm_examples, TEXTS))
    for build, rows in builders:
        with pytest.raises(UserError, match="empty"):
            build([], tokenizer, 64)
        with pytest.raises(UserError, match="max_length"):
            build(rows, tokenizer, 1)
