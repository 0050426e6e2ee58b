"""How good is a model: accuracy, F1, Matthews, BLEU, chrF, perplexity, and how far dropout moves it.

>>> hypotheses = translate(model, tokenizer, [row["src"] for row in corpus.splits["test"]], beams=5)
>>> translation_scores(hypotheses, [row["tgt"] for row in corpus.splits["test"]])
{'bleu': 31.4, 'chrf': 55.0}

Everything here computes without gradients and leaves the model and every random number generator as it found
them, so that evaluating more often never changes a training run. Sums run over all targets of all batches and
are divided once: a mean of batch means would weigh the targets of a small batch more.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import logging
import math
import re
import statistics
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from kdutils.core.errors import UserError
from kdutils.data.batches import BOS, EOS, PAD, Batch, source_ids
from kdutils.losses.divergences import kl_divergence, label_smoothed_nll, symmetric_kl
from kdutils.models.forward import counted_logits, mode

# --- scores of finished predictions ------------------------------------------------------------------


POSITIVE = {"true", "yes", "positive", "pos", "entailment", "equivalent", "duplicate", "acceptable", "긍정"}
NEGATIVE = {"false", "no", "negative", "neg", "부정"}


def positive_class(labels: Sequence[str]) -> int | None:
    """Which of two classes F1 is about, judged by their names; None if these do not tell.

    Of two numbers the larger; a name whose negation the other one is (entailment and not_entailment, acceptable and
    unacceptable); a name of POSITIVE, or the one beside a name of NEGATIVE. What stands in brackets does not count.
    """
    if len(labels) != 2:
        return None
    names = [label.partition("(")[0].strip().lower() for label in labels]
    if all(re.fullmatch(r"-?\d+", name) for name in names):
        return int(int(names[1]) > int(names[0]))
    negations = [re.fullmatch(rf"((not|non|no)[ _-]?|(un|in|im|ir|dis)-?){re.escape(name)}", other) is not None
                 for name, other in zip(names, reversed(names), strict=True)]  # fmt: skip
    good, bad = ([name in words for name in names] for words in (POSITIVE, NEGATIVE))
    votes = {i for i in (0, 1) if negations[i]} or {i for i in (0, 1) if good[i] or bad[1 - i]}
    return votes.pop() if len(votes) == 1 else None


def classification_scores(
    predicted: Sequence[int], gold: Sequence[int], classes: int | None = None, positive: int | None = 1
) -> dict[str, float]:
    """Accuracy and F1 (0 to 1) and Matthews' correlation (-1 to 1) of predicted classes.

    With two `classes` (by default, if all labels are 0 or 1) F1 is that of the class `positive`, which
    `positive_class` finds by the names; with more of them, or None for it, F1 is the macro average over the classes
    that occur. Matthews is 0 where the gold labels or the predictions are all alike.
    Raises UserError for no labels, or for unequal numbers of them.
    """
    predicted, gold = [int(label) for label in predicted], [int(label) for label in gold]
    _same_number(len(predicted), len(gold), "predictions", "gold labels")
    binary = positive is not None and (classes or max(*predicted, *gold) + 1) <= 2
    which = {"average": "binary", "pos_label": positive} if binary else {"average": "macro"}
    constant = len(set(predicted)) < 2 or len(set(gold)) < 2  # sklearn says 0 too, but warns
    return {
        "accuracy": float(accuracy_score(gold, predicted)),
        "f1": float(f1_score(gold, predicted, zero_division=0.0, **which)),
        "matthews": 0.0 if constant else float(matthews_corrcoef(gold, predicted)),
    }


def regression_scores(predicted: Sequence[float], gold: Sequence[float]) -> dict[str, float]:
    """Pearson's and Spearman's correlation (-1 to 1) of predicted scores, and their mean squared error as "loss".

    A correlation is 0 where the gold scores or the predictions are all alike, and the mean squared error is in the
    square of their unit. Raises UserError for no scores, or for unequal numbers of them.
    """
    _same_number(len(predicted), len(gold), "predictions", "gold scores")
    constant = len(set(predicted)) < 2 or len(set(gold)) < 2  # scipy says NaN, and warns
    return {
        "pearson": 0.0 if constant else float(pearsonr(predicted, gold).statistic),
        "spearman": 0.0 if constant else float(spearmanr(predicted, gold).statistic),
        "loss": statistics.fmean((y - right) ** 2 for y, right in zip(predicted, gold, strict=True)),
    }


def translation_scores(hypotheses: Sequence[str], references: Sequence[str], language: str = "") -> dict[str, float]:
    """Corpus BLEU and chrF (0 to 100) by sacreBLEU, one reference a sentence; see `bleu_signature`.

    `language` is the one translated into: BLEU counts words, and how these are found depends on it. Both sides are
    brought into Unicode's composed form (NFC) first, in which our tokenizers write: a perfect translation of decomposed
    letters scores 100. Raises UserError for no sentences or unequal numbers.
    """
    _same_number(len(hypotheses), len(references), "hypotheses", "references")
    sides = _composed(hypotheses, references)
    bleu, chrf = (metric.corpus_score(sides[0], sides[1:]) for metric in (_bleu(language), CHRF()))
    return {"bleu": float(bleu.score), "chrf": float(chrf.score)}


def paired_bootstrap(
    ours: Sequence[str], theirs: Sequence[str], references: Sequence[str], language: str = "", samples: int = 1000
) -> dict[str, float]:
    """difference: BLEU of ours minus theirs, as in `translation_scores`; p: sacreBLEU's paired bootstrap, of `samples`.

    p comes near a one-sided value: of two equally good systems 1 pair in 10 gets p < 0.05, so ask for 0.025 where the
    usual two-sided 5 % is meant. It speaks of other test sentences, not of other seeds of the training. Equal BLEU has
    p = 1, where sacreBLEU would count a system against itself as significant. The draws are the same each time: their
    seed is the environment variable SACREBLEU_SEED, else 12345. sacreBLEU has no interval of the difference. Raises
    UserError for no sentences, unequal numbers, or no samples.
    """
    for hypotheses in (ours, theirs):
        _same_number(len(hypotheses), len(references), "hypotheses", "references")
    _at_least(1, samples=samples)
    ours, theirs, references = _composed(ours, theirs, references)
    logger = logging.getLogger("sacrebleu")
    level = logger.level
    logger.setLevel(logging.ERROR)  # on Windows it warns that it would not start processes, which it is not asked for
    try:
        systems = [("theirs", theirs), ("ours", ours)]  # the first is the one to compare with
        test = PairedTest(systems, {"BLEU": _bleu(language)}, [references], test_type="bs", n_samples=samples, n_jobs=1)
        their_result, our_result = test()[1]["BLEU"]
    finally:
        logger.setLevel(level)
    difference = float(our_result.score - their_result.score)
    return {"difference": difference, "p": float(our_result.p_value) if difference else 1.0}


def bleu_signature(language: str = "") -> str:
    """sacreBLEU's signature of how `translation_scores` computes BLEU: only equal ones can be compared."""
    metric = _bleu(language)
    metric.corpus_score(["a"], [["a"]])  # the signature names the number of references, known after a first score
    return str(metric.get_signature())


