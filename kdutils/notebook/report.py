"""The results board: every recorded run in one page, as HTML and as Markdown, from `runs/` and `results/`.

>>> write_report(claims={"r_drop": r_drop.CLAIMS})
PosixPath('runs/report.html')

The page is one file without scripts and reads on light and dark screens. Runs are put together when paper, task,
preset, overrides and data agree; a file that cannot be read becomes a row with its error and stops nothing. What
stands on the page is here, how it looks is in `report.html.j2` and `report.md.j2`.
"""

from __future__ import annotations

import base64
import fnmatch
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from markupsafe import Markup

from kdutils.core.errors import UserError
from kdutils.core.files import read_json, write_text
from kdutils.notebook import plots, tables
from kdutils.study import claims as grading
from kdutils.study import measures, results

Claims = Mapping[str, Sequence[grading.Claim]]
Table = tuple[list[str], list[list]]  # the heads of the columns and the rows


@dataclass(frozen=True)
class Entry:
    """A record and the file it lies in, or the sentence that says why there is none. "yours": from `runs`."""

    path: Path
    record: dict | None = None
    error: str = ""
    origin: str = "recorded"


# ---------------------------------------------------------------- reading


def gather(runs: str | os.PathLike = "runs", results: str | os.PathLike = "results") -> list[Entry]:
    """All records: every `record.json` under `runs` and every `*.json` under `results`, in order of paths.

    A broken file is an Entry with an error. Raises UserError when neither folder exists.
    """
    if not os.path.isdir(runs) and not os.path.isdir(results):
        hint = "run an experiment first, for example `python -m kdutils run r_drop`, or name the folders"
        raise UserError(f"There is neither a folder '{runs}' nor a folder '{results}': {hint}.")
    yours = [_read(path, "yours") for path in _files(runs, "record.json")]
    return yours + [_read(path, "recorded") for path in _files(results, "*.json")]


def _files(folder: str | os.PathLike, pattern: str) -> list[Path]:
    """What has such a name in a folder, or up to four folders down; what cannot be listed is passed over.

    Whoever names a wrong folder, the root of the disk for instance, should not wait for all of it.
    """
    found = []
    for inside, folders, files in os.walk(folder):
        found += [Path(inside, name) for name in fnmatch.filter([*files, *folders], pattern)]
        if len(Path(inside).parts) - len(Path(folder).parts) >= 4:
            folders.clear()
    return sorted(found)


def _read(path: Path, origin: str) -> Entry:
    try:
        return Entry(path, results.read(path), origin=origin)
    except UserError as error:
        return Entry(path, error=str(error), origin=origin)


def executed_notebooks(runs: str | os.PathLike = "runs") -> list[dict]:
    """What each status file (`seed-1.status.json`) says of its notebook, with its place added as "path"."""
    found = []
    for path in _files(runs, "*status.json"):
        try:
            status = dict(read_json(path))
        except (UserError, TypeError, ValueError) as error:
            status = {"status": "unknown", "error": str(error)}
        found.append({**status, "path": path.parent / Path(str(status.get("notebook", path.name))).name})
    return found


# ---------------------------------------------------------------- grouping


@dataclass
class Group:
    """The runs of one paper, task, preset, set of overrides and data: a record a seed, and the files that count."""

    paper: str
    task: str
    preset: str
    overrides: dict
    records: list[dict]
    entries: list[Entry]
    notes: list[str]
    data: str = ""  # the beginning of its fingerprint, where another group differs in nothing else

    @property
    def name(self) -> str:
        return ", ".join(filter(None, [self.paper, self.task, self.preset]))

    @property
    def title(self) -> str:
        return ", ".join(filter(None, [self.name, self.changes]))

    @property
    def changes(self) -> str:
        changed = [f"{name}={_text(value)}" for name, value in self.overrides.items()]
        return ", ".join([*changed, f"data {self.data}"] if self.data else changed)

    @property
    def short(self) -> str:
        """The changes as a heading can show them."""
        first, *more = [f"{name}={_text(value)[:40]}" for name, value in self.overrides.items()] or [""]
        return f"{first} and {len(more)} more" if len(more) > 1 else ", ".join([first, *more])

    @property
    def origin(self) -> str:
        """Whose runs they are: "yours", "recorded" or "yours and recorded"."""
        return " and ".join(sorted({entry.origin for entry in self.entries}, reverse=True))


def grouped(entries: Sequence[Entry]) -> list[Group]:
    """Groups of comparable records: your own first, then by paper, task, preset and number of overrides.

    Records of one seed are merged arm by arm (`results.merged`).
    """
    groups: dict[tuple, list[Entry]] = {}
    for entry in entries:
        if entry.record is not None:
            groups.setdefault(_key(entry.record), []).append(entry)
    found = [_group(groups[key]) for key in sorted(groups)]
    for key, group in zip(sorted(groups), found, strict=True):
        if sum(other[:-1] == key[:-1] for other in groups) > 1:
            group.data = key[-1][:8] or "unknown"
    return sorted(found, key=lambda group: group.origin == "recorded")


