"""What the paper on LSSD claims, as statements that can fail."""

from __future__ import annotations

from kdutils.papers.lssd.convergence import (
    after_the_last_best,
    by_size,
    convergence_epochs,
    distance_to_best,
    epochs_taught,
    later,
    least_gain,
    measured,
    most_taught,
    overfitting,
    passes_over_the_largest,
    span_beyond_noise,
    sweep_sides,
)
from kdutils.study import measures
from kdutils.study.claims import Claim, Need
from kdutils.study.measures import Values, paired, value


def gain(over: str = "baseline", ours: str = "lssd"):
    """LSSD's mean test BLEU minus that of another arm, seed by seed."""
    return measures.gain("test_bleu", ours, over)


def over_control(control: str):
    """LSSD's mean test BLEU minus what the baseline's own best students give without distillation."""

    def measure(records: list[dict]) -> Values:
        return paired(value(records, "lssd", "test_bleu"), value(records, "baseline", f"{control}_bleu"))

    return measure


LONGER = "train longer, or on fewer data"
PEAKED = Need("every language of the baseline is past its best epoch: a tenth of the epochs follow the last of them",
              measured("baseline", after_the_last_best), ">=", 0.1, "of the epochs", LONGER)  # fmt: skip
READ = Need("the pairs of the largest language were read at least 5 times",
            measured("baseline", passes_over_the_largest), ">=", 5.0, "times", LONGER)  # fmt: skip
SPOKEN = Need("teachers speak: a language is taught in at least a fifth of the epochs",
              measured("lssd", most_taught), ">=", 0.2, "of the epochs", LONGER)  # fmt: skip
