"""Scores by hand and against plain loops, translating, and leaving no trace on modes and random numbers."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    M2M100Config,
    M2M100ForConditionalGeneration,
)

from kdutils.core.errors import UserError
from kdutils.data.batches import (
    Batches,
    classification_examples,
    collate_classification,
    collate_masked_lm,
    collate_translation,
    masked_lm_examples,
    train_tokenizer,
    translation_examples,
)
from kdutils.tasks.scores import (
    bleu_signature,
    bleu_tokenizer,
    classification_scores,
    compared_scores,
    dropout_scores,
    label_scores,
    paired_bootstrap,
    positive_class,
    token_scores,
    translate,
    translation_scores,
)

WORDS = ["the", "a", "dog", "cat", "sees", "old", "small", "woman", "and", "house", "runs", "green", "very"]
WORDS += ["big", "tree", "in", "red"]
SENTENCES = [" ".join(WORDS[i % 17 - j] for j in range(2 + i % 7)) for i in range(24)]
ROWS = [{"src": text, "tgt": " ".join(reversed(text.split()))} for text in SENTENCES]
LABELLED = [{"text": text, "label": i % 3} for i, text in enumerate(SENTENCES)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(SENTENCES, 60, "translation")


@pytest.fixture
def quiet(capfd):
    """Fails a test in which anything is printed, warned or logged."""
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    loggers = [logging.getLogger(name) for name in ("transformers", "sacrebleu")]  # these do not propagate
    for logger in loggers:
        logger.addHandler(handler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    for logger in loggers:
        logger.removeHandler(handler)
    assert [record.getMessage() for record in records] == []
    assert capfd.readouterr() == ("", "")


def translator(vocab_size, dropout=0.3):
    torch.manual_seed(0)
    config = M2M100Config(
        vocab_size=vocab_size, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, dropout=dropout,
        attention_dropout=0.0, max_position_embeddings=40, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, init_std=0.5,
    )  # fmt: skip
    return M2M100ForConditionalGeneration(config)


def bert(kind, vocab_size, **changes):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.0, max_position_embeddings=40,
        initializer_range=0.5, **changes,
    )  # fmt: skip
    return kind(config)


@pytest.fixture(scope="module")
def settings(tokenizer):
    """A model and its batches for each of the three tasks."""
    size = len(tokenizer)
    masked = collate_masked_lm(tokenizer, 0.3)
    shared = {"batch_size": 7, "shuffle": False}
    return {
        "translation": (
            translator(size),
            Batches(translation_examples(ROWS, tokenizer, 40), collate_translation(), **shared),
        ),
        "masked_lm": (
            bert(BertForMaskedLM, size),
            Batches(masked_lm_examples(SENTENCES, tokenizer, 40), masked, **shared),
        ),
        "classification": (
            bert(BertForSequenceClassification, size, num_labels=3),
            Batches(classification_examples(LABELLED, tokenizer, 40), collate_classification(), **shared),
        ),
    }


# --- classification ----------------------------------------------------------------------------------


def test_two_classes_by_hand():
    scores = classification_scores([1, 1, 1, 0, 0, 0, 1, 0], [1, 1, 0, 0, 0, 1, 1, 0])
    # 3 true positives, 1 false positive, 1 false negative, 3 true negatives
    assert scores["accuracy"] == 6 / 8
    assert scores["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert scores["matthews"] == pytest.approx((3 * 3 - 1 * 1) / np.sqrt(4 * 4 * 4 * 4))


def test_three_classes_average_f1_over_classes():
    scores = classification_scores([0, 0, 1, 2, 2, 1], [0, 1, 1, 2, 0, 1])
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert scores["f1"] == pytest.approx((2 / 4 + 4 / 5 + 2 / 3) / 3)


def test_three_classes_of_which_two_occur():
    assert classification_scores([0, 0, 1], [0, 1, 1])["f1"] == pytest.approx(2 / 3)
    assert classification_scores([0, 1, 1, 1], [0, 0, 0, 1], classes=3)["f1"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert classification_scores([0, 0, 1, 1], [0, 0, 0, 1], classes=2)["f1"] == pytest.approx(2 / 3)
    assert classification_scores([0, 0, 1, 1], [0, 0, 0, 1], classes=3)["f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("predicted", "gold", "accuracy", "f1"),
    [
        ([1, 1], [1, 1], 1.0, 1.0),
        ([0, 0], [0, 0], 1.0, 0.0),
        ([0, 1], [1, 1], 0.5, 2 / 3),
        ([2], [2], 1.0, 1.0),
    ],
)
def test_one_class_in_the_gold_labels(predicted, gold, accuracy, f1, quiet):
    scores = classification_scores(predicted, gold)
    assert scores == {"accuracy": accuracy, "f1": pytest.approx(f1), "matthews": 0.0}


def test_scores_of_nothing_or_of_unequal_numbers_are_refused():
    for score in (classification_scores, translation_scores):
        with pytest.raises(UserError, match="There are no"):
            score([], [])
    with pytest.raises(UserError, match="2 predictions for 1 gold"):
        classification_scores([1, 0], [1])
    with pytest.raises(UserError, match="1 hypotheses for 2 references"):
        translation_scores(["a"], ["a", "b"])


@pytest.mark.parametrize(
    ("labels", "positive"),
    [
        (("0", "1"), 1), (("1", "2"), 1), (("-1", "4"), 1), (("1", "0"), 0), (("false", "true"), 1), (("no", "yes"), 1),
        (("negative", "positive"), 1), (("negative (rating 1-4)", "positive (rating 9-10)"), 1), (("neg", "pos"), 1),
        (("entailment", "not_entailment"), 0), (("entailment (it answers)", "not_entailment"), 0),
        (("not equivalent", "equivalent"), 1), (("duplicate", "not_duplicate"), 0), (("correct", "incorrect"), 0),
        (("unacceptable", "acceptable"), 1), (("toxic", "non-toxic"), 0), (("No hate", "hate"), 1),
        (("objective", "subjective"), None), (("glad", "sad"), None), (("ham", "spam"), None), (("부정", "긍정"), 1),
        (("a", "b", "c"), None),
    ],
)  # fmt: skip
def test_the_positive_class_is_judged_by_the_names(labels, positive):
    assert positive_class(labels) == positive


def test_without_a_positive_class_f1_is_the_mean_of_both():
    gold, predicted = [0] * 8 + [1] * 2, [0] * 9 + [1]
    f1 = [classification_scores(predicted, gold, 2, positive)["f1"] for positive in (0, 1, None)]
    assert f1 == pytest.approx([16 / 17, 2 / 3, (16 / 17 + 2 / 3) / 2])
    assert classification_scores([0] * 4, [0] * 4, 2, 0)["f1"] == 1.0


# --- BLEU --------------------------------------------------------------------------------------------


def test_bleu_and_chrf_by_hand():
    perfect = translation_scores(["the old dog sees a cat"] * 2, ["the old dog sees a cat"] * 2)
    assert perfect == {"bleu": pytest.approx(100.0), "chrf": pytest.approx(100.0)}
    # Of 6 words 5 are right, of 5 pairs 4, of 4 triples 3, of 3 fours 2; no brevity penalty.
    one_wrong = translation_scores(["the old dog sees a tree"], ["the old dog sees a cat"])
    assert one_wrong["bleu"] == pytest.approx(100 * (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)
    assert 50 < one_wrong["chrf"] < 100
    assert translation_scores(["", ""], ["a cat", "a dog"])["bleu"] == 0.0


def spoiled(every: int) -> list[str]:
    """The sentences, with the second word of each `every`-th of them replaced."""
    return [
        " ".join(["sky" if j == 1 and i % every == 0 else word for j, word in enumerate(text.split())])
        for i, text in enumerate(SENTENCES)
    ]


def test_a_system_against_itself_differs_in_nothing(quiet):
    """By sacreBLEU's count it would be significant: no sample differs by more than the zero of the whole."""
    assert paired_bootstrap(SENTENCES, SENTENCES, SENTENCES) == {"difference": 0.0, "p": 1.0}
    assert paired_bootstrap(spoiled(2), [f" {text} " for text in spoiled(2)], SENTENCES)["p"] == 1.0


