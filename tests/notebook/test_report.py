"""The results board, from fabricated folders: what it shows, what it survives, what it never lets through."""

import json
import math
import re

import pytest

from kdutils.core.errors import UserError
from kdutils.notebook import report
from kdutils.study import claims, measures

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
    row = next(line for line in text.splitlines() if line.startswith("| R6 "))
    assert "✓ supported" in row and "| 1 (identical) |" in row.replace("+1", "1")
    assert "| R6 " not in section(text, "r_drop, translation, demo, alpha=1")


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
    text = report.render_markdown(report.gather(tmp_path / "none", tmp_path), {"r_drop": [GAIN]}, folder=tmp_path)
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
    text = report.render_markdown(report.gather(tmp_path / "none", tmp_path), {}, folder=tmp_path)
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
    (tmp_path / "results").mkdir()
    path = report.write_report(tmp_path / "runs", tmp_path / "results")
    assert "No finished run was found" in path.read_text(encoding="utf-8")
    assert "No finished run was found" in path.with_suffix(".md").read_text(encoding="utf-8")


def test_a_broken_status_file_becomes_a_row(tmp_path):
    store(tmp_path / "a" / "status.json", "[1]")
    store(tmp_path / "b" / "status.json", "{")
    assert [notebook["status"] for notebook in report.executed_notebooks(tmp_path)] == ["unknown", "unknown"]
