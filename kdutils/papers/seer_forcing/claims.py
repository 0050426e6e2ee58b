"""What the paper on Seer Forcing claims, as statements that can fail."""

from __future__ import annotations

import math
from collections.abc import Callable

from kdutils.study import measures
from kdutils.study.claims import MINIMUM_SEEDS, Claim, Need, interval
from kdutils.study.measures import Measure, Values, change, history, paired, passes_over_data, plateau, sweep_gain

OURS, BASE = "seer_forcing", "baseline"


def gain(metric: str, over: str = BASE) -> Measure:
    """A measure: Seer Forcing's metric minus that of another arm, seed by seed."""
    return measures.gain(metric, OURS, over)


def _gain_by_size(records: list[dict]) -> Values:
    """The gain over the baseline at the largest number of training pairs of a sweep, minus that at the smallest."""
    gains = sweep_gain(records, "test_bleu", OURS, BASE, "train_rows")
    return paired(gains[-1][1], gains[0][1]) if len(gains) > 1 else {}


def _over_sizes(measure: Measure, together: Callable[[list[float]], float]) -> Measure:
    """A measure of the records of every number of training pairs, put together seed by seed."""

    def found(records: list[dict]) -> Values:
        sizes = {record["settings"]["train_rows"] for record in records}
        each = [measure([r for r in records if r["settings"]["train_rows"] == size]) for size in sizes]
        return {seed: together([one[seed] for one in each if seed in one]) for seed in {s for one in each for s in one}}

    return found


def _at_every_checkpoint(metric: str, worst: Callable) -> Measure:
    """A measure: the seer's metric minus the conventional decoder's where it is worst, from the warm-up on."""

    def measure(records: list[dict]) -> Values:
        numbers = {}
        for record in (r for r in records if OURS in r["arms"]):
            updates, own = history(record, OURS, metric)
            seer = history(record, OURS, f"seer_{metric}")[1]
            rows = zip(updates, own, seer, strict=True)
            apart = [b - a for u, a, b in rows if u > record["settings"]["warmup"]]
            if apart:  # a run may end before its warm-up does
                numbers[record["seed"]] = worst(apart) if all(map(math.isfinite, apart)) else math.nan
        return numbers

    return measure


def _seen(measure: Measure) -> Measure:
    """A measure: the least difference that the runs could have seen, half their interval; 0 where they do see one."""

    def half(records: list[dict]) -> Values:
        values = measure(records)
        _, low, high = interval(values.values())
        undecided = len(values) >= MINIMUM_SEEDS and not (low > 0 or high < 0)
        return dict.fromkeys(values, (high - low) / 2 if undecided else 0.0)

    return half


def _sees(measure: Measure) -> Need:
    return Need("an interval that holds 0 reaches little to either side of its mean", _seen(measure), "<", 1.0,
                "BLEU", "more seeds")  # fmt: skip


def _versus(arm: str) -> dict:
    """Measure and needs of a claim that a teacher's BLEU is above that of another arm at equal updates."""
    return {"measure": gain("test_bleu", arm), "needs": (PLATEAU, KNOWS, _sees(gain("test_bleu", arm)))}


FLAT = "has reached its plateau: in the last fifth its validation BLEU moves by less than 1"
PLATEAU = Need(f"the baseline {FLAT}", plateau(BASE, "bleu"), "<", 1.0, "BLEU", "train longer")
PLATEAU_COMPUTE = Need(f"the baseline of equal compute {FLAT}", plateau("baseline_compute", "bleu"), "<", 1.0, "BLEU",
                       "train longer")  # fmt: skip
PLATEAUS = Need(f"at every size the baseline {FLAT}", _over_sizes(plateau(BASE, "bleu"), max), "<", 1.0, "BLEU",
                "train longer")  # fmt: skip
EQUALLY_OFTEN = Need("all sizes are read equally often: the most passes over the data by the fewest",
                     _over_sizes(passes_over_data(BASE), lambda passes: max(passes) / min(passes)), "<", 1.1, "times",
                     "updates in proportion to the pairs")  # fmt: skip
