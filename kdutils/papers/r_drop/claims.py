"""What the paper on R-Drop claims, as statements that can fail."""

from __future__ import annotations

from kdutils.study import measures
from kdutils.study.claims import Claim, Need
from kdutils.study.measures import change, from_history, paired, peak_inside, sweep_gain, sweep_setting, trend, value


def rise(curve: list[float]) -> float:
    """How far a curve has climbed from its lowest point to its end."""
    return curve[-1] - min(curve)


def gain(metric: str, baseline: str = "baseline"):
    """R-Drop's metric minus the baseline's, seed by seed."""
    return measures.gain(metric, "r_drop", baseline)


def _less_than_a_quarter(records: list[dict]) -> dict[int, float]:
    ours = from_history(records, "r_drop", "loss", rise)
    theirs = from_history(records, "baseline", "loss", rise)
    if not any(theirs.values()):
        return {}  # a quarter of no rise says nothing
    return paired(ours, theirs, lambda a, b: a - 0.25 * b)


def _early_gain(records: list[dict]) -> dict[int, float]:
    """R-Drop's validation BLEU minus the baseline's at the first evaluation."""
    ours, theirs = (from_history(records, arm, "bleu", lambda curve: curve[0]) for arm in ("r_drop", "baseline"))
    return paired(ours, theirs)


def _last_against_first(setting: str, first: float, last: float):
    def measure(records: list[dict]) -> dict[int, float]:
        points = sweep_setting(records, "test_bleu", "r_drop", setting)
        return paired(points.get(last, {}), points.get(first, {}))

    return measure


def _small_data_gain(records: list[dict]) -> dict[int, float]:
    """The gain in BLEU at the smallest number of training pairs of a sweep, minus that at the largest."""
    gains = sweep_gain(records, "test_bleu", "r_drop", "baseline", "train_rows")
    return paired(gains[0][1], gains[-1][1]) if len(gains) > 1 else {}


def _points(setting: str):
    return lambda records: sweep_setting(records, "test_bleu", "r_drop", setting)


PIXELS = "Figure 2, read from pixels"
AXIS = PIXELS + "; unit and smoothing of its axis not stated"


def _plateau(arm: str, what: str) -> Need:
    statement = f"{what} has reached its plateau: in the last fifth its validation BLEU moves by less than 1"
    return Need(statement, measures.plateau(arm, "bleu"), "<", 1.0, "BLEU", "train longer")


PLATEAU, PLATEAU_2X = _plateau("baseline", "the baseline"), _plateau("baseline_2x", "the doubled baseline")
LENGTH = ("updates", "eval_every", "checkpoint_every")  # at equal compute: of any length with a doubled baseline
READ_OFTEN = Need("the training data were read at least 20 times", measures.passes_over_data("baseline"), ">=", 20.0,
                  "times", "train longer, or on fewer data")  # fmt: skip
COULD_OVERFIT = Need("the training data were read at least 100 times, as in the paper",
                     measures.passes_over_data("baseline"), ">=", 100.0, "times", "train longer")  # fmt: skip
ABOVE_CHANCE = Need("the baseline is right far more often than by chance",
                    lambda records: value(records, "baseline", "test_accuracy"), ">", 0.7, "accuracy",
                    "more data, or a better start")  # fmt: skip
