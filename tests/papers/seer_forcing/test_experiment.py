"""Seer Forcing's experiment: its arms, what they cost, what is exported, and its claims from records."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from kdutils.core.errors import Paused, UserError
from kdutils.data.batches import collate_translation
from kdutils.models.build import translation_model
from kdutils.models.forward import counted_logits
from kdutils.papers import r_drop
from kdutils.papers.seer_forcing.claims import CLAIMS
from kdutils.papers.seer_forcing.decoder import two_decoders
from kdutils.papers.seer_forcing.experiment import ARMS, EXPERIMENTS, equal_compute
from kdutils.papers.seer_forcing.method import SeerForcing, passes
from kdutils.study import claims
from kdutils.study.experiment import resolve
from kdutils.study.running import folder, load_method, load_model, run
from kdutils.tasks.translation import Translation
from kdutils.training.loop import Recipe
from kdutils.training.method import Method, Step
from tests.tiny import SMALL, assert_same_weights, fingerprint, one_sentence

EXPERIMENT = EXPERIMENTS[0]
TINY = {**SMALL, "max_tokens": 200, "vocab_size": 400, "beams": 2}
NAMES = ["baseline", "baseline_compute", "seer_forcing", "joint", "no_future", "l2", "adversarial"]
TAUGHT = NAMES[2:]


def tiny_settings(**changes):
    return resolve(EXPERIMENTS, "demo", {**TINY, **changes})["translation"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All arms, three seeds."""
    runs, settings = tmp_path_factory.mktemp("runs"), tiny_settings()
    records = run(EXPERIMENT, settings, [1, 2, 3], runs, NAMES)
    return {"runs": runs, "settings": settings, "records": records, "task": Translation(settings)}


# ---------------------------------------------------------------- what cannot work


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": -0.1}, {"alpha": 1.5}, {"alpha": math.nan}, {"alpha": math.inf}, {"reading": "foo"},
        {"reading": ""}, {"shift": 0}, {"shift": -2}, {"seer_dropout": 1.0}, {"seer_dropout": -0.1},
        {"seer_dropout": math.nan}, {"l2_weight": -1}, {"l2_weight": math.nan}, {"l2_weight": math.inf},
        {"adversarial_weight": -0.5}, {"adversarial_weight": math.nan}, {"adversarial_weight": math.inf},
        {"label_smoothing": 1.0}, {"label_smoothing": math.nan}, {"smoothing_convention": "foo"},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_work_are_one_sentence_before_anything_is_trained(change, tmp_path):
    with pytest.raises(UserError) as caught:
        run(EXPERIMENT, tiny_settings(**change), [1], tmp_path / "runs")
    one_sentence(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alhpa": 0.5}, "Did you mean 'alpha'"), ({"transfer": "foo"}, "no setting 'transfer'"),
        ({"alpha": "much"}, "takes a number"), ({"shift": 1.5}, "takes a whole number"),
        ({"full_cross_entropy": "maybe"}, "takes true or false"),
    ],
    ids=str,
)  # fmt: skip
def test_overrides_that_do_not_exist_or_have_another_type_are_one_sentence(change, words):
    with pytest.raises(UserError, match=words) as caught:
        tiny_settings(**change)
    one_sentence(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"transfer": "foo"}, "no transfer 'foo'"), ({"transfer": "adverse"}, "Did you mean 'adv"),
        ({"alpha": 1.0001}, "from 0 to 1"), ({"transfer": "l2", "transfer_weight": -1.0}, "0 or more"),
        ({"reading": "mask"}, "Did you mean 'masked'"), ({"shift": 0}, "choose shift=2"),
        ({"reading": "masked", "released_padding": True}, "belongs to the reversed reading"),
    ],
    ids=str,
)  # fmt: skip
def test_options_of_the_method_that_cannot_work_are_one_sentence(options, words):
    with pytest.raises(UserError, match=words) as caught:
        SeerForcing(**options)
    one_sentence(caught.value)


# ---------------------------------------------------------------- the arms


