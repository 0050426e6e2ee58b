"""The results board: every recorded run in one page, as HTML and as Markdown, from `runs/` and `results/`.

>>> write_report(claims={"r_drop": r_drop.CLAIMS})
PosixPath('runs/report.html')

The page is one file without scripts and reads on light and dark screens. Runs are put together when paper,
task, preset and overrides agree; a file that cannot be read becomes a row with its error and stops nothing.
"""

from __future__ import annotations

import base64
import html
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kdutils.core.errors import UserError
from kdutils.core.files import read_json, write_text
from kdutils.notebook import plots, tables
from kdutils.study import claims as grading
from kdutils.study import measures

Claims = Mapping[str, Sequence[grading.Claim]]


@dataclass(frozen=True)
class Entry:
    """A record and the file it lies in, or the sentence that says why there is none."""

    path: Path
    record: dict | None = None
    error: str = ""


# ---------------------------------------------------------------- reading


def gather(runs: str | os.PathLike = "runs", results: str | os.PathLike = "results") -> list[Entry]:
    """All records: every `record.json` under `runs` and every `*.json` under `results`, in order of paths.

    A broken file is an Entry with an error. Raises UserError when neither folder exists.
    """
    if not Path(runs).is_dir() and not Path(results).is_dir():
        hint = "run an experiment first, for example `python -m kdutils run r_drop`, or name the folders"
        raise UserError(f"There is neither a folder '{runs}' nor a folder '{results}': {hint}.")
    paths = [*sorted(Path(runs).rglob("record.json")), *sorted(Path(results).rglob("*.json"))]
    return [_read(path) for path in paths]


def _read(path: Path) -> Entry:
    try:
        record = read_json(path)
    except (UserError, UnicodeDecodeError) as error:
        return Entry(path, error=str(error))
    if not _is_record(record):
        return Entry(path, error="This is JSON but not a record: it needs paper, preset, seed and arms with metrics.")
    return Entry(path, record)


def _is_record(record: Any) -> bool:
    try:
        numbers = [number for arm in record["arms"].values() for number in arm["metrics"].values()]
    except (TypeError, KeyError, AttributeError):
        return False
    numeric = all(number is None or isinstance(number, int | float) for number in numbers)
    return numeric and isinstance(record.get("seed"), int) and "paper" in record and "preset" in record


def executed_notebooks(runs: str | os.PathLike = "runs") -> list[dict]:
    """What each status file (`seed-1.status.json`) says of its notebook, with its place added as "path"."""
    found = []
    for path in sorted(Path(runs).rglob("*status.json")):
        try:
            status = dict(read_json(path))
        except (UserError, UnicodeDecodeError, TypeError, ValueError) as error:
            status = {"status": "unknown", "error": str(error)}
        found.append({**status, "path": path.parent / str(status.get("notebook", path.name))})
    return found


# ---------------------------------------------------------------- grouping


@dataclass
class Group:
    """The runs of one paper, task, preset and set of overrides: one record a seed, and what was set aside."""

    paper: str
    task: str
    preset: str
    overrides: dict
    entries: list[Entry]
    notes: list[str]

    @property
    def records(self) -> list[dict]:
        return [entry.record for entry in self.entries]

    @property
    def title(self) -> str:
        changed = ", ".join(f"{name}={_text(value)}" for name, value in self.overrides.items())
        return ", ".join(filter(None, [self.paper, self.task, self.preset, changed]))


def grouped(entries: Sequence[Entry]) -> list[Group]:
    """Groups of comparable records, fewest overrides first. Of two records of a seed the newer one counts."""
    groups: dict[tuple, list[Entry]] = {}
    for entry in entries:
        if entry.record is not None:
            groups.setdefault(_key(entry.record), []).append(entry)
    return [_group(groups[key]) for key in sorted(groups)]


def _key(record: dict) -> tuple:
    overrides = record.get("overrides") or {}
    text = json.dumps(overrides, sort_keys=True, default=str)
    return str(record["paper"]), str(record.get("task", "")), str(record["preset"]), len(overrides), text