def _key(record: dict) -> tuple:
    overrides, data = record["overrides"], record["provenance"].get("data", {}).get("fingerprint", "")
    about = (record["paper"], record["task"], record["preset"], len(overrides))
    return *about, json.dumps(overrides, sort_keys=True), data


def _group(entries: Sequence[Entry]) -> Group:
    # of two records of a seed with other settings (of an older version of the preset) the newer one counts
    merged = results.merged(entry.record for entry in entries)
    newest = {record["seed"]: record for record in sorted(merged, key=results.date)}
    records = [newest[seed] for seed in sorted(newest)]
    arms = [arm for record in records for arm in record["arms"].values()]
    counting, older = [], []
    for entry in sorted(entries, key=lambda entry: entry.record["seed"]):
        seed, own = entry.record["seed"], entry.record["arms"]
        if any(arm is one for arm in arms for one in own.values()):
            counting.append(entry)
        elif _scores(own) != _scores({name: newest[seed]["arms"].get(name) for name in own}):
            older.append(f"{entry.path} (seed {seed})")
    notes = [f"Left out, because there are newer records of the same: {', '.join(older)}."] if older else []
    facts = [record["provenance"].get("data", {}) for record in records]
    notes += dict.fromkeys(f"The data: {note}" for fact in facts for note in fact.get("notes", []))
    about = (records[0][name] for name in ("paper", "task", "preset", "overrides"))
    return Group(*about, records, counting, notes)


def _scores(arms: Mapping[str, dict | None]) -> str:
    return json.dumps({name: arm and arm["metrics"] for name, arm in arms.items()}, sort_keys=True)


def grades_of(group: Group, groups: Sequence[Group], claims: Claims) -> list[grading.Grade]:
    """The claims of the group's paper. One about a sweep is graded once, in its group with the fewest overrides.

    The seeds on which settings were chosen (`results.TUNING_SEEDS`) are shown, never graded.
    """
    graded = []
    for claim in grading.about(claims.get(group.paper, []), group.task):
        pool = [one for one in groups if results.comparable(group.records[0], one.records[0], claim.over)]
        if min(pool, key=lambda one: len(one.overrides)) is group:
            records = [record for member in pool for record in member.records]
            records = [record for record in records if record["seed"] not in results.TUNING_SEEDS]
            graded.append(grading.grade(claim, records))
    # a sweep's other groups hold what the sweep needs and little else: what they did not run is no news
    return [one for one in graded if not group.overrides or one.verdict != grading.NOT_RUN]


def headlines(entries: Sequence[Entry], claims: Claims) -> dict[str, list[tuple[str, grading.Grade]]]:
    """Each paper's headline claim, graded on every bed that has records: {paper: [(bed, grade), ...]}.

    A paper without records of a bed is graded on its demo; one without any records is left out.
    """
    found = {}
    for paper, own in claims.items():
        records = [entry.record for entry in entries if entry.record and entry.record["paper"] == paper]
        chosen = grading.ranked(own, "headline")
        for beds in (grading.BEDS, ["demo"]) if records else ():
            if graded := grading.on_beds(chosen, records, records[0]["task"], beds):
                found[paper] = graded
                break
    return found


# ---------------------------------------------------------------- what stands on the page


class Link(NamedTuple):
    text: str
    target: str

    def __html__(self) -> str:
        return Markup('<a href="{}">{}</a>').format(self.target, self.text)


def metrics(group: Group) -> Table:
    """Metrics down, arms across: mean over seeds with the interval."""
    arms = list(dict.fromkeys(arm for record in group.records for arm in record["arms"]))
    names = dict.fromkeys(name for r in group.records for a in r["arms"].values() for name in a["metrics"])
    counts = {arm: sum(arm in record["arms"] for record in group.records) for arm in arms}
    heads = [f"{plots.arm_label(arm)} ({n} seed{'s' * (n != 1)})" for arm, n in counts.items()]
    rows = [[plots.metric_label(name), *(_cell(group.records, arm, name) for arm in arms)] for name in names]
    return ["mean [95 % interval]", *heads], rows


def _cell(records: Sequence[dict], arm: str, metric: str) -> str:
    try:
        values = measures.value(records, arm, metric)
    except UserError:
        return ""
    broken = [str(seed) for seed, number in values.items() if not math.isfinite(number)]
    if broken:
        return f"not finite in seed {', '.join(broken)}"
    return grading.format_interval(*grading.interval(values.values()), sign=False)


