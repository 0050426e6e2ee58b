"""Question answering: the grammar's questions, SQuAD's layout and scores, spans, the second distillation, the exam."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    BertConfig,
    BertForQuestionAnswering,
    BertTokenizer,
    DistilBertForMaskedLM,
    DistilBertForQuestionAnswering,
)

from kdutils.core.errors import Paused, UserError
from kdutils.core.files import read_json
from kdutils.core.settings import Settings
from kdutils.data.tokens import save_tokenizer, train_tokenizer
from kdutils.grammar import corpus as grammar
from kdutils.models import build
from kdutils.papers.distilbert import answering
from kdutils.papers.distilbert.answering import (
    AnswerDistillation,
    Answering,
    answer_exam,
    best_spans,
    exact_and_f1,
    guessing,
    load_questions,
    normalised,
    span_logits,
    squad_scores,
    taught,
)
from kdutils.papers.distilbert.experiment import SETTINGS
from kdutils.papers.distilbert.method import SecondDistillation
from kdutils.papers.distilbert.student import student_config
from kdutils.study import exams
from kdutils.training.loop import Recipe
from kdutils.training.method import Step
from tests.tiny import assert_same_weights, killed, one_sentence

TABLE = SETTINGS.extended(*(one for one in answering.SETTINGS if one.name not in SETTINGS.settings))
TINY = {
    "squad": "demo", "squad_rows": 24, "squad_test_rows": 12, "squad_epochs": 2, "squad_batch": 8,
    "squad_learning_rate": 0.01, "max_words": 6,
    "precision": "fp32", "threads": 1,
}  # fmt: skip
POINTS = (("f1", "f1"), ("em", "exact"))  # what a score is called in a record, and in the metrics of a fine-tuning
NOW = Step(1, 2, 0, True)
TEXT = "The boy lost my ball in the park because he was tired."
ASKED = [("Who lost my ball?", "The boy"), ("Where did the boy lose my ball?", "in the park")]


def chosen(**changes) -> Settings:
    return TABLE.resolve("demo", {**TINY, **changes})


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A folder with a masked language model and its tokenizer, which marks words by the space before them."""
    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = train_tokenizer(grammar.text(200), 300, "text")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build.masked_lm(len(tokenizer), width=16, layers=1, heads=2, feedforward=16, max_length=64)
    net.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def segmented(tmp_path_factory) -> Path:
    """A folder with a DistilBERT whose tokenizer is that of a BERT: lower case, pieces of words, two segments."""
    folder = tmp_path_factory.mktemp("segmented")
    words = sorted({word.strip(".,").lower() for text in grammar.text(100) for word in text.split()})
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "?", "!", *letters, *words]
    (folder / "vocab.txt").write_text("\n".join(entries))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    teacher = build.masked_lm(len(tokenizer), width=16, layers=1, heads=2, feedforward=16, max_length=96)
    DistilBertForMaskedLM(student_config(teacher.config, 1)).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def examined(encoder, tmp_path_factory):
    """(scores, folder) of an exam whose fine-tuned models are kept."""
    place = tmp_path_factory.mktemp("examined")
    return answer_exam(encoder, chosen(), 1, place, keep=True), place


def made(model: Path, **changes) -> Answering:
    settings = chosen(**changes)
    return exams.exam_task(model, settings.squad, answering.exam_settings(settings), Answering)


def squad(*texts: tuple[str, list[tuple[str, list[str]]]]) -> dict:
    """Texts with questions and their answers, in SQuAD's layout."""
    return {
        "version": "1.1",
        "data": [
            {"title": "t", "paragraphs": [{"context": text, "qas": [
                {"id": f"{n}-{i}", "question": question,
                 "answers": [{"text": answer, "answer_start": text.index(answer)} for answer in answers]}
                for i, (question, answers) in enumerate(asked)
            ]}]}
            for n, (text, asked) in enumerate(texts)
        ],
    }  # fmt: skip


def about(names: str, *numbers: int) -> dict:
    """One question a number, about someone of that name."""
    return squad(*((f"{names} {n} likes number {n}.", [("What is liked?", [f"number {n}"])]) for n in numbers))


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "squad").mkdir()
    (tmp_path / "squad/train-v1.1.json").write_text(json.dumps(about("Anna", *range(40))), encoding="utf-8")
    with gzip.open(tmp_path / "squad/dev-v1.1.json.gz", "wt", encoding="utf-8") as stream:
        json.dump(about("Paul", *range(8)), stream)
    return tmp_path / "squad"


# ---------------------------------------------------------------- scores


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Beatles", "beatles"),
        ("an  apple,\ta day!", "apple day"),
        ("U.S.A.", "usa"),
        ("Anna's theatre", "annas theatre"),
        ("$3,500 (about)", "3500 about"),
        ("the", ""),
        ("A-team", "ateam"),
        ("“quoted”", "“quoted”"),  # as in the official script, whose punctuation is ASCII's
    ],
)
def test_answers_are_normalised_as_in_the_official_script(text, words):
    assert " ".join(normalised(text)) == words


