"""Networks that are trained beside a model: looked at, kept as they were at the best update, exported and loaded."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from kdutils.core.errors import Paused, UserError
from kdutils.core.files import read_json
from kdutils.losses.divergences import label_smoothed_nll
from kdutils.models.forward import counted_logits
from kdutils.papers.seer_forcing.experiment import EXPERIMENTS
from kdutils.papers.seer_forcing.method import SeerForcing
from kdutils.study.experiment import Arm, Experiment, resolve
from kdutils.study.running import finished, folder, load_method, load_model, run
from kdutils.tasks.translation import Translation
from kdutils.training.loop import fit
from kdutils.training.method import Method
from tests import tiny
from tests.tiny import (
    BESIDE,
    SMALL,
    one_sentence,
    run_seer_forcing,
    started,
    timeless,
    told,
    train,
    train_and_tell,
)

EXPERIMENT = EXPERIMENTS[0]
TINY = {**SMALL, "max_tokens": 200, "vocab_size": 400, "select_by": "loss"}
SETTINGS = resolve(EXPERIMENTS, "demo", TINY)["translation"]
ARMS = ["seer_forcing", "adversarial"]
NETWORKS = {"baseline": [], "seer_forcing": ["seer"], "adversarial": ["discriminator", "seer"]}


def everyone(net: nn.Module, method: Method) -> dict[str, dict[str, torch.Tensor]]:
    """The weights of the model and of all networks beside it, as they are now."""
    return {name: tiny.weights(module) for name, module in {"model": net, **method.modules()}.items()}


def assert_all_equal(one, other) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].keys() == other[name].keys()
        for key in one[name]:
            assert torch.equal(one[name][key], other[name][key]), (name, key)


def files(place: Path, *patterns: str) -> list[str]:
    return sorted(path.name for pattern in patterns for path in place.glob(pattern))


class Losses:
    """An evaluation that finds the losses it is told to, and keeps the weights that it was shown."""

    def __init__(self, method: Method, *wanted: float, stop_after: int = 0) -> None:
        self.method, self.wanted, self.stop_after = method, list(wanted), stop_after
        self.kept, self.files, self.folder = [], [], None

    def __call__(self, net: nn.Module) -> dict[str, float]:
        self.kept.append(everyone(net, self.method))
        if self.folder:
            self.files.append(files(self.folder, "best-*"))
        if self.stop_after and len(self.kept) > self.stop_after:
            raise KeyboardInterrupt
        return {"loss": self.wanted.pop(0)}


# ---------------------------------------------------------------- killed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """For each method, what a run that nothing happens to finds, and in how many events."""
    answers = {}
    for method in BESIDE:
        place = tmp_path_factory.mktemp("undisturbed") / method
        assert started().run(train_and_tell, folder=str(place), method=method) == 0
        answers[method] = read_json(told(place))
    return answers


def go_on(place: Path, method: str) -> dict:
    assert started().run(train_and_tell, folder=str(place), method=method) == 0
    return read_json(told(place))


def test_an_undisturbed_run_keeps_the_networks_and_looks_at_them(undisturbed):
    for method, answer in undisturbed.items():
        assert set(answer["found"]["weights"]) == {"model", *NETWORKS[method]}
        looked = [row for row in answer["found"]["history"] if row["kind"] == "eval"]
        assert len(looked) == 6 and all({"seer_loss", "seer_kl", "seer_leak"} <= row.keys() for row in looked)
    assert undisturbed["seer_forcing"]["found"]["weights"] != undisturbed["adversarial"]["found"]["weights"]


@pytest.mark.parametrize("method", BESIDE)
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(method, undisturbed, tmp_path):
    """The kills fall between updates, half way through a file, before a rename and while old files are deleted."""
    place, left = tmp_path / "run", []
    for events in (3, 24, 38, 36, 27, 41, 33):
        assert started().run(train_and_tell, folder=str(place), method=method, kill_at=events) == -signal.SIGKILL
        left.append(len(files(place / "checkpoints", "update-*")))
    ended = go_on(place, method)
    assert ended["found"] == undisturbed[method]["found"]
    assert ended["resumed_at"] > 0 and left[0] == 0 and left[-1] > 0
    assert not list(place.rglob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "first"), [("seer_forcing", 4), ("adversarial", 9)])
def test_a_run_killed_at_any_of_many_events_ends_as_if_nothing_had_happened(method, first, undisturbed, tmp_path):
    expected = undisturbed[method]
    for events in range(first, len(expected["events"]) + 1, 17):
        place = tmp_path / f"killed-at-{events}"
        assert started().run(train_and_tell, folder=str(place), method=method, kill_at=events) == -signal.SIGKILL
        assert go_on(place, method)["found"] == expected["found"], events


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three arms at one seed, trained in one piece, for the tests that only look."""
    place = tmp_path_factory.mktemp("runs")
    run(EXPERIMENT, SETTINGS, [1], place, ["baseline", *ARMS])
    return place


