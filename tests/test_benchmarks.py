"""Benchmarks on a GPU, which is a pretend one: the precision of training, memory above what was held before."""

from __future__ import annotations

import argparse
import importlib
import math

import pytest
import torch

from kdutils.models.forward import counted_logits
from kdutils.papers import distilbert, r_drop
from kdutils.training.method import Method
from tests.tiny import HOME

OPTIONS = argparse.Namespace(
    width=16,
    layers=1,
    heads=2,
    vocabulary=64,
    tokens=64,
    repeats=2,
    rows=4,
    length=16,
    arm="r_drop",
    task="translation",
    set=[],
)


@pytest.fixture
def step_cost(monkeypatch):
    monkeypatch.syspath_prepend(HOME / "benchmarks")
    return importlib.import_module("step_cost")


class Noted(Method):
    """Plain training that notes the precision of its logits."""

    def loss(self, model, batch, counts, step):
        self.kind = counted_logits(model, batch).dtype
        return super().loss(model, batch, counts, step)


@pytest.mark.parametrize(("capability", "kind"), [((7, 5), torch.float16), ((9, 0), torch.bfloat16)])
@pytest.mark.parametrize("experiment", [*r_drop.EXPERIMENTS, *distilbert.EXPERIMENTS], ids=lambda one: one.name)
def test_a_step_has_the_precision_of_training(experiment, capability, kind, step_cost, gpu):
    gpu(*capability)
    method = Noted()
    for _ in range(2):
        step_cost.stepper(experiment, method, OPTIONS)()
    assert method.kind is kind


@pytest.mark.parametrize("name", ["r_drop", "distilbert"])
def test_memory_is_counted_above_what_is_held_before(name, step_cost, gpu):
    gpu(9, 0)
    paper = {"r_drop": r_drop, "distilbert": distilbert}[name]
    options = argparse.Namespace(**{**vars(OPTIONS), "arm": name, "task": paper.EXPERIMENTS[0].name})
    first = step_cost.memory(paper, options)
    held = torch.zeros(2**22, device="cuda")  # 16 MB
    assert 0.01 < step_cost.memory(paper, options) == pytest.approx(first, rel=1e-3) and first < 16 and held.is_cuda


def test_less_is_held_in_slices_than_at_once(step_cost, gpu, monkeypatch):
    gpu(9, 0)
    projection_cost = importlib.import_module("projection_cost")
    monkeypatch.setitem(importlib.import_module("kdutils.losses.projection").CELLS_AT_ONCE, "cuda", 8 * 4096)
    options = argparse.Namespace(**{**vars(OPTIONS), "vocabulary": 4096})
    taken = {}
    for way in projection_cost.WAYS:
        options.way = way
        taken[way] = projection_cost.memory(options)
    assert taken["masked"] <= taken["slices"] < taken["all"]


def test_language_teachers_are_measured(step_cost, gpu):
    gpu(7, 5)
    row = importlib.import_module("language_teachers").measure(2, OPTIONS)
    assert row["copies"] == 2 and row["copies_mb"] > 0 and row["device_mb"] < row["all_on_device_mb"]
    assert all(map(math.isfinite, [row["time"], *row["time_quartiles"]]))
