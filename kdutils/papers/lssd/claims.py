"""What the paper on LSSD claims, as statements that can fail."""

from __future__ import annotations

from kdutils.papers.lssd.convergence import (
    by_size,
    convergence_epochs,
    distance_to_best,
    epochs_taught,
    later,
    least_gain,
    measured,
    overfitting,
    span_beyond_noise,
    sweep_sides,
    taught_otherwise,
)
from kdutils.papers.lssd.experiment import SCRIPTS
from kdutils.study import measures
from kdutils.study.claims import Claim


def gain(over: str = "baseline"):
    """LSSD's mean test BLEU minus that of another arm, seed by seed."""
    return measures.gain("test_bleu", "lssd", over)


ABSTRACT = "abstract: a direction, no number seen"
RERUN = (
    "Huang et al. 2023, Table 1: a later paper's re-run by the first author; the paper's own tables were not at hand"
)
OURS = "ours: follows from the method"
SWEPT = "by the validation loss; in the halved form the weight also sets how much a taught language counts in all"
LAST = "where a loss still falls in the last epoch, its best epoch is a lower bound; language and size go together"
SMALL = "the paper has 31.5 million parameters without embeddings; temperature 1, dropout 0.3, smoothing 0.1"
CLAIMS = (
    Claim("L1a", "Without LSSD two languages' best epochs lie further apart than those of one language in two seeds.",
          span_beyond_noise, paper=ABSTRACT, unit="epochs", scale=LAST),
    Claim("L1b", "Without LSSD the largest language reaches its best validation loss after the smallest.",
          measured("baseline", later), paper=ABSTRACT, unit="epochs", scale=LAST),
    Claim("L1c", "Without LSSD, the larger a language the later its best epoch.",
          measured("baseline", by_size(convergence_epochs)), paper=ABSTRACT, unit="rank correlation", scale=LAST),
    Claim("L2", "LSSD lowers the summed distance of the chosen checkpoint to each language's own best loss.",
          measured("lssd", distance_to_best, "baseline"), paper="the method's purpose, no number seen", unit="nats",
          better="<", scale="a distance also shrinks where a language's best loss gets worse"),
    Claim("L3", "No language loses more than 1 BLEU: the gain of the one that gains least on average.",
          least_gain("test_bleu", "lssd", "baseline"), paper=ABSTRACT, unit="BLEU", better=">", bound=-1.0,
          scale="the abstract: all gain; the least of several noisy means is biased downwards"),
    Claim("L4a", "LSSD raises the mean test BLEU into the pivot at the same number of updates.", gain(),
          paper="+1.77 (or +1.69) on TED-8-Diverse, +0.60 on WMT-6", source=RERUN, unit="BLEU", published=1.77,
          task="many_to_one", scale=SMALL,
          rank="headline", words="at equal updates"),
    Claim("L4b", "LSSD raises the mean test BLEU out of the pivot at the same number of updates.", gain(),
          paper="+0.80 on TED-8-Diverse, +0.84 on WMT-6", source=RERUN, unit="BLEU", published=0.80,
          task="one_to_many", scale=SMALL),
    Claim("L4c", "LSSD is above a baseline with a third more updates, which is more than LSSD costs.",
          gain("baseline_compute"), paper="ours", unit="BLEU"),
    Claim("L4d", "LSSD lowers the test loss of the chosen checkpoint.",
          measures.gain("test_smoothed_loss", "lssd", "baseline"), paper="ours: a quieter measure than BLEU",
          unit="nats", better="<"),
    Claim("L5", "A teacher for each language is better than the best overall student as the teacher of all.",
          gain("overall"), paper="implied by a switch of the official code, no number seen", unit="BLEU"),
    Claim("L6a", "The smaller a language, the more epochs it is taught in (rank correlation with its size).",
          measured("lssd", by_size(epochs_taught)), paper="expected, no number seen", unit="rank correlation",
          better="<", scale="language and size go together"),
    Claim("L6b", "Each language is taught when Equations (3) and (4) ask for it (but for a last, short epoch).",
          measured("lssd", taught_otherwise), paper=OURS, unit="epochs", kind="exact"),
    Claim("L7a", "Into the pivot, the best loss with a weight above 1 is below the best with a weight under 1.",
          sweep_sides("validation_smoothed_loss", "lssd", "weight"), better="<",
          paper="scripts: 2 to 2.5 (whole, adaptive)", source=SCRIPTS, unit="nats", over=("weight",),
          task="many_to_one", scale=SWEPT),
    Claim("L7b", "Out of the pivot, the best loss with a weight under 1 is below the best with a weight above 1.",
          sweep_sides("validation_smoothed_loss", "lssd", "weight"), paper="scripts: 0.5 to 0.8", source=SCRIPTS,
          unit="nats", over=("weight",), task="one_to_many", scale=SWEPT),
    Claim("L8", "The smallest language overfits less: its validation loss rises less from its lowest to the end.",
          measured("lssd", overfitting, "baseline"), paper=ABSTRACT, unit="nats", better="<"),
    Claim("L9", "LSSD is better than the same distillation from translators that were trained on one language each.",
          gain("individual"), paper="+1.25 (M2O), +1.24 (O2M) on TED-8-Diverse; +0.99, +1.19 on WMT-6", source=RERUN,
          unit="BLEU", scale="here those teachers have LSSD's gate and weight and teach every batch from the first; "
          "the numbers are about Multi-Distill, whose form in the re-run was not seen"),
)  # fmt: skip
