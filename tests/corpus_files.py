"""Small data sets written for a test, and the sentence with which a request for one is refused."""

import gzip
import json
from pathlib import Path

import pytest

from kdutils.core.errors import UserError
from kdutils.data.corpora import load_corpus


def write(path: Path, rows: list) -> Path:
    """Writes JSON lines (objects) or text (strings)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def pairs(n: int, start: int = 0) -> list[dict]:
    return [{"src": f"Satz {i}.", "tgt": f"Sentence {i}."} for i in range(start, start + n)]


def labelled(n: int, labels=(0, 1), start: int = 0) -> list[dict]:
    return [{"text": f"text {i}", "label": labels[i % len(labels)]} for i in range(start, start + n)]


def refusal(source, task="classification", **options) -> str:
    """The one sentence with which a request is refused."""
    with pytest.raises(UserError) as caught:
        load_corpus(source, task, **options)
    sentence = str(caught.value)
    assert sentence and "\n" not in sentence and sentence.endswith(".")
    return sentence


# what the tests of tokenizers and batches read: three languages, and enough repetition to learn merges from
TEXTS = [
    "The old woman sees a small dog.",
    "Die alte Frau sieht einen kleinen Hund, schöne Grüße!",
    "할머니가 작은 강아지를 봅니다.",
    "The dog sees the old woman , and the small cat .",
    "Der kleine Hund sieht die alte Frau und die Straße.",
    "고양이가 할머니를 봅니다.",
] * 3
