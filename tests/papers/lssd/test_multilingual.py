"""Several languages in one training: how often each is sampled, whose batches come when, and their scores."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
import torch

from kdutils.core.errors import UserError
from kdutils.data.batches import Batches, collate_translation
from kdutils.papers.lssd.multilingual import (
    LanguageBatches,
    demo_splits,
    language_sampling,
    language_scores,
    virtual_epoch,
    without_leaks,
)
from kdutils.tasks.scores import token_scores
from tests import tiny
from tests.oracles import log_softmax, smoothed_targets
from tests.tiny import one_sentence

UNEQUAL = {"bos": 5_664, "mar": 9_840, "hin": 18_798, "kor": 205_640}
TEMPERATURES = [0.3, 0.5, 1.0, 2.0, 5.0, 100.0, 1e9, math.inf]


# ---------------------------------------------------------------- how often a language is sampled


def chances(sizes: dict[str, int], temperature: float) -> np.ndarray:
    """P_l of fact L9."""
    n = np.array(list(sizes.values()), dtype=float)
    weights = (n / n.sum()) ** (1 / temperature)
    return weights / weights.sum()


def natural(sizes: dict[str, int], temperature: float) -> float:
    """min(sum_l (P_l / P_max) n_max, sum_l n_l) of fact L9, with max the largest language."""
    n, p = np.array(list(sizes.values()), dtype=float), chances(sizes, temperature)
    largest = n.argmax()
    return min((p / p[largest] * n[largest]).sum(), n.sum())


def several_sizes() -> list[dict[str, int]]:
    draw = random.Random(0)
    crafted = [{"a": 10, "b": 1000}, {"b": 1000, "a": 10}, {"a": 7}, {"a": 5, "b": 5, "c": 5}, UNEQUAL]
    drawn = [[int(10 ** draw.uniform(0, 5)) for _ in range(draw.randint(2, 8))] for _ in range(10)]
    return crafted + [{f"l{i}": n for i, n in enumerate(sizes)} for sizes in drawn]


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_language_is_sampled_as_fact_l9_says(temperature):
    for sizes in several_sizes():
        found = language_sampling(sizes, temperature)
        assert list(found) == list(sizes)
        np.testing.assert_allclose(list(found.values()), chances(sizes, temperature), rtol=1e-12)
        assert sum(found.values()) == pytest.approx(1.0)


def test_temperature_1_is_proportional_and_a_large_one_the_same_for_all():
    for sizes in several_sizes():
        total = sum(sizes.values())
        assert language_sampling(sizes) == pytest.approx({one: n / total for one, n in sizes.items()})
        for large in (1e12, math.inf):
            assert language_sampling(sizes, large) == pytest.approx(dict.fromkeys(sizes, 1 / len(sizes)))


def test_a_higher_temperature_favours_the_small_and_never_turns_the_order_round():
    shares = [language_sampling(UNEQUAL, t) for t in TEMPERATURES]
    smallest, largest = ([found[one] for found in shares] for one in ("bos", "kor"))
    assert smallest == sorted(smallest) and largest == sorted(largest, reverse=True)
    assert all(list(found.values()) == sorted(found.values()) for found in shares)


@pytest.mark.parametrize("temperature", [1e-2, 1e-3, 1e-4, 1e-300])
def test_the_colder_the_more_of_the_largest_alone(temperature):
    assert language_sampling({"a": 10, "b": 30, "c": 20}, temperature) == pytest.approx({"a": 0, "b": 1, "c": 0})


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_an_epoch_has_the_length_of_fact_l9_shared_by_the_chances(temperature):
    for sizes in several_sizes():
        exact = chances(sizes, temperature) * natural(sizes, temperature)
        expected = [max(1, round(float(share))) for share in exact]
        found = list(virtual_epoch(sizes, temperature).values())
        assert np.abs(np.subtract(found, expected)).max() <= (np.abs(exact % 1 - 0.5) < 1e-6).any(), sizes


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_an_epoch_is_never_longer_than_the_corpora(temperature):
    for sizes in several_sizes():
        taken = virtual_epoch(sizes, temperature)
        rounding = len(sizes) / 2 + sum(share == 1 for share in taken.values())
        assert sum(taken.values()) <= sum(sizes.values()) + rounding


def test_at_temperature_1_an_epoch_is_every_sentence_once():
    for sizes in several_sizes():
        assert virtual_epoch(sizes) == virtual_epoch(sizes, 1.0) == sizes


def test_a_temperature_above_1_redistributes_an_epoch_and_does_not_lengthen_it():
    """Trap 7: the largest language is then not covered in one epoch."""
    taken = virtual_epoch(UNEQUAL, 5.0)
    assert sum(taken.values()) == pytest.approx(sum(UNEQUAL.values()), abs=2)
    assert taken["kor"] < 0.5 * UNEQUAL["kor"] and taken["bos"] > 6 * UNEQUAL["bos"]


def test_a_temperature_below_1_shortens_an_epoch_to_one_pass_over_the_largest():
    taken = virtual_epoch(UNEQUAL, 0.5)
    assert taken["kor"] == UNEQUAL["kor"] and taken["hin"] == round(18_798**2 / 205_640)


@pytest.mark.parametrize("length", [1, 10, 1000, 10**6])
def test_epoch_rows_replaces_the_length_and_leaves_the_shares(length):
    for temperature in (1.0, 5.0):
        expected = [max(1, round(float(p) * length)) for p in chances(UNEQUAL, temperature)]
        assert list(virtual_epoch(UNEQUAL, temperature, length).values()) == expected


def test_every_language_is_in_every_epoch():
    assert virtual_epoch({"a": 1, "b": 10**6}) == {"a": 1, "b": 10**6}
    assert virtual_epoch({"a": 1, "b": 10**6}, length=100) == {"a": 1, "b": 100}


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (language_sampling, ({"a": 1}, 0.0), "above 0"), (language_sampling, ({"a": 1}, -1.0), "above 0"),
        (language_sampling, ({"a": 1}, math.nan), "above 0"), (language_sampling, ({}, 1.0), "at least one sentence"),
        (language_sampling, ({"a": 3, "b": 0}, 1.0), "at least one sentence"),
        (virtual_epoch, ({"a": 3}, 0.0), "above 0"), (virtual_epoch, ({"a": 3}, 1.0, -1), "cannot have -1 sentences"),
    ],
)  # fmt: skip
def test_what_cannot_be_sampled_is_one_sentence(function, arguments, words):
    with pytest.raises(UserError, match=words) as caught:
        function(*arguments)
    one_sentence(caught.value)


# ---------------------------------------------------------------- batches of one language


def spoken(**counts: int) -> list[dict]:
    """Examples of tiny.py, each in a language; those of different languages come mixed, as in no corpus."""
    languages = [language for language, count in counts.items() for _ in range(count)]
    random.Random(1).shuffle(languages)
    rows = tiny.examples(len(languages), seed=2)
    return [{**row, "language": language} for row, language in zip(rows, languages, strict=True)]


ROWS = spoken(de=7, ko=30, fr=60)
SIZES = {"de": 7, "ko": 30, "fr": 60}


def plain_collate(rows):
    return {**collate_translation()(rows), "language": rows[0]["language"]}


def language_batches(rows=ROWS, **options) -> LanguageBatches:
    return LanguageBatches(rows, plain_collate, **{"max_tokens": 40, **options})


def drawn(batches: LanguageBatches, epoch: int = 0) -> Counter:
    return Counter(index for batch in batches.plan(epoch) for index in batch)


def of_language(counts: Counter, language: str) -> list[int]:
    """How often each sentence of a language was drawn."""
    return [counts[i] for i, row in enumerate(ROWS) if row["language"] == language]


OPTIONS = [{}, {"temperature": 5.0}, {"temperature": 0.5}, {"epoch_rows": 20}, {"epoch_rows": 500}, {"shuffle": False}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_batch_has_one_language_and_keeps_the_budget(options):
    for budget in ({"max_tokens": 24}, {"max_tokens": None, "batch_size": 4}, {"max_tokens": 40, "batch_size": 3}):
        batches = language_batches(**budget, **options)
        for batch in (batch for epoch in range(3) for batch in batches.plan(epoch)):
            assert len({ROWS[i]["language"] for i in batch}) == 1
            assert len(batch) <= (batches.batch_size or 99)
            assert len(batch) * max(batches.lengths[i] for i in batch) <= (batches.max_tokens or 999)


def test_tensors_are_those_of_the_plan_and_name_their_language():
    batches = language_batches()
    for index, chosen in enumerate(batches.plan(2)):
        batch = batches.batch(2, index)
        assert batch["language"] == ROWS[chosen[0]]["language"]
        assert batch["labels"][0, : len(ROWS[chosen[0]]["target"])].tolist() == ROWS[chosen[0]]["target"]
        assert len(batch["labels"]) == len(chosen)


def test_short_and_long_sentences_are_packed_so_that_little_is_padded():
    """Sorted within a language: unequal lengths cost no more than in batches of all languages together."""
    mixed = Batches(ROWS, plain_collate, max_tokens=40)
    for seed in range(3):
        assert language_batches(seed=seed).padding <= mixed.padding + 0.05
    lengths = [[len(ROWS[i]["source"]) for i in batch] for batch in language_batches().plan(0)]
    assert all(batch == sorted(batch) for batch in lengths)
    assert len({length for batch in lengths for length in batch}) > 3


def test_the_order_is_that_of_a_seed_and_an_epoch():
    one, same, other = (language_batches(seed=seed, temperature=5.0) for seed in (1, 1, 2))
    plans = [one.plan(epoch) for epoch in range(4)]
    assert [one.plan(epoch) for epoch in (3, 1, 2, 0)] == [plans[i] for i in (3, 1, 2, 0)]
    assert plans == [same.plan(epoch) for epoch in range(4)]
    assert all(other.plan(epoch) != plans[epoch] for epoch in range(4))
    assert all(a != b for i, a in enumerate(plans) for b in plans[:i])


def test_languages_come_mixed():
    order = [ROWS[batch[0]]["language"] for batch in language_batches(max_tokens=16).plan(0)]
    changes = sum(a != b for a, b in zip(order, order[1:], strict=False))
    assert changes > 4


def test_other_sentences_meet_in_every_epoch():
    groups = [{frozenset(batch) for batch in language_batches().plan(epoch)} for epoch in range(3)]
    assert groups[0] != groups[1] != groups[2]


def test_at_temperature_1_every_sentence_comes_once_an_epoch():
    for epoch in range(3):
        assert drawn(language_batches(seed=epoch), epoch) == dict.fromkeys(range(len(ROWS)), 1)


@pytest.mark.parametrize("options", [{"temperature": 5.0}, {"temperature": 0.5}, {"epoch_rows": 1000}], ids=str)
def test_a_language_goes_through_all_its_sentences_before_any_comes_again(options):
    batches, expected = language_batches(**options), virtual_epoch(SIZES, **epoch_of(options))
    for epoch in range(3):
        counts = drawn(batches, epoch)
        for language, n in SIZES.items():
            times = of_language(counts, language)
            assert sum(times) == expected[language] == batches.taken[language]
            assert {*times} <= {expected[language] // n, -(-expected[language] // n)}


def epoch_of(options: dict) -> dict:
    return {{"epoch_rows": "length"}.get(name, name): value for name, value in options.items()}


def test_what_an_epoch_leaves_out_is_drawn_anew():
    batches = language_batches(temperature=0.5)
    left_out = [{i for i in range(len(ROWS)) if not drawn(batches, epoch)[i]} for epoch in range(8)]
    assert all(left_out) and not set.intersection(*left_out)


def test_without_shuffling_every_sentence_comes_once_in_a_fixed_order_whatever_the_temperature():
    batches = language_batches(shuffle=False, temperature=5.0, epoch_rows=10)
    assert drawn(batches) == dict.fromkeys(range(len(ROWS)), 1)
    assert batches.plan(0) == batches.plan(9) == language_batches(shuffle=False, seed=3).plan(1)
    order = [ROWS[batch[0]]["language"] for batch in batches.plan(0)]
    assert order == sorted(order, key=order.index)  # one language after the other


def test_batches_of_nothing_or_without_a_budget_are_one_sentence():
    for rows, options, words in (
        ([], {}, "no examples"), (ROWS, {"max_tokens": None}, "need a budget"), (ROWS, {"max_tokens": 3}, "longest"),
        (ROWS, {"temperature": 0.0}, "above 0"), (ROWS, {"epoch_rows": -5}, "cannot have -5"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words) as caught:
            language_batches(rows, **options)
        one_sentence(caught.value)


# ---------------------------------------------------------------- scores of each language


def by_hand(net, rows, epsilon: float, convention: str) -> dict[str, float]:
    """Sums over single sentences and their tokens in numpy's float64, one language after the other."""
    sums = {}
    for row in rows:
        batch = collate_translation()([row])
        with torch.no_grad():
            z = net.eval()(**{k: batch[k] for k in ("input_ids", "attention_mask", "decoder_input_ids")}).logits[0]
        for logits, target in zip(z.double().numpy(), row["target"], strict=True):
            logp, q = log_softmax(logits), smoothed_targets(target, len(logits), epsilon, convention)
            own = np.array([-logp[target], -(q * logp).sum(), logits.argmax() == target, 1])
            sums[row["language"]] = sums.get(row["language"], 0) + own
    nll, smoothed, right, count = sum(sums.values())
    scores = {"loss": nll / count, "token_loss": smoothed / count, "accuracy": right / count}
    scores["perplexity"] = np.exp(scores["loss"])
    each = {f"smoothed_loss_{one}": own[1] / own[3] for one, own in sums.items()}
    scores["smoothed_loss"] = np.mean([*each.values()])  # (2): each language counts the same
    return {**scores, **each, **{f"accuracy_{one}": own[2] / own[3] for one, own in sums.items()}}


