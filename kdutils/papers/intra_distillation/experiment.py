"""Intra-Distillation's experiments: translation, classification, regression; settings, sources, arms, the exam."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from kdutils.core.settings import Setting, Settings, Table
from kdutils.losses.divergences import js_divergence, x_divergence
from kdutils.models.forward import counted_logits, mode
from kdutils.papers.intra_distillation.method import IntraDistillation, IntraDistillationRegression
from kdutils.papers.intra_distillation.objective import fair_alpha
from kdutils.papers.intra_distillation.sensitivity import balance, mean_loss, parameter_sensitivity, pruning_curve
from kdutils.study.experiment import Arm, Experiment, Trial, plain
from kdutils.tasks.base import Task
from kdutils.tasks.classification import Classification
from kdutils.tasks.regression import Regression
from kdutils.tasks.scores import dropout_scores, paired_bootstrap
from kdutils.tasks.translation import Translation, translations
from kdutils.training.checkpoints import seeded
from kdutils.training.method import SquaredError

TRAIN = "scripts/train.sh of the official code"
PREPARE = "scripts/preprocess_iwslt14.sh of the official code"
LOG = "training log of an independent rerun of the official code"
GLUE = "run.sh of the official code"

PASSES = (
    Setting("passes", 3, 3, 3, "K: passes that must agree", f"{TRAIN} and run.sh: 3; the code's default is 2"),
    Setting("divergence", "x", "x", "x", "how they are compared: x, js, or pairs, which is x computed pair by pair",
            "the code's default, X"),
    Setting("passes_form", "together", "together", "together", "together: one batch of K copies; recomputed: one pass "
            "in memory, for a third more time", "one after another there, all remembered"),
)  # fmt: skip
BOUNDS = {"passes": {"bounds": (2, 64)}}
TRANSLATION = Translation.settings_table.extended(
    Setting("alpha", 0.5, 5.0, 5.0, "weight of the divergence beside the mean cross-entropy", f"{TRAIN}: 5"),
    Setting("r_drop_alpha", 1.0, 5.0, 5.0, "alpha of the arms that have a constant one", "R-Drop, Table 7: the best"),
    Setting("adaptive", True, True, True, "alpha grows over the first updates", f"{TRAIN}: 1; the code's default is 0"),
    Setting("p", 5.0, 5.0, 5.0, "alpha is reached after 1/p of the updates", f"{TRAIN}: 5; the code's default is 2"),
    Setting("q", 10.0, 10.0, 10.0, "the weight is 1 after 1/q of the updates", f"{TRAIN}: 10; the code's default is 5"),
    *PASSES,
    **BOUNDS,
    data={"paper": "hub:bbaaaa/iwslt14-de-en@refs/convert/parquet", "source": "IWSLT14, eight languages into English"},
    vocab_size={"paper": 12_000, "source": f"{PREPARE}: joint SentencePiece of 12,000"},
    dropout={"study": 0.3, "paper": 0.3, "source": f"{TRAIN}: 0.3, and 0.1 in the attention"},
    # on the GPU as R-Drop; live fewer than the bed's 900: three passes an update
    updates={"demo": 600, "study": 3000, "paper": 50_000, "source": f"{TRAIN}: 50,000"},
    eval_every={"paper": 0, "source": f"{TRAIN}: once an epoch"},
    patience={"paper": 40, "source": f"{TRAIN}: 40"},
    select_by={"paper": "loss", "source": "fairseq's default"},
    learning_rate={"source": f"{TRAIN}: 5e-4"},
    warmup={"study": 500, "paper": 8000, "source": f"{TRAIN}: 8000"},
    weight_decay={"source": f"{TRAIN}: 1e-4 (added to the gradient there, decoupled here)"},
    max_tokens={"source": f"{TRAIN}: 4096, counted before the K passes"},
    label_smoothing={"source": f"{TRAIN}: 0.1"},
    smoothing_convention={"paper": "others", "source": "stock fairseq criterion: epsilon/(V-1)"},
    width={"source": f"{LOG}: 512; embeddings are not tied there"},
    heads={"source": f"{LOG}: 4"},
    feedforward={"source": f"{LOG}: 1024"},
    layers={"source": f"{LOG}: 6 + 6"},
    schedule={"source": f"{TRAIN}: inverse square root"},
    clip={"source": f"{TRAIN}: none"},
    max_length={"source": f"{PREPARE}: 175"},
    precision={"source": f"{TRAIN}: fp16; here by the device"},
    beams={"source": "inference.sh of the official code: 5"},
)  # fmt: skip
CLASSIFICATION = Classification.settings_table.extended(
    Setting("alpha", 1.0, 1.0, 16.0, "weight of the divergence beside the mean cross-entropy",
            f"{GLUE}, QQP: 0.5 on a sum over 32 rows, here a mean; other tasks' values were not seen"),
    Setting("r_drop_alpha", 1.0, 1.0, 16.0, "alpha of the arms that have a constant one", "as alpha"),
    Setting("adaptive", False, False, False, "alpha grows over the first updates",
            f"{GLUE}: always, which changes nothing for its alpha of 0.5"),
    Setting("p", 6.67, 6.67, 6.67, "alpha is reached after 1/p of the updates", f"{GLUE}, QQP: 6.67"),
    Setting("q", 10.0, 10.0, 10.0, "the weight is 1 after 1/q of the updates", f"{GLUE}, QQP: 10"),
    *PASSES,
    **BOUNDS,
    data={"paper": "hub:nyu-mll/glue/qqp", "source": f"{GLUE}: QQP, one of eight tasks of GLUE"},
    model={"paper": "bert-base-uncased", "source": f"{GLUE}: bert-base-uncased"},
    **{name: {"source": "given by the model"} for name in ("width", "layers", "heads", "feedforward")},
    max_length={"source": f"{GLUE}: 128"},
    learning_rate={"study": 2e-5, "paper": 2e-4, "source": f"{GLUE}: 2e-4, with Adamax; here AdamW"},
    schedule={"study": "linear", "paper": "linear", "source": "run_glue_no_trainer.py: linear, its default"},
    train_rows={"study": 10_000},
    updates={"study": 1000, "paper": 227_420, "source": f"{GLUE}: 20 epochs, of QQP 11,371 batches each"},
    warmup={"study": 60, "paper": 0, "source": "run_glue_no_trainer.py: none, its default"},
    eval_every={"study": 250, "paper": 0, "source": "run_glue_no_trainer.py: once an epoch"},
    weight_decay={"study": 0.01, "paper": 0.0, "source": "run_glue_no_trainer.py: 0, its default"},
    batch_size={"source": f"{GLUE}: 32"},
    dropout={"source": "the model's own: 0.1"},
    select_by={"paper": "f1", "source": "run_glue_no_trainer.py: the best by the task's metric, of QQP F1"},
)  # fmt: skip
# As the classification, for all of GLUE is trained alike; but scores are no classes: their distance is a variance.
OF_CLASSES = ("divergence", "label_smoothing", "smoothing_convention")
REGRESSION = Table(*(s for s in CLASSIFICATION.settings.values() if s.name not in OF_CLASSES)).extended(
    *(Regression.settings_table.settings[name] for name in ("data", "select_by")),
    Setting("alpha", 1.0, 1.0, 0.5, "weight of the variance of the passes beside the mean squared error",
            f"{GLUE}, QQP: 0.5; that of STS-B was not seen. Both terms are means in its code too"),
    Setting("r_drop_alpha", 1.0, 1.0, 2.0, "alpha of the arms that have a constant one",
            "R-Drop's code: a squared difference of weight 1, which is 2 here"),
    data={"source": f"{GLUE}: STS-B, one of eight tasks of GLUE"},
    train_rows={"study": 2000},  # read three times: with the other two tasks it fits a T4's time
    updates={"study": 190, "paper": 3600, "source": f"{GLUE}: 20 epochs, of STS-B 180 batches each"},
    warmup={"study": 19},
    eval_every={"study": 38},
    select_by={"source": "run_glue_no_trainer.py: the best by the task's metric, of STS-B Pearson's correlation"},
)  # fmt: skip


def distilled(**changes: Any) -> Callable[[Settings], IntraDistillation]:
    """Makes the method of an arm from the settings; `changes` to what they say, of which some follow from them."""

    def method(s: Settings) -> IntraDistillation:
        own = {name: s[name] for name in ("alpha", "passes", "p", "q", "adaptive", "divergence") if name in s}
        own |= {name: value(s) if callable(value) else value for name, value in changes.items()}
        if "divergence" not in s:
            return IntraDistillationRegression(**own, form=s.passes_form)
        return IntraDistillation(
            **own, form=s.passes_form, epsilon=s.label_smoothing, convention=s.smoothing_convention
        )

    return method


def constant(**changes: Any) -> Callable[[Settings], IntraDistillation]:
    """A method with the constant alpha that R-Drop has here."""
    return distilled(**{"adaptive": False, "divergence": "x", "alpha": lambda s: s.r_drop_alpha, **changes})


# K = 2 at a constant alpha is half of R-Drop's Eq. 4. Doubled it is R-Drop to the last bit: Adam's epsilon and clipping
# do see a constant factor.
as_r_drop = constant(passes=2, scale=2.0)


def updates_times(share: Callable[[Settings], float]) -> Callable[[Settings], dict[str, int]]:
    """The recipe of an arm that may compute as much as another: `share` times the updates."""
    return lambda settings: {"updates": round(share(settings) * settings.updates)}


ARMS = (
    Arm("baseline", "baseline", plain),
    Arm("baseline_compute", "baseline, equal compute", plain, updates_times(lambda s: s.passes), optional=True),
    Arm("r_drop_like", "two passes, constant alpha (R-Drop)", as_r_drop),
    Arm("intra_distillation_compute", "Intra-Distillation, R-Drop's compute", distilled(),
        updates_times(lambda s: 2 / s.passes), optional=True),
    Arm("intra_distillation", "Intra-Distillation", distilled()),
    Arm("constant", "K passes, constant alpha", constant(), optional=True),
    Arm("fair", "K passes, alpha as strong as of two", constant(alpha=lambda s: fair_alpha(s.r_drop_alpha, s.passes)),
        optional=True),
)  # fmt: skip
SCORED = (
    Arm("baseline", "baseline", lambda s: SquaredError()),
    *(arm for arm in ARMS if arm.name in ("r_drop_like", "intra_distillation_compute", "intra_distillation")),
)
SCORED_ROWS = 100  # rows: the scores of dropout take several passes over them, the exam six
PRUNED = (0.1, 0.2, 0.3, 0.4, 0.5)  # shares of the parameters


def extra_scores(task: Task, model: PreTrainedModel) -> dict[str, float]:
    """What dropout does to a model, on the first rows of the validation, in nats; train_loss: on those of the training.

    kl: the symmetric KL of two passes, as R-Drop's experiments have it. x and js: the divergences of K passes.
    train_loss: dropout on, one pass.
    """
    return {
        "kl": dropout_scores(model, task.fixed_batches("validation", SCORED_ROWS))["kl"],
        **divergence_scores(task, model),
        "train_loss": dropout_scores(model, task.fixed_batches("train", SCORED_ROWS))["train_mode_loss"],
    }


@torch.no_grad()
def divergence_scores(task: Task, model: PreTrainedModel) -> dict[str, float]:
    """x and js of K passes with dropout, means over the targets of the first rows of the validation."""
    totals, count = torch.zeros(2, dtype=torch.float64), 0
    with seeded(0), mode(model, training=True):
        for batch in task.fixed_batches("validation", SCORED_ROWS):
            batch = {name: one.to(model.device) if torch.is_tensor(one) else one for name, one in batch.items()}
            logits = counted_logits(model, batch, task.settings.passes)
            sums = [divergence(logits, reduction="sum") for divergence in (x_divergence, js_divergence)]
            totals += torch.stack(sums).double().cpu()
            count += len(batch["targets"])
    return dict(zip(("x", "js"), (totals / max(count, 1)).tolist(), strict=True))


@torch.no_grad()
def variance_scores(task: Task, model: PreTrainedModel) -> dict[str, float]:
    """The variance of the scores of K passes with dropout, mean over the first rows of the validation."""
    total = count = 0.0
    with seeded(0), mode(model, training=True):
        for batch in task.fixed_batches("validation", SCORED_ROWS):
            batch = {name: one.to(model.device) if torch.is_tensor(one) else one for name, one in batch.items()}
            scores = counted_logits(model, batch, task.settings.passes)[..., 0]
            total += float(scores.double().cpu().var(0, correction=0).sum())
            count += len(batch["targets"])
    return {"variance": total / max(count, 1)}


def exam(trial: Trial, model: PreTrainedModel) -> dict[str, float]:
    """How evenly the parameters contribute, and what the model loses without the least of them.

    sensitivity_...: of `balance`, on the first rows of the validation; sensitivity_by_loss: the raw spread over the
    loss there. pruned_10 to pruned_50: by how much that loss grows without so many percent of the parameters, in nats.
    bootstrap_p: how easily other test sentences would turn the difference in BLEU to R-Drop's translations around.
    """
    batches = list(trial.task.fixed_batches("validation", SCORED_ROWS))
    sensitivity, whole = parameter_sensitivity(model, batches), mean_loss(model, batches)
    found = balance(sensitivity)
    curve = pruning_curve(model, sensitivity, PRUNED, lambda net: mean_loss(net, batches))
    return {
        **{f"sensitivity_{name}": number for name, number in found.items()},
        "sensitivity_by_loss": found["std"] / whole,
        **{f"pruned_{100 * share:.0f}": loss - whole for share, loss in curve.items()},
        **_against_r_drop(trial),
    }


def _against_r_drop(trial: Trial) -> dict[str, float]:
    """sacreBLEU's paired bootstrap against the translations of the seed's R-Drop, where it was trained before."""
    other = trial.folder.parent / "r_drop_like"
    if trial.arm.startswith(("baseline", "r_drop")) or not (other / "translations.jsonl").exists():
        return {}
    ours, theirs = translations(trial.folder), translations(other)
    sides = [[row["translation"] for row in rows] for rows in (ours, theirs)]
    found = paired_bootstrap(*sides, [row["tgt"] for row in ours], trial.task.corpus.languages[1])
    return {"bootstrap_p": found["p"]}


EXPERIMENTS = (
    Experiment("intra_distillation", Translation, TRANSLATION, ARMS, extra_scores, exam),
    # an alpha that does not grow is constant already; no exam: an encoder has a hundred million parameters to be ranked
    Experiment(
        "intra_distillation", Classification, CLASSIFICATION, tuple(a for a in ARMS if a.name != "constant"),
        extra_scores,
    ),
    Experiment("intra_distillation", Regression, REGRESSION, SCORED, variance_scores),
)  # fmt: skip
