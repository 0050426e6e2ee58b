"""LSSD as a training method: who is taught by which copy, what stays out of the model; and the baseline."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kdutils.core.errors import UserError
from kdutils.data.batches import collate_translation
from kdutils.losses.divergences import label_smoothed_nll
from kdutils.models.build import parameter_count, translation_model
from kdutils.papers.lssd.method import LSSD, BestStudents
from kdutils.papers.lssd.multilingual import tag
from kdutils.papers.lssd.objective import lssd_loss
from kdutils.training.method import Method, Step
from tests import tiny
from tests.tiny import one_sentence

NOW = Step(update=2, updates=10, epoch=0, logged=True)
SILENT = Step(update=3, updates=10, epoch=0, logged=False)
PAIR = ("de", "ko")

# Validation losses (de, ko) at the end of epochs 1 to 7, and by hand who is taught in each: whoever has kept a
# teacher for an epoch. de is replaced after 1, 2 and 6 (the tie after 7 keeps it), ko after 1 and 3.
LOSSES = [(5.0, 4.0), (4.0, 4.5), (4.5, 3.5), (4.2, 3.9), (4.1, 3.8), (3.9, 3.7), (3.9, 3.6)]
TAUGHT = [(0, 0), (0, 0), (0, 1), (1, 0), (1, 1), (1, 1), (0, 1), (1, 1)]
TEACHER = [(0, 0), (1, 1), (2, 1), (2, 3), (2, 3), (2, 3), (6, 3), (6, 3)]  # the epoch of its student


def batch(language: str = "de", rows: slice = slice(5), **more) -> dict:
    """Pairs of unequal length, so that there is padding."""
    return {**collate_translation()(tiny.examples()[rows]), "language": language, **more}


def counts(*batches) -> dict[str, int]:
    return {"targets": sum(one["targets"].numel() for one in batches)}


def scores(de: float, ko: float, overall: float = 0.0) -> dict[str, float]:
    return {"smoothed_loss": overall, "smoothed_loss_de": de, "smoothed_loss_ko": ko}


def move(net) -> None:
    """Another student: what an epoch of training leaves."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))


def loss(method, net, *batches, step=SILENT) -> torch.Tensor:
    return sum(method.loss(net, one, counts(*batches), step)["loss"] for one in batches)


def gradients(net) -> list[torch.Tensor]:
    found = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    return found


def rounded(net):
    """A frozen copy as the method should keep it: through half precision and back, in evaluation mode."""
    frozen = copy.deepcopy(net).eval()
    with torch.no_grad():
        for p in frozen.parameters():
            p.copy_(p.half().float())
    return frozen


@torch.no_grad()
def says(net, one: dict) -> torch.Tensor:
    """The logits at the counted positions from a plain call of the model."""
    inputs = {name: one[name] for name in ("input_ids", "attention_mask", "decoder_input_ids")}
    return net(**inputs).logits.flatten(0, 1)[one["positions"]]


def after(epochs: int, **options):
    """A student after some epochs of LOSSES, its method, and the student as it was after each (from 1)."""
    net, method, students = tiny.model(options.pop("dropout", 0.0)).train(), LSSD(PAIR, **options), {}
    method.attach(net)
    for epoch in range(1, epochs + 1):
        move(net)
        students[epoch] = copy.deepcopy(net)
        method.after_evaluation(net, scores(*LOSSES[epoch - 1]), NOW)
    return net, method, students


# ---------------------------------------------------------------- who is taught, and by whom


def test_a_language_is_taught_while_it_keeps_its_teacher(same_draws):
    for epoch, expected in enumerate(TAUGHT):
        net, method, _ = after(min(epoch, 7))
        shares = [method.loss(net, batch(one), counts(batch()), NOW)["taught"].item() for one in PAIR]
        assert tuple(shares) == expected, epoch + 1
        assert tuple(method.bank.best[one].epoch for one in PAIR) == TEACHER[epoch]


@pytest.mark.parametrize(
    ("options", "de", "ko"),
    [
        ({"age": 1}, [0, 1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1, 1]),
        ({"age": 3}, [0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 1, 1]),
        ({"age": 9}, [0] * 8, [0] * 8),
    ],
    ids=str,
)
def test_the_age_of_a_teacher_decides_with_its_epoch(options, de, ko, same_draws):
    for epoch, expected in enumerate(zip(de, ko, strict=True)):
        net, method, _ = after(epoch, **options)
        assert tuple(method.loss(net, batch(one), counts(batch()), NOW)["taught"].item() for one in PAIR) == expected


