"""What a paper compares: arms that are trained, the trial of an arm at a seed, and the settings of it all.

>>> EXPERIMENTS = (Experiment("my_paper", Translation, SETTINGS, (Arm("baseline", "baseline", plain), ...)),)
>>> resolve(EXPERIMENTS, "demo", {"alpha": 1.0})["translation"].updates
300
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from kdutils.core.errors import UserError, unknown
from kdutils.core.files import digest
from kdutils.core.settings import Settings, Table
from kdutils.data.corpora import ORDER
from kdutils.study import kept
from kdutils.tasks.base import Task
from kdutils.training.method import Method

FOLDERS = ("data", "model", "teacher_start", "tokenizer", "downstream")  # settings that may name a folder


@dataclass(frozen=True)
class Trial:
    """One arm at one seed: all that a paper may need to start a model, to fetch a teacher or to hold an exam."""

    task: Task
    arm: str
    seed: int
    folder: Path  # the arm's folder; those of the other arms of this seed lie beside it
    runs: Path  # the folder of all runs
    until: float | None = None  # a time.monotonic() moment to stop at
    method: Method | None = None  # in an exam: what has trained the model, with all that it keeps
    needs: tuple[str, ...] = ()  # the arms whose models it may ask for

    @property
    def settings(self) -> Settings:
        return self.task.settings

    def model_of(self, arm: str) -> PreTrainedModel:
        """The finished model of an arm that this one needs, at this seed, in evaluation mode, on the CPU.

        Its weights are those that the validation chose. Raises UserError for an arm that is not among `needs`, and
        where it is not finished or its files were changed.
        """
        self.check_need(arm)
        folder = self.folder.parent / arm
        if kept.result(folder) is None:
            raise UserError(f"There is no finished model in {folder / 'model'}: run the arm '{arm}' first.")
        return kept.load(folder, self.task.kind)

    def check_need(self, arm: str) -> None:
        """Raises UserError for an arm that is not among `needs`: it would be there by luck alone."""
        if arm not in self.needs:
            raise UserError(f"The arm '{self.arm}' asks for the model of '{arm}': give it needs=(\"{arm}\",).")


def same_start(trial: Trial) -> PreTrainedModel:
    """The task's model at the trial's seed: the same initial weights for every arm that starts here."""
    return trial.task.model(trial.seed)


def fresh_start(stream: int = 1) -> Callable[[Trial], PreTrainedModel]:
    """A start with other initial weights than `same_start` has, which the seed decides as well.

    For a student whose teacher is an arm of the same seed, and so began at `same_start`; `stream` is another number for
    each generation. The batches stay those of the seed. Of a pretrained model only the new head is another.
    """
    # hashed, for torch's generator on a CPU takes no more than 32 bits of a seed
    return lambda trial: trial.task.model(int(digest("start", stream, trial.seed)[:8], 16))


@dataclass(frozen=True)
class Arm:
    """One way of training in a comparison: a method, how its recipe departs from the settings, where it starts.

    `start` gives the model before training, by default `same_start`. `teacher`, where an arm has one, gives a fixed
    network, which it may have to train first (see `kdutils.study.kept`); the arm finds it as `Method.teacher` and does
    not train it. The arm's minutes are those of its own updates.
    `needs` names arms that are trained first at the same seed, whoever asks for this one; `Trial.model_of` gives their
    models, as a teacher or as a start. They began at `same_start`; an arm with needs says itself whether it does, too.
    `besides` tells `kdutils.study.plan` what an arm takes besides at every seed: {"updates": plain ones, that those of
    the networks come to which it trains first, 0 where another arm has trained them; "exams": how many it sits, in
    units of a plain one}.
    `optional`: an ablation, trained only where it is named.
    """

    name: str
    label: str  # for figures and tables
    method: Callable[[Settings], Method]
    recipe: Callable[[Settings], dict[str, Any]] = field(default=lambda settings: {})
    start: Callable[[Trial], PreTrainedModel] | None = None
    teacher: Callable[[Trial], nn.Module] | None = None
    besides: Callable[[Settings], dict[str, float]] = field(default=lambda settings: {})
    optional: bool = False
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.needs and self.start is None:
            raise UserError(f"The arm '{self.name}' needs others: say where it starts, such as start=fresh_start().")
        object.__setattr__(self, "start", self.start or same_start)


@dataclass(frozen=True)
class Experiment:
    """A paper's comparison on one task: the settings, the arms, and what is measured besides the task's scores.

    `extra_scores` are taken at every evaluation, on the validation split. `exam` is held once, with the trained model,
    after it was exported to `trial.folder / "model"`; what it trains itself (a fine-tuning) goes under `trial.folder`.
    """

    paper: str
    task: type[Task]
    settings: Table
    arms: tuple[Arm, ...]
    extra_scores: Callable[[Task, PreTrainedModel], dict[str, float]] = field(default=lambda task, model: {})
    exam: Callable[[Trial, PreTrainedModel], dict[str, float]] = field(default=lambda trial, model: {})

    def __post_init__(self) -> None:
        """Raises UserError where an arm needs one that is not before it: unknown, or in a circle."""
        for number, arm in enumerate(self.arms):
            if missing := set(arm.needs) - {before.name for before in self.arms[:number]}:
                names = ", ".join(sorted(missing))
                raise UserError(f"The arm '{arm.name}' needs {names}, which must stand before it among the arms.")

    @property
    def name(self) -> str:
        return self.task.name

    def chosen(self, names: Sequence[str] | None = None) -> list[Arm]:
        """The arms of these names and those that they need, in the experiment's order; of none, all but ablations.

        Raises UserError for an unknown name.
        """
        wanted = {self.arm(name).name for name in names or ()} or {arm.name for arm in self.arms if not arm.optional}
        for arm in reversed(self.arms):  # what an arm needs stands before it
            wanted |= set(arm.needs) if arm.name in wanted else set()
        return [arm for arm in self.arms if arm.name in wanted]

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
    resolved = {e.name: e.settings.resolve(preset, shares[e.name]) for e in wanted}
    return {
        task: settings.changed(**{name: absolute(settings[name]) for name in FOLDERS if name in settings})
        for task, settings in resolved.items()
    }


def absolute(value: Any) -> Any:
    """A setting that names a folder, or several, with absolute paths; anything else as it is.

    Without that, two projects with a folder `corpus` each would share their runs, and a notebook, which runs in its
    own folder, would look for another.
    """
    if isinstance(value, list):
        return [absolute(one) for one in value]
    if str(value).startswith(ORDER):
        return ORDER + absolute(str(value)[len(ORDER) :])
    if value == "demo":
        return value  # what comes with this package, whatever lies here under that name
    hub, path = ("hub:", value[4:]) if str(value).startswith("hub:") else ("", str(value))
    if hub and not path.startswith((".", "/", "~")):
        return value  # owner/name
    beginning = os.path.expanduser(path.partition("{pair}")[0])  # there may be a folder for each pair of languages
    return hub + os.path.abspath(os.path.expanduser(path)) if path and os.path.isdir(beginning) else value


def checked_seeds(seeds: Sequence[int]) -> list[int]:
    """The seeds as a list. Raises UserError unless they are different whole numbers from 0 to 2**32 - 1."""
    several = isinstance(seeds, Sequence) and not isinstance(seeds, str) and len(seeds) > 0
    if not several or not all(type(s) is int and 0 <= s < 2**32 for s in seeds) or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds must be different whole numbers from 0, such as [1, 2, 3], not {seeds!r}.")
    return list(seeds)


def plain(settings: Settings) -> Method:
    """The method of a baseline: the cross-entropy of the settings, one pass over a batch."""
    return Method(settings.get("label_smoothing", 0.0), settings.get("smoothing_convention", "uniform"))
