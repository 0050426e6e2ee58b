"""How often an update of each method waits for the GPU: as often as the library's own forward passes do."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForQuestionAnswering

from kdutils.data.batches import Batches, collate_classification, collate_masked_lm, train_tokenizer
from kdutils.models.build import classifier, masked_lm
from kdutils.models.forward import MODEL_INPUTS
from kdutils.papers.cbbgca.cmlm import CMLM
from kdutils.papers.cbbgca.method import CBBGCA, JointTraining
from kdutils.papers.distilbert.answering import AnswerDistillation
from kdutils.papers.distilbert.method import SecondDistillation, TripleLoss
from kdutils.papers.intra_distillation.method import IntraDistillation, IntraDistillationRegression
from kdutils.papers.lssd.method import LSSD
from kdutils.papers.lssd.multilingual import tag
from kdutils.papers.r_drop.method import RDrop
from kdutils.papers.seer_forcing.method import SeerForcing
from kdutils.papers.self_distillation.method import EMA, SDA, SDV, Itself, SelfEnsemble
from kdutils.papers.tutor_kd.method import PlainKD, TutorKD
from kdutils.papers.tutor_kd.student import judging_student, predicting_student, student_config
from kdutils.training.loop import _Loop, fit
from kdutils.training.method import Method, SquaredError
from tests import tiny
from tests.pretend_gpu import report
from tests.tiny import recipe

SHAPE = {"width": 16, "layers": 1, "heads": 2, "feedforward": 16}
TEXTS = ["the old baker sings", "a small cat eats the bread", "she reads", "the girl saw a lamp in the park"] * 5


class Spoken:
    """Batches of translation that say their language and its words."""

    def __init__(self) -> None:
        self.batches = tiny.batches()
        self.plan = self.batches.plan

    def batch(self, epoch, index):
        words = torch.ones(tiny.VOCABULARY, dtype=torch.bool)
        return {**self.batches.batch(epoch, index), "language": "ko", "target_words": words}


def translation():
    return tiny.model(), Spoken()


def classes():
    rows = [{"input_ids": [1, 5 + n % 7, 9, 2][: 3 + n % 2], "label": n % 2} for n in range(20)]
    return classifier(tiny.VOCABULARY, ("no", "yes"), **SHAPE), Batches(rows, collate_classification(), batch_size=6)


def scores():
    rows = [{"input_ids": [1, 5 + n % 7, 9, 2][: 3 + n % 2], "label": n / 4} for n in range(20)]
    return classifier(tiny.VOCABULARY, ("score",), **SHAPE), Batches(rows, collate_classification(), batch_size=6)


def answers():
    rows = [{"input_ids": [1, 5 + n % 7, 9, 2][: 3 + n % 2], "label": (1, 1 + n % 2)} for n in range(20)]
    config = BertConfig(vocab_size=tiny.VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    return BertForQuestionAnswering(config), Batches(rows, collate_classification(), batch_size=6)


def masked():
    tokenizer = train_tokenizer(TEXTS, 120, "text")
    rows = [{"input_ids": ids} for ids in tokenizer(TEXTS).input_ids]
    return masked_lm(len(tokenizer), **SHAPE), Batches(rows, collate_masked_lm(tokenizer, 0.3), batch_size=6)


def judged():
    net, batches = masked()
    return judging_student(student_config(net.config, 1, 8, 6), seed=1), batches


def predicted():
    net, batches = masked()
    return predicting_student(student_config(net.config, 1, 8, 6), seed=1), batches


def taught(method: Method, teacher: nn.Module) -> Method:
    method.teacher = teacher
    return method


def lssd(**options) -> Method:
    method = LSSD(["ko"], 2.0, teachers="individual", kind="adaptive", level="sentence", **options)
    return taught(method, nn.ModuleDict({tag("ko"): tiny.model(seed=3)}))


def cbbgca(**options) -> Method:
    return taught(CBBGCA(threshold=1 / tiny.VOCABULARY, **options), CMLM(tiny.model(seed=3)))


def tutored(**options) -> Method:
    return taught(TutorKD(**options), masked()[0])


# a method, what it is trained on, and the networks that one of its updates passes: the first and the second, where
# nobody teaches yet at the first
METHODS = {
    "translation": (Method, translation, 1),
    "classification": (Method, classes, 1),
    "regression": (SquaredError, scores, 1),
    "masked words": (Method, masked, 1),
    "r_drop": (RDrop, translation, 1),
    "r_drop of classes": (RDrop, classes, 1),
    "intra_distillation": (IntraDistillation, translation, 1),
    "recomputed": (lambda: IntraDistillation(form="recomputed"), translation, 6),
    "recomputed of classes": (lambda: IntraDistillation(form="recomputed"), classes, 6),
    "intra_distillation of scores": (IntraDistillationRegression, scores, 1),
    "recomputed of scores": (lambda: IntraDistillationRegression(form="recomputed"), scores, 6),
    "seer_forcing": (SeerForcing, translation, 1),
    "masks as drawn": (lambda: SeerForcing(reading="masked"), translation, 1),
    "l2": (lambda: SeerForcing(transfer="l2"), translation, 1),
    "adversarial": (lambda: SeerForcing(transfer="adversarial"), translation, 1),
    "two decoders": (JointTraining, translation, 1),
    "two encoders": (lambda: JointTraining(shared_encoder=False), translation, 1),
    "cbbgca": (cbbgca, translation, 1),
    "cbbgca with nothing selected": (lambda: taught(CBBGCA(threshold=0.0), CMLM(tiny.model(seed=3))), translation, 1),
    "chosen on a clean pass": (lambda: cbbgca(selection="clean"), translation, 2),
    "lssd": (lssd, translation, 2),
    "lssd of the likeliest words": (lambda: lssd(language_aware=True, top_k=3), translation, 2),
    "distilbert": (lambda: taught(TripleLoss(), masked()[0]), masked, 2),
    "at the masked words": (lambda: taught(TripleLoss(restrict_to_mask=True), masked()[0]), masked, 2),
    "without soft targets": (lambda: taught(TripleLoss((0, 2, 1)), masked()[0]), masked, 2),
    "second distillation": (lambda: taught(SecondDistillation(), classes()[0]), classes, 2),
    "second distillation of scores": (lambda: taught(SecondDistillation(), scores()[0]), scores, 2),
    "second distillation of answers": (lambda: taught(AnswerDistillation(), answers()[0]), answers, 2),
    "self-ensemble": (SelfEnsemble, classes, 1),
    "the self before": (lambda: SDA(1), classes, (1, 2)),
    "sda": (lambda: SDA(3), classes, (1, 2)),
    "all earlier selves": (lambda: SDA(0), classes, (1, 2)),
    "sdv": (lambda: SDV(3), classes, (1, 2)),
    "exponential average": (EMA, classes, 2),
    "the present self": (Itself, classes, 2),
    "kd": (lambda: taught(PlainKD(), masked()[0]), predicted, 2),
    "tutor_kd": (tutored, judged, 3),
    "with a running mean": (lambda: tutored(baseline=0.9), judged, 3),
    "alternating steps": (lambda: tutored(steps="alternating"), judged, 3),
    "the teacher's samples": (lambda: tutored(sampler="teacher"), judged, 3),
    "the likeliest words": (lambda: tutored(sampler="argmax"), judged, 3),
    "random words": (lambda: tutored(sampler="random"), judged, 3),
    "plain logits": (lambda: tutored(logits="plain"), predicted, 3),
    "masks turned round": (lambda: tutored(inverted_mask=True), judged, 0),  # one of four dimensions is taken as it is
}


# and how often besides. A masked language model asks for what its source's mask hides in its decoder, and in an encoder
# of its own; a step of stage 1 also for its hidden words, one of stage 2 for the selected ones, first to find their
# sentences and then to find their rows of the loss.
BESIDES = {
    "two decoders": 1 + 1, "two encoders": 2 + 1, "cbbgca": 2 + 2, "cbbgca with nothing selected": 2,
    "chosen on a clean pass": 2 + 2,
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_an_update_waits_no_oftener_than_its_forward_passes(name, gpu, monkeypatch):
    """transformers asks up to three times whether a mask hides anything; the loss scale waits too, but not here."""
    gpu(9, 0)
    make, data, passes = METHODS[name]
    (net, batches), counted, update = data(), [], _Loop._update

    def counting(loop: _Loop) -> None:
        before = report()["stops"]
        update(loop)
        counted.append(report()["stops"] - before)

    monkeypatch.setattr(_Loop, "_update", counting)
    fit(net, make(), batches, recipe(updates=3, accumulation=1, log_every=9, precision="auto"))
    inputs = {key: value.cuda() for key, value in batches.batch(0, 0).items() if key in MODEL_INPUTS}
    before = report()["stops"]
    net(**inputs)
    bare = report()["stops"] - before
    assert bare == (3 if data is translation else 1)
    first, second = passes if isinstance(passes, tuple) else (passes, passes)
    more = BESIDES.get(name, 0)
    assert counted[:2] == [first * bare + more, second * bare + more]  # the third is written down
