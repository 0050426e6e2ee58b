"""Readers: the layout of the hub and of a folder, and one sentence for whatever is broken in either."""

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdutils.data.corpora import list_corpora, load_corpus
from tests.corpus_files import labelled, pairs, refusal, write

# --- broken files -----------------------------------------------------------------------------------------

GOOD = gzip.compress("".join(json.dumps(row) + "\n" for row in labelled(5000)).encode())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"this is no gzip file", "gzip"),
        (GOOD[: len(GOOD) // 2], "cut off"),
        (GOOD[:2000] + bytes(60) + GOOD[2060:], "line"),  # unpacks to rubbish, which is met as a line
        (GOOD[:-8] + bytes(8), "gzip"),  # the check sum at the end does not hold
        (GOOD[:10] + b"\xff" * 50, "gzip"),
        (gzip.compress(b""), "empty"),
        (b"", "empty"),
        (
            gzip.compress(b'{"text": "a", "label": 1}\n{"text": "\xff\xfe", "label": 0}\n'),
            "line 2 is not valid UTF-8",
        ),
        (gzip.compress('{"text": "a", "label": 1}\n'.encode("utf-16")), "line 1 is not valid UTF-8"),
        (gzip.compress(b'{"text": "a", "label": 1}\n{"text": "b", "la\n'), "line 2 is not valid JSON"),
        (gzip.compress(b'{"text": "a", "label": 1}\n\n["b", 0]\n'), "line 3 is JSON but not an object"),
        (gzip.compress(b"[" * 100_000 + b"\n"), "line 1 is not valid JSON"),
        (
            gzip.compress(b'{"text": "a", "label": 1}\n{"text": " ", "label": 0}\n'),
            "line 2 is empty in column 'text'",
        ),
        (gzip.compress(b'{"text": "a", "label": 1}\n{"text": null, "label": 0}\n'), "line 2 is empty"),
        (gzip.compress(b'{"text": "a", "label": 1}\n{"label": 0}\n'), "line 2 has no column 'text'"),
        (
            gzip.compress(b'{"text": "a", "label": 1}\n{"text": 7, "label": 0}\n'),
            "line 2 has 7 in column 'text'",
        ),
        (gzip.compress(b'{"text": "a\\ud800", "label": 1}\n'), "line 1 has half of a surrogate"),
        (gzip.compress(b'{"text": "a", "score": 1.5}\n'), "text, score"),
        (gzip.compress(b'{"te\\nxt": "a"}\n'), "te xt"),
        (gzip.compress(b'{"te\\ud800xt": "a"}\n'), "te?xt"),
        (gzip.compress(b'{"text": "a", "label": ' + b"[" * 900 + b"]" * 900 + b"}\n"), "line 1 has a list in column"),
        (
            gzip.compress(b'{"text": ' + b'{"a": ' * 900 + b"1" + b"}" * 900 + b', "label": 1}\n'),
            "line 1 has a dict in",
        ),
        (gzip.compress(b'{"text": "a", "label": 1e999}\n'), "line 1 has inf in column 'label'"),
        (gzip.compress(b'{"text": "a", "label": ' + b"9" * 5000 + b"}\n"), "line 1 is not valid JSON"),
        (gzip.compress(bytes(2**25)), "line 1 has more than 16 MB"),
    ],
)
def test_broken_files_are_named_with_the_line(classification_folder, content, words):
    (classification_folder / "train.jsonl").unlink()
    (classification_folder / "train.jsonl.gz").write_bytes(content)
    sentence = refusal(classification_folder)
    assert "train.jsonl.gz" in sentence and words in sentence


