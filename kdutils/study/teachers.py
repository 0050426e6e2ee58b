"""Teachers that are trained before the student: taken from the hub or a folder, or trained here and kept.

>>> teacher = teacher_of(task, "runs")          # task: a kdutils.tasks.masked_lm.MaskedLM
>>> story = teacher_story(task, "runs")         # its training curve, and the minutes that it took

One masked language model serves every student, every seed and every paper that asks for one with the same settings.
It lies in `<runs>/teachers/masked_lm-<digest>/`; an interrupted training goes on, and a second run waits for the first.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from kdutils.core.files import digest
from kdutils.core.machine import provenance
from kdutils.core.processes import main_process
from kdutils.core.settings import UNHASHED, Settings
from kdutils.models import build
from kdutils.study import kept
from kdutils.study.experiment import checked_seeds
from kdutils.tasks.masked_lm import MaskedLM
from kdutils.training.method import Method

# what decides a teacher; everything else is about students
DECIDING = (
    "data", "language", "max_words", "train_rows", "validation_rows", "test_rows", "data_seed", "test_split",
    "teacher_start", "tokenizer", "vocab_size", "max_length", "mask_probability", "width", "layers", "heads",
    "feedforward", "dropout", "max_tokens", "accumulation", "schedule", "weight_decay", "clip", "precision",
    "teacher_updates", "teacher_learning_rate", "teacher_seed",
)  # fmt: skip


def teacher_of(task: MaskedLM, runs: str | Path = "runs", until: float | None = None) -> PreTrainedModel:
    """The teacher of a task, in evaluation mode: `settings.model` if it names one, else one pre-trained on its texts.

    Raises UserError when a named one cannot be loaded, Paused when the time is over before its training is.
    """
    if task.settings.model:
        return task.model(0).eval()
    folder = teacher_folder(task, runs)
    checked_seeds([task.settings.teacher_seed])
    kept.once(folder, lambda: _pretrain(task, folder, until), "the teacher", until)
    return kept.load(folder, "masked_lm")


def teacher_folder(task: MaskedLM, runs: str | Path = "runs") -> Path:
    """The folder of the teacher that is pre-trained for this task."""
    decided = {name: task.settings[name] for name in DECIDING if name not in UNHASHED}
    return Path(runs) / "teachers" / f"{task.name}-{digest(decided, task.corpus.fingerprint)[:8]}"


def teacher_shape(settings: Settings) -> tuple[int, int, int, int]:
    """Layers, width, feed-forward size and vocabulary of the teacher: of the settings, or of the model in a folder."""
    name = build.located(settings.model or settings.teacher_start)
    if not name or not Path(name).is_dir():
        words = settings.vocab_size or 30_522  # where no size is given they are those of BERT
        return settings.layers, settings.width, settings.feedforward, words
    config = build.load_config(name)
    return config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.vocab_size


def teacher_story(task: MaskedLM, runs: str | Path = "runs") -> dict[str, Any]:
    """{"history", "seconds", "provenance"} of a teacher that was pre-trained here; {} for one that was loaded."""
    return {} if task.settings.model else kept.result(teacher_folder(task, runs)) or {}


def _pretrain(task: MaskedLM, folder: Path, until: float | None) -> None:
    s, started = task.settings, time.monotonic()
    updates = s.teacher_updates
    recipe = task.recipe(
        updates=updates, learning_rate=s.teacher_learning_rate, warmup=max(1, updates // 20),
        eval_every=max(1, updates // 10), checkpoint_every=max(1, updates // 10), patience=0,
        betas=(0.9, 0.999),  # BERT's, whatever a paper trains its students with: they share the teacher
    )  # fmt: skip
    model = task.model(s.teacher_seed)
    fitted = kept.train(
        model, Method(), task.plain_batches(s.teacher_seed), recipe, folder, seed=s.teacher_seed, cores=s.threads,
        evaluate=lambda current: {**task.validate(current), **task.truth(current, "validation")},
        identity=folder.name, until=until, description="teacher",
    )  # fmt: skip
    kept.export(folder, model, task.tokenizer)
    kept.keep(folder, {"history": fitted.history, "seconds": fitted.seconds, "provenance": provenance()})
    if main_process():
        print(f"The teacher was pre-trained in {time.monotonic() - started:.0f} s")