def _group(entries: Sequence[Entry]) -> Group:
    newest: dict[int, Entry] = {}
    notes = []
    for entry in sorted(entries, key=lambda e: str((e.record.get("provenance") or {}).get("date", ""))):
        older = newest.get(entry.record["seed"])
        if older and _scores(older.record) == _scores(entry.record):
            continue  # a copy of a run in the store; the run itself has the full history
        if older:
            notes.append(f"Seed {older.record['seed']} has two records, the older is left out: {older.path}.")
        newest[entry.record["seed"]] = entry
    paper, task, preset, *_ = _key(entries[0].record)
    overrides = entries[0].record.get("overrides") or {}
    return Group(paper, task, preset, overrides, [newest[seed] for seed in sorted(newest)], notes)


def _scores(record: dict) -> str:
    return json.dumps({name: arm["metrics"] for name, arm in record["arms"].items()}, sort_keys=True)


def grades_of(group: Group, groups: Sequence[Group], claims: Claims) -> list[grading.Grade]:
    """The claims of the group's paper. One about a sweep is graded once, in the sweep's first group."""
    graded = []
    for claim in grading.about(claims.get(group.paper, []), group.task):
        pool = [other for other in groups if _siblings(group, other, claim.over)]
        if pool[0] is group:
            graded.append(grading.grade(claim, [record for member in pool for record in member.records]))
    # a sweep's other groups hold what the sweep needs and little else: what they did not run is no news
    return [one for one in graded if not group.overrides or one.verdict != grading.NOT_RUN]


def _siblings(a: Group, b: Group, over: Sequence[str]) -> bool:
    """Whether two groups differ at most in the overrides named in `over`."""
    one, other = ({k: v for k, v in g.overrides.items() if k not in over} for g in (a, b))
    return (a.paper, a.task, a.preset, one) == (b.paper, b.task, b.preset, other)


# ---------------------------------------------------------------- the page, as blocks


@dataclass(frozen=True)
class Heading:
    level: int
    text: str


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Link:
    text: str
    target: str


