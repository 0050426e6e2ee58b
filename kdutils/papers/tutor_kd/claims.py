"""What is claimed of Tutor-KD, as statements that can fail: its tables could be had, its text could not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kdutils.study import exams, measures
from kdutils.study.claims import Claim, Need
from kdutils.study.measures import Values, paired, plateau, sweep_gain, trend, value

OURS, KD, BASE = "tutor_kd", "kd", "baseline"
SIZE = ("student_layers", "student_width", "student_embedding", "student_feedforward", "updates")


def gain(theirs: str, ours: str = OURS, metric: str = "exam_macro") -> Callable[[list[dict]], Values]:
    """A measure: a metric of Tutor-KD minus that of another arm, seed by seed; by default the downstream score."""
    return measures.gain(metric, ours, theirs)


def _on_held_out(*names: str) -> Callable[[list[dict]], Values]:
    """A measure: the mean of some scores over words that the tutor wrote minus that over the teacher's own samples."""

    def measure(records: list[dict]) -> Values:
        sides = [[value(records, OURS, f"test_{who}_{name}") for name in names] for who in ("tutor", "sampled")]
        tutor, sampled = ({seed: sum(one[seed] for one in side) for seed in side[0]} for side in sides)
        return paired(tutor, sampled)

    return measure


def _earned_by_policy(records: Sequence[dict]) -> Values:
    """R_T + R_S of the tutor's words on held-out text, minus those of a tutor that is trained by its KL alone."""
    having = [record for record in records if {OURS, "kl_only"} <= record["arms"].keys()]
    names = ("test_tutor_teacher_reward", "test_tutor_student_reward")
    parts = [measures.gain(name, OURS, "kl_only")(having) for name in names if having]
    return {seed: sum(part[seed] for part in parts) for seed in parts[0]} if parts else {}


def _gain_by_size(records: Sequence[dict]) -> Values:
    """Rank correlation of the student's layers with the lead over KD: -1 where every smaller student gains more."""
    return trend(dict(sweep_gain(records, "exam_macro", OURS, KD, "student_layers")))


def _smallest(records: Sequence[dict]) -> list[dict]:
    return [record for record in records if record["settings"]["student_layers"] == 1]


def _attention_in_the_smallest(records: Sequence[dict]) -> Values:
    """Downstream score with the attention loss minus without, of students with one layer."""
    found = _smallest(records)
    return measures.gain("exam_macro", OURS, "no_attention")(found) if found else {}


KNOWS = Need("the teacher knows more: its downstream score exceeds that of the student trained without it by 2 points",
             gain(BASE, "teacher"), bound=2.0, unit="points", remedy="train the teacher longer")  # fmt: skip
LEARNT = Need("the students have learnt something: KD's downstream score lies above chance by 5 points",
              lambda records: exams.above_chance(records, KD), bound=5.0, unit="points",
              remedy="train longer")  # fmt: skip
SETTLED = Need("the student has reached its plateau: in the last fifth the loss of its head moves by less than 0.02",
               plateau(OURS, "loss"), "<", 0.02, "nats", "train longer")  # fmt: skip
NEEDS = (KNOWS, LEARNT, SETTLED)

