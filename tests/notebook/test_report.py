"""The results board, from fabricated folders: what it shows, what it survives, what it never lets through."""

import copy
import json
import math
import os
import re
import sys
import tomllib
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from kdutils.core.errors import UserError
from kdutils.notebook import report, tables
from kdutils.papers import r_drop
from kdutils.study import claims, measures, results

ROOT = Path(__file__).resolve().parents[2]

GAIN = claims.Claim(
    "R1",
    "R-Drop <beats> the baseline.",
    lambda records: measures.paired_difference(records, "test_bleu", "r_drop", "baseline"),
    paper="+2.61",
    source="Table 1",
    unit="BLEU",
)
SWEEP = claims.Claim(
    "R6",
    "BLEU rises with alpha.",
    lambda records: measures.trend(measures.sweep_setting(records, "test_bleu", "r_drop", "alpha")),
    over=("alpha",),
)


def record(seed, alpha=None, preset="demo", bleu=32.0, date="2026-01-01"):
    overrides = {} if alpha is None else {"alpha": alpha}
    return {
        "paper": "r_drop",
        "task": "translation",
        "preset": preset,
        "settings": {"alpha": 5.0, "width": 64, **overrides},
        "overrides": overrides,
        "seed": seed,
        "arms": {
            "baseline": {"metrics": {"test_bleu": 30.0 + 0.1 * seed, "minutes": 0.2}, "history": []},
            "r_drop": {"metrics": {"test_bleu": bleu + 0.2 * seed, "minutes": 0.4}, "history": []},
        },
        "provenance": {
            "device": "cpu, 2 threads",
            "commit": "0123456789abcdef" * 3,
            "date": date,
            "minutes": 0.6 + seed,
        },
    }


