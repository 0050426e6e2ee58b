"""The store of records: arms of equal settings add up, other data stays apart, what is no record is named."""

import itertools
import json

import pytest

from kdutils.core.errors import UserError
from kdutils.study import claims, measures, results
from kdutils.study.claims import Claim, grade

DEMO, MINE = "demo-rows", "rows-of-mine"


def record(
    seed=1, scores=(20.0, 29.0), date="2026-01-01", data=DEMO, corpus="demo", arms=("baseline", "r_drop"), **changed
):
    """A record of two arms; the settings in `changed` are overridden, log_every only set."""
    overrides = {name: value for name, value in changed.items() if name != "log_every"}
    return {
        "paper": "r_drop", "task": "translation", "preset": "demo", "seed": seed, "overrides": overrides,
        "settings": {"data": "demo", "alpha": 5.0, "train_rows": 500, "log_every": 20, **changed},
        "arms": {arm: {"metrics": {"bleu": score}, "provenance": {"date": date}}
                 for arm, score in zip(arms, scores, strict=False)},
        "provenance": {"date": date, "data": {"corpus": corpus, "fingerprint": data}},
    }  # fmt: skip


def bleu(records):
    return [{arm: found["metrics"]["bleu"] for arm, found in record["arms"].items()} for record in records]


# --- arms that add up --------------------------------------------------------------------------------------------


def test_a_newer_record_replaces_only_the_arms_it_has():
    full = record(arms=("baseline", "baseline_2x", "r_drop"), scores=(20.0, 24.0, 29.0), date="2026-01-01")
    one_arm = record(arms=("baseline",), scores=(21.0,), date="2026-02-01")
    for order in ([full, one_arm], [one_arm, full]):
        (found,) = results.merged(order)
        assert bleu([found]) == [{"baseline": 21.0, "baseline_2x": 24.0, "r_drop": 29.0}]
        assert list(found["arms"]) == ["baseline", "baseline_2x", "r_drop"]
        assert found["provenance"]["date"] == "2026-02-01"
    assert bleu([full]) == [{"baseline": 20.0, "baseline_2x": 24.0, "r_drop": 29.0}]  # what was given is not touched


def test_an_arm_is_as_old_as_its_own_training_and_the_first_of_equals_counts():
    older = record(scores=(1.0, 2.0), date="2026-01-01")
    rewritten = record(scores=(3.0, 4.0), date="2026-03-01")
    rewritten["arms"]["baseline"]["provenance"]["date"] = "2025-12-01"  # written again when r_drop was added
    assert bleu(results.merged([older, rewritten])) == [{"baseline": 1.0, "r_drop": 4.0}]
    copy = record(scores=(9.0, 9.0))
    assert results.merged([older, copy]) == [older]
    for one in (older, copy):
        one["provenance"] = {"data": one["provenance"]["data"]}
        one["arms"] = {name: {"metrics": arm["metrics"]} for name, arm in one["arms"].items()}
    assert bleu(results.merged([older, copy])) == [{"baseline": 1.0, "r_drop": 2.0}]  # without dates too


def test_other_settings_data_seeds_and_presets_stay_records_of_their_own():
    different = [record(), record(2), record(alpha=1.0), record(data=MINE), {**record(), "preset": "study"},
                 {**record(), "task": "classification"}, {**record(), "paper": "lssd"},
                 {**record(), "settings": {"alpha": 4.0}}]  # fmt: skip
    assert results.merged(different) == different
    assert len(results.merged([record(), record(log_every=1)])) == 1  # what is logged decides no result


def test_a_gain_is_taken_from_the_merged_arms():
    full = [record(seed, (20.0 + seed, 29.0 + 2 * seed)) for seed in (1, 2, 3)]
    mine = [record(2, (25.5,), date="2026-05-01", arms=("baseline",))]
    found = results.for_claim((), [*mine, *full], "translation", "demo")
    assert measures.paired_difference(found, "bleu", "r_drop", "baseline") == {1: 10.0, 2: 7.5, 3: 12.0}


# --- somebody else's data ----------------------------------------------------------------------------------------

SWEEP = Claim("R6", "BLEU rises with alpha.",
              lambda records: measures.trend(measures.sweep_setting(records, "bleu", "r_drop", "alpha")),
              over=("alpha",))  # fmt: skip