GIVEN = [
    {"kind": "whole", "alpha": 2.5},
    {"kind": "selective", "alpha": 1.0, "level": "token", "top_k": 3},
    {"kind": "selective", "alpha": 1.0, "level": "sentence", "floor": 0.3, "strict": True},
    {"kind": "adaptive", "alpha": 2.0},
    {"kind": "adaptive", "alpha": 2.5, "level": "sentence", "epsilon": 0.0, "cap": 1.0},
    {"kind": "adaptive", "alpha": 0.4, "level": "token", "combine": "convex", "convention": "uniform"},
    {"kind": "whole", "alpha": 0.0, "combine": "halved"},
]


@pytest.mark.parametrize("options", GIVEN, ids=str)
def test_the_loss_is_the_objective_with_the_student_of_the_teachers_epoch(options, same_draws):
    """Each language has another teacher here: de the student of epoch 2, ko that of epoch 3, both after epoch 5."""
    net, method, students = after(5, **options)
    own = {**options, "epsilon": options.get("epsilon", 0.1), "convention": options.get("convention", "others")}
    for language, epoch in (("ko", 3), ("de", 2), ("ko", 3)):
        one = batch(language)
        sentences = torch.arange(5).repeat_interleave((one["labels"] >= 0).sum(1))
        teacher = says(rounded(students[epoch]), one)
        expected = lssd_loss(says(net, one), one["targets"], teacher, sentences=sentences, **own)
        torch.testing.assert_close(loss(method, net, one).detach(), expected, rtol=1e-6, atol=0)


def test_the_teacher_is_rounded_to_half_precision_and_computes_in_full(same_draws):
    net, method, students = after(3)
    theirs = method._teacher_logits(net, batch("ko"))
    assert theirs is None  # replaced at the end of epoch 3
    net, method, students = after(4)
    theirs = method._teacher_logits(net, batch("de"))
    assert theirs.dtype == torch.float32
    torch.testing.assert_close(theirs, says(rounded(students[2]), batch()), rtol=0, atol=1e-6)
    assert (theirs - says(students[2].eval(), batch())).abs().max() > 1e-5


def test_the_baseline_trains_plainly_and_keeps_the_best_student_of_each_language(same_draws):
    net, method = tiny.model(0.0).train(), BestStudents(PAIR)
    method.attach(net)
    plain = Method(0.1, "others")
    for epoch, losses in enumerate(LOSSES, start=1):
        move(net)
        method.after_evaluation(net, scores(*losses), NOW)
        assert loss(method, net, batch("de")).item() == loss(plain, net, batch("de")).item()
        assert [method.bank.best[one].epoch for one in PAIR] == list(TEACHER[epoch])
        if epoch == TEACHER[epoch][0]:
            best = {name: p.half().clone() for name, p in net.named_parameters()}
        assert all(torch.equal(method.best_weights("de")[name], p) for name, p in best.items())
    other = BestStudents(PAIR)
    other.attach(net)
    other.restore(method.state())
    assert other.bank.state() == method.bank.state() and set(other.copies.weights) == {"6", "3"}
    assert method.extra_scores(net, []) == {} and method.passes == 1.0


def test_a_language_without_a_teacher_has_the_plain_loss_to_the_last_bit(same_draws):
    net, method, _ = after(3)
    for language, taught in (("ko", False), ("de", True)):
        plain = Method(0.1, "others").loss(net, batch(language), counts(batch()), SILENT)["loss"]
        assert (loss(method, net, batch(language)).item() == plain.item()) != taught


@pytest.mark.parametrize(("combine", "share"), [("sum", 1.0), ("halved", 0.5)])
def test_the_labels_of_a_taught_batch_count_half_in_the_released_form_alone(combine, share, same_draws):
    net, method, _ = after(3, alpha=0.0, combine=combine)
    plain = Method(0.1, "others").loss(net, batch(), counts(batch()), SILENT)["loss"]
    torch.testing.assert_close(loss(method, net, batch("de")), share * plain)
    torch.testing.assert_close(loss(method, net, batch("ko")), plain)


def test_a_batch_of_another_language_is_one_sentence(same_draws):
    net, method, _ = after(1)
    with pytest.raises(UserError, match="'fr'.*de, ko") as caught:
        loss(method, net, batch("fr"))
    one_sentence(caught.value)


# ---------------------------------------------------------------- the teacher stands apart


