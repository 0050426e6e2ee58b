"""What the paper on CBBGCA claims, as statements that can fail."""

from __future__ import annotations

import operator
from collections.abc import Callable

from kdutils.study import measures
from kdutils.study.claims import Claim, Need
from kdutils.study.measures import Values, paired, peak_inside, plateau, sweep_setting, value

OURS, BASE = "cbbgca", "baseline"


def gain(metric: str, theirs: str, ours: str = OURS) -> Callable[[list[dict]], Values]:
    """A measure: CBBGCA's metric minus another arm's, seed by seed."""
    return measures.gain(metric, ours, theirs)


def _before(split: str, one: str, other: str) -> Callable[[list[dict]], Values]:
    """A measure: by how much one loss exceeds another on the selected words of a split when stage 2 begins, in nats."""

    def measure(records: list[dict]) -> Values:
        sides = (value(records, OURS, f"start_{split}_{name}_loss") for name in (one, other))
        return paired(*sides)

    return measure


def _unconfident(arm: str) -> Callable[[list[dict]], Values]:
    """A measure: the share of training words to which an arm gives at most 0.2, in percent (Table 5)."""

    def measure(records: list[dict]) -> Values:
        tenths = (value(records, arm, f"train_p_{number}") for number in (0, 1))
        return paired(*tenths, lambda first, second: 100 * (first + second))

    return measure


def _fewer(records: list[dict]) -> Values:
    return paired(_unconfident(OURS)(records), _unconfident(BASE)(records))


def _seconds(records: list[dict]) -> Values:
    metric = "seconds_per_update"
    return paired(value(records, OURS, metric), value(records, "labels", metric), operator.truediv)


def _peak(setting: str, low: float, high: float) -> Callable[[list[dict]], Values]:
    """A measure: the best validation BLEU of a sweep inside an interval minus the best outside."""
    return lambda records: peak_inside(sweep_setting(records, "validation_bleu", OURS, setting), low, high)


def _joint_against_restart(records: list[dict]) -> Values:
    """Test BLEU of stage 2 without a teacher behind a joint stage 1, minus that behind a stage 1 with lambda = 1."""
    points = sweep_setting(records, "test_bleu", "labels", "joint_weight")
    joint = next((values for weight, values in points.items() if weight < 1), {})
    return paired(joint, points[1.0]) if joint and 1.0 in points else {}


def _plateau(arm: str, what: str) -> Need:
    statement = f"{what} has reached its plateau: in the last fifth its validation BLEU moves by less than 1"
    return Need(statement, plateau(arm, "bleu"), "<", 1.0, "BLEU", "train longer")


PLATEAU = _plateau(BASE, "the Transformer")
KNOWS = Need("the teacher knows more than the pass that it corrects: the loss of that pass on the training words that "
             "are distilled, minus the teacher's, when stage 2 begins", _before("train", "student", "teacher"),
             unit="nats", remedy="train stage 1 longer, or on more data")  # fmt: skip
TOUCHED = Need("distillation has a say: the share of the training words that are distilled when stage 2 begins",
               lambda records: value(records, OURS, "start_train_selected_share"), bound=0.05,
               remedy="choose more data, or a larger epsilon")  # fmt: skip
TEACHES = (PLATEAU, KNOWS, TOUCHED)  # where distillation itself is judged
UNSURE = Need("there are unconfident words: the share of training words below 0.2 under the Transformer",
              _unconfident(BASE), bound=1.0, unit="%", remedy="choose more data, or a smaller model")  # fmt: skip

