"""The task of masked language modelling, the pieces it is made of, and the demo exam of acceptability."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn
from transformers import DistilBertForMaskedLM

from kdutils.core.errors import UserError
from kdutils.data.batches import Batches
from kdutils.data.corpora import load_corpus
from kdutils.data.tokens import BOS, EOS, UNK, load_tokenizer, masked_lm_examples, save_tokenizer, train_tokenizer
from kdutils.grammar import corpus as grammar
from kdutils.models import build
from kdutils.models.forward import counted_logits, features_at
from kdutils.papers.distilbert.student import student_config
from kdutils.tasks import masked_lm, scores
from kdutils.tasks.masked_lm import MaskedLM
from kdutils.tasks.scores import latency_ms
from tests.corpus_files import TEXTS, refusal, write
from tests.tiny import assert_same_weights, one_sentence

TINY = {
    "train_rows": 60, "validation_rows": 12, "test_rows": 12, "vocab_size": 300, "width": 16, "layers": 2, "heads": 2,
    "feedforward": 16, "max_tokens": 200, "updates": 4, "precision": "fp32", "threads": 1,
}  # fmt: skip


def make(**changes) -> MaskedLM:
    return MaskedLM(MaskedLM.settings_table.resolve("demo", {**TINY, **changes}))


@pytest.fixture(scope="module", autouse=True)
def few_questions():
    """The grammar takes its time for each: here it is asked only three."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masked_lm, "QUESTIONS", 3)
        yield


@pytest.fixture(scope="module")
def task():
    return make()


def student(teacher, layers: int = 1):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return DistilBertForMaskedLM(student_config(teacher.config, layers))


# ---------------------------------------------------------------- masks


def seen_in(task, net) -> list[tuple[list, list]]:
    """What a model is given in a validation."""
    given = []
    handle = net.register_forward_pre_hook(
        lambda m, a, k: given.append((k["input_ids"].tolist(), k["attention_mask"].tolist())), with_kwargs=True
    )
    task.validate(net)
    handle.remove()
    return given


def test_every_validation_of_every_model_has_the_same_masks(task):
    teacher = task.model(1)
    first = seen_in(task, teacher)
    assert seen_in(task, teacher) == first == seen_in(make(), student(teacher))
    assert sum(row.count(task.tokenizer.mask_token_id) for ids, _ in first for row in ids) > 0
    assert sum(len(ids) for ids, _ in first) == 12


def masks(batches, epoch: int) -> dict[tuple, tuple]:
    """Of every text of an epoch, the places that are asked for."""
    found = {}
    for index in range(len(batches.plan(epoch))):
        batch = batches.batch(epoch, index)
        for row, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            text = torch.where(labels >= 0, labels, row)[row != 0].tolist()
            found[tuple(text)] = tuple((labels >= 0).nonzero()[:, 0].tolist())
    return found


def test_training_masks_differ_from_epoch_to_epoch_and_come_back_when_asked_for(task):
    one, other = masks(task.training_batches(1), 0), masks(task.training_batches(1), 1)
    texts = {tuple(example["input_ids"]) for example in task.examples["train"]}
    assert one.keys() == other.keys() == texts
    assert sum(one[text] != other[text] for text in texts) > 40
    assert masks(task.training_batches(1), 1) == other != masks(task.training_batches(2), 1)
    alone = Batches(task.examples["train"][:1], task.training_collate(), batch_size=1)  # one text, one batch an epoch
    assert len({str(masks(alone, epoch)) for epoch in range(8)}) > 2


def test_the_share_of_the_masks_is_the_setting(task):
    for probability in (0.15, 0.6):
        chosen = make(mask_probability=probability)
        for batches in (chosen.plain_batches(1), chosen.training_batches(1)):
            asked = [masks(batches, epoch) for epoch in range(6)]
            hidden = sum(len(places) for found in asked for places in found.values())
            ordinary = sum(len(text) - 2 for found in asked for text in found)
            assert hidden / ordinary == pytest.approx(probability, abs=0.05)


def test_special_tokens_are_never_asked_for(task):
    for places in masks(task.plain_batches(1), 0).items():
        assert 0 not in places[1] and len(places[0]) - 1 not in places[1]


# ---------------------------------------------------------------- the task


def test_scores_have_the_truth_in_the_test_and_no_doubles_in_the_validation(task):
    net = task.model(1)
    tested, validated = task.test(net), task.validate(net)
    assert tested.keys() == {f"test_{n}" for n in ("loss", "accuracy", "perplexity", "truth_kl", "truth_mass")}
    assert validated.keys() == {"loss", "accuracy", "perplexity"}
    assert tested == task.test(net) == make().test(net)
    looked = {f"test_{name}": score for name, score in task.truth(net, "test").items()}
    assert looked.items() <= tested.items()
    assert task.truth(net, "validation")["truth_kl"] != task.truth(net, "test")["truth_kl"]


