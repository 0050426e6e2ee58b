"""What a process on a pretend GPU does: train every arm of every experiment, or run one notebook, all of it tiny.

    python tests/pretend_gpu.py --capability 7.5 -m tests.gpu_runs experiments FOLDER r_drop/translation
    python tests/pretend_gpu.py --capability 9.0 -m tests.gpu_runs notebook FOLDER notebooks/03_r_drop.ipynb

In a test, `on_a_gpu("9.0", "notebook", ...)` is such a process.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from kdutils.core.errors import Paused
from kdutils.core.files import write_json
from kdutils.core.settings import Settings, Table
from kdutils.runner import load
from kdutils.study import kept, running
from kdutils.study.experiment import resolve
from kdutils.tasks import masked_lm
from tests.pretend_gpu import run_notebook, skip_without_compiler
from tests.tiny import HOME, SMALL, timeless

TRAINED = {**SMALL, "precision": "auto", "updates": 4, "vocab_size": 400, "max_tokens": 200}
TRANSLATED = {**TRAINED, "max_length": 20, "validation_rows": 6, "test_rows": 4}  # an untrained model ends nowhere
MULTILINGUAL = {  # at a learning rate at which losses rise and fall, so that somebody is taught
    **TRANSLATED, "languages": ["es", "ko"], "train_rows": [12, 30], "test_rows": 2, "epoch_rows": 16, "updates": 8,
    "eval_every": 0, "schedule": "constant_with_warmup", "learning_rate": 0.4, "max_tokens": 150,
}  # fmt: skip
EXPERIMENTS = {
    "r_drop/translation": TRANSLATED,
    "r_drop/classification": {name: value for name, value in TRAINED.items() if name != "max_tokens"},
    "seer_forcing/translation": TRANSLATED,
    "cbbgca/translation": {**TRANSLATED, "threshold": 0.0025},  # an untrained model gives every word about 1/400
    "intra_distillation/translation": TRANSLATED,
    "intra_distillation/classification": {
        **{name: value for name, value in TRAINED.items() if name != "max_tokens"}, "passes_form": "recomputed",
    },
    "intra_distillation/regression": {name: value for name, value in TRAINED.items() if name != "max_tokens"},
    "self_distillation/classification": {
        **{name: value for name, value in TRAINED.items() if name != "max_tokens"},
        "teacher_size": 2, "members": 2, "head_learning_rate": 0.01,
    },
    "lssd/many_to_one": MULTILINGUAL,
    "lssd/one_to_many": MULTILINGUAL,
    "distilbert/masked_lm": {
        **TRAINED, "model": "", "train_rows": 60, "layers": 2, "student_layers": 1, "teacher_updates": 4,
        "downstream_rows": 16, "downstream_test_rows": 12, "downstream_epochs": 1, "downstream_batch": 8,
    },
    "tutor_kd/masked_lm": {
        **TRAINED, "model": "", "train_rows": 60, "layers": 2, "student_layers": 1, "student_width": 8,
        "student_embedding": 6, "teacher_updates": 4, "downstream_rows": 16, "downstream_test_rows": 12,
        "downstream_epochs": 1, "downstream_batch": 8, "reward_baseline": 0.9,
    },
}  # fmt: skip
TIMES = ("minutes", "seconds_per_update", "latency_ms", "peak_memory_mb")

# What the demo becomes in a notebook: as little as still has something in every table and every figure.
DEMO = {
    "r_drop": {"train_rows": 60, "updates": 6, "eval_every": 3, "vocab_size": 400},
    "seer_forcing": {"train_rows": 60, "updates": 6, "eval_every": 3, "vocab_size": 400},
    "cbbgca": {"train_rows": 60, "updates": 9, "eval_every": 3, "vocab_size": 400},
    "intra_distillation": {"train_rows": 60, "updates": 6, "eval_every": 3, "vocab_size": 400},
    "lssd": {"train_rows": [12, 20, 30, 40], "updates": 8, "epoch_rows": 40, "vocab_size": 400, "layers": 1},
    "distilbert": {
        "train_rows": 200, "updates": 6, "eval_every": 3, "student_layers": 1, "downstream_rows": 32,
        "downstream_test_rows": 12, "downstream_epochs": 1,
    },
    "self_distillation": {"train_rows": 60, "updates": 6, "eval_every": 3, "vocab_size": 400},
    "tutor_kd": {
        "train_rows": 200, "updates": 6, "eval_every": 3, "downstream_rows": 32, "downstream_test_rows": 12,
        "downstream_epochs": 1,
    },
    "start_here": {"train_rows": 40, "updates": 4, "eval_every": 2},
}  # fmt: skip
SHAPE = {
    "width": 16, "heads": 2, "layers": 2, "feedforward": 16, "max_length": 24, "max_tokens": 400, "warmup": 2,
    "log_every": 3, "checkpoint_every": 6, "validation_rows": 8, "test_rows": 8,
}  # fmt: skip


def on_a_gpu(capability: str, *arguments: str | Path) -> subprocess.CompletedProcess:
    """Runs this file in a process of its own, which sees a GPU of that compute capability."""
    skip_without_compiler()
    kept_back = ("ACCELERATE_USE_CPU", "CUDA_VISIBLE_DEVICES")
    environment = {name: value for name, value in os.environ.items() if name not in kept_back}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "KDUTILS_HEADLESS": "1"}
    command = [sys.executable, "tests/pretend_gpu.py", "--capability", capability, "-m", "tests.gpu_runs"]
    return subprocess.run(
        [*command, *map(str, arguments)], env=environment, cwd=HOME, capture_output=True, text=True, timeout=900
    )


# --- experiments -------------------------------------------------------------------------------------------------


def train(place: Path, in_pieces: list[str]) -> dict[str, Any]:
    """What became of all arms of every experiment, and of some whose every training stopped once and went on."""
    masked_lm.QUESTIONS = 1  # the grammar takes its time for each
    whole = {name: found(name, place / "whole") for name in EXPERIMENTS}
    stop_each_once()
    return {"whole": whole, "pieces": {name: found(name, place / "pieces") for name in in_pieces}}


def found(name: str, runs: Path) -> dict[str, Any]:
    """Of each arm: its device, its numbers but for times, and the digests of its weights."""
    paper, _, experiment = name.partition("/")
    experiment = next(one for one in load(paper).EXPERIMENTS if one.name == experiment)
    settings = resolve([experiment], "demo", EXPERIMENTS[name])[experiment.name]
    task, records = experiment.task(settings), []
    while not records:
        try:
            records = running.run(experiment, settings, [1], runs, [arm.name for arm in experiment.arms], task=task)
        except Paused:
            continue
    place = running.folder(experiment, settings, runs) / "seed-1"
    return {
        arm: {
            "device": result["provenance"]["device"],
            "metrics": {metric: value for metric, value in result["metrics"].items() if metric not in TIMES},
            "history": timeless(result["history"]),
            "weights": kept.result(place / arm)["weights"],
        }
        for arm, result in records[0]["arms"].items()
    }


def stop_each_once() -> None:
    fit, begun = kept.fit, set()

    def stopped(*arguments: Any, folder: Path, until: float | None = None, **options: Any) -> Any:
        if folder in begun:
            torch.manual_seed(time.time_ns())  # what this piece draws must come from the checkpoint
            return fit(*arguments, folder=folder, until=until, **options)
        begun.add(folder)
        return fit(*arguments, folder=folder, until=time.monotonic(), **options)

    kept.fit = stopped


# --- notebooks ---------------------------------------------------------------------------------------------------


def shrink(notebook: Path) -> None:
    """Makes the demo of this process tiny; what a cell changes by itself stays as it wants it."""
    sizes, resolved = {**SHAPE, **DEMO[notebook.stem[3:]]}, Table.resolve

    def tiny(table: Table, preset: str, overrides: dict[str, Any] | None = None) -> Settings:
        settings = resolved(table, preset, overrides)
        wanted = {name: value for name, value in sizes.items() if name in settings and name not in settings.overrides}
        return settings.changed(**wanted) if preset == "demo" else settings

    Table.resolve = tiny


if __name__ == "__main__":
    os.environ.pop("ACCELERATE_USE_CPU")  # tests.tiny has set it, for everybody else
    gc.freeze()  # each arm collects garbage before it measures its memory: what was imported need not be gone through
    what, place, *rest = sys.argv[1:]
    if what == "experiments":
        write_json(Path(place) / "found.json", train(Path(place), rest))
    else:
        shrink(Path(rest[0]))
        sys.exit(run_notebook(Path(rest[0]).resolve(), ["seeds = [1]", f"runs = {place!r}"], keep_going=True))
