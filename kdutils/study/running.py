"""Method against baseline at several seeds: trained once, kept, and loaded ever after.

>>> settings = resolve(EXPERIMENTS, "demo")["translation"]
>>> records = run(experiment, settings, seeds=[1, 2, 3], runs="runs")
>>> records[0]["arms"]["r_drop"]["metrics"]["test_bleu"]

A run lies in `<runs>/<paper>/<task>-<preset>-<digest of the settings>/seed-<n>/`, with one folder an arm. What is
finished there is loaded, what was interrupted goes on, and other settings have another folder, so nothing is
computed twice or overwritten.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from kdutils.core.errors import UserError
from kdutils.core.files import digest, exclusive, read_json, shown_path, write_json, write_text
from kdutils.core.machine import peak_memory_mb, provenance, reset_peak_memory, threads
from kdutils.core.processes import main_process
from kdutils.core.settings import UNHASHED, Settings
from kdutils.data.corpora import Corpus
from kdutils.models import build
from kdutils.study import kept
from kdutils.study.experiment import Arm, Experiment, Trial, checked_seeds
from kdutils.study.results import Record, read
from kdutils.tasks.base import Task
from kdutils.training.checkpoints import clear_run
from kdutils.training.loop import Fitted, evaluation_context
from kdutils.training.method import Method


def folder(experiment: Experiment, settings: Settings, runs: str | Path = "runs") -> Path:
    """Where the runs of an experiment with these settings lie."""
    return Path(runs) / experiment.paper / f"{experiment.name}-{settings.preset}-{settings.digest}"


def record_file(experiment: Experiment, settings: Settings, seed: int, runs: str | Path = "runs") -> Path:
    """The record of a seed, which is written when its arms are finished."""
    return folder(experiment, settings, runs) / f"seed-{seed}" / "record.json"


def run(
    experiment: Experiment,
    settings: Settings,
    seeds: Sequence[int] = (1, 2, 3),
    runs: str | Path = "runs",
    arms: Sequence[str] | None = None,
    max_minutes: float = 0.0,
    task: Task | None = None,
) -> list[Record]:
    """Trains every arm for every seed, or loads what is finished; returns one record a seed.

    arms: only these and those that they need (by default all that are not optional). max_minutes: stop cleanly after
    so long (0: never); the same call then goes on. task: one that was made from the same settings, to save making it
    again. Raises UserError for bad seeds, arms or settings before anything is written, Paused when the time is over.
    """
    chosen = experiment.chosen(arms)
    for arm in chosen:
        if main_process() and (arm.name not in arms if arms else arm.optional):
            print(f"{experiment.name}: with {arm.name}, which another arm needs")
    if task and (not isinstance(task, experiment.task) or task.settings.digest != settings.digest):
        raise UserError("The task was made from other settings: make it from these, or leave it out.")
    corpus = task.corpus if task else experiment.task.load(settings)
    until = time.monotonic() + 60 * max_minutes if max_minutes else None
    for seed in checked_seeds(seeds):
        seed_folder = record_file(experiment, settings, seed, runs).parent
        _check_data(experiment, settings, corpus, seed, seed_folder)
        if is_finished(experiment, settings, seed, runs, arms):
            print(f"{experiment.name}, seed {seed}: loaded from {shown_path(seed_folder)}")
            continue
        if not task:
            task = experiment.task(settings, corpus)
            for note in task.notes:
                print(f"{experiment.name}: {note}")
        task.check(seed)
        for arm in chosen:
            task.recipe(**arm.recipe(settings)), arm.method(settings)
        with exclusive(seed_folder) if main_process() else contextlib.nullcontext():
            for arm in chosen:
                # asked with the lock held: another process may have been here
                if kept.result(seed_folder / arm.name) is None:
                    place = {"folder": seed_folder / arm.name, "runs": Path(runs), "until": until}
                    _train(experiment, arm, Trial(task, arm.name, seed, **place, needs=arm.needs))
                elif main_process():  # what is left of a process that was killed before it came to that
                    clear_run(seed_folder / arm.name)
            if main_process():
                write_json(seed_folder / "record.json", _record(experiment, task, seed, seed_folder))
    return [record for record in finished(experiment, settings, runs) if record["seed"] in seeds]


def finished(experiment: Experiment, settings: Settings, runs: str | Path = "runs") -> list[Record]:
    """The records of all finished seeds of these settings, in the order of the seeds."""
    records = [read(path) for path in folder(experiment, settings, runs).glob("seed-*/record.json")]
    return sorted(records, key=lambda record: record["seed"])


def load_model(
    experiment: Experiment, settings: Settings, arm: str, seed: int = 1, runs: str | Path = "runs"
) -> PreTrainedModel:
    """The trained model of an arm, in evaluation mode, as plain transformers loads it."""
    return kept.load(_finished_arm(experiment, settings, arm, seed, runs), experiment.task.kind)


def load_method(
    experiment: Experiment,
    settings: Settings,
    arm: str,
    model: PreTrainedModel,
    seed: int = 1,
    runs: str | Path = "runs",
) -> Method:
    """The method of a finished arm with the networks that were trained beside `model`, in evaluation mode.

    They are not part of the exported model: a seer decoder, for instance, is gone when the model translates. Raises
    UserError when the arm is not finished at this seed, or a file of it is missing or damaged.
    """
    arm_folder = _finished_arm(experiment, settings, arm, seed, runs)
    method = experiment.arm(arm).method(settings)
    with torch.random.fork_rng():
        method.attach(model)
    kept.load_beside(arm_folder, {name: network.to(model.device) for name, network in method.modules().items()})
    return method


def _finished_arm(experiment: Experiment, settings: Settings, arm: str, seed: int, runs: str | Path) -> Path:
    """The folder of a finished arm."""
    arm_folder = folder(experiment, settings, runs) / f"seed-{seed}" / experiment.arm(arm).name
    if kept.result(arm_folder) is None:
        missing = arm_folder / "model"
        raise UserError(f"There is no finished model in {missing}: run the experiment for seed {seed} first.")
    return arm_folder


def _train(experiment: Experiment, arm: Arm, trial: Trial) -> None:
    task, seed = trial.task, trial.seed
    recipe, method = task.recipe(**arm.recipe(task.settings)), arm.method(task.settings)
    with threads(task.settings.threads):
        method.teacher = arm.teacher(trial) if arm.teacher else None
        model = arm.start(trial)
    identity = _identity(experiment, task.settings, task.corpus, arm, seed)
    memory: list[float] = []

    def last_weights(current: PreTrainedModel) -> dict[str, float]:
        memory.append(peak_memory_mb())  # of the training, before the test takes some
        return tested(task, method, current)

    reset_peak_memory()
    fitted = kept.train(
        model, method, task.training_batches(seed), recipe, trial.folder, seed=seed, cores=task.settings.threads,
        evaluate=lambda current: _held_out(experiment, task, method, current),
        identity=identity, until=trial.until, description=f"{arm.name}, seed {seed}",
        finish=last_weights,
    )  # fmt: skip
    memory.append(peak_memory_mb())
    kept.export(trial.folder, model, task.tokenizer, method.modules())
    with threads(task.settings.threads):
        best = tested(task, method, model, trial.folder)
        scores = best | experiment.exam(replace(trial, method=method), model)  # in every process: it may train
    # both selections: the weights that the validation chose, and the last, which are the same where nothing was better
    scores |= {f"last_{name}": score for name, score in (fitted.last or best).items()}
    scores["peak_memory_mb"] = memory[0]
    before = [one for one in experiment.chosen([arm.name]) if one is not arm]
    for name in ("updates", "minutes") if before else ():  # what this arm rests on took them, all arms once
        spent = (kept.result(trial.folder.parent / one.name)["metrics"][name] for one in before)
        scores[f"{name}_before"] = sum(spent)
    facts = {"metrics": _metrics(model, fitted, scores), "history": fitted.history, "provenance": provenance()}
    if main_process():
        write_text(trial.folder / "model" / "README.md", _card(experiment, arm, trial, model, facts["metrics"]))
    kept.keep(trial.folder, {"identity": identity, **facts})
    if main_process():
        print(f"{experiment.name}, seed {seed}: {arm.label} trained in {fitted.seconds:.0f} s")


def _card(experiment: Experiment, arm: Arm, trial: Trial, model: PreTrainedModel, metrics: dict[str, float]) -> str:
    """The card that lies beside an exported model: what it is, what it learnt from, what it scored."""
    settings, facts = trial.settings, trial.task.facts()
    changed = ", ".join(f"{name}={value}" for name, value in settings.overrides.items()) or "none"
    scores = [f"| {name} | {score:.4g} |" for name, score in metrics.items() if name.startswith(("test_", "exam_"))]
    return "\n".join([
        "---", "library_name: transformers", "tags: [knowledge-distillation]", "---", "",
        f"# {arm.label} ({experiment.paper}, {experiment.name})", "",
        f"Trained by kdutils {provenance()['kdutils']}, to study the paper and not for use: preset "
        f"{settings.preset}, seed {trial.seed}, changed settings: {changed}.", "",
        f"- Class: `{type(model).__name__}`, {build.parameter_count(model):,} parameters; plain transformers loads it.",
        f"- Data: {facts.get('corpus', 'unknown')}. Licences of its data and of its starting model hold for it.",
        f"- Code and grading: <https://github.com/kd-notebooks/kdutils>, notebook of `{experiment.paper}`.", "",
        "| score | value |", "|---|---|", *scores, "",
    ])  # fmt: skip


def _held_out(experiment: Experiment, task: Task, method: Method, model: PreTrainedModel) -> dict[str, float]:
    """What is measured on the validation split at every evaluation: by the task, the experiment and the method."""
    own = method.extra_scores(model, task.fixed_batches("validation"))
    return {**task.validate(model), **experiment.extra_scores(task, model), **own}


def tested(task: Task, method: Method, model: PreTrainedModel, keep_in: Path | None = None) -> dict[str, float]:
    """The scores on the test split, in the precision of the validation; {} in all processes but the first."""
    if not main_process():
        return {}
    with evaluation_context(task.settings.precision, model):
        own = method.extra_scores(model, task.fixed_batches("test"))
        return {**task.test(model, keep_in), **{f"test_{name}": score for name, score in own.items()}}


def _identity(experiment: Experiment, settings: Settings, corpus: Corpus, arm: Arm, seed: int) -> str:
    """A digest of all that decides a result: the settings, the arm, the seed and the data themselves."""
    hashed = {name: value for name, value in settings.items() if name not in UNHASHED}
    return digest(experiment.paper, arm.name, seed, hashed, corpus.fingerprint)


def _check_data(experiment: Experiment, settings: Settings, corpus: Corpus, seed: int, seed_folder: Path) -> None:
    """Refuses to mix with results of the same settings but other data: a corpus may change under its name."""
    for arm in experiment.arms:
        found = kept.result(seed_folder / arm.name)
        if found is not None and found.get("identity") != _identity(experiment, settings, corpus, arm, seed):
            where = shown_path(seed_folder)
            raise UserError(f"The data changed since {where} was run: delete that folder, or choose another --runs.")


def _metrics(model: PreTrainedModel, fitted: Fitted, scores: dict[str, float]) -> dict[str, float]:
    """The numbers of a trained arm: its test, its best and its last evaluation, and what it took."""
    evaluations = [row for row in fitted.history if row["kind"] == "eval"]
    return {
        **scores,
        **_scores("validation", fitted.best),
        **_scores("final", evaluations[-1] if evaluations else {}),
        "best_update": fitted.best.get("update", fitted.updates),
        "updates": fitted.updates,
        "minutes": fitted.seconds / 60,
        "seconds_per_update": fitted.seconds / max(fitted.updates, 1),
        "parameters": build.parameter_count(model),
    }


def is_finished(
    experiment: Experiment, settings: Settings, seed: int, runs: str | Path = "runs", arms: Sequence[str] | None = None
) -> bool:
    """Whether these arms, by default all but ablations, are finished at this seed and in its record.

    A run that was killed after the last of them has not written it yet.
    """
    record, chosen = record_file(experiment, settings, seed, runs), experiment.chosen(arms)
    finished = all(kept.result(record.parent / arm.name) is not None for arm in chosen)
    return finished and record.exists() and all(arm.name in read_json(record)["arms"] for arm in chosen)


def _record(experiment: Experiment, task: Task, seed: int, seed_folder: Path) -> Record:
    found = {arm.name: kept.result(seed_folder / arm.name) for arm in experiment.arms}
    for result in filter(None, found.values()):
        result.pop("weights", None)  # the files of a run, not what it found
    settings = task.settings
    return {
        "paper": experiment.paper,
        "task": experiment.name,
        "preset": settings.preset,
        "settings": {**settings, **settings.overrides},  # a folder as it was named, not where it lies on this machine
        "overrides": settings.overrides,
        "seed": seed,
        "arms": {name: result for name, result in found.items() if result is not None},
        "provenance": {**provenance(), "data": task.facts()},
    }


def _scores(prefix: str, row: Mapping[str, Any]) -> dict[str, float]:
    """The scores among the fields of a history row or of a best evaluation, with a prefix to their names."""
    others = ("update", "epoch", "kind", "seconds", "file", "order")
    return {f"{prefix}_{name}": value for name, value in row.items() if name not in others}