def test_dropout_is_drawn_by_the_student_alone(same_draws):
    net, method, students = after(4, dropout=0.5)
    state = torch.get_rng_state()
    Method(0.1).loss(net, batch(), counts(batch()), SILENT)
    plain = torch.get_rng_state()
    torch.set_rng_state(state)
    loss(method, net, batch())
    assert torch.equal(torch.get_rng_state(), plain) and not torch.equal(plain, state)
    teacher = says(rounded(students[2]), batch())
    for _ in range(2):
        torch.testing.assert_close(method._teacher_logits(net, batch()), teacher, rtol=0, atol=1e-6)


def test_the_teacher_never_trains(same_draws):
    net, method, _ = after(4)
    seat = method.copies.network("2", net)
    before = tiny.weights(seat)
    loss(method, net, batch()).backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters() if p.numel() > 40)
    assert all(p.grad is None and not p.requires_grad for p in seat.parameters())
    assert not any(module.training for module in seat.modules()) and all(m.training for m in net.modules())
    assert all(torch.equal(seat.state_dict()[name], value) for name, value in before.items())
    mine = {p.data_ptr() for p in net.parameters()}
    assert not mine & {p.data_ptr() for p in seat.parameters()}


def test_the_copies_do_not_follow_the_student(same_draws):
    net, method, students = after(4)
    first = method._teacher_logits(net, batch("de"))
    move(net)
    assert torch.equal(method._teacher_logits(net, batch("de")), first)


def test_nothing_of_the_teachers_is_trained_exported_or_part_of_the_model(same_draws):
    names = set(tiny.model().state_dict())
    net, method, _ = after(4)
    loss(method, net, batch()).backward()
    assert method.modules() == {} and set(net.state_dict()) == names


def test_there_are_as_many_copies_as_epochs_in_use_and_one_seat(same_draws):
    whole = parameter_count(tiny.model()) * 4 / 2**20
    for epoch in range(1, 8):
        net, method, _ = after(epoch)
        in_use = {str(one) for one in TEACHER[epoch]}
        assert set(method.copies.weights) == in_use
        assert method.copies.megabytes() == pytest.approx({"host": len(in_use) * whole / 2, "device": 0.0})
        loss(method, net, batch("de"), batch("ko"))
        device = whole if any(TAUGHT[epoch]) else 0.0
        assert method.copies.megabytes() == pytest.approx({"host": len(in_use) * whole / 2, "device": device})


# ---------------------------------------------------------------- kinds of teachers


def test_one_teacher_for_all_is_the_best_by_the_overall_loss(same_draws):
    """The languages' own losses fall throughout: nobody would be taught by them."""
    net, method, taught = tiny.model(0.0), LSSD(PAIR, teachers="overall"), []
    students = {}
    for epoch, overall in enumerate((5.0, 4.0, 4.5, 4.2), start=1):
        taught.append([method._teacher_logits(net, batch(one)) is not None for one in PAIR])
        move(net)
        students[epoch] = rounded(net)
        method.after_evaluation(net, scores(9.0 - epoch, 8.0 - epoch, overall), NOW)
    assert taught == [[False] * 2, [False] * 2, [False] * 2, [True] * 2] and set(method.copies.weights) == {"2"}
    for one in PAIR:
        torch.testing.assert_close(method._teacher_logits(net, batch(one)), says(students[2], batch()))


def individual(**options):
    net, method = tiny.model(0.0), LSSD(PAIR, teachers="individual", **options)
    teachers = {"de": tiny.model(0.3, seed=1), "ko": tiny.model(0.3, seed=2)}
    method.teacher = torch.nn.ModuleDict({tag(one): teacher for one, teacher in teachers.items()}).eval()
    method.attach(net)
    return net, method, {one: rounded(teacher) for one, teacher in teachers.items()}


def test_individual_teachers_teach_from_the_first_batch_and_stay_as_they_are():
    net, method, teachers = individual(age=9)
    assert method.teacher is None and set(method.copies.weights) == set(PAIR)
    for losses in LOSSES:
        for one in PAIR:
            torch.testing.assert_close(method._teacher_logits(net, batch(one)), says(teachers[one], batch()))
        method.after_evaluation(net, scores(*losses), NOW)
    assert set(method.copies.weights) == set(PAIR) and method.taught == {"de": 7, "ko": 7}
    assert method.state()["copies"] == {}  # they are given again


def test_individual_teachers_are_not_replaced_by_what_a_checkpoint_holds():
    net, method, teachers = individual()
    method.after_evaluation(net, scores(1.0, 1.0), NOW)
    state = method.state()
    net, other, teachers = individual()
    other.restore(state)
    torch.testing.assert_close(other._teacher_logits(net, batch("ko")), says(teachers["ko"], batch()))