def test_the_arms_of_a_seed_start_from_equal_weights_and_have_equal_batches(tmp_path, monkeypatch):
    seen = {}

    def instead(model, method, batches, recipe, **options):
        seen.setdefault(options["description"].split(",")[0], []).append(
            (fingerprint(model), [batches.plan(epoch) for epoch in range(3)])
        )
        raise Paused("Enough was seen.")

    monkeypatch.setattr("kdutils.study.kept.fit", instead)
    for seed in (1, 2):
        for arm in NAMES:
            with pytest.raises(Paused):
                run(EXPERIMENT, tiny_settings(), [seed], tmp_path, [arm])
    assert list(seen) == NAMES
    for seed in (0, 1):
        assert all(starts[seed] == seen["baseline"][seed] for starts in seen.values())
    assert seen["baseline"][0][0] != seen["baseline"][1][0]


def test_the_seers_of_a_seed_start_from_equal_weights(tmp_path):
    """Their first evaluation differs by what they were taught in between, and by nothing else."""
    settings = tiny_settings(updates=1, eval_every=1, warmup=0, learning_rate=0.0)
    (record,) = run(EXPERIMENT, settings, [1], tmp_path, TAUGHT)
    seers = {arm: record["arms"][arm]["metrics"]["test_seer_loss"] for arm in TAUGHT}
    assert seers.pop("no_future") not in seers.values() and len({*seers.values()}) == 1
    assert len({record["arms"][arm]["metrics"]["test_loss"] for arm in TAUGHT}) == 1


def test_the_longer_baseline_has_the_updates_that_the_method_costs(trained):
    s = trained["settings"]
    cost = passes(s.layers, s.width, s.feedforward, s.vocab_size)
    assert 1.5 < cost < 2.5
    for updates in range(1, 40):  # rounded up and down
        deep = s.changed(layers=3, updates=updates)  # whose cost is no whole number
        expected = round(passes(3, s.width, s.feedforward, s.vocab_size) * updates)
        assert equal_compute(deep) == {"updates": expected}
    for record in trained["records"]:
        assert list(record["arms"]) == [arm.name for arm in ARMS] == NAMES
        updates = {name: arm["metrics"]["updates"] for name, arm in record["arms"].items()}
        assert updates.pop("baseline_compute") == round(cost * 6) > 6
        assert set(updates.values()) == {6}
    assert [arm.recipe(s) for arm in ARMS] == [{}, equal_compute(s), *[{}] * 5]


def flops(net, method, batch) -> dict[str, int]:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        terms = method.loss(net, batch, {"targets": 1}, Step(1, 10, 0, False))
        terms["loss"].backward()
    return {str(name): number for name, number in counter.get_flop_counts()["Global"].items()}


@pytest.mark.parametrize("shape", [(1, 64, 128, 1200), (1, 32, 64, 50), (2, 16, 96, 300), (3, 48, 40, 99)])
@pytest.mark.parametrize("reading", ["reversed", "masked"])
def test_passes_is_what_a_counter_of_floating_point_operations_finds(shape, reading):
    """Exactly, in the products with weights: each costs one product forward and two backward, so the ratio stays.

    The products of attention, queries by keys and weights by values, grow with the length and are left out of
    `passes`; counted apart, they are what the formula in this test says. With them, too, a short sentence costs
    that much to a hundredth where the vocabulary is as large as in the demo, and to a tenth elsewhere.
    """
    layers, width, feedforward, words = shape
    length, rows = 7, 3  # equal on both sides, no padding
    tokens = torch.randint(3, words, (2, rows, length), generator=torch.Generator().manual_seed(0)).tolist()
    batch = collate_translation()([{"source": s, "target": t} for s, t in zip(*tokens, strict=True)])
    assert bool((batch["labels"] >= 0).all()) and batch["attention_mask"].all()
    net = translation_model(words, width, layers, 4, feedforward, dropout=0.0, max_length=16)
    method = SeerForcing(reading=reading)
    method.attach(net)
    plain, ours = flops(net, Method(0.1), batch), flops(net, method, batch)
    weights = [found["aten.mm"] + found["aten.addmm"] for found in (plain, ours)]
    cost = passes(*shape)
    assert weights[1] / weights[0] == pytest.approx(cost, rel=1e-12) and method.passes == cost
    assert set(plain) == set(ours) == {"aten.mm", "aten.addmm", "aten.bmm"}
    one = rows * length * length * width * 2 * 2 * 3  # scores and contexts; two operations; forward and back
    seer_attention = (layers - 1) * 4 + 3  # of 2 streams to both sides; of 2 to the target and 1 to the source
    assert plain["aten.bmm"] == 3 * layers * one and ours["aten.bmm"] == (3 * layers + seer_attention) * one
    assert sum(ours.values()) / sum(plain.values()) == pytest.approx(cost, rel=0.01 if words == 1200 else 0.1)