def test_a_file_that_unpacks_to_more_than_the_memory_is_given_up(classification_folder, monkeypatch):
    monkeypatch.setattr("kdutils.data.readers.MOST_MEMORY", 3 * 2**20)
    for line, name in ((b"\n", "train.jsonl.gz"), (b'{"text": "a", "label": 1}\n', "train.jsonl")):
        (classification_folder / "train.jsonl").unlink(missing_ok=True)
        content = line * 100_000
        (classification_folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        assert f"{name} needs more than 0 GB of memory" in refusal(classification_folder)
        (classification_folder / name).unlink()


def test_a_long_line_is_a_text_like_any_other(classification_folder):
    rows = [*labelled(40), {"text": "so " * 400_000, "label": 1}]
    write(classification_folder / "train.jsonl", rows)
    assert len(load_corpus(classification_folder, "classification").splits["train"][-1]["text"]) == 1_200_000


def test_what_is_called_like_a_data_file_and_is_none(classification_folder):
    (classification_folder / "train.jsonl").unlink()
    for make in (Path.mkdir, lambda path: path.symlink_to("nowhere"), os.mkfifo):
        make(classification_folder / "train.jsonl")
        assert "train.jsonl is called like a data file but is none" in refusal(classification_folder)
        (classification_folder / "train.jsonl").rename(classification_folder / f"other-{time.monotonic_ns()}")


def test_names_of_folders_that_no_system_has(tmp_path):
    for name in ("a\0b", "x" * 300, "x/" * 3000, "\udcff"):
        for source in (name, f"hub:./{name}", f"hub:{tmp_path}/{name}"):
            refusal(source).encode("utf-8", "surrogateescape")


def test_line_ends_and_marks_of_other_systems(classification_folder):
    (classification_folder / "train.jsonl").write_bytes(
        b"\xef\xbb\xbf" + b"".join(json.dumps(row).encode() + b"\r\n" for row in labelled(40))
    )
    assert load_corpus(classification_folder, "classification").splits["train"] == labelled(40)
    (classification_folder.parent / "MANIFEST.json").write_text("[" * 100_000)
    assert load_corpus(classification_folder, "classification").labels == ("0", "1")


def test_an_empty_side_of_a_translation(translation_folder):
    write(translation_folder / "de-en.validation.jsonl.gz", [*pairs(3), {"src": "Nur hier.", "tgt": ""}])
    sentence = refusal(translation_folder, "translation")
    assert "de-en.validation.jsonl.gz, line 4 is empty in column 'tgt'" in sentence


def test_a_file_that_may_not_be_read(classification_folder, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in refusal(classification_folder)
    monkeypatch.setattr(Path, "iterdir", refuse)
    assert "Permission denied" in refusal(classification_folder)
    assert "cannot be read" in refusal("x" * 5000) or "no folder" in refusal("x" * 5000)
    assert "no folder" in refusal("~nobody-of-this-name/data")


def test_the_columns_of_sick_are_a_pair_and_its_label(tmp_path):
    """As the hub has them, among others that begin alike."""
    rows = [
        {
            "id": str(n), "sentence_A": f"A dog runs {n} times.", "sentence_B": f"A cat sleeps {n} hours.",
            "label": n % 3, "relatedness_score": 1 + n % 4, "entailment_AB": "A_neutral_B",
            "entailment_BA": "B_neutral_A", "sentence_A_original": "A dog.", "sentence_B_original": "A cat.",
            "sentence_A_dataset": "FLICKR", "sentence_B_dataset": "FLICKR",
        }
        for n in range(9)
    ]  # fmt: skip
    for split in ("train", "validation", "test"):
        write(tmp_path / f"sick/{split}.jsonl", rows)
    corpus = load_corpus(tmp_path / "sick", "classification")
    assert corpus.labels == ("0", "1", "2")
    pairs_ = [{"text": row["sentence_A"], "text_b": row["sentence_B"], "label": row["label"]} for row in rows]
    assert corpus.splits["train"] == pairs_


def test_a_broken_set_does_not_hide_the_others(classification_folder, tmp_path):
    write(tmp_path / "broken/train.jsonl", ["{"])
    (tmp_path / "pictures").mkdir()
    tasks = {entry["name"]: entry["task"] for entry in list_corpora(tmp_path)}
    assert tasks == {"broken": "unreadable", "mood": "classification"}


# --- the layout of the hub --------------------------------------------------------------------------------

README = """---
configs:
- config_name: sst2
  data_files:
  - {split: train, path: sst2/train-*}
  - {split: validation, path: sst2/validation-*}
  - {split: test, path: sst2/test-*}
- config_name: de-en
  data_files:
  - {split: train, path: de-en/train-*}
  - {split: val, path: de-en/val-*}
  - {split: test, path: de-en/test-*}
dataset_info:
- config_name: sst2
  features:
  - {name: sentence, dtype: string}
  - name: label
    dtype: {class_label: {names: {'0': negative, '1': positive}}}
  - {name: idx, dtype: int32}
---
"""


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of its own for the library, cut off from the network."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path, cache) -> Path:
    """A data set as it lies in a repository of the hub: parquet, and a README that lists configurations."""
    import pyarrow
    import pyarrow.parquet

    def table(path, rows):
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)

    root = tmp_path / "benchmark"
    for split, n, labels in [("train", 40, (0, 1)), ("validation", 6, (0, 1)), ("test", 5, (-1,))]:
        rows = [{"sentence": f"{split} {i}", "label": labels[i % len(labels)], "idx": i} for i in range(n)]
        table(root / f"sst2/{split}-00000-of-00001.parquet", rows)
    for split, n in [("train", 8), ("val", 2), ("test", 3)]:
        rows = [{"translation": {"de": f"{split} Satz {i}", "en": f"{split} sentence {i}"}} for i in range(n)]
        rows[1]["translation"]["en"] = ""
        table(root / f"de-en/{split}-00000-of-00001.parquet", rows)
    (root / "README.md").write_text(README)
    return root


def test_classification_from_the_hub(hub):
    corpus = load_corpus(f"hub:{hub}/sst2", "classification")
    assert corpus.name == "benchmark/sst2" and corpus.labels == ("negative", "positive")
    assert corpus.sizes() == {"train": 38, "validation": 2, "test": 6}
    assert corpus.splits["test"][1] == {"text": "validation 1", "label": 1}
    notes = " ".join(corpus.notes)
    assert "hidden" in notes and "carved" in notes and "sentence as text" in notes


def test_translation_from_the_hub_in_both_directions(hub):
    corpus = load_corpus(f"hub:{hub}/de-en", "translation", pair="en-de")
    assert corpus.splits["test"][0] == {"src": "test sentence 0", "tgt": "test Satz 0"}
    assert corpus.sizes() == {"train": 7, "validation": 1, "test": 2}
    assert any("left out" in note for note in corpus.notes)
    back = load_corpus(f"hub:{hub}/de-en", "translation", pair="de-en", rows={"train": 3})
    assert back.splits["test"][0] == {"src": "test Satz 0", "tgt": "test sentence 0"}
    assert back.sizes()["train"] == 3
    assert "fr" in refusal(f"hub:{hub}/de-en", "translation", pair="fr-en")


def test_a_direction_that_the_hub_does_not_name_is_noted(tmp_path, cache):
    for split in ("train", "validation", "test"):
        write(tmp_path / f"plain/{split}.jsonl", pairs(4))
    corpus = load_corpus(f"hub:{tmp_path}/plain", "translation", pair="de-en")
    assert corpus.splits["train"] == pairs(4) and "taken as de and en" in corpus.notes[0]


def test_json_lines_in_the_layout_of_the_hub_by_a_relative_path(tmp_path, cache, monkeypatch):
    for split in ("train", "dev", "test"):
        rows = [{"premise": f"p{i}", "hypothesis": f"h{i}", "label": "yn"[i % 2]} for i in range(6)]
        write(tmp_path / f"nli/{split}.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    corpus = load_corpus("hub:./nli", "classification")
    assert corpus.labels == ("n", "y") and corpus.splits["train"][0] == {
        "text": "p0",
        "text_b": "h0",
        "label": 1,
    }
    assert load_corpus("hub:./nli", "text", columns={"text": "premise"}).splits["test"][2] == {"text": "p2"}


def test_a_readme_beside_a_data_set_that_lists_no_configurations_is_just_a_readme(tmp_path, cache, monkeypatch):
    (tmp_path / "README.md").write_text("# My project\n")
    for split in ("train", "validation", "test"):
        write(tmp_path / f"plain/{split}.jsonl", labelled(6))
    monkeypatch.chdir(tmp_path)
    assert load_corpus("hub:./plain", "classification").sizes()["train"] == 6


def test_rows_of_the_hub_without_a_label_are_left_out(hub):
    import pyarrow
    import pyarrow.parquet

    path = hub / "sst2/train-00000-of-00001.parquet"
    rows = pyarrow.parquet.read_table(path).to_pylist()
    for row in rows[:3]:
        row["label"] = -1
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    corpus = load_corpus(f"hub:{hub}/sst2", "classification", test_split="validation")
    assert sum(len(corpus.splits[split]) for split in ("train", "validation")) == 37
    assert any("without a label" in note for note in corpus.notes)


def test_labels_of_the_hub_that_are_null_or_became_floats(tmp_path, cache):
    import pyarrow
    import pyarrow.parquet

    def table(split, labels, **more):
        rows = [{"text": f"{split} {i}", "label": label, **more} for i, label in enumerate(labels)]
        (tmp_path / "nulls").mkdir(exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / f"nulls/{split}-00000-of-00001.parquet")

    table("train", [1.0, 0.0, None, *[1.0, 0.0] * 19], text_b=None)
    table("validation", [0.0, 1.0, 1.0], text_b=None)
    table("test", [None, None], text_b=None)
    corpus = load_corpus(f"hub:{tmp_path}/nulls", "classification")
    assert corpus.labels == ("0", "1") and corpus.splits["test"][1] == {"text": "validation 1", "label": 1}
    assert corpus.sizes() == {"train": 38, "validation": 2, "test": 3}
    notes = " ".join(corpus.notes)
    assert "1 rows without a label were left out" in notes and "The labels of 'test' are hidden" in notes


def test_configurations_of_the_hub(hub):
    sentence = refusal(f"hub:{hub}/sst3")
    assert "sst3" in sentence and "sst2, de-en" in sentence


def test_loading_scripts_are_refused_and_not_run(tmp_path, cache):
    (tmp_path / "scripted").mkdir()
    (tmp_path / "scripted/scripted.py").write_text("raise SystemExit('ran')")
    assert "never run" in refusal(f"hub:{tmp_path}/scripted")


def test_broken_data_sets_of_the_hub(tmp_path, cache):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/train.parquet").write_bytes(b"rubbish")
    assert "parquet" in refusal(f"hub:{tmp_path}/broken")
    write(tmp_path / "json/train.jsonl", ['{"text": "a"}', '{"text": '])
    assert "JSON" in refusal(f"hub:{tmp_path}/json")
    (tmp_path / "nothing").mkdir()
    assert "nothing" in refusal(f"hub:{tmp_path}/nothing")
    assert "no folder" in refusal(f"hub:{tmp_path}/missing")


def test_without_a_network_the_sentence_says_how_to_work_offline(cache):
    started = time.monotonic()
    for source in ("hub:someone/something", "hub:someone/something/config@main"):
        sentence = refusal(source)
        assert "someone/something" in sentence and "HF_HUB_OFFLINE=1" in sentence and "folder" in sentence
    assert time.monotonic() - started < 5


def test_a_cached_data_set_loads_offline(hub, cache):
    direct = load_corpus(f"hub:{hub}/sst2", "classification")
    (cache / "benchmark").rename(cache / "someone___benchmark")  # as the library names what came from the hub
    cached = load_corpus("hub:someone/benchmark/sst2", "classification")
    assert cached.name == "someone/benchmark/sst2" and cached.fingerprint == direct.fingerprint
    sentence = refusal("hub:someone/benchmark/cola")
    assert "someone/benchmark" in sentence


@pytest.mark.parametrize("source", ["hub:", "hub:name", "hub:a/b/c/d", "hub:a//b", "hub:@main"])
def test_names_that_are_none_of_the_hub(source):
    assert "owner/name" in refusal(source)


def test_unknown_repository_and_other_failures(monkeypatch):
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    asked = []

    def failing(error):
        def load(*arguments, **options):
            asked.append((arguments, options))
            raise error

        monkeypatch.setattr(datasets, "load_dataset", load)

    failing(DatasetNotFoundError("Dataset 'no/such' doesn't exist on the Hub or cannot be accessed."))
    assert "huggingface.co/datasets" in refusal("hub:no/such/cfg@v1")
    assert asked[-1] == (("no/such", "cfg"), {"revision": "v1"})  # nothing that would admit remote code
    failing(ValueError("Config name is missing.\nPlease pick one among the available configs: ['x', 'y']"))
    assert "hub:no/such/x" in refusal("hub:no/such")
    failing(OSError("a\nb"))
    assert "a b" in refusal("hub:no/such")


def test_a_folder_is_read_without_the_heavy_libraries(classification_folder):
    program = (
        "import sys; from kdutils.data.corpora import load_corpus; "
        f"load_corpus({str(classification_folder)!r}, 'classification'); "
        "print(sorted({'torch', 'datasets', 'transformers'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "[]", done.stderr
