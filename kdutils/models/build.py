"""Models from transformers configurations: a translator, a classifier, a masked language model.

>>> model = translation_model(vocab_size=1000, width=64, layers=2)     # 0.3 million parameters, untrained

They are the library's own classes, so a trained one is saved with `save_pretrained` and loaded by plain
transformers. LayerDrop is off: it would drop a layer for both halves of a doubled batch at once, and two passes
that are to be compared must draw their dropout independently.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    M2M100Config,
    M2M100ForConditionalGeneration,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from kdutils.core.errors import UserError

PAD, BOS, EOS = 0, 1, 2  # as in kdutils.data.batches
# the names of dropout rates in the configurations of BERT and its kin, and of DistilBERT and the translators
DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "seq_classif_dropout",
)


def translation_model(
    vocab_size: int,
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    feedforward: int = 256,
    dropout: float = 0.1,
    max_length: int = 256,
) -> PreTrainedModel:
    """A pre-norm encoder-decoder (M2M100's architecture) with `layers` layers a side and tied embeddings.

    `dropout` is applied to the embeddings, the attention and feed-forward outputs; to attention weights and
    hidden activations it is not, as in the recipes that the papers used. Raises UserError when the width cannot
    be divided among the heads, or a size or rate makes no sense.
    """
    _check_shape(width, layers, heads, feedforward, dropout)
    config = M2M100Config(
        vocab_size=vocab_size, d_model=width, encoder_layers=layers, decoder_layers=layers,
        encoder_attention_heads=heads, decoder_attention_heads=heads, encoder_ffn_dim=feedforward,
        decoder_ffn_dim=feedforward, dropout=dropout, attention_dropout=0.0, activation_dropout=0.0,
        encoder_layerdrop=0.0, decoder_layerdrop=0.0, max_position_embeddings=max_length, scale_embedding=True,
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, decoder_start_token_id=BOS, activation_function="relu",
    )  # fmt: skip
    model = M2M100ForConditionalGeneration(config)
    xavier(model)
    return model


def classifier(
    vocab_size: int,
    labels: tuple[str, ...],
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    feedforward: int = 256,
    dropout: float = 0.1,
    max_length: int = 128,
) -> PreTrainedModel:
    """A BERT encoder with a classification head, untrained. Raises UserError when heads do not divide the width."""
    config = _bert(vocab_size, width, layers, heads, feedforward, dropout, max_length)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    return BertForSequenceClassification(config)


def masked_lm(
    vocab_size: int,
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    feedforward: int = 256,
    dropout: float = 0.1,
    max_length: int = 128,
) -> PreTrainedModel:
    """A BERT encoder with a masked-language-model head, untrained."""
    return BertForMaskedLM(_bert(vocab_size, width, layers, heads, feedforward, dropout, max_length))


def pretrained(
    name: str, task: str, labels: tuple[str, ...] = (), dropout: float | None = None, **changes: float
) -> PreTrainedModel:
    """A model of the Hugging Face hub, or of a folder, for "translation", "classification" or "masked_lm".

    `dropout` replaces all of its dropout rates, whatever its architecture calls them; `changes` override other
    fields of its configuration. Only safetensors are read. Raises UserError when the model cannot be found or
    fetched.
    """
    loader = {
        "translation": AutoModelForSeq2SeqLM,
        "classification": AutoModelForSequenceClassification,
        "masked_lm": AutoModelForMaskedLM,
    }[task]
    if labels:
        changes = {**changes, "num_labels": len(labels), "id2label": dict(enumerate(labels))}
    try:
        with quiet():
            if dropout is not None:
                config = AutoConfig.from_pretrained(name)
                changes = {**{field: dropout for field in DROPOUTS if hasattr(config, field)}, **changes}
            return loader.from_pretrained(name, use_safetensors=True, **changes)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"The model '{name}' could not be loaded ({first}): check its name, or fetch it once with a network."
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No bars of transformers for small files, no report of the heads that a new task adds and drops."""
    enabled, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if enabled:
            transformers_logging.enable_progress_bar()


def xavier(model: nn.Module) -> None:
    """Xavier-uniform matrices, zero biases, embeddings of variance 1/width.

    The library's default (normal, 0.02) leaves a small translator on its first plateau for hundreds of updates.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():  # after the matrices: the output projection is tied to the embedding
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
            if module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])


def parameter_count(model: nn.Module) -> int:
    """Parameters, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def free_memory() -> None:
    """Gives back memory that Python and the GPU's allocator still hold, between two runs of a notebook."""
    import gc
    import sys

    sys.last_value = sys.last_traceback = None  # a traceback keeps the tensors of a failed cell alive
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _bert(
    vocab_size: int, width: int, layers: int, heads: int, feedforward: int, dropout: float, max_length: int
) -> BertConfig:
    _check_shape(width, layers, heads, feedforward, dropout)
    return BertConfig(
        vocab_size=vocab_size, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=feedforward, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        max_position_embeddings=max_length, pad_token_id=PAD,
    )  # fmt: skip


def _check_shape(width: int, layers: int, heads: int, feedforward: int, dropout: float) -> None:
    for name, size in {"width": width, "layers": layers, "heads": heads, "feedforward": feedforward}.items():
        if size < 1:
            raise UserError(f"A model cannot have {name}={size}: choose at least 1.")
    if not 0.0 <= dropout < 1.0:
        raise UserError(f"A dropout of {dropout} is no rate: choose one from 0 to below 1.")
    if width % heads:
        raise UserError(f"A width of {width} cannot be divided among {heads} heads: choose a multiple of {heads}.")