def test_a_run_on_ones_own_data_is_not_graded_by_the_sweep_of_the_demo():
    store = [record(seed, (20.0, 29.0 + alpha), alpha=alpha) for seed in (1, 2, 3) for alpha in (1.0, 5.0, 10.0)]
    mine = [record(seed, data=MINE, corpus="mine") for seed in (1, 2, 3)]
    for one in mine:
        one["overrides"] = {"data": "/my/corpus"}
    demo = record(4)

    def verdict(like, records):
        return grade(SWEEP, results.for_claim(SWEEP.over, records, "translation", "demo", like)).verdict

    assert verdict(None, store) == verdict(demo, [demo, *store]) == claims.SUPPORTED
    assert verdict(mine[0], [*mine, *store]) == claims.NOT_RUN
    assert results.for_claim(SWEEP.over, [*mine, *store], "translation", "demo", mine[0]) == mine


def test_a_sweep_at_other_settings_is_not_the_sweep_of_the_preset():
    store = [record(alpha=1.0), record(alpha=1.0, dropout=0.3), record(dropout=0.3)]
    assert results.for_claim(("alpha",), store, "translation", "demo") == [store[0]]
    assert results.for_claim(("alpha",), store, "translation", "demo", like=store[2]) == store[1:]


def test_the_same_settings_on_other_rows_are_never_pooled():
    old, new = record(1, data="old rows", date="2025-01-01"), record(2, data="new rows")
    swept = record(3, data="old rows", alpha=1.0)
    assert results.for_claim(("alpha",), [old, new, swept], "translation", "demo") == [new]
    assert results.for_claim(("alpha",), [old, new, swept], "translation", "demo", like=old) == [old, swept]


def test_a_sweep_over_the_rows_themselves_stays_within_its_corpus():
    store = [record(), record(data="fewer", train_rows=250), record(data="theirs", corpus="theirs", train_rows=250)]
    assert results.for_claim(("train_rows",), store, "translation", "demo") == store[:2]
    assert not results.comparable(store[0], store[1], ("alpha",))


# --- what is no record -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"overrides": []}, "'overrides' has to be an object"),
        ({"settings": None}, "'settings' has to be an object"),
        ({"provenance": "cpu"}, "'provenance' has to be an object"),
        ({"provenance": {"data": 3}}, "'data' has to be an object"),
        ({"provenance": {"data": {"notes": [1]}}}, "an entry of 'notes' has to be text"),
        ({"provenance": {"date": 2026}}, "'date' has to be text"),
        ({"paper": ["r_drop"]}, "'paper' has to be text"),
        ({"seed": True}, "'seed' has to be a whole number"),
        ({"seed": 1.5}, "'seed' has to be a whole number"),
        ({"arms": {}}, "it lacks arms"),
        ({"arms": {"a": {}}}, "'a' lacks metrics"),
        ({"arms": {"a": {"metrics": {"bleu": "30"}}}}, "'bleu' has to be a number"),
        ({"arms": {"a": {"metrics": {"bleu": 10**400}}}}, "'bleu' has to be a number"),
        ({"arms": {"a": {"metrics": {"bleu": 1}, "history": {}}}}, "'history' has to be a list"),
        ({"arms": {"a": {"metrics": {"bleu": 1}, "history": [7]}}}, "an entry of 'history' has to be an object"),
    ],
)
def test_a_record_of_the_wrong_type_is_named_in_one_sentence(tmp_path, change, words):
    path = tmp_path / "r_drop/demo/one.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**record(), **change}))
    for reading in (lambda: results.read(path), lambda: results.recorded("r_drop", tmp_path)):
        with pytest.raises(UserError, match=f"one.json is JSON but not a record: {words}"):
            reading()


