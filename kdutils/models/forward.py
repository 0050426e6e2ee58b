"""A forward pass that computes what a batch counts and nothing else: no logits of padding, K passes as one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "decoder_input_ids", "decoder_attention_mask")


@contextlib.contextmanager
def only_at(model: nn.Module, positions: Tensor) -> Iterator[None]:
    """While active, the output projection computes logits at the given flat positions only: (N, V), not (B, T, V).

    `positions` (N,) index the hidden states reshaped to (B*T, width). Padding is then never projected onto the
    vocabulary, which is most of the cost and memory of a small model with a large vocabulary.
    """
    plain = model.module if hasattr(model, "module") else model  # under data parallelism

    def pick(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = inputs[0]
        return (hidden.reshape(-1, hidden.shape[-1])[positions],)

    handle = plain.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def counted_logits(model: nn.Module, batch: dict[str, Tensor], copies: int = 1) -> Tensor:
    """Logits (N, V) of the N targets that a batch of `kdutils.data.batches` counts; with copies=K, (K, N, V).

    The K copies run as one forward pass over the batch repeated K times: dropout is drawn for every row anew, so
    they are K independent passes, and the GPU sees one large batch instead of K small ones.
    """
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    if "decoder_input_ids" in inputs:
        inputs["use_cache"] = False
    if copies > 1:
        inputs = {k: v.repeat(copies, 1) if isinstance(v, Tensor) else v for k, v in inputs.items()}
    if "positions" not in batch:
        logits = model(**inputs).logits
    else:
        cells = batch["labels"].numel()
        positions = torch.cat([batch["positions"] + copy * cells for copy in range(copies)])
        with only_at(model, positions):
            logits = model(**inputs).logits
    return logits.reshape(copies, -1, logits.shape[-1]) if copies > 1 else logits


def features_at(
    model: nn.Module, batch: dict[str, Tensor], positions: Tensor, hidden_positions: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(features, hidden): what the output projection of an encoder is given, and its last hidden states.

    features (N, width) at flat `positions` of (B, S), hidden (M, width) at `hidden_positions`, or at the same ones.
    The projection onto the vocabulary itself is not computed: it is asked for no position at all.
    """
    plain, caught = model.module if hasattr(model, "module") else model, {}

    def pick(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        flat = inputs[0].reshape(-1, inputs[0].shape[-1])
        caught["features"] = flat[positions]
        return (flat[:0],)

    def keep(_module: nn.Module, _inputs: tuple, output: tuple[Tensor, ...]) -> None:
        wanted = positions if hidden_positions is None else hidden_positions
        caught["hidden"] = output[0].reshape(-1, output[0].shape[-1])[wanted]

    handles = [
        plain.get_output_embeddings().register_forward_pre_hook(pick),
        plain.base_model.register_forward_hook(keep),
    ]
    try:
        model(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
    finally:
        for handle in handles:
            handle.remove()
    return caught["features"], caught["hidden"]


@contextlib.contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Puts a model into training or evaluation mode and afterwards every module back into the one it had."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was