CLAIMS = (
    Claim("R1", "R-Drop raises the test BLEU at the same number of updates, in every seed.", gain("test_bleu"),
          paper="+2.15 BLEU En-De, +2.61 De-En", source="Table 1", unit="BLEU", published=2.15, every_seed=True,
          task="translation", scale="sacreBLEU here; the paper's BLEU is tokenised, compound-split, lower-cased",
          needs=(PLATEAU, READ_OFTEN), rank="headline", words="at equal updates"),
    Claim("R1c", "R-Drop raises the test BLEU at the same compute: the baseline has twice the updates.",
          gain("test_bleu", "baseline_2x"), paper="no number seen", unit="BLEU", task="translation",
          over=LENGTH, needs=(PLATEAU_2X,), rank="table", words="at equal compute"),
    Claim("R1g", "R-Drop raises the test accuracy at the same number of updates.", gain("test_accuracy"),
          paper="+0.6 points on SST-2, +1.2 on the GLUE average (BERT-base, dev sets)", source="Table 3",
          unit="accuracy", published=0.012, task="classification", needs=(ABOVE_CHANCE,), rank="table",
          words="at equal updates"),
    Claim("R2a", "R-Drop's best validation loss is lower.", gain("validation_loss"),
          paper="about 3.66 against 3.9 (translation)", source=AXIS, unit="nats", better="<", task="translation",
          needs=(READ_OFTEN,), rank="table"),
    Claim("R4a", "Early, at the first evaluation, R-Drop is behind in validation BLEU.", _early_gain,
          paper="behind before 30-40k of 300k updates", source=PIXELS, unit="BLEU", better="<", task="translation",
          rank="table",
          scale="the first evaluation comes after a twelfth of the updates, the paper's crossing after a tenth"),
    Claim("R10", "Dropout costs an R-Drop model less: the gap between its loss with and without dropout is smaller.",
          gain("final_dropout_gap"), paper="bounded in theory, no number seen", source="Proposition 2.1", unit="nats",
          better="<", task="translation", rank="table"),
    Claim("R1h", "R-Drop raises the test accuracy at the same compute: the baseline has twice the updates.",
          gain("test_accuracy", "baseline_2x"), paper="no number seen", unit="accuracy", task="classification",
          needs=(ABOVE_CHANCE,), words="at equal compute"),
    Claim("R2c", "R-Drop's final training loss (dropout on, one pass) is higher.", gain("final_train_loss"),
          paper="about 2.7 against 1.6 (translation; perhaps both passes and the KL)", source=AXIS, unit="nats"),
    Claim("R3a", "The baseline's validation loss rises by more than 0.05 after its minimum.",
          lambda records: from_history(records, "baseline", "loss", rise), bound=0.05,
          paper="about +0.4 (translation)", source=AXIS, unit="nats", needs=(COULD_OVERFIT,), task="translation"),
    Claim("R3b", "R-Drop's rise over the same updates is less than a quarter of the baseline's.",
          _less_than_a_quarter, paper="about 0 against +0.4 (translation)", source=AXIS, unit="nats", better="<",
          needs=(COULD_OVERFIT,), task="translation"),
    Claim("R5c", "In the end R-Drop's KL between two passes is below the baseline's.", gain("final_kl"),
          paper="stated, no number", source="dropreg/R-Drop#5", unit="nats", better="<", task="translation"),
    Claim("R5a", "The baseline's own KL between two dropout passes grows in training.", change("baseline", "kl"),
          paper="stated, no number", source="dropreg/R-Drop#5", unit="nats"),
    Claim("R5b", "Under R-Drop that KL ends below its highest value.",
          lambda records: from_history(records, "r_drop", "kl", lambda curve: curve[-1] - max(curve)),
          paper="0.7 to 0.15, unit not given", source="authors, dropreg/R-Drop#5",
          unit="nats", better="<", scale="the starting point of the authors' number is not known"),
    Claim("R6a", "Over alpha, the best BLEU lies between 3 and 7.",
          lambda records: peak_inside(_points("alpha")(records), 3.0, 7.0),
          paper="37.25 at 5; 36.05 at 1", source="Table 7", unit="BLEU", over=("alpha",), task="translation",
          needs=(PLATEAU,), scale="the paper's model is larger and has far more data"),
    Claim("R6b", "alpha = 10 still beats alpha = 1.", _last_against_first("alpha", 1.0, 10.0),
          paper="36.95 against 36.05", source="Table 7", unit="BLEU", published=0.9, over=("alpha",),
          task="translation", needs=(PLATEAU,)),
    Claim("R7", "BLEU falls as the second pass is taken more rarely (k = 1, 2, 5, 10).",
          lambda records: trend(_points("k")(records)), paper="about 37.4, 37.1, 36.0, 35.3",
          source="Figure 3, read from pixels", unit="rank correlation", better="<", over=("k",), task="translation"),
    Claim("R8", "A third pass changes nothing: BLEU at m = 3 is within 0.3 of m = 2.",
          _last_against_first("m", 2, 3), paper="37.30 against 37.25", source="as quoted in a review",
          unit="BLEU", kind="equivalence", margin=0.3, over=("m",), task="translation"),
    Claim("R11", "The gain is larger on less data.", _small_data_gain,
          paper="IWSLT +2.24 on average, WMT +1.79 and +1.26", source="Tables 1 and 2", unit="BLEU",
          over=("train_rows",), scale="one corpus at two sizes, not different corpora", task="translation"),
)  # fmt: skip
