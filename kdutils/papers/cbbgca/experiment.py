"""CBBGCA's experiment: two stages of one budget, and all that its second stage is compared with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from kdutils.core.errors import UserError
from kdutils.core.files import digest
from kdutils.core.machine import device, provenance
from kdutils.core.settings import Setting, Settings
from kdutils.data.batches import EOS
from kdutils.losses.divergences import label_smoothed_nll
from kdutils.models.forward import counted_logits, mode
from kdutils.papers.cbbgca.cmlm import CMLM
from kdutils.papers.cbbgca.method import CBBGCA, JointTraining, joint_passes, teacher_scores
from kdutils.study import kept
from kdutils.study.experiment import Arm, Experiment, Trial, plain
from kdutils.tasks.base import Task
from kdutils.tasks.translation import Translation
from kdutils.training.loop import evaluation_context

SETUP, APPENDIX = "Section 3.2 and 3.3", "Appendix B"
NOT_GIVEN = "not given"

SETTINGS = Translation.settings_table.extended(
    Setting("joint_weight", 0.7, 0.7, 0.7, "lambda: weight of the translator in stage 1, its teacher has the rest",
            f"{SETUP}: 0.7, chosen on the dev set from 0.5 to 1", bounds=(0.0, 1.0)),
    Setting("threshold", 0.1, 0.2, 0.2, "epsilon: a word is distilled that the translator gives at most this",
            f"{SETUP}: 0.2, chosen on the dev set from 0 to 0.3", bounds=(0.0, 1.0)),
    Setting("stage_1_share", 2 / 3, 2 / 3, 2 / 3, "of the updates; the rest are stage 2",
            f"{SETUP}: 200,000 of 300,000", bounds=(0.0, 1.0)),
    Setting("kd_schedule", "linear", "linear", "linear", "alpha in stage 2: linear from 1 to 0, or constant",
            "Section 2.3: linear"),
    Setting("constant_alpha", 0.5, 0.5, 0.5, "of the arm whose alpha is constant: the mean of the linear one",
            "not tested there", bounds=(0.0, 1.0)),
    Setting("selection_pass", "training", "training", "training", "words are chosen on the training pass, with its "
            "dropout, or on a clean one", "paper silent"),
    data={"paper": "hub:wmt/wmt14/de-en", "source": "Appendix A: WMT14 En-De, 4.5 million pairs, and two others"},
    pair={"paper": "en-de", "source": "Appendix A: WMT14 En-De"},
    vocab_size={"paper": 32_000, "source": "Appendix A: joint BPE of about 32,000"},
    max_length={"source": NOT_GIVEN},
    width={"source": f"{SETUP}: Transformer-base, 512"},
    layers={"source": f"{SETUP}: 6 + 6"},
    heads={"paper": 8, "source": f"{SETUP}: 8"},
    feedforward={"paper": 2048, "source": f"{SETUP}: 2048"},
    dropout={"study": 0.3, "paper": 0.1, "source": f"{SETUP}: 0.1"},
    label_smoothing={"source": f"{SETUP}: 0.1"},
    smoothing_convention={"source": NOT_GIVEN},
    max_tokens={"source": f"{SETUP}: about 32,000 a batch"},
    accumulation={"paper": 8, "source": f"{SETUP}: about 32,000 tokens a batch"},
    updates={"study": 3000, "paper": 300_000, "source": f"{SETUP}: 200,000 and 100,000; the baselines 300,000"},
    eval_every={"study": 250, "source": NOT_GIVEN},
    learning_rate={"paper": 7e-4, "source": f"{SETUP}: Vaswani's schedule, which peaks at 7e-4"},
    warmup={"study": 500, "paper": 4000, "source": f"{SETUP}: 4000"},
    schedule={"source": f"{SETUP}: inverse square root"},
    weight_decay={"paper": 0.0, "source": "none is named"},
    clip={"source": "none is named"},
    precision={"source": NOT_GIVEN},
    beams={"source": f"{SETUP}: 5"},
    select_by={"source": NOT_GIVEN},
)  # fmt: skip
# what decides stage 1, beside the texts themselves: arms and runs that differ in other settings start from the same one
DECIDING = (
    "pair", "max_words", "train_rows", "data_seed", "tokenizer", "vocab_size", "max_length", "width", "layers",
    "heads", "feedforward", "dropout", "label_smoothing", "smoothing_convention", "max_tokens", "accumulation",
    "learning_rate", "warmup", "schedule", "weight_decay", "clip", "precision", "joint_weight",
)  # fmt: skip


def stage_1_updates(settings: Settings) -> int:
    """Updates of stage 1, at least one, and at least one is left for stage 2; raises UserError where there is one."""
    if settings.updates < 2:
        raise UserError(
            f"Each of the two stages takes at least one update: choose updates=2 or more, not {settings.updates}."
        )
    return max(1, min(round(settings.stage_1_share * settings.updates), settings.updates - 1))


def joint(settings: Settings, shared: bool = True, rising: bool = False) -> JointTraining:
    """Stage 1 as the settings describe it."""
    s = settings
    method = JointTraining(s.joint_weight, shared, rising, s.threshold, s.label_smoothing, s.smoothing_convention)
    method.passes = joint_passes(s.layers, s.width, s.feedforward, s.vocab_size, shared)  # a plan asks before it trains
    return method


def stage_1(trial: Trial, shared: bool = True) -> Path:
    """The folder of both models of stage 1 (Eq. 8) at the trial's seed; they are trained unless they are there.

    The weights are the last ones: training goes on from them. Raises Paused when the time is over before.
    """
    s, task = trial.settings, trial.task
    decided = {name: s[name] for name in DECIDING if name in s} | _first_stage(s) | {"shared": shared}
    folder = trial.runs / "cbbgca" / f"stage_1-{digest(decided, task.corpus.fingerprint)[:8]}" / f"seed-{trial.seed}"
    kept.once(folder, lambda: _train_stage_1(trial, folder, shared), "stage 1", trial.until)
    return folder


def _train_stage_1(trial: Trial, folder: Path, shared: bool) -> None:
    s, task, method = trial.settings, trial.task, joint(trial.settings, shared)
    model = task.model(trial.seed)
    fitted = kept.train(
        model, method, task.training_batches(trial.seed), task.recipe(**_first_stage(s), patience=0), folder,
        seed=trial.seed, cores=s.threads, identity=folder.parent.name, until=trial.until,
        description=f"stage 1, seed {trial.seed}",
    )  # fmt: skip
    kept.export(folder, model, task.tokenizer, method.modules())
    kept.keep(folder, {"history": fitted.history, "seconds": fitted.seconds, "provenance": provenance()})


def student(shared: bool = True) -> Callable[[Trial], PreTrainedModel]:
    """Makes an arm start from stage 1's translator, with an encoder of its own from now on."""
    return lambda trial: kept.load(stage_1(trial, shared), "translation")


