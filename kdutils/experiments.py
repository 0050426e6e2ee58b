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
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from transformers import PreTrainedModel

from kdutils import models
from kdutils.batches import save_tokenizer
from kdutils.checkpoints import clear_run, load_weights, save_weights, seeded, writing
from kdutils.errors import UserError, unknown
from kdutils.files import digest, exclusive, make_folder, read_json, write_json
from kdutils.methods import Method
from kdutils.provenance import peak_memory_mb, provenance, reset_peak_memory
from kdutils.settings import UNHASHED, Settings, Table
from kdutils.tasks import Task
from kdutils.training import Fitted, fit

Record = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One arm at one seed: all that a paper may need to start a model, to fetch a teacher or to hold an exam."""

    task: Task
    arm: str
    seed: int
    place: Path  # the arm's folder; those of the other arms of this seed lie beside it
    runs: Path  # the folder of all runs
    until: float | None = None  # a time.monotonic() moment to stop at

    @property
    def settings(self) -> Settings:
        return self.task.settings


@dataclass(frozen=True)
class Arm:
    """One way of training in a comparison: a method, how its recipe departs from the settings, where it starts.

    `start` gives the model before training, by default the task's own at this seed. `teacher`, where an arm has one,
    gives a fixed network; it is found as `Method.teacher` and never trained.
    """

    name: str
    label: str  # for figures and tables
    method: Callable[[Settings], Method]
    recipe: Callable[[Settings], dict[str, Any]] = field(default=lambda settings: {})
    start: Callable[[Trial], PreTrainedModel] = field(default=lambda trial: trial.task.model(trial.seed))
    teacher: Callable[[Trial], nn.Module] | None = None


@dataclass(frozen=True)
class Experiment:
    """A paper's comparison on one task: the settings, the arms, and what is measured besides the task's scores.

    `look` is taken at every evaluation, on the validation split. `exam` is held once, with the trained model, after
    it was exported to `trial.place / "model"`; what it trains itself (a fine-tuning) goes under `trial.place`.
    """

    paper: str
    task: type[Task]
    settings: Table
    arms: tuple[Arm, ...]
    look: Callable[[Task, PreTrainedModel], dict[str, float]] = field(default=lambda task, model: {})
    exam: Callable[[Trial, PreTrainedModel], dict[str, float]] = field(default=lambda trial, model: {})

    @property
    def name(self) -> str:
        return self.task.name

    def arm(self, name: str) -> Arm:
        """The arm of that name. Raises UserError with the known ones."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise unknown("arm", name, [arm.name for arm in self.arms])


def resolve(
    experiments: Iterable[Experiment],
    preset: str,
    overrides: Mapping[str, Any] | None = None,
    tasks: Sequence[str] | None = None,
) -> dict[str, Settings]:
    """The settings of each wanted task, by its name.

    An override is named after its setting and applies to every task that has it; "translation.alpha" applies to
    one, and there it wins over "alpha". Raises UserError for an unknown preset, task or setting, before anything is
    computed.
    """
    known = {experiment.name: experiment for experiment in experiments}
    for task in tasks or ():
        if task not in known:
            raise unknown("task", task, known)
    wanted = [known[task] for task in tasks or known]
    shares: dict[str, dict[str, Any]] = {experiment.name: {} for experiment in wanted}
    for name, value in sorted((overrides or {}).items(), key=lambda item: "." in item[0]):
        task, dot, setting = name.rpartition(".")
        if dot and task not in shares:
            raise unknown("task", task, shares)
        takers = [e for e in wanted if task in ("", e.name) and setting in e.settings.settings]
        if not takers:
            raise unknown("setting", setting, sorted({s for e in wanted for s in e.settings.settings}))
        for taker in takers:
            shares[taker.name][setting] = value
    return {e.name: e.settings.resolve(preset, shares[e.name]) for e in wanted}


