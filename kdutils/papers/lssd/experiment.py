"""LSSD's experiments: into the pivot and out of it, settings with their sources, arms, and two controls."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdutils.core.errors import unknown
from kdutils.core.settings import Setting, Settings, Table
from kdutils.papers.lssd.individual import individual_teachers
from kdutils.papers.lssd.method import LSSD, BestStudents
from kdutils.papers.lssd.multilingual import ManyToOne, OneToMany
from kdutils.papers.lssd.objective import FORMS
from kdutils.study.experiment import Arm, Experiment, Trial, plain

SETUP, SCRIPTS = "Section 4.1", "experiment_scripts of the official code, TED-8"
NOT_PRINTED = "not printed"


def _extended(table: Table, alpha: float, gate: str, released: float, **more: dict[str, Any]) -> Table:
    """The settings of a direction: the weight and the variant that the paper reports for it."""
    return table.extended(
        Setting("alpha", alpha, alpha, alpha, "weight of L_LSSD beside the cross-entropy (3)",
                f"{SETUP}: 2.0 many-to-one, 0.6 one-to-many, for all variants; Figure 4"),
        Setting("gate", gate, gate, gate, "whole, selective or adaptive (5) to (7)",
                "Table 2: Adaptive many-to-one, Whole one-to-many"),
        Setting("level", "sentence", "sentence", "sentence", "of the gate: sentence or token", "Equations (6), (7)"),
        Setting("form", "paper", "paper", "paper", "paper: Equations (3) to (7) as printed; released: the code's",
                "Equations (3) to (7)"),
        Setting("released_alpha", released, released, released, "alpha of the arm in the released form",
                f"{SCRIPTS}, Adaptive"),
        Setting("teacher_age", 2, 2, 2, "epochs after which a teacher may teach", "Algorithm 1: the second"),
        languages={"small": ["cs", "de", "fr"], "source": "Tables 5 and 6: TED-8-Diverse"},
        data={"small": "hub:Helsinki-NLP/opus-100/{pair}", "paper": "ted8_diverse",
              "source": "Tables 5 and 6: TED-8-Diverse, as a folder: it is on no hub as parquet"},
        temperature={"demo": 5.0, "small": 1.0, "source": f"{SETUP}: 1 (WMT-6: 5)"},
        epoch_rows={"demo": 1000, "grammar": 2400, "small": 3000, "study": 20_000,
                    "source": f"{NOT_PRINTED}; in the code the size of the corpora"},
        train_rows={"demo": [20, 60, 200, 600], "grammar": [60, 180, 540, 1600], "small": [300, 900, 2000],
                    "study": [1500, 5000, 900, 1800, 2000, 3000, 12_000, 900],
                    "source": "Tables 5 and 6: 5,664 (bos) to 205,640 (kor)"},
        validation_rows={"demo": 60, "grammar": 200, "small": 500, "study": 300},
        test_rows={"demo": 30, "grammar": 300, "small": 500, "study": 300},
        max_words={"demo": 5, "small": 0},
        vocab_size={"small": 3000, "study": 8000, "paper": 32_000,
                    "source": f"{SETUP}: 8,000 a language for TED; joint here"},
        max_length={"small": 40, "source": NOT_PRINTED},
        width={"grammar": 128, "study": 256, "source": f"{SETUP}: 512"},
        layers={"demo": 1, "small": 1, "source": f"{SETUP}: 6 + 6"},
        heads={"paper": 8, "source": f"{SETUP}: 8 (the scripts for TED: 4)"},
        feedforward={"grammar": 256, "small": 512, "paper": 2048, "source": f"{SETUP}: 2048 (the scripts: 1024)"},
        dropout={"demo": 0.3, "study": 0.3, "paper": 0.3, "source": f"{SETUP}: 0.3"},
        label_smoothing={"source": f"{SETUP}: 0.1"},
        smoothing_convention={"source": f"{NOT_PRINTED}; fairseq's: epsilon/(V-1)"},
        max_tokens={"demo": 300, "small": 1000, "paper": 8192, "source": f"{SETUP}: 64,000 a batch"},
        accumulation={"paper": 8, "source": f"{SETUP}: 64,000 tokens a batch"},
        updates={"demo": 1200, "grammar": 4000, "small": 2500, "study": 4500, "paper": 200_000,
                 "source": f"{SCRIPTS}: 200k, at most 300 epochs"},
        learning_rate={"grammar": 4e-3, "small": 3e-3, "paper": 2e-3, "source": f"{NOT_PRINTED}; {SCRIPTS}: 0.002"},
        warmup={"demo": 80, "grammar": 200, "small": 200, "study": 400,
                "source": f"{NOT_PRINTED}; {SCRIPTS}: 4000"},
        schedule={"source": f"{SETUP}: that of Vaswani et al., inverse square root"},
        weight_decay={"paper": 0.0, "source": f"{NOT_PRINTED}; {SCRIPTS}: none"},
        clip={"source": f"{NOT_PRINTED}; {SCRIPTS}: none"},
        precision={"source": f"{SETUP}: half precision; here by the device"},
        eval_every={"source": "Algorithm 1: every epoch"},
        checkpoint_every={"grammar": 500, "small": 500},
        select_by={"source": "Equation (2)"},
        beams={"source": f"{SETUP}: 5"},
        **more,
    )  # fmt: skip


MANY_TO_ONE = _extended(ManyToOne.settings_table, alpha=2.0, gate="adaptive", released=2.5)
ONE_TO_MANY = _extended(OneToMany.settings_table, alpha=0.6, gate="whole", released=0.5).extended(
    Setting("language_aware", True, True, True, "in the released form the teacher speaks the target language's words "
            "only", f"{SCRIPTS}: some; not in the paper")
)  # fmt: skip


def taught(teachers: str = "language", gate: str = "", form: str = "") -> Callable[[Settings], LSSD]:
    """Makes the method of an arm from the settings; `gate` and `form` take the place of theirs where they are given."""

    def method(s: Settings) -> LSSD:
        alpha = s.released_alpha if form == "released" else s.alpha
        chosen = form or s.form
        if chosen not in FORMS:
            raise unknown("form", chosen, FORMS)
        aware = chosen == "released" and s.get("language_aware", False)
        return LSSD(
            s.languages, alpha, teachers, s.teacher_age, s.label_smoothing, s.smoothing_convention, aware,
            kind=gate or s.gate, level=s.level, **FORMS[chosen],
        )  # fmt: skip

    return method


def remembering(settings: Settings) -> BestStudents:
    """The baseline: the cross-entropy of the settings, and a copy of each language's best student for the controls."""
    return BestStudents(settings.languages, settings.label_smoothing, settings.smoothing_convention)