def settings(group: Group) -> Table:
    rows = []
    for name in dict.fromkeys(name for record in group.records for name in record["settings"]):
        values = list(dict.fromkeys(_text(record["settings"].get(name)) for record in group.records))
        remark = "override" if name in group.overrides else ""
        rows.append([name, " | ".join(values), "differs between seeds" if len(values) > 1 else remark])
    return ["setting", "value", "remark"], rows


def provenance(group: Group, folder: Path) -> tuple[Table, Table]:
    """The files, with what differs between them, and what all of them share."""
    facts = [{k: _text(v) for k, v in entry.record["provenance"].items()} for entry in group.entries]
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    common = [name for name in names if len({fact.get(name) for fact in facts}) == 1]
    varying = [name for name in names if name not in common]
    rows = []
    for entry, fact in zip(group.entries, facts, strict=True):
        about = [str(entry.record["seed"]), _link(entry.path, folder), *(fact.get(name, "") for name in varying)]
        rows.append([*about, entry.origin, ", ".join(entry.record["arms"])])
    files = ["seed", "file", *(name.replace("_", " ") for name in varying), "whose", "arms"]
    shared = [[name.replace("_", " "), facts[0][name]] for name in common]
    return (files, rows), (["provenance", "of every seed"], shared)


def notebook_table(notebooks: Sequence[dict], folder: Path) -> Table:
    rows = []
    for notebook in notebooks:
        status, minutes = _text(notebook.get("status")), notebook.get("minutes")
        symbol = {"ok": "✓ ", "failed": "✗ "}.get(status, "")
        minutes = f"{float(minutes):.1f}" if isinstance(minutes, int | float) else ""
        rows.append([_link(notebook["path"], folder), symbol + status, minutes, _text(notebook.get("error") or "")])
    return ["notebook", "status", "minutes", "error"], rows


def figure(grades: Sequence[grading.Grade]) -> Markup:
    """The intervals of the claims as an image that is part of the page; empty when no claim has a number."""
    try:
        alt = "Interval of each claim and its bound: " + "; ".join(f"{g.claim.id} {g.verdict}" for g in grades)
        image = plots.picture(plots.claims_figure(grades), alt)
    except UserError:
        return Markup()
    data = base64.b64encode(image.png).decode("ascii")
    return Markup('<div class="wide"><img src="data:image/png;base64,{}" alt="{}"></div>').format(data, alt)


def _text(value: Any) -> str:
    """A setting or a fact as a reader would write it, of at most a few lines."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{40,}", text) else text if len(text) <= 400 else f"{text[:400]}…"


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive
        return path.as_posix()


def _link(path: Path, folder: Path) -> str | Link:
    """A link from the report to a file, or its bare name when the file is not there."""
    name = _relative(path, folder)
    return Link(name, quote(os.fsencode(name))) if os.path.isfile(path) else name


# ---------------------------------------------------------------- rendering


def _safe(value: Any) -> Any:
    """What a template puts into Markdown: a link of ours, markup of a template, or text without markup."""
    if isinstance(value, Link):
        return Markup(f"[{tables.escaped(value.text)}]({value.target})")
    return value if isinstance(value, Markup) else tables.escaped(value)


HTML, MARKDOWN = tables.TEMPLATES, tables.TEMPLATES.overlay(finalize=_safe)


def _page(entries: Sequence[Entry], claims: Claims, notebooks: Sequence[dict], folder: Path) -> dict[str, Any]:
    groups = grouped(entries)
    broken = [[_relative(entry.path, folder), entry.error] for entry in entries if entry.record is None]
    return {
        "headlines": headlines(entries, claims),
        "groups": [(group, grades_of(group, groups, claims)) for group in groups],
        "records": sum(len(group.records) for group in groups),
        "notebooks": notebook_table(notebooks, folder),
        "broken": (["file", "error"], broken),
        "folder": folder,
        "verdicts": grading.SYMBOLS,
        **{part.__name__: part for part in (metrics, settings, provenance, figure, Link)},
    }


def write_report(
    runs: str | os.PathLike = "runs", results: str | os.PathLike = "results", claims: Claims | None = None
) -> Path:
    """Writes `report.html` and `report.md` into `runs` and returns the path of the first.

    Raises UserError when neither folder exists; folders without runs give a report that says so.
    """
    folder, claims = Path(runs), claims or {}
    entries, notebooks = gather(runs, results), executed_notebooks(runs)
    page = _page(entries, claims, notebooks, folder)
    for name, templates in {"report.md": MARKDOWN, "report.html": HTML}.items():
        text = templates.get_template(f"{name}.j2").render(page)
        write_text(folder / name, text.encode("utf-8", "replace").decode())  # half characters, as in names of files
    return folder / "report.html"
