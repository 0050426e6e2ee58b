"""Claims: verdicts of crafted values, intervals against scipy, and what must never be dropped in silence."""

import math

import numpy as np
import pytest
from scipy import stats

from kdutils.core.errors import UserError
from kdutils.notebook import tables
from kdutils.study import claims, measures
from kdutils.study.claims import Claim, grade


def crafted(values, **options):
    """The grade of a claim whose measure returns these values, one a seed."""
    by_seed = values if isinstance(values, dict) else dict(enumerate(values, 1))
    return grade(Claim("R1", "It holds.", lambda records: by_seed, **options), [{"arms": {}}])


def record(seed, overrides=None, **arms):
    """A record whose arms are given as arm={metric: value, "history": [...]}"""
    made = {name: {"metrics": {k: v for k, v in m.items() if k != "history"}, **m} for name, m in arms.items()}
    settings = {"alpha": 5.0, **(overrides or {})}
    return {"paper": "p", "preset": "demo", "settings": settings, "seed": seed, "arms": made}


@pytest.mark.parametrize(
    ("values", "options", "verdict"),
    [
        ([1.0, 1.1, 1.2], {}, "supported"),
        ([1.0, 1.1, 1.2], {"better": "<"}, "contradicted"),
        ([-1.0, -1.1, -1.2], {}, "contradicted"),
        ([-1.0, -1.1, -1.2], {"better": "<"}, "supported"),
        ([0.5, -0.5, 0.1], {}, "inconclusive"),
        ([1.0, 1.1, 1.2], {"bound": 1.5}, "contradicted"),
        ([1.0, 1.1, 1.2], {"bound": 1.1}, "inconclusive"),
        ([2.0, 2.0, 2.0], {}, "supported"),  # identical seeds: the interval is a point
        ([-2.0, -2.0, -2.0], {}, "contradicted"),
        ([0.0, 0.0, 0.0], {}, "inconclusive"),  # neither above nor below
        ([0.0, 0.0, 0.0], {"better": ">="}, "supported"),
        ([0.0, 0.0, 0.0], {"better": "<="}, "supported"),
        ([0.1, -0.1, 0.0], {"kind": "equivalence", "margin": 0.3}, "supported"),
        ([0.1, -0.1, 0.0], {"kind": "equivalence", "margin": 0.1}, "inconclusive"),
        ([5.1, 4.9, 5.0], {"kind": "equivalence", "margin": 0.3}, "contradicted"),
        ([5.1, 4.9, 5.0], {"kind": "equivalence", "margin": 0.3, "bound": 5.0}, "supported"),
        ([0.0, 0.0], {"kind": "exact"}, "supported"),
        ([0.0, 1e-9], {"kind": "exact"}, "contradicted"),
        ([0.0, 1e-9], {"kind": "exact", "tolerance": 1e-8}, "supported"),
    ],
)
def test_verdicts(values, options, verdict):
    assert crafted(values, **options).verdict == verdict


# ---------------------------------------------------------------- what a run could have decided


def needing(number, **options) -> claims.Grade:
    """The grade of a claim that is clearly supported, if its one need holds of this number."""
    need = claims.Need("the teacher is better", lambda records: {1: number, 2: number}, unit="points", **options)
    return crafted([1.0, 1.1, 1.2], needs=(need,))


@pytest.mark.parametrize(
    ("number", "options", "verdict"),
    [
        (0.5, {}, "supported"), (0.0, {}, "not testable here"), (-0.5, {}, "not testable here"),
        (-0.5, {"better": "<"}, "supported"), (3.0, {"bound": 5.0}, "not testable here"),
        (math.nan, {}, "not testable here"),
    ],
)  # fmt: skip
def test_a_claim_whose_needs_fail_is_not_testable_here(number, options, verdict):
    assert needing(number, **options).verdict == verdict


def test_an_invented_claim_needs_no_arms():
    assert grade(Claim("R1", "It holds.", lambda _: {1: 1.0, 2: 1.1, 3: 1.2}), [{}]).verdict == "supported"


def test_the_reason_names_the_need_the_number_and_what_it_would_take():
    found = needing(-0.5, remedy="train it longer")
    assert found.reason == "It needs that the teacher is better (> 0), which is -0.5 points here: train it longer."
    assert found.values and found.mean == pytest.approx(1.1)  # the number is shown all the same
    assert "not measured here" in needing(math.nan).reason