@pytest.fixture(scope="module")
def net():
    return tiny.train(None, updates=8).model


@pytest.mark.parametrize(
    ("epsilon", "convention"), [(0.1, "others"), (0.1, "uniform"), (0.3, "others"), (0.0, "others")]
)
def test_scores_are_those_computed_by_hand(net, epsilon, convention):
    scores = language_scores(net, language_batches(shuffle=False), epsilon, convention)
    assert scores == pytest.approx(by_hand(net, ROWS, epsilon, convention), rel=2e-6)
    assert scores["accuracy"] > 0.02 and len({scores[f"accuracy_{one}"] for one in SIZES}) == 3


def test_the_smoothing_of_lssd_is_the_default(net):
    fixed = language_batches(shuffle=False)
    assert language_scores(net, fixed) == language_scores(net, fixed, 0.1, "others")
    assert language_scores(net, fixed) != language_scores(net, fixed, 0.1, "uniform")


def test_the_scores_of_all_are_those_of_plain_translation(net):
    plain = token_scores(net, Batches(ROWS, collate_translation(), max_tokens=60, shuffle=False))
    scores = language_scores(net, language_batches(shuffle=False), 0.0)
    assert {name: scores[name] for name in plain} == pytest.approx(plain, rel=1e-6)
    assert scores["token_loss"] == pytest.approx(scores["loss"], rel=1e-6)
    assert scores["smoothed_loss"] != pytest.approx(scores["token_loss"], rel=1e-4)


