"""Tutor-KD's networks: what is seen of the layers, the student's shape, weights and file, the mask the wrong way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    ElectraModel,
    RobertaConfig,
)

from kdutils.core.errors import UserError
from kdutils.models.build import masked_lm, parameter_count
from kdutils.papers.tutor_kd.student import (
    attention_mask,
    judging_student,
    observed,
    predicting_student,
    student_config,
    tutor_head,
)
from tests.tiny import assert_same_weights, one_sentence

VOCABULARY, LENGTH = 40, 12


def shaken(net: nn.Module) -> nn.Module:
    """In float64, with weights so large that attention has opinions; no norm is 1, no bias is 0."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(5)
        for parameter in net.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return net.double().eval()


def bert(layers: int = 4) -> BertForMaskedLM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return shaken(masked_lm(VOCABULARY, 16, layers, 2, 24, dropout=0.1, max_length=LENGTH))


def electra(embedding: int = 0) -> ElectraForPreTraining:
    """A student; with `embedding` narrower than it is wide, so that its embeddings are projected."""
    return shaken(judging_student(student_config(bert().config, 4, 8, embedding), seed=1))


def network(name: str) -> nn.Module:
    return {"bert": bert, "electra": electra, "projected": lambda: electra(4)}[name]()


@pytest.fixture(params=["bert", "electra", "projected"])
def net(request):
    return network(request.param)


@pytest.fixture
def text() -> dict[str, Tensor]:
    """Three texts, the last two with padding, in which something stands."""
    draw = torch.Generator().manual_seed(3)
    mask = torch.ones(3, 10, dtype=torch.long)
    mask[1, 7:], mask[2, 3:] = 0, 0
    return {"input_ids": torch.randint(5, VOCABULARY, (3, 10), generator=draw), "attention_mask": mask}


# ---------------------------------------------------------------- what is seen of the layers


def scores_by_hand(encoder: nn.Module, hidden: Tensor, layer: int) -> Tensor:
    """A_hqk = <q_h, k_h> / sqrt(d_h), from the weights of a layer (counted from 1) and what it is given."""
    own, found = encoder.encoder.layer[layer - 1].attention.self, []
    size = own.attention_head_size
    for head in range(own.num_attention_heads):
        rows = slice(head * size, (head + 1) * size)
        q = hidden @ own.query.weight[rows].T + own.query.bias[rows]
        k = hidden @ own.key.weight[rows].T + own.key.bias[rows]
        found.append(torch.einsum("bqd,bkd->bqk", q, k) / size**0.5)
    return torch.stack(found, 1)


@pytest.mark.parametrize("layers", [[1], [4], [2, 4], [1, 2, 3, 4], []], ids=str)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_hidden_states_and_scores_are_those_of_the_chosen_layers(attention, layers, net, text):
    net.set_attn_implementation(attention)
    plain = net(**text, output_hidden_states=True)
    with observed(net.base_model, layers) as seen:
        found = net(**text)
    assert torch.equal(found.logits, plain.logits)  # it only looks
    assert len(seen.hidden) == 1 + len(layers) and len(seen.scores) == len(layers)
    for ours, layer in zip(seen.hidden, [0, *layers], strict=True):
        assert torch.equal(ours, plain.hidden_states[layer])
    for ours, layer in zip(seen.scores, layers, strict=True):
        right = scores_by_hand(net.base_model, plain.hidden_states[layer - 1], layer)
        assert ours.shape == (3, 2, 10, 10)
        torch.testing.assert_close(ours, right, rtol=1e-10, atol=1e-12)


def test_the_scores_are_what_eager_attention_makes_its_weights_of(net, text):
    """Before the softmax, and before the mask, which is added to them."""
    net.set_attn_implementation("eager")
    with observed(net.base_model, [1, 2, 3, 4]) as seen:
        weights = net(**text, output_attentions=True).attentions
    padding = text["attention_mask"][:, None, None, :] == 0
    for ours, theirs in zip(seen.scores, weights, strict=True):
        torch.testing.assert_close(ours.masked_fill(padding, -1e30).softmax(-1), theirs, rtol=1e-9, atol=1e-12)
        assert (ours.softmax(-1) - theirs)[padding.expand_as(ours)].max() > 0.01
        assert ours.std() > 0.3


def test_gradients_reach_the_student_through_scores_and_hidden_states(net, text):
    weights = list(net.base_model.parameters())
    for what in ("scores", "hidden"):
        with observed(net.base_model, [2, 4]) as seen:
            net(**text)
        loss = sum(one.square().sum() for one in getattr(seen, what))
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        hidden = net(**text, output_hidden_states=True).hidden_states
        if what == "scores":
            right = [scores_by_hand(net.base_model, hidden[layer - 1], layer) for layer in (2, 4)]
        else:
            right = [hidden[layer] for layer in (0, 2, 4)]
        expected = torch.autograd.grad(sum(one.square().sum() for one in right), weights, allow_unused=True)
        reached = 0
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                reached += bool(ours.abs().max() > 1e-3)
                torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
        assert reached > 20


