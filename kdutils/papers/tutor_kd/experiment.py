"""Tutor-KD's experiment: settings with their sources, the arms, what the students know and how they do downstream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import ElectraForMaskedLM, ElectraForPreTraining, PreTrainedModel

from kdutils.core.errors import UserError
from kdutils.core.machine import device
from kdutils.core.settings import Setting, Settings
from kdutils.models.build import load_config, loading
from kdutils.models.forward import mode
from kdutils.papers.tutor_kd.method import Distillation, PlainKD, TutorKD
from kdutils.papers.tutor_kd.objective import modified_teacher_logit
from kdutils.papers.tutor_kd.student import judging_student, predicting_student, student_config
from kdutils.study import exams, kept, running
from kdutils.study.experiment import Arm, Experiment, Trial, plain
from kdutils.study.teachers import teacher_of, teacher_shape
from kdutils.tasks.base import Task
from kdutils.tasks.masked_lm import MaskedLM, bed
from kdutils.tasks.truth import QUESTIONS, Question, predictions, questions, truth_table
from kdutils.training.checkpoints import check_weights
from kdutils.training.loop import Recipe
from kdutils.training.method import Method

CODE, UNREAD = "official code", "paper unread"
SETTINGS = MaskedLM.settings_table.extended(
    Setting("student_layers", 2, 6, 6, "layers of the student; a number that divides the teacher's",
            "result tables: 6 of 12; also 12 and 2"),
    Setting("student_width", 0, 0, 0, "size of its hidden states; 0: the teacher's",
            f"{CODE}, configs: 768, or 264 for the very small ones"),
    Setting("student_embedding", 0, 0, 0, "size of its embeddings, which are projected; 0: of its hidden states",
            f"{CODE}, configs: 768, or 132 beside 264", bounds=(0, 16_384)),
    Setting("student_feedforward", 0, 0, 0, "its feed-forward size; 0: as many widths as the teacher's",
            f"{CODE}, configs: 3072, or 1056 beside 264"),
    Setting("representation_weight", 0.5, 0.5, 0.5, "of L_att + L_hidden",
            f"{UNREAD}; {CODE}, distillation.py 126: 0.5"),
    Setting("logit_weight", 25.0, 25.0, 25.0, "of the loss of the student's head",
            f"{UNREAD}; {CODE}, distillation.py 127: 25"),
    Setting("policy_weight", 1.0, 1.0, 1.0, "of the policy gradient", f"{UNREAD}; {CODE}, distillation.py 128: 1"),
    Setting("tutor_weight", 1.0, 1.0, 1.0, "of the tutor's KL to the teacher",
            f"{UNREAD}; {CODE}, distillation.py 129: 1"),
    Setting("steps", "joint", "joint", "joint", "tutor and student in each update, or alternating: in every other one",
            f"summary: a maximisation and a minimisation; {CODE}, distillation.py 224: joint"),
    Setting("reward_baseline", 0.0, 0.0, 0.0, "share that a running mean of the reward keeps at an update, which is "
            "subtracted from it; 0: nothing is", f"{CODE}: none", bounds=(0.0, 0.9999)),
    Setting("inverted_mask", False, False, False, "the encoders attend to the padding, where there is some",
            f"{CODE}, distillation.py 170: true, a mistake; here false"),
    *exams.SETTINGS,
    **bed(
        data={"source": "result tables: English Wikipedia and Toronto BookCorpus; here without the latter"},
        train_rows={"study": 24_000},  # what the updates read once
        model={"source": "result tables: BERT-base"},
        teacher_updates={"source": "none"},
        teacher_learning_rate={"source": "none"},
        max_tokens={"paper": 16_640, "source": f"{CODE}: 128 rows of up to 130 tokens"},
        mask_probability={"source": f"{CODE}, dataloader.py 20: 0.15"},
        **{name: {"source": "given by the model"} for name in ("width", "layers", "heads", "feedforward")},
    ),
    max_length={"small": 48, "paper": 130, "source": f"{CODE}, dataloader.py: 128 and two special tokens"},
    updates={"demo": 50, "grammar": 1200, "small": 600, "study": 600, "paper": 1_000_000,
             "source": f"{CODE}: 1,000,000"},
    learning_rate={"demo": 4e-3, "grammar": 2e-3, "study": 5e-4, "paper": 5e-4, "source": f"{CODE}: 5e-4"},
    warmup={"demo": 5, "grammar": 120, "small": 60, "study": 50, "paper": 10_000, "source": f"{CODE}: 10,000"},
    schedule={"source": f"{CODE}, __main__module.py 175: linear"},
    weight_decay={"demo": 0.01, "study": 0.01, "paper": 0.01, "source": f"{CODE}: 0.01"},
    clip={"demo": 1.0, "study": 1.0, "paper": 0.0, "source": f"{CODE}: none"},
    dropout={"source": f"{CODE}, configs: 0.1"},
    accumulation={"source": f"{CODE}: one batch of 128 rows"},
    eval_every={"demo": 10, "grammar": 200, "small": 100, "study": 150},
    log_every={"demo": 5, "grammar": 50},
    downstream_rows={"demo": 100, "grammar": 800, "small": 3000},
    downstream_test_rows={"demo": 100, "grammar": 1500},
    downstream_epochs={"demo": 1, "grammar": 4, "small": 8},
    downstream_seeds={"grammar": 3, "small": 1},
    downstream={"small": ["hub:clinc/clinc_oos/plus"],
                "source": "result tables: GLUE dev; here without STS-B, a regression"},
)  # fmt: skip


class Tutoring(MaskedLM):
    """Masked language modelling under a teacher, whose student may judge the words of a text instead."""

    headline = "exam_macro"

    def recipe(self, **changes) -> Recipe:
        """As the settings say, with the official code's betas of AdamW."""
        return super().recipe(**{"betas": (0.9, 0.999), **changes})

    def check(self, seed: int) -> None:
        super().check(seed)
        shape_of(self, self.model(seed))
        exams.check(self.settings)

    def truth(self, model: PreTrainedModel, split: str) -> dict[str, float]:
        """Of the demo corpus, how far what a model says of words is from what the grammar says: see `judged_scores`."""
        known = super().truth(model, split) if model.get_output_embeddings() is not None else {}
        if self.settings.data != "demo":
            return known
        if split not in self._questions:
            rows, longest = self.corpus.splits[split], self.settings.max_length
            self._questions[split] = questions(rows, self.tokenizer, self.settings.language, QUESTIONS, longest=longest)
        asked = self._questions[split]
        words = [one.words[one.hidden].rstrip(".,") for one in asked]
        original = [self.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words]
        return known | judged_scores(model, asked, torch.tensor(original))

    def _scores(self, model: PreTrainedModel, split: str) -> dict[str, float]:
        """Of a student that judges there is no loss of predicted words: its method says how it is doing."""
        return super()._scores(model, split) if model.get_output_embeddings() is not None else {}


