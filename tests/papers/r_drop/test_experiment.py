"""R-Drop as a training method and as an experiment; its objective is in test_objective.py."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer

from kdutils.core.errors import UserError
from kdutils.data.batches import collate_translation
from kdutils.models.forward import counted_logits
from kdutils.papers.r_drop.claims import CLAIMS
from kdutils.papers.r_drop.experiment import ARMS, EXPERIMENTS, extra_scores
from kdutils.papers.r_drop.method import RDrop
from kdutils.papers.r_drop.objective import r_drop_loss
from kdutils.study import claims, measures
from kdutils.study.experiment import resolve
from kdutils.study.running import folder, load_model, run
from kdutils.tasks.scores import dropout_scores
from kdutils.training.loop import fit
from kdutils.training.method import Method, Step
from tests import tiny
from tests.tiny import SMALL, assert_same_weights, one_sentence

NOW = Step(update=2, updates=10, epoch=0, logged=True)
SILENT = Step(update=3, updates=10, epoch=0, logged=False)


@pytest.fixture
def batch():
    """Five pairs of unequal length, so that there is padding."""
    made = collate_translation()(tiny.examples(5))
    assert made["targets"].numel() < made["labels"].numel()
    return made


class Watch:
    """Counts forward passes and what reaches the output projection."""

    def __init__(self, net):
        self.rows, self.projected = [], []
        net.register_forward_pre_hook(lambda m, a, k: self.rows.append(k["input_ids"].shape[0]), with_kwargs=True)
        net.get_output_embeddings().register_forward_hook(lambda m, i, o: self.projected.append(tuple(o.shape)))


# ---------------------------------------------------------------- the method


def test_one_forward_pass_over_the_doubled_batch_projects_only_what_counts(batch):
    net = tiny.model(dropout=0.1).train()
    watch, n = Watch(net), batch["targets"].numel()
    terms = RDrop(alpha=5.0).loss(net, batch, {"targets": n}, NOW)
    assert watch.rows == [2 * 5] and watch.projected == [(2 * n, tiny.VOCABULARY)]
    terms["loss"].backward()
    assert len(watch.rows) == 1
    RDrop(m=3).loss(net, batch, {"targets": n}, NOW)
    assert watch.rows[1:] == [3 * 5] and watch.projected[1:] == [(3 * n, tiny.VOCABULARY)]


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_without_dropout_it_is_the_objective_of_two_separate_passes(epsilon, batch):
    net, n = tiny.model(dropout=0.0).train(), batch["targets"].numel()
    ours = RDrop(alpha=5.0, epsilon=epsilon).loss(net, batch, {"targets": n}, NOW)["loss"]
    apart = torch.stack([counted_logits(net, batch), counted_logits(net, batch)])
    torch.testing.assert_close(ours, r_drop_loss(apart, batch["targets"], 5.0, epsilon=epsilon))


def test_with_dropout_the_two_halves_are_two_draws(batch):
    net, n = tiny.model(dropout=0.3).train(), batch["targets"].numel()
    torch.manual_seed(4)
    terms = RDrop(alpha=2.0).loss(net, batch, {"targets": n}, NOW)
    torch.manual_seed(4)
    logits = counted_logits(net, batch, copies=2)
    torch.testing.assert_close(terms["loss"], r_drop_loss(logits, batch["targets"], 2.0))
    assert terms["kl"] > 1e-3 and not torch.allclose(logits[0], logits[1])


def test_r12_without_dropout_the_kl_is_exactly_zero_and_the_loss_twice_the_plain_one(batch):
    net, counts = tiny.model(dropout=0.0).train(), {"targets": batch["targets"].numel()}
    for alpha in (0.0, 5.0):
        ours = RDrop(alpha=alpha, epsilon=0.1).loss(net, batch, counts, NOW)
        plain = Method(epsilon=0.1).loss(net, batch, counts, NOW)
        torch.testing.assert_close(ours["loss"], 2 * plain["loss"])
        assert ours["kl"].item() == 0.0
    run_of_it = tiny.train(None, RDrop(alpha=5.0), dropout=0.0)
    assert [row["kl"] for row in run_of_it.history] == [0.0] * 12


def test_alpha_zero_trains_as_plain_training_on_the_doubled_batch():
    """Adam does not mind a loss that is twice as large, so without dropout the two are one training."""
    changes = {"dropout": 0.0, "clip": 0.0, "evaluate": None, "updates": 4}
    ours, plain = tiny.train(None, RDrop(alpha=0.0), **changes), tiny.train(None, Method(), **changes)
    ratios = [a["loss"] / b["loss"] for a, b in zip(ours.history, plain.history, strict=True)]
    assert ratios == pytest.approx([2.0, 2.0], rel=1e-3)


def test_in_between_the_k_th_updates_the_loss_is_the_plain_one(batch):
    net, counts = tiny.model(dropout=0.0).train(), {"targets": batch["targets"].numel()}
    watch, method = Watch(net), RDrop(alpha=5.0, k=3, epsilon=0.1)
    losses = []
    for update in range(1, 8):
        losses.append(method.loss(net, batch, counts, Step(update, 10, 0, True)))
    assert watch.rows == [5, 5, 10, 5, 5, 10, 5]
    plain = Method(epsilon=0.1).loss(net, batch, counts, NOW)["loss"]
    for update, terms in enumerate(losses, start=1):
        assert ("kl" in terms) == (update % 3 == 0)
        torch.testing.assert_close(terms["loss"], plain * (2 if update % 3 == 0 else 1))


def test_a_k_beyond_the_run_is_plain_training():
    never, plain = tiny.train(None, RDrop(alpha=5.0, k=1000)), tiny.train(None, Method())
    assert_same_weights(never.model, plain.model)
    assert tiny.timeless(never.history) == tiny.timeless(plain.history)


def test_the_parts_are_only_computed_where_they_are_written_down(batch):
    net, counts = tiny.model(dropout=0.1).train(), {"targets": batch["targets"].numel()}
    assert set(RDrop().loss(net, batch, counts, SILENT)) == {"loss"}
    terms = RDrop(alpha=2.0).loss(net, batch, counts, NOW)
    assert set(terms) == {"loss", "nll", "kl"} and not terms["kl"].requires_grad


def test_the_loss_is_a_share_of_the_whole_update(batch):
    net = tiny.model(dropout=0.0).train()
    n = batch["targets"].numel()
    whole = RDrop(alpha=1.0).loss(net, batch, {"targets": n}, NOW)
    part = RDrop(alpha=1.0).loss(net, batch, {"targets": 4 * n}, NOW)
    torch.testing.assert_close(4 * part["loss"], whole["loss"])
    torch.testing.assert_close(4 * part["nll"], whole["nll"])


def test_gradients_reach_the_weights_through_both_halves(batch):
    net, counts = tiny.model(dropout=0.2).train(), {"targets": batch["targets"].numel()}
    RDrop(alpha=5.0).loss(net, batch, counts, NOW)["loss"].backward()
    without = [name for name, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


@pytest.mark.parametrize("wrong", [{"alpha": -0.1}, {"alpha": float("nan")}, {"k": 0}, {"m": 1}, {"m": 0}])
def test_wrong_weights_are_refused(wrong):
    with pytest.raises(UserError, match="R-Drop needs") as caught:
        RDrop(**wrong)
    one_sentence(caught.value)


@pytest.mark.parametrize("wrong", [{"epsilon": 1.0}, {"epsilon": -0.1}, {"convention": "fairseq"}])
def test_wrong_smoothing_is_refused_before_any_training(wrong):
    for made in (RDrop, Method):
        with pytest.raises(UserError) as caught:
            made(**wrong)
        one_sentence(caught.value)


def test_it_brings_the_passes_together():
    """On the same updates, the KL between two dropout passes ends lower with alpha than without."""
    kl = {}
    for alpha in (0.0, 5.0):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = tiny.model(dropout=0.2)
            fit(net, RDrop(alpha=alpha), tiny.batches(), tiny.recipe(updates=80, log_every=80))
        kl[alpha] = dropout_scores(net, tiny.batches(), passes=4)["kl"]
    assert kl[5.0] < 0.6 * kl[0.0]


# ---------------------------------------------------------------- the experiment

TINY = {**SMALL, "updates": 4, "translation.max_tokens": 200, "vocab_size": 400}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both experiments, all arms, three seeds; and the translation without dropout."""
    runs = tmp_path_factory.mktemp("runs")
    settings = resolve(EXPERIMENTS, "demo", TINY)
    dry = resolve(EXPERIMENTS, "demo", {**TINY, "dropout": 0.0}, ["translation"])["translation"]
    records = {e.name: run(e, settings[e.name], [1, 2, 3], runs) for e in EXPERIMENTS}
    return {
        "runs": runs,
        "settings": settings,
        "records": records,
        "dry": run(EXPERIMENTS[0], dry, [1, 2, 3], runs, ["r_drop"]),
    }