def hooks(net: nn.Module) -> int:
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in net.modules())


def test_nothing_is_left_behind_and_the_last_pass_is_what_is_seen(net, text):
    other = {name: one[:2] for name, one in text.items()}
    with observed(net.base_model, [2, 4]) as alone:
        net(**other)
    with observed(net.base_model, [2, 4]) as seen:
        net(**text)
        net(**other)
    for ours, right in ((seen.hidden, alone.hidden), (seen.scores, alone.scores)):
        assert len(ours) == len(right) and all(torch.equal(a, b) for a, b in zip(ours, right, strict=True))
    assert hooks(net) == 0
    net(**text)
    assert len(seen.hidden) == 3 and seen.hidden[0].shape[0] == 2
    with pytest.raises(ZeroDivisionError), observed(net.base_model, [2, 4]):
        raise ZeroDivisionError
    assert hooks(net) == 0


def test_scores_that_nobody_asks_for_are_not_computed(net, text):
    with observed(net.base_model, [2, 4], scores=False) as seen:
        own = net.base_model.encoder.layer[1].attention.self
        assert hooks(own) == 0
        net(**text)
    assert seen.scores == [] and len(seen.hidden) == 3


# ---------------------------------------------------------------- the shape


def test_a_student_of_full_width_has_its_teachers_shape_and_some_of_its_layers():
    teacher = bert().config
    teacher.pad_token_id, teacher.hidden_act = 3, "relu"
    config = student_config(teacher, 2, dropout=0.3)
    assert (config.num_hidden_layers, config.hidden_size, config.embedding_size) == (2, 16, 16)
    assert (config.intermediate_size, config.num_attention_heads, config.hidden_act) == (24, 2, "relu")
    assert (config.vocab_size, config.max_position_embeddings, config.pad_token_id) == (VOCABULARY, LENGTH, 3)
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.3
    assert not hasattr(judging_student(config, 0).electra, "embeddings_project")


def test_a_narrow_student_projects_its_embeddings_and_keeps_the_heads():
    config = student_config(bert().config, 2, width=8, embedding=4)
    assert (config.hidden_size, config.embedding_size, config.num_attention_heads) == (8, 4, 2)
    assert config.intermediate_size == 12  # as many times the width as the teacher's
    assert student_config(bert().config, 2, 8, 4, feedforward=20).intermediate_size == 20
    assert student_config(bert().config, 2, 8).embedding_size == 8
    encoder = judging_student(config, 0).electra
    assert encoder.embeddings.word_embeddings.weight.shape == (VOCABULARY, 4)
    assert encoder.embeddings_project.weight.shape == (8, 4)


@pytest.mark.parametrize(
    ("layers", "width", "embedding", "published"),
    [(6, 0, 0, 66_955_008), (12, 264, 132, 14_279_496), (6, 264, 132, 9_240_792), (2, 264, 132, 5_881_656)],
)
def test_the_published_students_have_the_published_parameters(layers, width, embedding, published):
    """As the official function counts them: an encoder, and a pooler that is not used here."""
    with torch.device("meta"):
        config = student_config(BertConfig(), layers, width, embedding)
        pooler = nn.Linear(config.hidden_size, config.hidden_size)
        assert parameter_count(ElectraModel(config)) + parameter_count(pooler) == published


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": 3}, "student of 3 layers cannot follow a teacher of 4"),
        ({"layers": 8}, "student of 8 layers cannot follow a teacher of 4"),
        ({"layers": 0}, "student of 0 layers"),
        ({"width": 9}, "student_width is 9.*multiple of the 2 heads"),
        ({"width": -8}, "student_width is -8"),
        ({"embedding": -1}, "student_embedding -1"),
        ({"feedforward": -1}, "student_feedforward -1"),
    ],
    ids=str,
)
def test_a_shape_that_cannot_be_is_refused_in_one_sentence(options, words):
    with pytest.raises(UserError, match=words) as caught:
        student_config(bert().config, **{"layers": 2, **options})
    one_sentence(caught.value)


def test_a_teacher_that_is_no_bert_is_refused():
    with pytest.raises(UserError, match="is a BERT, not a model of type 'roberta'") as caught:
        student_config(RobertaConfig(), 6)
    one_sentence(caught.value)


# ---------------------------------------------------------------- weights, heads, files


