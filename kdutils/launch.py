"""Many runs: which they are, how far they are, and their seeds side by side in processes of their own.

>>> options = parser().parse_args(["train", "r_drop", "cbbgca", "--preset", "study", "--sweep", "updates=1000,2000"])
>>> runs = chosen(options, options.paper)                           # parser: of kdutils.__main__
>>> codes = side_by_side({f"{run.name}, seed 1": run.command("train", [1], "runs") for run in runs}, jobs=2)
>>> together(2, experiment, settings, seeds=[1])                    # on two GPUs, from a notebook
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from kdutils import runner
from kdutils.core.errors import Paused, UserError
from kdutils.core.files import HOME
from kdutils.core.settings import Settings, parse_assignments
from kdutils.study.experiment import Experiment, checked_seeds, resolve
from kdutils.study.plan import GPUS, planned
from kdutils.study.running import is_finished

PIPES = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}


@dataclass(frozen=True)
class Run:
    """A paper at one preset with some settings changed: its experiments with their settings, its seeds and arms."""

    name: str  # what tells it from those beside it
    paper: str
    preset: str
    changes: dict[str, str]
    experiments: Sequence[tuple[Experiment, Settings]]
    seeds: Sequence[int]
    arms: Sequence[str] = ()

    def left(self, folder: str | Path) -> list[tuple[Experiment, Settings, int]]:
        """What is not finished: an experiment, its settings, a seed."""
        every = ((one, own, seed) for (one, own), seed in itertools.product(self.experiments, self.seeds))
        return [(one, own, seed) for one, own, seed in every if not is_finished(one, own, seed, folder, self.arms)]

    def minutes(self, folder: str | Path) -> dict[str, float]:
        """What is left takes by `kdutils.study.plan`, one seed after the other, here and on GPUs."""
        left = Counter(one.name for one, *_ in self.left(folder))
        plans = [planned(one, own, left[one.name], self.arms) for one, own in self.experiments if left[one.name]]
        return {machine: sum(plan.minutes(machine) for plan in plans) for machine in ("here", *GPUS)}

    def command(self, verb: str, seeds: Sequence[int], folder: str | Path, task: str = "") -> list[str]:
        """The arguments of `python -m kdutils` that `run` or `train` these seeds, of all experiments or of one task."""
        options = {"preset": [self.preset], "seeds": map(str, seeds), "runs": [str(folder)]}
        tasks = [task] if task else [one.name for one, _ in self.experiments]
        options |= {"tasks": tasks, "arms": self.arms if verb == "train" else ()}
        options["set"] = [f"{name}={value}" for name, value in self.changes.items()]
        named = ([f"--{name}", *values] for name, values in options.items() if values)
        return [verb, self.paper, *itertools.chain.from_iterable(named)]


def chosen(options: argparse.Namespace, papers: Iterable[str]) -> list[Run]:
    """Every paper at every preset with every point of the sweep, by the options of `run` or `train`.

    `run` takes what is not named from the notebook of a paper. Raises UserError for a mistake in any of them.
    """
    if options.jobs < 1:
        raise UserError(f"--jobs is {options.jobs}: it must be at least 1.")
    changes, found = parse_assignments(options.set), {}
    for paper, preset, point in itertools.product(papers, options.preset or ["demo"], sweep(options.sweep)):
        if twice := [name for name in point if name in changes]:
            raise UserError(f"{twice[0]} is both set and swept: choose one of --set and --sweep for it.")
        changed, known = changes | point, runner.load(paper).EXPERIMENTS
        own = {"seeds": [1, 2, 3]} if hasattr(options, "arms") else runner.own_parameters(paper)
        named = {**own, **{name: value for name, value in vars(options).items() if value}}
        settings = resolve(known, preset, changed, named.get("tasks"))
        experiments = [(one, settings[one.name]) for one in known if one.name in settings]
        for experiment, chosen in experiments:
            for arm in experiment.chosen(named.get("arms")):
                arm.method(chosen)
        name = " ".join([paper, preset, *(f"{axis}={value}" for axis, value in point.items())])
        run = Run(name, paper, preset, changed, experiments, checked_seeds(named["seeds"]), named.get("arms", ()))
        twin = found.setdefault((paper, preset, *(one.digest for one in settings.values())), run)
        if twin is not run:
            raise UserError(f"'{name}' and '{twin.name}' are the same: ask for it once.")
    return [*found.values()]


def sweep(items: Iterable[str]) -> list[dict[str, str]]:
    """["alpha=0.5,1", "k=1,2"] as the four points of the product. Raises UserError for what is no such list."""
    axes: dict[str, list[str]] = {}
    for item in items:
        name, _, text = item.partition("=")
        values = text.split(",")
        if not name or not values or "" in values or name in axes:
            raise UserError(f"--sweep takes a name once, with values, as in --sweep alpha=0.5,1,2, not '{item}'.")
        axes[name] = values
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]


def side_by_side(
    commands: Mapping[str, Sequence[str]], jobs: int, left: Callable[[], float] = lambda: 0.0
) -> dict[str, int]:
    """Runs `python -m kdutils <arguments>` for each, `jobs` at a time, and returns their exit statuses by name.

    Every line that a process says stands behind its name. Each gets its share of the processors, and one GPU where
    there are several. left: the minutes that remain, the limit of one that starts. Ctrl-C stops all of them.
    """
    gpus = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))).split(",")
    share = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs)), "KDUTILS_HEADLESS": "1", **os.environ}
    slots, started = deque(range(jobs)), []

    def one(name: str) -> int:
        slot, limit = slots.popleft(), left()
        own = {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if len(gpus) > 1 else {}
        command = [sys.executable, "-m", "kdutils", *commands[name], *(["--max-minutes", str(limit)] if limit else [])]
        child = subprocess.Popen(command, env=share | own, encoding="utf-8", errors="replace", **PIPES)
        started.append(child)
        for line in child.stdout:
            print(f"[{name}] {line}", end="", flush=True)
        slots.append(slot)
        return child.wait()

    with ThreadPoolExecutor(jobs) as pool:
        try:
            return dict(zip(commands, pool.map(one, commands), strict=True))
        except KeyboardInterrupt:  # those that wait are cancelled by `map`
            for child in started:
                child.terminate()
            raise


def together(
    processes: int, experiment: Experiment, settings: Settings, seeds: Sequence[int] = (1, 2, 3),
    runs: str | Path = "runs", arms: Sequence[str] = (), max_minutes: float = 0.0,
) -> None:  # fmt: skip
    """Trains with several processes, on a GPU each; `kdutils.study.running.run` with the same arguments then loads it.

    For a notebook: they are a command line's, so that it does not matter whether the notebook has used a GPU already
    (accelerate's notebook_launcher forks, which CUDA does not survive). Raises UserError or Paused in their words.
    """
    base = experiment.settings.resolve(settings.preset)
    changed = {name: value for name, value in settings.items() if value != base[name]} | settings.overrides
    texts = {name: one if isinstance(one, str) else json.dumps(one) for name, one in changed.items()}
    run = Run(experiment.name, experiment.paper, settings.preset, texts, [(experiment, settings)], seeds, arms)
    if resolve([experiment], settings.preset, texts)[experiment.name].digest != settings.digest:
        raise UserError("Several processes take settings that `resolve` can make from a preset and overrides.")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += ["-m", "kdutils", *run.command("train", seeds, Path(runs).resolve()), f"--max-minutes={max_minutes}"]
    told, path = "", os.pathsep.join([str(HOME), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    own = {"OMP_NUM_THREADS": "1", **os.environ, "KDUTILS_HEADLESS": "1", "PYTHONPATH": path}
    with subprocess.Popen(command, env=own, encoding="utf-8", errors="replace", **PIPES) as child:
        for line in child.stdout:
            told = told or (line.strip() if line.startswith(("kdutils: ", "Paused ")) else "")
            print("" if told else line, end="", flush=True)  # what the launcher adds to that is long
    if child.returncode:
        raise (Paused if told.startswith("Paused ") else UserError)(told.removeprefix("kdutils: ") or "They ended.")