def test_a_clearly_better_system_is_significant_whichever_comes_first(quiet):
    better, worse = spoiled(12), spoiled(1)
    found = paired_bootstrap(better, worse, SENTENCES, samples=300)
    assert found["p"] == pytest.approx(1 / 301)  # no sample in 300 goes as far, and sacreBLEU adds one to both
    bleu = [translation_scores(texts, SENTENCES)["bleu"] for texts in (better, worse)]
    assert found["difference"] == pytest.approx(bleu[0] - bleu[1]) and found["difference"] > 20
    other = paired_bootstrap(worse, better, SENTENCES, samples=300)
    assert other == {"difference": pytest.approx(-found["difference"]), "p": found["p"]}


def test_a_difference_that_hangs_on_a_sentence_or_two_is_not_significant():
    one, other = list(SENTENCES), list(SENTENCES)
    one[3], other[10] = "sky sky sky sky", "sky sky sky sky"
    assert paired_bootstrap(one, other, SENTENCES)["p"] > 0.1


def test_the_same_seed_draws_the_same_samples(monkeypatch):
    ours, theirs = spoiled(3), spoiled(4)
    found = paired_bootstrap(ours, theirs, SENTENCES)
    np.random.seed(5)
    assert paired_bootstrap(ours, theirs, SENTENCES) == found
    monkeypatch.setenv("SACREBLEU_SEED", "12345")
    assert paired_bootstrap(ours, theirs, SENTENCES) == found
    monkeypatch.setenv("SACREBLEU_SEED", "7")
    again = paired_bootstrap(ours, theirs, SENTENCES)
    assert again["difference"] == found["difference"] and again["p"] != found["p"]


