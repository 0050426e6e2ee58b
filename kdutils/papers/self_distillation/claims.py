"""What the paper on self-ensemble and self-distillation claims, as statements that can fail."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable

from kdutils.study import measures
from kdutils.study.claims import Claim, Need
from kdutils.study.measures import Values, from_history, paired, peak_inside, sweep_setting, value

OURS, ACCURACY = "sda_1", "test_accuracy"


def gain(metric: str = ACCURACY, other: str = "baseline", ours: str = OURS) -> Callable[[list[dict]], Values]:
    """A measure: the metric of self-distillation with K = 1 minus another arm's, seed by seed."""
    return measures.gain(metric, ours, other)


def scatter(arm: str) -> Callable[[list[dict]], Values]:
    """A measure: how far a seed's test accuracy lies from the median over the seeds (as Brown and Forsythe take it)."""

    def measure(records: list[dict]) -> Values:
        found = value(records, arm, ACCURACY)
        middle = statistics.median(found.values()) if found else 0.0
        return {seed: abs(number - middle) for seed, number in found.items()}

    return measure


def less_scatter(ours: str) -> Callable[[list[dict]], Values]:
    """A measure: the scatter of an arm minus that of fine-tuning, over the seeds that have both."""

    def measure(records: list[dict]) -> Values:
        both = [record for record in records if {ours, "baseline"} <= record["arms"].keys()]
        return paired(scatter(ours)(both), scatter("baseline")(both))

    return measure


def _errors_saved(ours: str, metric: str = ACCURACY, theirs: str = ACCURACY) -> Callable[[list[dict]], Values]:
    """A measure: the share of fine-tuning's test errors that are gone."""

    def measure(records: list[dict]) -> Values:
        mine, plain = value(records, ours, metric), value(records, "baseline", theirs)
        return paired(paired(mine, plain), {seed: 1 - number for seed, number in plain.items()}, operator.truediv)

    return measure


def _within(arm: str, one: str, other: str = ACCURACY) -> Callable[[list[dict]], Values]:
    """A measure: two metrics of one arm, the first minus the second."""
    return lambda records: paired(value(records, arm, one), value(records, arm, other))


