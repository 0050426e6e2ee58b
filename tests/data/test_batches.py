"""Collates and the plan of batches."""

from __future__ import annotations

import gzip
import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from kdutils.core.errors import UserError
from kdutils.data.batches import (
    BOS,
    EOS,
    IGNORED,
    MASK,
    SPECIALS,
    Batches,
    classification_examples,
    collate_classification,
    collate_masked_lm,
    collate_translation,
    masked_lm_examples,
    train_tokenizer,
    translation_examples,
)
from tests.corpus_files import TEXTS


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 200)


# --- determinism across processes --------------------------------------------------------------------

OTHER_PROCESS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from test_batches import facts
print(json.dumps(facts()))
"""


def facts() -> dict:
    """What must not depend on the process: a tokenizer, two epochs of a plan, a masked batch."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh한국어", k=draw.randint(1, 6))) for _ in range(300)]
    texts = [" ".join(draw.choices(words, k=8)) for _ in range(400)]
    tokenizer = train_tokenizer(texts, 120)
    batches = Batches(masked_lm_examples(texts, tokenizer, 64), collate_masked_lm(tokenizer), max_tokens=256, seed=7)
    return {
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "plans": [batches.plan(0), batches.plan(3)],
        "masked": batches.batch(3, 2)["input_ids"].tolist(),
    }


def test_another_process_gets_the_same_tokenizer_plan_and_masks():
    here = Path(__file__).parent
    environment = os.environ | {
        "PYTHONHASHSEED": "123",
        "RAYON_NUM_THREADS": "1",
        "PYTHONPATH": str(here.parent),
    }
    run = [sys.executable, "-c", OTHER_PROCESS, str(here)]
    result = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == facts()


# --- collates ----------------------------------------------------------------------------------------


