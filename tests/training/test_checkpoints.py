"""A run killed at any point, or damaged on the disk, ends with the very numbers of one that was left alone."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kdutils.core.errors import Paused, UserError
from kdutils.core.files import file_digest, read_json, write_json
from kdutils.training import checkpoints as c
from tests.tiny import METHODS, Processes, fill_the_disk, one_sentence, started, told, train, train_and_tell

FILES = ("facts.json", "manifest.json", "model.safetensors", "random-0.pt", "training.pt", "head.safetensors")


@pytest.fixture(scope="module")
def processes():
    return started()


@pytest.fixture(scope="module")
def undisturbed(processes, tmp_path_factory):
    """For each method, what a run that nothing happens to finds, and in how many events."""
    answers = {}
    for method in METHODS:
        folder = tmp_path_factory.mktemp("undisturbed") / method
        assert processes.run(train_and_tell, folder=str(folder), method=method) == 0
        answers[method] = read_json(told(folder))
    return answers


def go_on(processes: Processes, folder: Path, method: str) -> dict:
    assert processes.run(train_and_tell, folder=str(folder), method=method) == 0
    return read_json(told(folder))


def damage_cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def damage_flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "cut short": damage_cut,
    "one bit flipped": damage_flip,
    "deleted": Path.unlink,
    "emptied": lambda p: p.write_bytes(b""),
}


def checkpoints_in(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("update-*"))


# ---------------------------------------------------------------- killed


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(method, processes, undisturbed, tmp_path):
    """The kills fall between updates, half way through a file, before a rename and while old files are deleted."""
    expected, folder = undisturbed[method], tmp_path / "run"
    resumed = []
    # a fresh run writes its first checkpoint at about event 25, and one that goes on needs about 25 to the next
    for events in (3, 22, 30, 29, 19, 33):
        status = processes.run(train_and_tell, folder=str(folder), method=method, kill_at=events)
        assert status == -signal.SIGKILL
        resumed.append([path.name for path in checkpoints_in(folder)])
    ended = go_on(processes, folder, method)
    assert ended["found"] == expected["found"]
    assert ended["resumed_at"] > 0 and resumed[0] == []


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_killed_at_any_event_ends_as_if_nothing_had_happened(method, processes, undisturbed, tmp_path):
    expected = undisturbed[method]
    for events in range(1, len(expected["events"]) + 1):
        folder = tmp_path / f"killed-at-{events}"
        assert processes.run(train_and_tell, folder=str(folder), method=method, kill_at=events) == -signal.SIGKILL
        assert go_on(processes, folder, method)["found"] == expected["found"], events


@pytest.mark.parametrize("at", range(26, 56, 5))
def test_around_the_first_checkpoints_every_kind_of_file_is_hit(at, processes, undisturbed, tmp_path):
    folder = tmp_path / "run"
    assert processes.run(train_and_tell, folder=str(folder), method="averaged", kill_at=at) == -signal.SIGKILL
    assert go_on(processes, folder, "averaged")["found"] == undisturbed["averaged"]["found"]


def test_a_killed_run_leaves_nothing_temporary_once_it_has_gone_on(processes, undisturbed, tmp_path):
    folder = tmp_path / "run"
    for events in (7, 30, 41):
        processes.run(train_and_tell, folder=str(folder), method="averaged", kill_at=events)
    (folder / "checkpoints/.update-00000099.tmp").mkdir()
    (folder / "checkpoints/.update-00000006.tmp").mkdir(exist_ok=True)
    (folder / "checkpoints/.update-00000006.tmp/model.safetensors").write_bytes(b"half")
    (folder / ".best-00000002.safetensors.1.tmp").write_bytes(b"half")
    assert go_on(processes, folder, "averaged")["found"] == undisturbed["averaged"]["found"]
    assert not list(folder.rglob(".*"))


# ---------------------------------------------------------------- damaged


@pytest.fixture(scope="module")
def killed(processes, undisturbed, tmp_path_factory):
    """A run with two checkpoints, of updates 6 and 9, killed in update 10; for tests to copy and to damage."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    events = undisturbed["averaged"]["events"]
    updates = [number for number, event in enumerate(events, start=1) if event.endswith("_update")]
    status = processes.run(train_and_tell, folder=str(folder), method="averaged", kill_at=updates[9])
    assert status == -signal.SIGKILL
    assert [path.name for path in checkpoints_in(folder)] == ["update-00000006", "update-00000009"]
    return folder


