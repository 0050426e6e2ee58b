"""Readers behind `kdutils.data.corpora`: a folder of JSON lines or text, and the Hugging Face hub.

Both turn a source into `Found`: its splits, each read and checked row by row only when it is asked for.
Cheapest use: see what a data folder offers.

>>> for corpus in list_corpora("data"):
...     print(corpus["name"], corpus["task"], corpus["splits"])
"""

from __future__ import annotations

import difflib
import functools
import gzip
import itertools
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdutils.core.errors import UserError, unknown

SUFFIXES = (".jsonl.gz", ".jsonl", ".txt.gz", ".txt")
PAIR = re.compile(r"([A-Za-z_]+)-([A-Za-z_]+)")
TEXT_PAIRS = (
    ("text_a", "text_b"),
    ("text", "text_b"),
    ("sentence1", "sentence2"),
    ("sentence_A", "sentence_B"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
)
LABELS = ("label", "labels", "intent")
SCORES = ("score", *LABELS)
TEXTS = ("text", "sentence", "document", "content", "review")
OUR_COLUMNS = {
    "translation": ("src", "tgt"),
    "classification": ("text", "text_b", "label"),
    "regression": ("text", "text_b", "score"),
    "text": ("text",),
}
NEEDED = {
    "translation": "'src' and 'tgt', or one column named after each language",
    "classification": "'text' (or a pair such as 'text_a' and 'text_b') and 'label'",
    "regression": "'text' (or a pair such as 'text_a' and 'text_b') and 'score'",
    "text": "'text'",
}
ANSWERS = {"classification": "label", "regression": "score"}  # what is to be said of the texts, where that is no text
EMPTY = "is empty in column"
LONGEST_LINE = 2**24  # bytes; a longer one is no sentence, and a small archive can unpack to one that fills the memory
MOST_MEMORY = 2**33  # bytes that the rows of one file may take, of the 12 GB that the study preset asks for
ROW_MEMORY = 400  # bytes that Python takes for a row besides its text
# By name, because they come from the libraries below `datasets`, which change with its version.
NETWORK_ERRORS = {"ConnectionError", "ConnectError", "TimeoutError", "LocalEntryNotFoundError", "OfflineModeIsEnabled"}

Row = dict[str, Any]


@dataclass
class Request:
    """What the caller asked for, and the notes that reading it leaves behind."""

    task: str
    languages: tuple[str, ...]  # translation: source and target
    columns: dict[str, str] = field(default_factory=dict)  # our name -> theirs
    notes: list[str] = field(default_factory=list)
    directed: bool = False  # the source says which language its "src" is
    swapped: bool = False  # and it is the one that is wanted as target
    drop_empty: bool = False  # leave rows with an empty side out, instead of refusing them
    layout: dict[str, str] = field(default_factory=dict)  # of the train split, which is read first

    @property
    def answer(self) -> str:
        """Our name of the column of labels or scores; "" for a task that has none."""
        return ANSWERS.get(self.task, "")


@dataclass
class Found:
    """What a source offers: its splits under its own names, each read when its reader is called."""

    name: str
    readers: dict[str, Callable[[], list[Row]]]
    label_names: dict[int, str] = field(default_factory=dict)
    languages: tuple[str, ...] = ()


def some(names: Iterable[str], most: int = 12) -> str:
    """A list for a sentence: "a, b, c", cut after `most` names."""
    names = [" ".join(str(name).encode("utf-8", "replace").decode().split()) for name in names]
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + rest


# --- a folder of JSON lines or text -----------------------------------------------------------------------


def open_folder(folder: Path, request: Request) -> Found:
    """Finds the files of a folder that the request means. Raises UserError; the files are read later."""
    folder = Path(os.path.expanduser(folder))
    try:
        if not folder.is_dir():
            raise no_folder(folder)
        files = _files(folder)
    except OSError as error:
        raise _unreadable(folder, error) from error
    if not files:
        inside = [entry["name"] for entry in list_corpora(folder)]
        hint = f"choose a folder in it: {some(inside)}" if inside else f"files end in {', '.join(SUFFIXES)}"
        raise UserError(f"The folder {folder} holds no data files; {hint}.")
    if request.task == "translation":
        files = _files_of_pair(folder, files, request)
    elif "train" not in files and (pairs := _by_pair(files)):
        raise UserError(f"{folder} holds translation files ({some(pairs)}): load it for the task 'translation'.")
    request.drop_empty = request.task == "text"
    names, languages = _manifest(folder)
    readers = {split: functools.partial(_read, path, request) for split, path in files.items()}
    return Found(folder.resolve().name, readers, names, () if request.task == "translation" else languages)


def no_folder(folder: Path) -> UserError:
    """The error for a path that is not a folder, with those of similar name."""
    if folder.exists():
        return UserError(f"{folder} is a file: give the folder it lies in as the source.")
    parent = folder.parent
    siblings = [path.name for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
    near = difflib.get_close_matches(folder.name, [*siblings, "demo"], n=3)
    hint = f", but there is {' and '.join(near)}" if near else ""
    return UserError(f"There is no folder {folder}{hint}: a source is 'demo', 'hub:owner/name' or a folder.")


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be read ({error.strerror or error}): check the path and its rights.")


def _files(folder: Path) -> dict[str, Path]:
    """Data files of a folder by name without ending, such as "train" or "en-de.train"."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), None)
        if suffix is None or path.name.startswith("."):
            continue
        if not path.is_file():
            raise UserError(f"{path} is called like a data file but is none: rename or remove it.")
        stem = path.name.removesuffix(suffix)
        if stem in files:
            raise UserError(f"{folder} has both {files[stem].name} and {path.name}: keep one of them.")
        files[stem] = path
    return files


def _by_pair(files: dict[str, Path]) -> dict[str, dict[str, Path]]:
    pairs: dict[str, dict[str, Path]] = {}
    for stem, path in files.items():
        pair, _, split = stem.partition(".")
        if split and PAIR.fullmatch(pair):
            pairs.setdefault(pair, {})[split] = path
    return pairs


def _files_of_pair(folder: Path, files: dict[str, Path], request: Request) -> dict[str, Path]:
    pairs, (source, target) = _by_pair(files), request.languages
    request.directed = True
    if f"{source}-{target}" in pairs:
        return pairs[f"{source}-{target}"]
    if f"{target}-{source}" in pairs:
        request.swapped = True
        return pairs[f"{target}-{source}"]
    if not pairs:
        raise UserError(f"{folder} has no translation files, which are named like {source}-{target}.train.jsonl.gz.")
    raise UserError(f"{folder} has no files for '{source}-{target}' in either direction: it has {some(pairs)}.")


def _manifest(folder: Path) -> tuple[dict[int, str], tuple[str, ...]]:
    """Label names and languages, as a MANIFEST.json beside the folder tells them; empty without one."""
    folder = folder.resolve()
    try:
        about = json.loads((folder.parent / "MANIFEST.json").read_text("utf-8"))["sets"][folder.name]
        names = {int(key): str(name) for key, name in (about.get("labels") or {}).items()}
        return names, tuple(map(str, about.get("languages") or ()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}, ()


def _read(path: Path, request: Request) -> list[Row]:
    if ".jsonl" in path.name:
        return _standardise(_json_objects(path), str(path), "line", request)
    if request.task != "text":
        raise UserError(f"{path} is plain text, but {request.task} needs JSON lines (.jsonl or .jsonl.gz).")
    return _standardise(((n, {"text": line}) for n, line in _lines(path)), str(path), "line", request)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a file, decoded one by one so that an error can name its line.

    They are read piece by piece and counted: a gzip of a few megabytes can unpack to more than there is memory.
    """
    number = memory = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(iter(functools.partial(stream.readline, LONGEST_LINE + 1), b""), start=1):
                if len(line) > LONGEST_LINE:
                    raise UserError(f"{path}, line {number} has more than {LONGEST_LINE >> 20} MB: cut it into lines.")
                memory += len(line) + ROW_MEMORY
                if memory > MOST_MEMORY:
                    raise UserError(
                        f"{path} needs more than {MOST_MEMORY >> 30} GB of memory, with {number:,} lines read so far: "
                        f"cut it into smaller corpora."
                    )
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, line {number} is not valid UTF-8: save the file as UTF-8.") from error
    except EOFError as error:
        raise UserError(f"{path} is cut off after line {number}: copy or download it again.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is not a sound gzip file (after line {number}): make or download it again.") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _json_objects(path: Path) -> Iterator[tuple[int, Row]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number} is not valid JSON: each line must be one object.") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is JSON but not an object: write it as {{...}} with named columns.")
        yield number, row


# --- the Hugging Face hub ---------------------------------------------------------------------------------


def open_hub(source: str, request: Request) -> Found:
    """Loads "hub:..." from the cache or the network by the library `datasets`; no loading script is run."""
    try:
        path, config, revision = hub_address(source.removeprefix("hub:"))
    except OSError as error:  # a path on the disk that is too long, or may not be read
        raise _unreadable(Path(source.removeprefix("hub:")), error) from error
    dataset = load_from_hub(path, config, revision)
    about = next(iter(dataset.values())).info
    if config is None and about.config_name not in (None, "default"):
        request.notes.append(f"No configuration was named: '{about.config_name}' was loaded.")
    request.drop_empty = True  # the reader of a hub data set cannot repair it
    readers = {split: functools.partial(_read_hub, dataset[split], path, split, request) for split in dataset}
    label = next((about.features[c] for c in (request.columns.get("label"), *LABELS) if c in about.features), None)
    name = "/".join(part for part in (Path(path).name if _is_local(path) else path, config) if part)
    return Found(name, readers, dict(enumerate(getattr(label, "names", ()))))


def _is_local(path: str) -> bool:
    return path.startswith((".", "~")) or Path(path).is_absolute()


def hub_address(address: str) -> tuple[str, str | None, str | None]:
    """Path or owner/name, configuration, revision."""
    if _is_local(address):
        folder = Path(os.path.expanduser(address))
        about = folder.parent / "README.md"
        if not (folder / "README.md").is_file() and about.is_file() and b"config_name:" in about.read_bytes():
            return str(folder.parent), folder.name, None
        if not folder.is_dir():
            raise no_folder(folder)
        return str(folder), None, None
    name, _, revision = address.partition("@")
    parts = name.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise UserError(f"'hub:{address}' must look like hub:owner/name or hub:owner/name/config.")
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else None, revision or None


def load_from_hub(path: str, config: str | None, revision: str | None) -> Any:
    """The splits of a data set of the hub, from the cache or the network; UserError for whatever goes wrong."""
    try:
        import datasets
    except ImportError as error:
        raise UserError("Reading from the hub needs the library datasets: pip install datasets.") from error
    try:
        return datasets.load_dataset(path, config, revision=revision)
    except Exception as error:  # the library lets errors of a dozen others through
        raise _hub_failure(error, path, config) from error


def _hub_failure(error: Exception, path: str, config: str | None) -> UserError:
    text = " ".join(str(error).split())
    kinds = {kind.__name__ for kind in type(error).__mro__}
    configs = re.search(r"config.*\[(.+)\]", text, re.IGNORECASE)
    if "scripts are no longer supported" in text:
        return UserError(f"{path} needs a loading script, which is never run: choose a parquet or JSON copy of it.")
    if isinstance(error, ValueError) and configs:
        names = re.findall(r"'([^']+)'", configs[1]) or [configs[1]]
        choose = f"There is no configuration '{config}' of" if config else "No configuration was named of"
        return UserError(f"{choose} {path}, choose one as in hub:{path}/{names[0]}; it has {some(names)}.")
    if kinds & NETWORK_ERRORS:
        return UserError(
            f"{path} is not in the cache and the hub cannot be reached: load it once with a network, after "
            f"which it works offline too (HF_HUB_OFFLINE=1), or give a folder as the source."
        )
    if "DatasetNotFoundError" in kinds:
        return UserError(
            f"The hub has no data set, or none you may read, under {path} ({text.rstrip('.')}): check the "
            f"name at huggingface.co/datasets, and run 'hf auth login' if it is gated."
        )
    cause = " ".join(str(error.__cause__ or error).split())[:200].rstrip(".")
    return UserError(f"{path} could not be read as a data set of the hub ({cause}): parquet or JSON lines are needed.")


def _read_hub(dataset: Any, path: str, split: str, request: Request) -> list[Row]:
    from datasets import ClassLabel, Value

    plain = [
        name
        for name, kind in dataset.features.items()
        if isinstance(kind, Value | ClassLabel)
        and dataset.data.column(name).null_count < len(dataset)
        or (name == "translation" and request.task == "translation")
    ]
    dataset = dataset.select_columns(plain)  # leaves out images and sound, which would be decoded
    pieces = (range(start, min(start + 10_000, len(dataset))) for start in range(0, len(dataset), 10_000))
    rows = (row for piece in pieces for row in dataset.select(piece).to_list())
    return _standardise(enumerate(rows), f"{path}, split {split}", "row", request)


# --- rows and columns: the same for every source ----------------------------------------------------------


def _standardise(rows: Iterable[tuple[int, Row]], place: str, unit: str, request: Request) -> list[Row]:
    """Rows under our column names, each of them checked; `place` and `unit` say where a fault lies.

    A label or score is None in all rows, where the source hides those of a split, or in none.
    """
    layout, kept, empty, unlabelled, answer = None, [], 0, [], request.answer
    for number, row in rows:
        if request.task == "translation" and isinstance(row.get("translation"), dict):
            row = row["translation"]
        layout = layout or _layout(row, place, request)
        fault = _fault(row, layout) or _unread(row, layout, request)
        if request.drop_empty and fault.startswith(EMPTY):
            empty += 1
        elif fault:
            raise UserError(f"{place}, {unit} {number} {fault}: correct or remove it.")
        else:
            kept.append({ours: row[theirs] for ours, theirs in layout.items()})
            if answer:
                value = _label(kept[-1].get(answer))
                kept[-1][answer] = float(value) if answer == "score" and value is not None else value
                unlabelled += [number] if value is None else []
    if 0 < len(unlabelled) < len(kept):
        if not request.drop_empty:
            raise UserError(
                f"{place}, {unit} {unlabelled[0]} has no {answer}, which others have: give it one or remove it."
            )
        kept = [row for row in kept if row[answer] is not None]
        request.notes.append(f"{len(unlabelled):,} rows without a {answer} were left out of {Path(place).name}.")
    if empty:
        request.notes.append(f"{empty:,} rows with empty text were left out of {Path(place).name}.")
    if not kept:
        raise UserError(f"{place} is empty: it needs at least one row.")
    return kept


def _layout(row: Row, place: str, request: Request) -> dict[str, str]:
    """Which of their columns serves as which of ours, judged by the first row; train says if texts come in pairs."""
    for ours, theirs in request.columns.items():
        if theirs not in row and not (ours == request.answer and request.layout):
            raise unknown(f"column in {place} called", theirs, row)
    layouts = [*_layouts(request)]
    if request.answer in request.layout:  # a split that is not train may hide its labels by leaving their column out
        layouts += [{ours: theirs for ours, theirs in layout.items() if ours != request.answer} for layout in layouts]
    layout = next((layout for layout in layouts if all(theirs in row for theirs in layout.values())), None)
    if layout is None:
        raise UserError(
            f"{place} has the columns {some(row)}, but {request.task} needs {NEEDED[request.task]}: "
            f"rename its columns so (of a data set of the hub, in a copy of your own in a folder)."
        )
    if request.layout and ("text_b" in layout) != ("text_b" in request.layout):
        raise UserError(f"{place} and the train split differ: give all splits pairs of texts, or none.")
    _note_layout(layout, request)
    request.layout = request.layout or layout
    return layout


def _layouts(request: Request) -> Iterator[dict[str, str]]:
    given = request.columns
    if request.task == "translation":
        source, target = request.languages
        yield {"src": source, "tgt": target} | given
        yield ({"src": "tgt", "tgt": "src"} if request.swapped else {"src": "src", "tgt": "tgt"}) | given
        return
    texts = [{"text": name} for name in TEXTS]
    if request.task == "text":
        yield from ({"text": name} | given for name in TEXTS)
        return
    if not given.keys() & {"text", "text_b"}:
        texts = [{"text": first, "text_b": second} for first, second in TEXT_PAIRS] + texts
    for text, answer in itertools.product(texts, SCORES if request.answer == "score" else LABELS):
        yield text | {request.answer: answer} | given


def _note_layout(layout: dict[str, str], request: Request) -> None:
    if layout == {"src": "tgt", "tgt": "src"}:
        source, target = request.languages
        request.notes.append(f"The files are {target}-{source}: source and target were swapped.")
    elif layout == {"src": "src", "tgt": "tgt"} and not request.directed:
        source, target = request.languages
        request.notes.append(f"The columns src and tgt name no language: taken as {source} and {target}.")
    elif any(ours != theirs for ours, theirs in layout.items() if theirs != "text_a"):
        read = ", ".join(f"{theirs} as {ours}" for ours, theirs in layout.items())
        request.notes.append(f"Columns were read thus: {read}.")


def _fault(row: Row, layout: dict[str, str]) -> str:
    """What is wrong with a row, in words that follow its place; "" when nothing is."""
    for ours, theirs in layout.items():
        if theirs not in row:
            return f"has no column '{theirs}' (it has {some(row)})"
        value = _label(row[theirs]) if ours in ANSWERS.values() else row[theirs]
        if ours == "label" and (value is None or isinstance(value, int)):
            continue
        if ours == "score" and (value is None or isinstance(value, int | float) and abs(value) < 1e15):
            continue
        if value is None or isinstance(value, str) and not value.strip():
            return f"{EMPTY} '{theirs}'"
        if not isinstance(value, str) or ours == "score":
            kind = {"label": "neither an integer nor text", "score": "not a number below 1e15"}.get(ours, "not text")
            shown = f"a {type(value).__name__}" if isinstance(value, list | dict) else f"{value!r:.40}"
            return f"has {shown} in column '{theirs}', which is {kind}"
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"has half of a surrogate pair in column '{theirs}', which is no character"
    return ""


def _label(value: Any) -> Any:
    """A label as an integer (which one missing label makes a float) or as text (true and false are names).

    None where there is none: null, NaN or blank. Anything else is returned as it is.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    blank = isinstance(value, str) and not value.strip() or isinstance(value, float) and math.isnan(value)
    return None if blank else value


def _unread(row: Row, layout: dict[str, str], request: Request) -> str:
    """Says that a row has what the first row lacked, by which the columns were chosen: it would be lost in silence."""
    if not request.answer or "text" in request.columns:
        return ""
    if request.answer not in layout and request.layout[request.answer] in row:
        return f"has a {request.answer}, which the first row lacks"
    pair = next((second for first, second in TEXT_PAIRS if first in row and second in row), "")
    return f"is a pair with '{pair}', which the first row lacks" if pair and "text_b" not in layout else ""


def list_corpora(folder: str | Path) -> list[dict[str, Any]]:
    """What a data folder offers: for each sub-folder with data files its name, task, pairs and splits.

    The task is judged by the names of the files and the columns of one row; "other" is none of the four,
    and "unreadable" a folder whose files cannot be read.
    """
    folder = Path(os.path.expanduser(folder))
    if not folder.is_dir():
        raise no_folder(folder)
    found = []
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        try:
            entry = _describe(path)
        except (UserError, OSError):
            entry = {"name": path.name, "task": "unreadable", "pairs": [], "splits": []}
        found += [entry] if entry else []
    return found


def _describe(folder: Path) -> dict[str, Any]:
    files = _files(folder)
    if not files:
        return {}
    pairs = _by_pair(files)
    splits = sorted({split for names in pairs.values() for split in names}) if pairs else list(files)
    task = "translation" if pairs else _guess_task(next(iter(files.values())))
    return {"name": folder.name, "task": task, "pairs": list(pairs), "splits": splits}


def _guess_task(path: Path) -> str:
    if ".jsonl" not in path.name:
        return "text"
    _, row = next(_json_objects(path), (0, {}))
    if any(label in row for label in LABELS):
        return "classification"
    if "score" in row:
        return "regression"
    return "text" if "text" in row else "other"