def test_how_sentences_are_batched_changes_no_score(net):
    """A mean of batch means would: the batches differ in their numbers of tokens."""
    wanted = language_scores(net, language_batches(shuffle=False))
    for budget in ({"max_tokens": 8}, {"max_tokens": 400}, {"max_tokens": None, "batch_size": 5}):
        assert language_scores(net, language_batches(shuffle=False, **budget)) == pytest.approx(wanted, rel=1e-5)


def test_scoring_leaves_dropout_out_and_the_model_as_it_was():
    net = tiny.model(dropout=0.5).train()
    state = torch.get_rng_state()
    first, second = (language_scores(net, language_batches(shuffle=False)) for _ in range(2))
    assert first == second and net.training and all(p.grad is None for p in net.parameters())
    assert torch.equal(state, torch.get_rng_state())


def without_tokens(batch: dict) -> dict:
    nothing = torch.zeros(0, dtype=torch.long)
    return {**batch, "labels": torch.full_like(batch["labels"], -100), "positions": nothing, "targets": nothing}


def test_no_batches_or_no_tokens_are_one_sentence(net):
    for batches in ([], [without_tokens(language_batches().batch(0, 0))]):
        with pytest.raises(UserError) as caught:
            language_scores(net, batches)
        one_sentence(caught.value)


