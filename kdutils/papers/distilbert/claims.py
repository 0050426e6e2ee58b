"""What the paper on DistilBERT claims, as statements that can fail."""

from __future__ import annotations

from kdutils.study import exams, measures
from kdutils.study.claims import Claim, Need
from kdutils.study.measures import paired, plateau, value

OURS, BASE = "distilbert", "baseline"


def gain(theirs: str, ours: str = OURS, metric: str = "exam_macro"):
    """A measure: a metric of one arm minus that of another, seed by seed; by default the downstream score."""
    return measures.gain(metric, ours, theirs)


def _second(metric: str):
    """A measure: a score with a second distillation in the fine-tuning minus that without, of the same student.

    Seeds in which no fine-tuned teacher was at hand have no such score, and are left out.
    """

    def measure(records: list[dict]) -> measures.Values:
        sat = [one for one in records if f"second_{metric}" in one["arms"].get(OURS, {}).get("metrics", {})]
        return paired(*(value(sat or records, OURS, f"{kind}_{metric}") for kind in ("second", "exam")))

    return measure


KNOWS = Need("the teacher knows more: its downstream score exceeds that of the student trained without it by 2 points",
             gain(BASE, "teacher"), bound=2.0, unit="points", remedy="train the teacher longer")  # fmt: skip
LEARNT = Need("the exam can be passed: the masked LM alone lies above chance by 5 points",
              lambda records: exams.above_chance(records, BASE), bound=5.0, unit="points",
              remedy="train longer, or choose an easier exam")  # fmt: skip
SETTLED = Need("the masked LM alone has reached its plateau: in the last fifth its validation loss moves by less than "
               "0.05", plateau(BASE, "loss"), "<", 0.05, "nats", "train longer")  # fmt: skip
TRUER = Need("the teacher is closer to the truth than the student trained without it, by 0.05 nats",
             measures.gain("test_truth_kl", BASE, "teacher"), bound=0.05, unit="nats",
             remedy="train the teacher longer")  # fmt: skip
RANDOM_SETTLED = Need("the student that starts at random has reached its plateau too",
                      plateau("random_init", "loss"), "<", 0.05, "nats", "train longer")  # fmt: skip
NEEDS = (KNOWS, LEARNT, SETTLED)

ABLATION = "ablation, GLUE dev; the means of single tables, no variance given"
CLAIMS = (
    Claim("D9", "The triple loss beats the masked LM alone from the same start, at the same number of updates.",
          gain(BASE), paper="not in the paper; a consistent drop, except for QNLI or QQP",
          source="V. Sanh, transformers#1180; an earlier loss, without the cosine", unit="points", needs=NEEDS,
          rank="headline", words="over the masked LM alone at equal updates"),
    Claim("D9c", "It also does so at equal compute (matrix products): the masked LM has more updates.",
          gain("baseline_compute"), paper="not in the paper", unit="points", needs=NEEDS, rank="table",
          words="over the masked LM alone at equal compute"),
    Claim("D11", "The student that also learns from its teacher ends closer to the true distribution of a hidden word.",
          gain(BASE, metric="test_truth_kl"), better="<", paper="not in the paper", unit="nats", needs=(TRUER, SETTLED),
          scale="only the demo corpus knows the truth", rank="table", words="nearer to the truth, at equal updates"),
    Claim("D1", "Leaving out the soft targets costs more than leaving out the masked LM.", gain("no_ce", "no_mlm"),
          paper="2.65 points more (v1: 3.16)", source=ABLATION, unit="points", published=2.65, needs=NEEDS,
          rank="table", words="what the soft targets are worth, over the masked LM"),
    Claim("D4", "Starting from the teacher's layers beats a random start under the same loss.", gain("random_init"),
          paper="3.69 points (v1: 4.83)", source=ABLATION, unit="points", published=3.69, rank="table",
          needs=(*NEEDS, RANDOM_SETTLED), words="over a random start"),
    Claim("D8", "A second distillation in the fine-tuning helps in question answering (F1).", _second("squad_f1"),
          paper="+1.1 F1", source="Table 2, SQuAD 1.1 dev", unit="points", published=1.1, needs=(KNOWS,),
          rank="table", words="F1, second distillation over fine-tuning alone",
          scale="questions about one sentence here"),
    Claim("D8e", "It also helps by exact match.", _second("squad_em"), paper="+1.4 exact match",
          source="Table 2, SQuAD 1.1 dev", unit="points", published=1.4, needs=(KNOWS,),
          scale="questions about one sentence here"),
    Claim("D8c", "It also helps on the classification tasks of the exam.", _second("macro"),
          paper="not tried in the paper", unit="points", needs=NEEDS),
    Claim("D2", "Leaving out the soft targets costs more than leaving out the cosine.", gain("no_ce", "no_cos"),
          paper="1.50 points more (v1: 0.99)", source=ABLATION, unit="points", published=1.50, needs=NEEDS),
    Claim("D2b", "Leaving out the cosine costs more than leaving out the masked LM.", gain("no_cos", "no_mlm"),
          paper="1.15 points more (v1: 2.17)", source=ABLATION, unit="points", published=1.15, needs=NEEDS),
    Claim("D3", "Leaving out the masked LM costs less than 0.5 points.", gain("no_mlm"), bound=0.5, better="<",
          paper="0.31 points (v1: 1.90)", source=ABLATION, unit="points", published=0.31, needs=NEEDS,
          scale="the paper's versions disagree: v1 would contradict it"),
    Claim("D3c", "The soft targets help: leaving them out costs points.", gain("no_ce"), paper="2.96 points (v1: 5.06)",
          source=ABLATION, unit="points", published=2.96, needs=NEEDS, words="with the soft targets over without"),
    Claim("D11c", "It ends closer to the truth at equal compute too.",
          gain("baseline_compute", metric="test_truth_kl"), better="<", paper="not in the paper", unit="nats",
          needs=(TRUER, SETTLED), scale="only the demo corpus knows the truth"),
)  # fmt: skip