def exported(runs: Path, arm: str) -> dict[str, dict[str, torch.Tensor]]:
    place = folder(EXPERIMENT, SETTINGS, runs) / "seed-1" / arm
    beside = {path.stem: load_file(path) for path in (place / "beside").glob("*.safetensors")}
    return {"model": load_file(place / "model/model.safetensors"), **beside}


def lasting(metrics: dict[str, float]) -> dict[str, float]:
    """Those that do not depend on the clock or on what else the process did."""
    return {k: v for k, v in metrics.items() if k not in ("minutes", "seconds_per_update", "peak_memory_mb")}


KILLS = [
    ("kdutils.training.loop:_Loop._update", 5),
    ("kdutils.training.checkpoints:save_model", -1),  # half of the exported network
    ("kdutils.training.checkpoints:save_model", 2),  # half of the best seer
    ("kdutils.training.checkpoints:save_model", 6),  # half of a seer in a checkpoint
    ("kdutils.study.kept:export", 1),
    ("kdutils.study.running:tested", 1),
    ("kdutils.study.kept:write_json", 1),
    ("kdutils.study.kept:clear_run", 1),
    ("kdutils.study.running:write_json", 1),  # the result is written, the record is not
]


# The adversarial arm has the seer and one network more: what befalls it befalls the other alike.
@pytest.mark.parametrize(
    ("arm", "event", "kill_at"),
    [(arm, *kill) for arm, kills in (("seer_forcing", KILLS[:2]), ("adversarial", KILLS)) for kill in kills],
)
def test_a_killed_experiment_exports_what_an_undisturbed_one_does(arm, event, kill_at, runs, tmp_path):
    job = {"runs": str(tmp_path), "arms": [arm], "changes": TINY, "events": [event]}
    if kill_at < 0:  # the last call of a run in one piece: best weights twice, two checkpoints, and the export
        best = sum(row["loss"] == min(losses(runs, arm)[: n + 1]) for n, row in enumerate(evaluations(runs, arm)))
        kill_at = best * (1 + len(NETWORKS[arm])) + 2 * (1 + len(NETWORKS[arm])) + len(NETWORKS[arm])
    assert started().run(run_seer_forcing, kill_at=kill_at, **job) == -signal.SIGKILL
    assert finished(EXPERIMENT, SETTINGS, tmp_path) == []
    place = folder(EXPERIMENT, SETTINGS, tmp_path) / "seed-1" / arm
    if event.startswith("kdutils.study"):  # nothing is trained again: the checkpoints stay until the result is written
        assert (place / "result.json").exists() or files(place / "checkpoints", "*6") == ["update-00000006"]
    assert started().run(run_seer_forcing, **job) == 0
    (record,), (expected,) = (finished(EXPERIMENT, SETTINGS, place) for place in (tmp_path, runs))
    ours, theirs = record["arms"][arm], expected["arms"][arm]
    assert timeless(ours["history"]) == timeless(theirs["history"])
    assert lasting(ours["metrics"]) == lasting(theirs["metrics"])
    assert_all_equal(exported(tmp_path, arm), exported(runs, arm))
    assert files(place, "*", ".*") == ["beside", "history.jsonl", "model", "result.json", "translations.jsonl"]
    assert files(place / "beside", "*", ".*") == [f"{name}.safetensors" for name in NETWORKS[arm]]


