"""Which processes train together, what a launch is refused for, and how a batch is shared."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from kdutils.core.errors import UserError
from kdutils.core.processes import HARMLESS, main_process, processes, share
from kdutils.data.batches import Batches, collate_classification, collate_translation
from kdutils.models.build import masked_lm
from kdutils.models.forward import counted_logits
from kdutils.papers.distilbert.method import TripleLoss
from kdutils.papers.lssd.method import LSSD
from kdutils.papers.lssd.multilingual import tag
from kdutils.training.method import Step
from tests import tiny
from tests.tiny import BESIDE, HOME, METHODS, one_sentence

WHO = """
import os
from kdutils.core.errors import UserError
from kdutils.core.processes import main_process
try:
    said = main_process()
except UserError as error:
    said = error
os.write(1, f"{said}\\n".encode())  # in one piece, for two may speak at once
"""


def ask(*launcher: str, **environment: str) -> list[str]:
    """What a process with these variables, or those that are launched, say when asked whether they are the main one."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE_")}
    kept |= {"PYTHONPATH": str(HOME), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, *(launcher or ("-c", WHO))]
    done = subprocess.run(command, env=kept, cwd=HOME, capture_output=True, text=True, timeout=240)
    if any(word in done.stderr for word in ("RendezvousConnectionError", "Gloo connect", "Address already in use")):
        pytest.skip("Two processes cannot talk to each other here.")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_process_alone_is_the_main_one():
    assert main_process() and processes().num_processes == 1


def test_a_rank_without_a_launch_is_no_reason_to_keep_silent():
    assert ask(RANK="1") == ["True"]


@pytest.mark.slow
def test_a_launch_whose_processes_would_each_train_the_whole_is_refused(tmp_path):
    (tmp_path / "who.py").write_text(WHO)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(tmp_path / "who.py"))
    said = ask(*launcher)  # there is no GPU, and nobody said that the CPUs are meant
    assert len(said) == 2 and said[0] == said[1]
    assert "asked for 2 processes" in one_sentence(said[0]) and "ACCELERATE_USE_CPU=1" in said[0]
    assert sorted(ask(*launcher, ACCELERATE_USE_CPU="1")) == ["False", "True"]


def test_several_processes_of_another_launcher_are_refused():
    (said,) = ask(OMPI_COMM_WORLD_SIZE="3")
    assert "asked for 3 processes" in one_sentence(said)


@pytest.mark.parametrize("name", HARMLESS)
def test_a_variable_that_would_change_the_training_unseen_is_refused(name, monkeypatch):
    monkeypatch.setenv(name, HARMLESS[name].upper())
    processes()
    monkeypatch.setenv(name, "4")
    with pytest.raises(UserError, match=f"{name} is 4") as caught:
        tiny.train(None, updates=1)
    assert "unset it" in one_sentence(caught.value)


def test_a_flag_that_is_none_is_one_sentence(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "perhaps")
    with pytest.raises(UserError, match="perhaps") as caught:
        processes()
    one_sentence(caught.value)


# ---------------------------------------------------------------- shares of a batch


