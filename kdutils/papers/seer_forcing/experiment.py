"""Seer Forcing's experiment: settings with their sources, arms."""

from __future__ import annotations

from kdutils.core.settings import Setting, Settings
from kdutils.papers.seer_forcing.method import SeerForcing, passes
from kdutils.study.experiment import Arm, Experiment, plain
from kdutils.tasks.translation import Translation

README, CODE = "README of the official code", "official code"
SETTINGS = Translation.settings_table.extended(
    Setting("alpha", 0.75, 0.5, 0.5, "weight of the labels in the conventional decoder; the seer has 1 - alpha",
            f"{README}: 0.5, and 0.25 for NIST"),  # 0.75: the best of four on the grammar's tuning seeds
    Setting("reading", "reversed", "reversed", "reversed", "future stream: reversed (as released) or masked (as drawn)",
            f"{CODE}, transformer.py 779"),
    Setting("shift", 2, 2, 2, "the future begins so many words on; 1 shows the answer, 60 nothing",
            f"{CODE}, transformer_layer.py 606"),
    Setting("seer_dropout", 0.1, 0.1, 0.1, "dropout of the seer decoder",
            f"{CODE}, transformer.py 1003: 0.1 whatever the flag; {README}: 0.1 or 0.2"),
    Setting("full_cross_entropy", False, False, False, "labels count in full, not by alpha", f"{CODE}, criterion 84"),
    Setting("l2_weight", 0.01, 0.01, 0.01, "of the L2 term, times 1 - alpha",
            "ours: best validation BLEU in the demo; not in the official code"),
    Setting("adversarial_weight", 0.003, 0.003, 0.003, "of the adversarial term, times 1 - alpha",
            "ours: best validation BLEU in the demo; not in the official code"),
    alpha={"bounds": (0.0, 1.0)},
    data={"paper": "hub:wmt/wmt16/de-en", "source": f"{README}: WMT16, and three others"},
    pair={"paper": "en-de", "source": f"{README}: WMT16 En-De"},
    vocab_size={"paper": 32_000, "source": "paper's value not seen"},
    max_length={"source": "paper's value not seen"},
    width={"source": f"{README}: transformer_wmt_en_de, 512"},
    layers={"source": f"{README}: transformer_wmt_en_de, 6 + 6"},
    heads={"paper": 8, "source": f"{README}: transformer_wmt_en_de, 8"},
    feedforward={"paper": 2048, "source": f"{README}: transformer_wmt_en_de, 2048"},
    dropout={"study": 0.3, "paper": 0.1, "source": f"{README}: 0.1, and 0.3 for NIST"},
    label_smoothing={"source": f"{README}: 0.1"},
    smoothing_convention={"source": f"{CODE}, criterion 12 to 29: epsilon/V"},
    max_tokens={"source": f"{README}: 4096"},
    accumulation={"paper": 8, "source": f"{README}: 4 GPUs x 2"},
    updates={"study": 3000, "paper": 100_000, "source": "not given"},
    learning_rate={"paper": 7e-4, "source": f"{README}: 7e-4"},
    warmup={"study": 500, "paper": 4000, "source": f"{README}: 4000"},
    schedule={"source": f"{README}: inverse square root"},
    weight_decay={"paper": 0.0, "source": f"{README}: none"},
    clip={"source": f"{README}: none"},
    precision={"source": f"{README}: fp16; here by the device"},
    select_by={"paper": "loss", "source": "not given; fairseq's default"},
    beams={"paper": 4, "source": f"{README}: 4, length penalty 0.6; here without one"},
)  # fmt: skip


def forcing(transfer: str = "kd", alpha: float | None = None, future: bool = True):
    """Makes the method of an arm from the settings; `alpha` overrides theirs, and a seer may see no future."""

    def method(s: Settings) -> SeerForcing:
        weight = {"kd": 1.0, "l2": s.l2_weight, "adversarial": s.adversarial_weight}[transfer]
        forced = SeerForcing(
            s.alpha if alpha is None else alpha, transfer, weight, s.full_cross_entropy, s.label_smoothing,
            s.smoothing_convention, reading=s.reading, shift=s.shift if future else s.max_length,
            dropout=s.seer_dropout,
        )  # fmt: skip
        forced.passes = passes(s.layers, s.width, s.feedforward, s.vocab_size)  # known before there is a model
        return forced

    return method


def equal_compute(settings: Settings) -> dict[str, int]:
    """The recipe of a baseline that may compute as much as seer forcing does."""
    s = settings
    return {"updates": round(passes(s.layers, s.width, s.feedforward, s.vocab_size) * s.updates)}


ARMS = (
    Arm("baseline", "baseline", plain),
    Arm("baseline_compute", "baseline, equal compute", plain, equal_compute),
    Arm("seer_forcing", "Seer Forcing", forcing()),
    Arm("joint", "both decoders, no teaching", forcing(alpha=1.0)),
    Arm("no_future", "a seer without a future", forcing(future=False), optional=True),
    Arm("l2", "L2 instead of distillation", forcing("l2"), optional=True),
    Arm("adversarial", "adversarial instead of distillation", forcing("adversarial"), optional=True),
)

EXPERIMENTS = (Experiment("seer_forcing", Translation, SETTINGS, ARMS),)
