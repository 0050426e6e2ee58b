"""Tables for notebooks: settings, translations side by side, recorded runs. HTML with a plain text beside it.

>>> show_settings(TRANSLATION, settings, "translation")
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from kdutils import claims
from kdutils.settings import Settings, Table

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