# ---------------------------------------------------------------- what is recorded and exported


def test_every_evaluation_and_the_test_have_the_seers_scores(trained):
    seer = {"seer_loss", "seer_accuracy", "seer_kl", "seer_leak", "past_leak"}
    for record in trained["records"]:
        for name, arm in record["arms"].items():
            evaluations = [row for row in arm["history"] if row["kind"] == "eval"]
            for row in evaluations:
                assert seer <= row.keys() if name in TAUGHT else not seer & row.keys()
            tested = {f"test_{score}" for score in seer}
            assert tested <= arm["metrics"].keys() if name in TAUGHT else not tested & arm["metrics"].keys()
            logged = [row for row in arm["history"] if row["kind"] == "train"]
            parts = {"nll", "seer_nll", "seer_kl"}
            assert all(parts <= row.keys() if name in TAUGHT else not parts & row.keys() for row in logged)
            scores = {"validation_bleu", "test_bleu", "test_chrf", "test_loss", "last_test_bleu", "last_test_loss"}
            assert scores <= arm["metrics"].keys()  # of the weights that the validation chose, and of the last


def test_a_seer_without_a_future_knows_no_more_of_it_than_a_conventional_decoder(trained):
    """No word that follows changes what it says: 0 where the seer of the method looks two words on."""
    task = trained["task"]
    batch, changes = task.fixed_batches("validation").batch(0, 0), {}
    other = {**batch, "decoder_input_ids": batch["decoder_input_ids"].clone()}
    other["decoder_input_ids"][:, 3:] = batch["decoder_input_ids"][:, 3:].flip(0)  # the words from y_3 on
    early = batch["positions"] % batch["labels"].shape[1] < 3  # outputs that are fed nothing of these
    for arm in ("seer_forcing", "no_future"):
        net = load_model(EXPERIMENT, trained["settings"], arm, 1, trained["runs"]).eval()
        seer = load_method(EXPERIMENT, trained["settings"], arm, net, 1, trained["runs"]).networks["seer"].eval()
        with torch.no_grad():
            one, two = (two_decoders(net, seer, b)[0][1, early] for b in (batch, other))
        changes[arm] = float((one - two).abs().max())
    assert changes["no_future"] == 0.0 and changes["seer_forcing"] > 1e-3


def test_the_exported_student_is_the_baselines_kind_and_has_no_seer_in_it(trained):
    place = folder(EXPERIMENT, trained["settings"], trained["runs"]) / "seed-2"
    baseline = place / "baseline/model"
    sizes = {path.name: path.stat().st_size for path in baseline.iterdir() if path.name != "README.md"}
    for arm in TAUGHT:
        plain = AutoModelForSeq2SeqLM.from_pretrained(place / arm / "model").eval()
        files = [path for path in (place / arm / "model").iterdir() if path.name != "README.md"]
        assert {path.name: path.stat().st_size for path in files} == sizes
        assert load_file(place / arm / "model/model.safetensors").keys() == load_file(
            baseline / "model.safetensors").keys()  # fmt: skip
        assert json.loads((place / arm / "model/config.json").read_text()) == json.loads(
            (baseline / "config.json").read_text())  # fmt: skip
        assert_same_weights(plain, load_model(EXPERIMENT, trained["settings"], arm, 2, trained["runs"]))
        metrics = trained["records"][1]["arms"][arm]["metrics"]
        assert metrics["parameters"] == trained["records"][1]["arms"]["baseline"]["metrics"]["parameters"]
        task = trained["task"]
        assert task.test(plain)["test_loss"] == pytest.approx(metrics["test_loss"], rel=1e-6)
        assert task.validate(plain)["loss"] == pytest.approx(metrics["validation_loss"], rel=1e-6)
        ids = AutoTokenizer.from_pretrained(place / arm / "model")("a house")["input_ids"]
        assert ids == task.tokenizer("a house")["input_ids"]
        batch = task.fixed_batches("test").batch(0, 0)
        again = AutoModelForSeq2SeqLM.from_pretrained(place / arm / "model").eval()
        assert torch.equal(counted_logits(plain, batch), counted_logits(again, batch))