@dataclass(frozen=True)
class Table:
    """`title` set: the HTML page folds the table under it."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | Link]]
    title: str = ""


@dataclass(frozen=True)
class Board:
    grades: Sequence[grading.Grade]


Block = Heading | Text | Table | Board


def page(
    entries: Sequence[Entry], claims: Claims, notebooks: Sequence[dict] = (), folder: Path = Path("runs")
) -> list[Block]:
    """The report as a list of blocks, which both renderers draw. Links are relative to `folder`."""
    groups = grouped(entries)
    blocks: list[Block] = [Heading(1, "Results board"), Text(_opening(groups))]
    graded = [grades_of(group, groups, claims) for group in groups]
    if groups:
        blocks.append(_overview(groups, graded))
    for group, grades in zip(groups, graded, strict=True):
        blocks += _group_blocks(group, grades, folder)
    return blocks + _notebook_blocks(notebooks, folder) + _problem_blocks(entries, folder)


def _opening(groups: Sequence[Group]) -> str:
    if not groups:
        return "No finished run was found: start one with `python -m kdutils run r_drop` and draw this again."
    records = sum(len(group.records) for group in groups)
    return f"Records: {records}, in groups of equal settings: {len(groups)}. Intervals are 95 % over seeds."


def _overview(groups: Sequence[Group], graded: Sequence[Sequence[grading.Grade]]) -> Table:
    verdicts = list(grading.SYMBOLS)
    rows = []
    for group, grades in zip(groups, graded, strict=True):
        counts = [str([grade.verdict for grade in grades].count(verdict)) for verdict in verdicts]
        rows.append([Link(group.title, "#" + _anchor(group.title)), str(len(group.records)), *counts])
    return Table(["runs", "seeds", *map(grading.marked, verdicts)], rows)


def _group_blocks(group: Group, grades: Sequence[grading.Grade], folder: Path) -> list[Block]:
    blocks: list[Block] = [Heading(2, group.title), *map(Text, group.notes), _metrics(group)]
    if grades:
        blocks += [Heading(3, "Claims"), Board(grades)]
    return [*blocks, _settings(group), *_provenance(group, folder)]


def _metrics(group: Group) -> Table:
    """Metrics down, arms across: mean over seeds with the interval."""
    arms = list(dict.fromkeys(arm for record in group.records for arm in record["arms"]))
    names = dict.fromkeys(name for r in group.records for a in r["arms"].values() for name in a["metrics"])
    rows = [[plots.metric_label(name), *(_cell(group.records, arm, name) for arm in arms)] for name in names]
    counts = {arm: sum(arm in record["arms"] for record in group.records) for arm in arms}
    heads = [f"{plots.arm_label(arm)} ({n} seed{'s' * (n != 1)})" for arm, n in counts.items()]
    return Table(["mean [95 % interval]", *heads], rows)


def _cell(records: Sequence[dict], arm: str, metric: str) -> str:
    try:
        values = measures.value(records, arm, metric)
    except UserError:
        return ""
    broken = [str(seed) for seed, number in values.items() if not math.isfinite(number)]
    if broken:
        return f"not finite in seed {', '.join(broken)}"
    return grading.format_interval(*grading.interval(values.values()), sign=False)


def _settings(group: Group) -> Table:
    rows = []
    for name in dict.fromkeys(name for record in group.records for name in record.get("settings") or {}):
        values = list(dict.fromkeys(_text((r.get("settings") or {}).get(name)) for r in group.records))
        remark = "override" if name in group.overrides else ""
        rows.append([name, " | ".join(values), "differs between seeds" if len(values) > 1 else remark])
    title = f"Settings ({len(group.overrides) or 'none'} overridden)"
    return Table(["setting", "value", "remark"], rows, title)


def _provenance(group: Group, folder: Path) -> list[Block]:
    """What all seeds share once, what differs in a row a seed."""
    facts = [{k: _text(v) for k, v in (r.get("provenance") or {}).items()} for r in group.records]
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    common = [name for name in names if len({fact.get(name) for fact in facts}) == 1]
    varying = [name for name in names if name not in common]
    rows = []
    for entry, fact in zip(group.entries, facts, strict=True):
        link = _link(entry.path, folder)
        rows.append([str(entry.record["seed"]), link, *(fact.get(name, "") for name in varying)])
    blocks: list[Block] = [Table(["seed", "file", *(n.replace("_", " ") for n in varying)], rows, title="Seeds")]
    if common:
        shared = [[name.replace("_", " "), facts[0][name]] for name in common]
        blocks.append(Table(["provenance", "of every seed"], shared, title="Provenance"))
    return blocks


def _notebook_blocks(notebooks: Sequence[dict], folder: Path) -> list[Block]:
    rows = []
    for notebook in notebooks:
        status, minutes = str(notebook.get("status")), notebook.get("minutes")
        symbol = {"ok": "✓ ", "failed": "✗ "}.get(status, "")
        minutes = f"{minutes:.1f}" if isinstance(minutes, int | float) else ""
        rows.append([_link(notebook["path"], folder), symbol + status, minutes, str(notebook.get("error") or "")])
    columns = ["notebook", "status", "minutes", "error"]
    return [Heading(2, "Executed notebooks"), Table(columns, rows)] if rows else []


def _problem_blocks(entries: Sequence[Entry], folder: Path) -> list[Block]:
    rows = [[_relative(entry.path, folder), entry.error] for entry in entries if entry.record is None]
    return [Heading(2, "Files that could not be read"), Table(["file", "error"], rows)] if rows else []


def _text(value: Any) -> str:
    """A setting or a fact as a reader would write it."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{40,}", text) else text


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _link(path: Path, folder: Path) -> str | Link:
    """A link from the report to a file, or its bare name when the file is not there."""
    name = _relative(path, folder)
    return Link(name, quote(name)) if path.is_file() else name


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


# ---------------------------------------------------------------- rendering


def render_markdown(
    entries: Sequence[Entry], claims: Claims, notebooks: Sequence[dict] = (), folder: Path = Path("runs")
) -> str:
    """The report as Markdown with tables."""
    return "\n\n".join(map(_markdown, page(entries, claims, notebooks, folder))) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(level, text):
            return "#" * level + " " + _markdown_cell(text)
        case Text(text):
            return text
        case Board(grades):
            table = tables.board(grades)
            return _markdown_table(list(table.columns), table.to_numpy().tolist()) + f"\n\n{tables.note(grades)}"
        case Table(columns, rows, title):
            return (f"**{title}**\n\n" if title else "") + _markdown_table(columns, rows)


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence]) -> str:
    lines = [list(columns), ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(_markdown_cell, line)) + " |" for line in lines)