def folder(experiment: Experiment, settings: Settings, runs: str | Path = "runs") -> Path:
    """Where the runs of an experiment with these settings lie."""
    return Path(runs) / experiment.paper / f"{experiment.name}-{settings.preset}-{settings.digest}"


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

    arms: only these (all by default). max_minutes: stop cleanly after so long (0: never); the same call then goes
    on. task: one that was made from the same settings, to save making it again. Raises UserError for bad seeds,
    arms or settings before anything is written, Paused when the time is over.
    """
    wanted = [experiment.arm(name).name for name in arms] if arms else [arm.name for arm in experiment.arms]
    chosen = [arm for arm in experiment.arms if arm.name in wanted]  # in their order: one may build on another
    if task and (not isinstance(task, experiment.task) or task.settings.digest != settings.digest):
        raise UserError("The task was made from other settings: make it from these, or leave it out.")
    until = time.monotonic() + 60 * max_minutes if max_minutes else None
    for seed in checked_seeds(seeds):
        place = folder(experiment, settings, runs) / f"seed-{seed}"
        missing = [arm for arm in chosen if not (place / arm.name / "result.json").exists()]
        for arm in chosen if main_process() else ():
            if arm not in missing:
                clear_run(place / arm.name)  # what was left by a process that was killed before it came to that
        if task:
            _check_data(experiment, task, seed, place)
        if not missing and _recorded(place, chosen):
            print(f"{experiment.name}, seed {seed}: loaded from {os.path.relpath(place)}")
            continue
        task = task or experiment.task(settings)
        task.check(seed)
        _check_data(experiment, task, seed, place)
        for arm in missing:
            task.recipe(**arm.recipe(settings)), arm.method(settings)
        with exclusive(place) if main_process() else contextlib.nullcontext():
            for arm in missing:
                _train(experiment, arm, Trial(task, arm.name, seed, place / arm.name, Path(runs), until))
            if main_process():
                write_json(place / "record.json", _record(experiment, task, seed, place))
    found = finished(experiment, settings, runs)
    return [record for record in found if record["seed"] in seeds]


def finished(experiment: Experiment, settings: Settings, runs: str | Path = "runs") -> list[Record]:
    """The records of all finished seeds of these settings, in the order of the seeds."""
    records = [read_json(path) for path in folder(experiment, settings, runs).glob("seed-*/record.json")]
    return sorted(records, key=lambda record: record["seed"])


def load_model(
    experiment: Experiment, settings: Settings, arm: str, seed: int = 1, runs: str | Path = "runs"
) -> PreTrainedModel:
    """The trained model of an arm, in evaluation mode, as plain transformers loads it."""
    place = _finished_arm(experiment, settings, arm, seed, runs) / "model"
    return models.pretrained(str(place), experiment.task.kind).eval()


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
    place = _finished_arm(experiment, settings, arm, seed, runs)
    method = experiment.arm(arm).method(settings)
    with torch.random.fork_rng():
        method.attach(model)
    for name, network in method.modules().items():
        file = place / "beside" / f"{name}.safetensors"
        try:
            load_weights(network.to(model.device).eval(), file)
        except UserError as error:
            where = os.path.relpath(place)
            raise UserError(f"{file} is missing or damaged: delete the folder {where} and run again.") from error
    return method


def _finished_arm(experiment: Experiment, settings: Settings, arm: str, seed: int, runs: str | Path) -> Path:
    """The folder of a finished arm."""
    place = folder(experiment, settings, runs) / f"seed-{seed}" / experiment.arm(arm).name
    if not (place / "result.json").exists():  # it is written last
        raise UserError(f"There is no finished model in {place / 'model'}: run the experiment for seed {seed} first.")
    return place


def checked_seeds(seeds: Sequence[int]) -> list[int]:
    """The seeds as a list. Raises UserError unless they are different whole numbers from 0 to 2**32 - 1."""
    several = isinstance(seeds, Sequence) and not isinstance(seeds, str) and len(seeds) > 0
    if not several or not all(type(s) is int and 0 <= s < 2**32 for s in seeds) or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds must be different whole numbers from 0, such as [1, 2, 3], not {seeds!r}.")
    return list(seeds)


def main_process() -> bool:
    """Whether this process writes the results: the first one under `accelerate launch`, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def _train(experiment: Experiment, arm: Arm, trial: Trial) -> None:
    task, seed, place = trial.task, trial.seed, trial.place
    recipe, method = task.recipe(**arm.recipe(task.settings)), arm.method(task.settings)
    with threads(task.settings.threads):
        method.teacher = arm.teacher(trial) if arm.teacher else None
        model = arm.start(trial)
    identity = _identity(experiment, task, arm, seed)
    reset_peak_memory()
    with seeded(seed), threads(task.settings.threads):
        fitted = fit(
            model, method, task.training_batches(seed), recipe,
            evaluate=lambda current: _held_out(experiment, task, method, current),
            folder=place, identity=identity, until=trial.until, description=f"{arm.name}, seed {seed}",
        )  # fmt: skip
    memory = peak_memory_mb()
    if main_process():
        _export(model, method, task, place)
    PartialState().wait_for_everyone()
    with threads(task.settings.threads):
        scores = _tested(task, method, model) if main_process() else {}
        scores |= experiment.exam(trial, model)  # in every process: it may train
    scores["peak_memory_mb"] = memory
    if main_process():
        _keep(model, fitted, place, identity, scores)
        print(f"{experiment.name}, seed {seed}: {arm.label} trained in {fitted.seconds:.0f} s")