def test_a_batch_without_tokens_does_not_count(net):
    batches = list(language_batches(shuffle=False))
    empty = {**without_tokens(batches[0]), "language": "none"}
    found, wanted = language_scores(net, [empty, *batches]), language_scores(net, batches)
    assert {name: found[name] for name in wanted} == wanted


def test_a_hopeless_model_has_a_perplexity_still():
    net = tiny.model()
    net.model.decoder.layer_norm.weight.data *= 1e5
    scores = language_scores(net, language_batches())
    assert scores["loss"] > 1000 and scores["perplexity"] > 1e300


# ---------------------------------------------------------------- the rows of the grammar, and leaks

HELD_OUT = {"validation": 7, "test": 9}


def splits(languages=("es", "ko", "de"), train=(10, 20, 30), seed=0, **held_out):
    return demo_splits(languages, "en", train, {**HELD_OUT, **held_out}, seed, 6)


def test_every_language_has_the_rows_that_were_asked_for():
    found = splits()
    assert list(found) == ["train", "validation", "test"]
    assert Counter(row["language"] for row in found["train"]) == {"es": 10, "ko": 20, "de": 30}
    for split, n in HELD_OUT.items():
        assert Counter(row["language"] for row in found[split]) == {"es": n, "ko": n, "de": n}
    assert all(row.keys() == {"language", "pivot", "other"} for rows in found.values() for row in rows)