def _markdown_cell(cell: str | Link) -> str:
    if isinstance(cell, Link):
        return f"[{_markdown_cell(cell.text)}]({cell.target})"
    text = " ".join(str(cell).split())
    return re.sub(r"([\\|*`\[\]])", r"\\\1", text).replace("<", "&lt;") if text != "---" else text


def render_html(
    entries: Sequence[Entry], claims: Claims, notebooks: Sequence[dict] = (), folder: Path = Path("runs")
) -> str:
    """The report as one HTML file: no scripts, nothing loaded from elsewhere, all text escaped."""
    body = "\n".join(map(_html, page(entries, claims, notebooks, folder)))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Results board</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main>\n{body}\n</main></body></html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading(level, text):
            anchor = f' id="{_anchor(text)}"' if level == 2 else ""
            return f"<h{level}{anchor}>{html.escape(text)}</h{level}>"
        case Text(text):
            marked = re.sub("`(.+?)`", r"<code>\1</code>", html.escape(text))
            return f"<p>{marked}</p>"
        case Board(grades):
            return f'<div class="wide">{tables.board_html(grades)}</div>{_figure(grades)}'
        case Table(columns, rows, title):
            table = _html_table(columns, rows)
            return f"<details><summary>{html.escape(title)}</summary>{table}</details>" if title else table


def _html_table(columns: Sequence[str], rows: Sequence[Sequence]) -> str:
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{_html_cell(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _html_cell(cell: str | Link) -> str:
    if isinstance(cell, Link):
        return f'<a href="{html.escape(cell.target)}">{html.escape(cell.text)}</a>'
    return html.escape(str(cell))


def _figure(grades: Sequence[grading.Grade]) -> str:
    try:
        alt = "Interval of each claim and its bound: " + "; ".join(f"{g.claim.id} {g.verdict}" for g in grades)
        image = plots.picture(plots.claims_figure(grades), alt)
    except UserError:  # no claim has a number to draw
        return ""
    data = base64.b64encode(image.png).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}">'


STYLE = """
:root{color-scheme:light dark;--ink:#1c1c1c;--page:#fff;--soft:#f4f5f7;--line:#d9dce1;--link:#0060a0}
@media(prefers-color-scheme:dark){
:root{--ink:#e8e8e8;--page:#16181c;--soft:#20242a;--line:#3a4048;--link:#7cc0f5}}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,"Segoe UI",sans-serif}
main{max-width:1180px;margin:0 auto;padding:1.5rem} .wide{overflow-x:auto} a{color:var(--link)}
h1{font-size:1.7rem;margin:.2rem 0} h3{font-size:1.05rem;margin:1.4rem 0 .4rem}
h2{font-size:1.25rem;margin:2.4rem 0 .6rem;padding-top:.6rem;border-top:2px solid var(--line)}
code{background:var(--soft);padding:.1em .35em;border-radius:4px} summary{cursor:pointer}
table{border-collapse:collapse;margin:.5rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .75rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{background:var(--soft)} td:first-child{font-weight:600} details{margin:.5rem 0}
table.claims{font-size:.93rem} table.claims td:nth-child(2),table.claims td:nth-child(7){min-width:12rem}
table.claims td:nth-child(3){min-width:9rem}
img{max-width:100%;height:auto;border:1px solid var(--line);border-radius:6px;margin:.6rem 0}
"""


def write_report(
    runs: str | os.PathLike = "runs", results: str | os.PathLike = "results", claims: Claims | None = None
) -> Path:
    """Writes `report.html` and `report.md` into `runs` and returns the path of the first.

    Raises UserError when neither folder exists; folders without runs give a report that says so.
    """
    folder, claims = Path(runs), claims or {}
    entries, notebooks = gather(runs, results), executed_notebooks(runs)
    write_text(folder / "report.md", render_markdown(entries, claims, notebooks, folder))
    write_text(folder / "report.html", render_html(entries, claims, notebooks, folder))
    return folder / "report.html"
