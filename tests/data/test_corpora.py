"""Corpora: every source yields the same kind of rows, in splits that do not leak, and says what it did."""

import gzip
import importlib.util
import itertools
import json
import re
import shutil
import sys
import time
from collections import Counter

import pytest

from kdutils.core.errors import UserError
from kdutils.data.corpora import CARVED_MOST, Corpus, draw_distinct, list_corpora, load_corpus, overlaps
from tests.corpus_files import labelled, pairs, refusal, write

needs_grammar = pytest.mark.skipif(
    importlib.util.find_spec("kdutils.grammar.corpus") is None, reason="The embedded grammar is not there."
)


# --- folders ----------------------------------------------------------------------------------------------


def test_translation_folder(translation_folder):
    corpus = load_corpus(translation_folder, "translation", pair="de-en")
    assert (corpus.name, corpus.task, corpus.languages) == ("tiny", "translation", ("de", "en"))
    assert corpus.sizes() == {"train": 40, "validation": 5, "test": 6}
    assert corpus.splits["test"][0] == {"src": "Satz 200.", "tgt": "Sentence 200."}
    assert corpus.notes == ()


def test_files_of_the_opposite_direction_are_swapped_with_a_note(translation_folder):
    corpus = load_corpus(str(translation_folder), "translation", pair="en-de")
    assert corpus.splits["train"][0] == {"src": "Sentence 0.", "tgt": "Satz 0."}
    assert corpus.languages == ("en", "de")
    assert len(corpus.notes) == 1 and "swapped" in corpus.notes[0]


def test_columns_named_after_languages_need_no_swap(tmp_path):
    for split in ("train", "validation", "test"):
        write(tmp_path / f"x/de-en.{split}.jsonl", [{"de": "Hallo", "en": "Hello"}])
    rows = load_corpus(tmp_path / "x", "translation", pair="en-de").splits["train"]
    assert rows == [{"src": "Hello", "tgt": "Hallo"}]


