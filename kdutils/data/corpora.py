"""Corpora by one call from three sources: the embedded grammar, the Hugging Face hub, a folder of yours.

>>> load_corpus("demo", "translation", pair="en-de").sizes()
{'train': 800, 'validation': 200, 'test': 200}
>>> load_corpus("data/multi30k", "translation", pair="de-en", test_split="test_2016_flickr")
>>> load_corpus("hub:nyu-mll/glue/sst2", "classification", rows={"train": 5000})

A folder holds one file a split, named `<split>` or for translation `<source>-<target>.<split>`, ending in
.jsonl.gz, .jsonl, .txt.gz or .txt, in UTF-8. JSON lines carry one object each: "src" and "tgt"; or "text" (or
"text_a" and "text_b") and "label", an integer or a string; or "text". Plain text has one sentence or
paragraph a line, and is for the task "text".
"""

from __future__ import annotations

import functools
import hashlib
import operator
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kdutils.core.errors import UserError, unknown
from kdutils.core.files import digest
from kdutils.data.readers import OUR_COLUMNS, PAIR, Found, Request, Row, list_corpora, open_folder, open_hub, some

__all__ = ["Corpus", "list_corpora", "load_corpus"]

SPLITS = ("train", "validation", "test")
DEMO_ROWS = {
    "translation": {"train": 800, "validation": 200, "test": 200},
    "classification": {"train": 1000, "validation": 300, "test": 300},
    "text": {"train": 2000, "validation": 200, "test": 200},
}
DEMOS = ("demo", "demo:acceptability")
VALIDATION_NAMES = ("validation", "valid", "val", "dev")
CARVED_SHARE, CARVED_MOST = 0.05, 1000  # what is taken from train when a split is missing


