"""Corpora by one call from three sources: the embedded grammar, the Hugging Face hub, a folder of yours.

>>> load_corpus("demo", "translation", pair="en-de").sizes()
{'train': 800, 'validation': 200, 'test': 200}
>>> load_corpus("data/multi30k", "translation", pair="de-en", test_split="test_2016_flickr")
>>> load_corpus("hub:nyu-mll/glue/sst2", "classification", rows={"train": 5000})

A folder holds one file a split, named `<split>` or for translation `<source>-<target>.<split>`, ending in
.jsonl.gz, .jsonl, .txt.gz or .txt, in UTF-8. JSON lines carry one object each: "src" and "tgt"; or "text" (or
"text_a" and "text_b") and "label", an integer or a string, or "score", a number; or "text". Plain text has one sentence
or paragraph a line, and is for the task "text".
"""

from __future__ import annotations

import functools
import hashlib
import operator
import random
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kdutils.core.errors import UserError, unknown
from kdutils.core.files import digest
from kdutils.data.readers import OUR_COLUMNS, PAIR, Found, Request, Row, list_corpora, open_folder, open_hub, some

__all__ = ["Corpus", "list_corpora", "load_corpus"]

SPLITS = ("train", "validation", "test")
DEMO_ROWS = {
    "translation": {"train": 800, "validation": 200, "test": 200},
    "classification": {"train": 1000, "validation": 300, "test": 300},
    "regression": {"train": 1000, "validation": 300, "test": 300},
    "text": {"train": 2000, "validation": 200, "test": 200},
}
DEMOS = ("demo", "demo:acceptability")
ORDER = "order:"  # before a source: its texts, with the question whether their words are in order
SWAPPED, SHOWN = ("as written", "swapped"), 30  # answers; words, about the 48 tokens that exams on a CPU read
VALIDATION_NAMES = ("validation", "valid", "val", "dev")
CARVED_SHARE, CARVED_MOST = 0.05, 1000  # what is taken from train when a split is missing


