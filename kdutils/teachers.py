"""Teachers that are trained before the student: taken from the hub or a folder, or trained here and kept.

>>> teacher = teacher_of(task, "runs")          # task: a kdutils.tasks.MaskedLM
>>> story = teacher_story(task, "runs")         # its training curve, and the minutes that it took

One masked language model serves every student, every seed and every paper that asks for one with the same settings.
It lies in `<runs>/teachers/masked_lm-<digest>/`, written last so that it is whole or absent; an interrupted training
goes on. Translators of one language each (`individual_teachers`) belong to one run.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import nn
from transformers import PreTrainedModel

from kdutils import models
from kdutils.checkpoints import clear_run, load_weights, save_weights, seeded, writing
from kdutils.experiments import Trial, checked_seeds, main_process, threads
from kdutils.files import digest, exclusive, read_json, write_json
from kdutils.methods import Method
from kdutils.multilingual import tag
from kdutils.provenance import provenance
from kdutils.settings import UNHASHED
from kdutils.tasks import MaskedLM
from kdutils.tokens import save_tokenizer
from kdutils.training import fit

# what decides a teacher; everything else is about students
DECIDING = (
    "data", "language", "max_words", "train_rows", "validation_rows", "test_rows", "data_seed", "test_split",
    "tokenizer", "vocab_size", "max_length", "mask_probability", "width", "layers", "heads", "feedforward", "dropout",
    "max_tokens", "accumulation", "schedule", "weight_decay", "clip", "precision",
    "teacher_updates", "teacher_learning_rate", "teacher_seed",
)  # fmt: skip


def teacher_of(task: MaskedLM, runs: str | Path = "runs", until: float | None = None) -> PreTrainedModel:
    """The teacher of a task, in evaluation mode: `settings.model` if it names one, else one pre-trained on its texts.

    Raises UserError when a named one cannot be loaded, Paused when the time is over before its training is.
    """
    if task.settings.model:
        return task.model(0).eval()
    place = teacher_place(task, runs)
    checked_seeds([task.settings.teacher_seed])
    if not (place / "result.json").exists():
        with exclusive(place) if main_process() else contextlib.nullcontext():
            _pretrain(task, place, until)
        PartialState().wait_for_everyone()
    return models.pretrained(str(place / "model"), "masked_lm").eval()


def teacher_place(task: MaskedLM, runs: str | Path = "runs") -> Path:
    """The folder of the teacher that is pre-trained for this task."""
    decided = {name: task.settings[name] for name in DECIDING if name not in UNHASHED}
    return Path(runs) / "teachers" / f"{task.name}-{digest(decided, task.corpus.fingerprint)[:8]}"


def teacher_story(task: MaskedLM, runs: str | Path = "runs") -> dict[str, Any]:
    """{"history", "seconds", "provenance"} of a teacher that was pre-trained here; {} for one that was loaded."""
    result = teacher_place(task, runs) / "result.json"
    return {} if task.settings.model or not result.exists() else read_json(result)


def _pretrain(task: MaskedLM, place: Path, until: float | None) -> None:
    s, started = task.settings, time.monotonic()
    updates = s.teacher_updates
    recipe = task.recipe(
        updates=updates, learning_rate=s.teacher_learning_rate, warmup=max(1, updates // 20),
        eval_every=max(1, updates // 10), checkpoint_every=max(1, updates // 10), patience=0,
    )  # fmt: skip
    model = task.model(s.teacher_seed)
    with seeded(s.teacher_seed), threads(s.threads):
        fitted = fit(
            model, Method(), task.plain_batches(s.teacher_seed), recipe,
            evaluate=lambda current: {**task.validate(current), **task.truth(current, "validation")},
            folder=place, identity=place.name, until=until, description="teacher",
        )  # fmt: skip
    if main_process():
        with writing(place), models.quiet():
            model.save_pretrained(place / "model")
        save_tokenizer(task.tokenizer, place / "model")
        story = {"history": fitted.history, "seconds": fitted.seconds, "provenance": provenance()}
        write_json(place / "result.json", story)
        clear_run(place)
        print(f"The teacher was pre-trained in {time.monotonic() - started:.0f} s")


# --- translators of one language each ----------------------------------------------------------------------------


def individual_teachers(trial: Trial, method: Method) -> nn.ModuleDict:
    """By its tag, a translator of each language of a `Multilingual` task alone, kept under `trial.place` once trained.

    Each gets as many updates as the translator of all, on the pairs of its language, and is taken where its validation
    loss was lowest. `method` trains them. Raises Paused when the time is over before they are trained.
    """
    task, s, found = trial.task, trial.settings, {}
    place, data = trial.place / "individual", task.corpus.fingerprint[:8]
    recipe = task.recipe(eval_every=max(1, s.updates // 20), checkpoint_every=max(1, s.updates // 4))
    for language in s.languages:
        model, file = task.model(trial.seed), place / f"{language}-{data}.safetensors"
        if file.exists():
            load_weights(model, file)
        else:
            with seeded(trial.seed):
                fit(
                    model, method, task.only(language, trial.seed), recipe,
                    evaluate=lambda now, own=language: task.scores(now, "validation", own),
                    folder=place / language, identity=f"{language}-{data}", until=trial.until,
                    description=f"{language} alone, seed {trial.seed}",
                )  # fmt: skip
            PartialState().wait_for_everyone()
            if main_process():
                save_weights(model, file)
        if main_process():
            clear_run(place / language)
        found[tag(language)] = model
    return nn.ModuleDict(found)
