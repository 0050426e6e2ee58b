"""Presets: every setting of an experiment with its demo, study and paper value, its meaning and its source.

>>> settings = SETTINGS.resolve("demo", {"alpha": 1.0})
>>> settings.alpha, settings.updates
(1.0, 240)
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kdutils.core.errors import UserError, unknown
from kdutils.core.files import digest

# demo: two minutes, live. grammar: the demo's corpus, trained to its plateau. small: small real sets, on a CPU. study:
# real data, one GPU of Colab. paper: as published. Where a table has no value for grammar or small, the preset before
# it gives one.
PRESETS = ("demo", "grammar", "small", "study", "paper")
# The least and the largest value of a number: by the whole name of its setting, by the last word of it, by its type.
# Beyond them nothing is trained, but a machine stalls or a library overflows; no setting is ever negative.
RATE = (0.0, 1.0)
BOUNDS = {
    "student_width": (0, 16_384), "student_feedforward": (0, 131_072), "downstream_max_length": (8, 32_768),
    "label_smoothing": RATE, "dropout": RATE, "mask_probability": (1e-4, 1.0), "rate": (0.0, 100.0),
    "width": (1, 16_384), "feedforward": (1, 131_072), "layers": (1, 1000), "heads": (1, 1024), "length": (2, 32_768),
    "updates": (1, 10**9), "log_every": (1, 10**9), "checkpoint_every": (1, 10**9), "accumulation": (1, 10_000),
    "rows": (0, 10**8), "vocab_size": (0, 10**6), "max_tokens": (1, 10**9), "batch_size": (1, 10**6),
    "batch": (1, 10**6), "epochs": (1, 10_000), "seeds": (1, 1000), "seed": (0, 2**32 - 1), "beams": (1, 64),
    "threads": (0, 1024), int: (0, 10**9), float: (0.0, 1e6),
}  # fmt: skip
UNHASHED = ("tracker", "log_every")  # they change what is written down, not what is computed


@dataclass(frozen=True)
class Setting:
    """One line of an experiment's table: a value for each preset, what it means, where the paper's is from.

    grammar, small: None means the value of the preset before, which is the demo's or the grammar's.
    """

    name: str
    demo: Any
    study: Any
    paper: Any
    meaning: str
    source: str = ""  # of the paper's value: a section, a line of the official code, or "paper silent"
    bounds: tuple[float, float] | None = None  # the least and the largest value; by default those of BOUNDS
    pretrained: Any = None  # the value where `model` names a start and the preset has none; None: the preset's
    grammar: Any = None
    small: Any = None

    def at(self, preset: str) -> Any:
        """The value in a preset."""
        value = getattr(self, preset)
        before = {"grammar": "demo", "small": "grammar"}
        return self.at(before[preset]) if value is None and preset in before else value

    def check(self, value: Any) -> None:
        """Raises UserError for a number that is out of bounds, alone or in a list, and for NaN."""
        for each in value if isinstance(value, list) else [value]:
            if type(each) not in (int, float):
                continue
            keys = (self.name, self.name.rpartition("_")[2], type(each))
            low, high = self.bounds or next(BOUNDS[key] for key in keys if key in BOUNDS)
            if not low <= each <= high:
                between = f"at least {low:,.10g} and at most {high:,.10g}"
                raise UserError(f"{self.name} is {_short(each)}: it must be {between}.")


class Settings(Mapping):
    """Resolved settings, read as attributes or as a mapping; they cannot be changed."""

    def __init__(
        self, preset: str, values: dict[str, Any], overrides: dict[str, Any], pretrained: Iterable[str] = ()
    ) -> None:
        self.__dict__.update(values)
        self.__dict__.update(_values=dict(values), preset=preset, overrides=dict(overrides))
        self.__dict__.update(pretrained=tuple(pretrained))  # the settings whose value is that of a pretrained start

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("Settings are fixed once resolved: use overrides, or `changed`.")

    def __repr__(self) -> str:
        return f"Settings({self.preset}, {', '.join(f'{k}={v!r}' for k, v in self._values.items())})"

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that name these settings; the folder of a run ends with them."""
        return digest({k: v for k, v in self._values.items() if k not in UNHASHED})[:8]

    def changed(self, **changes: Any) -> Settings:
        """The same settings with some values replaced, for an arm that differs from the others in these."""
        for name in changes.keys() - self._values.keys():
            raise unknown("setting", name, sorted(self._values))
        return Settings(self.preset, {**self._values, **changes}, self.overrides, self.pretrained)

    @property
    def note(self) -> str:
        """What a pretrained start changed, as a sentence; empty where it changed nothing."""
        values = ", ".join(f"{name} = {self[name]!r}" for name in self.pretrained)
        return f"A pretrained start has values of its own: {values}." if values else ""