def _late_gain(arm: str) -> Callable[[list[dict]], Values]:
    """A measure: what the validation accuracy gains in the second half of the run."""
    return lambda records: from_history(records, arm, "accuracy", lambda curve: curve[-1] - curve[len(curve) // 2 - 1])


def _mse_share(records: list[dict]) -> Values:
    """lambda MSE / (CE + lambda MSE), its mean over the last third of the lines minus that over the first."""
    found = {}
    for record in (r for r in records if OURS in r["arms"]):
        weight = record["settings"]["mse_weight"]
        rows = [row for row in record["arms"][OURS]["history"] if row["kind"] == "train" and "mse" in row]
        shares = [weight * row["mse"] / (row["nll"] + weight * row["mse"]) for row in rows]
        third = max(1, len(shares) // 3)
        found[record["seed"]] = statistics.fmean(shares[-third:]) - statistics.fmean(shares[:third])
    return found


def _best_lambda(records: list[dict]) -> Values:
    """The best test accuracy of a sweep with lambda from 1 to 1.5 minus the best elsewhere."""
    return peak_inside(sweep_setting(records, ACCURACY, "sda", "mse_weight"), 1.0, 1.5)


def _step_ratio(records: list[dict]) -> Values:
    return paired(value(records, "sda", "seconds_per_update"), value(records, "sdv", "seconds_per_update"),
                  operator.truediv)  # fmt: skip


TURN = Need("fine-tuning has used up its data: the rise of its validation loss after its minimum", lambda records:
            from_history(records, "baseline", "loss", lambda curve: curve[-1] - min(curve)), bound=0.05, unit="nats",
            remedy="train longer")  # fmt: skip
CAN = Need("fine-tuning is well above chance: Matthews' correlation on the test set", lambda records: value(
    records, "baseline", "test_matthews"), bound=0.3, remedy="more rows, or an encoder that knows more")  # fmt: skip
ORDERS = Need("there are ten data orders: how many", lambda records: dict.fromkeys(
    value(records, "baseline", ACCURACY), float(len(records))), ">=", 10.0, "orders", "more seeds")  # fmt: skip
LARGE = Need("the model is BERT-large: its parameters", lambda records: value(records, "baseline", "parameters"),
             bound=3e8, remedy="model=bert-large-uncased on a GPU")  # fmt: skip
BED = (TURN, CAN)

FIGURE = "Figure 4, digitised: 1,500 rows of SNLI, ten data orders"
CLAIMS = (
    Claim("S7", "Over data orders from one start, self-distillation (K = 1) has a higher test accuracy than "
          "fine-tuning.", gain(), paper="median 74.90 against 73.21 %", source=FIGURE, unit="accuracy",
          published=0.0169, needs=BED, rank="headline", words="with K = 1 against fine-tuning"),
    Claim("S7s", "Over data orders from one start, self-distillation (K = 1) scatters less: its distances from the "
          "median are smaller.", less_scatter(OURS), paper="interquartile range 0.46 against 0.70 %", source=FIGURE,
          unit="accuracy", better="<", published=-0.0012, needs=(*BED, ORDERS), rank="table",
          words="scatter with K = 1", scale="half of an interquartile range is about this distance"),
    Claim("S7a", "SDA with K = 5 has a higher test accuracy than fine-tuning.", gain(ours="sda"),
          paper="median 74.31 against 73.21 %", source=FIGURE, unit="accuracy", published=0.011, needs=BED,
          rank="table", words="with K = 5 against fine-tuning"),
    Claim("S3", "The self-ensemble alone, the mean of all selves, saves errors of fine-tuning.",
          _errors_saved("baseline", "test_ensemble_accuracy"), paper="2.50 % of the errors; NLI -0.51 %",
          source="Table 3; the mean is carried by DBPedia", unit="of the errors", needs=BED, rank="table"),
    Claim("S4", "Distillation is needed: it is better than the self-ensemble alone.", lambda records: paired(
          value(records, OURS, ACCURACY), value(records, "baseline", "test_ensemble_accuracy")),
          paper="IMDb error 5.29 against 5.82 %", source="Table 3", unit="accuracy", published=0.0053, needs=BED,
          rank="table"),
    Claim("S5", "SDA, which averages parameters, is better than SDV, which averages logits (K = 5).",
          gain(ours="sda", other="sdv"),
          paper="text: 6.26 against 5.65 % of the errors; NLI: 4.65 against 5.30 %",
          source="Table 3; rests on differences of 0.06 to 0.3 points", unit="accuracy", published=0.0009, needs=BED,
          rank="table"),
    Claim("S1", "Self-distillation saves test errors of fine-tuning.", _errors_saved(OURS),
          paper="6.26 % on average over five sets", source="Table 3, single runs", unit="of the errors",
          published=0.0626, needs=BED),
    Claim("S2", "The vote of four models beats a single one.", _within("members", "test_vote_accuracy",
          "test_member_accuracy"), paper="5.44 % of the errors", source="Table 3", unit="accuracy", needs=BED),
    Claim("S2a", "The average of the parameters of four models beats a single one.", _within(
          "members", "test_average_accuracy", "test_member_accuracy"), paper="4.07 % of the errors", source="Table 3",
          unit="accuracy", needs=BED),
    Claim("S2b", "The vote is at least as good as the average.", _within("members", "test_vote_accuracy",
          "test_average_accuracy"), paper="on all tasks; one is a tie", source="Section 4.3, Table 3", unit="accuracy",
          better=">=", needs=BED),
    Claim("S6", "Of a sweep over lambda the best lies from 1 to 1.5.", _best_lambda, paper="1.0 to 1.5 on IMDb",
          source="Figure 3, chosen on the test set", unit="accuracy", over=("mse_weight",), needs=BED),
    Claim("S7t", "SDA with K = 5 scatters less than fine-tuning.", less_scatter("sda"),
          paper="interquartile range 0.39 against 0.70 %", source=FIGURE, unit="accuracy", better="<",
          published=-0.00155, needs=(*BED, ORDERS)),
    Claim("S8", "How many earlier selves teach makes no difference: K = 1 and the larger K are equally good.",
          gain(ours="sda", other="sda_1"), paper="no single best K", source="Table 2: differences of up to 0.2 points",
          unit="accuracy", kind="equivalence", margin=0.005, needs=BED),
    Claim("S8a", "All earlier selves, K = T - 1, teach better than one.", gain(ours="sda_all", other="sda_1"),
          paper="AG's News 5.29 against 5.38 %; IMDb 5.41 against 5.39 %; SNLI 91.0 against 91.2 %", source="Table 2",
          unit="accuracy", published=0.0009, needs=BED),
    Claim("S9", "In the second half of the run self-distillation gains more validation accuracy than fine-tuning.",
          lambda records: paired(_late_gain(OURS)(records), _late_gain("baseline")(records)),
          paper="IMDb, error saved from epoch 3 to 6: 1.31 against 0.20 points", source="Figure 5, digitised",
          unit="accuracy", published=0.0111),
    Claim("S10", "The share of the distillation term in the loss rises over the training.", _mse_share,
          paper="rises", source="Figure 6, by eye", unit="of the loss"),
    Claim("S11", "An update of SDA costs less than one of SDV with as many teachers.", _step_ratio,
          paper="said, without numbers", source="Section 3.2", unit="times", better="<", bound=1.0,
          scale="evaluations included, of which SDA's look at the teacher too"),
    Claim("S12", "With BERT-large on text classification all earlier selves teach better than one.",
          gain(ours="sda_all", other="sda_1"), paper="7.02 against 5.62 % of the errors; NLI the other way round",
          source="Table 4; they recompute to 6.77 and 5.41 %", unit="accuracy", needs=(LARGE,)),
    Claim("S13", "BERT-large with SDA reaches 91.5 % on SNLI, as MT-DNN does with more data.",
          lambda records: value(records, "sda_1", ACCURACY), paper="91.5 against 91.6 %", source="Table 4",
          unit="accuracy", better=">=", bound=0.915, needs=(LARGE,)),
    Claim("SA", "It is the age of the teacher that helps: K = 1 beats the present self without dropout as the teacher.",
          gain(ours="sda_1", other="itself"), paper="not compared",
          source="ours: counted by micro-batches of 4, K = 1 is the present self in three of four steps",
          unit="accuracy", needs=BED),
    Claim("SE", "An exponential average, as public code has it, teaches as well as the youngest earlier self.",
          gain(ours="ema", other="sda_1"), paper="not compared", source="ours", unit="accuracy",
          kind="equivalence", margin=0.005, needs=BED),
    Claim("SL", "The logits of self-distillation end larger than those of fine-tuning.",
          gain("final_train_logit_spread"), paper="not looked at", source="ours: a student with dropout is less sure "
          "than its teacher, and is pulled up to it", unit="nats"),
)  # fmt: skip
