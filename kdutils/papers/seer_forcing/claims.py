"""What the paper on Seer Forcing claims, as statements that can fail."""

from __future__ import annotations

import math
from collections.abc import Callable

from kdutils.study import measures
from kdutils.study.claims import Claim
from kdutils.study.measures import change, history, paired, sweep_gain, value


def gain(metric: str = "test_bleu", over: str = "baseline"):
    """Seer forcing's metric minus that of another arm, seed by seed."""
    return measures.gain(metric, "seer_forcing", over)


def _gain_by_size(records: list[dict]) -> dict[int, float]:
    """The gain over the baseline at the largest number of training pairs of a sweep, minus that at the smallest."""
    gains = sweep_gain(records, "test_bleu", "seer_forcing", "baseline", "train_rows")
    return paired(gains[-1][1], gains[0][1]) if len(gains) > 1 else {}


def _at_every_checkpoint(metric: str, worst) -> Callable[[list[dict]], dict[int, float]]:
    """The seer's metric minus the conventional decoder's where it is worst, over the evaluations after the warm-up."""

    def measure(records: list[dict]) -> dict[int, float]:
        numbers = {}
        for record in (r for r in records if "seer_forcing" in r["arms"]):
            updates, own = history(record, "seer_forcing", metric)
            seer = history(record, "seer_forcing", f"seer_{metric}")[1]
            rows = zip(updates, own, seer, strict=True)
            apart = [b - a for u, a, b in rows if u > record["settings"]["warmup"]]
            if apart:  # a run may end before its warm-up does
                numbers[record["seed"]] = worst(apart) if all(map(math.isfinite, apart)) else math.nan
        return numbers

    return measure


ABSTRACT, CODED = "abstract: a direction, no number seen", "follows from the method, no number seen"
ORDER = (
    "validation BLEU; what the paper's two alternatives match was not seen, and is our choice; their best weight was "
    "small, so they are near labels of weight alpha without teaching"
)
LEAD = "part of the lead is not the future: a seer whose future stream is always zero leads too (shift=60)"
CLAIMS = (
    Claim("S1", "Seer Forcing raises the test BLEU at the same number of updates.", gain(), paper=ABSTRACT, unit="BLEU",
          scale="the paper's translators are Transformer-base (60 million parameters), on NIST and WMT corpora",
          rank="headline", words="at equal updates"),
    Claim("S1c", "Seer Forcing raises the test BLEU at equal compute (matrix products): the baseline has more updates.",
          gain(over="baseline_compute"), paper="not in the abstract", unit="BLEU"),
    Claim("S2", "The gain is larger on more data.", _gain_by_size, paper=ABSTRACT, unit="BLEU", over=("train_rows",),
          scale="one corpus at several sizes, at the same number of updates; the paper has four corpora"),
    Claim("S3a", "Distillation is at least as good as matching the states (L2).", gain("validation_bleu", "l2"),
          paper=ABSTRACT, unit="BLEU", better=">=", scale=ORDER),
    Claim("S3b", "Distillation is at least as good as adversarial matching.", gain("validation_bleu", "adversarial"),
          paper=ABSTRACT, unit="BLEU", better=">=", scale=ORDER),
    Claim("S4a", "With dropout off, the seer is more accurate at every evaluation after the warm-up (smallest lead).",
          _at_every_checkpoint("accuracy", min), paper=CODED, unit="accuracy", scale=LEAD),
    Claim("S4b", "With dropout off, its negative log-likelihood is lower at every evaluation after the warm-up.",
          _at_every_checkpoint("loss", max), paper=CODED, unit="nats", better="<", scale=LEAD),
    Claim("S5", "Teaching helps: the test BLEU is above that of the same two decoders without it (alpha = 1).",
          gain(over="joint"), paper="expected, no number seen", unit="BLEU"),
    Claim("S6", "The exported model has exactly the baseline's parameters.", gain("parameters"),
          paper="abstract: the seer is for training only", unit="parameters", kind="exact"),
    Claim("S7a", "The seer does not see the word that it predicts: no logit changes when that word is replaced.",
          lambda records: value(records, "seer_forcing", "final_seer_leak"), paper="follows from Figure 2",
          unit="logit", kind="exact", tolerance=1e-3),
    Claim("S7b", "The conventional decoder does not see any word that follows.",
          lambda records: value(records, "seer_forcing", "final_past_leak"), paper="follows from Figure 2",
          unit="logit", kind="exact", tolerance=1e-3),
    Claim("S8a", "The conventional decoder's KL to the seer falls from the first evaluation to the last.",
          change("seer_forcing", "seer_kl"), paper=CODED, unit="nats", better="<",
          scale="the first evaluation finds two decoders that know little, and agree on that"),
    Claim("S8b", "In the end that KL is lower than without teaching.", gain("final_seer_kl", "joint"), paper=CODED,
          unit="nats", better="<", scale="each arm is compared with a seer of its own"),
)  # fmt: skip
