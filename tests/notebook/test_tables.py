"""Tables for notebooks: what they show as HTML and as text, and that no text of a data set becomes markup."""

from __future__ import annotations

import re

import pytest

from kdutils.core.settings import Setting, Table
from kdutils.notebook import tables
from kdutils.papers.r_drop.experiment import ARMS, TRANSLATION
from kdutils.study import claims
from kdutils.study.claims import Claim
from kdutils.study.experiment import Arm
from kdutils.training.method import Method

ENTRIES = Table(
    Setting("alpha", 5.0, 5.0, 0.00001, "weight of <b>both</b> & more", "Table 7"),
    Setting("data", "demo", "hub:a/b", "demo", "a meaning that takes " + "many words " * 12 + "to the end", "ours"),
)


def html_of(shown: tables.Shown) -> str:
    return shown._repr_html_()


# --- settings ----------------------------------------------------------------------------------------------------


def test_settings_are_folded_and_read_as_text_too():
    shown = tables.settings_table(ENTRIES, ENTRIES.resolve("demo"), "translation")
    page = html_of(shown)
    assert page.startswith("<details><summary>translation: 2 settings of the preset &#x27;demo&#x27;</summary><table")
    assert page.endswith("</table></details>")
    assert repr(shown).splitlines() == [
        "translation: 2 settings of the preset 'demo'", "  alpha = 5.0", "  data = 'demo'",
    ]  # fmt: skip


def test_settings_show_the_papers_values_whole_and_escaped():
    page = html_of(tables.settings_table(ENTRIES, ENTRIES.resolve("demo"), "translation"))
    assert "weight of &lt;b&gt;both&lt;/b&gt; &amp; more" in page and "<b>" not in page
    assert "many words to the end" in page and "0.00001" in page.replace("1e-05", "0.00001")
    assert "Table 7" in page


def test_changed_settings_are_named_in_the_summary():
    settings = ENTRIES.resolve("study", {"alpha": "2", "data": "<i>"})
    shown = tables.settings_table(ENTRIES, settings, "translation")
    assert "changed: alpha = 2.0, data = &#x27;&lt;i&gt;&#x27;</summary>" in html_of(shown)
    assert "alpha (changed)" in html_of(shown) and "<i>" not in html_of(shown)
    assert repr(shown).splitlines()[0].endswith("changed: alpha = 2.0, data = '<i>'")


def test_the_table_of_a_paper_has_a_line_for_every_setting():
    page = html_of(tables.settings_table(TRANSLATION, TRANSLATION.resolve("paper"), "translation"))
    assert all(f"<th>{name}</th>" in page for name in TRANSLATION.settings)


# --- sentences side by side --------------------------------------------------------------------------------------


def test_cards_are_one_block_an_example():
    shown = tables.cards({"source": ["One <s>.", "Two."], "R-Drop": ["Eins & eins.", "두 개."]})
    page = html_of(shown)
    assert page.count("<table") == page.count("</table>") == 2
    assert "One &lt;s&gt;." in page and "Eins &amp; eins." in page and "<s>" not in page
    assert repr(shown) == "source: One <s>.\nR-Drop: Eins & eins.\n\nsource: Two.\nR-Drop: 두 개."


def test_cards_of_nothing_are_nothing_and_unequal_columns_an_error():
    assert html_of(tables.cards({"source": [], "R-Drop": []})) == ""
    with pytest.raises(ValueError):
        tables.cards({"source": ["One."], "R-Drop": []})


# --- recorded runs -----------------------------------------------------------------------------------------------


def record(seed: int, task="translation", arms=("baseline", "r_drop"), score=30.0, **overrides) -> dict:
    metric = "test_bleu" if task == "translation" else "test_accuracy"
    metrics = {metric: score + seed, "test_loss": 1.0, "minutes": 0.25 * seed}
    about = {"paper": "r_drop", "task": task, "preset": "demo", "seed": seed, "overrides": overrides}
    ran = {"device": "cpu, 2 threads", "date": "2026-02-03T04:05:06+00:00"}
    return {**about, "arms": {arm: {"metrics": metrics} for arm in arms}, "provenance": ran}


def cells(shown: tables.Shown) -> list[list[str]]:
    """The rows of the table, without its head."""
    rows = re.findall(r"<tr>(.*?)</tr>", html_of(shown), re.DOTALL)
    return [re.findall(r"<td>(.*?)</td>", row, re.DOTALL) for row in rows]


def test_records_are_a_line_for_each_group_and_arm():
    shown = tables.records_table([record(1), record(2), record(3)], ARMS)
    lines = cells(shown)
    assert [line[2] for line in lines] == ["baseline", "R-Drop"]  # no line for an arm that was not run
    assert lines[0] == [
        "translation",
        "demo",
        "baseline",
        "32.0 [29.5, 34.5]",
        "3",
        "0.5",
        "cpu, 2 threads",
        "2026-02-03",
    ]
    assert "test_bleu" in html_of(shown) and "32.0 [29.5, 34.5]" in repr(shown)


def test_changes_make_groups_in_whatever_order_they_were_given():
    first, second = record(1, alpha=1.0, data="<b>"), record(2)
    second["overrides"] = {"data": "<b>", "alpha": 1.0}
    lines = cells(tables.records_table([first, second, record(1)], ARMS))
    assert [(line[1], line[4]) for line in lines[::2]] == [("demo", "1"), ("demo; alpha=1.0, data=&lt;b&gt;", "2")]


def test_two_tasks_share_a_table_without_holes():
    shown = tables.records_table([record(1), record(1, "classification", score=-0.5)], ARMS)
    assert "test_bleu" in html_of(shown) and "test_accuracy" in html_of(shown)
    assert "NaN" not in html_of(shown) and "NaN" not in repr(shown)