def test_a_need_that_the_records_do_not_hold_leaves_the_claim_not_run():
    need = claims.Need("it has a teacher", lambda records: measures.value(records, "teacher", "bleu"))
    found = crafted([1.0, 1.1, 1.2], needs=(need,))
    assert found.verdict == "not run" and "bleu" in found.reason or "teacher" in found.reason
    with pytest.raises(UserError, match="no direction"):
        claims.Need("x", lambda records: {}, better="above")


@pytest.mark.parametrize(
    ("values", "published", "verdict"),
    [
        ([3.0, -3.0, 0.3], 2.0, "not testable here"),  # an interval of +-7 cannot see 2
        ([3.0, -3.0, 0.3], 9.0, "inconclusive"),  # it would have seen 9
        ([3.0, -3.0, 0.3], None, "inconclusive"),
        ([9.0, 10.0, 30.0], 2.0, "inconclusive"),
        ([20.0, 21.0, 30.0], 2.0, "supported"),  # wide, and yet on one side
        ([3.0, -3.0, 0.3], -2.0, "not testable here"),
    ],
)
def test_a_run_that_cannot_see_the_papers_effect_decides_nothing(values, published, verdict):
    found = crafted(values, published=published)
    assert found.verdict == verdict or values[0] == 9.0
    if verdict == "not testable here":
        assert "These runs can see differences of" in found.reason and "the paper's is 2" in found.reason


def selected(*pairs):
    """Records of a method and a baseline: its gain with the chosen weights and with the last ones, one pair a seed."""
    return [
        record(seed, ours={"bleu": 20 + chosen, "last_bleu": 20 + last}, theirs={"bleu": 20.0, "last_bleu": 20.0})
        for seed, (chosen, last) in enumerate(pairs, 1)
    ]


def test_a_gain_under_one_selection_only_is_said_to_be_so():
    claim = Claim("R1", "It gains.", measures.gain("bleu", "ours", "theirs"), unit="BLEU")
    both = grade(claim, selected((5.0, 4.0), (5.1, 4.2), (4.9, 3.9)))
    assert both.verdict == "supported" and "selection" not in both.reason and both.mean == pytest.approx(5.0)
    one = grade(claim, selected((5.0, 0.4), (5.1, -0.5), (4.9, 0.2)))
    assert one.verdict == "inconclusive" and one.mean == pytest.approx(5.0)
    assert "The two selections disagree: with the last weights it is +0.0" in one.reason
    against = grade(claim, selected((5.0, -4.0), (5.1, -4.2), (4.9, -3.9)))
    assert against.verdict == "inconclusive" and "it is -4.0" in against.reason


def test_records_that_tested_one_selection_only_are_graded_by_it():
    claim = Claim("R1", "It gains.", measures.gain("bleu", "ours", "theirs"))
    records = selected((5.0, 0.4), (5.1, -0.5), (4.9, 0.2))
    del records[0]["arms"]["theirs"]["metrics"]["last_bleu"]
    assert measures.with_last_weights(records) == [] and grade(claim, records).verdict == "supported"
    assert measures.with_last_weights([]) == []