TABLES = "result tables of the official repository, GLUE dev"
ABLATION = "a summary of the paper; its numbers could not be had"
ONE_RUN = "the tables have one run of each; no variance is given"
CLAIMS = (
    Claim("T1", "Tutor-KD beats the same student distilled on random masks, without a tutor, at equal updates.",
          gain(KD), paper="+2.9 points (6 layers, width 264: 75.4 to 78.2 by the means of the rows)", source=TABLES,
          unit="points", published=2.87, needs=NEEDS, rank="headline", words="over KD at equal updates", scale=ONE_RUN),
    Claim("T1c", "It also does so at equal compute: KD has more updates.", gain("kd_compute"),
          paper="not compared", unit="points", needs=NEEDS, rank="table", words="over KD at equal compute"),
    Claim("T6", "The tutor's words earn a higher reward R_T + R_S than the teacher's own samples, on held-out text.",
          _on_held_out("teacher_reward", "student_reward"), paper="what the objective says",
          source="follows from the policy gradient, if it works", unit="reward", rank="table",
          words="reward over the teacher's samples"),
    Claim("T6k", "They earn more than the words of a tutor that is trained by its KL to the teacher alone.",
          _earned_by_policy, paper="not compared", source="ours: the control that shows the policy gradient at work",
          unit="reward", words="reward over a tutor without policy gradient"),
    Claim("T7", "They are easy for the teacher: it sees the original word better than with the teacher reward off.",
          gain("no_teacher_reward", metric="test_tutor_easy"), paper="the mechanism of the abstract, no number",
          source="abstract", unit="probability", rank="table", words="p_T(x | X'), teacher reward on over off"),
    Claim("T8", "They are hard for the student: it is further off, |a_T - a_S|, than on the teacher's own samples.",
          _on_held_out("student_reward"), paper="the mechanism of the abstract, no number", source="abstract",
          unit="", rank="table", words="student's error over that on the teacher's samples"),
    Claim("T5", "The tutor's words teach more than the teacher's own samples.", gain("sampled"),
          paper="a meaningful effect, no number", source=ABLATION, unit="points", needs=NEEDS,
          words="over the teacher's samples"),
    Claim("T5a", "They teach more than the teacher's likeliest words.", gain("argmax"),
          paper="a meaningful effect, no number", source=ABLATION, unit="points", needs=NEEDS,
          words="over the likeliest words"),
    Claim("T5r", "They teach more than random words.", gain("random"), paper="a meaningful effect, no number",
          source=ABLATION, unit="points", needs=NEEDS, rank="table", words="over random words"),
    Claim("T2", "Leaving out the teacher reward costs points.", gain("no_teacher_reward"),
          paper="a meaningful effect, no number", source=ABLATION, unit="points", needs=NEEDS,
          words="with the teacher reward over without"),
    Claim("T3", "Leaving out the student reward costs points.", gain("no_student_reward"),
          paper="a meaningful effect, no number", source=ABLATION, unit="points", needs=NEEDS,
          words="with the student reward over without"),
    Claim("T4", "The modified logit teaches more than the distribution of the word, on the tutor's text.",
          gain("plain_logit"), paper="a meaningful effect, no number", source=ABLATION, unit="points", needs=NEEDS,
          words="modified over plain logits"),
    Claim("T9", "Without its KL to the teacher the tutor writes implausible words: p_T(x' | X^M) is lower.",
          gain("no_tutor_kl", metric="test_tutor_plausible"), paper="implausible tokens, no number",
          source="a summary of the paper", unit="probability", words="p_T(x' | X^M), with the KL over without"),
    Claim("T9d", "Its KL to the teacher helps: leaving it out costs points.", gain("no_tutor_kl"),
          paper="not stated", source="ours, asked when random words had been seen to do well", unit="points",
          needs=NEEDS, words="with the tutor's KL over without"),
    Claim("T10", "The lead over KD grows as the student shrinks.", _gain_by_size,
          paper="+2.6, +2.9, +3.4 points with 12, 6 and 2 layers, by the means of the rows", source=TABLES,
          unit="rank correlation", better="<", over=SIZE, scale="students of 4, 2 and 1 layers"),
    Claim("T11", "In the smallest student the attention loss does not help.", _attention_in_the_smallest,
          paper="left out with 2 layers", source="a footnote of the result tables", unit="points", better="<=",
          over=SIZE, scale="students of one layer"),
    Claim("T12", "It judges words more like the grammar does than KD, whose judgement is the ratio that it predicts.",
          gain(KD, metric="test_judged_error"), paper="not measured", source="ours", unit="", better="<", needs=NEEDS,
          scale="only the demo corpus knows the truth"),
    Claim("T13", "It beats the masked LM alone at equal updates.", gain(BASE), paper="not compared", unit="points",
          needs=NEEDS, words="over the masked LM alone at equal updates"),
    Claim("T13c", "It also does so at equal compute.", gain("baseline_compute"), paper="not compared", unit="points",
          needs=NEEDS, words="over the masked LM alone at equal compute"),
)  # fmt: skip