@dataclass(frozen=True)
class Corpus:
    """Rows for one task in the splits train, validation and test, with the story of how they came about.

    Rows: translation {"src", "tgt"}; classification {"text", "label"} and, for pairs, "text_b", where label
    is an index into `labels`; regression {"text", "score"} and for pairs "text_b", where score is a float; text
    {"text"}. `notes` are sentences for whoever reads a result: a direction that was swapped, a split that was carved,
    rows that were left out.
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
    """Loads a corpus for the task "translation", "classification", "regression" or "text".

    source      "demo"; for classification also "demo:acceptability" (is this a sentence of the language?), and
                "order:" before any other of these (were two neighbouring words swapped?);
                "hub:owner/name" or "hub:owner/name/config", either with "@revision" at the end;
                "hub:./folder" or "hub:/folder" for a data set in the hub's layout that lies on your disk
                ("hub:./folder/config" where ./folder has a README.md that lists configurations); or a folder.
    pair        translation: source and target language. Files of the opposite direction are swapped.
    language    classification, regression and text: the language, which for the demo decides what is generated.
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
    so that it is always the same and equal texts stay together. Neither carving nor `rows` takes the last row of
    a class from train. Rows of validation and test that also stand in train are kept, and counted in the notes.
    Raises UserError, one sentence, for whatever is wrong with the request or the data.
    """
    request = _request(task, pair, language, columns)
    most = _checked_rows(rows)
    if str(source).startswith(ORDER):
        options = {"language": language, "rows": rows, "test_split": test_split, "columns": columns}
        return _ordered(load_corpus(str(source)[len(ORDER) :], "text", **options, seed=seed, max_words=max_words), task)
    if str(source) in DEMOS:
        return _demo(str(source), request, most, test_split, seed, max_words)
    found = open_hub(str(source), request) if str(source).startswith("hub:") else open_folder(Path(source), request)
    splits = _splits(found, request, test_split)
    known = {"classification": _number_labels, "regression": _only_scores}.get(task)
    labels = known(splits, found, request) if known else ()
    splits = {split: _sample(split, splits[split], most.get(split), seed, request) for split in SPLITS}
    notes = tuple(dict.fromkeys((*request.notes, *overlaps(splits))))
    return Corpus(found.name, task, splits, labels, found.languages or request.languages, notes)


def _ordered(corpus: Corpus, task: str) -> Corpus:
    """The question whether two neighbouring words of a text were swapped, as they are in every other one.

    A hash of the text decides whether, and where among its first `SHOWN` words, so that a text that is cut still shows
    it; texts of fewer than four words are left out. It is the probe "bigram shift" of Conneau et al. (ACL 2018,
    arXiv:1805.01070): the words alone do not answer it, their order does.
    """
    if task != "classification":
        raise UserError(f"'{ORDER}' asks a question with two answers: take it for classification, not for {task}.")
    splits: dict[str, list[Row]] = {split: [] for split in corpus.splits}
    for split, rows in corpus.splits.items():
        for words in (row["text"].split() for row in rows):
            draw = int(digest(" ".join(words)), 16)
            at = draw // 2 % max(1, min(len(words), SHOWN) - 1)
            if len(words) < 4 or draw % 2 and words[at] == words[at + 1]:
                continue
            if draw % 2:
                words[at], words[at + 1] = words[at + 1], words[at]
            splits[split].append({"text": " ".join(words), "label": draw % 2})
        if not splits[split]:
            raise UserError(f"No text of the {split} split of '{corpus.name}' has four words: its order asks nothing.")
    notes = (*corpus.notes, "Two neighbouring words are swapped in every other text; short ones (< 4) are left out.")
    return replace(corpus, name=f"{corpus.name}_order", task=task, splits=splits, labels=SWAPPED, notes=notes)


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
    drawn = draw_distinct(_demo_rows(source, request, seed), sum(sizes.values()), max_words)
    ends = [sum(sizes[name] for name in SPLITS[: i + 1]) for i in range(3)]
    splits = {name: drawn[end - sizes[name] : end] for name, end in zip(SPLITS, ends, strict=True)}
    kinds = ("negative", "positive") if source == "demo" else ("unacceptable", "acceptable")
    labels = {"classification": kinds, "regression": ("score",)}.get(request.task, ())
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

    return draw_distinct(grammar.translation_stream(seed, languages), total, max_words)


def _demo_rows(source: str, request: Request, seed: int) -> Iterable[Row]:
    from kdutils.grammar import corpus as grammar

    if request.task == "text":
        return ({"text": text} for row in grammar.translation_stream(seed, request.languages) for text in row.values())
    if request.task == "classification":
        make = grammar.sentiment_stream if source == "demo" else grammar.acceptability_stream
        return make(seed, request.languages[0])
    if request.task == "regression":
        return grammar.similarity_stream(seed, request.languages[0])
    source, target = request.languages
    return ({"src": row[source], "tgt": row[target]} for row in grammar.translation_stream(seed, request.languages))


def demo_questions(seed: int = 0) -> Iterator[list[Row]]:
    """Of English sentences of the grammar, one after the other without end, questions with answers in them."""
    from kdutils.grammar import corpus as grammar

    return grammar.question_stream(seed)


def draw_distinct(rows: Iterable[Row], total: int, max_words: int = 0) -> list[Row]:
    """The first `total` short enough rows of which no two share a text, in whatever column: no cut of them leaks.

    `rows` may be endless: they are read once, and given up where less than one in 25 will do.
    """
    kept, seen = [], {}
    for number, row in enumerate(rows, start=1):
        texts = [(key, text) for key, text in row.items() if isinstance(text, str)]
        short = not max_words or all(len(text.split()) <= max_words for _, text in texts)
        if short and all(text not in seen.get(key, ()) for key, text in texts):
            kept.append(row)
            for key, text in texts:
                seen.setdefault(key, set()).add(text)
        if len(kept) == total:
            return kept
        if number % total == 0 and len(kept) * (25 * total + 1000) < number * total:
            break
    raise UserError(f"The demo grammar does not yield {total} different sentences: ask for fewer rows.")


# --- splits: which of theirs is which of ours, and what is carved -----------------------------------------


def _splits(found: Found, request: Request, test_split: str) -> dict[str, list[Row]]:
    plan = _plan(found, test_split)
    splits = {ours: found.readers[theirs]() for ours, theirs in plan.items()}
    if request.answer:
        _leave_out_unlabelled(splits, plan, found, request)
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


def _leave_out_unlabelled(splits: dict[str, list[Row]], plan: dict[str, str], found: Found, request: Request) -> None:
    """Removes splits whose labels or scores are hidden, and rows in which they are -1 where that stands for none.

    It does where the source names its labels and -1 is not among them, or where a split has no other label although
    train has two or more others.
    """
    answer = request.answer
    train = {row[answer] for row in splits["train"]}
    none = bool(found.label_names) and -1 not in found.label_names
    for split in ("validation", "test"):
        shown = {row[answer] for row in splits.get(split, ())}
        if shown == {None} or shown == {-1} and len(train - {-1}) > 1:
            del splits[split]
            none = none or shown == {-1}
            what = "all -1" if shown == {-1} else "it has none"
            request.notes.append(f"The {answer}s of '{plan[split]}' are hidden ({what}): it was not used.")
    for split, rows in splits.items() if none else ():
        splits[split] = [row for row in rows if row[answer] != -1]
        if len(splits[split]) < len(rows):
            left = len(rows) - len(splits[split])
            request.notes.append(f"{split}: {left:,} rows without a {answer} were left out.")


def _carve(rows: list[Row], name: str) -> tuple[list[Row], list[Row]]:
    """Splits rows in two, the second 5 % but at most 1,000; rows of equal text stay on one side.

    The first keeps at least one row of every class.
    """
    keys = [hashlib.sha256(_given(row).encode()).digest() for row in rows]
    labels: dict[bytes, list] = {}
    for key, row in zip(keys, rows, strict=True):
        labels.setdefault(key, []).append(row.get("label"))
    left = Counter(row.get("label") for row in rows)
    most = min(CARVED_MOST, max(1, int(len(rows) * CARVED_SHARE)))
    chosen, size = set(), 0
    for key in sorted(labels):
        taken = Counter(labels[key])
        if size + taken.total() <= most and all(left[label] > n for label, n in taken.items()):
            chosen.add(key)
            left -= taken
            size += taken.total()
    if not size:
        raise UserError(f"The train split of {name} has too few different rows to carve from: add the missing splits.")
    kept = [row for key, row in zip(keys, rows, strict=True) if key not in chosen]
    return kept, [row for key, row in zip(keys, rows, strict=True) if key in chosen]


def _given(row: Row) -> str:
    """What a model is given (not the label or the translation): equal inputs must not be on both sides.

    In Unicode's composed form: the same letters are the same text, however they are written.
    """
    given = row["src"] if "src" in row else f"{row['text']}\n{row.get('text_b', '')}"
    return unicodedata.normalize("NFC", given)


def overlaps(splits: Mapping[str, list[Row]]) -> tuple[str, ...]:
    """A sentence for each of test and validation that has rows whose text, source or pair also stands in train."""
    held_out = {_given(row) for split in ("test", "validation") for row in splits[split]}
    seen = {given for row in splits["train"] if (given := _given(row)) in held_out}
    counts = {split: sum(_given(row) in seen for row in splits[split]) for split in ("test", "validation")}
    return tuple(
        f"{count:,} of {len(splits[split]):,} {split} rows also stand in train."
        for split, count in counts.items()
        if count
    )


def _sample(split: str, rows: list[Row], most: int | None, seed: int, request: Request) -> list[Row]:
    if most is None or most >= len(rows):
        return rows
    draw = random.Random(f"{split} {seed}")
    chosen = draw.sample(range(len(rows)), most)
    swapped = split == "train" and request.task == "classification" and _keep_classes(chosen, rows)
    request.notes.append(
        f"{split}: a random sample of {most:,} of {len(rows):,} rows (seed {seed})"
        + (f", {swapped:,} of them for classes that it had missed." if swapped else ".")
    )
    return [rows[index] for index in sorted(chosen)]


def _keep_classes(chosen: list[int], rows: list[Row]) -> int:
    """Puts a row of every class that the sample lacks in the place of one of the largest class; how many those were."""
    counts = Counter(rows[index]["label"] for index in chosen)
    firsts = {row["label"]: index for index, row in reversed([*enumerate(rows)])}
    missing = sorted(firsts.keys() - counts.keys())
    for label in missing:
        largest, size = counts.most_common(1)[0]
        if size < 2:
            raise UserError(f"{len(chosen)} training rows are too few for {len(firsts)} classes: raise their number.")
        place = next(i for i, index in enumerate(chosen) if rows[index]["label"] == largest)
        chosen[place] = firsts[label]
        counts[largest], counts[label] = size - 1, 1
    return len(missing)


# --- labels and scores ------------------------------------------------------------------------------------


def _only_scores(splits: dict[str, list[Row]], found: Found, request: Request) -> tuple[str, ...]:
    """The name of the one number that there is to say; nothing can be learned of one that never changes."""
    seen = {row["score"] for row in splits["train"]}
    if len(seen) < 2:
        raise UserError(f"The train scores of {found.name} are all {some(map(str, seen))}: at least two must differ.")
    return ("score",)


def _number_labels(splits: dict[str, list[Row]], found: Found, request: Request) -> tuple[str, ...]:
    """Replaces every label by its index in the returned names, which train decides."""
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
                raise UserError(
                    f"The {split} split of {found.name} has the label {row['label']!r:.60}, which train lacks."
                )
            row["label"] = index[row["label"]]
    return tuple(names.get(value, str(value)) for value in values)