def shape_of(task: Task, teacher: PreTrainedModel):
    """The configuration of the student under this teacher."""
    s = task.settings
    return student_config(
        teacher.config, s.student_layers, s.student_width, s.student_embedding, s.student_feedforward, s.dropout
    )


def teacher(trial: Trial) -> PreTrainedModel:
    """The teacher of all students, from a folder, the hub, or pre-trained here; as an arm it only sits the exams."""
    return teacher_of(trial.task, trial.runs, trial.until)


def judges(trial: Trial) -> ElectraForPreTraining:
    """A student with random weights that judges the words of a text."""
    return judging_student(shape_of(trial.task, teacher(trial)), trial.seed)


def predicts(trial: Trial) -> ElectraForMaskedLM:
    """A student with the same weights that predicts hidden words."""
    return predicting_student(shape_of(trial.task, teacher(trial)), trial.seed)


def passes(settings: Settings, kind: str) -> float:
    """What an update costs in updates of the masked LM alone, counted in matrix products; kind: "kd" or "tutor_kd".

    A trained network is passed three times (forward, and backward by inputs and by weights), a frozen one once. Both
    project chosen positions onto the vocabulary; Tutor-KD has a second pass of the teacher, and a tutor, but no
    vocabulary head on the student.
    """
    s, (layers, size, inner, words) = settings, teacher_shape(settings)
    width = s.student_width or size
    feedforward = s.student_feedforward or width * inner // size
    asked = s.mask_probability * words
    student = 3 * s.student_layers * (4 * width**2 + 2 * width * feedforward)
    predicted = 3 * asked * (s.student_embedding or width)
    teacher_once = layers * (4 * size**2 + 2 * size * inner) + asked * size
    step = {"kd": student + predicted + teacher_once, "tutor_kd": student + 2 * teacher_once + 3 * asked * size}[kind]
    return step / (student + predicted)