def teacher(shared: bool = True) -> Callable[[Trial], CMLM]:
    """Gives an arm stage 1's masked language model, on a second copy of the encoder: the student's moves on alone."""

    def load(trial: Trial) -> CMLM:
        folder = stage_1(trial, shared)
        cmlm = CMLM(kept.load(folder, "translation"), shared)
        kept.load_beside(folder, {"cmlm": cmlm})
        return cmlm

    return load


def after_stage_1(
    task: Task, seed: int, runs: str | Path = "runs", max_minutes: float = 0.0
) -> tuple[PreTrainedModel, CMLM]:
    """The translator and its teacher as stage 2 finds them, in evaluation mode, on the device; trained if need be.

    max_minutes: stop cleanly after so long (0: never). Raises Paused then.
    """
    until = time.monotonic() + 60 * max_minutes if max_minutes else None
    trial = Trial(task, "cbbgca", seed, Path(runs), Path(runs), until)
    return student()(trial).to(device()), teacher()(trial).to(device()).eval()


def whole_runs(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with the updates of the second stages counted from the start of the first, for curves."""
    starts = {arm.name for arm in ARMS if arm.recipe is second_stage}

    def placed(record: dict[str, Any], name: str, arm: dict[str, Any]) -> dict[str, Any]:
        behind = stage_1_updates(Settings(record["preset"], record["settings"], {})) if name in starts else 0
        return {**arm, "history": [{**row, "update": row["update"] + behind} for row in arm["history"]]}

    return [{**r, "arms": {name: placed(r, name, arm) for name, arm in r["arms"].items()}} for r in records]


def distilled(**changes: Any) -> Callable[[Settings], CBBGCA]:
    """Makes stage 2 from the settings, with `changes` to what they say; functions of the settings are called."""

    def method(s: Settings) -> CBBGCA:
        changed = {name: value(s) if callable(value) else value for name, value in changes.items()}
        own = {"threshold": s.threshold, "schedule": s.kd_schedule, "selection": s.selection_pass, **changed}
        return CBBGCA(**own, epsilon=s.label_smoothing, convention=s.smoothing_convention)

    return method


def _first_stage(settings: Settings) -> dict[str, int]:
    """The recipe of stage 1: its learning rates are the first of the whole budget."""
    updates = stage_1_updates(settings)
    return {"updates": updates, "ahead": settings.updates - updates}


def second_stage(settings: Settings) -> dict[str, int]:
    """The recipe of stage 2: the updates that stage 1 has left, at the learning rates where it stopped."""
    behind = stage_1_updates(settings)
    return {"updates": settings.updates - behind, "behind": behind}


def _first(s: Settings, shared: bool = True) -> float:
    """What stage 1 costs, in plain updates."""
    return stage_1_updates(s) * joint(s, shared).passes


def equal_compute(settings: Settings) -> dict[str, int]:
    """The recipe of a baseline that may compute as much as both stages do, the teacher on every sentence of stage 2."""
    return {"updates": round(_first(settings) + CBBGCA.passes * second_stage(settings)["updates"])}


def _arm(name: str, label: str, method: Callable[[Settings], Any], optional: bool = True, **more: Any) -> Arm:
    """An arm that goes on from stage 1, which another arm has trained."""
    more = {"start": student(), "teacher": teacher(), "besides": lambda s: {"updates": 0.0}} | more
    return Arm(name, label, method, second_stage, optional=optional, **more)


ARMS = (
    Arm("baseline", "Transformer", plain),
    Arm("baseline_compute", "Transformer, equal compute", plain, equal_compute),
    _arm("cbbgca", "CBBGCA", distilled(), optional=False, besides=lambda s: {"updates": _first(s)}),
    _arm("labels", "stage 2 without a teacher", plain, optional=False, teacher=None),
    _arm("multi", "stage 1 to the end", joint, optional=False),
    _arm("random", "random words, as many", distilled(which="random")),
    _arm("all_at_once", "all words at once", distilled(which="all")),
    _arm("parts", "all words, in five parts", distilled(which="parts")),
    _arm("wrong", "wrong words", distilled(which="wrong")),
    _arm("confident", "confident words", distilled(which="confident")),
    _arm("constant", "constant alpha", distilled(schedule="constant", alpha=lambda s: s.constant_alpha)),
    _arm("mixed", "all labels fade in", distilled(mix="all")),
    _arm("itself", "its own clean pass as teacher", distilled(speaker="itself"), teacher=None),
    _arm("unshared", "two encoders in stage 1", distilled(), start=student(False), teacher=teacher(False),
         besides=lambda s: {"updates": _first(s, False)}),
    Arm("rising", "stage 1 to the end, lambda rising", lambda s: joint(s, rising=True), optional=True),
)  # fmt: skip
SCORED_ROWS = 200  # of the training
BINS = 10  # of Figure 1


def extra_scores(task: Task, model: PreTrainedModel) -> dict[str, float]:
    """train_unconfident: the share of the first training words that the model gives at most epsilon, dropout off."""
    p = word_probabilities(task, model, "train", SCORED_ROWS)
    return {"train_unconfident": float((p <= task.settings.threshold).double().mean())}


def exam(trial: Trial, model: PreTrainedModel) -> dict[str, float]:
    """Table 5: the share of the training words in each tenth of probability, train_p_0 to train_p_9.

    Of CBBGCA itself also what its teacher knew when stage 2 began, by `teacher_scores` on a pass with dropout, as
    start_train_... and start_validation_...; and start_bleu and start_loss of the translator on the validation split.
    """
    with evaluation_context(trial.settings.precision, model):
        p = word_probabilities(trial.task, model, "train", 5 * SCORED_ROWS)
    tenths = torch.histc(p, BINS, 0.0, 1.0) / max(len(p), 1)
    found = {f"train_p_{number}": share for number, share in enumerate(tenths.tolist())}
    if trial.arm not in ("cbbgca", "unshared"):
        return found
    shared, task = trial.arm == "cbbgca", trial.task
    before, cmlm = (load(shared)(trial).to(model.device) for load in (student, teacher))
    with evaluation_context(trial.settings.precision, model):
        start = task.validate(before)
        for split in ("train", "validation"):
            rows = task.fixed_batches(split, 5 * SCORED_ROWS)
            knows = teacher_scores(before, cmlm, rows, trial.settings.threshold, training=True)
            start |= {f"{split}_{name}": score for name, score in knows.items()}
    return found | {f"start_{name}": score for name, score in start.items()}


@torch.no_grad()
def word_probabilities(task: Task, model: PreTrainedModel, split: str, rows: int | None = None) -> torch.Tensor:
    """What the model gives each right word of a split or of its first rows, sentences' ends left out: (n,) on the CPU.

    Under teacher forcing, dropout off.
    """
    found = [torch.zeros(0)]
    with mode(model, training=False):
        for batch in task.fixed_batches(split, rows):
            batch = {name: one.to(model.device) if torch.is_tensor(one) else one for name, one in batch.items()}
            nll = label_smoothed_nll(counted_logits(model, batch), batch["targets"], reduction="none")
            found.append(nll[batch["targets"] != EOS].neg().exp().clamp(max=1.0).float().cpu())  # rounding
    return torch.cat(found)


EXPERIMENTS = (Experiment("cbbgca", Translation, SETTINGS, ARMS, extra_scores, exam),)
