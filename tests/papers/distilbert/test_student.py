"""The student under a BERT teacher: layers, shape, the copying of weights, and the same student on the disk."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertModel,
    DistilBertForMaskedLM,
    DistilBertModel,
    RobertaConfig,
)

from kdutils.core.errors import UserError
from kdutils.models import build
from kdutils.models.build import parameter_count
from kdutils.papers.distilbert.student import initialise_student, layers_to_take, published_sizes, student_config
from tests.tiny import one_sentence

VOCABULARY, LENGTH = 40, 12


def bert(layers: int = 4, **shape):
    """A small teacher in which no weight is at its usual start: no norm is 1, no bias is 0."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(5)
        options = {"width": 16, "heads": 2, "feedforward": 24, "max_length": LENGTH, **shape}
        teacher = build.masked_lm(VOCABULARY, layers=layers, **options).eval()
        for parameter in teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return teacher


def student_of(teacher, layers: int = 2, seed: int = 1, **shape):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DistilBertForMaskedLM(student_config(teacher.config, layers, **shape)).eval()


@pytest.fixture
def teacher():
    return bert()


@pytest.fixture
def text():
    """Three texts, the last two with padding."""
    draw = torch.Generator().manual_seed(3)
    mask = torch.ones(3, 10, dtype=torch.long)
    mask[1, 7:], mask[2, 3:] = 0, 0
    ids = torch.randint(5, VOCABULARY, (3, 10), generator=draw)
    return {"input_ids": ids * mask, "attention_mask": mask}


def same(one, other) -> bool:
    return torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


# ---------------------------------------------------------------- which layers


@pytest.mark.parametrize(
    ("teacher_layers", "student_layers", "taken"),
    [
        (12, 6, [0, 2, 4, 7, 9, 11]),
        (4, 2, [0, 3]),
        (12, 3, [0, 6, 11]),
        (6, 3, [0, 2, 5]),
        (12, 1, [0]),
        (1, 1, [0]),
        (5, 5, [0, 1, 2, 3, 4]),
    ],
)
def test_the_layers_are_spread_from_the_first_to_the_last(teacher_layers, student_layers, taken):
    assert layers_to_take(teacher_layers, student_layers) == taken


def test_no_layer_is_taken_twice_and_the_ends_always_are():
    for teacher_layers in range(2, 25):
        for student_layers in range(2, teacher_layers + 1):
            taken = layers_to_take(teacher_layers, student_layers)
            assert len(taken) == student_layers and (taken[0], taken[-1]) == (0, teacher_layers - 1)
            steps = [b - a for a, b in zip(taken, taken[1:], strict=False)]
            assert min(steps) >= 1 and max(steps) - min(steps) <= 1


@pytest.mark.parametrize("wrong", [(4, 5), (4, 0), (4, -1), (0, 1)])
def test_a_student_cannot_have_more_layers_than_its_teacher_or_none(wrong):
    with pytest.raises(UserError, match="cannot start from a teacher") as caught:
        layers_to_take(*wrong)
    one_sentence(caught.value)


# ---------------------------------------------------------------- the shape


def test_the_student_has_its_teachers_shape_and_half_its_layers():
    teacher = bert(dropout=0.3).config
    teacher.attention_probs_dropout_prob, teacher.hidden_act, teacher.pad_token_id = 0.2, "relu", 3
    config = student_config(teacher, 2)
    assert (config.n_layers, config.dim, config.hidden_dim, config.n_heads) == (2, 16, 24, 2)
    assert (config.vocab_size, config.max_position_embeddings, config.pad_token_id) == (VOCABULARY, LENGTH, 3)
    assert (config.dropout, config.attention_dropout, config.activation) == (0.3, 0.2, "relu")
    assert config.sinusoidal_pos_embds


def test_another_width_and_feedforward_size_can_be_chosen(teacher):
    config = student_config(teacher.config, 3, width=8, feedforward=12)
    assert (config.n_layers, config.dim, config.hidden_dim) == (3, 8, 12)


def test_the_published_shapes_have_the_published_parameters():
    with torch.device("meta"):
        config = student_config(BertConfig(), 6)
        counts = [parameter_count(kind(config)) for kind in (DistilBertModel, DistilBertForMaskedLM)]
        assert counts == [66_362_880, 66_985_530]
        assert parameter_count(BertModel(BertConfig())) == 109_482_240
    student, teacher = published_sizes()  # 66 of 110 million
    assert (student, teacher) == (66_362_880, 109_482_240) and student / teacher == pytest.approx(0.60, abs=0.01)


def test_a_teacher_that_is_no_bert_is_refused():
    with pytest.raises(UserError, match="from a BERT, not from a model of type 'roberta'") as caught:
        student_config(RobertaConfig(), 6)
    one_sentence(caught.value)


def test_a_width_that_the_heads_cannot_share_is_refused(teacher):
    with pytest.raises(UserError, match="multiple of the 2 heads") as caught:
        student_config(teacher.config, 2, width=9)
    one_sentence(caught.value)


# ---------------------------------------------------------------- what is copied


