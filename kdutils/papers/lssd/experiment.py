"""LSSD's experiments: into the pivot and out of it, settings with their sources, arms."""

from __future__ import annotations

from typing import Any

from torch import nn

from kdutils.core.settings import Setting, Settings, Table
from kdutils.papers.lssd.individual import individual_teachers
from kdutils.papers.lssd.method import LSSD
from kdutils.papers.lssd.multilingual import ManyToOne, OneToMany
from kdutils.study.experiment import Arm, Experiment, Trial, plain

SCRIPTS, CODE = "experiment_scripts of the official code, TED-8", "official code"


def _extended(table: Table, best: dict[str, float], **more: dict[str, Any]) -> Table:
    """The settings of a direction; the scripts weigh the teacher differently in each."""
    return table.extended(
        Setting("weight", best["adaptive"], best["adaptive"], best["adaptive"], "of the teacher, in LSSD", SCRIPTS),
        Setting("gate", "adaptive", "adaptive", "adaptive", "whole, selective or adaptive", f"{SCRIPTS}: all three"),
        Setting("level", "sentence", "sentence", "sentence", "of the gate: token or sentence", SCRIPTS),
        Setting("whole_weight", best["whole"], best["whole"], best["whole"], "of the teacher, in arm whole", SCRIPTS),
        Setting("selective_weight", best["selective"], best["selective"], best["selective"],
                "of the teacher, in arm selective, which gates tokens", SCRIPTS),
        Setting("combine", "halved", "halved", "halved",
                "of labels and teacher: halved (as released), sum or convex", f"{CODE}, criterion 121"),
        Setting("top_k", 0, 0, 0, "words of the teacher that count; 0: all", f"{CODE}, 143: not in the scripts"),
        Setting("teacher_warmup", 1, 1, 1, "epochs before anybody teaches", f"{CODE}: 1"),
        Setting("teacher_age", 2, 2, 2, "epochs after which a teacher may teach", f"{CODE}, task 636 to 641"),
        data={"paper": "ted8_diverse", "source": "TED-8-Diverse, as a folder: it is on no hub as parquet"},
        languages={"source": "TED-8-Diverse"},
        temperature={"demo": 5.0, "source": f"{SCRIPTS}: 1 (WMT-6: 5)"},
        epoch_rows={"demo": 1000, "source": "not set there: the size of the corpora"},
        # a fifth of the pairs: epochs are short, so that languages pass their best one and teachers grow old enough
        train_rows={"study": [1500, 5000, 900, 1800, 2000, 3000, 27_000, 900],
                    "source": "all: 5,664 (bos) to 205,640 (kor)"},
        validation_rows={"study": 500},  # looked at after each of some 30 epochs
        test_rows={"study": 500},  # 4,000 sentences to decode for each arm and selection, not 16,000
        vocab_size={"study": 16_000, "paper": 32_000, "source": "8,000 a language of TED there; joint here"},
        max_length={"source": "not seen"},
        width={"source": "transformer_iwslt_de_en: 512"},
        layers={"source": "transformer_iwslt_de_en: 6 + 6"},
        heads={"source": "transformer_iwslt_de_en: 4"},
        feedforward={"source": "transformer_iwslt_de_en: 1024"},
        dropout={"demo": 0.0, "study": 0.3, "paper": 0.3, "source": f"{SCRIPTS}: 0.3"},
        label_smoothing={"demo": 0.0, "source": f"{SCRIPTS}: 0.1"},
        smoothing_convention={"source": "label_smoothed_cross_entropy.py, 34: epsilon/(V-1)"},
        max_words={"demo": 5},
        max_tokens={"demo": 600, "paper": 8192, "source": f"{SCRIPTS}: 8192 a GPU"},
        accumulation={"paper": 8, "source": f"{SCRIPTS}: 8 GPUs"},
        updates={"demo": 650, "study": 6000, "paper": 200_000, "source": f"{SCRIPTS}: 200k, at most 300 epochs"},
        learning_rate={"paper": 2e-3, "source": f"{SCRIPTS}: 0.002"},
        warmup={"demo": 200, "study": 500, "source": f"{SCRIPTS}: 4000"},
        schedule={"source": f"{SCRIPTS}: inverse square root"},
        weight_decay={"paper": 0.0, "source": f"{SCRIPTS}: none"},
        clip={"source": f"{SCRIPTS}: none"},
        precision={"source": f"{SCRIPTS}: fp16; here by the device"},
        eval_every={"source": "--LS-epoch: every virtual epoch"},
        beams={"source": "fairseq's default: 5"},
        **more,
    )  # fmt: skip


MANY_TO_ONE = _extended(ManyToOne.settings_table, {"whole": 2.5, "selective": 1.0, "adaptive": 2.5})
ONE_TO_MANY = _extended(OneToMany.settings_table, {"whole": 0.6, "selective": 0.5, "adaptive": 0.5}).extended(
    Setting("language_aware", True, True, True, "the teacher speaks the target language's words only", SCRIPTS)
)


def taught(teachers: str = "language", kind: str = "", level: str = "", weight: str = "weight", aware: bool = True):
    """Makes the method of an arm from the settings; `kind` and `level` override theirs, `weight` names one of them.

    aware: whether the setting `language_aware` applies; the scripts leave it out of the selective gate.
    """

    def method(s: Settings) -> LSSD:
        return LSSD(
            s.languages, s[weight], teachers, s.teacher_warmup, s.teacher_age, s.label_smoothing,
            s.smoothing_convention, aware and s.get("language_aware", False), kind=kind or s.gate,
            level=level or s.level, combine=s.combine, top_k=s.top_k,
        )  # fmt: skip

    return method


def third_more(settings: Settings) -> dict[str, int]:
    """The recipe of a baseline that may compute as much as LSSD would if every batch were taught: its upper bound."""
    return {"updates": round(LSSD.passes * settings.updates)}


def _individual(trial: Trial) -> nn.ModuleDict:
    return individual_teachers(trial, plain(trial.settings))


ARMS = (
    Arm("baseline", "baseline", plain),
    Arm("baseline_compute", "baseline, a third more updates", plain, third_more),
    Arm("lssd", "LSSD", taught()),
    Arm("whole", "LSSD, whole", taught(kind="whole", weight="whole_weight")),
    Arm(
        "selective", "LSSD, selective", taught(kind="selective", level="token", weight="selective_weight", aware=False)
    ),
    Arm("overall", "one teacher for all", taught("overall")),
    Arm(
        "individual",
        "individual teachers",
        taught("individual"),
        teacher=_individual,
        besides=lambda s: {"updates": len(s.languages) * s.updates},
    ),  # fmt: skip
)

EXPERIMENTS = (
    Experiment("lssd", ManyToOne, MANY_TO_ONE, ARMS),
    Experiment("lssd", OneToMany, ONE_TO_MANY, ARMS),
)