# ---------------------------------------------------------------- the claims


def measured(claim_id: str, records: list[dict]) -> dict[int, float]:
    return next(claim for claim in CLAIMS if claim.id == claim_id).measure(records)


def swept(records: list[dict], sizes, bleu=None) -> list[dict]:
    """The records as a sweep over train_rows would leave them; `bleu` gives (baseline, seer forcing) by size."""
    made = []
    for size in sizes:
        for record in records:
            new = json.loads(json.dumps(record))
            new["settings"]["train_rows"] = size
            for arm, score in zip(("baseline", "seer_forcing"), (bleu or {}).get(size, ()), strict=False):
                new["arms"][arm]["metrics"]["test_bleu"] = score + record["seed"]
            made.append(new)
    return made


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_can_be_graded(claim, trained):
    records = trained["records"]
    few = [{**r, "arms": {"seer_forcing": r["arms"]["seer_forcing"]}} for r in records]
    other = [{**r, "arms": {"baseline": r["arms"]["baseline"]}} for r in records]
    for chosen in (records, swept(records, (40, 80)), records[:1], few, other, []):
        grade = claims.grade(claim, chosen)
        assert grade.reason and "\n" not in grade.reason
    grade = claims.grade(claim, swept(records, (40, 80)) if claim.over else records)
    assert grade.n == 3 and grade.verdict != claims.NOT_RUN, grade.reason
    assert (claims.grade(claim, records).verdict == claims.NOT_RUN) == bool(claim.over) == (claim.id == "S2")


def test_nothing_is_added_to_the_exported_model_and_no_decoder_sees_its_answer(trained, tmp_path):
    """What follows from the construction; a shift of one is found out."""
    for record in trained["records"]:
        arms = {name: arm["metrics"] for name, arm in record["arms"].items()}
        assert len({metrics["parameters"] for metrics in arms.values()}) == 1
        for arm in TAUGHT:
            assert arms[arm]["final_seer_leak"] < 1e-3 and arms[arm]["final_past_leak"] < 1e-3
    (leaky,) = run(EXPERIMENT, tiny_settings(shift=1, updates=2), [1], tmp_path, ["seer_forcing"])
    metrics = leaky["arms"]["seer_forcing"]["metrics"]
    assert metrics["final_seer_leak"] > 1e-3 > metrics["final_past_leak"]


def test_differences_are_ours_minus_theirs_in_the_metric_that_is_named(trained):
    records = json.loads(json.dumps(trained["records"]))
    for r in records:
        for number, arm in enumerate(NAMES):
            r["arms"][arm]["metrics"] |= {
                "test_bleu": 2.0**number, "final_seer_accuracy": 3.0**number, "final_seer_kl": 5.0**number,
            }  # fmt: skip
        kl = iter((0.5, 0.9, 0.4))
        for row in r["arms"]["seer_forcing"]["history"]:
            if row["kind"] == "eval":
                row["seer_kl"] = next(kl)
    expected = {
        "S1": 4.0 - 1.0, "S1c": 4.0 - 2.0, "S3a": 4.0 - 32.0, "S3b": 4.0 - 64.0, "S5": 4.0 - 8.0, "S5f": 4.0 - 16.0,
        "S4f": 9.0 - 81.0, "S8a": 0.4 - 0.5, "S8b": 25.0 - 125.0,
    }  # fmt: skip
    for name, number in expected.items():
        assert measured(name, records) == pytest.approx(dict.fromkeys((1, 2, 3), number)), name
    better = {claim.id: (claim.better, claim.kind, claim.bound) for claim in CLAIMS}
    assert {name: sign for name, (sign, kind, _) in better.items() if kind == "direction"} == {
        "S1": ">", "S1c": ">", "S2": ">", "S3a": ">=", "S3b": ">=", "S4a": ">", "S4b": "<", "S4f": ">", "S5": ">",
        "S5f": ">", "S8a": "<", "S8b": "<",
    }  # fmt: skip
    assert {bound for _, _, bound in better.values()} == {0.0}