@pytest.mark.parametrize("embedding", [0, 4])
def test_one_seed_gives_one_encoder_under_both_heads_and_leaves_the_draws_of_others_alone(embedding):
    config = student_config(bert().config, 2, 8, embedding)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    judge, predictor = judging_student(config, 3), predicting_student(config, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(judge, ElectraForPreTraining) and isinstance(predictor, ElectraForMaskedLM)
    assert_same_weights(judge.base_model, predictor.base_model)
    assert_same_weights(judge, judging_student(config, 3))
    other = judging_student(config, 4).base_model.encoder.layer[0].output.dense.weight
    assert not torch.equal(other, judge.base_model.encoder.layer[0].output.dense.weight)


def test_one_judges_every_token_by_a_number_and_the_other_has_a_vocabulary(text):
    config = student_config(bert().config, 2, 8, 4)
    judge, predictor = judging_student(config, 3).eval(), predicting_student(config, 3).eval()
    assert judge(**text).logits.shape == (3, 10) and judge.get_output_embeddings() is None
    assert judge(**{name: one[:1] for name, one in text.items()}).logits.shape == (1, 10)
    assert predictor(**text).logits.shape == (3, 10, VOCABULARY)
    assert predictor.get_output_embeddings().weight is predictor.get_input_embeddings().weight


@pytest.mark.parametrize("embedding", [0, 4])
def test_plain_transformers_loads_what_is_saved(embedding, text, tmp_path):
    config = student_config(bert().config, 2, 8, embedding)
    for kind, made in ((ElectraForPreTraining, judging_student), (ElectraForMaskedLM, predicting_student)):
        student = shaken(made(config, 3)).float()
        student.save_pretrained(tmp_path / kind.__name__)
        again = kind.from_pretrained(tmp_path / kind.__name__).eval()
        assert_same_weights(again, student)
        assert torch.equal(again(**text).logits, student(**text).logits)
        sorter = AutoModelForSequenceClassification.from_pretrained(tmp_path / kind.__name__, num_labels=3).eval()
        assert_same_weights(sorter.base_model, student.base_model)
        assert sorter(**text).logits.shape == (3, 3)


def test_the_tutor_is_a_head_of_the_masked_lms_kind():
    torch.manual_seed(0)
    head = shaken(tutor_head(6, 11))
    x = torch.randn(5, 6, dtype=torch.float64)
    first, _, norm, last = head
    inner = x @ first.weight.T + first.bias
    inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    inner = (inner - inner.mean(-1, keepdim=True)) / (inner.var(-1, keepdim=True, correction=0) + norm.eps).sqrt()
    right = (inner * norm.weight + norm.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(head(x), right, rtol=1e-10, atol=1e-12)
    assert head(x[:0]).shape == (0, 11)


# ---------------------------------------------------------------- the mask the wrong way round


def passed(net: nn.Module, text: dict[str, Tensor], inverted: bool) -> Tensor:
    """The last hidden states (B, S, width)."""
    return net.base_model(text["input_ids"], attention_mask=attention_mask(text, inverted)).last_hidden_state


def test_the_usual_mask_is_the_batchs_own(text):
    assert attention_mask(text) is text["attention_mask"]
    inverted = attention_mask(text, inverted=True)
    assert inverted.shape == (3, 1, 1, 10)
    assert inverted[2, 0, 0].tolist() == [-1e4] * 3 + [0] * 7


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_row_without_padding_does_not_notice_the_inverted_mask(attention, net, text):
    net.float().set_attn_implementation(attention)
    right, found = (passed(net, text, inverted) for inverted in (False, True))
    torch.testing.assert_close(found[0], right[0], rtol=0, atol=4e-3)  # near -10,000 float32 has steps of 0.001
    assert (found[1:] - right[1:]).abs().amax((1, 2)).min() > 0.04


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_in_a_row_with_padding_all_attention_goes_there(attention, net, text):
    """A token hears of the padding and of itself, which the residual connection keeps, and of no other token."""
    net.float().set_attn_implementation(attention)
    word, pad = text["input_ids"].clone(), text["input_ids"].clone()
    word[1, 2], pad[1, 8] = 39, 39
    assert text["input_ids"][1, 2] != 39 and text["input_ids"][1, 8] != 39
    others = [0, 1, 3, 4, 5, 6]
    for inverted in (False, True):
        before, after_word, after_pad = (
            passed(net, {**text, "input_ids": ids}, inverted)[1] for ids in (text["input_ids"], word, pad)
        )
        by_word, by_pad = ((after - before)[others].abs().amax(-1) for after in (after_word, after_pad))
        hears, deaf = (by_pad, by_word) if inverted else (by_word, by_pad)
        assert hears.min() > 1e-3 and not deaf.any()


def test_eager_attention_under_the_inverted_mask_looks_at_padding_only(net, text):
    net.float().set_attn_implementation("eager")
    given = {"input_ids": text["input_ids"], "attention_mask": attention_mask(text, inverted=True)}
    padding = text["attention_mask"] == 0
    for weights in net(**given, output_attentions=True).attentions:
        there = (weights * padding[:, None, None, :]).sum(-1)
        assert not there[0].any()
        torch.testing.assert_close(there[1:], torch.ones_like(there[1:]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_both_masks_work_in_low_precision(attention, dtype, net, text):
    net.float().set_attn_implementation(attention)
    for inverted in (False, True):
        right = passed(net, text, inverted)
        with torch.autocast("cpu", dtype), observed(net.base_model, [1]) as seen:
            found = passed(net, text, inverted)
        rows = slice(1, None) if inverted else slice(None)  # in the first, low precision hardly tells its scores apart
        assert found.isfinite().all() and seen.scores[0].isfinite().all()
        assert (found.float() - right)[rows].abs().mean() < 0.1
