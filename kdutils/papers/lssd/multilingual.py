"""Translation among several languages by one model: language tags, batches of one language, temperature sampling.

>>> task = ManyToOne(settings)                   # settings.languages into settings.pivot
>>> task.validate(model)["smoothed_loss_ko"]
>>> task.translate(model, ["오늘 소녀가 책을 읽습니다."], language="ko")

The language of a pair is the one that is not the pivot. As in the fairseq task that LSSD is built on, the encoder
reads a tag first (of the source language many-to-one, of the target language one-to-many), and the first word that
the decoder predicts is the tag of the target language; a translation is begun with it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdutils.core.errors import UserError, unknown
from kdutils.core.settings import Setting, Table
from kdutils.data import batches as b
from kdutils.data.corpora import Corpus, check_demo, demo_rows, load_corpus, overlaps
from kdutils.data.readers import Row
from kdutils.losses.divergences import label_smoothed_nll
from kdutils.models.forward import counted_logits, mode
from kdutils.tasks.scores import bleu_signature, translate, translation_scores
from kdutils.tasks.translation import Translation, keep_translations

PIVOT = "en"

# --- sampling ----------------------------------------------------------------------------------------------------


def language_sampling(sizes: Mapping[str, int], temperature: float = 1.0) -> dict[str, float]:
    """P_l proportional to n_l^(1/temperature): how often a sentence is of language l.

    Temperature 1 is proportional to the sizes, infinity the same for all. Raises UserError for a temperature that
    is not above 0, or a language without a sentence.
    """
    if not temperature > 0:
        raise UserError(f"The sampling temperature is {temperature}: it must be above 0, and 1 is proportional.")
    if not sizes or min(sizes.values()) < 1:
        raise UserError(f"Every language needs at least one sentence to sample from, not {dict(sizes)}.")
    most = max(sizes.values())
    weights = {language: (size / most) ** (1 / temperature) for language, size in sizes.items()}
    return {language: weight / sum(weights.values()) for language, weight in weights.items()}


def virtual_epoch(sizes: Mapping[str, int], temperature: float = 1.0, length: int = 0) -> dict[str, int]:
    """How many sentences of each language an epoch takes: P_l times `length`, and at least one.

    The length is by default min(sum_l P_l / P_max n_max, sum_l n_l), as in fairseq's sampled_multi_dataset.py:
    temperatures above 1 redistribute an epoch and do not lengthen it, so a large language is then not covered in one.
    Raises UserError for a length below 0.
    """
    if length < 0:
        raise UserError(f"An epoch cannot have {length} sentences: choose 0 for the size of the corpora, or more.")
    chances = language_sampling(sizes, temperature)
    largest = max(sizes, key=sizes.get)
    natural = min(sum(chances.values()) / chances[largest] * sizes[largest], sum(sizes.values()))
    return {language: max(1, round(chance * (length or natural))) for language, chance in chances.items()}


class LanguageBatches(b.Batches):
    """Batches of one language each; which languages an epoch takes how often is `virtual_epoch`'s.

    A language that is taken more often than it has sentences is gone through several times before any sentence comes
    again. Examples name their "language". Raises UserError as `Batches` does.
    """

    def __init__(
        self,
        examples: Sequence[b.Example],
        collate: Callable[..., b.Batch],
        *,
        temperature: float = 1.0,
        epoch_rows: int = 0,
        **options: Any,
    ) -> None:
        self.by_language: dict[str, list[int]] = {}
        for index, language in enumerate(_languages(examples)):
            self.by_language.setdefault(language, []).append(index)
        sizes = {language: len(own) for language, own in self.by_language.items()}
        self.taken = virtual_epoch(sizes, temperature, epoch_rows) if sizes else {}
        super().__init__(examples, collate, **options)

    def plan(self, epoch: int) -> list[list[int]]:
        draw = random.Random(f"{self.seed}-{epoch}")
        batches = [
            batch
            for language, own in self.by_language.items()
            for batch in self.pack(_drawn(own, self.taken[language], draw) if self.shuffle else own)
        ]
        if self.shuffle:
            draw.shuffle(batches)
        return batches


def _languages(examples: Sequence[b.Example]) -> list[str]:
    compact = isinstance(examples, b.Examples)
    return examples.column("language") if compact and examples else [example["language"] for example in examples]


def _drawn(indices: Sequence[int], count: int, draw: random.Random) -> list[int]:
    """`count` of these in random order: all of them as often as that goes, and a sample for the rest."""
    whole, rest = divmod(count, len(indices))
    drawn = [*indices] * whole + draw.sample([*indices], rest)
    draw.shuffle(drawn)
    return drawn


# --- scores ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def language_scores(
    model: nn.Module, batches: Iterable[b.Batch], epsilon: float = 0.1, convention: str = "others"
) -> dict[str, float]:
    """Scores of each language and of all, under teacher forcing, dropout off, over batches of one language each.

    smoothed_loss_<language>: cross-entropy with label smoothing, nats a target token, by which a language is judged in
    LSSD; smoothed_loss: their plain mean over the languages (2), by which the checkpoint is chosen. Means over the
    tokens of all languages: token_loss, which the released code chooses by, loss, the same without smoothing,
    perplexity and accuracy (0 to 1), also as accuracy_<language>. Raises UserError when no token counts.
    """
    sums: dict[str, Tensor] = {}
    device = next(model.parameters()).device
    with mode(model, training=False):
        for batch in batches:
            batch = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
            if not len(batch["targets"]):
                continue
            logits, targets = counted_logits(model, batch).float(), batch["targets"]
            nll = label_smoothed_nll(logits, targets, reduction="sum")
            smoothed = label_smoothed_nll(logits, targets, epsilon, convention, reduction="sum")
            right = (logits.argmax(-1) == targets).sum()
            numbers = torch.stack([nll, smoothed, right.to(nll.dtype), nll.new_tensor(len(targets))]).cpu().double()
            sums[batch["language"]] = sums.get(batch["language"], 0.0) + numbers
    if not sums:
        raise UserError("No token of these batches counts in any language: check the data set.")
    nll, smoothed, right, count = sum(sums.values()).tolist()
    mean = sum(float(numbers[1] / numbers[3]) for numbers in sums.values()) / len(sums)
    scores = {"loss": nll / count, "accuracy": right / count, "smoothed_loss": mean, "token_loss": smoothed / count}
    scores["perplexity"] = math.exp(scores["loss"]) if scores["loss"] < 700.0 else math.inf
    for language, (_, own, correct, tokens) in ((name, numbers.tolist()) for name, numbers in sums.items()):
        scores |= {f"smoothed_loss_{language}": own / tokens, f"accuracy_{language}": correct / tokens}
    return scores


# --- data --------------------------------------------------------------------------------------------------------


def tag(language: str) -> str:
    """The token that stands for a language."""
    return f"__{language}__"


def demo_splits(
    languages: Sequence[str], pivot: str, train: Sequence[int], held_out: Mapping[str, int], seed: int, max_words: int
) -> dict[str, list[Row]]:
    """Rows {"language", "pivot", "other"} of the embedded grammar, split.

    Every language trains on sentences of its own; validation and test are the same sentences in all of them.
    """
    total = sum(train) + sum(held_out.values())
    rows = iter(demo_rows((pivot, *languages), total, seed, max_words))

    def of(language: str, some: Iterable[dict[str, str]]) -> list[Row]:
        return [{"language": language, "pivot": row[pivot], "other": row[language]} for row in some]

    splits = {split: [next(rows) for _ in range(size)] for split, size in held_out.items()}
    splits = {split: [row for one in languages for row in of(one, some)] for split, some in splits.items()}
    own = [of(one, [next(rows) for _ in range(size)]) for one, size in zip(languages, train, strict=True)]
    return {"train": [row for some in own for row in some], **splits}


def without_leaks(splits: dict[str, list[Row]]) -> tuple[dict[str, list[Row]], int]:
    """The splits without training rows whose pivot sentence is held out in any language, and how many those were.

    One model learns all languages: a sentence that it is tested on in one must not come from another.
    """
    held_out = {row["pivot"] for split in ("validation", "test") for row in splits[split]}
    kept = [row for row in splits["train"] if row["pivot"] not in held_out]
    return {**splits, "train": kept}, len(splits["train"]) - len(kept)


# --- the tasks ---------------------------------------------------------------------------------------------------


def _settings_table() -> Table:
    lines = [
        replace(line, grammar=None, small=None)  # the beds of one pair are not those of many
        for name, line in Translation.settings_table.settings.items()
        if name != "pair"
    ]
    table = Table(
        Setting("languages", ["es", "fr", "ko", "de"], ["bs", "mr", "hi", "mk", "el", "bg", "fr", "ko"],
                ["bs", "mr", "hi", "mk", "el", "bg", "fr", "ko"], "the languages beside the pivot"),
        Setting("pivot", PIVOT, PIVOT, PIVOT, "the language that they are translated into, or from"),
        Setting("temperature", 1.0, 1.0, 1.0, "of the sampling of languages; 1: proportional to their sizes"),
        Setting("epoch_rows", 0, 0, 0, "training pairs in a virtual epoch; 0: as many as there are"),
        *lines,
    )  # fmt: skip
    chosen = dict.fromkeys(("demo", "study", "paper"), "smoothed_loss")
    return table.extended(
        select_by={**chosen, "meaning": "smoothed_loss, the mean over the languages, or token_loss, over the tokens"},
        data={"study": "hub:Helsinki-NLP/opus-100/{pair}", "meaning": "demo, hub:owner/name/{pair}, or a folder"},
        train_rows={"demo": [200, 500, 1000, 3000], "paper": [0],
                    "study": [7500, 25_000, 4500, 9000, 10_000, 15_000, 135_000, 4500],
                    "meaning": "training pairs of each language, or one number for all; 0: all"},
        validation_rows={"demo": 100, "meaning": "validation pairs of each language; 0: all"},
        test_rows={"demo": 200, "meaning": "test pairs of each language; 0: all"},
        eval_every={"demo": 0, "study": 0, "paper": 0},
        smoothing_convention={"demo": "others", "study": "others", "paper": "others"},
    )  # fmt: skip


class Multilingual(Translation):
    """Several languages and a pivot, one model for all pairs; `ManyToOne` and `OneToMany` are the directions."""

    into_pivot = True
    selectable = ("smoothed_loss", "token_loss")
    settings_table = _settings_table()

    def translate(
        self, model: PreTrainedModel, sentences: list[str], beams: int | None = None, language: str = ""
    ) -> list[str]:
        """Translations of sentences from (many-to-one) or into (one-to-many) a language."""
        source, target = self._tags(language or self.settings.languages[0])
        return translate(
            model, self.tokenizer, sentences, beams=beams or self.settings.beams,
            max_length=self.settings.max_length, source_tag=source, target_tag=target,
        )  # fmt: skip

    def test(self, model: PreTrainedModel, keep_in: Path | None = None) -> dict[str, float]:
        """Scores under teacher forcing; BLEU and chrF of each language, and their plain means over the languages."""
        scores = {f"test_{name}": score for name, score in self._scores(model, "test").items()}
        languages = self.settings.languages
        written: list[tuple[Row, str]] = []
        for language in languages:
            own, hypotheses, found = self.tested(model, language)
            written += zip(own, hypotheses, strict=True)
            scores |= {f"test_{name}_{language}": score for name, score in found.items()}
        if keep_in:
            keep_translations(keep_in, *zip(*written, strict=True))
        means = {f"test_{m}": sum(scores[f"test_{m}_{one}"] for one in languages) for m in ("bleu", "chrf")}
        return {**scores, **{name: total / len(languages) for name, total in means.items()}}

    def tested(self, model: PreTrainedModel, language: str) -> tuple[list[Row], list[str], dict[str, float]]:
        """The test rows of a language, their translations, and what these score."""
        own = [row for row in self.corpus.splits["test"] if row["language"] == language]
        hypotheses = self.translate(model, [row["src"] for row in own], language=language)
        return own, hypotheses, translation_scores(hypotheses, [row["tgt"] for row in own], self._target(language))

    def facts(self) -> dict[str, Any]:
        signatures = dict.fromkeys(bleu_signature(self._target(one)) for one in self.settings.languages)
        return {**super().facts(), "train_rows": self.sizes(), "bleu_signature": "; ".join(signatures)}

    def _target(self, language: str) -> str:
        """The language that sentences of a pair are translated into."""
        return self.settings.pivot if self.into_pivot else language

    def sizes(self) -> dict[str, int]:
        """Training pairs of each language, after what was too long or held out has gone."""
        counts = dict.fromkeys(self.settings.languages, 0)
        for language in _languages(self.examples["train"]):
            counts[language] += 1
        return counts

    def only(self, language: str, seed: int) -> b.Batches:
        """Shuffled batches of the training pairs of one language, for a model of its own."""
        self._tags(language)  # refuses an unknown one
        examples = self.examples["train"]
        own = b.Examples(examples[i] for i, one in enumerate(_languages(examples)) if one == language)
        return LanguageBatches(own, self.collate(), seed=seed, **self._budget())

    def training_batches(self, seed: int) -> b.Batches:
        options = {name: self.settings[name] for name in ("temperature", "epoch_rows")} | self._budget()
        return LanguageBatches(self.examples["train"], self.collate(), seed=seed, **options)

    def fixed_batches(self, split: str, rows: int | None = None, language: str = "") -> b.Batches:
        """All rows of a split, or the first few of each language, or those of one language, in a fixed order."""
        self._tags(language or self.settings.languages[0])  # refuses an unknown one
        kept, seen = [], dict.fromkeys(self.settings.languages, 0)
        for index, own in enumerate(_languages(self.examples[split])):
            seen[own] += 1
            if (rows is None or seen[own] <= rows) and language in ("", own):
                kept.append(index)
        return LanguageBatches(
            b.Examples(self.examples[split][index] for index in kept), self.collate(), shuffle=False, **self._budget()
        )

    def collate(self):
        plain, words = b.collate_translation(), self._target_words()

        def collate(rows: list[b.Example]) -> b.Batch:
            """A batch of translation with its "language" and, one-to-many, "target_words" (V,): those it uses."""
            language = rows[0]["language"]
            return {**plain(rows), "language": language, **({"target_words": words[language]} if words else {})}

        return collate

    def _target_words(self) -> dict[str, Tensor]:
        """Which tokens each target language uses in training, one-to-many; the special ones and its tag included."""
        if self.into_pivot:
            return {}
        if not hasattr(self, "_words"):
            self._words = {one: torch.zeros(len(self.tokenizer), dtype=torch.bool) for one in self.settings.languages}
            for words in self._words.values():
                words[: len(b.SPECIALS)] = True
            for example in self.examples["train"]:
                self._words[example["language"]][example["target"]] = True
        return self._words

    def _load(self) -> Corpus:
        s = self.settings
        train = _checked(s.languages, s.pivot, s.train_rows)
        if s.data == "demo":
            _check_demo_rows(s)
            held_out = {"validation": s.validation_rows, "test": s.test_rows}
            splits, notes = demo_splits(s.languages, s.pivot, train, held_out, s.data_seed, s.max_words), ()
            name = "demo"
        else:
            splits, notes, name = self._found(train)
        ends = ("other", "pivot") if self.into_pivot else ("pivot", "other")
        directed = {
            split: [{"language": row["language"], "src": row[ends[0]], "tgt": row[ends[1]]} for row in rows]
            for split, rows in splits.items()
        }
        return Corpus(name, "translation", directed, (), (*s.languages, s.pivot), (*notes, *overlaps(directed)))

    def _found(self, train: Sequence[int]) -> tuple[dict[str, list[Row]], list[str], str]:
        """The corpora of all pairs from a folder or the hub, as one."""
        s = self.settings
        splits: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
        notes, names = [], []
        for language, most in zip(s.languages, train, strict=True):
            source = s.data.replace("{pair}", "-".join(sorted((language, s.pivot))))
            rows = {**self._rows(), **({"train": most} if most else {})}
            corpus = load_corpus(
                source,
                "translation",
                pair=f"{language}-{s.pivot}",
                rows=rows,
                test_split=s.test_split,
                seed=s.data_seed,
            )
            names.append(corpus.name)
            found_twice = overlaps(corpus.splits)  # most of these are left out below, and the rest is counted then
            notes += [f"{language}: {note}" for note in corpus.notes if note not in found_twice]
            for split, found in corpus.splits.items():
                splits[split] += [{"language": language, "pivot": row["tgt"], "other": row["src"]} for row in found]
        splits, leaks = without_leaks(splits)
        if leaks:
            notes.append(f"{leaks:,} training pairs with a {s.pivot} sentence that is held out were left out.")
        return splits, notes, ", ".join(dict.fromkeys(names))

    def _rows(self) -> dict[str, int]:
        held_out = {split: self.settings[f"{split}_rows"] for split in ("validation", "test")}
        return {split: most for split, most in held_out.items() if most}

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        tokenizer = super()._tokenizer()
        tags = [tag(language) for language in (*self.settings.languages, self.settings.pivot)]
        tokenizer.add_tokens([AddedToken(one, special=True) for one in tags], special_tokens=True)
        return tokenizer

    def _tags(self, language: str) -> tuple[int, int]:
        """Ids of the tag that the encoder reads and of the one that the decoder begins with."""
        if language not in self.settings.languages:
            raise unknown("language", language, self.settings.languages)
        own, pivot = self.tokenizer.convert_tokens_to_ids([tag(language), tag(self.settings.pivot)])
        return (own, pivot) if self.into_pivot else (own, own)

    def _examples(self, split: str) -> b.Examples:
        way, examples = "drop" if split == "train" else "truncate", b.Examples()
        for language in self.settings.languages:
            rows = [row for row in self.corpus.splits[split] if row["language"] == language]
            if not rows:
                raise UserError(
                    f"There is no {split} pair of '{language}' whose {self.settings.pivot} is not held out."
                )
            source, target = self._tags(language)
            try:
                found = b.translation_examples(rows, self.tokenizer, self.settings.max_length - 1, way)
            except UserError as error:
                most = self.settings.max_length
                raise UserError(
                    f"No {split} pair of '{language}' fits into a max_length of {most}: raise it."
                ) from error
            examples.too_long += found.too_long
            for one in found:
                tagged = {"source": [source, *one["source"]], "target": [target, *one["target"]]}
                examples.append({**tagged, "language": language})
        if examples.too_long:
            done = "dropped" if way == "drop" else "cut"
            examples.note = f"{examples.too_long:,} rows were too long and were {done}."
        return examples

    def scores(self, model: PreTrainedModel, split: str, language: str = "") -> dict[str, float]:
        """The `language_scores` of a split, of all languages or of one."""
        smoothing = (self.settings.label_smoothing, self.settings.smoothing_convention)
        return language_scores(model, self.fixed_batches(split, language=language), *smoothing)

    def _scores(self, model: PreTrainedModel, split: str) -> dict[str, float]:
        return self.scores(model, split)


class ManyToOne(Multilingual):
    """Every language into the pivot."""

    name = "many_to_one"


class OneToMany(Multilingual):
    """The pivot into every language."""

    name, into_pivot = "one_to_many", False


def _checked(languages: Sequence[str], pivot: str, train: Sequence[int]) -> list[int]:
    """The training rows of each language. Raises UserError for languages or sizes that cannot be meant."""
    if not all(isinstance(one, str) and one for one in languages):
        raise UserError(f"languages must be codes, such as 'de', not {list(languages)}.")
    if len(set(languages)) < len(languages) or not languages or pivot in languages:
        raise UserError(f"languages must be different ones, without the pivot '{pivot}', not {list(languages)}.")
    if len(train) not in (1, len(languages)) or not all(type(n) is int and n >= 0 for n in train):
        raise UserError(
            f"train_rows takes one whole number of at least 0, or one for each of the {len(languages)} languages, "
            f"not {list(train)}."
        )
    return [*train] * (len(languages) if len(train) == 1 else 1)


def _check_demo_rows(settings: Mapping[str, Any]) -> None:
    """Refuses what the grammar cannot give: a language it does not speak, a size of 0, which would mean all."""
    check_demo((*settings["languages"], settings["pivot"]), settings["test_split"])
    sizes = [*settings["train_rows"], settings["validation_rows"], settings["test_rows"]]
    if min(sizes) < 1:
        raise UserError(f"The demo grammar has no end: rows must be at least 1, not {min(sizes)}.")