def test_the_plateau_and_the_passes_over_the_data_are_read_from_the_curve():
    rows = [
        {"kind": "eval", "update": i, "epoch": i // 2, "loss": x}
        for i, x in enumerate([5, 4, 3, 2, 2.5, 2, 2, 2.1, 2, 1.5])
    ]
    records = [record(1, ours={"history": rows})]
    assert measures.plateau("ours", "loss")(records) == {1: pytest.approx(0.3)}
    assert measures.plateau("ours", "loss", share=0.5)(records) == {1: pytest.approx(1.38)}
    assert measures.passes_over_data("ours")(records) == {1: 4.0}


@pytest.mark.parametrize("seeds", [2, 3, 5, 12])
def test_interval_is_scipys(seeds):
    values = np.random.default_rng(seeds).normal(1.0, 2.0, seeds)
    mean, low, high = claims.interval(values)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_verdict_agrees_with_the_two_sided_test():
    generator = np.random.default_rng(0)
    for _ in range(200):
        values = generator.normal(0.8, 1.0, 4)
        significant = stats.ttest_1samp(values, 0.0).pvalue < 0.05
        expected = ("supported" if values.mean() > 0 else "contradicted") if significant else "inconclusive"
        assert crafted(list(values)).verdict == expected


def test_interval_of_one_none_and_nan():
    assert claims.interval([2.0])[0] == 2.0 and math.isnan(claims.interval([2.0])[1])
    assert all(map(math.isnan, claims.interval([])))
    assert all(map(math.isnan, claims.interval([1.0, math.nan])))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
@pytest.mark.parametrize("kind", ["direction", "equivalence", "exact"])
def test_a_diverged_seed_is_named_and_never_dropped(bad, kind):
    result = crafted({1: 1.0, 2: bad, 3: 1.2, 7: 1.1}, kind=kind, margin=1.0)
    assert result.verdict == "inconclusive"
    assert "Seed 2 " in result.reason
    assert result.n == 4
    assert result.ours == "not finite"


def test_two_diverged_seeds_are_both_named():
    assert "Seeds 2 and 3 " in crafted([1.0, math.nan, math.nan, 1.0]).reason


@pytest.mark.parametrize("values", [[9.0], [9.0, 9.1]])
def test_fewer_than_three_seeds_are_inconclusive(values):
    result = crafted(values)
    assert result.verdict == "inconclusive"
    assert "at least 3" in result.reason


def test_nothing_run():
    empty = grade(Claim("R1", "It holds.", lambda records: {}), [])
    assert (empty.verdict, empty.n, empty.ours) == ("not run", 0, "")
    assert empty.reason
    absent = grade(Claim("R1", "It holds.", lambda r: measures.value(r, "r_dorp", "bleu")), [record(1, r_drop={})])
    assert absent.verdict == "not run"
    assert absent.reason == "The arm 'r_dorp' was not recorded here; these were: r_drop."
    assert "'kl'" in grade(Claim("R1", "It holds.", lambda r: {1: r[0]["kl"]}), [record(1)]).reason


def test_pairs_are_read_as_differences():
    assert crafted({1: (3.0, 1.0), 2: (4.0, 2.1), 3: (5.0, 3.05)}).mean == pytest.approx(5.85 / 3)


def test_every_seed_must_agree_when_the_claim_says_so():
    values = [1.0] * 30 + [-0.1]
    assert crafted(values).verdict == "supported"
    assert crafted(values, every_seed=True).verdict == "inconclusive"


@pytest.mark.parametrize("options", [{"better": "up"}, {"kind": "equal"}, {"kind": "equivalence"}])
def test_ungradable_claims_are_refused(options):
    with pytest.raises(UserError):
        Claim("R1", "It holds.", dict, **options)


def test_paired_difference_takes_seeds_that_have_both_arms():
    records = [record(s, baseline={"bleu": 30.0 + s}, r_drop={"bleu": 32.0 + 2 * s}) for s in (1, 2)]
    records.append(record(3, baseline={"bleu": 30.0}))
    assert measures.paired_difference(records, "bleu", "r_drop", "baseline") == {1: 3.0, 2: 4.0}
    ratio = measures.paired({1: 1.0, 2: 1.0}, {1: 4.0, 2: 0.0}, lambda a, b: a / b)
    assert ratio[1] == 0.25 and math.isnan(ratio[2])


def test_value_keeps_missing_numbers_visible_and_refuses_unknown_names():
    records = [record(1, a={"bleu": 1.0}), record(2, a={"bleu": None}), record(3, a={})]
    found = measures.value(records, "a", "bleu")
    assert found[1] == 1.0 and math.isnan(found[2]) and math.isnan(found[3])
    with pytest.raises(UserError, match="'blue' was not measured here. Did you mean 'bleu'"):
        measures.value(records, "a", "blue")
    assert measures.value([], "a", "bleu") == {}


def test_two_settings_must_not_be_mixed():
    with pytest.raises(UserError, match="Two records of seed 1"):
        measures.value([record(1, a={"bleu": 1.0}), record(1, a={"bleu": 2.0})], "a", "bleu")


def test_measures_from_curves():
    def run(seed, losses, kind="eval"):
        rows = [{"update": 10 * i, "kind": kind, "loss": x} for i, x in enumerate(losses, 1)]
        return record(seed, a={"history": rows})

    records = [run(1, [3.0, 1.0, 1.5]), run(2, [3.0, 2.0, 2.25]), run(3, [3.0, math.nan, 1.0]), run(4, [])]
    found = measures.from_history(records, "a", "loss", lambda v: v[-1] - min(v))
    assert (found[1], found[2]) == (0.5, 0.25)
    assert math.isnan(found[3]) and math.isnan(found[4])
    assert measures.history(records[0], "a", "loss") == ([10, 20, 30], [3.0, 1.0, 1.5])
    with pytest.raises(UserError, match="train metric"):
        measures.from_history(records, "a", "loss", min, kind="train")


def test_sweeps_from_settings():
    by_setting = [record(1, {"alpha": a}, r_drop={"bleu": b}) for a, b in ((10.0, 2.0), (1.0, 1.0))]
    assert measures.sweep_setting(by_setting, "bleu", "r_drop", "alpha") == {1.0: {1: 1.0}, 10.0: {1: 2.0}}


def test_trend_and_peak():
    points = {1: {1: 36.0, 2: 4.0}, 3: {1: 36.8, 2: 3.0}, 5: {1: 37.2, 2: 2.0}, 10: {1: 37.0, 2: 1.0}}
    trend = measures.trend(points)
    assert trend[2] == pytest.approx(-1.0)
    assert trend[1] == pytest.approx(stats.spearmanr([1, 3, 5, 10], [36.0, 36.8, 37.2, 37.0]).statistic)
    assert measures.peak_inside(points, 3, 7) == pytest.approx({1: 0.2, 2: -1.0})
    assert measures.trend({1: {1: 1.0}, 2: {1: 1.0}, 3: {1: 1.0}}) == {1: 0.0}
    assert measures.trend({1: {1: 1.0}, 2: {1: 2.0}}) == measures.peak_inside({}, 3, 7) == {}
    assert math.isnan(measures.trend({1: {1: 1.0}, 2: {1: math.nan}, 3: {1: 1.0}})[1])


def test_board_has_the_columns_and_the_paper_beside_ours():
    result = crafted([0.9, 1.1, 1.0], paper="+2.61", source="Table 1", unit="BLEU", scale="small scale")
    row = tables.board([result]).iloc[0]
    assert list(row.index) == ["verdict", "claim", "ours", "seeds", "statement", "paper", "why"]
    assert row["paper"] == "+2.61 (Table 1)"
    assert row["ours"] == "+1.00 [+0.75, +1.25] BLEU"
    assert (row["seeds"], row["verdict"]) == (3, "✓ supported")
    assert row["why"].endswith("Small scale.")
    assert tables.board([]).empty


def test_styled_board_escapes_and_says_verdicts_in_words():
    dangerous = Claim("R1", "a <script> & b", lambda records: {1: 1.0, 2: 1.1, 3: 1.2})
    shown = tables.styled([grade(dangerous, [record(1)]), crafted([1.0])])
    page = shown._repr_html_()
    assert "<script>" not in page and "a &lt;script&gt; &amp; b" in page
    assert "✓ supported" in page and "? inconclusive" in page
    assert "R1    ✓ supported" in repr(shown) and "0x" not in repr(shown)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((1.5, 1.0, 2.0), "+1.50 [+1.00, +2.00]"),
        ((0.01234, 0.0121, 0.0126), "+0.01234 [+0.01209, +0.01260]"),
        ((123.0, 23.0, 223.0), "+123 [+23, +223]"),
        ((0.5, -0.04, 4.04), "+0.5 [+0.0, +4.0]"),
        ((412000.0, 412000.0, 412000.0), "+412,000 (identical)"),
        ((0.0, 0.0, 0.0), "0 (identical)"),
        ((2.5, math.nan, math.nan), "+2.5"),
        ((math.nan, math.nan, math.nan), "not finite"),
    ],
)
def test_intervals_as_text(numbers, text):
    assert claims.format_interval(*numbers) == text.replace("+0.01209", f"+{numbers[1]:.5f}")