@pytest.mark.parametrize(
    ("predicted", "gold", "exact", "f1"),
    [
        ("the big red ball", "a big red ball.", 1, 1),
        ("big ball", "the big red ball", 0, 2 * (2 / 2) * (2 / 3) / (2 / 2 + 2 / 3)),
        ("ball ball", "ball", 0, 2 * 0.5 * 1 / 1.5),  # a word counts as often as both have it
        ("Paul", "Anna", 0, 0),
        ("", "Anna", 0, 0),
        ("the", "a", 1, 0),  # nothing is left of either: the official script finds no word in common
    ],
)
def test_exact_match_and_f1_by_hand(predicted, gold, exact, f1):
    assert exact_and_f1(predicted, gold) == pytest.approx((exact, f1))


def test_of_several_right_answers_the_best_counts_for_each_score():
    found = squad_scores(["big ball", "Anna"], [["a red ball", "big ball of Paul", "big"], ["Paul"]])
    assert found == pytest.approx({"exact": 0.0, "f1": 0.5 * max(2 * 0.5 * 0.5, 2 * 2 / 6, 2 * 0.5 * 1 / 1.5)})
    assert squad_scores(["x y"], [["y", "X, y"]]) == {"exact": 1.0, "f1": 1.0}


def test_a_guess_reads_no_question():
    rows = [{"context": f"a{i} b{i} c{i} d{i}", "question": "?", "answers": [{"text": f"c{i} d{i}"}]} for i in range(9)]
    corpus = answering.Corpus("x", "answering", {"train": rows[:6], "test": rows[6:]})
    assert guessing(corpus) == {"exact": 1.0, "f1": 1.0}  # always the last two words
    whole = [{**row, "answers": [{"text": row["context"]}]} for row in rows]
    assert guessing(answering.Corpus("x", "answering", {"train": rows[:6], "test": whole}))["f1"] == pytest.approx(
        2 / 3
    )


# ---------------------------------------------------------------- the likeliest span


def by_hand(start: np.ndarray, end: np.ndarray, context: np.ndarray, longest: int) -> tuple[int, int]:
    spans = [(i, j) for i in np.flatnonzero(context) for j in range(i, min(len(start), i + longest)) if context[j]]
    return max(spans, key=lambda span: start[span[0]] + end[span[1]])


@pytest.mark.parametrize("longest", [1, 3, 30])
def test_the_likeliest_span_is_that_of_a_search_by_hand(longest, same_draws):
    logits = torch.randn(50, 2, 12)
    context = torch.zeros(50, 12, dtype=torch.bool)
    for row, first in enumerate(torch.randint(1, 8, (50,)).tolist()):
        context[row, first : first + 1 + row % 5] = True
    found = best_spans(logits, context, longest)
    expected = [by_hand(*row, mask, longest) for row, mask in zip(logits.numpy(), context.numpy(), strict=True)]
    assert found.tolist() == [list(map(int, span)) for span in expected]


def test_a_span_never_ends_before_it_starts_nor_leaves_the_text():
    logits = torch.tensor([[[9.0, 0, 0, 5, 1, 0], [9.0, 0, 4, 0, 2, 9]]])
    context = torch.tensor([[False, False, True, True, True, False]])
    assert best_spans(logits, context).tolist() == [[3, 4]]  # not 3 to 2, which has more, nor 0 or 5
    assert best_spans(logits, context, 1).tolist() == [[3, 3]]


# ---------------------------------------------------------------- the demo's questions


def test_the_grammar_asks_who_what_whom_where_when_how_and_why():
    found = {row["question"]: row["answers"][0]["text"] for row in _questions(400)}
    assert {question.split()[0] for question in found} == {"Who", "What", "Whom", "Where", "When", "How", "Why"}
    assert all(re.fullmatch(r"[A-Z][^.?]*\?", question) for question in found)


def test_an_answer_is_the_only_place_of_its_text_that_reads_so():
    rows = _questions(400)
    assert len(rows) > 1000
    for row in rows:
        (answer,) = row["answers"]
        assert row["context"].startswith(answer["text"], answer["start"])
        words = rf"\b{re.escape(answer['text'])}\b"
        assert len(re.findall(words, row["context"], re.IGNORECASE)) == 1
    per_text = itertools.groupby(rows, lambda row: row["context"])
    assert all(len({row["question"] for row in same}) == len(same) for same in (list(group) for _, group in per_text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "The sick teacher goes to the museum because he is very sad.",
            {
                "Who goes to the museum?": "The sick teacher",
                "Where does the sick teacher go?": "to the museum",
                "How is he?": "very sad",
                "Why does the sick teacher go to the museum?": "he is very sad",
            },
        ),
        (
            "My brother read my letter to Lukas yesterday.",
            {
                "Who read my letter to Lukas?": "My brother",
                "What did my brother read?": "my letter",
                "Whom did my brother read my letter to?": "Lukas",
                "When did my brother read my letter to Lukas?": "yesterday",
            },
        ),
        (
            "Three girls say that the orange was sweet.",
            {
                "Who says?": "Three girls",
                "What was sweet?": "the orange",
                "How was the orange?": "sweet",
                "What do three girls say?": "the orange was sweet",
            },
        ),
        (
            "Tonight Jisu cannot look for Anna.",
            {
                "Who cannot look for Anna?": "Jisu",
                "Whom can Jisu not look for?": "Anna",
                "When can Jisu not look for Anna?": "Tonight",
            },
        ),
    ],
)
def test_what_is_asked_about_a_sentence(text, expected):
    rows = next(rows for rows in grammar.question_stream(3) if rows[0]["context"] == text)
    assert {row["question"]: row["answers"][0]["text"] for row in rows} == expected


