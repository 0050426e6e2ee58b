"""The truth about a hidden word: the grammar's own distribution, put to a masked language model."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import BertTokenizer

from kdutils.core.errors import UserError
from kdutils.data.tokens import train_tokenizer
from kdutils.grammar import corpus as grammar
from kdutils.models import build
from kdutils.tasks import truth
from kdutils.tasks.truth import predictions, questions, truth_scores, truth_table
from tests.tiny import one_sentence


def asked_in(language: str, texts: int, most: int):
    """(tokenizer, rows, questions): of the short sentences, with a vocabulary in which most words are one token."""
    all_of_them = grammar.text(texts, 0, language)
    rows = [{"text": text} for text in all_of_them if len(text.split()) <= 7][:60]
    tokenizer = train_tokenizer(all_of_them, 2500, "text")
    return tokenizer, rows, questions(rows, tokenizer, language, most)


@pytest.fixture(scope="module")
def english():
    return asked_in("en", 1500, 20)


class Oracle(nn.Module):
    """A masked language model whose logits at the mask are those it was made with, and nonsense elsewhere."""

    def __init__(self, asked, logits, pad: int = 0) -> None:
        super().__init__()
        self.config, self.pad = SimpleNamespace(pad_token_id=pad), pad
        self.weight = nn.Parameter(torch.zeros(1))
        self.known = {question.ids: (question.position, row) for question, row in zip(asked, logits, strict=True)}

    def forward(self, input_ids, attention_mask):
        out = torch.full((*input_ids.shape, len(next(iter(self.known.values()))[1])), 7.0)
        for number, (ids, content) in enumerate(zip(input_ids, attention_mask.bool(), strict=True)):
            position, row = self.known[tuple(ids[content].tolist())]
            assert (ids[~content] == self.pad).all()
            out[number, position] = row
        return SimpleNamespace(logits=out)


def bert(tokenizer, dropout: float = 0.1):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build.masked_lm(len(tokenizer), width=16, layers=1, heads=2, feedforward=16, dropout=dropout)


# ---------------------------------------------------------------- the questions


def test_a_question_is_its_sentence_with_the_mask_in_the_place_of_one_token(english):
    tokenizer, rows, asked = english
    texts = [row["text"] for row in rows]
    for question in asked:
        sentence = " ".join(question.words)
        assert sentence in texts
        whole = tokenizer(sentence)["input_ids"]
        assert len(question.ids) == len(whole)
        differing = [i for i, (a, b) in enumerate(zip(question.ids, whole, strict=True)) if a != b]
        assert differing == [question.position] and question.ids[question.position] == tokenizer.mask_token_id
        assert question.truth[whole[question.position]] > 0  # what stood there is possible


def test_the_hidden_words_stand_anywhere_in_a_sentence(english):
    _, _, asked = english
    places = {(q.hidden == 0, q.hidden == len(q.words) - 1) for q in asked}
    assert places == {(True, False), (False, True), (False, False)}


def check_truth(tokenizer, language, question):
    exact = grammar.masked_distribution(question.words, question.hidden, language)
    assert sum(question.truth.values()) == pytest.approx(1.0, abs=1e-12)
    expected: dict[int, float] = {}
    for word, p in exact.items():
        tokens = tokenizer(" ".join([*question.words[: question.hidden], word, *question.words[question.hidden + 1 :]]))
        token = tokens["input_ids"][question.position]
        assert len(tokens["input_ids"]) == len(question.ids)  # every answer is one token
        expected[token] = expected.get(token, 0.0) + p
    assert question.truth == pytest.approx(expected, rel=1e-12) and len(question.truth) == len(exact)


def test_the_truth_is_the_grammars_distribution_token_by_token(english):
    tokenizer, _, asked = english
    for question in asked:
        check_truth(tokenizer, "en", question)


@pytest.mark.parametrize("language", ["de", "fr", "es", "ko"])
def test_the_truth_is_known_in_every_language(language):
    tokenizer, _, asked = asked_in(language, 600, 3)
    for question in asked:
        check_truth(tokenizer, language, question)


def test_the_questions_of_a_seed_are_the_same_and_the_first_of_more(english):
    tokenizer, rows, asked = english
    assert questions(rows, tokenizer, "en", 3) == asked[:3] and len(asked) == 20
    other = questions(rows, tokenizer, "en", 3, seed=1)
    assert [q.gap for q in other] != [q.gap for q in asked[:3]]


def test_sentences_that_are_longer_than_wanted_are_left_out(english):
    tokenizer, rows, asked = english
    lengths = sorted(len(question.ids) for question in asked[:6])
    assert lengths[0] < lengths[3] < lengths[-1]
    shorter = questions(rows[:20], tokenizer, "en", 20, longest=lengths[3])
    assert max(len(question.ids) for question in shorter) == lengths[3]
    with pytest.raises(UserError, match="No hidden word"):
        questions(rows[:4], tokenizer, "en", 4, longest=3)


def test_a_gap_shows_a_line_and_keeps_the_mark_behind_the_word():
    words = ("Today", "Anna", "sleeps,", "too.")
    shown = [truth.Question(words, hidden, (), 0, {}).gap for hidden in range(4)]
    assert shown == [
        "____ Anna sleeps, too.",
        "Today ____ sleeps, too.",
        "Today Anna ____, too.",
        "Today Anna sleeps, ____.",
    ]


def test_words_of_several_tokens_are_not_asked_for(english):
    """Letters and a few pairs of them: a masked language model has no probability for a word of two tokens."""
    _, rows, _ = english
    letters = train_tokenizer([row["text"] for row in rows], 60, "text")
    with pytest.raises(UserError, match="raise vocab_size") as caught:
        questions(rows[:4], letters, "en", 4)
    one_sentence(caught.value)
    with pytest.raises(UserError, match="No hidden word"):
        questions([], letters, "en", 4)


def test_a_comma_that_comes_and_goes_with_the_word_is_not_asked_for(english, monkeypatch):
    tokenizer, rows, _ = english
    monkeypatch.setattr(grammar, "masked_distribution", lambda words, hidden, language: {"Anna": 0.5, "Anna,": 0.5})
    with pytest.raises(UserError, match="No hidden word"):
        questions(rows[:4], tokenizer, "en", 4)


def test_words_that_the_tokenizer_does_not_know_are_not_asked_for(english, tmp_path):
    _, rows, _ = english
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "the", "a"]
    (tmp_path / "vocab.txt").write_text("\n".join(known))
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"))
    with pytest.raises(UserError, match="No hidden word"):
        questions(rows[:6], tokenizer, "en", 6)


# ---------------------------------------------------------------- the scores


def test_a_model_that_knows_the_language_has_no_divergence_and_all_the_mass(english):
    tokenizer, _, asked = english
    knowing = Oracle(asked, truth_table(asked, len(tokenizer)).log())
    assert truth_scores(knowing, asked) == pytest.approx({"truth_kl": 0.0, "truth_mass": 1.0}, abs=1e-6)


def test_a_uniform_model_has_the_divergence_of_the_entropy(english):
    tokenizer, _, asked = english
    vocabulary = len(tokenizer)
    apart = [math.log(vocabulary) + sum(p * math.log(p) for p in q.truth.values()) for q in asked]
    mass = [len(q.truth) / vocabulary for q in asked]
    scores = truth_scores(Oracle(asked, torch.zeros(len(asked), vocabulary)), asked)
    expected = {"truth_kl": sum(apart) / len(asked), "truth_mass": sum(mass) / len(asked)}
    assert scores == pytest.approx(expected, rel=1e-5)


def test_the_divergence_is_that_of_the_truth_from_the_model(english):
    """Against a sum written out for a random model; the other direction would be another number."""
    tokenizer, _, asked = english
    logits = 2 * torch.randn(len(asked), len(tokenizer), generator=torch.Generator().manual_seed(1))
    apart, back, mass = [], [], []
    for question, row in zip(asked, logits.double(), strict=True):
        logs = row - row.logsumexp(0)
        apart.append(sum(p * (math.log(p) - float(logs[token])) for token, p in question.truth.items()))
        back.append(sum(math.exp(float(logs[t])) * (float(logs[t]) - math.log(p)) for t, p in question.truth.items()))
        mass.append(sum(math.exp(float(logs[token])) for token in question.truth))
    scores = truth_scores(Oracle(asked, logits), asked)
    assert scores["truth_kl"] == pytest.approx(sum(apart) / len(apart), rel=1e-5)
    assert scores["truth_mass"] == pytest.approx(sum(mass) / len(mass), rel=1e-5)
    assert abs(scores["truth_kl"] - sum(back) / len(back)) > 0.1


def test_a_table_has_the_truth_in_the_rows_of_the_questions(english):
    tokenizer, _, asked = english
    table = truth_table(asked, len(tokenizer))
    assert table.shape == (len(asked), len(tokenizer))
    torch.testing.assert_close(table.sum(-1), torch.ones(len(asked)))
    for row, question in zip(table, asked, strict=True):
        assert {i: row[i].item() for i in row.nonzero()[:, 0].tolist()} == pytest.approx(question.truth)


def test_the_padding_of_a_batch_of_questions_does_not_matter(english):
    tokenizer, _, asked = english
    assert len({len(question.ids) for question in asked}) > 1
    net = bert(tokenizer)
    singly = [truth_scores(net, [question]) for question in asked]
    for name, score in truth_scores(net, asked).items():
        assert score == pytest.approx(sum(one[name] for one in singly) / len(singly), rel=1e-5)


@pytest.mark.parametrize(("said", "used"), [(3, 3), (0, 0), (None, 0)])
def test_padding_is_what_the_model_calls_padding_or_zero(said, used, english):
    tokenizer, _, asked = english
    net = Oracle(asked, torch.zeros(len(asked), len(tokenizer)), pad=used)
    net.config = SimpleNamespace(pad_token_id=said)
    assert predictions(net, asked).shape == (len(asked), len(tokenizer))


def test_predictions_are_normalised_logarithms_without_a_gradient(english):
    tokenizer, _, asked = english
    logs = predictions(bert(tokenizer).bfloat16(), asked)
    assert logs.dtype == torch.float32 and not logs.requires_grad and logs.device.type == "cpu"
    torch.testing.assert_close(logs.exp().sum(-1), torch.ones(len(asked)))


def test_dropout_is_off_and_every_module_is_left_in_its_mode(english):
    tokenizer, _, asked = english
    net = bert(tokenizer, dropout=0.5).train()
    net.bert.embeddings.eval()
    before = [module.training for module in net.modules()]
    state = torch.get_rng_state()
    first = truth_scores(net, asked)
    assert [module.training for module in net.modules()] == before
    assert truth_scores(net, asked) == first == truth_scores(net.eval(), asked)
    assert torch.equal(torch.get_rng_state(), state)