@pytest.mark.parametrize("layers", [None, [2, 1], [3, 0]])
def test_every_weight_of_a_layer_comes_from_the_same_place_of_the_right_layer(layers, teacher):
    student = initialise_student(teacher, student_of(teacher), layers=layers)
    for index, ours in zip(layers or [0, 3], student.distilbert.transformer.layer, strict=True):
        theirs = teacher.bert.encoder.layer[index]
        pairs = [
            (theirs.attention.self.query, ours.attention.q_lin),
            (theirs.attention.self.key, ours.attention.k_lin),
            (theirs.attention.self.value, ours.attention.v_lin),
            (theirs.attention.output.dense, ours.attention.out_lin),
            (theirs.attention.output.LayerNorm, ours.sa_layer_norm),
            (theirs.intermediate.dense, ours.ffn.lin1),
            (theirs.output.dense, ours.ffn.lin2),
            (theirs.output.LayerNorm, ours.output_layer_norm),
        ]
        assert all(same(a, b) for a, b in pairs)
        copied = {parameter for _, module in pairs for parameter in module.parameters()}
        assert copied == set(ours.parameters())  # nothing of the layer is left as it was


def test_embeddings_and_the_output_projection_are_copied(teacher):
    student = initialise_student(teacher, student_of(teacher))
    theirs, ours = teacher.bert.embeddings, student.distilbert.embeddings
    assert torch.equal(theirs.word_embeddings.weight, ours.word_embeddings.weight)
    assert torch.equal(theirs.position_embeddings.weight, ours.position_embeddings.weight)
    assert same(theirs.LayerNorm, ours.LayerNorm)
    assert same(teacher.cls.predictions.decoder, student.vocab_projector)
    assert student.vocab_projector.weight is ours.word_embeddings.weight


def test_the_layer_before_the_projection_stays_random_unless_it_is_asked_for(teacher):
    head = teacher.cls.predictions.transform
    before, student = student_of(teacher), initialise_student(teacher, student_of(teacher))
    assert same(student.vocab_transform, before.vocab_transform)
    assert same(student.vocab_layer_norm, before.vocab_layer_norm)
    copied = initialise_student(teacher, student_of(teacher), vocab_transform=True)
    assert same(copied.vocab_transform, head.dense) and same(copied.vocab_layer_norm, head.LayerNorm)


def test_the_copies_are_their_own_tensors(teacher):
    student = initialise_student(teacher, student_of(teacher), vocab_transform=True, fold_token_type=True)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_the_embeddings_are_the_teachers_only_with_its_segment_vector_folded_in(teacher, text):
    ids, theirs = text["input_ids"], teacher.bert.embeddings(input_ids=text["input_ids"])
    folded = initialise_student(teacher, student_of(teacher), fold_token_type=True)
    torch.testing.assert_close(folded.distilbert.embeddings(ids), theirs)
    dropped = initialise_student(teacher, student_of(teacher))
    assert (dropped.distilbert.embeddings(ids) - theirs).abs().max() > 0.01


def test_a_student_with_everything_is_its_teacher(teacher, text):
    student = student_of(teacher, layers=4)
    initialise_student(teacher, student, vocab_transform=True, fold_token_type=True)
    torch.testing.assert_close(student(**text).logits, teacher(**text).logits)


def test_a_student_of_another_size_or_of_missing_layers_is_refused(teacher):
    for shape in ({"width": 8}, {"feedforward": 12}):
        with pytest.raises(UserError, match="between equal sizes only") as caught:
            initialise_student(teacher, student_of(teacher, **shape))
        one_sentence(caught.value)
    for layers in ([0], [0, 4], [-1, 0], [0, 1, 2]):
        with pytest.raises(UserError, match="2 layers of 0 to 3 are needed") as caught:
            initialise_student(teacher, student_of(teacher), layers=layers)
        one_sentence(caught.value)


def test_a_refused_student_is_left_as_it_was(teacher):
    student, before = student_of(teacher), student_of(teacher)
    with pytest.raises(UserError):
        initialise_student(teacher, student, layers=[0, 9])
    for a, b in zip(student.parameters(), before.parameters(), strict=True):
        assert torch.equal(a, b)


# ---------------------------------------------------------------- on the disk


def test_a_saved_student_keeps_its_position_table_when_plain_transformers_loads_it(teacher, text, tmp_path):
    """The library fills such tables with sinusoids at the start; it must not do so again over what was learnt."""
    student = initialise_student(teacher, student_of(teacher))
    sinusoids = student_of(teacher).distilbert.embeddings.position_embeddings.weight
    student.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, DistilBertForMaskedLM)
    table = loaded.distilbert.embeddings.position_embeddings.weight
    assert torch.equal(table, teacher.bert.embeddings.position_embeddings.weight)
    assert not torch.allclose(table, sinusoids, atol=0.01)
    assert torch.equal(loaded(**text).logits, student(**text).logits)


def test_a_new_student_has_sinusoidal_positions(teacher):
    table = student_of(teacher).distilbert.embeddings.position_embeddings.weight
    position = torch.arange(LENGTH, dtype=torch.float64)
    for column in range(16):
        angle = position / 10000 ** (2 * (column // 2) / 16)
        expected = angle.cos() if column % 2 else angle.sin()
        torch.testing.assert_close(table[:, column].double(), expected, rtol=0, atol=1e-6)
