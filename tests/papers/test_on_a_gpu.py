"""Every arm of every experiment on a GPU, which is a pretend one: in float16 and in bfloat16, whole and in pieces."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from kdutils.papers import seer_forcing
from kdutils.runner import load
from kdutils.study.experiment import resolve
from kdutils.study.running import run
from tests.gpu_runs import EXPERIMENTS, on_a_gpu
from tests.pretend_gpu import NAMES

pytestmark = pytest.mark.gpu

# by compute capability, which decides the precision: what goes on from a pause there
IN_PIECES = {
    "7.5": [
        "r_drop/translation",
        "seer_forcing/translation",
        "cbbgca/translation",
        "lssd/one_to_many",
        "intra_distillation/classification",
        "self_distillation/classification",
        "tutor_kd/masked_lm",
    ],
    "9.0": [
        "r_drop/classification",
        "lssd/many_to_one",
        "distilbert/masked_lm",
        "intra_distillation/translation",
        "intra_distillation/regression",
    ],
}


@pytest.fixture(scope="module", params=IN_PIECES)
def trained(request, tmp_path_factory):
    """The capability, and what a process with such a GPU found; it must end as it should."""
    place = tmp_path_factory.mktemp("gpu")
    done = on_a_gpu(request.param, "experiments", place, *IN_PIECES[request.param])
    assert done.returncode == 0, done.stderr[-4000:]
    return request.param, json.loads((place / "found.json").read_text(encoding="utf-8"))


def numbers(found: Any) -> list[float]:
    """All numbers in nested containers."""
    if isinstance(found, dict | list):
        return [number for one in (found.values() if isinstance(found, dict) else found) for number in numbers(one)]
    return [found] if isinstance(found, int | float) else []


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_arm_trains_to_finite_numbers_and_names_the_gpu(name, trained):
    (capability, found), (paper, _, task) = trained, name.partition("/")
    arms = found["whole"][name]
    assert list(arms) == [arm.name for one in load(paper).EXPERIMENTS if one.name == task for arm in one.arms]
    for arm in arms.values():
        assert arm["device"] == NAMES[tuple(map(int, capability.split(".")))]
        assert arm["weights"] and len(arm["history"]) and len(arm["metrics"]) > 5
        assert all(map(math.isfinite, numbers(arm)))


def test_an_arm_that_was_stopped_ends_with_the_same_weights_and_numbers(trained):
    capability, found = trained
    assert list(found["pieces"]) == IN_PIECES[capability]
    for name, arms in found["pieces"].items():
        for arm, one in arms.items():
            assert one == found["whole"][name][arm], f"{name}, {arm}"


def test_the_peak_memory_of_an_arm_does_not_depend_on_those_before_it(gpu, tmp_path):
    gpu(9, 0)
    (experiment,) = seer_forcing.EXPERIMENTS
    tiny = {**EXPERIMENTS["seer_forcing/translation"], "updates": 2, "layers": 2}  # with one the arms hold as much
    settings = resolve([experiment], "demo", tiny)["translation"]
    task, peaks = experiment.task(settings), []
    for arms in (["l2"], ["seer_forcing", "joint", "l2"]):
        (record,) = run(experiment, settings, [1], tmp_path / str(len(arms)), arms, task=task)
        peaks.append({arm: one["metrics"]["peak_memory_mb"] for arm, one in record["arms"].items()})
    assert peaks[0]["l2"] == peaks[1]["l2"] > peaks[1]["joint"] > 0