def test_the_bootstrap_counts_words_as_the_scores_do():
    """Chinese by characters, and accents composed."""
    references, theirs = ["小猫坐在垫子上面睡觉"] * 4, ["小猫坐在桌子上面睡觉"] * 4
    bleu = translation_scores(theirs, references, "zh")["bleu"]
    assert paired_bootstrap(references, theirs, references, "zh", 20)["difference"] == pytest.approx(100 - bleu)
    words, letters = ["un e\u0301te\u0301 tre\u0300s doux"] * 2, ["un été très doux"] * 2
    assert paired_bootstrap(words, letters, letters, "fr", 20)["difference"] == 0.0


def test_the_bootstrap_is_silent_and_leaves_the_logger_as_it_was(caplog, quiet):
    caplog.set_level(logging.INFO, "sacrebleu")
    paired_bootstrap(spoiled(3), spoiled(4), SENTENCES, samples=20)
    assert logging.getLogger("sacrebleu").level == logging.INFO


def test_a_bootstrap_of_unequal_numbers_or_nothing_is_refused():
    with pytest.raises(UserError, match="2 hypotheses for 3 references"):
        paired_bootstrap(["a", "b"], ["a", "b", "c"], ["a", "b", "c"])
    with pytest.raises(UserError, match="2 hypotheses for 3 references"):
        paired_bootstrap(["a", "b", "c"], ["a", "b"], ["a", "b", "c"])
    with pytest.raises(UserError, match="There are no hypotheses"):
        paired_bootstrap([], [], [])
    with pytest.raises(UserError, match="samples is 0"):
        paired_bootstrap(["a"], ["a"], ["a"], samples=0)


def test_the_signature_names_what_was_counted():
    signature = bleu_signature()
    assert all(part in signature for part in ("nrefs:1", "case:mixed", "tok:13a", "version:"))


def test_decomposed_references_are_those_that_a_tokenizer_writes(tokenizer):
    composed, decomposed = (
        ["die H\u00e4user der gro\u00dfen M\u00fche"] * 2,
        ["die Ha\u0308user der gro\u00dfen Mu\u0308he"] * 2,
    )
    assert composed != decomposed
    for hypotheses, references in ((composed, decomposed), (decomposed, composed)):
        assert translation_scores(hypotheses, references) == pytest.approx({"bleu": 100.0, "chrf": 100.0})
    ours = train_tokenizer(decomposed * 3, 60, "translation")
    written = [ours.decode(ours(text)["input_ids"], skip_special_tokens=True) for text in decomposed]
    assert translation_scores(written, decomposed)["bleu"] == pytest.approx(100.0)