def weights(settings: Settings) -> tuple[float, ...]:
    return tuple(settings[f"{name}_weight"] for name in ("representation", "logit", "policy", "tutor"))


def kd(settings: Settings) -> PlainKD:
    """Distillation on the masked text, as the settings describe it."""
    return PlainKD(weights(settings), inverted_mask=settings.inverted_mask, passes=passes(settings, "kd"))


def tutored(**changes) -> Callable[[Settings], TutorKD]:
    """Makes Tutor-KD from the settings, except for what is given: `tutored(tutor_weight=0.0)`."""

    def method(settings: Settings) -> TutorKD:
        own = {name: value for name, value in changes.items() if name not in settings}
        s = settings.changed(**{name: value for name, value in changes.items() if name in settings})
        options = {"steps": s.steps, "baseline": s.reward_baseline, "inverted_mask": s.inverted_mask, **own}
        return TutorKD(weights(s), passes=passes(s, "tutor_kd"), **options)

    return method


def equal_compute(kind: str) -> Callable[[Settings], dict[str, int]]:
    """The recipe of an arm of this `kind` that may compute as much as Tutor-KD does."""

    def recipe(settings: Settings) -> dict[str, int]:
        own = passes(settings, kind) if kind in ("kd", "tutor_kd") else 1.0
        return {"updates": round(settings.updates * passes(settings, "tutor_kd") / own)}

    return recipe


def arm(name: str, label: str, method: Callable[[Settings], Method], start=judges, optional=True, **options) -> Arm:
    """A student that learns from the teacher; an ablation unless said otherwise."""
    return Arm(name, label, method, start=start, teacher=teacher, optional=optional, **options)


ARMS = (
    Arm("teacher", "teacher", plain, lambda settings: {"updates": 0}, start=teacher),
    Arm("baseline", "masked LM only", plain, start=predicts),
    Arm("baseline_compute", "masked LM only, equal compute", plain, equal_compute("plain"), start=predicts,
        optional=True),
    arm("kd", "KD on random masks", kd, predicts, optional=False),
    arm("kd_compute", "KD, equal compute", kd, predicts, recipe=equal_compute("kd")),
    arm("tutor_kd", "Tutor-KD", tutored(), optional=False),
    arm("sampled", "the teacher's samples", tutored(sampler="teacher"), optional=False),
    arm("argmax", "the teacher's likeliest word", tutored(sampler="argmax")),
    arm("random", "random words", tutored(sampler="random")),
    arm("no_teacher_reward", "without teacher reward", tutored(rewards=(0.0, 1.0))),
    arm("no_student_reward", "without student reward", tutored(rewards=(1.0, 0.0))),
    arm("plain_logit", "tutor, plain logits", tutored(logits="plain"), predicts),
    arm("no_tutor_kl", "without the tutor's KL", tutored(tutor_weight=0.0)),
    arm("kl_only", "tutor by its KL alone", tutored(policy_weight=0.0)),
    arm("no_attention", "without attention loss", tutored(attention=False)),
    arm("alternating", "alternating steps", tutored(steps="alternating")),
    arm("running_mean", "reward minus its running mean", tutored(baseline=0.99)),
)  # fmt: skip