def _questions(sentences: int, seed: int = 7) -> list[dict]:
    return [row for rows in itertools.islice(grammar.question_stream(seed), sentences) for row in rows]


def test_the_demo_is_the_same_for_a_seed_and_its_splits_share_no_sentence():
    sizes = (("train", 300), ("validation", 60), ("test", 61))
    corpus = load_questions("demo", sizes)
    assert corpus.sizes() == dict(sizes)
    texts = {split: {row["context"] for row in rows} for split, rows in corpus.splits.items()}
    assert not texts["train"] & texts["test"] and not texts["validation"] & (texts["train"] | texts["test"])
    assert len(texts["train"]) < 150  # several questions about a sentence
    load_questions.cache_clear()
    assert load_questions("demo", sizes).fingerprint == corpus.fingerprint
    assert load_questions("demo", sizes, seed=1).fingerprint != corpus.fingerprint
    short = load_questions("demo", sizes, max_words=6).splits["train"]
    assert max(len(row["context"].split()) for row in short) <= 6


# ---------------------------------------------------------------- SQuAD's layout


def test_a_folder_in_squads_layout_is_read(folder):
    corpus = load_questions(str(folder))
    assert corpus.name == "squad" and corpus.sizes() == {"train": 38, "validation": 2, "test": 8}
    assert corpus.splits["test"][3] == {
        "context": "Paul 3 likes number 3.", "question": "What is liked?",
        "answers": [{"text": "number 3", "start": 13}],
    }  # fmt: skip
    assert any("(dev) serves as the test split" in note for note in corpus.notes)
    assert any("2 questions were carved from train" in note for note in corpus.notes)


def test_with_a_test_file_dev_is_the_validation_split_and_rows_are_sampled(folder):
    (folder / "test-v1.1.json").write_text(json.dumps(about("Jisu", *range(5))))
    corpus = load_questions(str(folder))
    assert corpus.sizes() == {"train": 40, "validation": 8, "test": 5} and corpus.notes == ()
    sampled = load_questions(str(folder), (("train", 7),), seed=2)
    assert sampled.sizes()["train"] == 7 and any("a random sample of 7 of 40" in note for note in sampled.notes)
    assert all(row in corpus.splits["train"] for row in sampled.splits["train"])


def test_the_questions_about_one_text_are_carved_together(tmp_path):
    texts = [(f"{n} " + TEXT, [(question, [answer]) for question, answer in ASKED]) for n in range(100)]
    (tmp_path / "train-a.json").write_text(json.dumps(squad(*texts)))
    (tmp_path / "dev-a.json").write_text(json.dumps(about("Paul", 1)))
    corpus = load_questions(str(tmp_path))
    held, kept = ({row["context"] for row in corpus.splits[split]} for split in ("validation", "train"))
    assert corpus.sizes()["validation"] == 10 and len(held) == 5 and not held & kept


def broken(change) -> str:
    content = squad((TEXT, [(question, [answer]) for question, answer in ASKED]))
    change(content["data"][0]["paragraphs"][0])
    return json.dumps(content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda p: p["qas"][1]["answers"][0].update(answer_start=3),
            "question 2: the answer 'in the park' does not stand",
        ),
        (lambda p: p["qas"][1]["answers"][0].update(answer_start=-34), "does not stand at answer_start -34"),
        (lambda p: p["qas"][1]["answers"][0].update(answer_start="21"), "does not stand at answer_start '21'"),
        (lambda p: p["qas"][0]["answers"][0].update(text=""), "question 1 has an empty answer"),
        (lambda p: p["qas"][0]["answers"][0].update(text=7), "question 1 has an empty answer, or one that is no text"),
        (lambda p: p["qas"][0].update(answers=[]), "question 1 has no answer: leave out questions without one"),
        (lambda p: p["qas"][0].update(question="  "), "question 1 has an empty question"),
        (lambda p: p.update(context=""), "question 1 has an empty context"),
        (lambda p: p["qas"][1].pop("question"), "question 2 has no 'question'"),
        (lambda p: p["qas"][1].pop("answers"), "question 2 has no 'answers'"),
        (lambda p: p["qas"][1]["answers"][0].pop("answer_start"), "question 2 has no 'answer_start'"),
        (lambda p: p["qas"][1].update(answers=["in the park"]), "question 2 has answers that are no list of objects"),
        (lambda p: p["qas"][1].update(answers=3), "question 2 has answers that are no list of objects"),
        (lambda p: p.pop("context"), "question 1 has no 'context'"),
        (lambda p: p.pop("qas"), "is not in SQuAD's layout"),
        (lambda p: p.update(qas=[]), "is empty: it needs at least one question"),
        (lambda p: p.update(qas=[3]), "is not in SQuAD's layout"),
    ],
)
def test_a_fault_in_the_file_is_one_sentence_that_says_where(folder, change, words):
    (folder / "train-v1.1.json").write_text(broken(change))
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        load_questions(str(folder))
    assert "train-v1.1.json" in one_sentence(caught.value)