def test_words_are_counted_as_the_target_language_writes_them():
    reference, hypothesis = ["我昨天在北京看见了一只很小的猫。"], ["我昨天在北京看见了一只很大的猫。"]
    assert translation_scores(hypothesis, reference)["bleu"] == 0.0
    for language in ("zh", "zh_CN", "cmn"):
        # Of 16 characters 15 are right, of 15 pairs 13, of 14 triples 11, of 13 fours 9.
        bleu = 100 * (15 / 16 * 13 / 15 * 11 / 14 * 9 / 13) ** 0.25
        assert translation_scores(hypothesis, reference, language)["bleu"] == pytest.approx(bleu)
        assert "tok:zh" in bleu_signature(language)
    assert translation_scores(["แมวตัวเล็กมาก"], ["แมวตัวใหญ่มาก"], "th")["bleu"] > 40 and "tok:char" in bleu_signature(
        "th"
    )
    assert bleu_signature("ko") == bleu_signature("de") == bleu_signature()  # words between spaces


@pytest.mark.parametrize("installed", [True, False])
def test_japanese_is_cut_by_what_is_installed(monkeypatch, installed):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: installed or None)
    assert bleu_tokenizer("ja") == bleu_tokenizer("jpn") == ("ja-mecab" if installed else "char")


def test_scoring_tokenised_sentences_prints_nothing(quiet):
    translation_scores(["the dog sees ."] * 300, ["the dog sees ."] * 300)


# --- translating -------------------------------------------------------------------------------------


def greedy_oracle(model, tokenizer, sentence, cap):
    """The best next token, one at a time, without a cache and without padding."""
    source = torch.tensor([[*tokenizer(sentence, add_special_tokens=False)["input_ids"], 2]])
    output = [1]
    while len(output) <= min(cap, 2 * source.shape[1] + 10):
        with torch.no_grad():
            logits = model(input_ids=source, decoder_input_ids=torch.tensor([output])).logits
        output.append(int(logits[0, -1].argmax()))
        if output[-1] == 2:
            break
    return tokenizer.decode(output, skip_special_tokens=True)


def test_greedy_translations_are_those_of_a_plain_loop_in_the_order_of_the_input(tokenizer):
    model = translator(len(tokenizer)).eval()
    wanted = [greedy_oracle(model, tokenizer, sentence, 29) for sentence in SENTENCES]
    assert len(set(wanted)) > 5
    for max_tokens in (1, 20, 60, 4096):
        assert translate(model, tokenizer, SENTENCES, max_length=30, max_tokens=max_tokens) == wanted


@pytest.mark.parametrize("max_tokens", [1, 24, 50, 4096])
def test_sentences_are_translated_by_tokens_and_not_by_rows(tokenizer, monkeypatch, max_tokens):
    model, shapes = translator(len(tokenizer)).eval(), []
    plain = model.generate

    def generate(**inputs):
        shapes.append(tuple(inputs["input_ids"].shape))
        return plain(**inputs)

    monkeypatch.setattr(model, "generate", generate)
    translate(model, tokenizer, SENTENCES, max_tokens=max_tokens)
    assert sum(rows for rows, _ in shapes) == len(SENTENCES)
    assert all(rows == 1 or rows * width <= max_tokens for rows, width in shapes)
    assert all((rows + 1) * width > max_tokens for rows, width in shapes[:-1])  # as many as there is room for
    assert [width for _, width in shapes] == sorted((width for _, width in shapes), reverse=True)
    shapes.clear()
    translate(model, tokenizer, SENTENCES * 3, beams=2, max_tokens=max_tokens)
    assert [rows for rows, _ in shapes] == [64, 8]


