"""What the paper on Intra-Distillation claims, as statements that can fail."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

from kdutils.papers.intra_distillation.experiment import PRUNED
from kdutils.study import measures
from kdutils.study.claims import Claim, Need
from kdutils.study.measures import Values, from_history, history, paired, plateau, sweep_setting, value

OURS = "intra_distillation"


def gain(metric: str, other: str = "baseline", ours: str = OURS) -> Callable[[list[dict]], Values]:
    """A measure: Intra-Distillation's metric minus another arm's, seed by seed."""
    return measures.gain(metric, ours, other)


def _final_loss(records: list[dict]) -> Values:
    """The gain in the final validation loss where it is in nats, as that of a regression is not."""
    return gain("final_loss")([record for record in records if record.get("task") != "regression"])


def _pruning_cost(records: list[dict]) -> Values:
    """What the mean of the pruned losses rises by with Intra-Distillation, minus what it rises by in the baseline."""

    def rise(arm: str) -> Values:
        points = [value(records, arm, f"pruned_{100 * share:.0f}") for share in PRUNED]
        return {seed: sum(point[seed] for point in points) / len(points) for seed in points[0]}

    return paired(rise(OURS), rise("baseline"))


def _first_as_good(record: dict, arm: str) -> float:
    """The first update at which an arm's validation loss is at most the baseline's best; NaN where it never is."""
    best = min(history(record, "baseline", "loss")[1])
    return next((u for u, loss in zip(*history(record, arm, "loss"), strict=True) if loss <= best), math.nan)


def _updates_to_baseline(records: list[dict]) -> Values:
    """How many updates later the adaptive alpha reaches the baseline's best validation loss than the constant one."""
    having = [record for record in records if {"baseline", OURS, "constant"} <= record["arms"].keys()]
    return {r["seed"]: _first_as_good(r, OURS) - _first_as_good(r, "constant") for r in having}


def _at_equal_time(records: list[dict]) -> Values:
    """Our best validation loss within the seconds of the baseline's whole run, minus the baseline's best."""
    found = {}
    for record in (r for r in records if {"baseline", OURS} <= r["arms"].keys()):
        rows = {arm: _evaluations(record, arm) for arm in ("baseline", OURS)}
        time = max(seconds for seconds, _ in rows["baseline"])
        ours = [loss for seconds, loss in rows[OURS] if seconds <= time]
        found[record["seed"]] = min(ours, default=math.nan) - min(loss for _, loss in rows["baseline"])
    return found


def _evaluations(record: dict, arm: str) -> list[tuple[float, float]]:
    """(seconds, validation loss) of every evaluation of an arm."""
    return [(row["seconds"], row["loss"]) for row in record["arms"][arm]["history"] if row["kind"] == "eval"]


def _step_ratio(records: list[dict]) -> Values:
    metric = "seconds_per_update"
    return paired(value(records, OURS, metric), value(records, "baseline", metric), operator.truediv)


def _x_over_js(records: list[dict]) -> Values:
    return paired(value(records, OURS, "final_x"), value(records, OURS, "final_js"), operator.truediv)


def _js_against_x(records: list[dict]) -> Values:
    """BLEU trained with twice the weight of the Jensen-Shannon divergence, minus that with X."""
    points = {
        kind: sweep_setting([r for r in records if r["settings"].get("divergence") == kind], "test_bleu", OURS, "alpha")
        for kind in ("x", "js")
    }
    return next((paired(points["js"][2 * a], bleu) for a, bleu in points["x"].items() if 2 * a in points["js"]), {})


def _last_against_first(arm: str) -> Callable[[list[dict]], Values]:
    """A measure: BLEU of an arm with the most passes of a sweep minus that with two."""

    def measure(records: list[dict]) -> Values:
        points = sweep_setting(records, "test_bleu", arm, "passes")
        return paired(points[max(points)], points[2]) if 2 in points and len(points) > 1 else {}

    return measure


def _plateau(arm: str, what: str) -> Need:
    statement = f"{what} has reached its plateau: in the last fifth its validation BLEU moves by less than 1"
    return Need(statement, plateau(arm, "bleu"), "<", 1.0, "BLEU", "train longer")


PLATEAU, R_DROP_PLATEAU = _plateau("baseline", "the baseline"), _plateau("r_drop_like", "R-Drop")
OUR_PLATEAU = _plateau(OURS, "Intra-Distillation")
HELPED = Need("two passes help at all: R-Drop's gain in BLEU over the baseline", gain("test_bleu", ours="r_drop_like"),
              unit="BLEU", remedy="choose data on which dropout matters")  # fmt: skip
