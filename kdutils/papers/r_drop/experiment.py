"""R-Drop's experiments: translation and classification, settings with their sources, arms."""

from __future__ import annotations

from transformers import PreTrainedModel

from kdutils.core.settings import Setting, Settings
from kdutils.papers.r_drop.method import RDrop
from kdutils.study.experiment import Arm, Experiment, plain
from kdutils.tasks.base import Task
from kdutils.tasks.classification import Classification
from kdutils.tasks.scores import dropout_scores
from kdutils.tasks.translation import Translation

SCRIPT = "script/run_train.sh of the official code"
GLUE = "Hugging Face README of the official code"

TRANSLATION = Translation.settings_table.extended(
    Setting("alpha", 1.0, 5.0, 5.0, "weight of the KL beside the sum of both cross-entropies", "Table 7: the best"),
    Setting("k", 1, 1, 1, "the second pass is taken at every k-th update", "Figure 3: 1 is best"),
    Setting("m", 2, 2, 2, "passes that must agree", "m = 3 gives 37.30 against 37.25 BLEU, as quoted in a review"),
    m={"bounds": (2, 64)},
    data={"paper": "hub:bbaaaa/iwslt14-de-en@refs/convert/parquet", "source": "IWSLT14 De-En"},
    vocab_size={"paper": 10_000, "source": "run_binarize.sh: joint BPE of 10,000"},
    dropout={"study": 0.3, "paper": 0.3, "source": f"{SCRIPT}: 0.3"},
    updates={"study": 3000, "source": f"{SCRIPT}: up to 300k"},  # 26 passes: it overfits; three arms fit a T4's time
    learning_rate={"source": f"{SCRIPT}: 5e-4"},
    warmup={"study": 500, "source": f"{SCRIPT}: 4000"},  # a sixth of the updates
    weight_decay={"source": f"{SCRIPT}: 1e-4 (added to the gradient there, decoupled here)"},
    max_tokens={"source": f"{SCRIPT}: 4096, counted before doubling"},
    label_smoothing={"source": f"{SCRIPT}: 0.1"},
    smoothing_convention={"source": "reg_label_smooth_cross_entropy.py: epsilon/V"},
    width={"source": "transformer_iwslt_de_en: 512"},
    heads={"source": "transformer_iwslt_de_en: 4"},
    feedforward={"source": "transformer_iwslt_de_en: 1024"},
    schedule={"source": f"{SCRIPT}: inverse square root"},
    clip={"source": f"{SCRIPT}: none"},
    max_length={"source": "prepare-iwslt14.sh: 175"},
    precision={"source": f"{SCRIPT}: fp16; here by the device"},
    layers={"source": "transformer_iwslt_de_en: 6 + 6"},
    beams={"source": "run_inference.sh: 5"},
)
CLASSIFICATION = Classification.settings_table.extended(
    Setting(
        "alpha",
        1.0,
        1.0,
        16.0,
        "weight of the KL beside the sum of both cross-entropies",
        "modeling_bert.py: 0.5 on a sum over 32 rows, in units of Eq. 4; the paper's own values were not seen",
    ),
    Setting("k", 1, 1, 1, "the second pass is taken at every k-th update", "no value seen in the paper"),
    Setting("m", 2, 2, 2, "passes that must agree", "no value seen in the paper"),
    m={"bounds": (2, 64)},
    data={"paper": "hub:nyu-mll/glue/sst2", "source": "SST-2 of GLUE, Table 3"},
    model={"source": "bert_rdrop/run.sh"},
    **{name: {"source": "given by the model"} for name in ("width", "layers", "heads", "feedforward")},
    learning_rate={"study": 2e-5, "paper": 1e-5, "source": f"{GLUE}: 1e-5"},
    schedule={"study": "linear", "paper": "linear", "source": f"{GLUE}: polynomial decay"},
    train_rows={"study": 10_000},  # few enough to be read three times
    eval_every={"study": 250},
    updates={"study": 1000, "paper": 20_935, "source": f"{GLUE}: SST-2"},
    warmup={"study": 60, "paper": 1256, "source": f"{GLUE}: SST-2"},
    weight_decay={"study": 0.01, "paper": 0.01, "source": f"{GLUE}: 0.01"},
    batch_size={"source": f"{GLUE}: 32"},
    dropout={"source": f"{GLUE}: 0.1"},
)


def doubled(settings: Settings) -> dict[str, int]:
    """The recipe of a baseline that may compute as much as R-Drop: a plain update costs one pass, ours two."""
    return {"updates": 2 * settings.updates}


def r_drop(settings: Settings) -> RDrop:
    """R-Drop as the settings describe it."""
    return RDrop(settings.alpha, settings.k, settings.m, settings.label_smoothing, settings.smoothing_convention)


ARMS = (
    Arm("baseline", "baseline", plain),
    Arm("baseline_2x", "baseline, twice the updates", plain, doubled),
    Arm("r_drop", "R-Drop", r_drop),
)
SCORED_ROWS = 100  # rows: the dropout scores take three passes over them


def extra_scores(task: Task, model: PreTrainedModel) -> dict[str, float]:
    """What dropout does to a model: kl between two passes (validation), the gap of Proposition 2.1, train loss."""
    held_out = dropout_scores(model, task.fixed_batches("validation", SCORED_ROWS))
    seen = dropout_scores(model, task.fixed_batches("train", SCORED_ROWS))
    return {
        "kl": held_out["kl"],
        "dropout_gap": abs(held_out["train_mode_loss"] - held_out["eval_mode_loss"]),
        "train_loss": seen["train_mode_loss"],  # dropout on, one pass: the claim's "training cross-entropy"
    }


EXPERIMENTS = (
    Experiment("r_drop", Translation, TRANSLATION, ARMS, extra_scores),
    Experiment("r_drop", Classification, CLASSIFICATION, ARMS, extra_scores),
)