def test_s2_compares_the_gain_at_the_largest_size_with_that_at_the_smallest(trained):
    bleu = {50: (10.0, 11.0), 100: (20.0, 29.0), 800: (30.0, 33.5)}
    for sizes in ((50, 100, 800), (800, 50, 100)):
        assert measured("S2", swept(trained["records"], sizes, bleu)) == pytest.approx(dict.fromkeys((1, 2, 3), 2.5))
    assert measured("S2", swept(trained["records"], (100,), bleu)) == {}
    some = swept(trained["records"], (50,), bleu) + swept(trained["records"][1:], (800,), bleu)
    assert measured("S2", some) == pytest.approx({2: 2.5, 3: 2.5})
    # 0 stands for all rows, which are more than any number
    everything = swept(trained["records"], (0, 100), {0: (30.0, 33.0), 100: (20.0, 21.0)})
    assert measured("S2", everything) == pytest.approx(dict.fromkeys((1, 2, 3), 2.0))


def graded(claim_id: str, records: list[dict]) -> claims.Grade:
    return claims.grade(next(claim for claim in CLAIMS if claim.id == claim_id), records)


def converged(seed: int, gain: float, passes: float = 30.0, drift: float = 0.0, knows: float = 0.9, rows: int = 500):
    """A record whose baseline moves by two thirds of `drift` in the end and read its data `passes` times."""
    bleu = [30.0] * 4 + [40.0] * 8 + [40.0 + drift] * 2
    history = [
        {"kind": "eval", "update": 10 * i, "epoch": passes * i / len(bleu), "bleu": score}
        for i, score in enumerate(bleu, 1)
    ]
    arms = {}
    for name, extra in (("baseline", 0.0), ("baseline_compute", 1.0), ("seer_forcing", gain)):
        metrics = {"test_bleu": 40.0 + extra, "final_accuracy": 0.8, "last_test_bleu": 40.0 + extra}
        metrics |= {"final_seer_accuracy": knows} if name == "seer_forcing" else {}
        arms[name] = {"metrics": metrics, "history": history}
    return {"seed": seed, "settings": {"train_rows": rows, "warmup": 1}, "arms": arms}


SPREAD = {1: 2.0, 2: 2.5, 3: 3.0}  # BLEU


@pytest.mark.parametrize(
    ("changes", "verdict", "words"),
    [
        ({}, "supported", "whole interval"),
        ({"drift": 2.4}, "not testable here", "plateau: .* which is 1.6 BLEU here: train longer"),
        ({"drift": -2.4}, "not testable here", "plateau"),
        ({"passes": 19.0}, "not testable here", "read at least 20 times .* which is 19 times here"),
        ({"knows": 0.7}, "not testable here", "the seer knows more .* which is -0.1 accuracy here"),
    ],
    ids=str,
)
def test_the_headline_is_graded_where_its_needs_hold(changes, verdict, words):
    grade = graded("S1", [converged(seed, gain, **changes) for seed, gain in SPREAD.items()])
    assert grade.verdict == verdict and re.search(words, grade.reason), grade.reason
    assert grade.values == pytest.approx(SPREAD)  # the numbers are shown, whatever the verdict


@pytest.mark.parametrize(
    ("gains", "verdict", "words"),
    [
        ((-0.4, 0.1, 0.2), "inconclusive", "contains 0"),  # narrow: half of it is 0.8 BLEU
        ((-2.0, 0.5, 1.0), "not testable here", "an interval that holds 0 .* which is 3.99 BLEU here: more seeds"),
        ((3.0, 6.0, 9.0), "not testable here", "which is 7.45 BLEU here"),  # -1.5 to 13.5 holds 0
        ((7.0, 9.0, 11.0), "supported", "whole interval"),  # wide, and yet it says something
        ((-7.0, -9.0, -11.0), "contradicted", "other side"),
    ],
)
def test_runs_that_could_not_see_one_bleu_decide_nothing(gains, verdict, words):
    grade = graded("S1", [converged(seed, gain) for seed, gain in enumerate(gains, 1)])
    assert grade.verdict == verdict and re.search(words, grade.reason), grade.reason