@torch.no_grad()
def judged_scores(model: PreTrainedModel, asked: Sequence[Question], original: Tensor) -> dict[str, float]:
    """How far a model's judgement of a written word is from the grammar's: mean |a* - a|, 0 to 1, dropout off.

    original (Q,): the words that are hidden. a* = min(1, P(x') / P(x)) by the true distribution of the hidden word.
    Each question is asked with a word x' drawn from that distribution (judged_possible) and with any of the vocabulary
    (judged_random); judged_error is the mean of both. A model that predicts gives a from its own distribution of the
    hidden word, one that judges from sigmoid(o) of the written one.
    """
    log_truth, draw = truth_table(asked, model.config.vocab_size).log(), torch.Generator().manual_seed(0)
    possible = log_truth.exp().multinomial(1, generator=draw)[:, 0]
    anything = torch.randint(model.config.vocab_size, original.shape, generator=draw)
    apart = {}
    for name, written in (("possible", possible), ("random", anything)):
        # a*, a: (Q,)
        right = modified_teacher_logit(log_truth, original, written)
        if model.get_output_embeddings() is None:
            found = _judgements(model, asked, written)
        else:
            found = modified_teacher_logit(predictions(model, asked), original, written)
        apart[f"judged_{name}"] = float((right - found).abs().mean())
    return {**apart, "judged_error": sum(apart.values()) / len(apart)}


def _judgements(model: PreTrainedModel, asked: Sequence[Question], written: Tensor) -> Tensor:
    """sigmoid(o) of the words (Q,) that are written in the gaps: (Q,) on the CPU."""
    longest = max(len(one.ids) for one in asked)
    pad, rows = model.config.pad_token_id or 0, torch.arange(len(asked))
    ids = torch.tensor([[*one.ids, *[pad] * (longest - len(one.ids))] for one in asked])
    content = torch.tensor([[1] * len(one.ids) + [0] * (longest - len(one.ids)) for one in asked])
    places = torch.tensor([one.position for one in asked])
    ids[rows, places] = written
    with mode(model, training=False):
        said = model(input_ids=ids.to(model.device), attention_mask=content.to(model.device)).logits
    return said.float().cpu()[rows, places].sigmoid()


def extra_scores(task: Task, model: PreTrainedModel) -> dict[str, float]:
    """How far the model is from the truth about hidden words, where the truth is known."""
    return task.truth(model, "validation")


def exam(trial: Trial, model: PreTrainedModel) -> dict[str, float]:
    """Downstream scores: a classifier is fine-tuned from the encoder, whatever its head was."""
    return exams.examine(trial.folder / "model", trial.settings, trial.seed, trial.folder, until=trial.until)


def trained(
    experiment: Experiment, task: Tutoring, arm: str, seed: int = 1, runs: str | Path = "runs"
) -> tuple[PreTrainedModel, Distillation]:
    """The student of a finished arm, as plain transformers loads it, and its method with teacher, tutor and projection.

    All in evaluation mode, on the device. Raises UserError where the arm is not finished, or its weights are damaged.
    """
    arm_folder = running.folder(experiment, task.settings, runs) / f"seed-{seed}" / experiment.arm(arm).name
    found = kept.result(arm_folder)
    if found is None:
        raise UserError(
            f"There is no finished model in {arm_folder / 'model'}: run the experiment for seed {seed} first."
        )
    check_weights(arm_folder, found["weights"])
    name = str(arm_folder / "model")
    with loading("model", name):
        loader = ElectraForPreTraining if "ForPreTraining" in load_config(name).architectures[0] else ElectraForMaskedLM
        student = loader.from_pretrained(name, use_safetensors=True).to(device()).eval()
    method = experiment.arm(arm).method(task.settings)
    method.teacher = teacher_of(task, runs).to(device()).eval().requires_grad_(False)
    with torch.random.fork_rng():
        method.attach(student)
    kept.load_beside(arm_folder, method.modules())
    method.networks.eval()
    return student, method


EXPERIMENTS = (Experiment("tutor_kd", Tutoring, SETTINGS, ARMS, extra_scores, exam),)