def _held_out(experiment: Experiment, task: Task, method: Method, model: PreTrainedModel) -> dict[str, float]:
    """What is measured on the validation split at every evaluation: by the task, the experiment and the method."""
    own = method.look(model, task.fixed_batches("validation"))
    return {**task.validate(model), **experiment.look(task, model), **own}


def _tested(task: Task, method: Method, model: PreTrainedModel) -> dict[str, float]:
    own = method.look(model, task.fixed_batches("test"))
    return {**task.test(model), **{f"test_{name}": score for name, score in own.items()}}


def _export(model: PreTrainedModel, method: Method, task: Task, place: Path) -> None:
    """The trained model and its tokenizer, as plain transformers load them; networks beside it apart."""
    with writing(place), models.quiet():
        model.save_pretrained(place / "model")
    save_tokenizer(task.tokenizer, place / "model")
    shutil.rmtree(place / "beside", ignore_errors=True)  # half-written files of a process that was killed
    for name, network in method.modules().items():
        save_weights(network, make_folder(place / "beside") / f"{name}.safetensors")


def _identity(experiment: Experiment, task: Task, arm: Arm, seed: int) -> str:
    """A digest of all that decides a result: the settings, the arm, the seed and the data themselves."""
    hashed = {name: value for name, value in task.settings.items() if name not in UNHASHED}
    return digest(experiment.paper, arm.name, seed, hashed, task.corpus.fingerprint)


def _check_data(experiment: Experiment, task: Task, seed: int, place: Path) -> None:
    """Refuses to mix with results of the same settings but other data: a corpus may change under its name."""
    for arm in experiment.arms:
        file = place / arm.name / "result.json"
        if file.exists() and read_json(file).get("identity") != _identity(experiment, task, arm, seed):
            where = os.path.relpath(place)
            raise UserError(f"The data changed since {where} was run: delete that folder, or choose another --runs.")


def _keep(model: PreTrainedModel, fitted: Fitted, place: Path, identity: str, scores: dict[str, float]) -> None:
    """Writes the result, after everything that it speaks of, and then drops the checkpoints."""
    metrics = {
        **scores,
        **_scores("validation", fitted.best),
        **_scores("final", _last_evaluation(fitted)),
        "best_update": fitted.best.get("update", fitted.updates),
        "updates": fitted.updates,
        "minutes": fitted.seconds / 60,
        "seconds_per_update": fitted.seconds / max(fitted.updates, 1),
        "parameters": models.parameter_count(model),
    }
    result = {"identity": identity, "metrics": metrics, "history": fitted.history, "provenance": provenance()}
    write_json(place / "result.json", result)
    clear_run(place)


def _recorded(place: Path, arms: Sequence[Arm]) -> bool:
    """Whether the record holds these arms; a run killed after the last of them has not written it yet."""
    record = place / "record.json"
    return record.exists() and all(arm.name in read_json(record)["arms"] for arm in arms)


def _record(experiment: Experiment, task: Task, seed: int, place: Path) -> Record:
    arms = {a.name: read_json(f) for a in experiment.arms if (f := place / a.name / "result.json").exists()}
    settings = task.settings
    return {
        "paper": experiment.paper,
        "task": experiment.name,
        "preset": settings.preset,
        "settings": dict(settings),
        "overrides": settings.overrides,
        "seed": seed,
        "arms": arms,
        "provenance": {**provenance(), "data": task.facts()},
    }


def _scores(prefix: str, row: Mapping[str, Any]) -> dict[str, float]:
    """The scores among the fields of a history row or of a best evaluation, with a prefix to their names."""
    others = ("update", "epoch", "kind", "seconds", "file", "order")
    return {f"{prefix}_{name}": value for name, value in row.items() if name not in others}


def _last_evaluation(fitted: Fitted) -> dict[str, Any]:
    return next((row for row in reversed(fitted.history) if row["kind"] == "eval"), {})


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """torch computes with so many CPU threads inside; 0 leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