def test_two_seeds_are_too_few_and_not_an_interval_that_is_too_wide():
    grade = graded("S1", [converged(1, 2.0), converged(2, -2.0)])
    assert grade.verdict == "inconclusive" and "at least 3" in grade.reason


def test_s2_needs_as_many_passes_over_every_size_and_a_plateau_at_each():
    def sweep(gains=(1.0, 3.0), passes=(600.0, 602.0), drift=(0.0, 0.0)):
        return [
            converged(seed, gain + 0.1 * seed, read, moved, rows=rows)
            for rows, gain, read, moved in zip((250, 1000), gains, passes, drift, strict=True)
            for seed in (1, 2, 3)
        ]

    grade = graded("S2", sweep())
    assert grade.verdict == "supported" and grade.values == pytest.approx(dict.fromkeys((1, 2, 3), 2.0))
    assert graded("S2", sweep(gains=(3.0, 1.0))).verdict == "contradicted"
    unequal = graded("S2", sweep(passes=(600.0, 150.0)))
    assert unequal.verdict == "not testable here" and "equally often" in unequal.reason and "4 times" in unequal.reason
    for drift in ((2.0, 0.0), (0.0, 2.0)):
        rising = graded("S2", sweep(drift=drift))
        assert rising.verdict == "not testable here" and "at every size the baseline" in rising.reason


def test_the_table_of_claims_is_short_and_says_what_the_paper_says():
    assert [claim.id for claim in CLAIMS if claim.rank == "headline"] == ["S1"]
    assert len([claim for claim in CLAIMS if claim.rank != "further"]) <= 6
    for claim in CLAIMS:
        assert claim.paper != "not stated" and claim.published is None  # no number of the paper was seen
        assert claim.kind == "direction"


def handmade(rows: list[tuple], warmup: int = 10, seed: int = 1, arm: str = "seer_forcing") -> dict:
    """A record with evaluations (update, accuracy, seer_accuracy, loss, seer_loss)."""
    names = ("update", "accuracy", "seer_accuracy", "loss", "seer_loss")
    history = [{"kind": "eval", **dict(zip(names, row, strict=True))} for row in rows]
    history.insert(1, {"kind": "train", "update": 15, "loss": 9.0, "accuracy": 1.0, "seer_loss": 0.0})
    return {"seed": seed, "settings": {"warmup": warmup}, "arms": {arm: {"history": history, "metrics": {}}}}


def test_s4_takes_the_worst_evaluation_after_the_warm_up():
    rows = [
        (5, 0.9, 0.1, 1.0, 9.0),  # in the warm-up, and so is the next: it ends with update 10
        (10, 0.9, 0.2, 1.0, 8.0),
        (11, 0.30, 0.50, 3.0, 2.5),
        (20, 0.40, 0.45, 2.5, 1.0),
        (30, 0.50, 0.70, 2.0, 1.9),
    ]
    record = handmade(rows)
    assert measured("S4a", [record]) == pytest.approx({1: 0.05})
    assert measured("S4b", [record]) == pytest.approx({1: -0.1})
    several = [record, handmade(rows, warmup=20, seed=2), handmade(rows, seed=3, arm="joint")]
    assert measured("S4a", several) == pytest.approx({1: 0.05, 2: 0.2})
    assert measured("S4b", several) == pytest.approx({1: -0.1, 2: -0.1})
    assert measured("S4a", [handmade(rows, warmup=0)]) == pytest.approx({1: -0.8})


@pytest.mark.parametrize("claim_id", ["S4a", "S4b"])
def test_s4_without_an_evaluation_after_the_warm_up_is_not_run(claim_id):
    claim = next(claim for claim in CLAIMS if claim.id == claim_id)
    short = handmade([(5, 0.1, 0.2, 3.0, 2.0)])
    assert claims.grade(claim, [short]).verdict == claims.NOT_RUN
    assert set(claim.measure([short, handmade([(15, 0.1, 0.2, 3.0, 2.0)], seed=2)])) == {2}


