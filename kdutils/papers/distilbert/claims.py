"""What the paper on DistilBERT claims, as statements that can fail."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from kdutils.papers.distilbert.student import published_sizes
from kdutils.study.claims import Claim
from kdutils.study.measures import gain, paired, sweep_setting, trend, value


def beats(better: str, worse: str, metric: str = "exam_macro"):
    """The metric of one arm minus that of another, seed by seed."""
    return gain(metric, better, worse)


def ratio(metric: str, arm: str, other: str):
    """The metric of one arm divided by that of another, seed by seed."""
    return lambda records: paired(value(records, arm, metric), value(records, other, metric), operator.truediv)


def shape_ratio(records: Sequence[dict]) -> dict[int, float]:
    """Parameters of DistilBERT over those of BERT-base at the published shapes, the same for every seed."""
    student, teacher = published_sizes()
    return {record["seed"]: student / teacher for record in records}


def _second_gain(records: Sequence[dict]) -> dict[int, float]:
    return paired(*(value(records, "distilbert", metric) for metric in ("second_macro", "exam_macro")))


def _latency_trend(records: Sequence[dict]) -> dict[int, float]:
    return trend(sweep_setting(records, "latency_ms", "random_init", "student_layers"))


SHAPE = ("student_layers", "student_width", "student_feedforward", "alpha_cos")
CLAIMS = (
    Claim("D1", "Leaving out the soft targets costs more than leaving out the masked LM.", beats("no_mlm", "no_ce"),
          paper="2.65 points more (v1: 3.16)", source="ablation, GLUE dev", unit="points", published=2.65),
    Claim("D2", "Leaving out the soft targets costs more than leaving out the cosine.", beats("no_cos", "no_ce"),
          paper="1.50 points more (v1: 0.99)", source="ablation, GLUE dev", unit="points", published=1.50),
    Claim("D2b", "Leaving out the cosine costs more than leaving out the masked LM.", beats("no_mlm", "no_cos"),
          paper="1.15 points more (v1: 2.17)", source="ablation, GLUE dev", unit="points", published=1.15),
    Claim("D3", "Leaving out the masked LM costs less than 0.5 points.", beats("distilbert", "no_mlm"), bound=0.5,
          better="<", paper="0.31 points (v1: 1.90)", source="ablation, GLUE dev", unit="points", published=0.31,
          scale="the paper's versions disagree: v1 would contradict it"),
    Claim("D4", "Starting from the teacher's layers beats a random start under the same loss.",
          beats("distilbert", "random_init"), paper="3.69 points (v1: 4.83)", source="ablation, GLUE dev",
          unit="points", published=3.69),
    Claim("D5", "The student keeps at least 96 % of its teacher's score.", ratio("exam_macro", "distilbert", "teacher"),
          bound=0.96, better=">=", paper="0.969 of v4's printed scores (v1: 0.990); the text says 97 %",
          source="Table 1", unit="ratio", published=0.969,
          scale="one small task and a student of two layers: read the ratio, not the mark"),
    Claim("D6", "At the published shapes the student has 0.60 of BERT-base's parameters.", shape_ratio, bound=0.6,
          kind="exact", tolerance=0.01, paper="66 of 110 million", source="size and speed table",
          unit="ratio"),
    Claim("D7", "On a CPU, one text at a time, the teacher takes at least 1.5 times as long.",
          ratio("latency_ms", "teacher", "distilbert"), bound=1.5, better=">=", published=1.63,
          paper="668 s against 410 s: 1.63", source="size and speed table", unit="times",
          scale="small models: calls cost more than arithmetic; Section 1 measures the published shapes"),
    Claim("D8", "A second distillation in the fine-tuning helps.",
          _second_gain,
          paper="+1.1 F1 and +1.4 exact match on SQuAD", source="Table 2", unit="points",
          scale="sentence classification here, question answering there"),
    Claim("D9", "The triple loss beats the masked LM alone from the same start, at the same number of updates.",
          beats("distilbert", "baseline"), paper="not in the paper; a consistent drop, except for QNLI or QQP",
          source="V. Sanh, transformers#1180; an earlier loss, without the cosine", unit="points",
          rank="headline", words="at equal updates"),
    Claim("D9c", "It also does so at equal compute (matrix products): the masked LM has more updates.",
          beats("distilbert", "baseline_compute"), paper="not in the paper", unit="points"),
    Claim("D10", "At equal parameters in the layers, fewer and wider ones are faster: latency rises with their number.",
          _latency_trend, paper="design statement, no number", unit="rank correlation", over=SHAPE,
          scale="three small shapes, where calls cost more than arithmetic"),
    Claim("D11", "The student that also learns from soft targets ends closer to the true word distribution.",
          beats("distilbert", "baseline", "test_truth_kl"), better="<", paper="not in the paper", unit="nats",
          scale="only the demo corpus knows the truth"),
    Claim("D11c", "It also does so at equal compute (matrix products).",
          beats("distilbert", "baseline_compute", "test_truth_kl"), better="<", paper="not in the paper", unit="nats",
          scale="only the demo corpus knows the truth"),
)  # fmt: skip