DECIDES = (PEAKED, READ, SPOKEN)
TABLE_1, ONE_RUN = "Table 1, best variant; TED-8-Diverse", "the paper has one run of each, and eight languages"
LAST = "where a loss still falls in the last epoch, its best epoch is a lower bound; language and size go together"
CLAIMS = (
    Claim("L4a", "Into the pivot, LSSD raises the mean test BLEU at the same number of updates.", gain(),
          paper="+1.77 BLEU (+1.57 on TED-8-Related, +1.02 on WMT-6)", source=TABLE_1, unit="BLEU", published=1.77,
          task="many_to_one", needs=DECIDES, rank="headline", words="into the pivot at equal updates", scale=ONE_RUN),
    Claim("L4b", "Out of the pivot, LSSD raises the mean test BLEU at the same number of updates.", gain(),
          paper="+0.70 BLEU (+0.42 on TED-8-Related, +0.69 on WMT-6)", source=TABLE_1, unit="BLEU", published=0.70,
          task="one_to_many", needs=DECIDES, rank="table", words="out of the pivot at equal updates", scale=ONE_RUN),
    Claim("L4c", "Into the pivot, LSSD is above a baseline with a third more updates, which is more than LSSD costs.",
          gain("baseline_compute"), paper="not compared; 7.6 against 5.7 hours", source="Section 8", unit="BLEU",
          task="many_to_one", needs=DECIDES, rank="table", words="into the pivot at equal compute"),
    Claim("L4o", "Into the pivot, one LSSD student is above the baseline with a checkpoint for each language.",
          over_control("own_best"), paper="not compared in BLEU", source="ours: a control without distillation",
          unit="BLEU", task="many_to_one", needs=DECIDES, rank="table",
          words="into the pivot over each language's own best checkpoint"),
    Claim("L2", "LSSD lowers the performance deficit (8): what one checkpoint for all costs the languages.",
          measured("lssd", distance_to_best, "baseline"), paper="0.27 to 0.19 (Adaptive), unit not printed",
          source="Table 3, TED-8-Diverse", unit="nats", better="<", task="many_to_one", rank="table",
          needs=(PEAKED, SPOKEN), scale="a deficit also shrinks where a language's best loss gets worse"),
    Claim("L1b", "Without LSSD the largest language is at its best after the smallest.", measured("baseline", later),
          paper="epoch 49 (kor, fra) after 14 (bos)", source="Figure 1", unit="epochs", task="many_to_one",
          needs=(PEAKED,), rank="table", scale="language and size go together"),
    Claim("L4m", "LSSD is above the baseline with the mean of the weights of each language's own best checkpoint.",
          over_control("average"), paper="a script of the official code, no number seen", unit="BLEU",
          needs=DECIDES, words="over the mean of the own best checkpoints"),
    Claim("L1a", "Without LSSD two languages' best epochs lie further apart than those of one language in two seeds.",
          span_beyond_noise, paper="14 and 17 against 49 and 49", source="Figure 1", unit="epochs", scale=LAST),
    Claim("L1c", "Without LSSD, the larger a language the later its best epoch.",
          measured("baseline", by_size(convergence_epochs)), paper="14 and 17 against 49 and 49", source="Figure 1",
          unit="rank correlation", scale=LAST),
    Claim("L3", "No language loses more than 1 BLEU: the gain of the one that gains least on average.",
          least_gain("test_bleu", "lssd", "baseline"), paper="all gain; the least +1.00 (M2O), +0.04 (O2M)",
          source="Table 2, TED-8-Diverse", unit="BLEU", better=">", bound=-1.0, needs=DECIDES,
          scale="the least of several noisy means is biased downwards"),
    Claim("L4d", "LSSD lowers the test loss of the chosen checkpoint.",
          measures.gain("test_smoothed_loss", "lssd", "baseline"), paper="ours: a quieter measure than BLEU",
          unit="nats", better="<", needs=(SPOKEN,)),
    Claim("L5", "A teacher for each language is better than the best overall student as the teacher of all.",
          gain("overall"), paper="+0.68 BLEU (Whole: +1.57 against +0.89)", source="Table 4, TED-8-Diverse, M2O",
          unit="BLEU", published=0.68, needs=DECIDES),
    Claim("L6a", "The smaller a language, the more epochs it is taught in (rank correlation with its size).",
          measured("lssd", by_size(epochs_taught)), paper="expected, no number seen", unit="rank correlation",
          better="<", scale="language and size go together"),
    Claim("L7a", "Into the pivot, the best loss with an alpha above 1 is below the best with an alpha under 1.",
          sweep_sides("validation_smoothed_loss", "lssd", "alpha"), better="<",
          paper="BLEU 30.58 at 2.0, 29.91 at 0.5", source="Figure 4", unit="nats", over=("alpha",),
          task="many_to_one", scale="the paper's curve is of test BLEU"),
    Claim("L7b", "Out of the pivot, the best loss with an alpha under 1 is below the best with an alpha above 1.",
          sweep_sides("validation_smoothed_loss", "lssd", "alpha"), paper="BLEU 23.56 at 0.6, 23.30 at 1.0",
          source="Figure 4", unit="nats", over=("alpha",), task="one_to_many",
          scale="the paper's curve is of test BLEU and ends at 1"),
    Claim("L8", "The smallest language overfits less: its validation loss rises less from its lowest to the end.",
          measured("lssd", overfitting, "baseline"), paper="nearly flat where the baseline's rises steeply",
          source="Figure 3", unit="nats", better="<", needs=(PEAKED, SPOKEN)),
    Claim("L9", "LSSD is better than the same distillation from translators that were trained on one language each.",
          gain("individual"), paper="+1.25 BLEU (M2O), +1.24 (O2M)", source=TABLE_1,
          unit="BLEU", scale="here those teachers have LSSD's gate and weight and teach every batch from the first",
          needs=DECIDES),
    Claim("L10", "Into the pivot, Adaptive is better than Whole.", gain("whole"), paper="+0.20 BLEU (30.77 and 30.57)",
          source="Table 1, TED-8-Diverse", unit="BLEU", published=0.20, task="many_to_one", needs=DECIDES),
    Claim("LR", "Into the pivot, the form of the paper is better than that of the released code.", gain("released"),
          paper="not compared", source="ours", unit="BLEU", task="many_to_one", needs=(SPOKEN,)),
)  # fmt: skip
