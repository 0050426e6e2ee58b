"""The store of recorded results: which runs were recorded, and where a new record goes.

>>> records = recorded("r_drop")                    # what was measured before, at any scale
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdutils.core.errors import UserError
from kdutils.core.files import HOME, digest, read_json, write_json

Record = dict[str, Any]


def recorded(name: str, results: str | Path = HOME / "results") -> list[Record]:
    """The recorded runs of a paper, one a (settings, seed), in the order of their files."""
    return [read_json(path) for path in sorted(Path(results).glob(f"{name}/*/*.json"))]


def record_path(record: Record, results: str | Path = HOME / "results") -> Path:
    """Where a record is kept: `<results>/<paper>/<preset>/<task>[-setting=value...]-seed-<n>.json`."""
    overrides = record["overrides"]
    changes = "".join(f"-{name}={_short(value)}" for name, value in sorted(overrides.items()))
    if len(changes.encode()) > 190:  # a file system allows 255 bytes for the whole name
        changes = f"-data={_short(overrides['data'])[:40]}" if "data" in overrides else ""
        changes += f"-{len(overrides)}-changes-{digest(overrides)[:8]}"
    return Path(results) / record["paper"] / record["preset"] / f"{record['task']}{changes}-seed-{record['seed']}.json"


def free_place(record: Record, results: str | Path = HOME / "results") -> Path:
    """`record_path` where nothing is kept yet; the arms are not looked at, so it can be asked before the training.

    Raises UserError when a record is there already.
    """
    place = record_path(record, results)
    if place.exists():
        if read_json(place).get("overrides") != record["overrides"]:  # data=/a/corpus and data=/b/corpus
            raise UserError(f"{place} holds a run of other settings that has the same name: rename that file first.")
        raise UserError(f"{place} is recorded already: delete it first if the new run is to replace it.")
    return place


def keep(record: Record, results: str | Path = HOME / "results") -> Path:
    """Copies a record into the store, its training curves thinned to the evaluations. Never replaces one.

    Raises UserError when a record of these settings and this seed is there already.
    """
    place = free_place(record, results)
    arms = {
        name: {**arm, "history": [row for row in arm["history"] if row["kind"] == "eval"]}
        for name, arm in record["arms"].items()
    }
    write_json(place, {**record, "arms": arms})
    return place


def for_claim(over: Sequence[str], records: Sequence[Record], task: str, preset: str) -> list[Record]:
    """The records of a task and preset that differ from the preset in nothing but the settings in `over`."""
    return [
        record
        for record in records
        if (record["task"], record["preset"]) == (task, preset) and set(record["overrides"]) <= set(over)
    ]


def _short(value: Any) -> str:
    """A value as a part of a file name: a folder by its last part, a data set of the hub by owner and name."""
    if isinstance(value, list | tuple):
        return "+".join(map(_short, value))
    text = str(value)
    text = text[4:].partition("@")[0] if text.startswith("hub:") else Path(text).name if os.sep in text else text
    return re.sub(r"[^\w.+-]+", "-", text)