@pytest.mark.parametrize(
    ("depth", "fault"),
    [(30, "JSON but not a record: it is"), (1000, r"not valid JSON \(it is"), (100_000, r"not valid JSON \(it is")],
)
def test_json_that_is_nested_too_deeply_is_named(tmp_path, depth, fault):
    (tmp_path / "deep.json").write_text('{"paper": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(UserError, match=f"deep.json is {fault} nested too deeply"):
        results.read(tmp_path / "deep.json")


def test_a_folder_in_the_place_of_a_record_is_named(tmp_path):
    (tmp_path / "one.json").mkdir()
    with pytest.raises(UserError, match="one.json"):
        results.read(tmp_path / "one.json")


def test_what_a_record_may_lack_is_empty(tmp_path):
    (tmp_path / "one.json").write_text(
        '{"paper": "p", "preset": "demo", "seed": 0, "arms": {"a": {"metrics": {"x": null}}}}'
    )
    found = results.read(tmp_path / "one.json")
    assert (found["task"], found["settings"], found["overrides"], found["provenance"]) == ("", {}, {}, {})


# --- beds: what is graded, and what chose the settings ------------------------------------------------------------


def on_bed(preset, seed, scores, **changed):
    """A record of a bed; the small one's captions lie in a folder of somebody's."""
    if preset == "grammar":
        return {**record(seed, scores, **changed), "preset": preset}
    made = {**record(seed, scores, data="rows", corpus="captions", **changed), "preset": preset}
    made["overrides"] |= {"data": "a/captions", "test_split": "t"}
    return made


GAIN = Claim("R1", "BLEU is higher.", measures.gain("bleu", "r_drop", "baseline"), unit="BLEU", task="translation",
             rank="headline", words="at equal updates")  # fmt: skip


def test_a_bed_is_found_wherever_its_data_were_taken_from_and_no_tuning_seed_is_graded():
    store = [on_bed("small", seed, (20.0, 23.0)) for seed in (1, 2)]
    chosen_on, swept = on_bed("small", 11, (0.0, 99.0)), on_bed("small", 1, (20.0, 24.0), alpha=1.0)
    found = results.for_claim((), [*store, chosen_on, swept], "translation", "small")
    assert found == store
    assert results.for_claim(("alpha",), [*store, chosen_on, swept], "translation", "small") == [*store, swept]
    mine = {**record(), "overrides": {"data": "mine"}}
    assert results.for_claim((), [mine], "translation", "demo") == []  # no bed


def test_a_claim_is_graded_on_every_bed_that_has_records():
    store = [on_bed("grammar", seed, (20.0, 22.0 + seed / 10)) for seed in (1, 2, 3)]
    store += [on_bed("small", seed, (20.0, 20.0 + seed - 2)) for seed in (1, 2, 3)]
    graded = claims.on_beds([GAIN], store, "translation")
    assert [(bed, one.verdict, one.n) for bed, one in graded] == [
        ("grammar", claims.SUPPORTED, 3), ("captions", claims.INCONCLUSIVE, 3)
    ]  # fmt: skip
    assert claims.sentence(graded) == (
        "grammar: +2.20 [+1.95, +2.45] BLEU at equal updates (supported); "
        "captions: 0.0 [-2.5, 2.5] BLEU at equal updates (inconclusive)"
    )
    assert claims.on_beds([GAIN], [], "translation") == [] and "Nothing" in claims.sentence([])


@pytest.mark.parametrize("lines", [0, 1, 19, 20, 21, 400])
def test_a_record_keeps_every_evaluation_and_a_few_lines_of_the_training(lines):
    history = [{"kind": "train", "update": 10 * (n + 1)} for n in range(lines)]
    history += [{"kind": "eval", "update": 7 * n} for n in range(60)]
    found = results.thinned(history)
    assert [row for row in found if row["kind"] == "eval"] == history[lines:]
    kept = [row["update"] for row in found if row["kind"] == "train"]
    assert len(kept) == min(lines, 20) and kept == sorted(set(kept))
    assert not lines or kept[-1] == 10 * lines
    gaps = {after - before for before, after in itertools.pairwise(kept)}
    assert not gaps or max(gaps) - min(gaps) <= 10


def test_the_trials_are_the_tuning_seeds_best_first():
    scores = {11: (20.0, 22.0), 12: (21.0, 24.0), 1: (90.0, 90.0)}
    store = [on_bed("grammar", seed, pair) for seed, pair in scores.items()]
    store += [on_bed("grammar", 11, (30.0,), dropout=0.3), on_bed("small", 11, (1.0, 2.0))]
    assert results.trials(store, "translation", "grammar", "bleu") == [
        {"arm": "baseline", "dropout": 0.3, "updates": None, "seeds": 1, "bleu": 30.0},
        {"arm": "baseline", "updates": None, "seeds": 2, "bleu": 20.5},
        {"arm": "r_drop", "updates": None, "seeds": 2, "bleu": 23.0},
    ]


def test_a_record_from_before_selection_was_named_says_what_it_was(tmp_path):
    for task, metric in (("translation", "loss"), ("classification", "accuracy")):
        old = {**record(), "task": task}
        path = tmp_path / f"{task}.json"
        path.write_text(json.dumps(old), encoding="utf-8")
        assert results.read(path)["settings"]["select_by"] == metric