@dataclass(frozen=True)
class Corpus:
    """Rows for one task in the splits train, validation and test, with the story of how they came about.

    Rows: translation {"src", "tgt"}; classification {"text", "label"} and, for pairs, "text_b", where label
    is an index into `labels`; text {"text"}. `notes` are sentences for whoever reads a result: a direction
    that was swapped, a split that was carved, rows that were left out.
    """

    name: str
    task: str
    splits: dict[str, list[Row]]
    labels: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all rows in their order: the same rows, the same fingerprint, whatever their source."""
        return digest(self.task, self.labels, self.splits)

    def sizes(self) -> dict[str, int]:
        """Number of rows in each split."""
        return {split: len(rows) for split, rows in self.splits.items()}


def load_corpus(
    source: str | Path,
    task: str,
    *,
    pair: str = "en-de",
    language: str = "en",
    rows: Mapping[str, int] | None = None,
    test_split: str = "test",
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    max_words: int = 0,
) -> Corpus:
    """Loads a corpus for the task "translation", "classification" or "text".

    source      "demo"; for classification also "demo:acceptability" (is this a sentence of the language?);
                "hub:owner/name" or "hub:owner/name/config", either with "@revision" at the end;
                "hub:./folder" or "hub:/folder" for a data set in the hub's layout that lies on your disk
                ("hub:./folder/config" where ./folder has a README.md that lists configurations); or a folder.
    pair        translation: source and target language. Files of the opposite direction are swapped.
    language    classification and text: the language, which for the demo decides what is generated.
    rows        most rows a split, e.g. {"train": 1000}. What is kept is a random sample by `seed`, in the
                order of the file, in every split: many files are sorted, so their head is not typical.
                For the demo these are the sizes themselves.
    test_split  name of the split to test on, where a corpus has several.
    columns     our names to yours, where they differ: {"text": "sentence", "label": "intent"}, or
                {"src": "english", "tgt": "german"}, which is taken as it is whatever the file is called.
    max_words   of the demo: no text has more words than this; 0 for any length.
    seed        of the demo's sentences and of the sample that `rows` takes; carving does not depend on it.

    Without a test split, or with one whose labels are hidden, the validation split becomes the test split. A
    missing validation split is carved from train: 5 % but at most 1,000 rows, chosen by a hash of their text,
    so that it is always the same and equal texts stay together.
    Raises UserError, one sentence, for whatever is wrong with the request or the data.
    """
    request = _request(task, pair, language, columns)
    most = _checked_rows(rows)
    if str(source) in DEMOS:
        return _demo(str(source), request, most, test_split, seed, max_words)
    found = open_hub(str(source), request) if str(source).startswith("hub:") else open_folder(Path(source), request)
    splits = _splits(found, request, test_split)
    labels = _number_labels(splits, found, request) if task == "classification" else ()
    splits = {split: _sample(split, splits[split], most.get(split), seed, request) for split in SPLITS}
    notes = tuple(dict.fromkeys(request.notes))
    return Corpus(found.name, task, splits, labels, found.languages or request.languages, notes)


def _request(task: str, pair: str, language: str, columns: Mapping[str, str] | None) -> Request:
    if task not in OUR_COLUMNS:
        raise unknown("task", task, OUR_COLUMNS)
    for name in columns or {}:
        if name not in OUR_COLUMNS[task]:
            raise unknown(f"column to map for {task}", name, OUR_COLUMNS[task])
    if task != "translation":
        return Request(task, (language,), dict(columns or {}))
    match = PAIR.fullmatch(pair)
    if not match or match[1] == match[2]:
        raise UserError(f"The pair '{pair}' must be two different language codes, as in pair='en-de'.")
    return Request(task, (match[1], match[2]), dict(columns or {}))


def _checked_rows(rows: Mapping[str, int] | None) -> dict[str, int]:
    for split, most in (rows or {}).items():
        if split not in SPLITS:
            raise unknown("split to limit", split, SPLITS)
        if not hasattr(most, "__index__") or operator.index(most) < 1:
            raise UserError(f"rows['{split}'] is {most!r} but must be a whole number of at least 1.")
    return {split: operator.index(most) for split, most in (rows or {}).items()}


# --- the embedded grammar ---------------------------------------------------------------------------------


def _demo(source: str, request: Request, rows: dict[str, int], test_split: str, seed: int, max_words: int) -> Corpus:
    check_demo(request.languages, test_split)
    if source != "demo" and request.task != "classification":
        raise UserError(f"'{source}' is a corpus for classification: for {request.task} choose 'demo'.")
    sizes = DEMO_ROWS[request.task] | rows
    drawn = draw_distinct(_demo_generator(source, request, seed), sum(sizes.values()), max_words)
    ends = [sum(sizes[name] for name in SPLITS[: i + 1]) for i in range(3)]
    splits = {name: drawn[end - sizes[name] : end] for name, end in zip(SPLITS, ends, strict=True)}
    kinds = ("negative", "positive") if source == "demo" else ("unacceptable", "acceptable")
    labels = kinds if request.task == "classification" else ()
    return Corpus(source, request.task, splits, labels, request.languages)


def check_demo(languages: Iterable[str], test_split: str = "test") -> None:
    """Raises UserError for a language that the grammar does not speak, or another test split than its only one."""
    from kdutils.grammar import corpus as grammar

    for code in languages:
        if code not in grammar.LANGUAGES:
            raise unknown("language in the demo grammar", code, grammar.LANGUAGES)
    if test_split != "test":
        raise unknown("test split in the demo corpus", test_split, ["test"])


@functools.lru_cache(maxsize=2)  # both directions of a pair are made of the same rows
def demo_rows(languages: tuple[str, ...], total: int, seed: int = 0, max_words: int = 0) -> list[dict[str, str]]:
    """Sentences of the grammar in all of these languages, {language: text}, of which no two are the same."""
    from kdutils.grammar import corpus as grammar

    return draw_distinct(lambda n: grammar.translations(n, seed, languages), total, max_words)


def _demo_generator(source: str, request: Request, seed: int) -> Callable[[int], list[Row]]:
    from kdutils.grammar import corpus as grammar

    if request.task == "text":
        return lambda n: [{"text": text} for text in grammar.text(n, seed, request.languages[0])]
    if request.task == "classification":
        make = grammar.sentiment if source == "demo" else grammar.acceptability
        return lambda n: make(n, seed, request.languages[0])
    source, target = request.languages
    return lambda n: [
        {"src": row[source], "tgt": row[target]} for row in grammar.translations(n, seed, request.languages)
    ]


def draw_distinct(generate: Callable[[int], list[Row]], total: int, max_words: int = 0) -> list[Row]:
    """Draws `total` short enough rows of which no two share a text, in whatever column: no cut of them leaks."""
    asked = total
    while asked < 25 * total + 1000:
        seen: dict[str, set] = {}
        kept = []
        for row in generate(asked):
            texts = [(key, text) for key, text in row.items() if isinstance(text, str)]
            short = not max_words or all(len(text.split()) <= max_words for _, text in texts)
            if short and all(text not in seen.get(key, ()) for key, text in texts):
                kept.append(row)
                for key, text in texts:
                    seen.setdefault(key, set()).add(text)
        if len(kept) >= total:
            return kept[:total]
        needed = 1.05 * asked * total / max(len(kept), 1)  # at this yield; the first rows stay the same
        asked = min(max(int(needed), asked + total - len(kept)), 12 * asked)
    raise UserError(f"The demo grammar does not yield {total} different sentences: ask for fewer rows.")


# --- splits: which of theirs is which of ours, and what is carved -----------------------------------------


def _splits(found: Found, request: Request, test_split: str) -> dict[str, list[Row]]:
    plan = _plan(found, test_split)
    splits = {ours: found.readers[theirs]() for ours, theirs in plan.items()}
    if request.task == "classification" and _hidden(splits):
        del splits["test"]
        request.notes.append(f"The labels of '{plan['test']}' are hidden (all -1): it was not used.")
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
        request.notes.append(f"There is no test split to use: '{plan['validation']}' serves as the test split.")
    for split in ("test", "validation"):
        if split not in splits:
            splits["train"], splits[split] = _carve(splits["train"], found.name)
            share = f"{len(splits[split]):,} rows were carved from train by a hash of their text"
            request.notes.append(f"There is no {split} split of its own: {share}.")
    return splits


def _plan(found: Found, test_split: str) -> dict[str, str]:
    """Our split names -> the source's, for those it has. Raises UserError without train or a clear test."""
    names = list(found.readers)
    if "train" not in names:
        raise UserError(f"{found.name} has no train split, only {some(names)}: choose a corpus that has one.")
    if test_split == "train":
        raise UserError("test_split='train' would test on what was learned: choose another split.")
    validation = next((name for name in VALIDATION_NAMES if name in names and name != test_split), None)
    plan = {"train": "train"} | ({"validation": validation} if validation else {})
    if test_split in names:
        return plan | {"test": test_split}
    if test_split != "test":
        raise unknown(f"test split in {found.name} called", test_split, [name for name in names if name != "train"])
    others = [name for name in names if name.startswith("test_") or name.endswith("_test")]
    if others:
        raise UserError(f"{found.name} has no split 'test' but {some(others)}: choose with test_split='{others[0]}'.")
    return plan