def test_the_model_has_the_shape_of_the_settings_and_room_for_every_piece(task):
    config = task.model(1).config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (16, 2, 2)
    assert (config.vocab_size, config.max_position_embeddings) == (len(task.tokenizer), task.settings.max_length)
    longest = max(len(example["input_ids"]) for split in task.examples.values() for example in split)
    assert longest <= task.settings.max_length


def test_the_tokenizer_of_a_folder_is_used(task, tmp_path):
    save_tokenizer(train_tokenizer(TEXTS, 150, "text"), tmp_path / "tokenizer")
    named = make(tokenizer=str(tmp_path / "tokenizer"))
    assert named.tokenizer.get_vocab() == load_tokenizer(tmp_path / "tokenizer").get_vocab()
    assert named.model(0).config.vocab_size == len(named.tokenizer) != len(task.tokenizer)


def test_a_model_of_a_folder_comes_with_its_tokenizer(task, tmp_path):
    task.model(1).save_pretrained(tmp_path)
    save_tokenizer(task.tokenizer, tmp_path)
    named = make(model=str(tmp_path), vocab_size=80, tokenizer="nowhere", dropout=0.3)
    assert named.tokenizer.get_vocab() == task.tokenizer.get_vocab()
    assert_same_weights(named.model(7), task.model(1))
    rates = {module.p for module in named.model(1).modules() if isinstance(module, nn.Dropout)}
    assert rates == {0.3} and named.facts()["teacher"] == str(tmp_path)


def test_facts_say_what_the_data_and_the_teacher_were(task):
    facts = task.facts()
    assert facts["rows"] == {"train": 60, "validation": 12, "test": 12}
    assert facts["vocabulary"] == len(task.tokenizer) and facts["teacher"] == "pre-trained here"


def test_long_texts_are_split_and_the_notes_say_so():
    task = make(max_length=10)
    assert len(task.examples["train"]) > 60
    assert any(note.startswith("train: ") and note.endswith("were split.") for note in task.notes)
    assert all(len(example["input_ids"]) <= 10 for split in task.examples.values() for example in split)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"updates": 0}, "updates is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"mask_probability": 0.0}, "mask_probability is 0"),
        ({"mask_probability": 1.5}, "mask_probability is 1.5"),
        ({"max_tokens": 5}, "raise max_tokens"),
        ({"heads": 3}, "choose a multiple of 3"),
        ({"max_length": 2}, "raise it"),
        ({"language": "xx"}, "xx"),
        ({"data": "nowhere"}, "no folder nowhere"),
        ({"vocab_size": 10}, "larger vocab_size"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_with_one_sentence(change, words):
    with pytest.raises(UserError, match=words) as caught:
        make(**change).check(1)
    one_sentence(caught.value)


def test_the_truth_is_asked_only_of_sentences_that_fit_the_model():
    task = make(max_length=8)
    try:
        task.truth(task.model(1), "validation")
    except UserError as error:
        one_sentence(error)


# ---------------------------------------------------------------- texts of one's own


@pytest.mark.parametrize("name", ["openstax", "english_novels"])
def test_a_folder_of_text(name, real_data):
    task = make(data=str(real_data / name), vocab_size=500, max_length=24)
    assert task.corpus.sizes() == {"train": 60, "validation": 12, "test": 12}
    net = task.model(1)
    assert set(task.test(net)) == {"test_loss", "test_accuracy", "test_perplexity"} and task.truth(net, "test") == {}
    task.check(1)


def test_a_folder_without_the_right_files_is_refused_with_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "labels/train.jsonl", [{"label": 0, "score": 1}])
    write(tmp_path / "untrained/test.txt", ["Anna sleeps.", "Ben reads."])
    for folder in ("empty", "labels", "untrained"):
        with pytest.raises(UserError, match=folder) as caught:
            make(data=str(tmp_path / folder))
        one_sentence(caught.value)


# ---------------------------------------------------------------- split pieces


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 200, "text")


@pytest.mark.parametrize("max_length", [3, 4, 7, 10, 50])
def test_split_pieces_keep_all_tokens_in_order(max_length, tokenizer):
    examples = iter(masked_lm_examples(TEXTS, tokenizer, max_length, "split"))
    for text in TEXTS:
        whole, found = tokenizer(text, add_special_tokens=False)["input_ids"], []
        while len(found) < len(whole):
            ids = next(examples)["input_ids"]
            assert ids[0] == BOS and ids[-1] == EOS and 3 <= len(ids) <= max_length
            assert len(ids) == min(max_length, len(whole) - len(found) + 2)  # no piece is shorter than it must be
            found += ids[1:-1]
        assert found == whole
    assert next(examples, None) is None