@pytest.mark.parametrize("place", [0, 1, 2])
def test_s4_of_a_seed_that_diverged_is_no_number(place):
    rows = [[update, 0.1, 0.2, 3.0, 2.0] for update in (20, 30, 40)]
    rows[place][1:] = [math.nan] * 4
    for name in ("S4a", "S4b"):
        claim = next(claim for claim in CLAIMS if claim.id == name)
        assert math.isnan(claim.measure([handmade(rows)])[1])
        assert claims.grade(claim, [handmade(rows, seed=seed) for seed in (1, 2, 3)]).verdict == claims.INCONCLUSIVE


# ---------------------------------------------------------------- settings, and real data


def test_the_papers_own_settings_are_in_the_table():
    s = resolve(EXPERIMENTS, "paper")["translation"]
    expected = {
        "alpha": 0.5, "seer_dropout": 0.1, "shift": 2, "reading": "reversed", "full_cross_entropy": False,
        "width": 512, "feedforward": 2048, "heads": 8, "layers": 6, "dropout": 0.1, "label_smoothing": 0.1,
        "smoothing_convention": "uniform", "learning_rate": 7e-4, "warmup": 4000, "schedule": "inverse_sqrt",
        "weight_decay": 0.0, "clip": 0.0, "max_tokens": 4096, "accumulation": 8, "beams": 4, "pair": "en-de",
        "data": "hub:wmt/wmt16/de-en",
    }  # fmt: skip
    assert {name: s[name] for name in expected} == expected
    assert Recipe().betas == (0.9, 0.98)
    for setting in EXPERIMENT.settings.settings.values():
        assert setting.meaning, setting.name
    for name in expected:
        assert EXPERIMENT.settings.settings[name].source, name
    for preset in ("demo", "study"):
        chosen = resolve(EXPERIMENTS, preset)["translation"]
        assert (chosen.shift, chosen.reading, chosen.full_cross_entropy) == (2, "reversed", False)
        assert chosen.warmup < chosen.updates - chosen.eval_every  # else claim S4 would have nothing to go by


def test_the_bed_is_r_drops():
    """What is compared must have the same data, model and training; only the paper's own preset departs."""
    for preset in ("demo", "grammar", "small", "study"):
        ours = resolve(EXPERIMENTS, preset)["translation"]
        theirs = resolve(r_drop.EXPERIMENTS, preset)["translation"]
        assert not {name for name in ours.keys() & theirs.keys() - {"alpha"} if ours[name] != theirs[name]}


def test_what_is_no_ablation_is_trained_unless_arms_are_named():
    assert [arm.name for arm in EXPERIMENT.chosen()] == ["baseline", "baseline_compute", "seer_forcing", "joint"]


def test_real_data(real_data, tmp_path):
    settings = tiny_settings(
        data=str(real_data / "multi30k"), test_split="test_2016_flickr", vocab_size=500, max_tokens=600, updates=4
    )
    (record,) = run(EXPERIMENT, settings, [1], tmp_path, ["baseline", "seer_forcing"])
    rows = record["provenance"]["data"]["rows"]
    assert 30 < rows["train"] <= 40 and rows["validation"] == rows["test"] == 10  # long pairs are not trained on
    metrics = record["arms"]["seer_forcing"]["metrics"]
    assert metrics["test_seer_loss"] > 0 and metrics["test_seer_leak"] < 1e-3 and metrics["test_past_leak"] < 1e-3
    net = load_model(EXPERIMENT, settings, "seer_forcing", 1, tmp_path)
    method = load_method(EXPERIMENT, settings, "seer_forcing", net, 1, tmp_path)
    seen = method.extra_scores(net, Translation(settings).fixed_batches("test"))
    assert seen["seer_loss"] == pytest.approx(metrics["test_seer_loss"], rel=1e-6)


def test_the_cost_is_known_before_there_is_a_model():
    for arm in (EXPERIMENT.arm("seer_forcing"), EXPERIMENT.arm("no_future")):
        for preset in ("grammar", "small"):
            s = resolve(EXPERIMENTS, preset)["translation"]
            more = EXPERIMENT.arm("baseline_compute").recipe(s)["updates"]
            assert more == round(arm.method(s).passes * s.updates) > s.updates