CHINESE, JAPANESE = {"zh", "zho", "chi", "cmn", "yue", "lzh"}, {"ja", "jpn"}
UNSPACED = {"th", "tha", "lo", "lao", "km", "khm", "my", "mya", "bo", "bod", "dz"}


def bleu_tokenizer(language: str) -> str:
    """The tokenizer of sacreBLEU for a language code (en, zh_CN, ...), as at WMT: zh for Chinese, else mostly 13a.

    Japanese is cut by ja-mecab where that is installed (pip install sacrebleu[ja]), else into characters, as are
    Thai, Lao, Khmer, Burmese, Tibetan and Dzongkha, which have no spaces between words: sacreBLEU's own models for
    these are downloads. Korean has spaces and stays with 13a, which needs nothing installed, so that
    scores are the same everywhere; they are lower than those of ko-mecab, which counts particles apart.
    """
    code = re.split("[_-]", language.lower())[0]
    if code in CHINESE:
        return "zh"
    if code in JAPANESE:
        return "ja-mecab" if all(map(importlib.util.find_spec, ("MeCab", "ipadic"))) else "char"
    return "char" if code in UNSPACED else "13a"


def _bleu(language: str) -> BLEU:
    # force: no warning that references end in " .", which tokenised corpora do
    return BLEU(force=True, tokenize=bleu_tokenizer(language))


def _composed(*sides: Sequence[str]) -> list[list[str]]:
    return [[unicodedata.normalize("NFC", text) for text in side] for side in sides]


def _same_number(first: int, second: int, firsts: str, seconds: str) -> None:
    if first != second:
        raise UserError(f"There are {first} {firsts} for {second} {seconds}: give one for each.")
    if not first:
        raise UserError(f"There are no {firsts} to score: check that the test split has rows.")


# --- translating -------------------------------------------------------------------------------------


GREEDY_TOKENS, SEARCHED = 4096, 64  # padded tokens of sources, and sentences in beam search, that go together