@pytest.mark.parametrize("content", [b"{", b"[]", b"3", b"\xff\xfe", b'{"data": 3}', b'{"version": 1}', b"[" * 100_000])
@pytest.mark.parametrize("name", ["train-v1.1.json", "train-v1.1.json.gz"])
def test_a_file_that_is_no_squad_is_one_sentence(folder, content, name):
    (folder / "train-v1.1.json").unlink()
    (folder / name).write_bytes(content if name.endswith("n") else gzip.compress(content)[:-1])
    with pytest.raises(UserError, match="is not in SQuAD's layout") as caught:
        load_questions(str(folder))
    one_sentence(caught.value)


def test_a_missing_folder_or_file_and_one_too_many_are_refused(folder):
    with pytest.raises(UserError, match="There is no folder nowhere") as caught:
        load_questions("nowhere")
    one_sentence(caught.value)
    (folder / "train-v2.0.json").write_text("{}")
    with pytest.raises(UserError, match="has 2 files called train-") as caught:
        load_questions(str(folder))
    one_sentence(caught.value)
    for path in folder.glob("train-*"):
        path.unlink()
    with pytest.raises(UserError, match="has 0 files called train-") as caught:
        load_questions(str(folder))
    one_sentence(caught.value)
    (folder / "train-one.json").write_text(json.dumps(about("Anna", 1)))
    with pytest.raises(UserError, match="too few texts to carve") as caught:
        load_questions(str(folder))
    one_sentence(caught.value)


def test_squad_as_it_is_on_the_hub(tmp_path, monkeypatch):
    import datasets
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "squad").mkdir()
    for split, n in (("train", 40), ("validation", 5)):
        rows = [
            {"id": f"{i}", "title": "t", "context": f"Anna {i} likes {split} {i}.", "question": "What?",
             "answers": {"text": [f"{split} {i}"], "answer_start": [14 if i > 9 else 13]}}
            for i in range(n)
        ]  # fmt: skip
        rows[3]["answers"]["answer_start"] = [1]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / f"squad/{split}-00000-of-00001.parquet")
    corpus = load_questions(f"hub:{tmp_path}/squad")
    assert corpus.sizes() == {"train": 38, "validation": 1, "test": 4}
    assert corpus.splits["test"][0] == {
        "context": "Anna 0 likes validation 0.", "question": "What?",
        "answers": [{"text": "validation 0", "start": 13}],
    }  # fmt: skip
    assert any("train: 1 questions without an answer in their text were left out" in note for note in corpus.notes)


@pytest.mark.parametrize(
    "answers",
    ["Anna", None, {"text": ["Anna"]}, {"text": ["Anna"], "answer_start": [0, 1]}, {"text": [], "answer_start": []}],
)
def test_a_data_set_of_the_hub_that_is_no_squad_is_refused(answers, tmp_path, monkeypatch):
    monkeypatch.setattr(answering, "hub_address", lambda address: (address, None, None))
    rows = [{"context": "Anna sleeps.", "question": "Who?", "answers": answers}]
    for columns in (rows, [{"context": "Anna sleeps.", "sentence": "Who?"}]):
        monkeypatch.setattr(answering, "load_from_hub", lambda *a, found=columns: {"train": found, "validation": found})
        with pytest.raises(UserError, match="owner/name has no answered questions in two splits") as caught:
            load_questions.__wrapped__("hub:owner/name")
        one_sentence(caught.value)


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize("which", ["encoder", "segmented"])
def test_labels_are_the_tokens_of_the_answer(which, request):
    """What lies between the first and the last of these tokens reads as the answer does."""
    task = made(request.getfixturevalue(which))
    for split, rows in task.corpus.splits.items():
        for row, example in zip(rows, task.examples[split], strict=True):
            start, end = example["label"]
            answer = row["answers"][0]["text"]
            said = task.tokenizer.decode(example["input_ids"][start : end + 1])
            assert said.replace(" ", "").lower() == answer.replace(" ", "").lower()
            spans = example["spans"]
            begin, stop = spans[start - example["first"]][0], spans[end - example["first"]][1]
            assert row["context"][begin:stop].strip() == answer
            special = task.tokenizer.sep_token_id or task.tokenizer.eos_token_id
            assert example["input_ids"][example["first"] - 1] == example["input_ids"][-1] == special
            assert ("token_type_ids" in example) == (which == "segmented")