@pytest.mark.parametrize("world", [2, 3, 50])
def test_the_shares_of_a_batch_are_its_rows(world):
    batch = next(iter(tiny.batches()))
    batch |= {"language": "ko", "target_words": torch.arange(len(batch["input_ids"])) > 3}
    shares = [share(batch, rank, world) for rank in range(world)]
    rows, longest = batch["labels"].shape
    assert [weight for _, weight in shares] == [int(rank < rows) for rank in range(world)]
    found: dict[int, list[int]] = {}
    for rank, (part, weight) in enumerate(shares):
        assert part["language"] == "ko" and torch.equal(part["target_words"], batch["target_words"])
        assert torch.equal(part["labels"].flatten()[part["positions"]], part["targets"])
        for number, row in enumerate(range(rank, rows, world)):
            assert torch.equal(part["input_ids"][number], batch["input_ids"][row])
            assert torch.equal(part["decoder_input_ids"][number], batch["decoder_input_ids"][row])
            found[row] = part["targets"][part["positions"] // longest == number].tolist()
        assert len(part["input_ids"]) == (len(range(rank, rows, world)) if weight else 1)
    assert sum([found[row] for row in range(rows)], []) == batch["targets"].tolist()


def test_the_shares_say_what_the_whole_says():
    batch, net = next(iter(tiny.batches())), tiny.model(0.0).eval()
    whole = counted_logits(net, batch)
    row = batch["positions"] // batch["labels"].shape[1]
    for rank in (0, 1):
        part, _ = share(batch, rank, 2)
        torch.testing.assert_close(counted_logits(net, part), whole[row % 2 == rank])


def language_aware() -> LSSD:
    method = LSSD(("de", "ko"), 2.0, teachers="individual", language_aware=True, level="sentence", kind="adaptive")
    method.teacher = nn.ModuleDict({tag(one): tiny.model(0.0, seed=3) for one in ("de", "ko")}).eval()
    return method


def distilled() -> TripleLoss:
    method = TripleLoss()
    method.teacher = encoder(seed=3)
    return method


def encoder(seed: int = 0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return masked_lm(tiny.VOCABULARY, width=16, layers=1, heads=2, feedforward=16, dropout=0.0).eval()


def masked() -> dict:
    """Some tokens of three sentences of unequal length are asked for; the second has none."""
    batch = collate_translation()(tiny.examples(3))
    asked = batch["attention_mask"].bool() & torch.tensor([True, False, True])[:, None]
    labels = batch["input_ids"].masked_fill(~asked, -100)
    positions, tokens = ((one.flatten() > 0).nonzero()[:, 0] for one in (labels, batch["attention_mask"]))
    kept = {name: batch[name] for name in ("input_ids", "attention_mask")}
    counted = {"positions": positions, "targets": labels.flatten()[positions]}
    asked = [tokens.tolist().index(position) for position in positions.tolist()]
    return {**kept, "labels": labels, **counted, "tokens": tokens, "asked": asked}


def translated() -> dict:
    return {**next(iter(tiny.batches())), "language": "ko", "target_words": torch.ones(tiny.VOCABULARY) > 0}


@pytest.mark.parametrize("world", [2, 7])
@pytest.mark.parametrize("make", [*METHODS.values(), *BESIDE.values(), language_aware, distilled])
def test_the_shares_of_every_method_add_up_to_the_whole(make, world):
    """Also where the last process is left without a row."""
    batch = masked() if make is distilled else translated()
    net, method = encoder() if make is distilled else tiny.model(0.0), make()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method.attach(net.train())
    trained = [p for module in (net, *method.modules().values()) for p in module.parameters()]
    for module in method.modules().values():
        module.eval()  # the seer draws dropout of its own
    counts, step = method.count(batch), Step(2, 10, 0, True)
    shares = [share(batch, rank, world) for rank in range(world)]
    assert counts == {name: sum(weight * method.count(part)[name] for part, weight in shares) for name in counts}
    whole = method.loss(net, batch, counts, step)
    terms = [{k: weight * v for k, v in method.loss(net, part, counts, step).items()} for part, weight in shares]
    for name in whole.keys() - {"taught"}:
        torch.testing.assert_close(sum(one[name] for one in terms), whole[name], rtol=1e-4, atol=1e-5)
    expected, found = (
        torch.autograd.grad(loss, trained, allow_unused=True) for loss in (whole["loss"], sum(t["loss"] for t in terms))
    )
    for one, other in zip(expected, found, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("world", [2, 3, 7])
def test_the_tokens_of_a_share_are_those_of_its_rows(world):
    batch = masked()
    batch["tokens"] = batch["tokens"][: len(batch["input_ids"])] if world == 3 else batch["tokens"]  # as many as rows
    batch["asked"] = [n for n, cell in enumerate(batch["tokens"].tolist()) if cell in batch["positions"].tolist()]
    batch["positions"] = batch["tokens"][batch["asked"]]
    batch["targets"], width = batch["labels"].flatten()[batch["positions"]], batch["labels"].shape[1]
    for rank in range(world):
        part, weight = share(batch, rank, world)
        rows = range(rank, 3, world) if weight else [0]
        cells = [(new, cell % width) for new, old in enumerate(rows)
                 for cell in batch["tokens"].tolist() if cell // width == old]  # fmt: skip
        assert part["tokens"].tolist() == [row * width + column for row, column in cells]
        assert torch.equal(part["tokens"][part["asked"]], part["positions"])


def test_a_batch_of_classes_is_shared_too():
    rows = [{"input_ids": [5, 6, 2][: 1 + n], "label": n} for n in range(3)]
    batch = Batches(rows, collate_classification(), batch_size=3, shuffle=False).batch(0, 0)
    part, weight = share(batch, 1, 2)
    assert weight == 1 and part["targets"].tolist() == part["labels"].tolist() == [1]
    assert part["input_ids"].tolist() == [[5, 6, 0]]


def test_one_row_is_left_to_one_process():
    batch = collate_translation()(tiny.examples(1))
    (first, one), (second, none) = (share(batch, rank, 2) for rank in (0, 1))
    assert (one, none) == (1, 0) and torch.equal(first["targets"], second["targets"])
