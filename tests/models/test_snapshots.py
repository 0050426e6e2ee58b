"""A network taught by its own past: who teaches in which epoch, and the frozen copies of its weights."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch
from torch import nn

from kdutils.core.errors import UserError
from kdutils.models.build import parameter_count
from kdutils.models.forward import counted_logits
from kdutils.models.snapshots import FrozenCopies
from kdutils.papers.lssd.schedule import LanguageTeachers, replayed
from tests import tiny
from tests.tiny import assert_same_weights, one_sentence, weights

NAN, INF = math.nan, math.inf

# ---------------------------------------------------------------- who teaches in which epoch

# Worked by hand from facts L3 and L4: validation losses after each epoch, which language is taught in it, and whose
# teacher is replaced at its end. Warm-up 1, so nobody is taught in epoch 1; a teacher of e - 1 does not teach in e.
TABLE = [
    #  loss of a, b, c      taught   replaced
    ((5.0, 9.0, 4.00), "", "abc"),  # 1: the first epoch replaces all
    ((4.0, 9.0, 4.50), "", "a"),  # 2: all were replaced in 1; b has a tie and keeps, c is worse and keeps
    ((3.0, 8.0, 4.00), "bc", "ab"),  # 3: a was replaced in 2; c's is as old as b's; c has a tie with epoch 1
    ((3.5, 8.5, 3.99), "c", "c"),  # 4: a and b were replaced in 3; c improves by a hair although it was taught
    ((3.0, 7.0, 5.00), "ab", "b"),  # 5: c was replaced in 4; a has a tie
    ((2.0, 7.5, 3.98), "ac", "ac"),  # 6: b was replaced in 5
    ((1.0, 7.5, 3.97), "b", "ac"),  # 7: a and c improve twice running, so nobody teaches them
    ((1.5, 6.9, 3.97), "b", "b"),  # 8: a and c were replaced in 7
    ((1.5, 7.0, 9.00), "ac", ""),  # 9
    ((1.2, 7.0, 3.96), "abc", "c"),  # 10: a is still above its record of epoch 7
]
LOSSES = [dict(zip("abc", losses, strict=True)) for losses, _, _ in TABLE]


def test_a_table_worked_by_hand():
    teachers, born = LanguageTeachers("abc"), dict.fromkeys("abc", 0)
    for epoch, ((_, taught, replaced), losses) in enumerate(zip(TABLE, LOSSES, strict=True), start=1):
        assert "".join(one for one in "abc" if teachers.active(one)) == taught, epoch
        assert "".join(teachers.update(losses)) == replaced, epoch
        born |= dict.fromkeys(replaced, epoch)
        assert {one: best.epoch for one, best in teachers.best.items()} == born
        assert teachers.finished == epoch
    records = {one: min(losses[one] for losses in LOSSES) for one in "abc"}
    assert {one: best.loss for one, best in teachers.best.items()} == records


def test_replayed_tells_the_same_table():
    story = [{one: (one in taught, one in replaced) for one in "abc"} for _, taught, replaced in TABLE]
    assert replayed(LOSSES) == story


def oracle(losses: list[dict], age: int) -> list[dict[str, tuple[bool, bool]]]:
    """Algorithm 1 from the whole history at once: a record is strictly below all before it."""
    story = []
    for e in range(1, len(losses) + 1):
        row = {}
        for one in losses[0]:
            past = [INF if math.isnan(loss[one]) else loss[one] for loss in losses[: e - 1]]
            records = [i for i in range(1, e) if i == 1 or past[i - 1] < min(past[: i - 1])]
            taught = bool(records) and e - records[-1] >= age
            row[one] = (taught, e == 1 or losses[e - 1][one] < min(past))
        story.append(row)
    return story


@pytest.mark.parametrize("age", [1, 2, 3, 7])
def test_replayed_is_the_rule_read_off_the_whole_history(age):
    draw = random.Random(age)
    values = [*range(1, 12), NAN, INF]
    for _ in range(60):
        losses = [{one: float(draw.choice(values)) for one in "abc"} for _ in range(15)]
        assert replayed(losses, age) == oracle(losses, age)


def algorithm_1(losses: list[dict]) -> list[dict[str, tuple[bool, bool]]]:
    """Omega_l off and the best loss infinite; after an epoch replace and switch off, or switch on."""
    on, best, story = dict.fromkeys(losses[0], False), dict.fromkeys(losses[0], INF), []
    for epoch in losses:
        story.append({one: (on[one], epoch[one] < best[one]) for one in epoch})
        for one, loss in epoch.items():
            on[one], best[one] = not loss < best[one], min(best[one], loss)
    return story


def test_the_default_is_algorithm_1_as_printed():
    draw = random.Random(0)
    for _ in range(100):
        losses = [{one: float(draw.randrange(12)) for one in "abc"} for _ in range(15)]
        assert replayed(losses) == algorithm_1(losses)
    assert replayed(LOSSES) == algorithm_1(LOSSES) and LanguageTeachers("a").age == 2


def test_nobody_teaches_before_there_is_a_teacher():
    teachers = LanguageTeachers("ab", age=1)
    assert not teachers.active("a") and teachers.finished == 0
    teachers.update({"a": 1.0, "b": 1.0})
    assert teachers.active("a") and teachers.active("b")


def test_a_language_that_improves_in_every_epoch_is_never_taught():
    falling = [{"a": 10.0 - epoch, "b": 5.0} for epoch in range(8)]
    taught = [{one: row[one][0] for one in row} for row in replayed(falling)]
    assert [row["a"] for row in taught] == [False] * 8
    assert [row["b"] for row in taught] == [False] * 2 + [True] * 6  # a tie keeps the first


@pytest.mark.parametrize("first", [NAN, INF])
def test_a_first_epoch_without_a_finite_loss_gives_a_teacher_that_any_number_replaces(first):
    teachers = LanguageTeachers("a")
    assert [teachers.update({"a": loss}) for loss in (first, first, 99.0, NAN, 98.0)] == [["a"], [], ["a"], [], ["a"]]
    assert teachers.best["a"].loss == 98.0 and teachers.best["a"].epoch == 5


def test_only_the_first_epoch_replaces_without_a_record():
    """Also where no loss was ever better than nothing."""
    assert [row["a"][1] for row in replayed([{"a": INF}] * 4)] == [True, False, False, False]
    assert [row["a"][0] for row in replayed([{"a": INF}] * 4)] == [False, False, True, True]


def test_losses_of_other_languages_do_not_matter_and_a_missing_one_is_one_sentence():
    teachers = LanguageTeachers("ab")
    assert teachers.update({"c": 0.0, "b": 2.0, "a": 1.0}) == ["a", "b"]
    with pytest.raises(UserError, match="'b'") as caught:
        teachers.update({"a": 0.5})
    one_sentence(caught.value)
    assert teachers.finished == 1 and teachers.best["a"].loss == 1.0  # nothing was half done


@pytest.mark.parametrize("age", [0, -3])
def test_an_age_that_makes_no_sense_is_one_sentence(age):
    with pytest.raises(UserError, match=f"age of 1 epoch or more, not {age}") as caught:
        LanguageTeachers("a", age)
    one_sentence(caught.value)


@pytest.mark.parametrize("stop", range(len(LOSSES)))
def test_a_bank_that_was_put_away_goes_on_as_if_it_had_not_been(stop):
    """Through JSON, as in a checkpoint, whose state shares nothing with the bank that goes on."""
    one = LanguageTeachers("abc")
    for losses in LOSSES[:stop]:
        one.update(losses)
    state = one.state()
    kept = json.dumps(state)
    other = LanguageTeachers("abc")
    other.restore(json.loads(kept))
    for losses in LOSSES[stop:]:
        assert [one.active(x) for x in "abc"] == [other.active(x) for x in "abc"]
        assert one.update(losses) == other.update(losses)
    assert one.state() == other.state() and json.dumps(state) == kept


def test_restoring_forgets_what_was_there_before():
    used, fresh = LanguageTeachers("abc"), LanguageTeachers("abc")
    for losses in LOSSES:
        used.update(losses)
    used.restore(fresh.state())
    assert used.state() == fresh.state() and not any(map(used.active, "abc"))


# ---------------------------------------------------------------- frozen copies


@pytest.fixture
def nets():
    """Three networks of one shape and other weights."""
    return [tiny.model(dropout=0.5, seed=seed) for seed in range(3)]


@pytest.fixture
def copies(nets):
    kept = FrozenCopies()
    for name, net in zip("012", nets, strict=True):
        kept.keep(name, net)
    return kept


@pytest.fixture
def batch():
    return next(iter(tiny.batches()))


def rounded(net: nn.Module) -> nn.Module:
    """The network with its weights rounded to half precision, in evaluation mode."""
    other = tiny.model()
    other.load_state_dict({name: value.half().float() for name, value in net.state_dict().items()})
    return other.eval()


def test_a_copy_is_the_network_rounded_to_half_precision(nets, copies, batch):
    for name, net in zip("012", nets, strict=True):
        found = copies.network(name, nets[0])
        assert all(value.dtype is torch.float16 for value in copies.weights[name].values())
        assert_same_weights(found, rounded(net))
        assert torch.equal(counted_logits(found, batch), counted_logits(rounded(net), batch))


def test_rounding_changes_the_predictions_little_and_something(nets, copies, batch):
    exact, half = counted_logits(nets[1].eval(), batch), counted_logits(copies.network("1", nets[0]), batch)
    torch.testing.assert_close(half, exact, rtol=0.02, atol=0.01)
    assert not torch.equal(half, exact)


def test_a_copy_stays_what_it_was_when_the_network_learns(nets, copies):
    before = rounded(nets[0])
    for parameter in nets[0].parameters():
        parameter.data.fill_(7.0)
    assert_same_weights(copies.network("0", nets[0]), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_copy_of_a_network_of_another_precision_is_one_too(dtype):
    net, copies = nn.Linear(3, 3).to(dtype), FrozenCopies()
    copies.keep("1", net)
    before = copies.weights["1"]["weight"].clone()
    net.weight.data.zero_()
    assert torch.equal(copies.weights["1"]["weight"], before) and before.dtype is torch.float16
    assert not any(value.requires_grad for value in copies.weights["1"].values())


def test_one_network_takes_everybodys_weights_in_turn(nets, copies):
    seat = copies.network("0", nets[0])
    for name in "120021":
        assert copies.network(name, nets[0]) is seat
        assert_same_weights(seat, rounded(nets[int(name)]))


def test_weights_are_copied_only_when_another_one_is_asked_for(nets, copies):
    seat = copies.network("1", nets[0])
    marked = next(seat.parameters())
    marked.data.fill_(3.0)
    copies.keep("0", nets[2])
    copies.network("1", nets[0])
    assert bool((marked == 3.0).all())
    copies.network("2", nets[0]), copies.network("1", nets[0])
    assert_same_weights(seat, rounded(nets[1]))


def test_keeping_a_copy_under_the_seated_name_renews_it(nets, copies):
    copies.network("1", nets[0])
    copies.keep("1", nets[2])
    assert_same_weights(copies.network("1", nets[0]), rounded(nets[2]))
    copies.keep("0", nets[1])  # one that is not seated leaves the seat alone, and is new when its turn comes
    assert_same_weights(copies.network("1", nets[0]), rounded(nets[2]))
    assert_same_weights(copies.network("0", nets[0]), rounded(nets[1]))


def test_the_network_shares_no_memory_with_the_model_and_changes_nothing_in_it(nets, copies, batch):
    net, before = nets[0].train(), weights(nets[0])
    counted_logits(net, batch).sum().backward()
    gradients = {name: p.grad.clone() for name, p in net.named_parameters()}
    for name in "0121":
        counted_logits(copies.network(name, net), batch)
    places = {p.data_ptr() for p in net.parameters()}
    assert not places & {p.data_ptr() for p in copies.seat.parameters()}
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(gradients[name], p.grad) for name, p in net.named_parameters())


def test_it_is_in_evaluation_mode_and_has_no_gradient(nets, copies, batch):
    found = copies.network("1", nets[0].train())
    logits = counted_logits(found, batch)
    assert not any(module.training for module in found.modules()) and not logits.requires_grad
    assert not any(p.requires_grad or p.grad is not None for p in found.parameters())
    assert torch.equal(logits, counted_logits(found, batch))  # a dropout of 0.5 would show
    assert all(p.dtype is torch.float32 for p in found.parameters())


def test_the_shape_may_be_shown_by_a_model_under_data_parallelism(nets, copies):
    wrapped = nn.Module()
    wrapped.module = nets[0]
    assert_same_weights(copies.network("2", wrapped), rounded(nets[2]))


def test_tied_weights_are_kept_once_and_stay_tied(nets, copies):
    kept = copies.weights["0"]
    assert sum(value.numel() for value in kept.values()) == parameter_count(nets[0])
    assert parameter_count(nets[0]) < sum(value.numel() for value in nets[0].state_dict().values())
    found = copies.network("1", nets[0])
    assert found.get_output_embeddings().weight is found.get_input_embeddings().weight


def test_what_is_forgotten_is_gone_and_the_rest_is_not(nets, copies):
    copies.keep_only(iter(["0", "2", "unknown"]))
    assert set(copies.weights) == {"0", "2"}
    assert_same_weights(copies.network("2", nets[0]), rounded(nets[2]))
    with pytest.raises(KeyError):
        copies.network("1", nets[0])
    copies.keep_only([])
    assert copies.weights == {} and copies.megabytes()["host"] == 0


def test_megabytes_are_those_of_the_tensors(nets, copies):
    size = parameter_count(nets[0])
    assert copies.megabytes() == {"host": 3 * 2 * size / 2**20, "device": 0}
    copies.network("1", nets[0]), copies.network("2", nets[0])
    assert copies.megabytes() == {"host": 3 * 2 * size / 2**20, "device": 4 * size / 2**20}
    copies.keep_only(["1"])
    assert copies.megabytes()["host"] == 2 * size / 2**20
    assert FrozenCopies().megabytes() == {"host": 0, "device": 0}


def test_copies_come_back_from_a_file(nets, copies, tmp_path):
    torch.save(copies.state(), tmp_path / "state.pt")
    fresh = FrozenCopies()
    fresh.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert fresh.megabytes() == copies.megabytes()
    for name in "012":
        assert_same_weights(fresh.network(name, nets[0]), rounded(nets[int(name)]))


def test_restoring_renews_the_network_that_is_seated(nets, copies):
    seat, other = copies.network("1", nets[0]), FrozenCopies()
    other.keep("1", nets[2])
    copies.restore(other.state())
    assert set(copies.weights) == {"1"}
    assert copies.network("1", nets[0]) is seat
    assert_same_weights(seat, rounded(nets[2]))


def test_no_random_number_is_drawn(nets):
    state, copies = torch.get_rng_state(), FrozenCopies()
    copies.keep("1", nets[0])
    copies.network("1", nets[0])
    assert torch.equal(state, torch.get_rng_state())


def test_beside_a_gpu_that_the_training_does_not_use_nothing_is_laid_out_for_it(nets, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pytest.fail("pinned"))
    copies = FrozenCopies()
    copies.keep("1", nets[0])
    copies.restore(copies.state())
    assert_same_weights(copies.network("1", nets[0]), rounded(nets[0]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="There is no GPU here.")
def test_on_a_gpu_the_network_computes_in_half_precision_and_the_copies_lie_in_the_main_memory(nets):
    net, copies = nets[0].cuda(), FrozenCopies()
    copies.keep("1", net)
    found = copies.network("1", net)
    assert all(p.is_cuda and p.dtype is torch.float16 for p in found.parameters())
    assert all(not value.is_cuda and value.is_pinned() for value in copies.weights["1"].values())
    assert all(p.dtype is torch.float32 for p in net.parameters())
    assert all(torch.equal(found.get_parameter(name).cpu(), value) for name, value in copies.weights["1"].items())