@torch.no_grad()
def translate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    *,
    beams: int = 1,
    max_length: int = 64,
    max_tokens: int = GREEDY_TOKENS,
    source_tag: int | None = None,
    target_tag: int | None = None,
) -> list[str]:
    """Translates sentences, greedily or by beam search, and returns the translations in the same order.

    Of a source, `max_length` tokens are read, </s> included. A translation ends after `max_length` tokens,
    <s> included, or after twice its source's and 10 more, whichever comes first. Of a multilingual model,
    `source_tag` is the token put before every source and `target_tag` the first one of every translation. Sentences of
    similar length go together: greedily up to `max_tokens` of their padded sources at a time, which a processor does
    best; in beam search 64 sentences, for its close calls depend on the company. Dropout is off and nothing is sampled.
    Raises UserError for a number of beams, of tokens or a length that makes no sense.
    """
    _at_least(1, beams=beams, max_tokens=max_tokens)
    _at_least(2, max_length=max_length)
    longest = min(max_length, _positions(model))
    tag = [] if source_tag is None else [source_tag]
    sources = [tag + ids for ids in source_ids(sentences, tokenizer, longest - len(tag))]
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]), reverse=True)  # little padding
    translations = [""] * len(sources)
    with mode(model, training=False):
        start = 0
        while start < len(order):
            rows = max(1, max_tokens // len(sources[order[start]])) if beams == 1 else SEARCHED
            chosen = order[start : start + rows]
            start += len(chosen)
            produced = _generate(model, [sources[i] for i in chosen], beams, longest, target_tag)
            for i, ids in zip(chosen, produced, strict=True):
                translations[i] = tokenizer.decode(ids, skip_special_tokens=True)
    return translations


def _generate(
    model: PreTrainedModel, sources: list[list[int]], beams: int, longest: int, first: int | None = None
) -> list[list[int]]:
    """Token ids of the translations of sources sorted from long to short, without the start token."""
    special = _special_ids(model)
    caps = [min(2 * len(source) + 10, longest - 1) for source in sources]  # the start token has a position too
    width = len(sources[0])
    ids = [source + [special["pad_token_id"]] * (width - len(source)) for source in sources]
    content = [[1] * len(source) + [0] * (width - len(source)) for source in sources]
    config = GenerationConfig(
        max_new_tokens=caps[0], num_beams=beams, do_sample=False, forced_bos_token_id=first, **special
    )
    output = model.generate(
        input_ids=torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(content, device=model.device),
        generation_config=config,
    )
    # A batch runs on to the cap of its longest source; each row is cut at its own, whatever its company.
    return [row[1 : 1 + cap] for row, cap in zip(output.tolist(), caps, strict=True)]


def _special_ids(model: PreTrainedModel) -> dict[str, int]:
    """The ids that generation needs: the model's own, else those of our tokenizers."""
    ours = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS, "decoder_start_token_id": BOS}
    found = {name: getattr(model.config, name, None) for name in ours}
    return {name: ours[name] if found[name] is None else found[name] for name in ours}


def _positions(model: PreTrainedModel) -> int:
    return getattr(model.config, "max_position_embeddings", None) or 10**9


def _at_least(least: int, **settings: int) -> None:
    for name, value in settings.items():
        if value < least:
            raise UserError(f"{name} is {value}, but it must be at least {least}.")


# --- scores of a model on batches --------------------------------------------------------------------