def test_an_answer_may_begin_inside_a_word(segmented):
    spans = np.array([[0, 3], [4, 7], [7, 9], [10, 14]])
    assert answering._tokens({"text": "ot", "start": 5}, spans) == (1, 1)
    assert answering._tokens({"text": "foot he", "start": 4}, spans) == (1, 3)
    assert answering._tokens({"text": "here ", "start": 10}, spans) == (3, 3)
    assert answering._tokens({"text": "here!", "start": 10}, spans) is None  # its end was cut off


def test_answers_that_are_cut_off_are_left_out_of_training_and_counted(tmp_path, segmented):
    far = [("Anna sleeps. " * 40 + "Paul laughs.", [("Who laughs?", ["Paul"])])]
    near = [("Anna sleeps. " * 40, [(f"Who sleeps {n}?", ["Anna"])]) for n in range(9)]
    (tmp_path / "train-a.json").write_text(json.dumps(squad(*far, *near)))
    (tmp_path / "dev-a.json").write_text(json.dumps(squad(*far, *near[:1])))
    (tmp_path / "test-a.json").write_text(json.dumps(squad(*far, *near[:3])))
    task = made(segmented, squad=str(tmp_path), squad_rows=0, squad_test_rows=0, squad_max_length=40)
    assert {split: len(examples) for split, examples in task.examples.items()} == {
        "train": 9, "validation": 2, "test": 4,
    }  # fmt: skip
    assert task.examples["test"][0]["label"] == (0, 0) and len(task.examples["test"][0]["input_ids"]) == 40
    assert "train: 1 of 10 questions have their answers beyond the first 40 tokens and were left out." in task.notes
    assert any("test: 1 of 4 questions" in note and "to be answered wrongly" in note for note in task.notes)
    scores = task.test(task.model(1))
    assert 0 <= scores["test_exact"] <= 0.75


def test_of_several_answers_one_that_was_not_cut_off_is_the_label(tmp_path, segmented):
    text = "Anna sleeps. " * 12 + "Paul laughs."
    content = squad((text, [("Who?", ["Paul", "Anna"])]), *about("x", 1, 2)["data"] and ())
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}-a.json").write_text(json.dumps(content))
    task = made(segmented, squad=str(tmp_path), squad_rows=0, squad_test_rows=0, squad_max_length=20)
    assert task.notes == () and task.examples["train"][0]["label"] == (task.examples["train"][0]["first"],) * 2


def test_a_corpus_whose_answers_are_all_cut_off_is_refused(tmp_path, segmented):
    far = squad(("Anna sleeps. " * 40 + "Paul laughs.", [("Who laughs?", ["Paul"])]))
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}-a.json").write_text(json.dumps(far))
    with pytest.raises(UserError, match="No answer lies within 40 tokens") as caught:
        made(segmented, squad=str(tmp_path), squad_rows=0, squad_test_rows=0, squad_max_length=40)
    one_sentence(caught.value)


def test_the_texts_longest_token_count_is_that_of_the_model(encoder):
    assert made(encoder, squad_max_length=500).settings.max_length == 64


# ---------------------------------------------------------------- the loss


def tiny_answerer(seed: int = 0) -> BertForQuestionAnswering:
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32, initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BertForQuestionAnswering(config).double().eval()