VERDICTS = set(claims.SYMBOLS)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_can_be_graded(claim, trained):
    sets = [*trained["records"].values(), trained["dry"], trained["records"]["translation"][:1], []]
    sets.append([*trained["records"]["translation"], *trained["dry"]])
    for records in sets:
        grade = claims.grade(claim, records)
        assert grade.verdict in VERDICTS
        assert grade.reason and "\n" not in grade.reason


def test_the_claims_of_a_plain_run_have_their_numbers(trained):
    """Those that need no sweep are graded from the records of one experiment."""
    for task, records in trained["records"].items():
        for claim in claims.about(CLAIMS, task):
            grade = claims.grade(claim, records)
            # R3b compares rises, and speaks of nothing where the baseline's loss has not risen
            swept = bool(claim.over) and claim.id != "R1c"  # of any length, so that one run is enough
            silent = swept or (claim.id == "R3b" and not grade.n)
            assert (grade.verdict == claims.NOT_RUN) == silent, (claim.id, grade.reason)
            assert silent or grade.n == 3 or claim.id == "R3b"


def test_without_dropout_the_two_passes_are_one(trained):
    assert measures.value(trained["dry"], "r_drop", "final_kl") == {1: 0.0, 2: 0.0, 3: 0.0}


def test_one_headline_and_at_most_five_others_stand_in_the_table():
    assert [claim.id for claim in claims.ranked(CLAIMS, "headline")] == ["R1"]
    assert len(claims.ranked(CLAIMS, "headline", "table")) == 6