def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "run"))


@pytest.mark.parametrize(("file", "damage"), [
    *((file, damage) for file, damage in zip(FILES, list(DAMAGES) * 2, strict=False)),
    ("facts.json", "deleted"), ("model.safetensors", "one bit flipped"), ("training.pt", "cut short"),
])  # fmt: skip
def test_the_checkpoint_before_a_damaged_one_is_used(file, damage, killed, processes, undisturbed, tmp_path):
    folder = copied(killed, tmp_path)
    DAMAGES[damage](checkpoints_in(folder)[-1] / file)
    ended = go_on(processes, folder, "averaged")
    assert ended["resumed_at"] == 6
    assert ended["found"] == undisturbed["averaged"]["found"]
    assert all(c.intact(path) for path in checkpoints_in(folder))


def test_a_damaged_checkpoint_that_is_not_reached_again_does_not_stay(killed, processes, undisturbed, tmp_path):
    """A run that was paused in between has a checkpoint at an odd update, which no later one replaces."""
    folder = copied(killed, tmp_path)
    odd = (folder / "checkpoints/update-00000009").rename(folder / "checkpoints/update-00000011")
    damage_cut(odd / "facts.json")
    assert go_on(processes, folder, "averaged")["found"] == undisturbed["averaged"]["found"]
    assert [path.name for path in checkpoints_in(folder)] == ["update-00000009", "update-00000012"]