def test_what_was_split_is_counted_and_said(tokenizer):
    lengths = [len(ids) for ids in tokenizer(TEXTS)["input_ids"]]
    examples = masked_lm_examples(TEXTS, tokenizer, 10, "split")
    over = sum(length > 10 for length in lengths)
    assert examples.too_long == over > 0
    assert examples.note == f"{over} of {len(TEXTS)} rows were longer than 10 tokens and were split."
    whole = masked_lm_examples(TEXTS, tokenizer, max(lengths), "split")
    assert (len(whole), whole.too_long, whole.note) == (len(TEXTS), 0, "")


def test_short_texts_are_the_same_split_or_not(tokenizer):
    assert masked_lm_examples(TEXTS, tokenizer, 60, "split") == masked_lm_examples(TEXTS, tokenizer, 60)


def test_a_mask_in_a_text_or_an_unknown_letter_at_an_end_is_not_taken_for_a_special_token(tokenizer):
    text = "<unk> The dog sees the old woman , and the small cat <mask> 狗"
    whole = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert whole[-1] == tokenizer.unk_token_id and not ({*tokenizer.all_special_ids} - {UNK}) & {*whole}
    pieces = [example["input_ids"] for example in masked_lm_examples([text], tokenizer, 6, "split")]
    assert max(map(len, pieces)) == 6 and [token for ids in pieces for token in ids[1:-1]] == whole
    assert all((ids[0], ids[-1]) == (BOS, EOS) for ids in pieces)


def test_pieces_of_nothing_and_unknown_ways_are_refused(tokenizer):
    for texts, length, way, words in [([], 9, "split", "empty"), (TEXTS, 2, "split", "raise it"), (TEXTS, 9, "x", "x")]:
        with pytest.raises(UserError, match=words) as caught:
            masked_lm_examples(texts, tokenizer, length, way)
        one_sentence(caught.value)


@pytest.mark.parametrize("text", ["<s> " + TEXTS[0] * 3, TEXTS[0] * 3 + " </s>"], ids=["first", "last"])
def test_a_special_token_at_an_end_of_the_text_makes_no_piece_too_long(text, tokenizer):
    assert all(len(example["input_ids"]) <= 10 for example in masked_lm_examples([text], tokenizer, 10, "split"))


# ---------------------------------------------------------------- acceptability


def is_sentence(text: str, language: str) -> bool:
    words = text.split()
    try:
        return words[1] in grammar.masked_distribution(words, 1, language)
    except UserError:
        return False


def swapped(text: str) -> set[str]:
    """Every text with two neighbouring words exchanged, neither of them the first or the last."""
    words = text.split()
    places = range(1, len(words) - 2)
    return {" ".join([*words[:i], words[i + 1], words[i], *words[i + 2 :]]) for i in places}


@pytest.mark.parametrize("language", ["en", "de", "fr", "es"])
def test_a_label_says_whether_it_is_a_sentence_of_the_language(language):
    rows = [row for row in grammar.acceptability(80, 3, language) if len(row["text"].split()) <= 7]
    for label in (0, 1):
        texts = [row["text"] for row in rows if row["label"] == label][:3]
        assert len(texts) == 3 and all(is_sentence(text, language) == bool(label) for text in texts)
        if not label:  # two words changed places in what was a sentence
            assert all(any(is_sentence(text, language) for text in swapped(broken)) for broken in texts)


def test_two_german_names_do_not_change_places():
    """Exchanged, they would make a sentence again, in which the other one gives and receives."""
    broken = [row["text"] for row in grammar.acceptability(30, 0, "de") if not row["label"]]
    assert not [text for text in broken if is_sentence(text, "de")]


def test_korean_is_refused_because_its_phrases_may_change_places():
    with pytest.raises(UserError, match="order of Korean phrases is free") as caught:
        grammar.acceptability(3, 0, "ko")
    one_sentence(caught.value)


@pytest.mark.parametrize("n", [1, 2, 7, 2500])
def test_sentences_and_others_are_as_many_and_none_comes_in_both_forms(n):
    rows = grammar.acceptability(n, 1)
    counts = Counter(row["label"] for row in rows)
    assert len(rows) == n and abs(counts[0] - counts[1]) <= 1
    texts = {label: {row["text"] for row in rows if row["label"] == label} for label in (0, 1)}
    assert len(texts[0] | texts[1]) == n
    assert not texts[1] & set().union(*map(swapped, texts[0] or {""}))
    assert all(len(row["text"].split()) >= 4 for row in rows)


def test_the_labels_come_in_no_fixed_order():
    firsts = [row["label"] for row in grammar.acceptability(100, 1)[::2]]
    assert 10 < sum(firsts) < 40