TABLE_1, TABLE_3, TABLE_4 = "Table 1, WMT14 En-De", "Table 3", "Table 4"
ONE_RUN = "the paper has one run of each; no variance is given"
CLAIMS = (
    Claim("C1", "CBBGCA raises the test BLEU over the Transformer at the same total number of updates.",
          gain("test_bleu", BASE), paper="+1.02 BLEU (27.30 to 28.32)", source=TABLE_1, unit="BLEU", published=1.02,
          needs=(PLATEAU, KNOWS), rank="headline", words="over the Transformer at equal updates", scale=ONE_RUN),
    Claim("C4", "On the training words that are distilled, the teacher knows more than the translator itself without "
          "dropout.", _before("train", "teacher", "clean"), paper="not measured",
          source="ours: it decides what distillation can bring", unit="nats", better="<", rank="table",
          scale="negative log-likelihood of the right words when stage 2 begins"),
    Claim("C1c", "It raises the test BLEU at the same compute: the Transformer has more updates.",
          gain("test_bleu", "baseline_compute"), paper="not compared", unit="BLEU", needs=(PLATEAU, KNOWS),
          rank="table", words="over the Transformer at equal compute",
          scale="counted as if every sentence had a selected word"),
    Claim("C1m", "It raises the test BLEU over stage 1 for as long.", gain("test_bleu", "multi"),
          paper="+0.44 BLEU (27.88 to 28.32)", source=TABLE_1, unit="BLEU", published=0.44, needs=TEACHES,
          rank="table", words="over stage 1 for as long"),
    Claim("C2b", "Distillation helps: stage 2 with its teacher has a higher test BLEU than without.",
          gain("test_bleu", "labels"), paper="+0.40 BLEU (27.92 to 28.32)", source=TABLE_3, unit="BLEU", published=0.40,
          needs=TEACHES, rank="table", words="over stage 2 without a teacher"),
    Claim("C3", "Unconfident words are better to distil than as many random ones.", gain("test_bleu", "random"),
          paper="+0.23 BLEU (28.09 to 28.32)", source=TABLE_4, unit="BLEU", published=0.23, needs=TEACHES,
          rank="table", words="over as many random words"),
    Claim("C2a", "Joint training alone raises the test BLEU over the Transformer at equal updates.",
          gain("test_bleu", BASE, "multi"), paper="+0.58 BLEU (27.30 to 27.88)", source=TABLE_1, unit="BLEU",
          published=0.58, needs=(PLATEAU,), words="stage 1 to the end over the Transformer"),
    Claim("C2r", "Joint training helps, and not the restart of a second stage: it beats a stage 1 with lambda = 1.",
          _joint_against_restart, paper="not tested", source="ours: a control", unit="BLEU", over=("joint_weight",),
          words="joint over plain stage 1, then labels only"),
    Claim("C3a", "Unconfident words are better to distil than all words, hidden at once.",
          gain("test_bleu", "all_at_once"), paper="+0.68 BLEU (27.64 to 28.32)", source=TABLE_4, unit="BLEU",
          published=0.68, needs=(PLATEAU,), words="over all words at once"),
    Claim("C3b", "Distilling all words at once is worse than no distillation.",
          gain("test_bleu", "labels", "all_at_once"), paper="-0.28 BLEU (27.92 to 27.64)", source="Tables 3 and 4",
          unit="BLEU", published=-0.28, better="<", needs=(PLATEAU,)),
    Claim("C3p", "Unconfident words are better to distil than all words in five parts.", gain("test_bleu", "parts"),
          paper="+0.26 BLEU (28.06 to 28.32)", source=TABLE_4, unit="BLEU", published=0.26, needs=TEACHES),
    Claim("C3w", "Unconfident words are better to distil than those that the translator gets wrong.",
          gain("test_bleu", "wrong"), paper="+0.34 BLEU (27.98 to 28.32)", source=TABLE_4, unit="BLEU", published=0.34,
          needs=TEACHES),
    Claim("C3h", "Unconfident words are better to distil than confident ones.", gain("test_bleu", "confident"),
          paper="+0.47 BLEU (27.85 to 28.32)", source=TABLE_4, unit="BLEU", published=0.47, needs=TEACHES),
    Claim("C4v", "On held-out words of which the translator is unconfident, the teacher knows more than it.",
          _before("validation", "teacher", "clean"), paper="not measured", source="ours", unit="nats", better="<"),
    Claim("C4s", "The masked language model teaches more than the translator's own pass without dropout.",
          gain("test_bleu", "itself"), paper="not compared", source="ours: a control without a second model",
          unit="BLEU", needs=TEACHES, words="over its own clean pass as teacher"),
    Claim("C5", "Fewer training words are left to which the translator gives at most 0.2.", _fewer,
          paper="31.86 % to 31.17 %", source="Table 5", unit="points", published=-0.69, better="<",
          needs=(PLATEAU, UNSURE)),
    Claim("C6", "An alpha that falls is better than one that stays.", gain("test_bleu", "constant"),
          paper="not tested: only alpha = 0 is", unit="BLEU", needs=TEACHES),
    Claim("C7", "The paper's loss is better than a mix in which all labels fade in.", gain("test_bleu", "mixed"),
          paper="not tested", source="ours: a summary reads so", unit="BLEU", needs=(PLATEAU,)),
    Claim("C8", "An update of stage 2 costs no more than 4/3 of a plain one, and a tenth of that.", _seconds,
          paper="not reported", unit="times", better="<=", bound=4.4 / 3,
          scale="evaluations included; the teacher runs on sentences with selected words only"),
    Claim("C9", "Not sharing the encoder in stage 1 costs BLEU.", gain("test_bleu", OURS, "unshared"),
          paper="-0.56 BLEU (28.32 to 27.76)", source=TABLE_3, unit="BLEU", published=-0.56, better="<",
          needs=(PLATEAU,)),
    Claim("C10l", "A lambda of 0.6 to 0.9 is better on the validation split than 0.5 and 1.",
          _peak("joint_weight", 0.6, 0.9),
          paper="26.91 at 0.7, 26.34 at 0.5, 26.28 at 1", source="Figure 3, digitised, after stage 1", unit="BLEU",
          over=("joint_weight", "updates", "eval_every")),
    Claim("C10e", "An epsilon of 0.1 to 0.25 is better on the validation split than 0 and 0.3.",
          _peak("threshold", 0.1, 0.25), paper="27.30 at 0.2, 26.96 at 0, 27.18 at 0.3", source="Figure 3, digitised",
          unit="BLEU", over=("threshold", "updates", "eval_every")),
)  # fmt: skip