def test_with_all_checkpoints_damaged_the_run_starts_anew(killed, processes, undisturbed, tmp_path):
    folder = copied(killed, tmp_path)
    for path, file in zip(checkpoints_in(folder), ("manifest.json", "training.pt"), strict=True):
        damage_cut(path / file)
    ended = go_on(processes, folder, "averaged")
    assert ended["resumed_at"] == 0
    assert ended["found"] == undisturbed["averaged"]["found"]
    assert [path.name for path in checkpoints_in(folder)] == ["update-00000009", "update-00000012"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_best_weights_are_noticed_too(damage, killed, processes, undisturbed, tmp_path):
    folder = copied(killed, tmp_path)
    best = read_json(checkpoints_in(folder)[-1] / "facts.json")["at"]["best"]["file"]
    DAMAGES[damage](folder / best)
    ended = go_on(processes, folder, "averaged")
    assert ended["resumed_at"] in (0, 6)
    assert ended["found"] == undisturbed["averaged"]["found"]


def test_a_finished_run_whose_last_checkpoint_was_damaged_is_finished_again(killed, processes, undisturbed, tmp_path):
    folder = copied(killed, tmp_path)
    go_on(processes, folder, "averaged")
    assert go_on(processes, folder, "averaged")["resumed_at"] == 12
    damage_flip(checkpoints_in(folder)[-1] / "training.pt")
    ended = go_on(processes, folder, "averaged")
    assert ended["resumed_at"] == 9 and ended["found"] == undisturbed["averaged"]["found"]


def forged(change):
    """Rewrites the facts of a checkpoint and its manifest, so that all digests agree."""

    def forge(path: Path) -> None:
        facts = read_json(path / "facts.json")
        write_json(path / "facts.json", change(facts) or facts)
        manifest = read_json(path / "manifest.json")
        write_json(path / "manifest.json", {**manifest, "facts.json": file_digest(path / "facts.json")})

    return forge


FORGERIES = {
    "no identity": lambda facts: facts.pop("identity") and None,
    "no place": lambda facts: facts.pop("at") and None,
    "a number as text": lambda facts: facts["at"].update(update="9"),
    "another update": lambda facts: facts["at"].update(update=12),
    "an unknown field": lambda facts: facts["at"].update(more=1),
    "no file of the best": lambda facts: facts["at"]["best"].pop("file") and None,
    "a list as the best": lambda facts: facts["at"].update(best=[1]),
    "a history of numbers": lambda facts: facts.update(history=[1, 2]),
    "a list": lambda facts: [facts],
    "a number": lambda facts: 7,
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_checkpoint_is_passed_over(forgery, killed, processes, undisturbed, tmp_path):
    folder = copied(killed, tmp_path)
    older, newer = checkpoints_in(folder)
    forged(FORGERIES[forgery])(newer)
    ended = go_on(processes, folder, "averaged")
    assert ended["resumed_at"] == 6 and ended["found"] == undisturbed["averaged"]["found"]


def test_a_forged_checkpoint_before_the_newest_does_not_stop_the_run(killed, processes, undisturbed, tmp_path):
    folder = copied(killed, tmp_path)
    forged(FORGERIES["no place"])(checkpoints_in(folder)[0])
    ended = go_on(processes, folder, "averaged")
    assert ended["resumed_at"] == 9 and ended["found"] == undisturbed["averaged"]["found"]


@pytest.mark.parametrize("name", ["optimizer", "scheduler", "method", "window"])
def test_forged_tensors_are_passed_over_or_one_sentence(name, tmp_path):
    with pytest.raises(Paused):
        train(tmp_path, "averaged", until=0.0)
    (only,) = checkpoints_in(tmp_path)
    tensors = torch.load(only / "training.pt", weights_only=True)
    for value in ("absent", {"wrong": 1}, [1], None):
        told = {key: part for key, part in tensors.items() if key != name} | (
            {} if value == "absent" else {name: value}
        )
        torch.save(told, only / "training.pt")
        manifest = read_json(only / "manifest.json")
        write_json(only / "manifest.json", {**manifest, "training.pt": file_digest(only / "training.pt")})
        kept = Path(shutil.copytree(tmp_path, tmp_path.with_name(f"{name}-{value}")))
        try:
            assert train(kept, "averaged").resumed_at == 0
        except UserError as error:
            assert f"{only.name} cannot be gone on from" in one_sentence(error)


# ---------------------------------------------------------------- the files themselves


def small() -> nn.Module:
    torch.manual_seed(3)
    return nn.Linear(3, 2)


def test_what_is_saved_is_what_is_loaded(tmp_path):
    net, store = small(), c.Checkpoints(tmp_path / "checkpoints")
    tensors = {"a": {"b": [torch.arange(3), 1.5, None, "text"]}, "empty": {}}
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    np.random.normal()  # leaves a cached number behind
    store.save(5, {"net": net}, tensors, {"name": "ä", "numbers": [1, 2.5]})
    drawn = random.random(), np.random.normal(), np.random.rand(), torch.rand(2).tolist(), random.gauss(0, 1)
    other = nn.Linear(3, 2)
    found, facts = store.load(store.newest(), {"net": other})
    assert torch.equal(found["a"]["b"][0], torch.arange(3)) and found["a"]["b"][1:] == [1.5, None, "text"]
    assert facts == {"name": "ä", "numbers": [1, 2.5]}
    assert torch.equal(net.weight, other.weight) and torch.equal(net.bias, other.bias)
    again = random.random(), np.random.normal(), np.random.rand(), torch.rand(2).tolist(), random.gauss(0, 1)
    assert again == drawn


def test_only_the_newest_two_are_kept(tmp_path):
    store = c.Checkpoints(tmp_path)
    for update in (1, 2, 10, 9_999_999):
        store.save(update, {"net": small()}, {}, {})
    assert [path.name for path in store.finished()] == ["update-00000010", "update-09999999"]
    assert store.newest().name == "update-09999999"


def test_the_same_update_can_be_saved_again(tmp_path):
    store = c.Checkpoints(tmp_path)
    store.save(1, {"net": small()}, {}, {"try": 1})
    store.save(1, {"net": small()}, {}, {"try": 2})
    assert store.load(store.newest(), {})[1] == {"try": 2}


def test_no_checkpoint_at_all(tmp_path):
    store = c.Checkpoints(tmp_path / "new")
    assert store.newest() is None and store.finished() == []
    (tmp_path / "new/update-00000001").mkdir()
    (tmp_path / "new/update-00000002").write_text("a file")
    assert store.newest() is None
    store.clear()
    assert not (tmp_path / "new").exists()


def test_a_file_that_would_run_code_is_not_loaded(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    store = c.Checkpoints(tmp_path / "checkpoints")
    store.save(1, {"net": small()}, {"evil": Evil()}, {})
    with pytest.raises(Exception, match="[Ww]eights"):
        store.load(store.newest(), {})
    assert not (tmp_path / "owned").exists()


def test_a_process_that_has_no_state_of_its_own_keeps_its_random_numbers(tmp_path):
    c.Checkpoints(tmp_path).save(1, {"net": small()}, {}, {})
    second = c.Checkpoints(tmp_path, rank=1)
    torch.manual_seed(8)
    expected = torch.rand(2, generator=torch.Generator().manual_seed(8))
    second.load(second.newest(), {})
    assert torch.equal(torch.rand(2), expected)
    second.clear()
    assert second.newest() is not None  # only the first process deletes


def test_weights_that_were_cut_short_or_are_another_models(tmp_path):
    path = tmp_path / "best.safetensors"
    c.save_weights(small(), path)
    with pytest.raises(UserError, match="does not hold this model's weights") as caught:
        c.load_weights(nn.Linear(4, 2), path)
    one_sentence(caught.value)
    damage_cut(path)
    with pytest.raises(UserError, match="delete it and run again"):
        c.load_weights(small(), path)
    path.unlink()
    with pytest.raises(UserError, match="does not exist"):
        c.load_weights(small(), path)


def test_tied_weights_are_written_once_and_stay_tied(tmp_path):
    from tests import tiny

    net, other = tiny.model(seed=1), tiny.model(seed=2)
    c.save_weights(net, tmp_path / "net.safetensors")
    c.load_weights(other, tmp_path / "net.safetensors")
    tiny.assert_same_weights(net, other)
    assert other.lm_head.weight is other.model.shared.weight
    whole = sum(p.numel() * 4 for p in net.parameters())
    assert (tmp_path / "net.safetensors").stat().st_size < whole + 20_000


def test_equal_weights_give_equal_files(tmp_path):
    """Whatever order safetensors writes the names of tied weights in."""
    net = nn.ModuleDict({f"layer{number}": nn.Linear(3, 2) for number in range(9)})
    for layer in net.values():
        layer.weight = net["layer0"].weight
    c.save_weights(net, tmp_path / "one.safetensors")
    first = (tmp_path / "one.safetensors").read_bytes()
    for _ in range(5):
        c.save_weights(net, tmp_path / "another.safetensors")
        assert (tmp_path / "another.safetensors").read_bytes() == first
    assert list(json.loads(first[8 : 8 + int.from_bytes(first[:8], "little")])["__metadata__"]) == [
        f"layer{number}.weight" for number in range(1, 9)
    ]
    other = nn.ModuleDict({f"layer{number}": nn.Linear(3, 2) for number in range(9)})
    for layer in other.values():
        layer.weight = other["layer0"].weight
    c.load_weights(other, tmp_path / "another.safetensors")
    assert torch.equal(other["layer5"].weight, net["layer0"].weight)


# ---------------------------------------------------------------- exported models


def exported(place: Path) -> dict[str, str]:
    c.save_weights(small(), place / "model/model.safetensors")
    c.save_weights(small(), place / "beside/seer.safetensors")
    for name in ("model/config.json", "history.jsonl", "model/.hidden"):
        (place / name).write_text(f"{name}")
    return c.weights_digest(place, "model", "beside")


def test_the_digest_of_an_export_is_that_of_its_files(tmp_path):
    digests = exported(tmp_path)
    assert list(digests) == ["beside/seer.safetensors", "model/config.json", "model/model.safetensors"]
    assert all(digest == file_digest(tmp_path / name) for name, digest in digests.items())
    assert c.weights_digest(tmp_path / "model").keys() == {"config.json", "model.safetensors"}
    assert c.weights_digest(tmp_path, "nothing") == {}
    (tmp_path / "model/README").write_text("what somebody adds does no harm")
    c.check_weights(tmp_path, digests)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_exports_are_one_sentence_with_the_remedy(damage, tmp_path):
    digests = exported(tmp_path)
    DAMAGES[damage](tmp_path / "beside/seer.safetensors")
    with pytest.raises(UserError, match=r"seer.safetensors is missing or damaged: delete the folder .* and run again"):
        c.check_weights(tmp_path, digests)
    for wrong in ({"model": digests["model/config.json"]}, {"a\0b": "x"}, {"model/config.json": 7}):
        with pytest.raises(UserError, match="missing or damaged") as caught:
            c.check_weights(tmp_path, wrong)
        assert "\n" not in str(caught.value)


def test_seeded_starts_every_generator_and_leaves_all_as_they_were():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = [draw(), draw()]
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    first = draw()
    with c.seeded(11):
        inside = draw()
    with pytest.raises(ZeroDivisionError), c.seeded(11):
        assert draw() == inside
        raise ZeroDivisionError
    assert [first, draw()] == expected and inside not in expected
    random.seed(time.time_ns())


# ---------------------------------------------------------------- a disk that refuses


WRITERS = (
    "torch.save",
    "kdutils.training.checkpoints.save_model",
    "kdutils.core.files.os.fsync",
    "kdutils.core.files.os.replace",
)


@pytest.mark.parametrize("place", WRITERS)
def test_a_full_disk_is_one_sentence_and_the_checkpoint_before_stays(place, tmp_path, monkeypatch):
    store = c.Checkpoints(tmp_path)
    store.save(1, {"net": small()}, {}, {"number": 1})
    with monkeypatch.context() as patch:
        patch.setattr(place, full)
        with pytest.raises(UserError, match="disk is full") as caught:
            store.save(2, {"net": small()}, {}, {"number": 2})
    one_sentence(caught.value)
    assert store.load(store.newest(), {})[1] == {"number": 1}
    store.save(2, {"net": small()}, {}, {"number": 2})
    assert store.load(store.newest(), {})[1] == {"number": 2}


@pytest.mark.parametrize("place", WRITERS[1:])
def test_a_full_disk_leaves_the_best_weights_as_they_were(place, tmp_path, monkeypatch):
    path, other = tmp_path / "best.safetensors", nn.Linear(3, 2)
    c.save_weights(small(), path)
    with monkeypatch.context() as patch:
        patch.setattr(place, full)
        with pytest.raises(UserError, match="disk is full"):
            c.save_weights(other, path)
    c.load_weights(other, path)
    assert torch.equal(other.weight, small().weight) and os.listdir(tmp_path) == [path.name]


def test_the_random_state_of_a_gpu_that_is_not_used_is_left_alone(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_rng_state_all", lambda: pytest.fail("asked a GPU"))
    monkeypatch.setattr("torch.cuda.set_rng_state_all", lambda states: pytest.fail("set a GPU's"))
    state = c.random_state()
    assert state["cuda"] == []
    c.set_random_state({**state, "cuda": [torch.zeros(16, dtype=torch.uint8)]})


@pytest.mark.parametrize("kilobytes", [0, 1, 4])
def test_a_disk_that_is_really_full(kilobytes, processes, tmp_path):
    """What safetensors and torch raise when the system refuses to write on, at their first block or at a later one."""
    assert processes.run(fill_the_disk, folder=str(tmp_path), kilobytes=kilobytes) == 0


def full(*arguments, **options):
    raise OSError(28, "No space left on device")