@pytest.mark.parametrize("beams", [1, 3])
def test_translating_is_quiet_deterministic_and_leaves_no_trace(tokenizer, quiet, beams):
    model = translator(len(tokenizer)).train()
    model.model.encoder.eval()  # modules in different modes
    modes = [module.training for module in model.modules()]
    before = torch.get_rng_state()
    first = translate(model, tokenizer, SENTENCES, beams=beams, max_length=20)
    assert torch.equal(before, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert first == translate(model, tokenizer, SENTENCES, beams=beams, max_length=20)
    assert all(p.grad is None for p in model.parameters())


def test_beams_change_what_is_found(tokenizer):
    model = translator(len(tokenizer))
    assert translate(model, tokenizer, SENTENCES, beams=4) != translate(model, tokenizer, SENTENCES)


def test_lengths_are_capped_by_source_setting_and_positions(tokenizer):
    model = translator(len(tokenizer))
    with torch.no_grad():
        model.lm_head.weight[2] = 0.0  # never the best choice: translations go on until they are stopped

    def length(sentence, **settings):
        return len(tokenizer.tokenize(translate(model, tokenizer, [sentence], **settings)[0]))

    assert length("a", max_length=12) <= 11
    source = len(tokenizer.tokenize("a")) + 1
    assert length("a", max_length=40) <= 2 * source + 10
    assert length(" ".join(WORDS * 9), max_length=400) <= 40  # longer than the model's positions
    # A short sentence is not carried on by a long one in its batch.
    alone = translate(model, tokenizer, ["a"], max_length=40)
    assert translate(model, tokenizer, ["a", " ".join(WORDS)], max_length=40)[:1] == alone


def test_edge_cases_of_translating(tokenizer):
    model = translator(len(tokenizer))
    assert translate(model, tokenizer, []) == []
    assert len(translate(model, tokenizer, ["", "狗"])) == 2
    for bad in ({"beams": 0}, {"max_tokens": 0}, {"max_length": 1}):
        with pytest.raises(UserError, match=next(iter(bad))):
            translate(model, tokenizer, ["a"], **bad)


# --- scores on batches -------------------------------------------------------------------------------


def oracle_scores(model, batches):
    """Padded logits, a loop over every cell, float64."""
    losses, hits = [], []
    model.eval()
    for batch in batches:
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "targets", "positions")}
        with torch.no_grad():
            logits = model(**inputs).logits.double().numpy()
        labels = batch["labels"].numpy()
        for cell in np.ndindex(labels.shape):
            if labels[cell] != -100:
                z = logits[cell]
                losses.append(np.log(np.exp(z - z.max()).sum()) + z.max() - z[labels[cell]])
                hits.append(z.argmax() == labels[cell])
    return np.mean(losses), np.mean(hits)