def test_translation_batch_by_hand():
    rows = [{"source": [7, 8, 2], "target": [9, 2]}, {"source": [5, 2], "target": [6, 7, 8, 2]}]
    batch = collate_translation()(rows)
    expected = {
        "input_ids": [[7, 8, 2], [5, 2, 0]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
        "decoder_input_ids": [[1, 9, 0, 0], [1, 6, 7, 8]],
        "labels": [[9, 2, -100, -100], [6, 7, 8, 2]],
        "positions": [0, 1, 4, 5, 6, 7],
        "targets": [9, 2, 6, 7, 8, 2],
    }
    assert {name: value.tolist() for name, value in batch.items()} == expected
    assert all(value.dtype == torch.long for value in batch.values())


@pytest.mark.parametrize("task", ["translation", "classification", "masked_lm"])
def test_compact_examples_make_the_batches_of_lists(tokenizer, task):
    if task == "translation":
        rows = [{"src": text, "tgt": text[::-1]} for text in TEXTS]
        examples, collate = translation_examples(rows, tokenizer, 40), collate_translation()
    elif task == "classification":
        rows = [{"text": text, "label": i % 3} for i, text in enumerate(TEXTS)]
        examples, collate = classification_examples(rows, tokenizer, 40), collate_classification()
    else:
        examples, collate = masked_lm_examples(TEXTS, tokenizer, 40), collate_masked_lm(tokenizer)
    compact, lists = (Batches(some, collate, max_tokens=150, seed=3) for some in (examples, [*examples]))
    assert compact.plan(2) == lists.plan(2) and compact.padding == lists.padding
    for index in range(len(compact)):
        one, other = compact.batch(2, index), lists.batch(2, index)
        assert one.pop("asked", None) == other.pop("asked", None)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        assert all(value.dtype == torch.long for value in one.values())


def test_classification_batch_by_hand():
    batch = collate_classification()([{"input_ids": [1, 7, 2], "label": 1}, {"input_ids": [1, 2], "label": 0}])
    assert batch["input_ids"].tolist() == [[1, 7, 2], [1, 2, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == batch["targets"].tolist() == [1, 0]


def big_rows(tokenizer, rows=400, length=40):
    draw = random.Random(1)
    ordinary = range(len(SPECIALS), len(tokenizer))
    return [{"input_ids": [BOS, *draw.choices(ordinary, k=length - draw.randrange(9)), EOS]} for _ in range(rows)]


def test_masking_has_the_shares_of_the_recipe(tokenizer):
    rows = big_rows(tokenizer)
    batch = collate_masked_lm(tokenizer)(rows, torch.Generator().manual_seed(0))
    plain = collate_masked_lm(tokenizer, replace=(0.0, 0.0, 1.0))(rows)["input_ids"]
    content = plain >= len(SPECIALS)
    asked = batch["labels"] != IGNORED
    share = asked.sum() / content.sum()
    assert 0.14 < share < 0.16
    assert not asked[~content].any()  # never <s>, </s>, <pad>
    assert torch.equal(batch["labels"][asked], plain[asked])
    assert torch.equal(batch["input_ids"][~asked], plain[~asked])
    now = batch["input_ids"][asked]
    assert 0.77 < (now == MASK).float().mean() < 0.83
    assert 0.07 < (now == plain[asked]).float().mean() < 0.13
    assert 0.07 < ((now != MASK) & (now != plain[asked])).float().mean() < 0.13
    others = now[now != MASK]
    assert (others >= len(SPECIALS)).all()  # a random replacement is an ordinary token
    assert others.max() > 0.9 * len(tokenizer)
    assert torch.equal(batch["positions"], asked.flatten().nonzero()[:, 0])
    assert torch.equal(batch["targets"], batch["labels"].flatten()[batch["positions"]])
    assert torch.equal(batch["tokens"], batch["attention_mask"].flatten().nonzero()[:, 0])
    assert torch.equal(batch["tokens"][batch["asked"]], batch["positions"])


def test_random_replacements_cover_the_ordinary_vocabulary(tokenizer):
    batch = collate_masked_lm(tokenizer, 1.0, (0.0, 1.0, 0.0))(big_rows(tokenizer), torch.Generator().manual_seed(0))
    assert set(batch["input_ids"][batch["labels"] != IGNORED].tolist()) == set(range(5, len(tokenizer)))


def test_weighted_masking_asks_for_an_exact_number_in_proportion(tokenizer):
    weights = torch.ones(len(tokenizer))
    weights[10:20], weights[20:30] = 0.0, 4.0
    rows = big_rows(tokenizer)
    collate = collate_masked_lm(tokenizer, token_weights=weights)
    batch = collate(rows, torch.Generator().manual_seed(0))
    assert len(batch["targets"]) == math.ceil(0.15 * int(batch["attention_mask"].sum()))
    assert not ((batch["targets"] >= 10) & (batch["targets"] < 20)).any()
    assert (batch["targets"] >= len(SPECIALS)).all()
    often = ((batch["targets"] >= 20) & (batch["targets"] < 30)).sum()
    once = ((batch["targets"] >= 30) & (batch["targets"] < 40)).sum()
    assert 2.5 < often / once < 4.5  # 4 at the first draw, a little less as the heavy ones are used up
    counts = Counter(tuple(collate(rows[:4], torch.Generator().manual_seed(s))["positions"].tolist()) for s in range(5))
    assert len(counts) == 5


def test_weights_that_allow_too_few_positions_ask_for_all_of_these(tokenizer):
    weights = torch.zeros(len(tokenizer))
    weights[7] = 1.0
    rows = [{"input_ids": [BOS, 7, *[8] * 30, 7, EOS]}]
    batch = collate_masked_lm(tokenizer, 0.5, token_weights=weights)(rows)
    assert batch["positions"].tolist() == [1, 32]


def test_nothing_to_mask_gives_an_empty_selection(tokenizer):
    for weights in (None, torch.ones(len(tokenizer))):
        batch = collate_masked_lm(tokenizer, token_weights=weights)([{"input_ids": [BOS, EOS]}])
        assert batch["positions"].shape == batch["targets"].shape == (0,)
        assert (batch["labels"] == IGNORED).all()
        assert batch["tokens"].tolist() == [0, 1] and batch["asked"] == []


@pytest.mark.parametrize(
    "settings",
    [
        {"probability": 0.0},
        {"probability": 1.5},
        {"replace": (0.8, 0.1, 0.2)},
        {"replace": (1.1, -0.1, 0.0)},
        {"token_weights": torch.ones(3)},
    ],
)
def test_masking_settings_that_make_no_sense_are_refused(tokenizer, settings):
    with pytest.raises(UserError):
        collate_masked_lm(tokenizer, **settings)


# --- the plan ----------------------------------------------------------------------------------------


def pairs(n=3000):
    """Sentence pairs with realistic lengths: log-normal, about 4 to 60, the two sides correlated."""
    draw = random.Random(0)
    sources = [min(60, max(4, round(draw.lognormvariate(2.7, 0.45)))) for _ in range(n)]
    targets = [min(60, max(4, round(length * draw.gauss(1.05, 0.15)))) for length in sources]
    return [
        {"source": [5] * (s - 1) + [EOS], "target": [6] * (t - 1) + [EOS]}
        for s, t in zip(sources, targets, strict=True)
    ]


def test_every_example_once_an_epoch_within_the_budget():
    examples = pairs()
    batches = Batches(examples, collate_translation(), max_tokens=1000, seed=3)
    for epoch in (0, 1):
        plan = batches.plan(epoch)
        assert sorted(i for indices in plan for i in indices) == list(range(len(examples)))
        for indices in plan:
            longest = max(max(len(examples[i]["source"]), len(examples[i]["target"])) for i in indices)
            assert len(indices) * longest <= 1000
    assert len(batches) == len(batches.plan(0))
    batch = batches.batch(1, 0)
    assert max(batch["input_ids"].numel(), batch["labels"].numel()) <= 1000


def test_bucketing_leaves_little_padding():
    examples = pairs()
    batches = Batches(examples, collate_translation(), max_tokens=1000)
    random_order = Batches(
        examples, collate_translation(), batch_size=60, lengths=[1] * len(examples)
    )  # blind to lengths
    cells = {True: 0, False: 0}
    for source in (batches, random_order):
        content = 0
        for batch in source:
            cells[source is batches] += batch["input_ids"].numel() + batch["labels"].numel()
            content += int(batch["attention_mask"].sum()) + len(batch["targets"])
    measured = 1 - content / cells[True]
    assert batches.padding == pytest.approx(measured)
    assert measured < 0.10
    assert 1 - content / cells[False] > 0.40


def test_epochs_differ_and_repeat():
    examples = pairs(500)
    first, again = (Batches(examples, collate_translation(), max_tokens=600, seed=1) for _ in range(2))
    assert first.plan(0) == again.plan(0) and first.plan(5) == again.plan(5)
    assert first.plan(0) != first.plan(1)
    assert {frozenset(b) for b in first.plan(0)} != {frozenset(b) for b in first.plan(1)}  # not the order alone
    lengths = [first.lengths[indices[0]] for indices in first.plan(0)]
    assert lengths != sorted(lengths)  # long and short batches come in any order
    other = Batches(examples, collate_translation(), max_tokens=600, seed=2)
    assert other.plan(0) != first.plan(0)


def test_without_shuffling_the_plan_is_fixed_and_sorted():
    batches = Batches(pairs(300), collate_translation(), batch_size=32, shuffle=False, seed=1)
    assert batches.plan(0) == batches.plan(1)
    lengths = [batches.lengths[i] for indices in batches.plan(0) for i in indices]
    assert lengths == sorted(lengths)


def test_batch_size_bounds_the_rows():
    examples = pairs(330)
    sizes = [len(indices) for indices in Batches(examples, collate_translation(), batch_size=32).plan(0)]
    assert sorted(sizes) == [10] + [32] * 10
    both = Batches(examples, collate_translation(), batch_size=32, max_tokens=300)
    assert max(map(len, both.plan(0))) <= 32
    assert max(len(indices) * max(both.lengths[i] for i in indices) for indices in both.plan(0)) <= 300


def test_given_lengths_count_instead_of_those_found():
    examples = pairs(100)
    plan = Batches(examples, collate_translation(), max_tokens=10, lengths=[1] * 100).plan(0)
    assert [len(indices) for indices in plan] == [10] * 10


def test_iterating_is_epoch_zero():
    batches = Batches(pairs(100), collate_translation(), max_tokens=400)
    for index, batch in enumerate(batches):
        assert all(torch.equal(batch[k], v) for k, v in batches.batch(0, index).items())
    assert index + 1 == len(batches)


@pytest.mark.parametrize("weighted", [False, True])
def test_masks_depend_on_seed_epoch_and_index_alone(tokenizer, weighted):
    examples = big_rows(tokenizer, rows=40)
    collate = collate_masked_lm(tokenizer, token_weights=torch.ones(len(tokenizer)) if weighted else None)

    def stream(seed=0, shuffle=True):
        return Batches(examples, collate, batch_size=8, seed=seed, shuffle=shuffle)

    batches = stream()
    first = batches.batch(2, 3)
    torch.manual_seed(99)
    batches.batch(0, 0), batches.batch(2, 4)
    state = torch.get_rng_state()
    asked = first.pop("asked")
    for again in (batches.batch(2, 3), stream().batch(2, 3)):
        assert again["asked"] == asked and all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(state, torch.get_rng_state())  # nothing drawn from the caller's generator
    fixed = stream(shuffle=False)  # the same rows in every epoch, other masks
    assert fixed.plan(0) == fixed.plan(1)
    assert not torch.equal(fixed.batch(0, 0)["labels"], fixed.batch(1, 0)["labels"])
    assert not torch.equal(fixed.batch(0, 0)["labels"], stream(1, False).batch(0, 0)["labels"])


def test_a_subclass_may_plan_otherwise():
    class OneLanguage(Batches):
        def plan(self, epoch):
            draw = random.Random(f"{self.seed}-{epoch}")
            groups = [range(0, 80), range(80, 100)]
            return [b for group in groups for b in self.pack(draw.choices(group, k=30))]

    batches = OneLanguage(pairs(100), collate_translation(), max_tokens=200)
    assert sum(map(len, batches.plan(0))) == 60  # an epoch of another size, with repetitions
    assert all(max(indices) < 80 or min(indices) >= 80 for indices in batches.plan(4))
    assert len(list(batches)) == len(batches) == len(batches.plan(0))


def test_what_cannot_be_batched_is_refused():
    examples = pairs(50)
    longest = max(max(len(e["source"]), len(e["target"])) for e in examples)
    with pytest.raises(UserError, match=rf"{longest}.*max_tokens={longest - 1}"):
        Batches(examples, collate_translation(), max_tokens=longest - 1)
    Batches(examples, collate_translation(), max_tokens=longest)
    with pytest.raises(UserError, match="max_tokens or batch_size"):
        Batches(examples, collate_translation())
    with pytest.raises(UserError, match="batch_size"):
        Batches(examples, collate_translation(), batch_size=0)
    with pytest.raises(UserError, match="no examples"):
        Batches([], collate_translation(), batch_size=4)
    with pytest.raises(UserError, match="lengths"):
        Batches(examples, collate_translation(), batch_size=4, lengths=[1, 2])


# --- real data ---------------------------------------------------------------------------------------


def test_real_sentences_survive_the_tokenizer_and_pad_little(real_data):
    with gzip.open(real_data / "multi30k" / "en-de.validation.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    texts = [row[side] for row in rows for side in ("src", "tgt")]
    tokenizer = train_tokenizer(texts, 2000, "translation")
    for text in texts[:200]:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    batches = Batches(translation_examples(rows, tokenizer, 64), collate_translation(), max_tokens=1000)
    assert batches.padding < 0.10