class Table:
    """The settings of an experiment. Papers take a task's table and add or replace lines."""

    def __init__(self, *settings: Setting) -> None:
        self.settings = {setting.name: setting for setting in settings}

    def extended(self, *settings: Setting, **changes: dict[str, Any]) -> Table:
        """A new table with lines added or replaced; `name={"paper": 4096, "source": "..."}` edits one line."""
        table = Table(*self.settings.values(), *settings)
        for name, fields in changes.items():
            table.settings[name] = replace(table.settings[name], **fields)
        return table

    def resolve(self, preset: str, overrides: Mapping[str, Any] | None = None) -> Settings:
        """The values of a preset with the overrides applied.

        Where they name a `model` to start from and the preset has none, or the demo's, its values are not for that
        start, and those for a pretrained one take their place unless they are overridden as well.
        An override may be text, as from a command line, and is read as the type of the preset's value. Raises
        UserError for an unknown preset or setting, with the near ones, for a value of another type, or out of bounds.
        """
        if preset not in PRESETS:
            raise unknown("preset", preset, PRESETS)
        values = {name: setting.at(preset) for name, setting in self.settings.items()}
        pretrained, changed = {}, {}
        own = ("", "demo", "demo:teacher")
        if (overrides or {}).get("model", "demo") not in own and values.get("model") in own:
            pretrained = {name: s.pretrained for name, s in self.settings.items() if s.pretrained is not None}
        values |= pretrained
        for name, value in (overrides or {}).items():
            if name not in values:
                raise unknown("setting", name, sorted(values))
            value = _like(values[name], value, name)
            self.settings[name].check(value)
            if value != values[name]:
                changed[name] = value
        return Settings(preset, {**values, **changed}, changed, [name for name in pretrained if name not in changed])

    def show(self, settings: Settings):
        """The resolved settings as a pandas.DataFrame: value, the paper's value, meaning and source."""
        import pandas as pd  # heavy, and needed here only

        marks = dict.fromkeys(settings.overrides, " (changed)") | dict.fromkeys(
            settings.pretrained, " (pretrained start)"
        )
        rows = [
            {
                "setting": s.name + marks.get(s.name, ""),
                "value": settings[s.name],
                "paper": s.paper,
                "meaning": s.meaning,
                "source of the paper's value": s.source,
            }
            for s in self.settings.values()
        ]
        return pd.DataFrame(rows).set_index("setting")


def parse_assignments(items: Iterable[str]) -> dict[str, str]:
    """["alpha=1", "pair=de-en"] as a dictionary of texts. Raises UserError for one without "="."""
    pairs = [item.partition("=") for item in items]
    for name, sign, _ in pairs:
        if not sign or not name:
            raise UserError(f"--set takes name=value, for example --set alpha=1, not '{name}'.")
    return {name.strip(): value for name, _, value in pairs}


def _like(old: Any, new: Any, name: str) -> Any:
    """`new` as the type of `old`; whole numbers pass as floats, texts are read as JSON unless text is wanted.

    Lists may also be written as Python writes them, with single quotes.
    """
    if isinstance(new, str) and not isinstance(old, str):
        try:
            new = _read(new, isinstance(old, list))
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise _wrong_type(old, new, name) from None
    if isinstance(old, list) and isinstance(new, list | tuple):
        try:
            return [_like(old[0], one, name) if old else one for one in new]
        except UserError:
            raise _wrong_type(old, new, name) from None
    if isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool):
        return float(new) if abs(new) < 10**300 else math.inf
    if isinstance(old, int) and not isinstance(old, bool) and isinstance(new, float) and new.is_integer():
        return int(new)
    if isinstance(old, str) and isinstance(new, int | float) and not isinstance(new, bool):
        return str(new)
    if type(new) is not type(old):
        raise _wrong_type(old, new, name)
    if isinstance(new, str) and ("\0" in new or new.encode(errors="replace").decode() != new):
        raise UserError(f"The setting '{name}' is {_short(new)}, which holds characters that are no text.")
    return new


def _read(text: str, wants_list: bool) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        if not wants_list:
            raise
        return ast.literal_eval(text.strip())


KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _wrong_type(old: Any, new: Any, name: str) -> UserError:
    kind, example = KINDS.get(type(old), type(old).__name__), repr(old)
    if isinstance(old, list):
        kind = f"a list of {'whole numbers' if old and type(old[0]) is int else 'texts'} in brackets"
        example = json.dumps(old, ensure_ascii=False)
    return UserError(f"The setting '{name}' takes {kind}, such as {example}, not {_short(new)}.")


def _short(value: Any) -> str:
    """A value as Python writes it, cut to what fits into a sentence."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more than 4,300 digits, a list in a list in a list ...
        text = "a value that is too long to print"
    return text if len(text) <= 80 else f"{text[:60]}..."
