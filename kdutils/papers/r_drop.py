"""R-Drop: two passes with different dropout must agree (Liang, Wu, Li et al., NeurIPS 2021, arXiv:2106.14448).

>>> loss = r_drop_loss(torch.stack([logits_1, logits_2]), targets, alpha=5.0)      # Eq. 4
>>> records = run(EXPERIMENTS[0], resolve(EXPERIMENTS, "demo")["translation"], seeds=[1, 2, 3])
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdutils.claims import (
    Claim,
    from_history,
    paired,
    paired_difference,
    peak_inside,
    sweep_setting,
    trend,
    value,
)
from kdutils.divergences import label_smoothed_nll, nll_formula, symmetric_kl, weighted_sum, x_formula
from kdutils.errors import UserError
from kdutils.evaluation import dropout_scores
from kdutils.experiments import Arm, Experiment
from kdutils.methods import Method, Moment
from kdutils.models import counted_logits
from kdutils.settings import Setting, Settings
from kdutils.tasks import Classification, Task, Translation

TITLE = "R-Drop: Regularized Dropout for Neural Networks"
CITATION = "Liang, Wu, Li, Wang, Meng, Qin, Chen, Zhang, Liu. NeurIPS 2021. arXiv:2106.14448"

# --- the objective -----------------------------------------------------------------------------------------------


def r_drop_loss(
    logits: Tensor,
    targets: Tensor,
    alpha: float = 5.0,
    mask: Tensor | None = None,
    epsilon: float = 0.0,
    convention: str = "uniform",
    reduction: str = "mean",
) -> Tensor:
    """Eq. 4: -log P_1(y) - log P_2(y) + alpha/2 [KL(P_1 || P_2) + KL(P_2 || P_1)], a position.

    logits (2, ..., V): two passes with independent dropout; targets and mask (...). Both cross-entropies count
    in full and the KL is halved once; "mean" divides by the counted positions of one pass, so alpha weighs the
    KL of a position against the sum of its two cross-entropies. Label smoothing (`epsilon`) touches the
    cross-entropies only. Gradients flow through both passes; nothing is detached. This is the form of the paper
    and of the official translation code; the released classification codes weigh the terms differently.

    With M > 2 passes, (M, ..., V), the cross-entropies of all are added and the KL is averaged over the pairs
    and scaled by M/2, so that alpha keeps its strength beside the cross-entropies. The paper tried M = 3;
    its weighting is not known to us, this one is ours. Raises UserError for fewer than two passes.
    """
    passes = logits.shape[0]
    if passes < 2:
        raise UserError(f"R-Drop compares two passes: logits must be (2, ..., V), not {tuple(logits.shape)}.")
    if logits.shape[1:-1] != targets.shape:
        raise UserError(f"Logits {tuple(logits.shape)} need targets {tuple(logits.shape[1:-1])}.")
    cross_entropies = nll_formula(targets, logits.shape[-1], epsilon, convention)
    # X = (1/M^2) sum over pairs of both directions, so the mean over pairs of the symmetric KL is X M/(M-1);
    # for two passes the weight below is 2 alpha, because X is then half of the symmetric KL
    weight = alpha * passes / 2 * passes / (passes - 1)
    return weighted_sum([(1.0, cross_entropies), (weight, x_formula())], logits, mask, reduction)


def k_step(update: int, k: int) -> bool:
    """k-step R-Drop: whether this update, counted from 1, is one of every k that take the second pass.

    Raises UserError for k below 1.
    """
    if k < 1:
        raise UserError(f"k-step R-Drop takes the second pass at every k-th update: k must be 1 or more, not {k}.")
    return update % k == 0


class RDrop(Method):
    """R-Drop as a training method: the batch is passed twice in one go, and the two halves must agree.

    With k > 1 only every k-th update takes the second pass; the others are plain updates.
    """

    name = "r_drop"
    passes = 2.0

    def __init__(
        self, alpha: float = 5.0, k: int = 1, m: int = 2, epsilon: float = 0.0, convention: str = "uniform"
    ) -> None:
        if not 0 <= alpha < math.inf or k < 1 or m < 2:  # so that NaN is refused too
            raise UserError(f"R-Drop needs a finite alpha >= 0, k >= 1 and m >= 2, not {alpha}, {k} and {m}.")
        super().__init__(epsilon, convention)
        self.alpha, self.k, self.m = alpha, k, m

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], counts: dict[str, int], moment: Moment
    ) -> dict[str, Tensor]:
        if not k_step(moment.update, self.k):
            return super().loss(model, batch, counts, moment)
        logits, targets = counted_logits(model, batch, copies=self.m), batch["targets"]
        smoothing = {"epsilon": self.epsilon, "convention": self.convention}
        total = r_drop_loss(logits, targets, self.alpha, **smoothing, reduction="sum")
        terms = {"loss": total / counts["targets"]}
        if moment.logged:  # the two parts apart, for the history; they cost another reading of the logits
            with torch.no_grad():
                terms["nll"] = label_smoothed_nll(logits[0], targets, reduction="sum") / counts["targets"]
                terms["kl"] = symmetric_kl(logits[0], logits[1], reduction="sum") / counts["targets"]
        return terms


# --- the experiments ---------------------------------------------------------------------------------------------

SCRIPT = "script/run_train.sh of the official code"
GLUE = "Hugging Face README of the official code"

TRANSLATION = Translation.settings_table.extended(
    Setting("alpha", 5.0, 5.0, 5.0, "weight of the KL beside the sum of both cross-entropies", "Table 7: the best"),
    Setting("k", 1, 1, 1, "the second pass is taken at every k-th update", "Figure 3: 1 is best"),
    Setting("m", 2, 2, 2, "passes that must agree", "m = 3 gives 37.30 against 37.25 BLEU, as quoted in a review"),
    m={"bounds": (2, 64)},
    data={"paper": "hub:bbaaaa/iwslt14-de-en@refs/convert/parquet", "source": "IWSLT14 De-En"},
    vocab_size={"paper": 10_000, "source": "run_binarize.sh: joint BPE of 10,000"},
    dropout={"study": 0.3, "paper": 0.3, "source": f"{SCRIPT}: 0.3"},
    updates={"source": f"{SCRIPT}: up to 300k"},
    learning_rate={"source": f"{SCRIPT}: 5e-4"},
    warmup={"source": f"{SCRIPT}: 4000"},
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
    updates={"study": 3000, "paper": 20_935, "source": f"{GLUE}: SST-2"},
    warmup={"study": 200, "paper": 1256, "source": f"{GLUE}: SST-2"},
    weight_decay={"study": 0.01, "paper": 0.01, "source": f"{GLUE}: 0.01"},
    batch_size={"source": f"{GLUE}: 32"},
    dropout={"source": f"{GLUE}: 0.1"},
)


def doubled(settings: Settings) -> dict[str, int]:
    """The recipe of a baseline that may compute as much as R-Drop: a plain update costs one pass, ours two."""
    return {"updates": 2 * settings.updates}


def method(settings: Settings) -> RDrop:
    """R-Drop as the settings describe it."""
    return RDrop(settings.alpha, settings.k, settings.m, settings.label_smoothing, settings.smoothing_convention)


def plain(settings: Settings) -> Method:
    """The baseline: the same cross-entropy, one pass."""
    return Method(settings.label_smoothing, settings.smoothing_convention)


ARMS = (
    Arm("baseline", "baseline", plain),
    Arm("baseline_2x", "baseline, twice the updates", plain, doubled),
    Arm("r_drop", "R-Drop", method),
)
LOOKED_AT = 100  # rows: the dropout scores take three passes over them


def look(task: Task, model: PreTrainedModel) -> dict[str, float]:
    """What dropout does to a model: kl between two passes (validation), the gap of Proposition 2.1, train loss."""
    held_out = dropout_scores(model, task.fixed_batches("validation", LOOKED_AT))
    seen = dropout_scores(model, task.fixed_batches("train", LOOKED_AT))
    return {
        "kl": held_out["kl"],
        "dropout_gap": abs(held_out["train_mode_loss"] - held_out["eval_mode_loss"]),
        "train_loss": seen["train_mode_loss"],  # dropout on, one pass: the claim's "training cross-entropy"
    }


EXPERIMENTS = (
    Experiment("r_drop", Translation, TRANSLATION, ARMS, look),
    Experiment("r_drop", Classification, CLASSIFICATION, ARMS, look),
)

# --- the claims --------------------------------------------------------------------------------------------------


def rise(curve: list[float]) -> float:
    """How far a curve has climbed from its lowest point to its end."""
    return curve[-1] - min(curve)


def gain(metric: str, baseline: str = "baseline"):
    """R-Drop's metric minus the baseline's, seed by seed."""
    return lambda records: paired_difference(records, metric, "r_drop", baseline)


def change(arm: str, metric: str):
    """Last minus first evaluation of a metric, seed by seed."""
    return lambda records: from_history(records, arm, metric, lambda curve: curve[-1] - curve[0])


def _less_than_a_quarter(records: list[dict]) -> dict[int, float]:
    ours = from_history(records, "r_drop", "loss", rise)
    theirs = from_history(records, "baseline", "loss", rise)
    if not any(theirs.values()):
        return {}  # a quarter of no rise says nothing
    return paired(ours, theirs, lambda a, b: a - 0.25 * b)


def _gain_at(records: list[dict], which) -> dict[int, float]:
    """R-Drop's BLEU minus the baseline's at the smallest or largest number of updates of a sweep."""
    ours, theirs = (sweep_setting(records, "test_bleu", arm, "updates") for arm in ("r_drop", "baseline"))
    budgets = ours.keys() & theirs.keys()
    return paired(ours[which(budgets)], theirs[which(budgets)]) if len(budgets) > 1 else {}


def _last_against_first(setting: str, first: float, last: float):
    def measure(records: list[dict]) -> dict[int, float]:
        points = sweep_setting(records, "test_bleu", "r_drop", setting)
        return paired(points.get(last, {}), points.get(first, {}))

    return measure


def _small_data_gain(records: list[dict]) -> dict[int, float]:
    sizes = {record["settings"]["train_rows"] for record in records}
    if len(sizes) < 2:
        return {}
    ours = sweep_setting(records, "test_bleu", "r_drop", "train_rows")
    theirs = sweep_setting(records, "test_bleu", "baseline", "train_rows")
    by_rows = sorted(sizes, key=lambda rows: rows or math.inf)  # 0 stands for all there are
    small, large = (paired(ours[size], theirs[size]) for size in (by_rows[0], by_rows[-1]))
    return paired(small, large)


def _points(setting: str):
    return lambda records: sweep_setting(records, "test_bleu", "r_drop", setting)


PIXELS = "Figure 2, read from pixels"
AXIS = PIXELS + "; unit and smoothing of its axis not stated"
CLAIMS = (
    Claim("R1", "R-Drop raises the test BLEU at the same number of updates, in every seed.", gain("test_bleu"),
          paper="+2.15 BLEU En-De, +2.61 De-En", source="Table 1", unit="BLEU", published=2.15, every_seed=True,
          task="translation", scale="sacreBLEU here; the paper's BLEU is tokenised, compound-split, lower-cased"),
    Claim("R1c", "R-Drop raises the test BLEU at the same compute: the baseline has twice the updates.",
          gain("test_bleu", "baseline_2x"), paper="no number seen", unit="BLEU", task="translation"),
    Claim("R1g", "R-Drop raises the test accuracy at the same number of updates.", gain("test_accuracy"),
          paper="+0.6 points on SST-2, +1.2 on the GLUE average (BERT-base, dev sets)", source="Table 3",
          unit="accuracy", task="classification"),
    Claim("R1h", "R-Drop raises the test accuracy at the same compute: the baseline has twice the updates.",
          gain("test_accuracy", "baseline_2x"), paper="no number seen", unit="accuracy", task="classification"),
    Claim("R2a", "R-Drop's best validation loss is lower.", gain("validation_loss"),
          paper="about 3.66 against 3.9 (translation)", source=AXIS, unit="nats", better="<"),
    Claim("R2b", "R-Drop's final validation loss is lower.", gain("final_loss"),
          paper="about 3.66 against 4.3 (translation)", source=AXIS, unit="nats", better="<"),
    Claim("R2c", "R-Drop's final training loss (dropout on, one pass) is higher.", gain("final_train_loss"),
          paper="about 2.7 against 1.6 (translation; perhaps both passes and the KL)", source=AXIS, unit="nats"),
    Claim("R3a", "The baseline's validation loss rises by more than 0.05 after its minimum.",
          lambda records: from_history(records, "baseline", "loss", rise), bound=0.05,
          paper="about +0.4 (translation)", source=AXIS, unit="nats"),
    Claim("R3b", "R-Drop's rise over the same updates is less than a quarter of the baseline's.",
          _less_than_a_quarter, paper="about 0 against +0.4 (translation)", source=AXIS, unit="nats", better="<"),
    Claim("R4a", "Early, at the smallest budget of the sweep, R-Drop is behind in BLEU.",
          lambda records: _gain_at(records, min), paper="behind before 30-40k of 300k updates", source=PIXELS,
          unit="BLEU", better="<", over=("updates", "eval_every"), task="translation",
          scale="the demo's smallest budget is a third of its updates, the paper's crossing at about a tenth"),
    Claim("R4b", "At the largest budget of the sweep R-Drop is ahead in BLEU.",
          lambda records: _gain_at(records, max), paper="ahead after 30-40k of 300k updates", source=PIXELS,
          unit="BLEU", over=("updates", "eval_every"), task="translation",
          scale="each budget is a run of its own; the paper's are points of one run"),
    Claim("R5a", "The baseline's own KL between two dropout passes grows in training.", change("baseline", "kl"),
          paper="stated, no number", source="dropreg/R-Drop#5", unit="nats"),
    Claim("R5b", "Under R-Drop that KL ends below its highest value.",
          lambda records: from_history(records, "r_drop", "kl", lambda curve: curve[-1] - max(curve)),
          paper="0.7 to 0.15, unit not given", source="authors, dropreg/R-Drop#5",
          unit="nats", better="<", scale="the starting point of the authors' number is not known"),
    Claim("R5c", "In the end R-Drop's KL between two passes is below the baseline's.", gain("final_kl"),
          paper="stated, no number", source="dropreg/R-Drop#5", unit="nats", better="<"),
    Claim("R6a", "Over alpha, the best BLEU lies between 3 and 7.",
          lambda records: peak_inside(_points("alpha")(records), 3.0, 7.0),
          paper="37.25 at 5; 36.05 at 1", source="Table 7", unit="BLEU", over=("alpha",), task="translation"),
    Claim("R6b", "alpha = 10 still beats alpha = 1.", _last_against_first("alpha", 1.0, 10.0),
          paper="36.95 against 36.05", source="Table 7", unit="BLEU", published=0.9, over=("alpha",),
          task="translation"),
    Claim("R7", "BLEU falls as the second pass is taken more rarely (k = 1, 2, 5, 10).",
          lambda records: trend(_points("k")(records)), paper="about 37.4, 37.1, 36.0, 35.3",
          source="Figure 3, read from pixels", unit="rank correlation", better="<", over=("k",), task="translation"),
    Claim("R8", "A third pass changes nothing: BLEU at m = 3 is within 0.3 of m = 2.",
          _last_against_first("m", 2, 3), paper="37.30 against 37.25", source="as quoted in a review",
          unit="BLEU", kind="equivalence", margin=0.3, over=("m",), task="translation"),
    Claim("R10", "Dropout costs an R-Drop model less: the gap between its loss with and without dropout is smaller.",
          gain("final_dropout_gap"), paper="bounded in theory, no number seen", source="Proposition 2.1", unit="nats",
          better="<"),
    Claim("R11", "The gain is larger on less data.", _small_data_gain,
          paper="IWSLT +2.24 on average, WMT +1.79 and +1.26", source="Tables 1 and 2", unit="BLEU",
          over=("train_rows",), scale="one corpus at two sizes, not different corpora", task="translation"),
    Claim("R12", "Without dropout the two passes are one: the KL is exactly 0.",
          lambda records: value([r for r in records if r["settings"]["dropout"] == 0.0], "r_drop", "final_kl"),
          paper="follows from Eq. 2", unit="nats", kind="exact", over=("dropout", "updates")),
)  # fmt: skip
