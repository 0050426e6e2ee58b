"""The store of recorded results: which runs were recorded, which of them belong together, where a new one goes.

>>> records = recorded("r_drop")                    # what was measured before, at any scale
>>> records = merged([*mine, *records])             # a run of my own replaces the arms that it has, and no others
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdutils.core.errors import UserError
from kdutils.core.files import HOME, digest, read_json, write_json
from kdutils.core.settings import UNHASHED

Record = dict[str, Any]

# What a record looks like, "*" standing for any name. What is not listed may be anything.
NUMBER = (int, float, type(None))
RUN = {"date": str, "device": str}
SHAPE = {
    "paper": str, "task": str, "preset": str, "seed": int, "settings": {}, "overrides": {},
    "arms": {"*": {"metrics": {"*": NUMBER}, "history": [{"update": NUMBER, "kind": str}], "provenance": RUN}},
    "provenance": {**RUN, "data": {"corpus": str, "fingerprint": str, "notes": [str]}},
}  # fmt: skip
NEEDED = ("paper", "preset", "seed", "arms", "metrics")
SELECTED = {"translation": "loss", "classification": "accuracy"}  # before records said by what
WORDS = {str: "text", int: "a whole number", NUMBER: "a number"}
TUNING_SEEDS = range(11, 20)  # on which settings are chosen; a verdict never rests on them
# where a bed's corpus or start was taken from; its rows decide
BY_ANOTHER_ROAD = {"data", "test_split", "model", "teacher_start"}
ROWS = {"train_rows", "validation_rows", "test_rows", "data_seed", "max_words"}  # they choose rows of the same corpus


def recorded(name: str, results: str | Path = HOME / "results") -> list[Record]:
    """The recorded runs of a paper, one a (settings, seed), in the order of their files."""
    return [read(path) for path in sorted(Path(results).glob(f"{name}/*/*.json"))]


def read(path: str | os.PathLike) -> Record:
    """The record in a file. Raises UserError, in one sentence, when it cannot be read or is no record."""
    found = read_json(path)
    if fault := "it is nested too deeply" if _deeper(found, 20) else _fault(found, SHAPE):
        raise UserError(f"{path} is JSON but not a record: {fault}.")
    record = {"task": "", "settings": {}, "overrides": {}, "provenance": {}, **found}
    if record["settings"] and record["task"] in SELECTED:
        record["settings"].setdefault("select_by", SELECTED[record["task"]])
    return record


def _deeper(value: Any, levels: int) -> bool:
    """Whether objects and lists lie inside each other on more than so many levels."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper(item, levels - 1) for item in inside)