def test_columns_can_be_mapped(tmp_path):
    for split in ("train", "validation", "test"):
        write(tmp_path / f"x/{split}.jsonl", [{"q": "a", "intent": "y"}, {"q": "b", "intent": "x"}])
    corpus = load_corpus(tmp_path / "x", "classification", columns={"text": "q", "label": "intent"})
    assert corpus.splits["train"] == [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
    assert any("intent as label" in note for note in corpus.notes)
    sentence = refusal(tmp_path / "x")
    assert "q, intent" in sentence and "rename its columns" in sentence and "'label'" in sentence
    assert "columns=" not in sentence  # no setting is called so
    assert "intent" in refusal(tmp_path / "x", columns={"text": "q", "label": "intnet"})
    assert "text_b" in refusal(tmp_path / "x", columns={"txt": "q"})


def test_the_order_of_a_texts_words_can_be_asked_for(tmp_path):
    texts = [f"one two three four five six of {n}" for n in range(200)] + ["a b c", "no no no no"]
    for split in ("train", "validation", "test"):
        write(tmp_path / f"x/{split}.jsonl", [{"text": text, "label": "any"} for text in texts])
    corpus = load_corpus(f"order:{tmp_path / 'x'}", "classification", rows={"test": 20})
    assert (corpus.name, corpus.task, corpus.labels) == ("x_order", "classification", ("as written", "swapped"))
    assert "swapped" in corpus.notes[-1] and corpus.sizes()["test"] <= 20
    places = Counter()
    for row in corpus.splits["train"]:
        words = row["text"].split()
        before = next(text.split() for text in texts if sorted(text.split()) == sorted(words))
        apart = [at for at in range(len(words)) if words[at] != before[at]]
        assert len(apart) == 2 * row["label"]
        if apart:  # two neighbours, each in the place of the other
            assert apart[1] == apart[0] + 1 and words[apart[0]] == before[apart[1]]
            places[apart[0]] += 1
    labels = Counter(row["label"] for row in corpus.splits["train"])
    assert labels[0] + labels[1] in (200, 201) and labels[0] > 70 and labels[1] > 70 and len(places) == 7
    assert not any(row["text"] in ("a b c", "b a c", "a c b") for row in corpus.splits["train"])
    again = load_corpus(f"order:{tmp_path / 'x'}", "classification", rows={"test": 20})
    assert corpus.fingerprint == again.fingerprint  # a hash decides, no generator
    with pytest.raises(UserError, match="take it for classification, not for text"):
        load_corpus(f"order:{tmp_path / 'x'}", "text")
    demo = load_corpus("order:demo", "classification", rows={"train": 30, "validation": 10, "test": 10})
    assert demo.labels[1] == "swapped"


def test_a_long_text_shows_the_swap_near_its_beginning(tmp_path):
    texts = [" ".join(f"{n}-{place}" for place in range(90)) for n in range(80)]
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.txt").write_text("\n".join(texts))
    rows = load_corpus(f"order:{tmp_path}", "classification").splits["train"]
    moved = [next(at for at, word in enumerate(row["text"].split()) if not word.endswith(f"-{at}")) for row in rows
             if row["label"]]  # fmt: skip
    assert len(moved) > 20 and max(moved) < 29


def test_texts_that_are_too_short_to_be_out_of_order_are_refused(tmp_path):
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.txt").write_text("good day\nno\nyes it is\n")
    with pytest.raises(UserError, match="No text of the train split of .* has four words"):
        load_corpus(f"order:{tmp_path}", "classification")


def test_labels_as_text_are_numbered_in_order(tmp_path):
    for split in ("train", "validation", "test"):
        write(tmp_path / f"x/{split}.jsonl.gz", labelled(9, ("sad", "glad", "mad")))
    corpus = load_corpus(tmp_path / "x", "classification")
    assert corpus.labels == ("glad", "mad", "sad")
    assert [row["label"] for row in corpus.splits["train"][:3]] == [2, 0, 1]


def test_integer_labels_take_their_names_from_the_manifest(classification_folder):
    assert load_corpus(classification_folder, "classification").labels == ("0", "1")
    manifest = {"sets": {"mood": {"labels": {"0": "sad", "1": "glad"}, "languages": ["ko"]}}}
    write(classification_folder.parent / "MANIFEST.json", [manifest])
    corpus = load_corpus(classification_folder, "classification")
    assert corpus.labels == ("sad", "glad") and corpus.languages == ("ko",)
    (classification_folder.parent / "MANIFEST.json").write_text("[1, 2")
    assert load_corpus(classification_folder, "classification").labels == ("0", "1")


def test_labels_with_gaps_are_numbered_with_a_note(tmp_path):
    for split in ("train", "validation", "test"):
        write(tmp_path / f"x/{split}.jsonl", labelled(6, (-1, 4)))
    corpus = load_corpus(tmp_path / "x", "classification")
    assert corpus.labels == ("-1", "4") and {row["label"] for row in corpus.splits["test"]} == {0, 1}
    assert any("numbered from 0" in note for note in corpus.notes)


def test_true_and_false_are_labels(tmp_path):
    for split in ("train", "validation", "test"):
        write(tmp_path / f"x/{split}.jsonl", labelled(4, (True, False)))
    assert load_corpus(tmp_path / "x", "classification").labels == ("false", "true")


@pytest.mark.parametrize("labels", [("a", 1), (1,), (1.5, 2.5), (None, 1), ([1], [2])])
def test_labels_that_cannot_be_used(tmp_path, labels):
    for split in ("train", "validation", "test"):
        write(tmp_path / f"x/{split}.jsonl", labelled(4, labels))
    assert "label" in refusal(tmp_path / "x")


def test_a_label_that_train_lacks(classification_folder):
    write(classification_folder / "test.jsonl", labelled(4, (0, 2)))
    assert "label 2" in refusal(classification_folder) and "test" in refusal(classification_folder)
    manifest = {"sets": {"mood": {"labels": {"0": "sad", "5": "glad"}}}}
    write(classification_folder.parent / "MANIFEST.json", [manifest])
    assert "0, 5" in refusal(classification_folder)


def test_text_pairs_become_text_and_text_b(tmp_path):
    for start, split in enumerate(("train", "validation", "test")):
        rows = [{"text_a": f"a{i}", "text_b": f"b{i}", "label": i % 2} for i in range(4 * start, 4 * start + 4)]
        write(tmp_path / f"x/{split}.jsonl.gz", rows)
    corpus = load_corpus(tmp_path / "x", "classification")
    assert corpus.splits["train"][1] == {"text": "a1", "text_b": "b1", "label": 1} and corpus.notes == ()


@pytest.mark.parametrize("ending", ["txt", "txt.gz"])
def test_plain_text(tmp_path, ending):
    for split in ("train", "validation", "test"):
        write(tmp_path / f"x/{split}.{ending}", ["\ufeffFirst.", "", "두 번째.", "a\u2028b\r"])
    corpus = load_corpus(tmp_path / "x", "text")
    assert [row["text"] for row in corpus.splits["train"]] == ["First.", "두 번째.", "a\u2028b"]
    assert any("1 rows with empty text" in note for note in corpus.notes)
    assert "JSON lines" in refusal(tmp_path / "x", "classification")


def test_other_names_of_the_validation_split(classification_folder):
    (classification_folder / "validation.jsonl").rename(classification_folder / "dev.jsonl")
    corpus = load_corpus(classification_folder, "classification")
    assert corpus.sizes() == {"train": 40, "validation": 5, "test": 6} and corpus.notes == ()


# --- splits that are missing ------------------------------------------------------------------------------


def test_without_a_test_split_the_validation_split_is_the_test(classification_folder):
    (classification_folder / "test.jsonl").unlink()
    corpus = load_corpus(classification_folder, "classification")
    assert corpus.sizes() == {"train": 38, "validation": 2, "test": 5}
    assert corpus.splits["test"][0]["text"] == "text 100"
    assert len(corpus.notes) == 2


def test_carving_is_disjoint_complete_and_the_same_for_every_seed_and_order(tmp_path):
    rows = labelled(30_000)
    write(tmp_path / "a/train.jsonl", rows)
    write(tmp_path / "b/train.jsonl", rows[::-1])
    one = load_corpus(tmp_path / "a", "classification", seed=1)
    two = load_corpus(tmp_path / "b", "classification", seed=2)
    assert one.sizes() == {"train": 28_000, "validation": CARVED_MOST, "test": CARVED_MOST}
    texts = {split: {row["text"] for row in part} for split, part in one.splits.items()}
    assert all(not texts[a] & texts[b] for a, b in itertools.combinations(texts, 2))
    assert texts == {split: {row["text"] for row in part} for split, part in two.splits.items()}


def test_equal_texts_stay_on_one_side(tmp_path):
    rows = [{"text": f"text {i % 50}", "label": i % 2} for i in range(200)]
    write(tmp_path / "x/train.jsonl", rows)
    write(tmp_path / "x/test.jsonl", rows[:4])
    splits = load_corpus(tmp_path / "x", "classification").splits
    assert not {row["text"] for row in splits["train"]} & {row["text"] for row in splits["validation"]}
    assert 0 < len(splits["validation"]) <= 10


@pytest.mark.parametrize("rare", [1, 2])
def test_the_last_row_of_a_class_is_never_carved_off(tmp_path, rare):
    for number in range(20):  # whatever its text is
        rows = [*labelled(121, (0, 1)), *({"text": f"rare {number} {i}", "label": 2} for i in range(rare))]
        write(tmp_path / f"{number}/train.jsonl", rows)
        splits = load_corpus(tmp_path / str(number), "classification").splits
        assert {row["label"] for row in splits["train"]} == {0, 1, 2}
        assert len(splits["test"]) == 6 and len(splits["validation"]) == 5


def test_a_sample_of_train_keeps_every_class(tmp_path):
    rows = [*labelled(300, (0, 1)), {"text": "rare", "label": 2}, {"text": "rarer", "label": 3}]
    for split in ("train", "validation", "test"):
        write(tmp_path / f"x/{split}.jsonl", rows)
    corpora = [load_corpus(tmp_path / "x", "classification", rows={"train": 6}, seed=seed) for seed in range(9)]
    for corpus in corpora:
        assert len(corpus.splits["train"]) == 6 and {row["label"] for row in corpus.splits["train"]} == {0, 1, 2, 3}
    assert any("6 of 302 rows (seed 0), 2 of them for classes that it had missed." in note for note in corpora[0].notes)
    assert len({corpus.fingerprint for corpus in corpora}) == 9
    assert "3 training rows are too few for 4 classes" in refusal(tmp_path / "x", rows={"train": 3})


# --- rows that are in two splits --------------------------------------------------------------------------


def test_rows_that_also_stand_in_train_are_counted(tmp_path):
    for split, numbers in {
        "train": range(40),
        "validation": range(38, 48),
        "test": [3, 3, 5, *range(100, 107)],
    }.items():
        write(tmp_path / f"en-de.{split}.jsonl", [{"src": f"Sentence {n}.", "tgt": f"{split} {n}"} for n in numbers])
        write(tmp_path / f"{split}.jsonl", [{"text": f"Text {n}.", "label": n % 2} for n in numbers])
        write(
            tmp_path / f"pairs/{split}.jsonl", [{"text": f"{n}", "text_b": "b" * (n % 3), "label": 0} for n in numbers]
        )
    expected = ("3 of 10 test rows also stand in train.", "2 of 10 validation rows also stand in train.")
    for task in ("translation", "classification", "text"):
        notes = load_corpus(tmp_path, task).notes
        assert notes[-2:] == expected, task
    assert not any("also stand" in note for note in load_corpus(tmp_path, "text", rows={"train": 1}).notes)


def test_a_pair_of_texts_is_the_same_only_if_both_are():
    rows = [{"text": "a", "text_b": "b", "label": 0}, {"text": "a", "text_b": "c", "label": 0}]
    assert overlaps({"train": rows[:1], "validation": [], "test": rows}) == ("1 of 2 test rows also stand in train.",)


def test_composed_and_decomposed_letters_are_the_same_text(tmp_path):
    composed, decomposed = "die H\u00e4user", "die Ha\u0308user"
    rows = [{"text": f"{text} {i}", "label": i % 2} for i in range(60) for text in (composed, decomposed)]
    write(tmp_path / "x/train.jsonl", rows)
    splits = load_corpus(tmp_path / "x", "classification").splits
    numbers = {split: Counter(row["text"].split()[-1] for row in part) for split, part in splits.items()}
    assert all(set(counts.values()) == {2} for counts in numbers.values())  # both forms on one side
    write(tmp_path / "x/test.jsonl", [{"text": f"{decomposed} 7", "label": 0}])
    write(tmp_path / "x/train.jsonl", rows[::2])
    assert "1 of 1 test rows also stand in train." in load_corpus(tmp_path / "x", "classification").notes


def test_too_few_rows_to_carve(tmp_path):
    write(tmp_path / "x/train.txt", ["same"] * 50)
    assert "too few" in refusal(tmp_path / "x", "text")


def test_a_test_split_must_be_named_when_there_are_several(translation_folder):
    for year in (2016, 2017):
        shutil.copy(translation_folder / "de-en.test.jsonl.gz", translation_folder / f"de-en.test_{year}.jsonl.gz")
    assert load_corpus(translation_folder, "translation", test_split="test_2017").sizes()["test"] == 6
    (translation_folder / "de-en.test.jsonl.gz").unlink()
    sentence = refusal(translation_folder, "translation")
    assert "test_2016, test_2017" in sentence and "test_split='test_2016'" in sentence
    assert "test_2016" in refusal(translation_folder, "translation", test_split="test_2015")
    assert "train" in refusal(translation_folder, "translation", test_split="train")


def test_the_validation_split_can_be_the_test_split(classification_folder):
    corpus = load_corpus(classification_folder, "classification", test_split="validation")
    assert corpus.sizes() == {"train": 38, "validation": 2, "test": 5}


@pytest.mark.parametrize(
    "hidden", [labelled(8, (-1,)), labelled(8, (None,)), labelled(8, (" ",)), [{"text": f"text {i}"} for i in range(8)]]
)
def test_a_hidden_test_split_is_not_used(classification_folder, hidden):
    write(classification_folder / "test.jsonl", hidden)
    corpus = load_corpus(classification_folder, "classification")
    assert corpus.sizes() == {"train": 38, "validation": 2, "test": 5}
    assert any("The labels of 'test' are hidden" in note for note in corpus.notes)
    write(classification_folder / "validation.jsonl", hidden)
    corpus = load_corpus(classification_folder, "classification")
    assert corpus.sizes() == {"train": 37, "validation": 1, "test": 2} and corpus.labels == ("0", "1")


def test_minus_one_is_no_label_where_a_split_has_no_other(classification_folder):
    write(classification_folder / "train.jsonl", labelled(60, (-1, 1, 2, 0)))
    write(classification_folder / "test.jsonl", labelled(9, (-1,), start=200))
    corpus = load_corpus(classification_folder, "classification")
    assert corpus.labels == ("0", "1", "2") and corpus.sizes() == {"train": 43, "validation": 2, "test": 5}
    assert "train: 15 rows without a label were left out." in corpus.notes
    write(classification_folder / "train.jsonl", labelled(40, (-1, 1)))
    write(classification_folder / "validation.jsonl", labelled(5, (-1, 1), start=100))
    assert load_corpus(classification_folder, "classification").labels == ("-1", "1")  # here it is one of two classes


def test_a_label_that_some_rows_lack_is_named(classification_folder):
    write(classification_folder / "test.jsonl", [*labelled(3), {"text": "late", "label": None}])
    assert "test.jsonl, line 4 has no label" in refusal(classification_folder)
    write(classification_folder / "test.jsonl", [{"text": "early"}, *labelled(3)])
    assert "line 2 has a label, which the first row lacks" in refusal(classification_folder)


def test_integers_that_became_floats_are_integers(tmp_path):
    write(tmp_path / "x/train.jsonl", labelled(40, (1.0, 0.0)))
    write(tmp_path / "x/test.jsonl", labelled(4, (0, 1), start=100))
    corpus = load_corpus(tmp_path / "x", "classification")
    assert corpus.labels == ("0", "1") and [row["label"] for row in corpus.splits["test"]] == [0, 1, 0, 1]
    assert all(type(row["label"]) is int for row in corpus.splits["train"])


def test_pairs_of_texts_are_in_all_rows_and_splits_or_in_none(tmp_path):
    pair = [{"text": f"a{i}", "text_b": f"b{i}", "label": i % 2} for i in range(40)]
    alone = [{"text": row["text"], "label": row["label"]} for row in pair]
    for train, test, words in (
        ([*alone[:1], *pair[1:]], pair, "train.jsonl, line 2 is a pair with 'text_b', which the first row lacks"),
        ([*pair[:1], *alone[1:]], pair, "line 2 has no column 'text_b'"),
        ([{**pair[0], "text_b": None}, *pair[1:]], pair, "line 1 is empty in column 'text_b'"),
        (pair, alone, "test.jsonl and the train split differ"),
        (alone, pair, "test.jsonl and the train split differ"),
    ):
        write(tmp_path / "x/train.jsonl", train)
        write(tmp_path / "x/test.jsonl", test)
        assert words in refusal(tmp_path / "x")
    write(tmp_path / "x/train.jsonl", pair)
    assert load_corpus(tmp_path / "x", "classification", columns={"text": "text"}).splits["test"][1] == alone[1] | {
        "label": 1
    }


def test_train_is_required(classification_folder):
    (classification_folder / "train.jsonl").unlink()
    sentence = refusal(classification_folder)
    assert "no train split" in sentence and "test, validation" in sentence


# --- rows, requests ---------------------------------------------------------------------------------------


def test_rows_are_a_random_sample_in_file_order(translation_folder):
    def numbers(seed):
        corpus = load_corpus(translation_folder, "translation", pair="de-en", rows={"train": 10, "test": 99}, seed=seed)
        assert corpus.sizes() == {"train": 10, "validation": 5, "test": 6}
        assert len(corpus.notes) == 1 and "10 of 40" in corpus.notes[0]
        return [int(re.search(r"\d+", row["src"])[0]) for row in corpus.splits["train"]]

    assert numbers(0) == numbers(0) != numbers(1)
    assert numbers(0) == sorted(numbers(0)) != list(range(10))


@pytest.mark.parametrize("rows", [{"trian": 3}, {"train": 0}, {"train": -1}, {"train": 2.5}, {"train": "9"}])
def test_rows_that_make_no_sense(translation_folder, rows):
    sentence = refusal(translation_folder, "translation", rows=rows)
    assert "train" in sentence


@pytest.mark.parametrize("pair", ["ende", "en-en", "en_de", "", "en-de-fr"])
def test_pairs_that_make_no_sense(translation_folder, pair):
    assert "pair" in refusal(translation_folder, "translation", pair=pair)


def test_unknown_task_and_pair(translation_folder):
    assert "translation" in refusal(translation_folder, "translating")
    sentence = refusal(translation_folder, "translation", pair="en-fr")
    assert "en-fr" in sentence and "de-en" in sentence
    assert "translation" in refusal(translation_folder, "classification")


def test_folders_that_are_not_there(translation_folder, tmp_path):
    assert "tiny" in refusal(tmp_path / "tinny")
    assert "demo" in refusal("demmo")
    assert "no folder" in refusal("/nowhere/at/all")
    assert "is a file" in refusal(translation_folder / "de-en.train.jsonl.gz", "translation")
    assert "tiny" in refusal(tmp_path)
    (tmp_path / "empty").mkdir()
    assert ".jsonl.gz" in refusal(tmp_path / "empty")
    write(tmp_path / "mono/train.txt", ["a"])
    assert "en-de.train" in refusal(tmp_path / "mono", "translation")


def test_two_files_of_one_split(classification_folder):
    write(classification_folder / "train.jsonl.gz", labelled(3))
    assert "train.jsonl" in refusal(classification_folder) and "both" in refusal(classification_folder)


# --- fingerprints -----------------------------------------------------------------------------------------


def test_fingerprint_follows_the_rows_and_nothing_else(translation_folder, tmp_path):
    corpus = load_corpus(translation_folder, "translation", pair="de-en")
    shutil.copytree(translation_folder, tmp_path / "copy")
    for path in (tmp_path / "copy").iterdir():  # the same rows: other folder, no compression, keys turned round
        rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        path.unlink()
        write(path.with_suffix(""), [dict(reversed(row.items())) for row in rows])
    copy = load_corpus(tmp_path / "copy", "translation", pair="de-en")
    assert re.fullmatch("[0-9a-f]{64}", corpus.fingerprint) and copy.fingerprint == corpus.fingerprint
    turned = Corpus("x", "translation", dict(reversed(corpus.splits.items())), languages=("de", "en"))
    assert turned.fingerprint == corpus.fingerprint
    assert load_corpus(translation_folder, "translation", pair="en-de").fingerprint != corpus.fingerprint

    write(tmp_path / "copy/de-en.test.jsonl", [*pairs(5, 200), {"src": "Satz 205.", "tgt": "Sentence 205!"}])
    assert load_corpus(tmp_path / "copy", "translation", pair="de-en").fingerprint != corpus.fingerprint


def test_fingerprint_knows_a_moved_boundary_between_splits():
    rows = pairs(4)
    one = Corpus("x", "translation", {"train": rows[:2], "validation": rows[2:3], "test": rows[3:]})
    two = Corpus("x", "translation", {"train": rows[:1], "validation": rows[1:3], "test": rows[3:]})
    assert one.fingerprint != two.fingerprint


# --- the embedded grammar ---------------------------------------------------------------------------------


def texts_of(rows: list[dict], key: str) -> set[str]:
    return {row[key] for row in rows}


class FakeGrammar:
    """Every sentence has a second translation, and every third is a repetition, until it runs dry."""

    LANGUAGES = {"en": "English", "de": "German"}
    stock = 10_000

    @classmethod
    def translation_stream(cls, seed=0, languages=("en", "de")):
        return ({"en": f"s{i // 2}", "de": "wieder" if i % 3 == 0 else f"t{i}"} for i in range(cls.stock))


def test_sentences_of_the_demo_that_share_a_side_are_drawn_again(monkeypatch):
    import kdutils.grammar.corpus

    monkeypatch.setattr(kdutils.grammar, "corpus", FakeGrammar)
    monkeypatch.setitem(sys.modules, "kdutils.grammar.corpus", FakeGrammar)
    corpus = load_corpus("demo", "translation", pair="de-en", rows={"train": 50, "validation": 7, "test": 9})
    assert corpus.sizes() == {"train": 50, "validation": 7, "test": 9}
    rows = sum(corpus.splits.values(), [])
    assert len(texts_of(rows, "src")) == len(texts_of(rows, "tgt")) == 66
    assert {row["src"][0] for row in rows} <= {"t", "w"}
    monkeypatch.setattr(FakeGrammar, "stock", 60)
    assert "fewer rows" in refusal("demo", "translation", rows={"train": 50})


def test_the_rows_of_the_demo_are_drawn_once_and_given_up_in_time():
    drawn = []

    def rows(every: int):
        for number in itertools.count():
            drawn.append(number)
            yield {"text": f"{number} is short" if number % every == 0 else f"{number} is much too long"}

    assert [row["text"] for row in draw_distinct(rows(24), 50, 3)] == [f"{24 * i} is short" for i in range(50)]
    assert drawn == [*range(49 * 24 + 1)]
    drawn.clear()
    with pytest.raises(UserError, match="fewer rows"):
        draw_distinct(rows(200), 5000, 3)
    assert len(drawn) == 5000


# The corpora of the recorded runs: settings, and the first letters of the fingerprint that the records carry.
RECORDED = [
    ("text", {"rows": {"train": 8000, "validation": 200, "test": 200}, "max_words": 6}, "93344f6c5b05"),
    ("translation", {"rows": {"train": 500, "validation": 200, "test": 200}, "max_words": 7}, "496458ab88a3"),
    ("translation", {"rows": {"train": 2000, "validation": 200, "test": 200}, "max_words": 5}, "93a62d765668"),
    ("classification", {"rows": {"train": 1500, "validation": 300, "test": 300}}, "cdffffd241da"),
]


@needs_grammar
@pytest.mark.parametrize(("task", "options", "fingerprint"), RECORDED)
def test_the_recorded_corpora_of_the_grammar_are_drawn_today(task, options, fingerprint):
    assert load_corpus("demo", task, **options).fingerprint.startswith(fingerprint)


@needs_grammar
def test_demo_translation_for_every_ordered_pair():
    from kdutils.grammar import corpus as grammar

    for source, target in itertools.permutations(grammar.LANGUAGES, 2):
        corpus = load_corpus("demo", "translation", pair=f"{source}-{target}", rows={"train": 30})
        assert corpus.sizes() == {"train": 30, "validation": 200, "test": 200}
        assert corpus.languages == (source, target)
        for one, other in itertools.combinations(corpus.splits.values(), 2):
            assert not texts_of(one, "src") & texts_of(other, "src")
            assert not texts_of(one, "tgt") & texts_of(other, "tgt")


@needs_grammar
def test_demo_defaults_and_determinism():
    corpus = load_corpus("demo", "translation")
    assert corpus.sizes() == {"train": 800, "validation": 200, "test": 200}
    assert corpus.fingerprint == load_corpus("demo", "translation").fingerprint
    assert corpus.fingerprint != load_corpus("demo", "translation", seed=1).fingerprint


@needs_grammar
@pytest.mark.parametrize("language", ["en", "ko"])
def test_demo_classification(language):
    corpus = load_corpus("demo", "classification", language=language)
    assert corpus.sizes() == {"train": 1000, "validation": 300, "test": 300}
    assert corpus.labels == ("negative", "positive") and corpus.languages == (language,)
    for one, other in itertools.combinations(corpus.splits.values(), 2):
        assert not texts_of(one, "text") & texts_of(other, "text")
    for rows in corpus.splits.values():
        assert 0.35 < sum(row["label"] for row in rows) / len(rows) < 0.65


@needs_grammar
def test_demo_text():
    corpus = load_corpus("demo", "text", language="de")
    assert corpus.sizes() == {"train": 2000, "validation": 200, "test": 200}
    assert all(set(row) == {"text"} for row in corpus.splits["train"])
    assert not texts_of(corpus.splits["train"], "text") & texts_of(corpus.splits["test"], "text")


@needs_grammar
def test_demo_refusals():
    assert "xx" in refusal("demo", "translation", pair="en-xx")
    assert "xx" in refusal("demo", "classification", language="xx")
    assert "test_2016" in refusal("demo", "translation", test_split="test_2016")


# --- real data --------------------------------------------------------------------------------------------

FEW = {"train": 300, "validation": 50, "test": 50}


@pytest.mark.parametrize(
    ("name", "pair", "options"),
    [
        ("multi30k", "en-de", {"test_split": "test_2016_flickr"}),
        ("multi30k", "de-en", {"test_split": "test_2017_mscoco"}),
        ("tatoeba_multi", "ko-en", {}),
        ("tatoeba_multi", "en-zh", {}),
        ("wmt_news", "de-en", {}),
        ("ted_iwslt_deen", "en-de", {}),
        ("lafand", "pcm-en", {}),
    ],
)
def test_real_translation(real_data, name, pair, options):
    corpus = load_corpus(real_data / name, "translation", pair=pair, rows=FEW, **options)
    assert corpus.sizes() == FEW and corpus.languages == tuple(pair.split("-"))
    swapped = not (real_data / name / f"{pair}.train.jsonl.gz").exists()
    assert any("swapped" in note for note in corpus.notes) == swapped


@pytest.mark.parametrize(
    ("name", "classes", "names", "carved"),
    [
        ("sst2", 2, "positive", False),
        ("sst5", 5, "very negative", False),
        ("mrpc", 2, "equivalent", False),
        ("cola", 2, "acceptable", True),
        ("rte", 2, "entailment", True),
        ("sick", 3, "contradiction", False),
        ("trec", 6, "HUM", True),
        ("subj", 2, "subjective", False),
        ("ag_news", 4, "Sci/Tech", True),
        ("clinc150", 150, "translate", False),
        ("nsmc_raw", 2, "positive (rating 9-10)", False),
        ("imdb", 2, "negative", True),
    ],
)
def test_real_classification(real_data, name, classes, names, carved):
    corpus = load_corpus(real_data / name, "classification", rows=FEW)
    assert corpus.sizes() == FEW
    assert len(corpus.labels) == classes and names in corpus.labels
    assert any("carved" in note for note in corpus.notes) == carved
    assert ("text_b" in corpus.splits["train"][0]) == (name in ("mrpc", "rte", "sick"))
    assert {row["label"] for row in corpus.splits["train"]} <= set(range(classes))


@pytest.mark.parametrize("name", ["openstax", "imdb_unsup"])
def test_real_text(real_data, name):
    assert load_corpus(real_data / name, "text", rows=FEW).sizes() == FEW


@pytest.mark.slow
def test_real_novels(real_data):
    assert load_corpus(real_data / "english_novels", "text", rows=FEW).sizes() == FEW


def test_real_large_corpus_loads_and_is_fingerprinted_quickly(real_data):
    corpus = load_corpus(real_data / "tatoeba_multi", "translation", pair="de-en")
    assert corpus.sizes() == {"train": 163_022, "validation": 1_000, "test": 2_000}
    assert "213 of 2,000 test rows also stand in train." in corpus.notes
    started = time.monotonic()
    assert len(corpus.fingerprint) == 64
    assert time.monotonic() - started < 5


def test_real_sets_that_cannot_be_trained_on(real_data):
    assert "only test" in refusal(real_data / "ntrex", "translation", pair="ko-en")
    assert "no train" in refusal(real_data / "koen_news", "translation", pair="ko-en", test_split="jhe_test")
    assert "test, validation" in refusal(real_data / "wikitext2", "text")
    assert "test_2016_flickr" in refusal(real_data / "multi30k", "translation")
    assert "score" in refusal(real_data / "stsb")


def test_real_folder_is_listed(real_data):
    found = {entry["name"]: entry for entry in list_corpora(real_data)}
    assert found["multi30k"]["task"] == "translation" and "en-fr" in found["multi30k"]["pairs"]
    assert found["sst2"]["task"] == "classification" and found["sst2"]["splits"] == [
        "test",
        "train",
        "validation",
    ]
    assert found["openstax"]["task"] == "text" and found["stsb"]["task"] == "regression"
