"""Benchmarks on a GPU, which is a pretend one: the precision of training, memory above what was held before."""

from __future__ import annotations

import argparse
import importlib
import math

import pytest
import torch
from transformers import ElectraForMaskedLM, ElectraForPreTraining

from kdutils.models.forward import counted_logits
from kdutils.papers import (
    cbbgca,
    distilbert,
    intra_distillation,
    lssd,
    r_drop,
    seer_forcing,
    self_distillation,
    tutor_kd,
)
from kdutils.papers.cbbgca.cmlm import CMLM
from kdutils.papers.cbbgca.method import joint_passes
from kdutils.papers.self_distillation.method import SDA, SDV
from kdutils.training.method import Method, SquaredError
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


def test_every_arm_with_a_method_of_its_own_is_measured_beside_its_floor(step_cost, monkeypatch):
    monkeypatch.setattr(step_cost, "peak", lambda *_: 1.0)
    monkeypatch.setattr(step_cost, "ratio", lambda *_: ([1.0, 1.0, 1.0], 1.0))
    options = argparse.Namespace(**{**vars(OPTIONS), "set": ["teacher_size=2"]})
    floors = {row["method"]: row["floor"] for row in step_cost.measure(self_distillation.EXPERIMENTS[0], options)}
    taught = dict.fromkeys(("sda_1", "sda", "sda_all", "ema", "itself"), 4 / 3)
    assert floors == pytest.approx({"baseline": 1.0, "sdv": 5 / 3, **taught})  # whose baseline has an ensemble beside
    for paper in (r_drop, seer_forcing, intra_distillation, lssd):
        rows = step_cost.measure(paper.EXPERIMENTS[0], OPTIONS)
        own = ["baseline"] if paper is lssd else []  # which keeps each language's best student
        assert [row["method"] for row in rows] == [paper.__name__.rpartition(".")[2], *own]


def test_both_stages_are_measured_and_the_second_has_a_teacher(step_cost, monkeypatch):
    monkeypatch.setattr(step_cost, "peak", lambda *_: 1.0)
    monkeypatch.setattr(step_cost, "ratio", lambda one, other, _: [one(), other()] and ([1.0, 1.0, 1.0], 1.0))
    floors = {row["method"]: row["floor"] for row in step_cost.measure(cbbgca.EXPERIMENTS[0], OPTIONS)}
    assert floors == pytest.approx({"multi": joint_passes(1, 16, 64, 64), "cbbgca": 4 / 3})
    asked = []
    monkeypatch.setattr(CMLM, "forward", lambda self, *given: asked.append(given) or torch.zeros(len(given[2]), 64))
    method = step_cost.method_of(cbbgca.EXPERIMENTS[0], "cbbgca", cbbgca.EXPERIMENTS[0].settings.resolve("demo"))
    step_cost.stepper(cbbgca.EXPERIMENTS[0], method, OPTIONS)()
    assert [len(positions) for _, _, positions, *_ in asked] == [64]  # every word of two sentences


def test_students_that_judge_and_that_predict_are_measured_against_the_same_that_predicts(step_cost, monkeypatch):
    """By hand, for 16 units, one layer of 12 * 16^2 weights under two, 64 words of which 15 % are asked for."""
    monkeypatch.setattr(step_cost, "peak", lambda *_: 1.0)
    given, students = step_cost.update, []
    monkeypatch.setattr(step_cost, "update", lambda nets, *rest: students.append(type(nets[0])) or given(nets, *rest))
    monkeypatch.setattr(step_cost, "ratio", lambda one, other, _: [one(), other()] and ([1.0, 1.0, 1.0], 1.0))
    rows = step_cost.measure(tutor_kd.EXPERIMENTS[0], OPTIONS)
    assert dict(zip([row["method"] for row in rows], students[1::2], strict=True)) == {
        "kd": ElectraForMaskedLM, "tutor_kd": ElectraForPreTraining,
    }  # fmt: skip
    assert set(students[::2]) == {ElectraForMaskedLM}
    layer, words = 12 * 16**2, 0.15 * 64 * 16
    plain = 3 * (layer + words)
    kd, ours = plain + 2 * layer + words, 3 * layer + 2 * (2 * layer + words) + 3 * words
    floors = {row["method"]: row["floor"] for row in rows}
    assert floors == pytest.approx({"kd": kd / plain, "tutor_kd": ours / plain})


def test_weights_that_two_networks_share_are_moved_once(step_cost, monkeypatch):
    given, real = [], torch.optim.AdamW
    monkeypatch.setattr(
        torch.optim, "AdamW", lambda weights, **options: given.append(weights) or real(weights, **options)
    )
    method = step_cost.method_of(cbbgca.EXPERIMENTS[0], "multi", cbbgca.EXPERIMENTS[0].settings.resolve("demo"))
    step_cost.stepper(cbbgca.EXPERIMENTS[0], method, OPTIONS)()
    assert len(set(map(id, given[0]))) == len(given[0]) > 20


def test_the_plain_step_is_that_of_the_baseline_alone(step_cost):
    for experiment in (*self_distillation.EXPERIMENTS, *intra_distillation.EXPERIMENTS):
        found = step_cost.method_of(experiment, "plain", experiment.settings.resolve("demo"))
        assert type(found) is (SquaredError if experiment.name == "regression" else Method)


@pytest.mark.parametrize("method", [SDA(3), SDV(3)], ids=["sda", "sdv"])
def test_a_step_is_taught_by_earlier_selves_and_renews_them(method, step_cost):
    take = step_cost.stepper(self_distillation.EXPERIMENTS[0], method, OPTIONS)
    before = method.window.pushed
    take()
    assert len(method.window) == 3 and method.window.pushed == before + 1


def test_what_a_method_holds_is_counted_too(step_cost, gpu):
    gpu(9, 0)
    options = argparse.Namespace(**{**vars(OPTIONS), "task": "classification"})
    few, many = (
        step_cost.memory(self_distillation, argparse.Namespace(**{**vars(options), "arm": "sdv", "set": [size]}))
        for size in ("teacher_size=1", "teacher_size=33")
    )
    model = step_cost.make_model("classification", OPTIONS)
    sets = 4 * sum(one.numel() for one in model.parameters()) / 2**20
    assert many - few > 32 * sets > 0.1  # and what a forward pass of each takes


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