def evaluations(runs: Path, arm: str) -> list[dict]:
    (record,) = finished(EXPERIMENT, SETTINGS, runs)
    return [row for row in record["arms"][arm]["history"] if row["kind"] == "eval"]


def losses(runs: Path, arm: str) -> list[float]:
    return [row["loss"] for row in evaluations(runs, arm)]


def test_a_pause_is_clean_and_the_run_goes_on_to_the_same_networks(tmp_path):
    method, pauses, result = "adversarial", 0, None
    whole = train(tmp_path / "whole", method)
    while result is None:
        try:
            result = train(tmp_path / "paused", method, until=time.monotonic())
        except Paused:
            pauses += 1
    assert pauses == 11
    assert timeless(result.history) == timeless(whole.history) and result.best == whole.best
    assert_all_equal(everyone(result.model, result.method), everyone(whole.model, whole.method))


# ---------------------------------------------------------------- the best weights


@pytest.mark.parametrize("make", BESIDE.values(), ids=list(BESIDE))
def test_the_best_networks_are_of_the_update_of_the_best_model(make, tmp_path):
    method = make()
    looks = Losses(method, 5.0, 4.0, 9.0, 3.0, 9.0, 9.0)  # at 2, 4, ..., 12
    looks.folder = tmp_path
    result = train(tmp_path, method, evaluate=looks)
    assert result.best["update"] == 8
    now = everyone(result.model, method)
    assert_all_equal(now, looks.kept[3])
    for name, tensors in now.items():
        assert any(not torch.equal(tensors[key], looks.kept[-1][name][key]) for key in tensors), name
    names = [name for name in now if name != "model"]
    for shown, updates in zip(looks.files, [(), (2,), (2, 4), (2, 4), (4, 8), (4, 8)], strict=True):
        kept = [f"best-{u:08d}{end}" for u in updates for end in ("", *(f".{name}" for name in names))]
        assert shown == sorted(f"{file}.safetensors" for file in kept)
    assert files(tmp_path, "best-*") == sorted(
        f"best-00000008{end}.safetensors" for end in ("", *(f".{name}" for name in names))
    )