READ_OFTEN = Need("the training data were read at least 20 times", passes_over_data(BASE), ">=", 20.0, "times",
                  "train longer, or on fewer data")  # fmt: skip
KNOWS = Need("the seer knows more than the baseline: in the end its accuracy on held-out words is higher",
             lambda records: paired(measures.value(records, OURS, "final_seer_accuracy"),
                                    measures.value(records, BASE, "final_accuracy")),
             unit="accuracy", remedy="choose data whose future tells more")  # fmt: skip

ABSTRACT, CODED = "a direction in the abstract, no number seen", "follows from the method, no number seen"
MATCHED = "what the paper's two alternatives match was not seen, and is our choice"
ROWS = ("train_rows", "updates", "eval_every", "checkpoint_every")  # as many passes over fewer or more pairs
CLAIMS = (
    Claim("S1", "Seer Forcing raises the test BLEU at the same number of updates.", gain("test_bleu"), paper=ABSTRACT,
          unit="BLEU", needs=(PLATEAU, READ_OFTEN, KNOWS, _sees(gain("test_bleu"))), rank="headline",
          words="at equal updates",
          scale="the paper's translators are Transformer-base (60 million parameters), on NIST and WMT corpora"),
    Claim("S1c", "Seer Forcing raises the test BLEU at equal compute (matrix products): the baseline has more updates.",
          gain("test_bleu", "baseline_compute"), paper="not in the abstract", unit="BLEU",
          needs=(PLATEAU_COMPUTE, KNOWS, _sees(gain("test_bleu", "baseline_compute"))), rank="table",
          words="at equal compute"),
    Claim("S5", "Teaching helps: the test BLEU is above that of the same two decoders without it (alpha = 1).",
          **_versus("joint"), paper="not in the abstract", source="ours: a control", unit="BLEU", rank="table",
          words="over two decoders without teaching"),
    Claim("S5f", "The future helps: the test BLEU is above that with a seer that sees the past alone.",
          **_versus("no_future"), paper="not in the abstract", source="ours: a control", unit="BLEU", rank="table",
          words="over a seer without a future"),
    Claim("S2", "The gain is larger on more data, at as many passes over it.", _gain_by_size, paper=ABSTRACT,
          unit="BLEU", over=ROWS, needs=(EQUALLY_OFTEN, PLATEAUS, _sees(_gain_by_size)), rank="table",
          scale="one corpus at several sizes; the paper has four corpora"),
    Claim("S3a", "Distillation is at least as good as matching the states (L2).", **_versus("l2"), paper=ABSTRACT,
          unit="BLEU", better=">=", rank="table", scale=MATCHED, words="over matched states (L2)"),
    Claim("S3b", "Distillation is at least as good as adversarial matching.", **_versus("adversarial"),
          paper=ABSTRACT, unit="BLEU", better=">=", scale=MATCHED, words="over adversarial matching"),
    Claim("S4a", "With dropout off, the seer is more accurate at every evaluation after the warm-up (smallest lead).",
          _at_every_checkpoint("accuracy", min), paper=CODED, unit="accuracy",
          scale="a lead over its pupil; S4f asks how much of what it knows is the future"),
    Claim("S4b", "With dropout off, its negative log-likelihood is lower at every evaluation after the warm-up.",
          _at_every_checkpoint("loss", max), paper=CODED, unit="nats", better="<"),
    Claim("S4f", "The future is why: in the end the seer is more accurate than one that sees the past alone.",
          gain("final_seer_accuracy", "no_future"), paper="not in the abstract", source="ours: a control",
          unit="accuracy"),
    Claim("S8a", "The conventional decoder's KL to the seer falls from the first evaluation to the last.",
          change(OURS, "seer_kl"), paper=CODED, unit="nats", better="<",
          scale="the first evaluation finds two decoders that know little, and agree on that"),
    Claim("S8b", "In the end that KL is lower than without teaching.", gain("final_seer_kl", "joint"), paper=CODED,
          unit="nats", better="<", scale="each arm is compared with a seer of its own"),
)  # fmt: skip