def test_the_teachers_words_are_those_of_the_target_language(same_draws):
    words = torch.rand(tiny.VOCABULARY) < 0.5
    words[batch()["targets"]] = True
    net, aware, _ = after(4, language_aware=True, alpha=2.0)
    blind = LSSD(PAIR, 2.0)
    blind.restore(aware.state())
    one, sentences = batch(target_words=words), batch()["positions"] // batch()["labels"].shape[1]
    teacher = aware._teacher_logits(net, one)
    expected = lssd_loss(says(net, one), one["targets"], teacher, 2.0, words=words, sentences=sentences)
    torch.testing.assert_close(loss(aware, net, one).detach(), expected)
    unaware = lssd_loss(says(net, one), one["targets"], teacher, 2.0, sentences=sentences)
    torch.testing.assert_close(loss(blind, net, one).detach(), unaware)
    assert (expected - unaware).abs() > 1e-3


def test_without_target_words_language_awareness_is_refused(same_draws):
    net, method, _ = after(4, language_aware=True)
    with pytest.raises(UserError) as caught:
        loss(method, net, batch("de"))
    one_sentence(caught.value)


# ---------------------------------------------------------------- pieces, precision, what is written down


@pytest.mark.parametrize("options", GIVEN[:4], ids=str)
def test_the_gradient_of_the_pieces_is_that_of_the_whole(options, same_draws):
    net, method, _ = after(4, **options)
    net.double()
    method.copies.seat = None  # it was float32, and is made anew
    whole, pieces = batch(rows=slice(9)), [batch(rows=part) for part in (slice(1), slice(1, 3), slice(3, 9))]
    one = loss(method, net, whole)
    one.backward()
    expected = gradients(net)
    several = loss(method, net, *pieces)
    several.backward()
    torch.testing.assert_close(several, one, rtol=1e-10, atol=0)
    torch.testing.assert_close(gradients(net), expected, rtol=1e-9, atol=1e-12)


def test_an_update_of_taught_and_untaught_batches_divides_by_the_targets_of_all(same_draws):
    net, method, _ = after(3)
    taught, other = batch("de"), batch("ko", slice(5, 12))
    parts = [loss(method, net, one) * one["targets"].numel() for one in (taught, other)]
    expected = sum(parts) / (taught["targets"].numel() + other["targets"].numel())
    torch.testing.assert_close(loss(method, net, taught, other), expected)
    shares = [method.loss(net, one, counts(taught, other), NOW)["taught"].item() for one in (taught, other)]
    assert shares == pytest.approx([taught["targets"].numel() / counts(taught, other)["targets"], 0.0])


def test_half_precision_of_the_student_leaves_the_teacher_alone(same_draws):
    net, method, students = after(4, alpha=2.5, kind="adaptive", level="sentence")
    exact = loss(method, net, batch()).item()
    with torch.autocast("cpu", torch.bfloat16):
        theirs, half = method._teacher_logits(net, batch()), loss(method, net, batch())
    half.backward()
    assert theirs.dtype == half.dtype == torch.float32
    torch.testing.assert_close(theirs, says(rounded(students[2]), batch()), rtol=0, atol=1e-6)
    assert half.item() != exact and half.item() == pytest.approx(exact, rel=0.02)
    assert all(grad.isfinite().all() for grad in gradients(net))


def test_the_parts_are_only_computed_where_they_are_written_down(same_draws):
    net, method, _ = after(3, epsilon=0.1)
    n = {"targets": 2 * batch()["targets"].numel()}
    for language, share in (("de", 0.5), ("ko", 0.0)):
        assert set(method.loss(net, batch(language), n, SILENT)) == {"loss"}
        terms = method.loss(net, batch(language), n, NOW)
        nll = label_smoothed_nll(says(net, batch()), batch()["targets"]) / 2
        torch.testing.assert_close(terms["nll"], nll)
        assert terms["taught"].item() == share and not (terms["nll"].requires_grad or terms["taught"].requires_grad)


def test_an_epoch_counts_once_however_many_of_its_batches_are_taught(same_draws):
    net, method, _ = after(3)
    assert method.extra_scores(net, []) == {"taught_de": 0.0, "taught_ko": 0.0}
    loss(method, net, batch("de"), batch("de"), batch("ko"))
    for _ in range(2):  # the epoch under way is one of those that are counted
        assert method.extra_scores(net, []) == {"taught_de": 1.0, "taught_ko": 0.0}
    method.after_evaluation(net, scores(*LOSSES[3]), NOW)
    assert method.extra_scores(net, []) == {"taught_de": 1.0, "taught_ko": 0.0}
    method.after_evaluation(net, scores(*LOSSES[4]), NOW)
    assert method.extra_scores(net, []) == {"taught_de": 1.0, "taught_ko": 0.0}