def test_short_runs_decide_nothing(trained):
    """Four updates read the data less than once: whatever they show, the headline is not testable on them."""
    headline = claims.ranked(CLAIMS, "headline")[0]
    found = claims.grade(headline, trained["records"]["translation"])
    assert found.verdict == claims.NOT_TESTABLE and "read at least 20 times" in found.reason


def test_sweeps_are_graded_from_records_of_several_settings(trained):
    """Made from the records at hand, as a sweep over the setting would leave them."""
    base = trained["records"]["translation"]

    def swept(setting, values):
        return [{**record, "settings": {**record["settings"], setting: v}} for v in values for record in base]

    for setting, values, ids in [
        ("alpha", (1.0, 3.0, 5.0, 7.0, 10.0), {"R6a", "R6b"}),
        ("k", (1, 2, 5, 10), {"R7"}),
        ("m", (2, 3), {"R8"}),
        ("train_rows", (40, 80), {"R11"}),
    ]:
        for claim in CLAIMS:
            if claim.id in ids:
                assert setting in claim.over
                grade = claims.grade(claim, swept(setting, values))
                assert grade.n == 3 and grade.verdict != claims.NOT_RUN, (claim.id, grade.reason)


def test_the_arms_start_alike_and_the_longer_baseline_has_twice_the_updates(trained):
    for records in trained["records"].values():
        for record in records:
            arms = record["arms"]
            assert list(arms) == [arm.name for arm in ARMS] == ["baseline", "baseline_2x", "r_drop"]
            assert arms["baseline_2x"]["metrics"]["updates"] == 2 * arms["r_drop"]["metrics"]["updates"]
            assert len({arm["metrics"]["parameters"] for arm in arms.values()}) == 1
            logged = [row for row in arms["r_drop"]["history"] if row["kind"] == "train"]
            assert all({"loss", "nll", "kl"} <= row.keys() for row in logged)