def test_languages_train_on_different_sentences_and_are_judged_on_the_same():
    found = splits()
    pivots = [row["pivot"] for row in found["train"]]
    assert len(set(pivots)) == len(pivots) == 60
    for split in HELD_OUT:
        parts = [[row["pivot"] for row in found[split] if row["language"] == one] for one in ("es", "ko", "de")]
        assert parts[0] == parts[1] == parts[2] and len(set(parts[0])) == HELD_OUT[split]


def test_no_sentence_of_any_language_is_in_two_splits():
    found = splits()
    for side in ("pivot", "other"):
        texts = {split: {row[side] for row in rows} for split, rows in found.items()}
        assert not texts["train"] & texts["validation"] and not texts["train"] & texts["test"]
        assert not texts["validation"] & texts["test"]
    assert all(len(text.split()) <= 6 for rows in found.values() for row in rows for text in list(row.values())[1:])


def test_rows_are_translations_of_each_other():
    """The pivot of a row, translated by the grammar, is in the language that the row names."""
    found = splits(languages=("de", "ko"), train=(6, 6))
    script = {one: " ".join(r["other"] for r in found["train"] if r["language"] == one) for one in ("de", "ko")}
    assert any("가" <= letter <= "힣" for letter in script["ko"]) and not any("가" <= c <= "힣" for c in script["de"])
    twins = zip(*([r for r in found["test"] if r["language"] == one] for one in ("de", "ko")), strict=True)
    assert all(de["pivot"] == ko["pivot"] and de["other"] != ko["other"] for de, ko in twins)


def test_a_seed_gives_the_same_rows_and_more_training_does_not_change_what_is_tested():
    assert splits() == splits() != splits(seed=1)
    more = splits(train=(40, 50, 60))
    assert more["test"] == splits()["test"] and more["validation"] == splits()["validation"]


def leaky() -> dict[str, list[dict]]:
    def row(language, number):
        return {"language": language, "pivot": f"pivot {number}", "other": f"{language} {number}"}

    return {
        "train": [row("de", 1), row("ko", 1), row("de", 2), row("ko", 3), row("ko", 2), row("ko", 4)],
        "validation": [row("de", 3)],
        "test": [row("ko", 2)],
    }


def test_training_rows_whose_pivot_is_held_out_in_any_language_are_left_out():
    found, leaks = without_leaks(leaky())
    assert leaks == 3
    assert [(row["language"], row["pivot"][-1]) for row in found["train"]] == [("de", "1"), ("ko", "1"), ("ko", "4")]
    assert (found["validation"], found["test"]) == (leaky()["validation"], leaky()["test"])
    assert list(found) == list(leaky()) and without_leaks(found) == (found, 0)