def _hidden(splits: dict[str, list[Row]]) -> bool:
    train = {row["label"] for row in splits["train"]}
    return "test" in splits and -1 not in train and all(row["label"] == -1 for row in splits["test"])


def _carve(rows: list[Row], name: str) -> tuple[list[Row], list[Row]]:
    """Splits rows in two, the second 5 % but at most 1,000; rows of equal text stay on one side."""
    keys = [_text_hash(row) for row in rows]
    counts = Counter(keys)
    most = min(CARVED_MOST, max(1, int(len(rows) * CARVED_SHARE)))
    chosen, size = set(), 0
    for key in sorted(counts):
        if size + counts[key] <= most:
            chosen.add(key)
            size += counts[key]
    if not 0 < size < len(rows):
        raise UserError(f"The train split of {name} has too few different rows to carve from: add the missing splits.")
    kept = [row for key, row in zip(keys, rows, strict=True) if key not in chosen]
    return kept, [row for key, row in zip(keys, rows, strict=True) if key in chosen]


def _text_hash(row: Row) -> bytes:
    """Of what a model is given (not the label or the translation): equal inputs must not be on both sides."""
    given = row["src"] if "src" in row else f"{row['text']}\n{row.get('text_b', '')}"
    return hashlib.sha256(given.encode()).digest()


def _sample(split: str, rows: list[Row], most: int | None, seed: int, request: Request) -> list[Row]:
    if most is None or most >= len(rows):
        return rows
    request.notes.append(f"{split}: a random sample of {most:,} of {len(rows):,} rows (seed {seed}).")
    chosen = random.Random(f"{split} {seed}").sample(range(len(rows)), most)
    return [rows[index] for index in sorted(chosen)]


# --- labels -----------------------------------------------------------------------------------------------


def _number_labels(splits: dict[str, list[Row]], found: Found, request: Request) -> tuple[str, ...]:
    """Replaces every label by its index in the returned names, which train decides."""
    _settle_labels(splits, found, request)
    seen = {row["label"] for row in splits["train"]}
    names = found.label_names if all(isinstance(label, int) for label in seen) else {}
    if len(seen) < 2 or len({type(label) for label in seen}) > 1:
        raise UserError(
            f"The train labels of {found.name} are {some(sorted(map(repr, seen)))}: "
            f"two or more are needed, all integers or all text."
        )
    if names and not seen <= names.keys():
        raise UserError(
            f"{found.name} names the labels {some(names)}, but its train split also has "
            f"{some(sorted(seen - names.keys()))}: correct the rows or the names."
        )
    values = sorted(names or seen)
    if not names and isinstance(values[0], int) and values != list(range(len(values))):
        request.notes.append(f"The labels {some(values)} were numbered from 0.")
    index = {value: position for position, value in enumerate(values)}
    for split, rows in splits.items():
        for row in rows:
            if row["label"] not in seen:
                raise UserError(f"The {split} split of {found.name} has the label {row['label']!r}, which train lacks.")
            row["label"] = index[row["label"]]
    return tuple(names.get(value, str(value)) for value in values)


def _settle_labels(splits: dict[str, list[Row]], found: Found, request: Request) -> None:
    """True and False become names; rows marked -1, where the source names its labels, have none and go."""
    for split, rows in splits.items():
        for row in rows:
            if isinstance(row["label"], bool):
                row["label"] = str(row["label"]).lower()
        if found.label_names and -1 not in found.label_names:
            labelled = [row for row in rows if row["label"] != -1]
            if len(labelled) < len(rows):
                request.notes.append(f"{split}: {len(rows) - len(labelled):,} rows without a label were left out.")
            splits[split] = labelled