def _fault(value: Any, shape: Any, name: str = "it") -> str:
    """What keeps a value from having a shape, in words; empty if nothing does."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{name} has to be an object of names and values"
        missing = [key for key in NEEDED if key in shape and value.get(key) in (None, "", {})]
        if missing:
            return f"{name} lacks {', '.join(missing)}"
        parts = [(value[key], shape.get(key, shape.get("*")), repr(key[:40])) for key in value]
    elif isinstance(shape, list):
        if not isinstance(value, list):
            return f"{name} has to be a list"
        parts = [(item, shape[0], f"an entry of {name}") for item in value]
    elif shape is None:
        return ""
    else:
        fits = isinstance(value, shape) and not isinstance(value, bool)
        fits = fits and not (isinstance(value, int) and abs(value) > 1e300)  # no float holds it
        return "" if fits else f"{name} has to be {WORDS[shape]}"
    return next(filter(None, (_fault(*part) for part in parts)), "")


def merged(records: Iterable[Record]) -> list[Record]:
    """One record for each paper, task, preset, settings, data and seed, which has the arms of all of them.

    Of the arms of one name the newest counts, of equally new ones the first: a run comes before its copy in the store.
    The rest of a merged record is that of the newest. The order is that of the first of each.
    """
    same: dict[str, list[Record]] = {}
    for record in records:
        settings = {name: value for name, value in record.get("settings", {}).items() if name not in UNHASHED}
        about = [record.get(name) for name in ("paper", "task", "preset", "overrides", "seed")]
        key = json.dumps([*about, settings, _data(record).get("fingerprint")], sort_keys=True)
        same.setdefault(key, []).append(record)
    return [_together(some) for some in same.values()]


def _together(records: Sequence[Record]) -> Record:
    fullest = sorted(records, key=lambda record: -len(record["arms"]))  # whose order of the arms is kept
    arms = {}
    for name in dict.fromkeys(name for record in fullest for name in record["arms"]):
        having = [record for record in records if name in record["arms"]]
        arms[name] = max(having, key=lambda record: date(record, name))["arms"][name]
    return {**max(records, key=date), "arms": arms}


def date(record: Record, arm: str = "") -> str:
    """When an arm of a record was trained, or when the record was written; ISO 8601, empty where it does not say."""
    of_arm = record["arms"].get(arm, {}).get("provenance", {}).get("date", "")
    return of_arm or record.get("provenance", {}).get("date", "")


def _data(record: Record) -> dict[str, Any]:
    return record.get("provenance", {}).get("data", {})


def comparable(one: Record, other: Record, over: Sequence[str] = ()) -> bool:
    """Whether records differ in nothing but seed, arms and the overrides in `over`: so their numbers form one table.

    Their data have to be the same to the last row, or where `over` chooses the rows (`train_rows`), the same corpus.
    """
    rows = ROWS & set(over) and one["overrides"] != other["overrides"]

    def about(record: Record) -> list:
        kept = {name: value for name, value in record["overrides"].items() if name not in over}
        data = _data(record).get("corpus" if rows else "fingerprint")
        return [*(record.get(name) for name in ("paper", "task", "preset")), kept, data]

    return about(one) == about(other)


def record_path(record: Record, results: str | Path = HOME / "results") -> Path:
    """Where a record is kept: `<results>/<paper>/<preset>/<task>[-setting=value...]-seed-<n>.json`."""
    overrides = record["overrides"]
    changes = "".join(f"-{name}={_short(value)}" for name, value in sorted(overrides.items()))
    if len(changes.encode()) > 190:  # a file system allows 255 bytes for the whole name
        changes = f"-data={_short(overrides['data'])[:40]}" if "data" in overrides else ""
        changes += f"-{len(overrides)}-changes-{digest(overrides)[:8]}"
    return Path(results) / record["paper"] / record["preset"] / f"{record['task']}{changes}-seed-{record['seed']}.json"


def free_path(record: Record, results: str | Path = HOME / "results") -> Path:
    """`record_path` where nothing is kept yet; the arms are not looked at, so it can be asked before the training.

    Raises UserError when a record is there already.
    """
    path = record_path(record, results)
    if path.exists():
        if read(path)["overrides"] != record["overrides"]:  # data=/a/corpus and data=/b/corpus
            raise UserError(f"{path} holds a run of other settings that has the same name: rename that file first.")
        raise UserError(f"{path} is recorded already: delete it first if the new run is to replace it.")
    return path


def keep(record: Record, results: str | Path = HOME / "results") -> Path:
    """Copies a record into the store, with all evaluations and a few lines of the training. Never replaces one.

    Raises UserError when a record of these settings and this seed is there already.
    """
    path = free_path(record, results)
    arms = {name: {**arm, "history": thinned(arm["history"])} for name, arm in record["arms"].items()}
    write_json(path, {**record, "arms": arms})
    return path


def thinned(history: Sequence[Mapping[str, Any]], most: int = 20) -> list[Mapping[str, Any]]:
    """A history with all of its evaluations, but at most so many lines of the training, evenly spaced to the last."""
    lines = [row["update"] for row in history if row["kind"] == "train"]
    few = min(most, len(lines))
    kept = {lines[-1 - number * len(lines) // few] for number in range(few)}
    return [row for row in history if row["kind"] == "eval" or row["update"] in kept]


def for_claim(
    over: Sequence[str], records: Sequence[Record], task: str, preset: str, like: Record | None = None
) -> list[Record]:
    """The records of a task and preset that differ from `like` in nothing but the settings in `over`, merged.

    like: a record of the run that is graded, so that what was recorded on the demo's data says nothing of a reader's
    own. Without it the preset as it is: only what is in `over` may be overridden, and the place that the data were
    taken from; of several versions of the data, those of the newest. Never those on which settings were chosen
    (`TUNING_SEEDS`).
    """
    found = [record for record in records if (record["task"], record["preset"]) == (task, preset)]
    if like is None:
        allowed = {*over, *(BY_ANOTHER_ROAD if preset != "demo" else ())}
        found = [r for r in found if set(r["overrides"]) <= allowed and r["seed"] not in TUNING_SEEDS]
        like = max(found, key=lambda record: (-len(record["overrides"]), date(record)), default=None)
    return merged(record for record in found if comparable(like, record, over))


def trials(records: Sequence[Record], task: str, preset: str, metric: str) -> list[dict[str, Any]]:
    """The trials by which settings were chosen: what was changed, the arm, and the mean of a validation score.

    One dict a trial, over the seeds that are set aside for it (`TUNING_SEEDS`), best first within an arm.
    """
    groups: dict[str, dict[int, float]] = {}
    for record in merged(records):
        if (record["task"], record["preset"]) == (task, preset) and record["seed"] in TUNING_SEEDS:
            hidden = {*BY_ANOTHER_ROAD, "updates", "eval_every", "checkpoint_every"}  # its length is in its metrics
            changed = {name: value for name, value in record["overrides"].items() if name not in hidden}
            for arm, result in record["arms"].items():
                about = {"arm": arm, **changed, "updates": result["metrics"].get("updates")}
                groups.setdefault(json.dumps(about), {})[record["seed"]] = result["metrics"][metric]
    rows = [
        {**json.loads(about), "seeds": len(scores), metric: sum(scores.values()) / len(scores)}
        for about, scores in groups.items()
    ]
    return sorted(rows, key=lambda row: (row["arm"], -row[metric]))


def _short(value: Any) -> str:
    """A value as a part of a file name: a folder by its last part, a data set of the hub by owner and name."""
    if isinstance(value, list | tuple):
        return "+".join(map(_short, value))
    text = str(value)
    text = text[4:].partition("@")[0] if text.startswith("hub:") else Path(text).name if os.sep in text else text
    return re.sub(r"[^\w.+-]+", "-", text)