def store(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Runs of three seeds and three settings, notebooks and broken files; one recorded run in results."""
    folder = tmp_path_factory.mktemp("board")
    runs, results = folder / "runs", folder / "results"
    for seed in (1, 2, 3):
        store(runs / "r_drop" / "demo-aaaa" / f"seed-{seed}" / "record.json", record(seed))
        for alpha, bleu in ((1.0, 31.0), (10.0, 33.0)):
            store(
                runs / "r_drop" / f"demo-{alpha}" / f"seed-{seed}" / "record.json",
                record(seed, alpha, bleu=bleu),
            )
    store(results / "r_drop" / "study-1.json", record(1, preset="study"))
    seed_1, seed_2 = runs / "r_drop" / "demo-aaaa" / "seed-1", runs / "r_drop" / "demo-aaaa" / "seed-2"
    store(seed_1 / "03_r_drop.ipynb", "{}")
    store(seed_1 / "status.json", {"notebook": "03_r_drop.ipynb", "status": "ok", "minutes": 1.52})
    store(
        seed_2 / "x.status.json",
        {"notebook": "x.ipynb", "status": "failed", "minutes": 0.3, "error": "<b>boom</b>"},
    )
    store(runs / "r_drop" / "demo-broken" / "seed-1" / "record.json", '{"paper": ')
    store(results / "notes.json", {"not": "a record"})
    return runs, results


def section(text, title):
    """The part of the Markdown report under a heading of level two."""
    return re.split(r"^## ", text, flags=re.M)[
        [t.split("\n")[0] for t in re.split(r"^## ", text, flags=re.M)].index(title)
    ]


@pytest.fixture(scope="module")
def written(tree):
    path = report.write_report(*tree, claims={"r_drop": [GAIN, SWEEP]})
    assert path == tree[0] / "report.html"
    return path.read_text(encoding="utf-8"), path.with_name("report.md").read_text(encoding="utf-8")


def test_gather_keeps_places_and_reports_broken_files(tree):
    entries = report.gather(*tree)
    assert sum(entry.record is not None for entry in entries) == 10
    errors = {entry.path.name: entry.error for entry in entries if entry.record is None}
    assert "not valid JSON" in errors["record.json"]
    assert "not a record" in errors["notes.json"]


def test_groups_show_mean_interval_and_seeds(written):
    _, text = written
    demo = section(text, "r_drop, translation, demo")
    mean, low, high = claims.interval([32.2, 32.4, 32.6])
    expected = claims.format_interval(mean, low, high, sign=False).replace("[", "\\[").replace("]", "\\]")
    assert f"| test BLEU (0 to 100) | 30.20 \\[29.95, 30.45\\] | {expected} |" in demo
    assert "baseline (3 seeds)" in demo
    assert "baseline (1 seed)" in section(text, "r_drop, translation, study")


def test_claims_stand_with_verdict_and_paper(written):
    page, text = written
    demo = section(text, "r_drop, translation, demo")
    assert "| +2.61 (Table 1) |" in demo and "✓ supported" in demo
    assert "R-Drop &lt;beats&gt; the baseline." in page
    assert 'alt="Interval of each claim' in page


def test_a_sweep_is_graded_over_its_groups_and_once(written):
    _, text = written
    row = next(line for line in text.splitlines() if "| R6 |" in line)
    assert row.startswith("| ✓ supported | R6 |") and "| 1 (identical) |" in row.replace("+1", "1")
    assert "| R6 |" not in section(text, "r_drop, translation, demo, alpha=1")


def test_settings_mark_overrides_and_provenance_is_split(written):
    _, text = written
    assert "| alpha | 10 | override |" in section(text, "r_drop, translation, demo, alpha=10")
    demo = section(text, "r_drop, translation, demo")
    assert "| alpha | 5 |  |" in demo
    assert "| commit | 0123456789ab |" in demo and "| device | cpu, 2 threads |" in demo
    assert "| 2 | [r_drop/demo-aaaa/seed-2/record.json](r_drop/demo-aaaa/seed-2/record.json) | 2.6 |" in demo


def test_notebooks_are_linked_relative_to_the_report(written):
    page, text = written
    assert '<a href="r_drop/demo-aaaa/seed-1/03_r_drop.ipynb">' in page
    assert "| ✓ ok | 1.5 |" in text
    assert "| r_drop/demo-aaaa/seed-2/x.ipynb | ✗ failed | 0.3 |" in text
    assert "&lt;b&gt;boom&lt;/b&gt;" in page


def test_problems_are_listed_and_stop_nothing(written):
    page, text = written
    assert "Files that could not be read" in page
    assert "demo-broken/seed-1/record.json" in section(text, "Files that could not be read")


def test_page_is_self_contained(written):
    page, _ = written
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert "prefers-color-scheme" in page


def test_text_is_escaped_everywhere(tmp_path):
    evil = "<script>alert(1)</script>|`x`"
    bad = record(1)
    bad |= {"paper": evil, "task": evil, "preset": evil, "overrides": {evil: evil}, "settings": {evil: evil}}
    bad["provenance"] = {evil: {evil: evil}}
    bad["arms"] = {evil: {"metrics": {evil: 1.0}}}
    store(tmp_path / "runs" / "p" / "s" / "record.json", bad)
    store(tmp_path / "runs" / "p" / "s" / "status.json", {"notebook": evil, "status": evil, "error": evil})
    path = report.write_report(tmp_path / "runs", tmp_path / "results")
    assert "<script" not in path.read_text(encoding="utf-8")
    assert "<script" not in path.with_suffix(".md").read_text(encoding="utf-8")


def test_diverged_seeds_are_named(tmp_path):
    for seed in (1, 2, 3):
        store(tmp_path / f"{seed}.json", record(seed, bleu=math.nan if seed == 2 else 32.0))
    text = report.write_report(tmp_path / "none", tmp_path, {"r_drop": [GAIN]}).with_suffix(".md").read_text()
    assert "| not finite in seed 2 |" in text
    assert "Seed 2 gave no finite number" in text


def test_the_newer_of_two_records_counts_and_the_other_is_named(tmp_path):
    store(tmp_path / "old.json", record(1, bleu=10.0, date="2025-01-01"))
    store(tmp_path / "new.json", record(1, bleu=40.0, date="2026-01-01"))
    (group,) = report.grouped(report.gather(tmp_path / "none", tmp_path))
    assert [r["arms"]["r_drop"]["metrics"]["test_bleu"] for r in group.records] == [40.2]
    assert "old.json" in group.notes[0]


def test_a_copy_in_the_store_is_not_counted_twice(tmp_path):
    store(tmp_path / "runs" / "r_drop" / "demo-a" / "seed-1" / "record.json", record(1))
    store(tmp_path / "results" / "r_drop" / "demo" / "translation-seed-1.json", record(1))
    (group,) = report.grouped(report.gather(tmp_path / "runs", tmp_path / "results"))
    assert [entry.path.name for entry in group.entries] == ["record.json"]
    assert group.notes == []


def test_settings_that_differ_between_seeds_are_pointed_out(tmp_path):
    store(tmp_path / "1.json", record(1))
    store(tmp_path / "2.json", {**record(2), "settings": {"alpha": 5.0, "width": 128}})
    text = report.write_report(tmp_path / "none", tmp_path).with_suffix(".md").read_text()
    assert r"| width | 64 \| 128 | differs between seeds |" in text


@pytest.mark.parametrize(
    "broken",
    [
        [],
        3,
        {"paper": "p"},
        {**record(1), "seed": "one"},
        {**record(1), "arms": []},
        {**record(1), "arms": {"a": None}},
        {**record(1), "arms": {"a": {"metrics": {"x": "high"}}}},
    ],
)
def test_json_that_is_no_record_becomes_a_row(tmp_path, broken):
    store(tmp_path / "x.json", broken)
    (entry,) = report.gather(tmp_path / "none", tmp_path)
    assert entry.record is None and "not a record" in entry.error


def test_missing_folders_are_an_error_and_empty_ones_a_sentence(tmp_path):
    with pytest.raises(UserError, match="neither a folder"):
        report.write_report(tmp_path / "runs", tmp_path / "results")
    with pytest.raises(UserError, match="neither a folder"):
        report.write_report(tmp_path / ("x" * 5000), "a\0b")
    (tmp_path / "results").mkdir()
    path = report.write_report(tmp_path / "runs", tmp_path / "results")
    assert "No finished run was found" in path.read_text(encoding="utf-8")
    assert "No finished run was found" in path.with_suffix(".md").read_text(encoding="utf-8")


def test_a_broken_status_file_becomes_a_row(tmp_path):
    store(tmp_path / "a" / "status.json", "[1]")
    store(tmp_path / "b" / "status.json", "{")
    assert [notebook["status"] for notebook in report.executed_notebooks(tmp_path)] == ["unknown", "unknown"]


# --- yours and recorded ------------------------------------------------------------------------------------------


def verdicts(group, groups, about):
    return Counter(grade.verdict for grade in report.grades_of(group, groups, about))


def test_a_run_of_one_arm_displaces_nothing_of_the_full_record(tmp_path):
    store_of = ROOT / "results"
    before = report.grouped(report.gather(tmp_path / "none", store_of))
    full = results.read(store_of / "r_drop/grammar/translation-seed-6.json")
    mine = {**full, "arms": {"baseline": copy.deepcopy(full["arms"]["baseline"])}}
    mine["arms"]["baseline"]["provenance"]["date"] = "2100-01-01"
    store(tmp_path / "runs/r_drop/translation-demo-x/seed-1/record.json", mine)
    after = report.grouped(report.gather(tmp_path / "runs", store_of))
    assert after[0].title == "r_drop, translation, grammar" and after[0].origin == "yours and recorded"
    (same,) = (group for group in before if group.title == after[0].title)
    about = {"r_drop": r_drop.CLAIMS}
    assert verdicts(after[0], after, about) == verdicts(same, before, about)
    assert set(after[0].records[0]["arms"]) == set(full["arms"])
    assert after[0].notes == same.notes


def test_the_seeds_that_chose_the_settings_are_shown_and_not_graded(tmp_path):
    for seed in (1, 2, 3, 11, 12):
        one = record(seed)
        if seed > 10:
            one["arms"]["r_drop"]["metrics"]["test_bleu"] = 0.0
        store(tmp_path / f"results/{seed}.json", one)
    (group,) = report.grouped(report.gather(tmp_path / "runs", tmp_path / "results"))
    assert [one["seed"] for one in group.records] == [1, 2, 3, 11, 12]
    (graded,) = report.grades_of(group, [group], {"r_drop": [GAIN]})
    assert list(graded.values) == [1, 2, 3]


def test_a_newer_arm_counts_in_the_numbers_and_its_file_is_named(tmp_path):
    for seed in (1, 2, 3):
        store(tmp_path / f"results/{seed}.json", record(seed))
    newer = record(2, date="2027-01-01")
    newer["arms"] = {"baseline": {"metrics": {"test_bleu": 29.2}}}
    store(tmp_path / "runs/a/record.json", newer)
    path = report.write_report(tmp_path / "runs", tmp_path / "results", {"r_drop": [GAIN]})
    demo = section(path.with_suffix(".md").read_text(), "r_drop, translation, demo")
    baseline = claims.format_interval(*claims.interval([30.1, 29.2, 30.3]), sign=False)
    gain = claims.format_interval(*claims.interval([2.1, 3.2, 2.3]))
    for numbers in (baseline, gain):
        assert numbers.replace("[", "\\[").replace("]", "\\]") in demo
    rows = [line for line in demo.splitlines() if line.startswith("| 2 | ")]
    assert [row.endswith("| yours | baseline |") for row in rows] == [True, False]
    assert rows[1].endswith("| recorded | baseline, r_drop |")


def test_your_runs_stand_first_and_are_marked(tmp_path):
    store(tmp_path / "results/a.json", record(1))
    store(tmp_path / "runs/a/record.json", record(1, alpha=3.0))
    path = report.write_report(tmp_path / "runs", tmp_path / "results")
    page, text = path.read_text(), path.with_suffix(".md").read_text()
    titles = re.findall(r"^## (.*)$", text, flags=re.M)
    assert titles == ["r_drop, translation, demo, alpha=3", "r_drop, translation, demo"]
    assert "Whose: yours." in section(text, titles[0]) and "Whose: recorded." in section(text, titles[1])
    assert re.findall(r'class="mark (?:yours)?">(.*?)<', page) == [
        "yours, 1 seed",
        "recorded, 1 seed",
        "yours",
        "recorded",
    ]


def test_seeds_of_yours_stand_beside_the_recorded_ones(tmp_path):
    store(tmp_path / "results/a.json", record(1))
    store(tmp_path / "runs/a/record.json", record(2))
    (group,) = report.grouped(report.gather(tmp_path / "runs", tmp_path / "results"))
    assert (group.origin, [one["seed"] for one in group.records]) == ("yours and recorded", [1, 2])


def on(data, one, **facts):
    one["provenance"]["data"] = {"corpus": data, "fingerprint": data * 8, **facts}
    return one


def test_a_run_on_your_data_is_not_graded_by_the_sweeps_of_the_demo(tmp_path):
    for seed in (1, 2, 3):
        mine = on("mine", record(seed))
        mine["overrides"] = {"data": "/my/corpus"}
        store(tmp_path / f"runs/a/{seed}/record.json", mine)
        for alpha, bleu in ((1.0, 31.0), (5.0, 32.0), (10.0, 33.0)):
            store(tmp_path / f"results/{seed}-{alpha}.json", on("demo", record(seed, alpha, bleu=bleu)))
    groups = report.grouped(report.gather(tmp_path / "runs", tmp_path / "results"))
    about = {"r_drop": [GAIN, SWEEP]}
    assert groups[0].origin == "yours" and groups[0].overrides == {"data": "/my/corpus"}
    found = {group.title: [g.claim.id for g in report.grades_of(group, groups, about)] for group in groups}
    assert found["r_drop, translation, demo, data=/my/corpus"] == ["R1"]
    assert [title for title, ids in found.items() if "R6" in ids] == ["r_drop, translation, demo, alpha=1"]


def test_equal_settings_on_other_rows_are_two_groups_that_can_be_told_apart(tmp_path):
    store(tmp_path / "old.json", on("abc", record(1)))
    store(tmp_path / "new.json", on("xyz", record(2)))
    groups = report.grouped(report.gather(tmp_path / "none", tmp_path))
    assert [group.title for group in groups] == [
        "r_drop, translation, demo, data abcabcab", "r_drop, translation, demo, data xyzxyzxy",
    ]  # fmt: skip
    assert [[one["seed"] for one in group.records] for group in groups] == [[1], [2]]
    assert [group.origin for group in groups] == ["recorded", "recorded"]
    assert verdicts(groups[0], groups, {"r_drop": [GAIN]}) == {"inconclusive": 1}


def test_what_is_to_be_known_of_the_data_stands_with_the_group(tmp_path):
    notes = ["train: a random sample of 5,000 of 29,000 rows (seed 0).", "<b>No</b> test split."]
    for seed in (1, 2):
        store(tmp_path / f"{seed}.json", on("mine", record(seed), notes=notes))
    path = report.write_report(tmp_path / "runs", tmp_path)
    page, text = path.read_text(), path.with_suffix(".md").read_text()
    assert text.count("\nThe data: train: a random sample of 5,000 of 29,000 rows (seed 0).\n") == 1
    assert "<p>The data: &lt;b&gt;No&lt;/b&gt; test split.</p>" in page
    assert "\nThe data: &lt;b>No&lt;/b> test split.\n" in text


# --- what it looks like ------------------------------------------------------------------------------------------


def test_report_and_notebook_show_the_same_board(written, tree):
    groups = report.grouped(report.gather(*tree))
    shown = tables.styled(report.grades_of(groups[0], groups, {"r_drop": [GAIN, SWEEP]}))
    assert shown._repr_html_() in written[0]


def test_the_verdict_comes_first_and_three_columns_are_all(written):
    (head,) = set(re.findall(r'<table class="claims">\s*<thead>(.*?)</thead>', written[0], re.DOTALL))
    assert re.findall(r"<th[^>]*>(.*?)</th>", head) == ["verdict", "claim", "ours"]


class Nesting(HTMLParser):
    """Fails where a tag is closed that is not the one that is open."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.targets = [], [], []

    def handle_starttag(self, tag, attributes):
        about = dict(attributes)
        self.ids += [about["id"]] if "id" in about else []
        self.targets += [about["href"]] if "href" in about else []
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_its_links_lead_somewhere(written, tree):
    reader = Nesting()
    reader.feed(written[0])
    assert reader.open == [] and len(reader.ids) == len(set(reader.ids)) == 4
    inside = [target[1:] for target in reader.targets if target.startswith("#")]
    assert inside == reader.ids
    outside = [target for target in reader.targets if not target.startswith("#")]
    assert outside and all((tree[0] / target).is_file() for target in outside)


def test_the_templates_are_part_of_the_package():
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    files = {path for path in (ROOT / "kdutils").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    found = {
        path for name, globs in shipped.items() for one in globs for path in (ROOT / name.replace(".", "/")).glob(one)
    }
    assert {path for path in files if path.suffix != ".py"} == found


# --- files of others ---------------------------------------------------------------------------------------------

STRANGE = [None, True, -1, 1e400, "", "x" * 10_000, "<script>", "[a](javascript:x)", [], {}, [[]], {"a": 1}]


def nodes(value, at=()):
    yield at
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from nodes(value[key], (*at, key))


def replaced(value, at, new):
    if not at:
        return new
    changed = copy.copy(value)
    changed[at[0]] = replaced(value[at[0]], at[1:], new)
    return changed


def harmless(path):
    page, text = path.read_text(encoding="utf-8"), path.with_suffix(".md").read_text(encoding="utf-8")
    Nesting().feed(page)
    for one in (page, text):
        assert "<script" not in one
    assert 'href="javascript' not in page and not re.search(r"(?<!\\)\]\(javascript", text)
    return text


def whole():
    """A record with every part that one of a real run has."""
    one = on("demo", record(1, alpha=2.0), notes=["a note"])
    one["provenance"]["versions"] = {"torch": "2.13.0"}
    rows = [
        {"update": 10 * i, "kind": "eval", "loss": 3.0 / i, "accuracy": 0.1 * i, "kl": 0.1, "train_loss": 2.0 / i}
        for i in (1, 2)
    ]
    for arm in one["arms"].values():
        arm |= {"history": rows, "provenance": {"device": "cpu", "date": "2026-01-01"}}
    return one


@pytest.mark.parametrize("strange", STRANGE, ids=lambda value: str(value)[:12])
def test_no_record_stops_the_report_or_gets_markup_into_it(tmp_path, monkeypatch, strange):
    monkeypatch.setattr(report.plots, "claims_figure", lambda grades: (_ for _ in ()).throw(UserError("no figure")))
    place = tmp_path / "runs/r_drop/a/seed-1/record.json"
    one = whole()
    for at in nodes(one):
        store(place, json.dumps(replaced(one, at, strange)))
        text = harmless(report.write_report(tmp_path / "runs", tmp_path / "none", {"r_drop": r_drop.CLAIMS}))
        counted = "in groups of equal settings: 1." in text
        assert counted != ("record.json" in text and "is JSON but not a record:" in text), at


@pytest.mark.parametrize("number", [1e308, -1e308, 5e-324, 1e400, -1e400, math.nan, None, 10**18, 0])
def test_numbers_at_the_edge_are_drawn_or_said_not_to_be_finite(tmp_path, number):
    for seed in (1, 2, 3):
        one = record(seed)
        one["arms"]["r_drop"]["metrics"]["test_bleu"] = number if seed == 2 else 30.0
        store(tmp_path / f"results/{seed}.json", one)
    text = harmless(report.write_report(tmp_path / "runs", tmp_path / "results", {"r_drop": [GAIN]}))
    finite = number is not None and math.isfinite(number)
    assert ("not finite in seed 2" in text) != finite


@pytest.mark.parametrize(
    "name",
    [
        "<img src=x onerror=alert(1)>",
        "[a](javascript:x)",
        "a|b`c`*d*",
        "#x\n# y",
        "www.example.org",
        "a&lt;b",
        "%2e",
        "x" * 200,
    ],
)
def test_the_name_of_a_file_is_text_and_nothing_else(tmp_path, name):
    folder = tmp_path / "runs" / name
    store(folder / "record.json", record(1, date="2025-01-01"))
    store(tmp_path / "runs/newer/record.json", record(1, bleu=40.0))
    store(folder / "seed-2/record.json", "[]")
    store(folder / "x.ipynb", "{}")
    store(folder / "status.json", {"notebook": "x.ipynb", "status": "ok"})
    path = report.write_report(tmp_path / "runs", tmp_path / "none")
    text = harmless(path)
    assert "<img" not in path.read_text() and "<img" not in text
    link = r"(?<!\\)\]\((.*?)\)"
    inside, *outside = re.findall(link, text)
    assert inside == "#runs-1" and len(outside) == 2
    assert all((tmp_path / "runs" / unquote(target)).is_file() for target in outside)
    words = re.sub(link, "", text)
    assert "www." not in words and not re.search(r"(?<!\\)[`*]c", words) and not re.search(r"^#+ ?y", words, flags=re.M)


@pytest.mark.skipif(sys.platform == "win32", reason="names of files are Unicode there")
def test_half_characters_in_names_and_records_are_replaced(tmp_path):
    broken = os.fsencode(tmp_path) + b"/runs/\xff"
    os.makedirs(broken)
    with open(broken + b"/record.json", "w") as stream:
        json.dump({**record(1), "task": "\ud800"}, stream)
    store(tmp_path / "runs/status.json", '{"notebook": "\\ud800.ipynb", "status": "\\udfff"}')
    assert "?" in harmless(report.write_report(tmp_path / "runs", tmp_path / "none"))


@pytest.mark.parametrize("name", ["../../x", "/etc/hostname", "x" * 5000, "a\0b", "", "..", None, ["x"], {"a": 1}])
def test_a_status_file_links_to_a_notebook_beside_it_or_to_nothing(tmp_path, name):
    for strange in STRANGE:
        store(tmp_path / "a/status.json", {"notebook": name, "status": strange, "minutes": strange, "error": strange})
        path = report.write_report(tmp_path, tmp_path / "none")
        harmless(path)
        assert "<a " not in path.read_text()


def test_what_is_no_file_of_ours_is_named_and_the_board_goes_on(tmp_path):
    (tmp_path / "runs/a/record.json").mkdir(parents=True)
    (tmp_path / "runs/a/status.json").mkdir()
    store(tmp_path / "runs/b/record.json", '{"paper":' * 1000 + "1" + "}" * 1000)
    store(tmp_path / "runs/b/status.json", "[" * 100_000 + "]" * 100_000)
    (tmp_path / "runs/c").mkdir()
    (tmp_path / "runs/c/record.json").write_bytes(b"\xff\xfe{")
    store(tmp_path / "runs/d/record.json", record(1))
    text = harmless(report.write_report(tmp_path / "runs", tmp_path / "none"))
    assert "in groups of equal settings: 1." in text
    broken = section(text, "Files that could not be read").splitlines()
    assert [row.split(" | ")[0] for row in broken if "record.json" in row] == [
        "| a/record.json", "| b/record.json", "| c/record.json",
    ]  # fmt: skip


def test_what_stands_in_the_way_of_the_report_is_named(tmp_path):
    store(tmp_path / "results/a.json", record(1))
    for runs, fault in (("x" * 300, "is too long for this system"), ("results/a.json", "a file stands in its way")):
        with pytest.raises(UserError, match=fault):
            report.write_report(tmp_path / runs, tmp_path / "results")
    (tmp_path / "runs/report.md").mkdir(parents=True)
    with pytest.raises(UserError, match="report.md is a folder, where a file should be"):
        report.write_report(tmp_path / "runs", tmp_path / "results")
