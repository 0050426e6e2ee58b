"""Question answering: which words of a text answer a question; the task of the paper's second distillation.

>>> answer_exam("runs/.../student/model", settings, seed=1, folder=Path("runs/.../student"))
{'exam_squad_f1': 92.8, 'exam_squad_em': 91.2}

The demo asks about the grammar's sentences: who did it, what, whom, where, when, how, why. A folder in SQuAD's layout,
or `hub:rajpurkar/squad`, brings its own questions.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import random
import re
import statistics
import string
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdutils.core.errors import UserError
from kdutils.core.settings import Setting, Settings
from kdutils.data import batches as b
from kdutils.data.corpora import CARVED_MOST, CARVED_SHARE, Corpus, demo_questions
from kdutils.data.readers import hub_address, load_from_hub
from kdutils.data.tokens import PIECE
from kdutils.losses.divergences import label_smoothed_nll
from kdutils.models import build
from kdutils.models.forward import MODEL_INPUTS, mode
from kdutils.papers.distilbert.method import SecondDistillation
from kdutils.study import exams
from kdutils.training.method import Method

CODE = "official code, run_squad_w_distillation.py"
SETTINGS = (
    Setting("squad", "", "", "hub:rajpurkar/squad", "questions answered by words of a text: demo, hub:owner/name, or a "
            "folder as SQuAD's; empty: none are asked", "paper: SQuAD 1.1", grammar="demo", small=""),
    Setting("squad_rows", 800, 4000, 0, "training questions; 0: all", "paper: all"),
    Setting("squad_test_rows", 600, 1000, 0, "validation and test questions; 0: all", "paper: all"),
    Setting("squad_epochs", 3, 2, 3, "epochs of a fine-tuning", f"paper silent; {CODE}: 3"),
    Setting("squad_learning_rate", 1e-3, 5e-5, 5e-5, "its peak learning rate; linear warm-up and decay",
            f"paper silent; {CODE}: 5e-5", pretrained=5e-5),
    Setting("squad_batch", 16, 16, 8, "questions a batch", f"paper silent; {CODE}: 8 a GPU"),
    Setting("squad_max_length", 48, 384, 384, "tokens of question and text; longer texts are cut at their end",
            f"paper silent; {CODE}: 384, in windows of stride 128", bounds=(exams.SHORTEST, 32_768)),
)  # fmt: skip
LONGEST = 30  # tokens of an answer, as in the official code
NOWHERE = -1e30  # the logit of what is no position: finite, so that no difference of two becomes NaN

Row = dict[str, Any]  # "context", "question", "answers": [{"text", "start"}, ...]

# --- scores, as SQuAD's official script computes them ----------------------------------------------------------------


def normalised(text: str) -> list[str]:
    """The words of an answer in lower case, without punctuation and without a, an, the (evaluate-v1.1.py)."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def exact_and_f1(predicted: str, gold: str) -> tuple[float, float]:
    """Of one answer to one right one: 1 where their normalised words are the same, and F1 over these words, 0 to 1."""
    ours, right = normalised(predicted), normalised(gold)
    common = sum((Counter(ours) & Counter(right)).values())
    return float(ours == right), 2 * common / (len(ours) + len(right)) if common else 0.0


def squad_scores(predicted: Sequence[str], gold: Sequence[Sequence[str]]) -> dict[str, float]:
    """Means of exact match and F1, 0 to 1, over questions; of several right answers the one that scores best counts."""
    best = [
        [max(scores) for scores in zip(*(exact_and_f1(ours, right) for right in answers), strict=True)]
        for ours, answers in zip(predicted, gold, strict=True)
    ]
    exact, f1 = map(statistics.fmean, zip(*best, strict=True))
    return {"exact": exact, "f1": f1}


def guessing(corpus: Corpus) -> dict[str, float]:
    """Test scores of the best rule that reads no question: all of the text, or its first or last so many words.

    Which rule is best, is judged on the training questions, by F1.
    """

    def score(rows: list[Row], start: int | None, stop: int | None) -> dict[str, float]:
        answers = [[answer["text"] for answer in row["answers"]] for row in rows]
        return squad_scores([" ".join(row["context"].split()[start:stop]) for row in rows], answers)

    rules = [(None, None), *((None, n) for n in range(1, 11)), *((-n, None) for n in range(1, 11))]
    best = max(rules, key=lambda rule: score(corpus.splits["train"], *rule)["f1"])
    return score(corpus.splits["test"], *best)


