"""Every arm of every experiment on a GPU, which is a pretend one: whole and in pieces, in float16 and in bfloat16."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tests.gpu_runs import EXPERIMENTS, on_a_gpu
from tests.pretend_gpu import NAMES

pytestmark = pytest.mark.gpu

# Each experiment goes on from a pause in one of the two precisions.
IN_PIECES = {
    "7.5": ["r_drop/translation", "seer_forcing/translation", "lssd/one_to_many"],
    "9.0": ["r_drop/classification", "lssd/many_to_one", "distilbert/masked_lm"],
}


@pytest.fixture(scope="module", params=IN_PIECES)
def trained(request, tmp_path_factory):
    """What a process with such a GPU has found; it must end as it should."""
    request.getfixturevalue("has_compiler")
    place = tmp_path_factory.mktemp("gpu")
    done = on_a_gpu(request.param, "experiments", place, *IN_PIECES[request.param])
    assert done.returncode == 0, done.stderr[-4000:]
    return request.param, json.loads((place / "found.json").read_text(encoding="utf-8"))


def numbers(found: Any) -> list[float]:
    if isinstance(found, dict | list):
        return [number for one in (found.values() if isinstance(found, dict) else found) for number in numbers(one)]
    return [found] if isinstance(found, int | float) else []


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_arm_trains_to_finite_numbers_and_names_the_gpu(name, trained):
    capability, found = trained
    arms = found["whole"][name]
    paper, _, task = name.partition("/")
    assert list(arms) == [arm.name for e in load(paper).EXPERIMENTS if e.name == task for arm in e.arms]
    for arm in arms.values():
        assert arm["device"] == NAMES[tuple(map(int, capability.split(".")))]
        assert all(map(math.isfinite, numbers(arm))) and arm["weights"]
    assert capability != "7.5"