def test_labels_are_escaped_and_nothing_recorded_is_said():
    odd = (Arm("r_drop", "<u>R-Drop</u>", lambda settings: Method()),)
    assert "&lt;u&gt;R-Drop&lt;/u&gt;" in html_of(tables.records_table([record(1)], odd))
    for nothing in ([], [record(1, arms=("other",))]):
        assert repr(tables.records_table(nothing, ARMS)) == "No such runs are recorded in results/ yet."


def test_an_arm_that_was_run_again_counts_once_with_its_newer_number():
    again = record(2, arms=("r_drop",), score=33.0)
    again["provenance"] = {"device": "a GPU", "date": "2026-05-01T00:00:00+00:00"}
    lines = cells(tables.records_table([again, record(1), record(2), record(3)], ARMS))
    assert [line[2:5] for line in lines] == [
        ["baseline", "32.0 [29.5, 34.5]", "3"],  # 31, 32, 33
        ["R-Drop", "33.0 [28.0, 38.0]", "3"],  # 31, 35, 33
    ]


def test_runs_on_other_data_are_lines_of_their_own():
    theirs = [record(seed, score=50.0) for seed in (1, 2)]
    for one in theirs:
        one["provenance"]["data"] = {"fingerprint": "theirs"}
    lines = cells(tables.records_table([*theirs, record(1), record(2)], ARMS))
    assert [(line[2], line[3][:4], line[4]) for line in lines] == [
        ("baseline", "31.5", "2"), ("R-Drop", "31.5", "2"), ("baseline", "51.5", "2"), ("R-Drop", "51.5", "2"),
    ]  # fmt: skip


def test_a_record_without_headline_time_or_place_is_shown_all_the_same():
    bare = [record(seed, arms=("r_drop",)) for seed in (1, 2, 3)]
    for one in bare:
        one["arms"]["r_drop"]["metrics"] = {"test_loss": 2.0 + one["seed"]}
        one["provenance"] = {}
    (line,) = cells(tables.records_table(bare, ARMS))
    assert line == ["translation", "demo", "R-Drop", "4.0 [1.5, 6.5]", "3", "", "", ""]
    bare[1]["arms"]["r_drop"]["metrics"] = {"minutes": 1.0}
    assert cells(tables.records_table(bare, ARMS))[0][3:6] == ["not finite", "3", "1.0"]


# --- text for Markdown -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("cpu, 2 threads", "cpu, 2 threads"),
        ("<script>x</script>", "&lt;script>x&lt;/script>"),
        ("[a](javascript:x)", r"\[a\](javascript:x)"),
        ("a|b `c` *d*", r"a\|b \`c\` \*d\*"),
        ("two\n# lines", "two # lines"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("see https://x.org and WWW.x.org or a@x.org", "see https&#58;//x.org and WWW&#46;x.org or a&#64;x.org"),
    ],
)
def test_no_text_becomes_markup_in_markdown(text, safe):
    assert tables.escaped(text) == safe


# --- verdicts on beds --------------------------------------------------------------------------------------------


def graded(name, values, bed="grammar", **options):
    claim = Claim(name, f"<i>{name}</i> holds.", lambda _: dict(enumerate(values, 1)), unit="BLEU", **options)
    return bed, claims.grade(claim, [{"arms": {}}])


def test_a_claim_stands_once_and_below_it_every_bed_the_verdict_first():
    claim = Claim("R1", "It is <b>better</b>.", lambda records: records[0]["values"], unit="BLEU", paper="+2 & more")
    pairs = [
        (bed, claims.grade(claim, [{"arms": {}, "values": dict(enumerate(values, 1))}]))
        for bed, values in {"grammar": [1.0, 1.1, 1.2], "captions": [1.0, -1.0, 0.0]}.items()
    ]
    shown = tables.on_beds([*pairs, graded("R2", [-1.0, -1.1, -1.2])], titles={"R1": "R-Drop <i>"})
    page = html_of(shown)
    assert (
        page.count("It is &lt;b&gt;better&lt;/b&gt;.") == 1 and "+2 &amp; more" in page and "R-Drop &lt;i&gt;" in page
    )
    body = page[page.index("<tbody>") :]
    order = [
        body.index(word) for word in ("R-Drop", "✓ supported", "grammar", "? inconclusive", "captions", "✗ contra")
    ]
    assert order == sorted(order)
    assert repr(shown).splitlines() == [
        "R-Drop <i> grammar    ✓ supported          +1.10 [+0.85, +1.35] BLEU",
        "R-Drop <i> captions   ? inconclusive       0.0 [-2.5, 2.5] BLEU",
        "R2    grammar    ✗ contradicted       -1.10 [-1.35, -0.85] BLEU",
    ]
    assert repr(tables.on_beds([])) == "Nothing is recorded yet."


def test_trials_are_folded_and_what_was_not_changed_is_as_the_preset():
    trials = [{"arm": "baseline", "dropout": 0.3, "seeds": 2, "validation_bleu": 20.519}, {"arm": "r_drop", "seeds": 1}]
    shown = tables.trials_table(trials, "2 trials")
    page = html_of(shown)
    assert page.startswith("<details><summary>2 trials</summary><table") and "20.52" in page and "as the preset" in page
    assert repr(shown).startswith("2 trials\n")


def test_small_numbers_of_trials_keep_their_digits():
    trials = [{"arm": "baseline", "learning_rate": 2e-4, "validation_accuracy": 0.7412}, {"arm": "baseline"}]
    page = html_of(tables.trials_table(trials, "2 trials"))
    assert "0.0002" in page and "0.7412" in page
