"""A DistilBERT under a BERT teacher: which layers to take, the student's shape, the copying of weights.

>>> student = DistilBertForMaskedLM(student_config(teacher.config, layers=6))
>>> initialise_student(teacher, student)                      # from the teacher's layers 0, 2, 4, 7, 9 and 11

The student is the library's own class, so that plain transformers loads what is exported.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertModel,
    PreTrainedModel,
)

from kdutils.core.errors import UserError
from kdutils.models.build import parameter_count


def layers_to_take(teacher_layers: int, student_layers: int) -> list[int]:
    """The teacher's layers, counted from 0, that the student starts from: evenly spread from the first to the last.

    12 to 6 gives 0, 2, 4, 7, 9, 11, the layers of the official code (`extract_distilbert.py`, line 55); the paper says
    "one layer out of two". Raises UserError unless the student has from 1 to `teacher_layers` layers.
    """
    if not 1 <= student_layers <= teacher_layers:
        raise UserError(f"A student of {student_layers} layers cannot start from a teacher of {teacher_layers} layers.")
    steps = max(student_layers - 1, 1)
    return [round(i * (teacher_layers - 1) / steps) for i in range(student_layers)]


def student_config(teacher: BertConfig, layers: int, width: int = 0, feedforward: int = 0) -> DistilBertConfig:
    """The configuration of a DistilBERT under a BERT teacher; 0 means the teacher's own width and feed-forward size.

    As in the official training configurations the position table starts as sinusoids. Raises UserError for a teacher
    that is not a BERT.
    """
    if teacher.model_type != "bert":
        raise UserError(f"A DistilBERT learns from a BERT, not from a model of type '{teacher.model_type}'.")
    width = width or teacher.hidden_size
    if width % teacher.num_attention_heads:
        raise UserError(f"student_width is {width}: choose a multiple of the {teacher.num_attention_heads} heads.")
    return DistilBertConfig(
        vocab_size=teacher.vocab_size, max_position_embeddings=teacher.max_position_embeddings,
        sinusoidal_pos_embds=True, n_layers=layers, n_heads=teacher.num_attention_heads, dim=width,
        hidden_dim=feedforward or teacher.intermediate_size, dropout=teacher.hidden_dropout_prob,
        attention_dropout=teacher.attention_probs_dropout_prob, activation=teacher.hidden_act,
        pad_token_id=teacher.pad_token_id,
    )  # fmt: skip


def published_sizes() -> tuple[int, int]:
    """Parameters of DistilBERT and of BERT-base with its pooler, encoders without heads, at the published shapes."""
    shape = BertConfig()
    with torch.device("meta"):  # counted without memory
        return parameter_count(DistilBertModel(student_config(shape, 6))), parameter_count(BertModel(shape))


# our names of a layer's parts, in the teacher and in the student
LAYER = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


@torch.no_grad()
def initialise_student(
    teacher: PreTrainedModel,
    student: DistilBertForMaskedLM,
    *,
    layers: Sequence[int] | None = None,
    vocab_transform: bool = False,
    fold_token_type: bool = False,
) -> DistilBertForMaskedLM:
    """Copies teacher weights into the student, in place: embeddings, the chosen layers, the output projection.

    layers: which ones, by default `layers_to_take`. vocab_transform: copy the dense layer and the layer norm before the
    projection too; the official script leaves them random by default. fold_token_type: add the teacher's vector of
    segment 0, which the student has no table for, to every position; the official script drops it. Raises UserError
    when the widths differ or a layer does not exist.
    """
    source, target = teacher.bert, student.distilbert
    chosen = list(layers or layers_to_take(teacher.config.num_hidden_layers, student.config.n_layers))
    _check_copy(teacher.config, student.config, chosen)
    for name in ("word_embeddings", "position_embeddings", "LayerNorm"):
        _copy(getattr(source.embeddings, name), getattr(target.embeddings, name))
    if fold_token_type:
        target.embeddings.position_embeddings.weight += source.embeddings.token_type_embeddings.weight[0]
    for index, layer in zip(chosen, target.transformer.layer, strict=True):
        for theirs, ours in LAYER.items():
            _copy(source.encoder.layer[index].get_submodule(theirs), layer.get_submodule(ours))
    head = teacher.cls.predictions
    _copy(head.decoder, student.vocab_projector)
    if vocab_transform:
        _copy(head.transform.dense, student.vocab_transform)
        _copy(head.transform.LayerNorm, student.vocab_layer_norm)
    return student


def _copy(source: nn.Module, target: nn.Module) -> None:
    target.weight.copy_(source.weight)
    if getattr(target, "bias", None) is not None:
        target.bias.copy_(source.bias)


def _check_copy(teacher: BertConfig, student: DistilBertConfig, chosen: Sequence[int]) -> None:
    theirs, ours = (teacher.hidden_size, teacher.intermediate_size), (student.dim, student.hidden_dim)
    if theirs != ours:
        raise UserError(
            f"The student has width and feed-forward size {ours}, the teacher {theirs}: weights can be copied between "
            "equal sizes only, so start at random (arm random_init)."
        )
    if len(chosen) != student.n_layers or not all(0 <= i < teacher.num_hidden_layers for i in chosen):
        raise UserError(f"{student.n_layers} layers of 0 to {teacher.num_hidden_layers - 1} are needed, not {chosen}.")