def test_without_a_folder_the_last_networks_stay():
    method = SeerForcing()
    looks = Losses(method, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    result = train(None, method, evaluate=looks)
    assert result.best["update"] == 2
    assert_all_equal(everyone(result.model, method), looks.kept[-1])


def test_patience_stops_and_the_best_networks_are_there_also_when_it_is_asked_again(tmp_path):
    method = SeerForcing()
    looks = Losses(method, 5.0, 4.0, 4.0, 4.5, 4.1)
    result = train(tmp_path, method, evaluate=looks, patience=3)
    assert result.updates == 10 and result.best["update"] == 4
    assert_all_equal(everyone(result.model, method), looks.kept[1])
    again = train(tmp_path, "seer_forcing", evaluate=lambda net: {"loss": 4.1}, patience=3)
    assert again.updates == 10
    assert_all_equal(everyone(again.model, again.method), looks.kept[1])


def test_half_written_best_files_of_networks_are_deleted(tmp_path):
    leftovers = [".best-00000002.seer.safetensors.77.tmp", ".best-00000004.safetensors.77.tmp"]
    for name in leftovers:
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "best-00000001.seer.safetensors").write_bytes(b"of a run that is no more")
    (tmp_path / "mine.safetensors").write_bytes(b"mine")
    train(tmp_path, "seer_forcing", evaluate=lambda net: {"loss": 1.0})
    best = [f"best-00000002{end}.safetensors" for end in ("", ".seer")]
    assert files(tmp_path, "*.safetensors", ".*") == [*best, "mine.safetensors"]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run that stopped in its fifth evaluation, at update 10, with checkpoints of 6 and 9; and one in one piece."""
    wanted = (5.0, 4.0, 9.0, 3.0, 9.0, 2.0)
    place, method = tmp_path_factory.mktemp("interrupted"), SeerForcing()
    with pytest.raises(KeyboardInterrupt):
        train(place / "run", method, evaluate=Losses(method, *wanted, stop_after=4))
    assert files(place / "run/checkpoints", "update-*") == ["update-00000006", "update-00000009"]
    method = SeerForcing()
    looks = Losses(method, *wanted)
    train(place / "whole", method, evaluate=looks)
    return place / "run", looks.kept


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {"a bit": damaged, "cut": lambda path: os.truncate(path, path.stat().st_size // 2), "gone": Path.unlink}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["checkpoints/update-00000009/seer.safetensors", "best-00000008.seer.safetensors"])
def test_the_checkpoint_before_a_damaged_one_brings_its_own_best_networks(file, damage, interrupted, tmp_path):
    whole, kept = interrupted
    place = Path(shutil.copytree(whole, tmp_path / "run"))
    DAMAGES[damage](place / file)
    for later, best in (((9.0, 9.0, 9.0), 1), ((9.0, 9.0, 2.0), 5)):
        again, method = Path(shutil.copytree(place, tmp_path / f"best-{best}")), SeerForcing()
        looks = Losses(method, *later)  # at 8, 10 and 12
        result = train(again, method, evaluate=looks)
        assert result.resumed_at == 6 and result.best["update"] == 2 * (best + 1)
        assert_all_equal(everyone(result.model, method), kept[best])
        assert_all_equal(looks.kept[-1], kept[-1])
        needed = sorted({4, 2 * (best + 1)})  # by the checkpoints of 9 and of 12
        assert files(again, "best-*") == [f"best-{u:08d}{end}.safetensors" for u in needed for end in ("", ".seer")]


def test_with_the_best_networks_of_both_checkpoints_gone_the_run_starts_anew(interrupted, tmp_path):
    whole, kept = interrupted
    place, method = Path(shutil.copytree(whole, tmp_path / "run")), SeerForcing()
    for path in place.glob("best-*.seer.safetensors"):
        path.unlink()
    result = train(place, method, evaluate=Losses(method, 5.0, 4.0, 9.0, 3.0, 9.0, 9.0))
    assert result.resumed_at == 0
    assert_all_equal(everyone(result.model, method), kept[3])


def test_networks_train_in_training_mode_whatever_mode_the_model_came_in():
    seen = []

    class Watching(SeerForcing):
        def loss(self, model, batch, counts, step):
            seen.append({m.training for network in (model, *self.modules().values()) for m in network.modules()})
            return super().loss(model, batch, counts, step)

    for mode in (True, False):
        fit(tiny.model().train(mode), Watching(transfer="adversarial"), tiny.batches(), tiny.recipe(updates=1))
    assert seen == [{True}] * 4


# ---------------------------------------------------------------- looking, exporting, loading


class Probing(Method):
    """A linear map beside the model, and extra scores that say which rows they saw and what the map was."""

    looks: list[tuple] = []

    def attach(self, model: nn.Module) -> None:
        self.probe = nn.Linear(model.config.vocab_size, 2)

    def modules(self) -> dict[str, nn.Module]:
        return {"probe": self.probe}

    def loss(self, model, batch, counts, step):
        logits = counted_logits(model, batch)
        second = label_smoothed_nll(self.probe(logits.detach()), batch["targets"] % 2, reduction="sum")
        total = label_smoothed_nll(logits, batch["targets"], reduction="sum") + second
        return {"loss": total / counts["targets"]}

    def extra_scores(self, model, batches):
        rows = [tuple(ids) for batch in batches for ids in batch["input_ids"].tolist()]
        self.looks.append((model.training, len(rows), hash(tuple(rows)), everyone(model, self)))
        return {"mass": float(self.probe.weight.detach().abs().sum()), "share": 3.0}


def test_extra_scores_are_taken_at_every_evaluation_and_with_the_best_weights_at_the_test(tmp_path):
    Probing.looks.clear()
    toy = Experiment("toy", EXPERIMENT.task, EXPERIMENT.settings, (Arm("probing", "", lambda s: Probing()),),
                     extra_scores=lambda task, net: {"loss": next(given), "mass": -1.0})  # fmt: skip
    given = iter((3.0, 1.0, 2.0))
    settings = resolve([toy], "demo", {**TINY, "validation_rows": 7})["translation"]
    (record,) = run(toy, settings, [1], tmp_path)
    arm = record["arms"]["probing"]
    rows = [row for row in arm["history"] if row["kind"] == "eval"]
    looks, masses = Probing.looks, [float(look[3]["probe"]["weight"].abs().sum()) for look in Probing.looks]
    # three evaluations, the test of the last weights, and that of the best
    assert [(training, n) for training, n, _, _ in looks] == [(False, 7)] * 3 + [(False, 10), (looks[4][0], 10)]
    assert len({name for _, _, name, _ in looks[:3]}) == 1 and looks[4][2] == looks[3][2] != looks[0][2]
    assert [row["mass"] for row in rows] == masses[:3] and len(set(masses[:3])) == 3
    assert arm["metrics"]["best_update"] == 4 and arm["metrics"]["test_mass"] == masses[1]
    assert arm["metrics"]["last_test_mass"] == masses[2]
    assert_all_equal(looks[4][3], looks[1][3])
    assert_all_equal(looks[3][3], looks[2][3])
    assert (arm["metrics"]["validation_mass"], arm["metrics"]["final_mass"]) == (masses[1], masses[2])
    method = load_method(toy, settings, "probing", load_model(toy, settings, "probing", 1, tmp_path), 1, tmp_path)
    assert_all_equal({"probe": tiny.weights(method.probe)}, {"probe": looks[1][3]["probe"]})


def test_a_method_without_networks_exports_none_and_has_no_extra_scores(runs):
    assert Method().modules() == {} and Method().extra_scores(tiny.model(), tiny.batches()) == {}
    place = folder(EXPERIMENT, SETTINGS, runs) / "seed-1"
    assert files(place / "baseline", "*", ".*") == ["history.jsonl", "model", "result.json", "translations.jsonl"]
    for arm in ARMS:
        assert files(place / arm, "*", ".*") == [
            "beside",
            "history.jsonl",
            "model",
            "result.json",
            "translations.jsonl",
        ]
        assert files(place / arm / "beside", "*", ".*") == [f"{name}.safetensors" for name in NETWORKS[arm]]
    net = load_model(EXPERIMENT, SETTINGS, "baseline", 1, runs)
    assert type(load_method(EXPERIMENT, SETTINGS, "baseline", net, 1, runs)) is Method


@pytest.mark.parametrize("arm", ARMS)
def test_a_loaded_method_scores_exactly_what_was_recorded(arm, runs):
    (record,) = finished(EXPERIMENT, SETTINGS, runs)
    metrics, task = record["arms"][arm]["metrics"], Translation(SETTINGS)
    net = load_model(EXPERIMENT, SETTINGS, arm, 1, runs)
    before, state = tiny.weights(net), torch.get_rng_state()
    method = load_method(EXPERIMENT, SETTINGS, arm, net, 1, runs)
    assert sorted(method.modules()) == NETWORKS[arm] and torch.equal(state, torch.get_rng_state())
    assert not any(m.training for network in (net, *method.modules().values()) for m in network.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert_all_equal({name: tiny.weights(m) for name, m in method.modules().items()},
                     {k: v for k, v in exported(runs, arm).items() if k != "model"})  # fmt: skip
    for split, prefix in (("test", "test"), ("validation", "validation")):
        seen = method.extra_scores(net, task.fixed_batches(split))
        assert len(seen) == 5
        assert {f"{prefix}_{name}": score for name, score in seen.items()}.items() <= metrics.items()


def test_a_network_that_is_missing_or_damaged_is_one_sentence_and_can_be_made_again(runs, tmp_path):
    again = Path(shutil.copytree(runs, tmp_path / "runs"))
    net = load_model(EXPERIMENT, SETTINGS, "seer_forcing", 1, again)
    place = folder(EXPERIMENT, SETTINGS, again) / "seed-1/seer_forcing"
    file = place / "beside/seer.safetensors"
    content = file.read_bytes()
    other = load_file(place.parent / "adversarial/beside/discriminator.safetensors")
    for broken in (None, b"", content[: len(content) // 2], b"x" * 500, other):
        if isinstance(broken, dict):
            shutil.copy(place.parent / "adversarial/beside/discriminator.safetensors", file)
        elif broken is None:
            file.unlink()
        else:
            file.write_bytes(broken)
        with pytest.raises(UserError, match="is missing or damaged: delete the folder") as caught:
            load_method(EXPERIMENT, SETTINGS, "seer_forcing", net, 1, again)
        assert str(file) in one_sentence(caught.value)
    shutil.rmtree(place)
    run(EXPERIMENT, SETTINGS, [1], again, ["baseline", *ARMS])
    assert_all_equal(exported(again, "seer_forcing"), exported(runs, "seer_forcing"))


@pytest.mark.parametrize("arm", ["baseline", "seer_forcing"])
def test_a_method_that_is_not_finished_is_one_sentence(arm, runs, tmp_path):
    net = load_model(EXPERIMENT, SETTINGS, "baseline", 1, runs)
    with pytest.raises(UserError, match="run the experiment for seed 7 first") as caught:
        load_method(EXPERIMENT, SETTINGS, arm, net, 7, runs)
    one_sentence(caught.value)
    with pytest.raises(UserError, match="no arm 'seer-forcing'. Did you mean 'seer_forcing'"):
        load_method(EXPERIMENT, SETTINGS, "seer-forcing", net, 1, runs)
    with pytest.raises(Paused):
        run(EXPERIMENT, SETTINGS, [1], tmp_path, [arm], max_minutes=1e-9)
    with pytest.raises(UserError, match="run the experiment for seed 1 first"):
        load_method(EXPERIMENT, SETTINGS, arm, net, 1, tmp_path)


def test_a_run_that_patience_ends_leaves_nothing_temporary(tmp_path):
    settings = resolve(EXPERIMENTS, "demo", {**TINY, "patience": 1, "learning_rate": 0.0, "checkpoint_every": 50})
    place = folder(EXPERIMENT, settings["translation"], tmp_path) / "seed-1/seer_forcing"
    place.mkdir(parents=True)
    (place / ".best-00000004.seer.safetensors.77.tmp").write_bytes(b"half")
    (record,) = run(EXPERIMENT, settings["translation"], [1], tmp_path, ["seer_forcing"])
    assert record["arms"]["seer_forcing"]["metrics"]["updates"] == 4  # and no checkpoint was ever written
    assert files(place, "*", ".*") == ["beside", "history.jsonl", "model", "result.json", "translations.jsonl"]


def test_the_history_on_the_disk_has_the_extra_scores_too(runs):
    (record,) = finished(EXPERIMENT, SETTINGS, runs)
    for arm in ARMS:
        place = folder(EXPERIMENT, SETTINGS, runs) / "seed-1" / arm
        lines = [json.loads(line) for line in (place / "history.jsonl").read_text().splitlines()]
        assert lines == record["arms"][arm]["history"]