@torch.no_grad()
def token_scores(model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
    """Loss (mean negative log-likelihood, nats a token, no smoothing), accuracy (0 to 1) and perplexity.

    For translation and masked-LM batches; means over the counted tokens of all batches, dropout off.
    Raises UserError when no token counts.
    """
    loss = correct = count = 0.0
    with mode(model, training=False):
        for logits, batch in _predictions(model, batches):
            loss += _total(_nll(logits, batch))
            correct += int((logits.argmax(-1) == batch["targets"]).sum())
            count += len(batch["targets"])
    if not count:
        raise UserError("No token of these batches counts towards the loss: check the data set and the masking.")
    return {"loss": loss / count, "accuracy": correct / count, "perplexity": _exp(loss / count)}


@torch.no_grad()
def compared_scores(teacher: Tensor, student: Tensor, targets: Tensor) -> Tensor:
    """Of a teacher and a student at the same n positions, sums over these, float64 (5,) on the CPU.

    The teacher's negative log-likelihood (nats) and how often its likeliest word is the target, the same two of the
    student, and KL(teacher || student). teacher, student (n, V); targets (n,).
    """
    sums = [
        one
        for logits in (teacher, student)
        for one in (label_smoothed_nll(logits, targets, reduction="sum"), logits.argmax(-1).eq(targets).sum())
    ]
    sums.append(kl_divergence(teacher, student, reduction="sum"))
    return torch.stack([one.to(sums[0].dtype) for one in sums]).cpu().double()


@torch.no_grad()
def label_scores(model: nn.Module, batches: Iterable[Batch], positive: int | None = 1) -> dict[str, float]:
    """Loss (mean negative log-likelihood, nats an example), and `classification_scores`, over all batches.

    Dropout is off. Raises UserError when there is no example.
    """
    loss, classes, predicted, gold = 0.0, None, [], []
    with mode(model, training=False):
        for logits, batch in _predictions(model, batches):
            loss += _total(_nll(logits, batch))
            classes = logits.shape[-1]
            predicted += logits.argmax(-1).tolist()
            gold += batch["targets"].tolist()
    scores = classification_scores(predicted, gold, classes, positive)
    return {"loss": loss / len(gold), **scores}


@torch.no_grad()
def similarity_scores(model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
    """`regression_scores` of a model with one output, over all batches, dropout off; UserError for no example."""
    predicted, gold = [], []
    with mode(model, training=False):
        for scores, batch in _predictions(model, batches):
            predicted += scores[:, 0].tolist()
            gold += batch["targets"].tolist()
    return regression_scores(predicted, gold)


@torch.no_grad()
def dropout_scores(model: nn.Module, batches: Iterable[Batch], passes: int = 2, seed: int = 0) -> dict[str, float]:
    """How far dropout moves a model's predictions, and what that costs: means over counted targets, in nats.

    kl: the symmetric KL divergence between two passes with dropout on (mean over the pairs, if `passes` > 2).
    train_mode_loss: the negative log-likelihood with dropout on, mean over the passes. eval_mode_loss: with
    dropout off. For any batch of this suite; the same seed draws the same dropout, and the caller's random
    numbers are left alone. Raises UserError for fewer than two passes or no targets.
    """
    _at_least(2, passes=passes)
    divergence = noisy = quiet = count = 0.0
    with _own_randomness(model, seed), mode(model, training=True):
        for stack, batch in _predictions(model, batches, copies=passes):
            pairs = list(itertools.combinations(stack, 2))
            divergence += sum(_total(symmetric_kl(p, q, reduction="none")) for p, q in pairs) / len(pairs)
            noisy += sum(_total(_nll(logits, batch)) for logits in stack) / passes
            with mode(model, training=False):
                quiet += _total(_nll(counted_logits(model, batch), batch))
            count += len(batch["targets"])
    if not count:
        raise UserError("No target of these batches counts: check the data set and the masking.")
    return {"kl": divergence / count, "train_mode_loss": noisy / count, "eval_mode_loss": quiet / count}


@torch.no_grad()
def latency_ms(model: PreTrainedModel, tokens: int = 32, repeats: int = 15) -> float:
    """Median milliseconds of one forward pass of the encoder over one text of `tokens`, on the CPU, dropout off.

    A model with fewer positions gets a text that fills them.
    Wall-clock time: the one number of this module that another run will not give again.
    """
    encoder, device = model.base_model, model.device
    ids = torch.full((1, min(tokens, _positions(model))), 5)
    seconds = []
    with mode(encoder, training=False):
        encoder.to("cpu")
        for _ in range(repeats + 3):
            started = time.perf_counter()
            encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
            seconds.append(time.perf_counter() - started)
        encoder.to(device)
    return 1000 * statistics.median(seconds[3:])  # the first ones warm up


def _predictions(model: nn.Module, batches: Iterable[Batch], copies: int = 1) -> Iterator[tuple[Tensor, Batch]]:
    """Logits (N, V), or (copies, N, V), of every batch that has targets, and the batch on the same device."""
    device = next(model.parameters()).device
    for batch in batches:
        if len(batch["targets"]):
            batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            yield counted_logits(model, batch, copies).float(), batch


def _nll(logits: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(logits.float(), batch["targets"], reduction="none")


def _total(values: Tensor) -> float:
    return float(values.cpu().double().sum())  # float32 would lose digits over a large test set


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700.0 else math.inf


@contextlib.contextmanager
def _own_randomness(model: nn.Module, seed: int) -> Iterator[None]:
    """Random numbers from `seed` on the CPU and the model's GPU; afterwards both go on where they were."""
    device = next(model.parameters()).device
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every other GPU too
        for gpu in cuda:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield
