"""Tables for notebooks: settings, translations side by side, recorded runs, verdicts. HTML with a plain text beside it.

>>> settings_table(TRANSLATION, settings, "translation")

The board of verdicts is a template, `board.html.j2`, which the report draws too.
"""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from kdutils.core.settings import Settings, Table
from kdutils.study import claims, results
from kdutils.study.claims import CONTRADICTED, INCONCLUSIVE, NOT_RUN, NOT_TESTABLE, SUPPORTED, Grade, marked

# the first of these that a run has stands for it
HEADLINES = ("test_bleu", "exam_macro", "test_accuracy", "test_pearson")


class Shown:
    """An HTML fragment that also reads as text where HTML is not displayed."""

    def __init__(self, markup: str, text: str) -> None:
        self.markup, self.text = markup, text

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return self.text


def settings_table(table: Table, settings: Settings, title: str) -> Shown:
    """The settings of an experiment, folded: value, the paper's value, what it means, where the paper's is from."""
    frame = table.show(settings)
    changed = ", ".join(f"{name} = {value!r}" for name, value in settings.overrides.items())
    summary = f"{title}: {len(frame)} settings of the preset '{settings.preset}'"
    summary += f", changed: {changed}" if changed else ""
    summary += f". {settings.note}" if settings.note else ""
    values = "\n".join(f"  {name} = {value!r}" for name, value in settings.items())
    return folded(Shown(frame.to_html(escape=True), values), summary)


PAIR = Markup('<tr><th style="text-align:left">{}</th><td style="text-align:left">{}</td></tr>')
CARD = Markup('<table style="margin-bottom:1em">{}</table>')