@pytest.mark.parametrize("task", ["translation", "masked_lm"])
def test_token_scores_agree_with_a_plain_loop(settings, task):
    model, batches = settings[task]
    loss, accuracy = oracle_scores(model, batches)
    scores = token_scores(model, batches)
    assert scores["loss"] == pytest.approx(loss, rel=1e-5)
    assert scores["accuracy"] == pytest.approx(accuracy)
    assert scores["perplexity"] == pytest.approx(np.exp(loss), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_teacher_and_student_are_compared_position_by_position(dtype):
    draw = torch.Generator().manual_seed(0)
    teacher, student = (2 * torch.randn(9, 6, generator=draw, dtype=torch.float64) for _ in range(2))
    teacher, student, targets = teacher.to(dtype), student.to(dtype), torch.randint(6, (9,), generator=draw)
    expected = np.zeros(5)
    for t, s, y in zip(teacher.double().numpy(), student.double().numpy(), targets.tolist(), strict=True):
        q, p = (np.exp(z) / np.exp(z).sum() for z in (t, s))
        expected += [
            -np.log(q[y]), np.argmax(q) == y, -np.log(p[y]), np.argmax(p) == y, (q * np.log(q / p)).sum(),
        ]  # fmt: skip
    found = compared_scores(teacher.requires_grad_(), student, targets)
    assert found.dtype == torch.float64 and found.shape == (5,) and not found.requires_grad
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert 0 < found[1] < 9 and found[1] != found[3]
    turned = compared_scores(student, teacher, targets)
    assert turned[:4].tolist() == found[[2, 3, 0, 1]].tolist() and turned[4] != found[4]


def test_of_no_position_there_is_nothing_to_compare_and_of_one_network_no_difference():
    nothing = torch.zeros(0, 6)
    assert compared_scores(nothing, nothing, nothing[:, 0].long()).tolist() == [0.0] * 5
    same = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    found = compared_scores(same, same, torch.arange(4))
    assert found[4] == 0.0 and torch.equal(found[:2], found[2:4])


def test_label_scores_agree_with_a_plain_loop(settings):
    model, batches = settings["classification"]
    loss, accuracy = oracle_scores(model, batches)
    scores = label_scores(model, batches)
    assert scores["loss"] == pytest.approx(loss, rel=1e-5)
    assert scores["accuracy"] == pytest.approx(accuracy)
    assert set(scores) == {"loss", "accuracy", "f1", "matthews"}


def test_scores_do_not_depend_on_how_examples_are_batched(settings, tokenizer):
    model = settings["translation"][0]
    examples = translation_examples(ROWS, tokenizer, 40)
    by_size = [token_scores(model, Batches(examples, collate_translation(), batch_size=n)) for n in (1, 5, 24)]
    for name in ("loss", "accuracy", "perplexity"):
        assert by_size[1][name] == pytest.approx(by_size[0][name], rel=1e-5)
        assert by_size[2][name] == pytest.approx(by_size[0][name], rel=1e-5)
    classifier = settings["classification"][0]
    rows = classification_examples(LABELLED, tokenizer, 40)
    alone, together = (label_scores(classifier, Batches(rows, collate_classification(), batch_size=n)) for n in (1, 24))
    assert together == pytest.approx(alone, rel=1e-5)


def test_a_batch_without_targets_is_passed_over(settings, tokenizer):
    model, batches = settings["masked_lm"]
    empty = collate_masked_lm(tokenizer)([{"input_ids": [1, 2]}])
    assert token_scores(model, [empty, *batches]) == token_scores(model, batches)
    for score in (token_scores, dropout_scores):
        with pytest.raises(UserError, match="counts"):
            score(model, [empty])
    with pytest.raises(UserError):
        label_scores(settings["classification"][0], [])


def score_functions():
    return [
        ("translation", token_scores),
        ("masked_lm", token_scores),
        ("classification", label_scores),
        ("translation", dropout_scores),
        ("classification", dropout_scores),
    ]


@pytest.mark.parametrize(("task", "score"), score_functions())
def test_scoring_is_repeatable_and_leaves_no_trace(settings, task, score):
    model, batches = settings[task]
    model.train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = score(model, batches)
    assert torch.equal(before, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert all(p.grad is None for p in model.parameters())
    torch.manual_seed(6)  # whatever the caller's random numbers
    assert score(model, batches) == first


def test_a_failure_restores_the_mode_too(settings):
    model, batches = settings["translation"]
    model.train()
    before = torch.get_rng_state()

    def broken():
        yield batches.batch(0, 0)
        raise RuntimeError("the disk is gone")

    for score in (token_scores, dropout_scores):
        with pytest.raises(RuntimeError):
            score(model, broken())
    assert all(module.training for module in model.modules())
    assert torch.equal(before, torch.get_rng_state())


# --- dropout -----------------------------------------------------------------------------------------


def test_without_dropout_two_passes_agree(tokenizer, settings):
    model = translator(len(tokenizer), dropout=0.0)
    scores = dropout_scores(model, settings["translation"][1])
    assert scores["kl"] == pytest.approx(0.0, abs=1e-6)
    assert scores["train_mode_loss"] == pytest.approx(scores["eval_mode_loss"])


@pytest.mark.parametrize("task", ["translation", "classification"])
def test_dropout_scores_agree_with_a_plain_loop(settings, task):
    model, batches = settings[task]
    divergence, noisy, torch_state = [], [], torch.get_rng_state()
    torch.manual_seed(3)
    model.train()
    for batch in batches:  # both passes as one batch of twice the rows, as training runs them
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "targets", "positions")}
        with torch.no_grad():
            logits = model(**{k: torch.cat([v, v]) for k, v in inputs.items()}).logits.double()
        p, q = logits.log_softmax(-1).chunk(2)
        labels = batch["labels"].numpy()
        for cell in np.ndindex(labels.shape):
            if labels[cell] != -100:
                a, b = p[cell].numpy(), q[cell].numpy()
                divergence.append(0.5 * ((np.exp(a) - np.exp(b)) * (a - b)).sum())
                noisy.append(-(a[labels[cell]] + b[labels[cell]]) / 2)
    torch.set_rng_state(torch_state)
    scores = dropout_scores(model, batches, seed=3)
    assert scores["kl"] == pytest.approx(np.mean(divergence), rel=1e-4)
    assert scores["kl"] > 0.001
    assert scores["train_mode_loss"] == pytest.approx(np.mean(noisy), rel=1e-5)
    assert scores["eval_mode_loss"] == pytest.approx(oracle_scores(model, batches)[0], rel=1e-5)


def test_more_passes_estimate_the_same_divergence(settings):
    model, batches = settings["translation"]
    two = np.mean([dropout_scores(model, batches, seed=s)["kl"] for s in range(8)])
    six = dropout_scores(model, batches, passes=6)["kl"]
    assert six == pytest.approx(two, rel=0.2)
    assert dropout_scores(model, batches, seed=1)["kl"] != dropout_scores(model, batches, seed=2)["kl"]
    with pytest.raises(UserError, match="passes"):
        dropout_scores(model, batches, passes=1)