def test_the_same_seed_gives_the_same_rows():
    assert grammar.acceptability(30, 5, "fr") == grammar.acceptability(30, 5, "fr")
    assert grammar.acceptability(30, 5) != grammar.acceptability(30, 6)
    for wrong in ({"n": 0}, {"n": 3, "language": "xx"}):
        with pytest.raises(UserError) as caught:
            grammar.acceptability(**wrong)
        one_sentence(caught.value)


def test_it_is_a_corpus_of_short_sentences():
    options = {"rows": {"train": 60, "validation": 20, "test": 30}, "max_words": 6, "language": "de"}
    corpus = load_corpus("demo:acceptability", "classification", **options)
    assert corpus.sizes() == options["rows"] and corpus.labels == ("unacceptable", "acceptable")
    rows = [row for split in corpus.splits.values() for row in split]
    drawn = grammar.acceptability(500, 0, "de")
    assert rows[:5] == [row for row in drawn if len(row["text"].split()) <= 6][:5]
    assert len({row["text"] for row in rows}) == 110
    assert all(4 <= len(row["text"].split()) <= 6 for row in rows) and 35 < sum(row["label"] for row in rows) < 75
    assert load_corpus("demo:acceptability", "classification", **options).fingerprint == corpus.fingerprint
    assert load_corpus("demo:acceptability", "classification", seed=1, **options).fingerprint != corpus.fingerprint
    free = load_corpus("demo:acceptability", "classification", rows={"train": 60, "validation": 2, "test": 2})
    assert max(len(row["text"].split()) for row in free.splits["train"]) > 6
    assert "classification" in refusal("demo:acceptability", "text")


# ---------------------------------------------------------------- features and latency


@pytest.fixture(params=["bert", "distilbert"])
def encoder(request, task):
    teacher = task.model(1)
    return (teacher if request.param == "bert" else student(teacher)).eval()


@pytest.fixture
def batch(task):
    made = task.training_batches(1).batch(0, 1)
    assert made["attention_mask"].min() == 0 and len(made["targets"]) > 1
    return made


def test_features_are_what_the_projection_is_given_and_hidden_states_the_last(encoder, batch):
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    tokens = batch["attention_mask"].flatten().nonzero()[:, 0]
    features, hidden = features_at(encoder, batch, batch["positions"], tokens)
    torch.testing.assert_close(encoder.get_output_embeddings()(features), counted_logits(encoder, batch))
    last = encoder.base_model(**inputs).last_hidden_state
    torch.testing.assert_close(hidden, last.reshape(-1, 16)[tokens])
    again, at_the_same = features_at(encoder, batch, batch["positions"])
    torch.testing.assert_close(at_the_same, last.reshape(-1, 16)[batch["positions"]])
    assert torch.equal(again, features)


def test_the_projection_itself_is_left_out_and_the_model_is_as_before(encoder, batch):
    before, shapes = encoder(batch["input_ids"]).logits, []
    handle = encoder.get_output_embeddings().register_forward_hook(lambda m, i, out: shapes.append(out.shape))
    features_at(encoder, batch, batch["positions"])
    handle.remove()
    assert shapes == [(0, encoder.config.vocab_size)]
    with pytest.raises(IndexError):
        features_at(encoder, batch, torch.tensor([10**6]))
    assert torch.equal(encoder(batch["input_ids"]).logits, before)


def test_features_and_hidden_states_have_gradients(encoder, batch):
    weights = list(encoder.base_model.embeddings.LayerNorm.parameters())
    for states in features_at(encoder, batch, batch["positions"]):
        gradients = torch.autograd.grad(states.pow(3).sum(), weights, retain_graph=True)
        assert all(gradient.any() for gradient in gradients)


def test_latency_is_the_median_of_the_passes_after_the_first_three(encoder, monkeypatch):
    durations = [9.0, 9.0, 9.0, 0.002, 0.5, 0.001, 0.003, 0.004]
    clock = iter([time for i, d in enumerate(durations) for time in (100.0 * i, 100.0 * i + d)])
    monkeypatch.setattr(scores.time, "perf_counter", lambda: next(clock))
    seen = []
    encoder.base_model.register_forward_pre_hook(
        lambda m, a, k: seen.append((tuple(k["input_ids"].shape), m.training, torch.is_grad_enabled())),
        with_kwargs=True,
    )
    encoder.train()
    assert latency_ms(encoder, tokens=20, repeats=5) == pytest.approx(3.0)
    assert seen == [((1, 20), False, False)] * 8 and next(clock, None) is None
    assert all(module.training for module in encoder.modules()) and encoder.device.type == "cpu"


def test_the_latency_of_a_model_for_short_texts_can_be_measured():
    assert latency_ms(build.masked_lm(40, width=16, layers=1, heads=2, feedforward=16, max_length=16), repeats=1) > 0