OVERFIT = Need("the baseline overfits: the rise of its validation loss after its minimum",
               lambda records: from_history(records, "baseline", "loss", lambda curve: curve[-1] - min(curve)),
               bound=0.02, unit="nats", remedy="train longer, or on fewer pairs")  # fmt: skip


def _of_constant(number: Callable[[dict], float]) -> Callable[[list[dict]], Values]:
    """A measure: a number of the settings of the records that also have the constant alpha."""
    return lambda records: {r["seed"]: number(r["settings"]) for r in records if "constant" in r["arms"]}


ONE_ALPHA = Need("both arms have one alpha: the difference of theirs",
                 _of_constant(lambda s: abs(s["alpha"] - s["r_drop_alpha"])), better="<=",
                 remedy="give alpha and r_drop_alpha the same value")  # fmt: skip
GROWS = Need("alpha grows at all: it is above 1", _of_constant(lambda s: s["alpha"]), bound=1.0,
             remedy="a larger alpha: up to 1 it is constant")  # fmt: skip
STRONG = ("alpha", "r_drop_alpha", "updates", "eval_every", "checkpoint_every")  # shorter runs at an alpha that grows

RERUN = "an independent rerun of the official code: 32.90 to 35.11"
LOG = "training log of an independent rerun"
MEANT = "abstract: a direction; figures not seen"
KOREAN = "a Korean summary says so; its numbers were not seen"
OWN = "ours: follows from finding that X grows as (K - 1)/K"
CLAIMS = (
    Claim("X9", "With three passes and its own alpha it beats R-Drop in test BLEU at the same number of updates.",
          gain("test_bleu", "r_drop_like"), paper="above R-Drop", source=KOREAN, unit="BLEU", task="translation",
          needs=(PLATEAU, R_DROP_PLATEAU, OUR_PLATEAU, HELPED), rank="headline",
          words="against R-Drop at equal updates", scale="R-Drop's own third pass gave it +0.05 BLEU"),
    Claim("X9c", "It beats R-Drop in test BLEU at the same compute: it has 2/3 of R-Drop's updates.",
          gain("test_bleu", "r_drop_like", "intra_distillation_compute"), paper="no number seen", unit="BLEU",
          task="translation", needs=(R_DROP_PLATEAU, HELPED), rank="table", words="against R-Drop at equal compute"),
    Claim("X1", "It raises the test BLEU at the same number of updates, in every seed.", gain("test_bleu"),
          paper="+3.03 BLEU De-En, +3.54 on average over eight pairs", source="abstract, Table 2; " + RERUN,
          unit="BLEU", published=3.03, every_seed=True, task="translation", needs=(PLATEAU, OUR_PLATEAU), rank="table",
          words="against the baseline at equal updates", scale="the paper's BLEU is of lower-cased text"),
    Claim("X2a", "Its final validation loss is lower.", _final_loss, paper="3.74 against 4.00 bits, smoothed",
          source=LOG, unit="nats", better="<", rank="table"),
    Claim("X3", "The parameters contribute more evenly: the spread of their sensitivities over its mean is smaller.",
          gain("sensitivity_cv"), paper="narrower", source=MEANT, better="<", needs=(PLATEAU,),
          task="translation", rank="table",
          scale="the paper's spread is not divided by the mean (X3r): that one falls with the loss alone"),
    Claim("X4", "Losing the least sensitive 10 to 50 % of the parameters costs at least as much loss.",
          _pruning_cost, paper="not seen", unit="nats", better=">=", task="translation", rank="table",
          scale="by first-order sensitivity, all parameters ranked together, nothing trained afterwards"),
    Claim("X1c", "It raises the test BLEU at the same compute: the baseline has K times the updates.",
          gain("test_bleu", "baseline_compute"), paper="no number seen", unit="BLEU", task="translation",
          needs=(PLATEAU,), words="against the baseline at equal compute"),
    Claim("X1g", "It raises the test accuracy at the same number of updates.", gain("test_accuracy"),
          paper="its table for GLUE was not seen", unit="accuracy", task="classification",
          words="against the baseline at equal updates"),
    Claim("X1h", "It raises the test accuracy at the same compute: the baseline has K times the updates.",
          gain("test_accuracy", "baseline_compute"), paper="no number seen", unit="accuracy", task="classification",
          words="against the baseline at equal compute"),
    Claim("X2b", "Its final training loss (dropout on, one pass) is higher.", gain("final_train_loss"),
          paper="3.34 against 3.18 bits, smoothed", source=LOG, unit="nats", needs=(OVERFIT,)),
    Claim("X3r", "The raw spread of the sensitivities, the paper's measure, is smaller.", gain("sensitivity_std"),
          paper="smaller", source=MEANT + "; a rerun found it larger in 3 of 4 cases", unit="nats", better="<",
          scale="it scales with the loss", task="translation"),
    Claim("X3l", "The spread of the sensitivities over the loss is smaller.", gain("sensitivity_by_loss"),
          paper="smaller in 3 of 4 cases", source="the same rerun, whose gradients add up over batches", better="<",
          task="translation"),
    Claim("X3d", "R-Drop alone makes the parameters contribute more evenly than the baseline.",
          gain("sensitivity_cv", ours="r_drop_like"), paper="not compared", source="ours: the loss is R-Drop's",
          better="<", task="translation"),
    Claim("X4m", "The less sensitive half of the parameters holds more of all sensitivity.",
          gain("sensitivity_low_half"), paper="not seen", unit="of the sum", task="translation"),
    Claim("X5", "Three passes are no better than two when alpha is rescaled to the same strength.",
          gain("test_bleu", "r_drop_like", "fair"), paper="K = 3 was chosen", source=OWN, unit="BLEU",
          kind="equivalence", margin=0.5, task="translation", needs=(PLATEAU,)),
    Claim("X5n", "At the same alpha three passes are at least as good as two.",
          gain("test_bleu", "r_drop_like", "constant"), paper="K = 3 was chosen", source=KOREAN, unit="BLEU",
          better=">=", task="translation", needs=(PLATEAU,)),
    Claim("X5k", "The most passes of a sweep are no better than two when alpha is rescaled.",
          _last_against_first("fair"), paper="no number seen", source=OWN, unit="BLEU", kind="equivalence", margin=0.5,
          over=("passes", *STRONG), task="translation", scale="a sweep of shorter runs"),
    Claim("X7", "X is about twice the Jensen-Shannon divergence of the same passes.", _x_over_js,
          paper="X slightly better at the same alpha", source=KOREAN, unit="times", bound=2.0, kind="equivalence",
          margin=0.5, scale="the limit where the passes hardly differ; always above 1"),
    Claim("X7b", "With twice the alpha the Jensen-Shannon divergence trains as good a model.", _js_against_x,
          paper="X slightly better at the same alpha", source=KOREAN, unit="BLEU", kind="equivalence", margin=0.5,
          over=("divergence", "alpha"), task="translation"),
    Claim("X8", "The adaptive alpha reaches the baseline's best validation loss in fewer updates than a constant one.",
          _updates_to_baseline, paper="faster convergence", source="abstract; curve not seen", unit="updates",
          better="<", over=STRONG, task="translation", needs=(ONE_ALPHA, GROWS), scale="to the nearest evaluation"),
    Claim("X8b", "In the end the adaptive and the constant alpha are equally good.",
          gain("test_bleu", "constant"), paper="no number seen", unit="BLEU", kind="equivalence", margin=0.5,
          over=STRONG, task="translation", needs=(ONE_ALPHA, GROWS, PLATEAU)),
    Claim("X9g", "With three passes it beats R-Drop in test accuracy at the same number of updates.",
          gain("test_accuracy", "r_drop_like"), paper="above R-Drop", source=KOREAN, unit="accuracy",
          task="classification", words="against R-Drop at equal updates"),
    Claim("X1s", "It raises the test Pearson correlation at the same number of updates.", gain("test_pearson"),
          paper="its table for GLUE was not seen", unit="Pearson", task="regression"),
    Claim("X9s", "With three passes it beats two at a constant alpha in test Pearson at the same number of updates.",
          gain("test_pearson", "r_drop_like"), paper="above R-Drop", source=KOREAN, unit="Pearson", task="regression"),
    Claim("X10", "An update costs three times the baseline's.", _step_ratio, paper="3.01, passes one after another",
          source="running times of an independent rerun", unit="times", bound=3.0, kind="equivalence", margin=0.3,
          scale="evaluations included, which cost both the same; here the passes are one batch"),
    Claim("X11", "In the time of the baseline's whole run it is not better by more than 0.035 nats of validation loss.",
          _at_equal_time, paper="3.958 against 3.962 bits", source=LOG, unit="nats", bound=-0.035, task="translation",
          scale="the time of this machine, evaluations included"),
)  # fmt: skip