# --- logits, and the span that they choose ---------------------------------------------------------------------------


def span_logits(model: nn.Module, batch: b.Batch) -> Tensor:
    """Logits (B, 2, S), in float32 at least: at which token of a row the answer starts, and at which it ends.

    The official code masks nothing: its softmax runs over all tokens of question, text and padding, the latter up to a
    fixed length. Here padding, which depends on a row's company, takes no part; question and special tokens do.
    """
    found = model(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
    logits = torch.stack((found.start_logits, found.end_logits), dim=1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.masked_fill(batch["attention_mask"][:, None] == 0, NOWHERE)


def best_spans(logits: Tensor, context: Tensor, longest: int = LONGEST) -> Tensor:
    """(B, 2): first and last token of the likeliest answer: the largest start + end logit of all spans in the text.

    logits (B, 2, S); context (B, S), True at tokens of the text. A span has at least one token and at most `longest`.
    """
    start, end = logits.masked_fill(~context[:, None], -torch.inf).unbind(1)
    size = start.shape[-1]
    allowed = torch.ones(size, size, dtype=torch.bool, device=logits.device).triu().tril(longest - 1)
    # start logit of i plus end logit of j: (B, S, S)
    sums = (start[:, :, None] + end[:, None, :]).masked_fill(~allowed, -torch.inf)
    best = sums.flatten(1).argmax(-1)
    return torch.stack((best // size, best % size), dim=-1)


class AnswerDistillation(SecondDistillation):
    """The paper's second distillation: over the positions of the start and of the end, the mean of both.

    alpha_ce T^2 (KL_start + KL_end) / 2 + alpha_task (cross-entropy of start and of end) / 2, as the official code
    (`run_squad_w_distillation.py`, loss_ce and loss) has it, but for padding: see `span_logits`. With alpha_ce=0 and
    alpha_task=1 it is plain fine-tuning, and needs no teacher.
    """

    logits = staticmethod(span_logits)


# --- the task ---------------------------------------------------------------------------------------------------------


class Answering(exams.Exam):
    """Extractive question answering, by a pretrained encoder with a new head for start and end."""

    name = kind = "answering"
    headline = "test_f1"
    selectable = ("f1", "exact", "loss")
    measures = {"": ("f1",)}
    method = functools.partial(AnswerDistillation, alpha_ce=0.0, alpha_task=1.0)

    def _load(self) -> Corpus:
        s = self.settings
        return load_questions(s.data, tuple(self._rows().items()), s.data_seed, s.max_words)

    def _unknown(self) -> list[str]:
        return [] if self.settings.data == "demo" else super()._unknown()  # the demo's models know no question mark

    def _examples(self, split: str) -> b.Examples:
        """Question and text as ids, "label": first and last token of the answer, "spans": its characters by token.

        A text that is too long loses its end. Where all answers lie in there, a training question is left out; one
        that is tested has the first token as its label, as in the official code, and can only be answered wrongly.
        """
        if not self.tokenizer.is_fast:
            raise UserError("This tokenizer does not say where its tokens stand: choose a model with a fast tokenizer.")
        examples, lost, rows = b.Examples(), 0, self.corpus.splits[split]
        for row, fields, first, spans in encoded(rows, self.tokenizer, self.settings.max_length):
            found = next(filter(None, (_tokens(answer, spans) for answer in row["answers"])), None)
            lost += found is None
            if found or split != "train":
                label = (found[0] + first, found[1] + first) if found else (0, 0)
                examples.append({**fields, "label": label, "first": first, "spans": spans})
        if not examples:
            raise UserError(f"No answer lies within {self.settings.max_length} tokens: raise max_length.")
        done = "left out" if split == "train" else "kept, to be answered wrongly"
        beyond = f"have their answers beyond the first {self.settings.max_length} tokens and were {done}"
        examples.too_long, examples.note = lost, f"{lost:,} of {len(rows):,} questions {beyond}." if lost else ""
        return examples

    def _model(self) -> PreTrainedModel:
        s = self.settings
        return build.pretrained(s.model, self.kind, ("start", "end"), s.dropout)

    @torch.no_grad()
    def _scores(self, model: PreTrainedModel, split: str) -> dict[str, float]:
        loss, answers, rows = 0.0, {}, self.corpus.splits[split]
        batches, device = self.fixed_batches(split), next(model.parameters()).device
        firsts, spans = (self.examples[split].column(name) for name in ("first", "spans"))
        with mode(model, training=False):
            for indices, batch in zip(batches.plan(0), batches, strict=True):
                context = torch.zeros(batch["input_ids"].shape, dtype=torch.bool)
                for place, index in enumerate(indices):
                    context[place, firsts[index] : firsts[index] + len(spans[index])] = True
                batch = {name: tensor.to(device) for name, tensor in batch.items()}
                logits = span_logits(model, batch)
                loss += float(label_smoothed_nll(logits, batch["targets"], reduction="sum"))
                for index, (start, end) in zip(indices, best_spans(logits, context.to(device)).tolist(), strict=True):
                    begins, ends = (spans[index][token - firsts[index]] for token in (start, end))
                    answers[index] = rows[index]["context"][begins[0] : ends[1]].strip()
        gold = [[answer["text"] for answer in row["answers"]] for row in rows]
        return {"loss": loss / (2 * len(rows)), **squad_scores([answers[i] for i in range(len(rows))], gold)}

    def facts(self) -> dict[str, Any]:
        return {name: fact for name, fact in super().facts().items() if name != "f1"}


def encoded(
    rows: Sequence[Row], tokenizer: Any, max_length: int
) -> Iterator[tuple[Row, dict[str, list[int]], int, Any]]:
    """Of each row: itself, its ids, the first token of the text, and the characters (n, 2) of each token of the text.

    Of a pair that is too long, the end of the text is cut, and of the question where that is the longer one.
    """
    for start in range(0, len(rows), PIECE):
        piece = rows[start : start + PIECE]
        sides = ([row[side] for row in piece] for side in ("question", "context"))
        found = tokenizer(
            *sides, truncation=True, max_length=max_length, return_offsets_mapping=True, return_attention_mask=False,
            split_special_tokens=True, verbose=False,
        )  # fmt: skip
        names = [name for name in ("input_ids", "token_type_ids") if name in found]
        for i, row in enumerate(piece):
            at = [place for place, sequence in enumerate(found.sequence_ids(i)) if sequence == 1] or [0]
            spans = np.array(found["offset_mapping"][i][at[0] : at[-1] + 1], dtype=np.int32)
            yield row, {name: found[name][i] for name in names}, at[0], spans


def _tokens(answer: dict[str, Any], spans: np.ndarray) -> tuple[int, int] | None:
    """First and last of the tokens that an answer's characters lie in; None where some of them were cut off."""
    start, end = answer["start"], answer["start"] + len(answer["text"].rstrip())
    at = np.flatnonzero((spans[:, 1] > start) & (spans[:, 0] < end))
    return (int(at[0]), int(at[-1])) if len(at) and end <= spans[-1, 1] else None


# --- the exam ---------------------------------------------------------------------------------------------------------


def answer_exam(
    model: str | Path, settings: Settings, seed: int, folder: Path, prefix: str = "exam_",
    method: Callable[[str, int], Method] | None = None, keep: bool = False, until: float | None = None,
) -> dict[str, float]:  # fmt: skip
    """{"<prefix>squad_f1", "<prefix>squad_em"} of the model in the folder `model`, in points from 0 to 100.

    The same with "last_" before it by the last weights of the fine-tunings, and with "validation_" on that split.
    As `exams.examine`, by the settings of this module: medians over `downstream_seeds` fine-tunings, each of which
    chooses its weights by F1 on the validation questions and looks at the test questions once. method(name, number):
    how to fine-tune, see `taught`; None: by the labels alone. Raises UserError for data that cannot be used, Paused.
    """
    chosen = exam_settings(settings)
    make = functools.partial(exams.exam_task, model, settings.squad, chosen, Answering)
    found = [
        exams.finetune(make, "squad", chosen, seed, number, folder, prefix, method, keep, until)
        for number in range(settings.downstream_seeds)
    ]
    return {
        f"{view}{prefix}squad_{points}": 100 * statistics.median(metrics[f"{of}{score}"] for metrics in found)
        for view, of in exams.VIEWS.items()
        for points, score in (("f1", "f1"), ("em", "exact"))
    }


def taught(settings: Settings, teacher: Path) -> Callable[[str, int], Method]:
    """The second distillation for `answer_exam`: by the model that the teacher's own exam has kept in its folder."""

    def method(name: str, number: int) -> AnswerDistillation:
        found = AnswerDistillation(settings.second_alpha_ce, settings.second_alpha_task, settings.temperature)
        found.teacher = exams.finetuned(teacher, name, number, kind=Answering.kind)
        return found

    return method


def check(settings: Settings) -> None:
    """Raises UserError for questions that cannot be read."""
    Answering.load(exams.exam_settings("", settings.squad, exam_settings(settings), Answering))


def exam_settings(settings: Settings) -> Settings:
    """The settings of an exam as `kdutils.study.exams` knows them, with this exam's values."""
    own = ("rows", "test_rows", "epochs", "learning_rate", "batch", "max_length")
    return settings.changed(**{f"downstream_{name}": settings[f"squad_{name}"] for name in own})


# --- reading ----------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)  # every arm and every seed sits the same exam
def load_questions(source: str, rows: tuple = (), seed: int = 0, max_words: int = 0) -> Corpus:
    """Questions {"context", "question", "answers": [{"text", "start"}, ...]} in the splits train, validation and test.

    source: "demo", hub:owner/name, or a folder with train-*.json and dev-*.json, and perhaps test-*.json, as SQuAD has
    them (.json.gz too). rows: pairs of a split and how many questions of it, for the demo exactly so many, else a
    random sample by `seed`. Without a test split, dev is tested on, and 5 % but at most 1,000 questions of train, those
    of texts chosen by their hash, are the validation split. max_words: of the demo, the longest sentence. Raises
    UserError, one sentence, for a file, a row or an answer that is not as it should be.
    """
    most, notes = dict(rows), []
    if source == "demo":
        return Corpus("demo", Answering.name, _demo(most, seed, max_words), languages=("en",))
    read = _hub_rows if source.startswith("hub:") else _folder_rows
    name, splits = read(source, notes)
    if "test" not in splits:
        splits["test"] = splits.pop("validation")
        notes.append("There is no test split to use: that of validation (dev) serves as the test split.")
    if "validation" not in splits:
        splits["train"], splits["validation"] = _carved(splits["train"])
        notes.append(f"{len(splits['validation']):,} questions were carved from train by a hash of their text.")
    for split, questions in splits.items():
        if most.get(split, len(questions)) < len(questions):
            chosen = random.Random(f"{split} {seed}").sample(range(len(questions)), most[split])
            notes.append(f"{split}: a random sample of {most[split]:,} of {len(questions):,} questions (seed {seed}).")
            splits[split] = [questions[index] for index in sorted(chosen)]
    return Corpus(name, Answering.name, splits, notes=tuple(notes))


def _demo(most: dict[str, int], seed: int, max_words: int) -> dict[str, list[Row]]:
    """Questions about sentences of the grammar; all those about one sentence are in one split."""
    splits, sentences = {}, demo_questions(seed)
    for split in ("train", "validation", "test"):
        wanted, rows = most.get(split, 600), []
        while len(rows) < wanted:
            questions = next(sentences)
            rows += questions if not max_words or len(questions[0]["context"].split()) <= max_words else []
        splits[split] = rows[:wanted]
    return splits


def _carved(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Rows in two, the second 5 % but at most 1,000; those with one context stay together."""
    often = Counter(row["context"] for row in rows)
    room, chosen = min(CARVED_MOST, max(1, int(CARVED_SHARE * len(rows)))), set()
    for context in sorted(often, key=lambda text: hashlib.sha256(text.encode()).digest()):
        if often[context] <= room:
            chosen.add(context)
            room -= often[context]
    kept, carved = ([row for row in rows if (row["context"] in chosen) == side] for side in (False, True))
    if not kept or not carved:
        raise UserError("The train questions are about too few texts to carve a validation split: add a test-*.json.")
    return kept, carved


def _folder_rows(source: str, notes: list[str]) -> tuple[str, dict[str, list[Row]]]:
    """The name of a folder in SQuAD's layout, and its questions by split."""
    folder, splits = Path(source).expanduser(), {}
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: squad is 'demo', 'hub:owner/name' or a folder.")
    for split, stem in (("train", "train"), ("validation", "dev"), ("test", "test")):
        files = [*folder.glob(f"{stem}-*.json"), *folder.glob(f"{stem}-*.json.gz")]
        if len(files) > 1 or not files and split != "test":
            raise UserError(f"{folder} has {len(files)} files called {stem}-*.json or .json.gz: there must be one.")
        if files:
            splits[split] = [_checked(row, where) for row, where in _questions(files[0])]
            if not splits[split]:
                raise UserError(f"{files[0]} is empty: it needs at least one question.")
    return folder.resolve().name, splits


def _questions(path: Path) -> Iterator[tuple[Row, str]]:
    """Every question of a file with its context, unchecked, and where it stands."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            articles = json.load(stream)["data"]
        found = [{**part, **qa} for article in articles for part in article["paragraphs"] for qa in part["qas"]]
    except (OSError, EOFError, ValueError, zlib.error, RecursionError, TypeError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        raise UserError(
            f"{path} is not in SQuAD's layout, JSON with data, paragraphs, qas ({reason}): check it, or take another."
        ) from error
    yield from ((row, f"{path}, question {number}") for number, row in enumerate(found, start=1))


def _hub_rows(source: str, notes: list[str]) -> tuple[str, dict[str, list[Row]]]:
    """The name of a data set of the hub with SQuAD's columns, and its questions by split; bad ones are left out."""
    path, config, revision = hub_address(source.removeprefix("hub:"))
    dataset, splits = load_from_hub(path, config, revision), {}
    for split in [split for split in ("train", "validation", "test") if split in dataset]:
        rows, bad = [], 0
        for row in dataset[split]:
            try:
                texts, starts = (row["answers"][name] for name in ("text", "answer_start"))
                answers = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
                rows.append(_checked({**row, "answers": answers}, path))
            except (UserError, KeyError, TypeError, ValueError):  # the reader of a hub data set cannot repair it
                bad += 1
        splits |= {split: rows} if rows else {}
        notes += [f"{split}: {bad:,} questions without an answer in their text were left out."] if bad else []
    if "train" not in splits or len(splits) < 2:
        raise UserError(
            f"{path} has no answered questions in two splits, train and another: it needs the columns context, "
            "question, and answers with text and answer_start, as hub:rajpurkar/squad has them."
        )
    return path, splits


def _checked(row: Row, where: str) -> Row:
    """A question in our columns. Raises UserError for one that lacks something, or whose answer is not in its text."""
    try:
        context, question, answers = row["context"], row["question"], row["answers"]
        answers = [{"text": answer["text"], "start": answer["answer_start"]} for answer in answers]
    except (KeyError, TypeError) as error:
        missing = f"has no {error}" if isinstance(error, KeyError) else "has answers that are no list of objects"
        raise UserError(f"{where} {missing}: it needs context, question, answers, text, answer_start.") from error
    for name, text in (("context", context), ("question", question), *(("answer", one["text"]) for one in answers)):
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{where} has an empty {name}, or one that is no text: correct or remove it.")
    if not answers:
        raise UserError(f"{where} has no answer: leave out questions without one, which SQuAD 1.1 does not have.")
    for answer in answers:
        text, start = answer["text"], answer["start"]
        if type(start) is not int or start < 0 or not context.startswith(text, start):
            raise UserError(
                f"{where}: the answer {text!r:.40} does not stand at answer_start {start!r:.20}: correct it."
            )
    return {"context": context, "question": question, "answers": answers}
