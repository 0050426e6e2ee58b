"""Tutor-KD's networks: the student, the tutor, and what both encoders let be seen of their layers.

>>> student = judging_student(student_config(teacher.config, layers=2))
>>> with observed(teacher.base_model, [2, 4]) as seen:
...     teacher(**batch)
>>> [one.shape for one in seen.hidden], [one.shape for one in seen.scores]

The student of the released code is a BERT, narrower ones with a smaller embedding table and a projection, and a head
that says one number a token. The library has that shape as Electra, whose classes are taken, so that plain
transformers loads what is exported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    PreTrainedModel,
)

from kdutils.core.errors import UserError
from kdutils.papers.tutor_kd.objective import layer_map


def student_config(
    teacher: BertConfig, layers: int, width: int = 0, embedding: int = 0, feedforward: int = 0, dropout: float = 0.1
) -> ElectraConfig:
    """The shape of a student under a BERT teacher; 0 means: the teacher's width; an embedding table of the student's
    width; a feed-forward layer as many times its width as the teacher's.

    Where the embeddings are narrower than the hidden states a matrix projects them. The heads are as many as the
    teacher's, for attention is compared head by head. Raises UserError for a teacher that is not a BERT, layers that
    do not divide the teacher's, and widths that the heads do not.
    """
    if teacher.model_type != "bert":
        raise UserError(f"Tutor-KD's teacher is a BERT, not a model of type '{teacher.model_type}'.")
    layer_map(teacher.num_hidden_layers, layers)
    width, heads = width or teacher.hidden_size, teacher.num_attention_heads
    if min(width, embedding, feedforward) < 0 or width % heads:
        raise UserError(
            f"student_width is {width}, student_embedding {embedding}, student_feedforward {feedforward}: sizes, or 0, "
            f"and a width that is a multiple of the {heads} heads."
        )
    return ElectraConfig(
        vocab_size=teacher.vocab_size, max_position_embeddings=teacher.max_position_embeddings,
        embedding_size=embedding or width, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=feedforward or width * teacher.intermediate_size // teacher.hidden_size,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, hidden_act=teacher.hidden_act,
        pad_token_id=teacher.pad_token_id,
    )  # fmt: skip


def judging_student(config: ElectraConfig, seed: int) -> ElectraForPreTraining:
    """A student that judges every token of a text by one number, o; its encoder is that of `predicting_student`."""
    return _started(ElectraForPreTraining, config, seed)


def predicting_student(config: ElectraConfig, seed: int) -> ElectraForMaskedLM:
    """A student that predicts hidden tokens: the same encoder under a vocabulary head, for what has no tutor."""
    return _started(ElectraForMaskedLM, config, seed)


def _started(kind: type, config: ElectraConfig, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config)  # the encoder draws its weights first, so those of a seed are the same under both heads


def tutor_head(width: int, vocabulary: int) -> nn.Sequential:
    """The tutor: a masked-LM head on the frozen teacher's last hidden states (N, width), to logits (N, V)."""
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width), nn.Linear(width, vocabulary))


@dataclass
class Seen:
    """What the layers of an encoder computed in the last pass."""

    hidden: list[Tensor] = field(default_factory=list)  # (B, S, width) of the embeddings and of the chosen layers
    scores: list[Tensor] = field(default_factory=list)  # (B, heads, S, S) of the chosen layers, before the softmax


@contextlib.contextmanager
def observed(encoder: PreTrainedModel, layers: Sequence[int], scores: bool = True) -> Iterator[Seen]:
    """While active, passes through a BERT or an Electra leave hidden states and attention scores of some layers.

    layers: which, counted from 1, rising. Fused attention never holds its scores: where they are asked for they are
    computed a second time, from the layer's own queries and keys; one matrix product more, and its gradient.
    """
    seen, blocks = Seen(), encoder.encoder.layer

    def entered(_module: nn.Module, inputs: tuple, named: dict) -> None:
        seen.hidden[:], seen.scores[:] = [inputs[0] if inputs else named["hidden_states"]], []

    def passed(_module: nn.Module, _inputs: tuple, output: Tensor | tuple) -> None:
        seen.hidden.append(output[0] if isinstance(output, tuple) else output)

    def attended(attention: nn.Module) -> Iterator[torch.utils.hooks.RemovableHandle]:
        """Catches the queries of a layer, and makes its scores when the keys follow."""
        shape, caught = (attention.num_attention_heads, attention.attention_head_size), []

        def asked(_module: nn.Module, _inputs: tuple, queries: Tensor) -> None:
            caught[:] = [queries]

        def answered(_module: nn.Module, _inputs: tuple, keys: Tensor) -> None:
            # Q, K: (B, heads, S, d_h)
            queries, keys = (one.view(*one.shape[:2], *shape).transpose(1, 2) for one in (caught.pop(), keys))
            # A = Q K^T / sqrt(d_h): (B, heads, S, S)
            seen.scores.append(queries @ keys.transpose(-1, -2) * shape[1] ** -0.5)

        yield attention.query.register_forward_hook(asked)
        yield attention.key.register_forward_hook(answered)

    handles = [encoder.encoder.register_forward_pre_hook(entered, with_kwargs=True)]
    for layer in layers:
        handles.append(blocks[layer - 1].register_forward_hook(passed))
        handles += attended(blocks[layer - 1].attention.self) if scores else ()
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def attention_mask(batch: dict[str, Tensor], inverted: bool = False) -> Tensor:
    """The mask that an encoder is given: (B, S) with 1 on the tokens; inverted: (B, 1, 1, S), as in the released code.

    There 1 stands on the padding (`distillation.py`, 170 to 172), for code that adds -10,000 to the scores of a 0: in a
    row with padding all attention goes to it; in one without, every score falls alike, which changes nothing.
    """
    mask = batch["attention_mask"]
    return mask[:, None, None, :].float() * -1e4 if inverted else mask