def batch_of(*lengths: int, width: int = 0) -> dict[str, torch.Tensor]:
    """Rows of random tokens, padded to the longest or to `width`, with random spans in them."""
    size, draw = max(width, *lengths), torch.Generator().manual_seed(3)
    mask = torch.arange(size) < torch.tensor(lengths)[:, None]
    ids = torch.stack([torch.randint(1, 40, (32,), generator=draw)[:size] for _ in lengths])
    ends = torch.tensor([[length // 2, length - 1] for length in lengths])
    return {"input_ids": ids * mask, "attention_mask": mask.long(), "labels": ends, "targets": ends}


def learned(method: AnswerDistillation, student, batch) -> tuple[dict, list[torch.Tensor]]:
    student.zero_grad()
    terms = method.loss(student, batch, method.count(batch), NOW)
    terms["loss"].backward()
    return terms, [parameter.grad.clone() for parameter in student.parameters() if parameter.grad is not None]


def test_without_a_teacher_the_loss_is_that_of_transformers_in_value_and_gradient():
    student, batch = tiny_answerer(), batch_of(9, 9, 9)
    terms, ours = learned(AnswerDistillation(0.0, 1.0), student, batch)
    student.zero_grad()
    start, end = batch["targets"].unbind(1)
    theirs = student(batch["input_ids"], batch["attention_mask"], start_positions=start, end_positions=end).loss
    theirs.backward()
    torch.testing.assert_close(terms["loss"], theirs)
    gradients = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
    for one, other in zip(ours, gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_the_loss_is_that_of_the_official_code_in_value_and_gradient():
    """`run_squad_w_distillation.py`: KLDivLoss(batchmean) T^2 on start and on end logits, and their mean."""
    student, teacher, batch, t = tiny_answerer(), tiny_answerer(1), batch_of(9, 9, 9), 2.0
    method = AnswerDistillation(alpha_ce=0.3, alpha_task=0.7, temperature=t)
    method.teacher = teacher.requires_grad_(False)
    terms, ours = learned(method, student, batch)
    student.zero_grad()
    start, end = batch["targets"].unbind(1)
    found = student(batch["input_ids"], batch["attention_mask"], start_positions=start, end_positions=end)
    right = teacher(batch["input_ids"], batch["attention_mask"])
    divergence = torch.nn.KLDivLoss(reduction="batchmean")
    soft = [
        divergence((ours / t).log_softmax(-1), (theirs / t).softmax(-1)) * t**2
        for ours, theirs in ((found.start_logits, right.start_logits), (found.end_logits, right.end_logits))
    ]
    loss = 0.3 * sum(soft) / 2 + 0.7 * found.loss
    loss.backward()
    torch.testing.assert_close(terms["loss"], loss)
    torch.testing.assert_close(terms["soft"], sum(soft) / 2)
    gradients = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
    for one, other in zip(ours, gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_divergence_is_that_of_numpy():
    student, teacher, batch = tiny_answerer(), tiny_answerer(1), batch_of(5, 9, 7)
    method = AnswerDistillation(1.0, 0.0, temperature=3.0)
    method.teacher = teacher
    terms, _ = learned(method, student, batch)
    total = 0.0
    for row, length in enumerate((5, 9, 7)):
        for side in (0, 1):
            z, w = (span_logits(net, batch)[row, side, :length].detach().numpy() / 3 for net in (student, teacher))
            p, q = (np.exp(x) / np.exp(x).sum() for x in (w, z))
            total += 9 * (p * np.log(p / q)).sum() / 6
    assert float(terms["loss"].detach()) == pytest.approx(total)


@pytest.mark.parametrize("weights", [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)])
def test_padding_changes_neither_value_nor_gradient(weights):
    student, teacher = tiny_answerer(), tiny_answerer(1)
    method = AnswerDistillation(*weights)
    method.teacher = teacher
    terms, gradients = learned(method, student, batch_of(5, 9, 7))
    more = batch_of(5, 9, 7, width=20)
    more["input_ids"][more["attention_mask"] == 0] = 17  # whatever stands there
    padded, padded_gradients = learned(method, student, more)
    torch.testing.assert_close(padded["loss"], terms["loss"])
    for one, other in zip(gradients, padded_gradients, strict=True):
        rows = min(len(one), len(other))
        torch.testing.assert_close(other[:rows], one[:rows])
    assert not student.bert.embeddings.position_embeddings.weight.grad[9:].any()


def test_a_batch_in_pieces_is_the_same_update():
    student, teacher = tiny_answerer(), tiny_answerer(1)
    method, whole = AnswerDistillation(), batch_of(5, 9, 7)
    method.teacher = teacher
    terms, gradients = learned(method, student, whole)
    student.zero_grad()
    for rows in (slice(0, 1), slice(1, 3)):
        piece = {name: tensor[rows] for name, tensor in whole.items()}
        method.loss(student, piece, method.count(whole), NOW)["loss"].backward()
    pieces = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
    for one, other in zip(gradients, pieces, strict=True):
        torch.testing.assert_close(one, other)


def test_a_teacher_that_says_the_same_teaches_nothing_and_another_does():
    student, batch = tiny_answerer(), batch_of(5, 9)
    method = AnswerDistillation(1.0, 0.0)
    method.teacher = tiny_answerer()
    terms, gradients = learned(method, student, batch)
    assert (
        float(terms["loss"].detach()) == pytest.approx(0.0, abs=1e-12) and max(g.abs().max() for g in gradients) < 1e-9
    )
    method.teacher = tiny_answerer(1)
    terms, gradients = learned(method, student, batch)
    assert float(terms["loss"].detach()) > 0.01 and max(g.abs().max() for g in gradients) > 0.01


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.0, 1.0), (0.9, 0.2)])
def test_the_second_distillation_of_a_score_is_by_squared_errors(weights):
    nets = [build.classifier(40, ("score",), width=16, layers=1, heads=2, feedforward=16, dropout=0.0) for _ in "st"]
    student, teacher = (net.double() for net in nets)
    method, right = SecondDistillation(*weights), torch.tensor([2.5, 0.0, 5.0])
    method.teacher = teacher.requires_grad_(False)
    batch = {**batch_of(5, 9, 7), "labels": right, "targets": right}
    terms, ours = learned(method, student, batch)
    student.zero_grad()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    y, theirs = (net(**inputs).logits[:, 0] for net in (student, teacher))
    loss = weights[0] * ((y - theirs.float()) ** 2).mean() + weights[1] * ((y - right) ** 2).mean()
    loss.backward()
    torch.testing.assert_close(terms["loss"], loss)
    gradients = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
    for one, other in zip(ours, gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_extreme_logits_stay_finite_under_autocast(kind):
    student, teacher, batch = tiny_answerer().float(), tiny_answerer(1).float(), batch_of(5, 9, 7)
    for net in (student, teacher):
        net.qa_outputs.weight.data *= 3000
    method = AnswerDistillation()
    method.teacher = teacher
    with torch.autocast("cpu", kind):
        terms, gradients = learned(method, student, batch)
    assert terms["loss"].dtype == torch.float32 and all(torch.isfinite(term) for term in terms.values())
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_distillation_without_a_teacher_is_refused():
    with pytest.raises(UserError, match="needs a teacher") as caught:
        learned(AnswerDistillation(), tiny_answerer(), batch_of(5))
    one_sentence(caught.value)


# ---------------------------------------------------------------- the exam


@pytest.mark.parametrize(
    ("which", "kind"), [("encoder", BertForQuestionAnswering), ("segmented", DistilBertForQuestionAnswering)]
)
def test_a_model_gets_a_new_head_for_start_and_end(which, kind, request):
    task = made(request.getfixturevalue(which))
    one, other = task.model(1), task.model(2)
    assert type(one) is kind and one.qa_outputs.out_features == 2
    assert_same_weights(one.base_model, other.base_model)
    assert not torch.equal(one.qa_outputs.weight, other.qa_outputs.weight)
    rates = {module.p for module in one.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {task.settings.dropout}


def test_points_are_those_of_the_test_questions(examined):
    scores, place = examined
    metrics = read_json(place / "downstream/exam_squad-0/result.json")["metrics"]
    views = {view + f"exam_squad_{end}": of + name for view, of in exams.VIEWS.items() for end, name in POINTS}
    assert scores == pytest.approx({points: 100 * metrics[name] for points, name in views.items()})
    tested = {name: metrics[name] for name in metrics if name.startswith("test_")}
    assert set(tested) == {"test_loss", "test_exact", "test_f1"}
    net = exams.finetuned(place, "squad", 0, kind="answering")
    assert isinstance(net, BertForQuestionAnswering) and not net.training
    folder = place / "downstream/exam_squad-0/model"
    assert made(folder).test(net) == pytest.approx(tested, rel=1e-6)
    assert_same_weights(AutoModelForQuestionAnswering.from_pretrained(folder), net)


def test_a_score_does_not_depend_on_the_company_of_a_question(encoder):
    task = made(encoder)
    net = task.model(1).train()
    scores = task.validate(net)
    alone = Answering(task.settings.changed(batch_size=1), task.corpus).validate(net)
    assert alone == pytest.approx(scores, rel=1e-5) and net.training


def test_scores_by_hand(encoder):
    """Spans of the plain logits of single questions, the text between them, compared in words."""
    task = made(encoder)
    net = task.model(3).eval()
    predicted, losses = [], []
    for row, example in zip(task.corpus.splits["test"], task.examples["test"], strict=True):
        logits = net(torch.tensor([example["input_ids"]]))
        start, end = (logits[name][0].detach().numpy() for name in ("start_logits", "end_logits"))
        context = np.zeros(len(start), bool)
        context[example["first"] : example["first"] + len(example["spans"])] = True
        i, j = (place - example["first"] for place in by_hand(start, end, context, 30))
        predicted.append(row["context"][example["spans"][i][0] : example["spans"][j][1]].strip())
        for z, right in zip((start, end), example["label"], strict=True):
            losses.append(np.log(np.exp(z).sum()) - z[right])
    gold = [[answer["text"] for answer in row["answers"]] for row in task.corpus.splits["test"]]
    expected = {"loss": np.mean(losses), **squad_scores(predicted, gold)}
    assert task.test(net) == pytest.approx({f"test_{name}": score for name, score in expected.items()}, rel=1e-4)


def test_it_is_learned(encoder, tmp_path):
    """A question whose answer is always the last word but one is soon answered."""
    texts = [(f"w{n % 7} x y{n} z.", [("What?", [f"y{n}"])]) for n in range(60)]
    for name, part in (("train", texts[:40]), ("dev", texts[40:50]), ("test", texts[50:])):
        (tmp_path / f"{name}-a.json").write_text(json.dumps(squad(*part)))
    s = chosen(squad=str(tmp_path), squad_rows=0, squad_test_rows=0, squad_epochs=10, squad_learning_rate=0.02)
    scores = answer_exam(encoder, s, 1, tmp_path / "runs")
    assert scores["exam_squad_f1"] > 80


def test_what_is_finished_is_loaded(encoder, examined, monkeypatch):
    scores, place = examined
    monkeypatch.setattr("kdutils.study.kept.fit", lambda *a, **k: pytest.fail("trained again"))
    monkeypatch.setattr(answering, "load_questions", lambda *a, **k: pytest.fail("read again"))
    assert answer_exam(encoder, chosen(), 1, place, keep=True) == scores


def test_the_median_is_over_the_downstream_seeds(monkeypatch, tmp_path):
    views = exams.VIEWS.values()
    found = iter(
        [{of + name: f1 / (1 + (name == "exact")) for of in views for _, name in POINTS} for f1 in (0.5, 0.9, 0.6)]
    )
    monkeypatch.setattr(exams, "finetune", lambda *a, **k: next(found))
    scores = answer_exam("model", chosen(downstream_seeds=3), 1, tmp_path, "second_")
    expected = {"second_squad_f1": 60, "second_squad_em": 30}
    assert scores == pytest.approx({view + name: x for view in exams.VIEWS for name, x in expected.items()})


def sit(encoder: str, place: str) -> None:
    answer_exam(encoder, chosen(), 1, Path(place))


@pytest.mark.parametrize("kill_at", [2, 5])
def test_a_killed_exam_goes_on_to_the_same_points(kill_at, encoder, examined, tmp_path):
    killed(sit, kill_at, encoder=str(encoder), place=str(tmp_path))
    assert answer_exam(encoder, chosen(), 1, tmp_path) == examined[0]


def test_an_exam_that_is_out_of_time_pauses_and_goes_on(encoder, examined, tmp_path):
    with pytest.raises(Paused, match="after update 1 of 6") as caught:
        answer_exam(encoder, chosen(), 1, tmp_path, until=time.monotonic())
    one_sentence(caught.value)
    assert answer_exam(encoder, chosen(), 1, tmp_path) == examined[0]
    again, whole = (
        [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]
        for path in (place / "downstream/exam_squad-0/history.jsonl" for place in (tmp_path, examined[1]))
    )
    assert again == whole


def test_a_teachers_knowledge_reaches_the_student(encoder, examined, tmp_path):
    s = chosen(second_alpha_ce=1.0, second_alpha_task=0.0)
    scores = answer_exam(encoder, s, 2, tmp_path, "second_", taught(s, examined[1]), keep=True)
    assert set(scores) == {view + f"second_squad_{points}" for view in exams.VIEWS for points, _ in POINTS}
    rows = [
        json.loads(line) for line in (tmp_path / "downstream/second_squad-0/history.jsonl").read_text().splitlines()
    ]
    assert all(row["soft"] > 0 for row in rows if row["kind"] == "train")
    method = taught(s, examined[1])("squad", 0)
    assert_same_weights(method.teacher, exams.finetuned(examined[1], "squad", 0, kind="answering"))
    with pytest.raises(UserError, match="no fine-tuned model") as caught:
        taught(s, tmp_path)("squad", 0)
    one_sentence(caught.value)


def test_the_weights_are_chosen_by_f1(encoder, tmp_path, monkeypatch):
    from kdutils.study import kept

    recipes, fit = [], kept.fit
    monkeypatch.setattr(kept, "fit", lambda *a, **k: recipes.append(a[3]) or fit(*a, **k))
    answer_exam(encoder, chosen(), 5, tmp_path)
    (recipe,) = recipes
    assert isinstance(recipe, Recipe) and (recipe.monitor, recipe.larger_is_better) == ("f1", True)
    assert (recipe.updates, recipe.eval_every, recipe.schedule) == (6, 3, "linear")


def test_an_exam_that_cannot_be_held_is_refused(folder):
    answering.check(chosen())
    answering.check(chosen(squad=str(folder)))
    with pytest.raises(UserError, match="There is no folder nowhere") as caught:
        answering.check(chosen(squad="nowhere"))
    one_sentence(caught.value)
    for wrong in ({"squad_epochs": 0}, {"squad_max_length": 4}, {"squad_batch": 0}, {"squad_learning_rate": -1.0}):
        with pytest.raises(UserError, match=next(iter(wrong))) as caught:
            chosen(**wrong)
        one_sentence(caught.value)


def test_a_slow_tokenizer_is_refused(encoder, monkeypatch):
    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.is_fast", False, raising=False)
    with pytest.raises(UserError, match="fast tokenizer") as caught:
        made(encoder)
    one_sentence(caught.value)


# ---------------------------------------------------------------- on a GPU


@pytest.mark.parametrize("capability", [(7, 5), (9, 0)])
def test_it_trains_on_a_gpu(capability, gpu, encoder, tmp_path):
    gpu(*capability)
    s = chosen(precision="auto")
    scores = answer_exam(encoder, s, 1, tmp_path / "teacher", keep=True)
    scores |= answer_exam(encoder, s, 1, tmp_path, "second_", taught(s, tmp_path / "teacher"))
    assert all(0 <= points <= 100 for points in scores.values()) and len(scores) == 4 * len(exams.VIEWS)
    rows = (tmp_path / "downstream/second_squad-0/history.jsonl").read_text()
    assert "NaN" not in rows and '"soft"' in rows