def third_more(settings: Settings) -> dict[str, int]:
    """The recipe of a baseline that may compute as much as LSSD would if every batch were taught: its upper bound."""
    return {"updates": round(LSSD.passes * settings.updates)}


def _individual(trial: Trial) -> nn.ModuleDict:
    return individual_teachers(trial, plain(trial.settings))


ARMS = (
    Arm("baseline", "baseline", remembering),
    Arm("baseline_compute", "baseline, a third more updates", plain, third_more, optional=True),
    Arm("lssd", "LSSD", taught()),
    Arm("whole", "LSSD, whole", taught(gate="whole"), optional=True),
    Arm("selective", "LSSD, selective", taught(gate="selective"), optional=True),
    Arm("adaptive", "LSSD, adaptive", taught(gate="adaptive"), optional=True),
    Arm("released", "LSSD as released", taught(gate="adaptive", form="released"), optional=True),
    Arm("overall", "one teacher for all", taught("overall"), optional=True),
    Arm("individual", "individual teachers", taught("individual"), teacher=_individual, optional=True,
        besides=lambda s: {"updates": len(s.languages) * s.updates}),
)  # fmt: skip
REMEMBER = ("baseline", "lssd")  # the arms that take the exam


def exam(trial: Trial, model: PreTrainedModel) -> dict[str, float]:
    """What the best students of each language would give without distillation, from the copies of the training.

    own_best_bleu: each language translated by its own best student; average_bleu: all by one model with the mean of
    those weights. Both are means over the languages, beside the values of each.
    """
    method, languages = trial.method, trial.settings.languages
    if trial.arm not in REMEMBER or not isinstance(method, BestStudents):
        return {}
    own = {language: method.best_weights(language) for language in languages}
    mean = {name: sum(one[name].float() for one in own.values()) / len(own) for name in own[languages[0]]}
    network, found = copy.deepcopy(model), {}
    for control, weights in (("own_best", own), ("average", dict.fromkeys(languages, mean))):
        for language in languages:
            _fill(network, weights[language])
            found[f"{control}_bleu_{language}"] = trial.task.tested(network, language)[2]["bleu"]
        found[f"{control}_bleu"] = sum(found[f"{control}_bleu_{one}"] for one in languages) / len(languages)
    return found


@torch.no_grad()
def _fill(network: nn.Module, weights: dict[str, Tensor]) -> None:
    for name, parameter in network.named_parameters():
        parameter.copy_(weights[name])


EXPERIMENTS = (
    Experiment("lssd", ManyToOne, MANY_TO_ONE, ARMS, exam=exam),
    Experiment("lssd", OneToMany, ONE_TO_MANY, ARMS, exam=exam),
)