def cards(columns: Mapping[str, Sequence[str]]) -> Shown:
    """Sentences side by side, one block an example: {"source": [...], "reference": [...], "R-Drop": [...]}."""
    examples = [list(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    markup = (CARD.format(Markup().join(PAIR.format(*pair) for pair in pairs)) for pairs in examples)
    text = "\n\n".join("\n".join(f"{name}: {said}" for name, said in pairs) for pairs in examples)
    return Shown("".join(markup), text)


def records_table(records: Iterable[Mapping[str, Any]], arms: Sequence[Any]) -> Shown:
    """Recorded runs, one line a group of settings, data and arm: headline metric with its interval, where it ran."""
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for record in results.merged(records):
        changed = ", ".join(f"{k}={v}" for k, v in sorted(record["overrides"].items()))
        data = record["provenance"].get("data", {}).get("fingerprint", "")
        groups.setdefault((record["task"], record["preset"], changed, data), []).append(record)
    rows = [row for key, members in sorted(groups.items()) for row in _rows(key, members, arms)]
    if not rows:
        text = "No such runs are recorded in results/ yet."
        return Shown(f"<p>{text}</p>", text)
    frame = pd.DataFrame(rows).fillna("")
    return Shown(frame.to_html(index=False, escape=True), frame.to_string(index=False))


def _rows(key: tuple, members: list[Mapping[str, Any]], arms: Sequence[Any]) -> Iterable[dict[str, Any]]:
    task, preset, changed, _ = key
    for arm in arms:
        having = [record for record in members if arm.name in record["arms"]]
        if not having:
            continue
        scores = [record["arms"][arm.name]["metrics"] for record in having]
        metric = next((name for name in HEADLINES if name in scores[0]), min(scores[0]))
        values = [one.get(metric) for one in scores]
        minutes = [one["minutes"] for one in scores if one.get("minutes") is not None]
        yield {
            "task": task,
            "preset and changes": f"{preset}; {changed}" if changed else preset,
            "arm": arm.label,
            metric: claims.format_interval(*claims.interval(values), sign=False),
            "seeds": len(values),
            "minutes per seed": round(sum(minutes) / len(minutes), 1) if minutes else "",
            "device": having[0]["provenance"].get("device", ""),
            "date": results.date(having[0])[:10],
        }


# Background and text of a verdict: dark enough text on a light ground, so it reads on light and dark pages.
VERDICT_COLOURS = {
    SUPPORTED: ("#cfeee3", "#00523b"),
    CONTRADICTED: ("#fbdccb", "#7a3000"),
    INCONCLUSIVE: ("#e6e6e6", "#333333"),
    NOT_TESTABLE: ("#e8e3f3", "#4b3a6b"),
    NOT_RUN: ("#f7f7f7", "#555555"),
}


def board(grades: Sequence[Grade]) -> pd.DataFrame:
    """The grades as a table, the verdict first; the column "ours" reads: mean [95 % interval] unit."""
    columns = ["verdict", "claim", "ours", "seeds", "statement", "paper", "why"]
    rows = [(marked(g.verdict), g.claim.id, g.ours, g.n, g.claim.statement, g.claim.cited, why(g)) for g in grades]
    return pd.DataFrame(rows, columns=columns)


def why(grade: Grade) -> str:
    """The reason of a verdict, followed by what the scale of these runs cannot show."""
    scale = grade.claim.scale.strip()
    sentence = scale[:1].upper() + scale[1:].rstrip(".") + "." if scale else ""
    return f"{grade.reason} {sentence}".strip()


def note(grades: Sequence[Grade]) -> str:
    """The sentence that belongs under every board: how the verdicts were reached."""
    n = sum(g.low < g.high for g in grades)
    misses = f" Of {n} such intervals, {0.05 * n:.2g} are expected to miss the true value." if n > 1 else ""
    return f"Mean over seeds with a 95 % Student t interval, each claim graded on its own.{misses}"


def styled(grades: Sequence[Grade]) -> Shown:
    """The board for the end of a notebook cell: verdicts in words, symbols and colours; plain text elsewhere."""
    rows = [f"{g.claim.id:5} {marked(g.verdict):15} {g.ours or 'no number'}" for g in grades]
    return Shown(TEMPLATES.get_template("board.html.j2").render(grades=grades), "\n".join([*rows, note(grades)]))


def on_beds(graded: Sequence[tuple[str, Grade]], titles: Mapping[str, str] | None = None) -> Shown:
    """What `claims.on_beds` found: a claim, and below it a line for every bed, the verdict first.

    titles: what stands before a claim in place of its id, such as the name of its paper.
    """
    titles = titles or {}
    lines = itertools.groupby(graded, key=lambda pair: pair[1].claim)
    shown = [(claim, list(pairs)) for claim, pairs in lines]
    markup = TEMPLATES.get_template("beds.html.j2").render(claims=shown, titles=titles, grades=[g for _, g in graded])
    rows = [
        f"{titles.get(g.claim.id, g.claim.id):5} {bed:10} {marked(g.verdict):20} {g.ours or 'no number'}"
        for bed, g in graded
    ]
    return Shown(markup, "\n".join(rows) or "Nothing is recorded yet.")


def folded(shown: Shown, summary: str) -> Shown:
    """What is shown, behind a line that unfolds it."""
    markup = f"<details><summary>{html.escape(summary)}</summary>{shown.markup}</details>"
    return Shown(markup, f"{summary}\n{shown.text}")


def trials_table(trials: Sequence[Mapping[str, Any]], title: str) -> Shown:
    """The trials by which settings were chosen (`results.trials`), folded."""
    frame = pd.DataFrame(trials)
    sizes = frame.select_dtypes("number").abs().max()
    frame = frame.round({name: 2 if size >= 1 else 4 for name, size in sizes.items()}).astype(object)
    frame = frame.where(frame.notna(), "as the preset")
    return folded(Shown(frame.to_html(index=False, escape=True), frame.to_string(index=False)), title)


def escaped(text: object) -> Markup:
    """Text for Markdown in one line, in which nothing is markup, a link or an address that becomes one."""
    safe = re.sub(r"([\\|*`\[\]])", r"\\\1", " ".join(str(text).split())).replace("&", "&amp;").replace("<", "&lt;")
    return Markup(re.sub(r":(?=//)|(?<=www)\.|@", lambda found: f"&#{ord(found[0])};", safe, flags=re.IGNORECASE))


TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.globals |= {"marked": marked, "why": why, "note": note, "board": board, "colours": VERDICT_COLOURS}
