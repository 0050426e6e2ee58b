"""Tables for notebooks: settings, translations side by side, recorded runs. HTML with a plain text beside it.

>>> show_settings(TRANSLATION, settings, "translation")
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from kdutils.core.settings import Settings, Table
from kdutils.study import claims
from kdutils.study.claims import CONTRADICTED, INCONCLUSIVE, NOT_RUN, SUPPORTED, Grade, marked

HEADLINES = ("test_bleu", "exam_macro", "test_accuracy")  # the first of these that a run has stands for it


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
    markup = f"<details><summary>{html.escape(summary)}</summary>{frame.to_html(escape=True)}</details>"
    return Shown(markup, "\n".join([summary, *(f"  {name} = {value!r}" for name, value in settings.items())]))


def cards(columns: Mapping[str, Sequence[str]]) -> Shown:
    """Sentences side by side, one block an example: {"source": [...], "reference": [...], "R-Drop": [...]}."""
    blocks, lines = [], []
    for row in zip(*columns.values(), strict=True):
        pairs = list(zip(columns, row, strict=True))
        body = "".join(
            f'<tr><th style="text-align:left">{html.escape(name)}</th>'
            f'<td style="text-align:left">{html.escape(text)}</td></tr>'
            for name, text in pairs
        )
        blocks.append(f'<table style="margin-bottom:1em">{body}</table>')
        lines += [*(f"{name}: {text}" for name, text in pairs), ""]
    return Shown("".join(blocks), "\n".join(lines).rstrip())


def records_table(records: Iterable[Mapping[str, Any]], arms: Sequence[Any]) -> Shown:
    """Recorded runs, one line a group of settings and arm: headline metric with its interval, and where it ran."""
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for record in records:
        changed = ", ".join(f"{k}={v}" for k, v in sorted(record["overrides"].items()))
        groups.setdefault((record["task"], record["preset"], changed), []).append(record)
    rows = [row for key, members in sorted(groups.items()) for row in _rows(key, members, arms)]
    if not rows:
        text = "No such runs are recorded in results/ yet."
        return Shown(f"<p>{text}</p>", text)
    frame = pd.DataFrame(rows).fillna("")
    return Shown(frame.to_html(index=False, escape=True), frame.to_string(index=False))


def _rows(key: tuple, members: list[Mapping[str, Any]], arms: Sequence[Any]) -> Iterable[dict[str, Any]]:
    task, preset, changed = key
    for arm in arms:
        having = [record for record in members if arm.name in record["arms"]]
        if not having:
            continue
        scores = having[0]["arms"][arm.name]["metrics"]
        metric = next(name for name in HEADLINES if name in scores)
        values = [record["arms"][arm.name]["metrics"][metric] for record in having]
        minutes = [record["arms"][arm.name]["metrics"]["minutes"] for record in having]
        yield {
            "task": task,
            "preset and changes": f"{preset}; {changed}" if changed else preset,
            "arm": arm.label,
            metric: claims.format_interval(*claims.interval(values), sign=False),
            "seeds": len(values),
            "minutes a seed": round(sum(minutes) / len(minutes), 1),
            "device": having[0]["provenance"]["device"],
            "date": having[0]["provenance"]["date"][:10],
        }


# Background and text of a verdict: dark enough text on a light ground, so it reads on light and dark pages.
VERDICT_COLOURS = {
    SUPPORTED: ("#cfeee3", "#00523b"),
    CONTRADICTED: ("#fbdccb", "#7a3000"),
    INCONCLUSIVE: ("#e6e6e6", "#333333"),
    NOT_RUN: ("#f7f7f7", "#555555"),
}


def board(grades: Sequence[Grade]) -> pd.DataFrame:
    """The grades as a table; the column "ours" reads: mean [95 % interval] unit."""
    columns = ["claim", "statement", "paper", "ours", "seeds", "verdict", "why"]
    rows = [(g.claim.id, g.claim.statement, g.claim.cited, g.ours, g.n, marked(g.verdict), why(g)) for g in grades]
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


class Styled:
    """A board in a notebook: a table with verdicts in words, symbols and colours; plain text elsewhere."""

    def __init__(self, grades: Sequence[Grade]) -> None:
        self.grades = list(grades)

    def _repr_html_(self) -> str:
        return board_html(self.grades)

    def __repr__(self) -> str:
        rows = [f"{g.claim.id:5} {marked(g.verdict):15} {g.ours or 'no number'}" for g in self.grades]
        return "\n".join([*rows, note(self.grades)])


def styled(grades: Sequence[Grade]) -> Styled:
    """The board for the end of a notebook cell; needs nothing beyond IPython."""
    return Styled(grades)


def board_html(grades: Sequence[Grade]) -> str:
    """The board as an HTML table with escaped text; colours stand beside their words, never alone."""
    table = board(grades)
    head = "".join(f'<th scope="col" style="text-align:left">{name}</th>' for name in table.columns)
    body = "".join(_row_html(g, row) for g, row in zip(grades, table.itertuples(index=False), strict=True))
    rows = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<table class="claims">{rows}</table><p><small>{html.escape(note(grades))}</small></p>'


def _row_html(grade: Grade, row: Iterable) -> str:
    ground, ink = VERDICT_COLOURS[grade.verdict]
    badge = f"background:{ground};color:{ink};padding:2px 8px;border-radius:9px;white-space:nowrap"
    cells = [html.escape(str(cell)) for cell in row]
    cells[5] = f'<b style="{badge}">{cells[5]}</b>'
    styles = ["text-align:left;vertical-align:top"] * len(cells)
    styles[3] += ";white-space:nowrap"
    cells[3] = cells[3].replace(" [", "<br>[")  # an interval is read in one piece
    return "<tr>" + "".join(f'<td style="{s}">{c}</td>' for s, c in zip(styles, cells, strict=True)) + "</tr>"
