"""Many-to-one and one-to-many translation: tags, corpora of several pairs in a folder, target words, facts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from kdutils.core.errors import UserError
from kdutils.data.batches import BOS, EOS, SPECIALS
from kdutils.data.tokens import save_tokenizer
from kdutils.papers.lssd.multilingual import ManyToOne, OneToMany, language_scores, tag
from kdutils.tasks.scores import translation_scores
from kdutils.tasks.translation import Translation
from tests.corpus_files import write
from tests.tiny import SMALL, one_sentence

DIRECTIONS = {"many_to_one": ManyToOne, "one_to_many": OneToMany}
TRAIN = {"es": 12, "de": 24, "ko": 40}
LANGUAGES = list(TRAIN)
TINY = {
    **SMALL, "languages": LANGUAGES, "train_rows": list(TRAIN.values()), "validation_rows": 6, "test_rows": 8,
    "vocab_size": 400, "max_tokens": 150, "max_words": 5,
}  # fmt: skip


def make(direction: str = "many_to_one", **changes):
    task = DIRECTIONS[direction]
    return task(task.settings_table.resolve("demo", {**TINY, **changes}))


@pytest.fixture(scope="module", params=DIRECTIONS)
def task(request):
    return make(request.param)


def into_pivot(task) -> bool:
    return task.name == "many_to_one"


def ids_of(task, *languages: str) -> list[int]:
    return task.tokenizer.convert_tokens_to_ids([tag(one) for one in languages])


def shown(task, ids: list[int]) -> str:
    return task.tokenizer.decode(ids, skip_special_tokens=True)


# ---------------------------------------------------------------- rows and their direction


def test_the_two_directions_are_the_same_sentences_turned_round():
    one, many = make("many_to_one"), make("one_to_many")
    for split in ("train", "validation", "test"):
        there, back = one.corpus.splits[split], many.corpus.splits[split]
        turned = [{"language": row["language"], "src": row["tgt"], "tgt": row["src"]} for row in there]
        assert turned == back
    assert one.corpus.languages == (*LANGUAGES, "en") and one.corpus.fingerprint != many.corpus.fingerprint


def test_the_pivot_is_the_target_of_many_to_one(task):
    row = next(row for row in task.corpus.splits["test"] if row["language"] == "ko")
    korean, english = (row["src"], row["tgt"]) if into_pivot(task) else (row["tgt"], row["src"])
    assert any("가" <= letter <= "힣" for letter in korean) and english.isascii()


def test_another_pivot_of_the_grammar():
    task = make(pivot="ko", languages=["en", "fr"], train_rows=[9])
    assert task.sizes() == {"en": 9, "fr": 9} and task.corpus.languages == ("en", "fr", "ko")
    assert all(any("가" <= c <= "힣" for c in row["tgt"]) for row in task.corpus.splits["train"])


def test_sizes_and_facts_tell_the_training_pairs_of_each_language(task):
    facts = task.facts()
    assert task.sizes() == facts["train_rows"] == TRAIN and list(task.sizes()) == LANGUAGES
    assert facts["rows"] == {"train": 76, "validation": 18, "test": 24} and facts["corpus"] == "demo"
    assert facts["vocabulary"] == len(task.tokenizer) and "bleu_signature" in facts
    assert make(task.name, data_seed=1).corpus.fingerprint != facts["fingerprint"] == make(task.name).corpus.fingerprint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"languages": []}, "must be different"), ({"languages": ["de", "de"]}, "must be different"),
        ({"languages": ["de", "en"]}, "without the pivot"), ({"train_rows": [1, 2]}, "each of the 3"),
        ({"train_rows": [-1]}, "at least 0"), ({"train_rows": []}, "train_rows takes"),
        ({"train_rows": [1.5]}, "whole number"), ({"train_rows": ["many"]}, "whole number"),
        ({"languages": ["de", "xx"], "train_rows": [5]}, "'xx'"), ({"pivot": "xx"}, "'xx'"),
        ({"train_rows": [0]}, "at least 1"), ({"test_rows": 0}, "at least 1"), ({"validation_rows": 0}, "at least 1"),
        ({"data": "nowhere"}, "no folder nowhere"), ({"temperature": 0.0}, "above 0"),
        ({"epoch_rows": -1}, "epoch_rows is -1"), ({"beams": 0}, "beams is 0"), ({"max_tokens": 4}, "raise max_tokens"),
        ({"test_split": "other"}, "'other'"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_meant_is_one_sentence(change, words):
    with pytest.raises(UserError, match=words) as caught:
        make(**change).check(seed=1)
    one_sentence(caught.value)


# ---------------------------------------------------------------- tags


def test_tags_are_words_of_their_own_behind_the_vocabulary(task):
    tags = ids_of(task, *LANGUAGES, "en")
    assert tags == list(range(len(task.tokenizer) - 4, len(task.tokenizer)))
    assert min(tags) >= len(SPECIALS) and shown(task, tags) == ""
    assert task.model(1).get_input_embeddings().num_embeddings == len(task.tokenizer)


def test_they_stay_special_in_the_exported_tokenizer(task, tmp_path):
    save_tokenizer(task.tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.convert_tokens_to_ids([tag(one) for one in LANGUAGES]) == ids_of(task, *LANGUAGES)
    assert loaded.decode(ids_of(task, *LANGUAGES), skip_special_tokens=True) == ""


def test_the_encoder_reads_the_tag_of_the_language_and_the_decoder_begins_with_that_of_the_target(task):
    """Source tag many-to-one, target tag one-to-many; the decoder's first word is the target's in both."""
    for split, rows in task.corpus.splits.items():
        assert len(task.examples[split]) == len(rows)
        for example, row in zip(task.examples[split], rows, strict=True):
            (own,), (pivot,) = ids_of(task, row["language"]), ids_of(task, "en")
            assert example["language"] == row["language"]
            assert (example["source"][0], example["target"][0]) == (own, pivot if into_pivot(task) else own)
            assert (example["source"][-1], example["target"][-1]) == (EOS, EOS)
            assert not {*ids_of(task, *LANGUAGES, "en")} & {*example["source"][1:], *example["target"][1:]}
            plain = [task.tokenizer(row[side], add_special_tokens=False)["input_ids"] for side in ("src", "tgt")]
            assert [example["source"][1:-1], example["target"][1:-1]] == plain


def test_the_first_word_that_the_decoder_predicts_is_the_tag(task):
    for batch in task.training_batches(1):
        expected = ids_of(task, "en" if into_pivot(task) else batch["language"])[0]
        assert (batch["decoder_input_ids"][:, 0] == BOS).all() and (batch["decoder_input_ids"][:, 1] == expected).all()
        assert (batch["labels"][:, 0] == expected).all()
        assert (batch["input_ids"][:, 0] == ids_of(task, batch["language"])[0]).all()
        assert int((batch["labels"] == expected).sum()) == len(batch["labels"])


def generated(task, monkeypatch, sentences, **options) -> list[dict]:
    """What the model was given to translate, and what it gave."""
    net, calls = task.model(1), []
    plain = net.generate

    def generate(**inputs):
        calls.append({**inputs, "output": plain(**inputs)})
        return calls[-1]["output"]

    monkeypatch.setattr(net, "generate", generate)
    texts = task.translate(net, sentences, **options)
    return [{**call, "texts": texts} for call in calls]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("language", ["ko", "de"])
def test_a_translation_is_begun_with_the_tag_and_does_not_show_it(task, monkeypatch, language, beams):
    sentences = [row["src"] for row in task.corpus.splits["test"] if row["language"] == language]
    (call,) = generated(task, monkeypatch, sentences, language=language, beams=beams)
    expected = ids_of(task, "en" if into_pivot(task) else language)[0]
    assert (call["output"][:, 0] == BOS).all() and (call["output"][:, 1] == expected).all()
    assert (call["input_ids"][:, 0] == ids_of(task, language)[0]).all()
    assert len(call["texts"]) == 8 and not any("__" in text for text in call["texts"])


def test_a_source_is_read_as_in_the_training(task, monkeypatch):
    rows = [row for row in task.corpus.splits["test"] if row["language"] == "de"]
    (call,) = generated(task, monkeypatch, [row["src"] for row in rows], language="de")
    wanted = [example["source"] for example in task.examples["test"] if example["language"] == "de"]
    found = [ids[mask.bool()].tolist() for ids, mask in zip(call["input_ids"], call["attention_mask"], strict=True)]
    assert sorted(found) == sorted(wanted)


def test_without_a_language_it_is_the_first_and_the_beams_are_those_of_the_settings(task, monkeypatch):
    (call,) = generated(make(task.name, beams=2), monkeypatch, ["Ana duerme."])
    assert call["input_ids"][0, 0] == ids_of(task, "es")[0] and call["generation_config"].num_beams == 2


@pytest.mark.parametrize("language", ["xx", "en", "DE"])
def test_a_language_that_the_model_does_not_speak_is_one_sentence(task, language):
    """<unk>, or the tag of the pivot, must not stand for it."""
    for ask in (
        lambda: task.translate(task.model(1), ["Anna."], language=language), lambda: task.only(language, 1),
        lambda: task.scores(task.model(1), "test", language),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"'{language}'") as caught:
            ask()
        one_sentence(caught.value)


@pytest.mark.parametrize("longest", [13, 16])
def test_max_length_counts_the_tags(task, monkeypatch, longest):
    """Nothing is longer than the settings say, in training, validation, sources and translations."""
    short = make(task.name, max_length=longest, max_words=7, train_rows=[60], validation_rows=20)
    for split, examples in short.examples.items():
        lengths = [len(example[side]) for example in examples for side in ("source", "target")]
        assert max(lengths) == longest, split
        assert all(e["source"][-1] == e["target"][-1] == EOS for e in examples)
    (call,) = generated(short, monkeypatch, ["Anna sleeps and sleeps . " * 9, "Anna."], language="de")
    assert call["input_ids"].shape[1] == longest and call["output"].shape[1] <= longest
    assert longest <= short.model(1).config.max_position_embeddings


def test_long_pairs_are_left_out_of_the_training_and_cut_elsewhere_and_the_notes_count_them():
    task = make(max_length=14, max_words=7, train_rows=[60], validation_rows=20)
    dropped, cut = (task.examples[split].too_long for split in ("train", "validation"))
    assert sum(task.sizes().values()) == 180 - dropped and dropped > 0 and cut > 0
    assert len(task.examples["validation"]) == 60 and len(task.examples["test"]) == 24
    assert f"train: {dropped} rows were too long and were dropped." in task.facts()["notes"]
    assert f"validation: {cut} rows were too long and were cut." in task.notes
    assert all("the vocabulary lacks" in note for note in make().notes)


def test_a_language_that_has_only_long_pairs_is_named():

    with pytest.raises(UserError, match="(es|ko|de).*max_length of 4") as caught:
        make(max_length=4)
    one_sentence(caught.value)


# ---------------------------------------------------------------- batches and scores


def test_training_follows_temperature_and_epoch_rows(task):
    plain, warm, short = (
        make(task.name, **change).training_batches(3).taken
        for change in ({}, {"temperature": 5.0}, {"temperature": 5.0, "epoch_rows": 30})
    )
    assert plain == TRAIN and warm["es"] > TRAIN["es"] and warm["ko"] < TRAIN["ko"]
    assert abs(sum(warm.values()) - 76) <= 2 and abs(sum(short.values()) - 30) <= 2
    assert task.training_batches(1).plan(2) == task.training_batches(1).plan(2) != task.training_batches(2).plan(2)
    assert all(batch["input_ids"].numel() <= 150 for batch in task.training_batches(1))


def languages_of(batches) -> Counter:
    return Counter(batches.examples[i]["language"] for batch in batches.plan(0) for i in batch)


def test_fixed_batches_are_all_rows_or_the_first_few_of_each_language_or_one_language(task):
    assert languages_of(task.fixed_batches("validation")) == dict.fromkeys(LANGUAGES, 6)
    few = task.fixed_batches("test", 2)
    assert languages_of(few) == dict.fromkeys(LANGUAGES, 2)
    firsts = [[e for e in task.examples["test"] if e["language"] == one][:2] for one in LANGUAGES]
    assert few.examples == [example for some in firsts for example in some]
    assert languages_of(task.fixed_batches("train", language="ko")) == {"ko": 40}
    assert languages_of(task.fixed_batches("train", 3, "de")) == {"de": 3}
    assert few.plan(0) == few.plan(5)


def test_batches_of_one_language_for_a_model_of_its_own(task):
    own = task.only("de", 1)
    assert languages_of(own) == {"de": 24} and own.plan(1) == task.only("de", 1).plan(1) != task.only("de", 2).plan(1)
    assert own.plan(0) != own.plan(1) and {batch["language"] for batch in own} == {"de"}
    warm = make(task.name, temperature=5.0, epoch_rows=5)
    assert languages_of(warm.only("de", 1)) == {"de": 24}  # what is sampled among languages is not its affair


@pytest.mark.parametrize("smoothing", [(0.2, "others"), (0.2, "uniform")])
def test_scores_are_those_of_the_split_with_the_smoothing_of_the_settings(task, smoothing):
    task = make(task.name, label_smoothing=smoothing[0], smoothing_convention=smoothing[1])
    net = task.model(1)
    assert task.validate(net) == language_scores(net, task.fixed_batches("validation"), *smoothing)
    one = task.scores(net, "validation", "ko")
    assert "accuracy_es" not in one and one["smoothed_loss"] == one["smoothed_loss_ko"] == pytest.approx(
        task.validate(net)["smoothed_loss_ko"]
    )


def test_the_model_is_chosen_by_the_mean_of_the_languages_or_of_the_tokens(task):
    """Equation (2), or as the released code does."""
    for name in ("smoothed_loss", "token_loss"):
        recipe = make(task.name, select_by=name).recipe()
        assert (recipe.monitor, recipe.larger_is_better) == (name, False)
    assert task.recipe().monitor == "smoothed_loss"
    with pytest.raises(UserError, match="blue"):
        make(task.name, select_by="blue").check(1)
    names = {f"{name}_{one}" for name in ("smoothed_loss", "accuracy") for one in LANGUAGES}
    assert (
        task.validate(task.model(1)).keys() == {"loss", "smoothed_loss", "token_loss", "accuracy", "perplexity"} | names
    )


def test_the_test_scores_every_language_and_their_plain_mean(task):
    net = task.model(1)
    found, rows = task.test(net), task.corpus.splits["test"]
    for one in LANGUAGES:
        own = [row for row in rows if row["language"] == one]
        texts = task.translate(net, [row["src"] for row in own], language=one)
        expected = translation_scores(texts, [row["tgt"] for row in own])
        assert (found[f"test_bleu_{one}"], found[f"test_chrf_{one}"]) == (expected["bleu"], expected["chrf"])
    for metric in ("bleu", "chrf"):
        each = [found[f"test_{metric}_{one}"] for one in LANGUAGES]
        assert found[f"test_{metric}"] == pytest.approx(sum(each) / 3)
    assert found["test_chrf"] > 0 and {f"test_{name}" for name in task.validate(net)} <= found.keys()


# ---------------------------------------------------------------- the words of a target language


def test_target_words_are_those_of_the_training_pairs_with_tag_and_special_ones():
    task = make("one_to_many")
    seen = {}
    for batch in task.training_batches(1):
        seen.setdefault(batch["language"], batch["target_words"])
        assert batch["target_words"].dtype is torch.bool and batch["target_words"].shape == (len(task.tokenizer),)
        assert batch["target_words"][batch["targets"]].all()
    for language, words in seen.items():
        own = [e["target"] for e in task.examples["train"] if e["language"] == language]
        expected = {token for target in own for token in target} | set(range(len(SPECIALS))) | {*ids_of(task, language)}
        assert set(words.nonzero()[:, 0].tolist()) == expected
        assert not {*ids_of(task, *LANGUAGES, "en")} - {*ids_of(task, language)} & expected
    assert len({tuple(words.tolist()) for words in seen.values()}) == 3


def test_many_to_one_has_no_target_words():
    """Trap 8: all of its languages have the same target."""
    assert all("target_words" not in batch for batch in make("many_to_one").training_batches(1))


# ---------------------------------------------------------------- corpora in a folder


def sentences(language: str, numbers, swapped: bool = False) -> list[dict]:
    """Rows of a file <language>-en; numbers are the English sentences."""
    rows = [{"src": f"{language} says {n} .", "tgt": f"english says {n} ."} for n in numbers]
    return [{"src": row["tgt"], "tgt": row["src"]} for row in rows] if swapped else rows


def corpora(folder: Path, pairs=("de-en", "en-fr", "xx-en"), splits=("train", "validation", "test")) -> Path:
    """Files of several pairs: other sentences in training, the same ones held out."""
    for number, pair in enumerate(pairs):
        language = pair.replace("en", "").strip("-")
        starts = {
            "train": range(1000 * (number + 1), 1000 * (number + 1) + 30),
            "validation": range(5),
            "test": range(7, 13),
        }
        for split in splits:
            rows = sentences(language, starts[split], swapped=pair.startswith("en-"))
            write(folder / f"{pair}.{split}.jsonl.gz", rows)
    return folder


FOLDER = {
    "languages": ["de", "fr", "xx"], "train_rows": [0], "validation_rows": 0, "test_rows": 0, "vocab_size": 120,
}  # fmt: skip


def from_folder(folder, direction: str = "many_to_one", **changes):
    return make(direction, data=str(folder), **{**FOLDER, **changes})


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_folder_of_several_pairs_is_one_corpus_whichever_way_its_files_are_named(tmp_path, direction):
    task = from_folder(corpora(tmp_path / "mine"), direction)
    assert task.sizes() == {"de": 30, "fr": 30, "xx": 30} and task.facts()["corpus"] == "mine"
    for rows in task.corpus.splits.values():
        for row in rows:
            foreign, english = (row["src"], row["tgt"]) if into_pivot(task) else (row["tgt"], row["src"])
            assert foreign.startswith(f"{row['language']} says") and english.startswith("english says")
    assert any(note.startswith("fr: ") for note in task.notes)  # that files were swapped
    task.check(seed=1)


def test_rows_are_limited_for_each_language_by_the_seed_of_the_data(tmp_path):
    corpora(tmp_path)
    limits = {"train_rows": [5, 0, 9], "validation_rows": 2, "test_rows": 3}
    task, other = from_folder(tmp_path, **limits), from_folder(tmp_path, **limits, data_seed=1)
    assert task.sizes() == {"de": 5, "fr": 30, "xx": 9}
    assert task.facts()["rows"] == {"train": 44, "validation": 6, "test": 9}
    assert task.corpus.fingerprint != other.corpus.fingerprint and other.sizes() == task.sizes()
    assert from_folder(tmp_path, **limits).corpus.fingerprint == task.corpus.fingerprint


def test_training_pairs_that_are_held_out_in_another_language_are_left_out_and_counted(tmp_path):
    corpora(tmp_path)
    write(tmp_path / "xx-en.train.jsonl.gz", sentences("xx", [*range(3), *range(8, 10), *range(500, 510)]))
    write(tmp_path / "de-en.test.jsonl.gz", sentences("de", [500, *range(7, 12)]))
    task = from_folder(tmp_path)
    assert task.sizes() == {"de": 30, "fr": 30, "xx": 9}
    assert "6 training pairs with a en sentence that is held out were left out." in task.notes
    held_out = {row["tgt"] for split in ("validation", "test") for row in task.corpus.splits[split]}
    assert not held_out & {row["tgt"] for row in task.corpus.splits["train"]}
    assert not any("also stand in train" in note for note in task.notes)


def test_held_out_sources_that_stand_in_train_with_another_translation_are_counted(tmp_path):
    corpora(tmp_path)
    again = {"src": "de says 8 .", "tgt": "in other words"}
    write(tmp_path / "de-en.train.jsonl.gz", [*sentences("de", range(1000, 1030)), again])
    task = from_folder(tmp_path)
    assert "1 of 18 test rows also stand in train." in task.notes and task.sizes()["de"] == 31
    assert not any("also stand" in note for note in from_folder(tmp_path, "one_to_many").notes)


def test_a_language_whose_pairs_are_all_held_out_is_named(tmp_path):
    corpora(tmp_path)
    write(tmp_path / "xx-en.train.jsonl.gz", sentences("xx", range(5)))
    with pytest.raises(UserError, match="xx") as caught:
        from_folder(tmp_path)
    assert "max_length" not in one_sentence(caught.value)


def test_a_missing_validation_split_is_carved_from_each_languages_training(tmp_path):
    task = from_folder(corpora(tmp_path, splits=("train", "test")))
    rows = Counter(row["language"] for row in task.corpus.splits["validation"])
    assert set(rows) == {"de", "fr", "xx"} and all(task.sizes()[one] + n == 30 for one, n in rows.items())
    assert sum("carved from train" in note for note in task.notes) == 3


def test_a_missing_pair_is_one_sentence_that_names_it(tmp_path):
    with pytest.raises(UserError, match="ko-en") as caught:
        from_folder(corpora(tmp_path), languages=["de", "ko"])
    one_sentence(caught.value)


def test_another_test_split_and_another_pivot(tmp_path):
    corpora(tmp_path)
    for language in ("de", "xx"):
        write(tmp_path / f"{language}-en.late.jsonl.gz", sentences(language, range(20, 24)))
    task = from_folder(tmp_path, languages=["de", "xx"], test_split="late")
    assert [row["tgt"].split()[2] for row in task.corpus.splits["test"]] == ["20", "21", "22", "23"] * 2
    with pytest.raises(UserError, match="late") as caught:
        from_folder(tmp_path, test_split="late")  # fr has none
    one_sentence(caught.value)
    task = from_folder(tmp_path, languages=["en"], pivot="de")
    assert task.corpus.splits["test"][0] == {"language": "en", "src": "english says 7 .", "tgt": "de says 7 ."}


def test_a_folder_for_each_pair_is_named_by_the_pair_in_the_order_of_the_alphabet(tmp_path):
    for pair in ("de-en", "en-fr", "en-xx"):
        corpora(tmp_path / "braces{}" / pair, [pair])
    task = from_folder(f"{tmp_path}/braces{{}}/{{pair}}")
    assert task.sizes() == {"de": 30, "fr": 30, "xx": 30}
    assert task.facts()["corpus"] != "de-en"


def test_real_sentences_of_unequal_languages(real_data):
    settings = {"languages": ["gl", "ko", "mr"], "train_rows": [20, 40, 60], "validation_rows": 8, "test_rows": 8}
    for direction in DIRECTIONS:
        task = make(direction, data=str(real_data / "tatoeba_multi"), **settings, vocab_size=600, max_length=64)
        assert task.sizes() == {"gl": 20, "ko": 40, "mr": 60} and task.facts()["corpus"] == "tatoeba_multi"
        assert task.corpus.languages == ("gl", "ko", "mr", "en")
        assert not any("held out" in note for note in task.notes)
        task.check(seed=1)
        found = task.test(task.model(1))
        assert {f"test_bleu_{one}" for one in settings["languages"]} <= found.keys()


def test_the_settings_are_those_of_plain_translation_without_a_pair():
    names = set(ManyToOne.settings_table.settings)
    own = {"languages", "pivot", "temperature", "epoch_rows"}
    assert names == set(Translation.settings_table.settings) - {"pair"} | own == set(OneToMany.settings_table.settings)