@pytest.mark.parametrize("epochs", range(6))
def test_what_is_restored_teaches_as_before(epochs, same_draws):
    net, method, _ = after(epochs, alpha=2.0)
    loss(method, net, batch("de"), batch("ko"))
    method.after_evaluation(net, scores(*LOSSES[epochs]), NOW)
    loss(method, net, batch("de"), batch("ko"))  # in the middle of an epoch
    file = io.BytesIO()
    torch.save(method.state(), file)
    file.seek(0)
    other = LSSD(PAIR, 2.0)
    other.attach(net)
    other.after_evaluation(net, scores(0.1, 0.1), NOW)  # what is forgotten
    other.restore(torch.load(file, weights_only=True))
    assert other.extra_scores(net, []) == method.extra_scores(net, [])
    move(net)
    for losses in LOSSES[epochs + 1 : epochs + 3]:
        assert loss(other, net, batch("ko"), batch("de")) == loss(method, net, batch("ko"), batch("de"))
        for one in (method, other):
            one.after_evaluation(net, scores(*losses), NOW)
        assert other.extra_scores(net, []) == method.extra_scores(net, []) and other.bank.state() == method.bank.state()


def test_a_method_that_is_attached_again_starts_anew(same_draws):
    net, method, _ = after(4)
    loss(method, net, batch("de"))
    other = translation_model(tiny.VOCABULARY, 32, 1, 2, 16, dropout=0.0, max_length=16)
    method.attach(other)
    assert method.extra_scores(other, []) == {"taught_de": 0.0, "taught_ko": 0.0}
    for value in (2.0, 1.0):
        assert method._teacher_logits(other, batch("de")) is None
        method.after_evaluation(other, scores(value, 1.0), NOW)
    assert method._teacher_logits(other, batch("ko")).shape == (len(batch()["targets"]), tiny.VOCABULARY)


def test_a_validation_without_a_languages_loss_is_one_sentence():
    method = LSSD(PAIR)
    with pytest.raises(UserError, match="ko") as caught:
        method.after_evaluation(tiny.model(), {"smoothed_loss": 1.0, "smoothed_loss_de": 1.0}, NOW)
    one_sentence(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"teachers": "foo"}, "no kind of teachers 'foo'"), ({"teachers": "languages"}, "Did you mean 'language'"),
        ({"kind": "hard"}, "no gate 'hard'"), ({"level": "word"}, "no level 'word'"),
        ({"combine": "mean"}, "no combination 'mean'"), ({"alpha": -1.0}, "alpha of 0 or more"),
        ({"alpha": float("nan")}, "alpha of 0 or more"), ({"alpha": 2.5, "combine": "convex"}, "from 0 to 1"),
        ({"top_k": -1}, "top_k is -1"), ({"floor": -0.1}, "floor"), ({"cap": 0.0}, "cap"),
        ({"age": 0}, "age of 1"), ({"epsilon": 1.0}, "epsilon"),
        ({"convention": "foo"}, "no label-smoothing convention"),
    ],
    ids=str,
)  # fmt: skip
def test_options_that_cannot_work_are_one_sentence(options, words):
    with pytest.raises(UserError, match=words) as caught:
        LSSD(PAIR, **options)
    one_sentence(caught.value)


@pytest.mark.parametrize("name", ["reduction", "mask", "gate"])
def test_an_option_that_is_none_is_refused_at_once(name):
    with pytest.raises((UserError, TypeError)):
        LSSD(PAIR, **{name: None})


@pytest.mark.parametrize("shape", [(1, 64, 128, 1200), (2, 32, 64, 50)])
def test_a_taught_batch_costs_four_thirds_of_a_plain_one(shape, same_draws):
    layers, width, feedforward, words = shape
    net, method = translation_model(words, width, layers, 4, feedforward, dropout=0.0, max_length=16), LSSD(["de"])
    method.attach(net)
    for value in (1.0, 2.0):
        method.after_evaluation(net, {"smoothed_loss_de": value}, NOW)

    def flops(one: Method) -> int:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            one.loss(net, batch(), {"targets": 1}, SILENT)["loss"].backward()
        return counter.get_total_flops()

    assert flops(method) / flops(Method(0.1)) == pytest.approx(LSSD.passes, rel=1e-12)