def test_a_trained_student_is_loaded_by_plain_transformers(trained):
    loaders = {"translation": AutoModelForSeq2SeqLM, "classification": AutoModelForSequenceClassification}
    for experiment in EXPERIMENTS:
        settings = trained["settings"][experiment.name]
        place = folder(experiment, settings, trained["runs"]) / "seed-2/r_drop/model"
        plain = loaders[experiment.name].from_pretrained(place).eval()
        tokenizer = AutoTokenizer.from_pretrained(place)
        ours = load_model(experiment, settings, "r_drop", 2, trained["runs"])
        assert_same_weights(plain, ours)
        task = experiment.task(settings)
        text = task.corpus.splits["test"][0]["src" if experiment.name == "translation" else "text"]
        assert tokenizer(text)["input_ids"] == task.tokenizer(text)["input_ids"]
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
        batch = task.fixed_batches("test").batch(0, 0)
        assert torch.equal(counted_logits(plain, batch), counted_logits(ours, batch))
        record = trained["records"][experiment.name][1]["arms"]["r_drop"]["metrics"]
        assert task.test(plain)["test_loss"] == pytest.approx(record["test_loss"], rel=1e-6)
        best = task.validate(plain)["loss"]  # what was exported are the best weights, not the last
        assert best == pytest.approx(record["validation_loss"], rel=1e-6)


def test_evaluation_is_one_pass_without_dropout(trained):
    for experiment in EXPERIMENTS:
        settings = trained["settings"][experiment.name].changed(select_by="loss")  # else it translates as well
        task = experiment.task(settings)
        net = task.model(1).train()
        rows = []
        handle = net.register_forward_pre_hook(
            lambda m, a, k, rows=rows: rows.append((k["input_ids"].shape[0], m.training)), with_kwargs=True
        )
        task.validate(net)
        handle.remove()
        assert sum(n for n, _ in rows) == 10 and not any(training for _, training in rows) and net.training


def test_no_layer_is_dropped_for_both_halves_at_once(trained):
    for experiment in EXPERIMENTS:
        config = experiment.task(trained["settings"][experiment.name]).model(1).config
        assert getattr(config, "encoder_layerdrop", 0.0) == getattr(config, "decoder_layerdrop", 0.0) == 0.0


def test_what_is_looked_at_is_zero_without_dropout(trained):
    experiment = EXPERIMENTS[0]
    task = experiment.task(trained["settings"]["translation"].changed(dropout=0.0))
    seen = extra_scores(task, task.model(1))
    assert seen["kl"] == 0.0 and seen["dropout_gap"] == 0.0 and seen["train_loss"] > 0
    with_dropout = experiment.task(trained["settings"]["translation"].changed(dropout=0.3)).model(1)
    assert extra_scores(task, with_dropout)["kl"] > 0.0


def test_the_papers_own_settings_are_in_the_tables():
    paper = resolve(EXPERIMENTS, "paper")
    assert (paper["translation"].alpha, paper["translation"].dropout, paper["translation"].label_smoothing) == (
        5.0,
        0.3,
        0.1,
    )
    assert (paper["translation"].max_tokens, paper["translation"].learning_rate) == (4096, 5e-4)
    for experiment in EXPERIMENTS:
        for setting in experiment.settings.settings.values():
            assert setting.meaning, setting.name
