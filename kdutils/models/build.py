"""Models from transformers configurations: a translator, a classifier, a masked language model.

>>> model = translation_model(vocab_size=1000, width=64, layers=2)     # 0.3 million parameters, untrained

They are the library's own classes, so a trained one is saved with `save_pretrained` and loaded by plain
transformers. LayerDrop is off: it would drop a layer for both halves of a doubled batch at once, and two passes
that are to be compared must draw their dropout independently.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    M2M100Config,
    M2M100ForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from kdutils.core.errors import UserError
from kdutils.core.machine import device

PAD, BOS, EOS = 0, 1, 2  # as in kdutils.data.batches
DEMO = Path(__file__).parent / "demo"  # a small encoder that was pre-trained on the grammar: see kdutils.study.encoder
TEACHER = DEMO.with_name("teacher")  # a masked language model that has learnt the grammar, from the same module
# the names of dropout rates in the configurations of BERT and its kin, and of DistilBERT and the translators
DROPOUTS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "seq_classif_dropout",
    "qa_dropout",
)  # fmt: skip


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
    name: str,
    task: str,
    labels: tuple[str, ...] = (),
    dropout: float | None = None,
    notes: list[str] | None = None,
    new_head: bool = False,
    **changes: float,
) -> PreTrainedModel:
    """A model of the hub, or of a folder, for "translation", "classification", "masked_lm" or "answering", in float32.

    labels: what a classifier will learn to tell apart; only then, or with `new_head`, may its head be a new one, where
    the model has none or one for another number of labels, and `notes` gets a sentence that says so. `dropout` replaces
    all of its dropout rates, whatever its architecture calls them; `changes` override other fields of its
    configuration. Only safetensors are read, and no code. Raises UserError when the model cannot be found or fetched,
    and for weights that are missing, that have other shapes than the configuration says, or that it has no place for:
    those would be random, or unused.
    """
    loader = {
        "translation": AutoModelForSeq2SeqLM,
        "classification": AutoModelForSequenceClassification,
        "masked_lm": AutoModelForMaskedLM,
        "answering": AutoModelForQuestionAnswering,
    }[task]
    config = load_config(name)
    if labels:
        numbered = dict(enumerate(labels))
        changes |= {"id2label": numbered, "label2id": {label: index for index, label in numbered.items()}}
    if dropout is not None:
        _check_rate(dropout)
        changes = {**{field: dropout for field in DROPOUTS if hasattr(config, field)}, **changes}
    with loading("model", name):
        model, found = loader.from_pretrained(
            located(name), use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True,
            ignore_mismatched_sizes=True, **changes,
        )  # fmt: skip
    new = _check_weights(name, model, found, may_have_a_new_head=new_head or bool(labels))
    if notes is not None and labels:
        notes += _about_head(name, new, tuple(config.id2label.values()), labels)
    return model


def located(name: str) -> str:
    """Where a model lies: "demo" and "demo:teacher" are small ones of this package; any other name stays as it is."""
    return {"demo": str(DEMO), "demo:teacher": str(TEACHER)}.get(name, name)


def load_config(name: str) -> PreTrainedConfig:
    """The configuration of a model of the hub, or of a folder. Raises UserError when there is none that can be used."""
    with loading("model", name):
        return AutoConfig.from_pretrained(located(name), trust_remote_code=False)


@contextlib.contextmanager
def loading(what: str, name: str) -> Iterator[None]:
    """Turns whatever a folder that is damaged, missing or in want of its own code brings about into a UserError."""
    try:
        with quiet():
            yield
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"The {what} '{name}' needs code of its own (auto_map in its files), which is never run here: choose "
                "one of an architecture that transformers knows."
            ) from error
        reason = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" ...").rstrip(".:")
        raise UserError(
            f"The {what} '{name}' could not be loaded ({reason}): check the folder or the name, or fetch it once with "
            "a network."
        ) from error


def _check_weights(name: str, model: PreTrainedModel, found: dict, may_have_a_new_head: bool) -> list[str]:
    """The names of the weights of a new head; refuses every other difference between the model and its file.

    Heads of other tasks are left out, as is the pooler that some of them read from.
    """
    body = {child for child, _ in model.base_model.named_children()} - {"pooler"}

    def of_body(weight: str) -> bool:
        return weight.removeprefix(f"{model.base_model_prefix}.").partition(".")[0] in body

    resized = {weight for weight, *_ in found["mismatched_keys"]}
    new = {weight for weight in found["missing_keys"] | resized if may_have_a_new_head and not of_body(weight)}
    if lost := found["missing_keys"] - new:
        raise UserError(
            f"The model '{name}' has no weights for {_some(sorted(lost))}, which would be random: choose one that was "
            f"trained for this task, with all of its weights ({type(model).__name__})."
        )
    unused = {weight for weight in found["unexpected_keys"] if of_body(weight) and not weight.endswith("position_ids")}
    if wrong := (resized - new) | unused:
        raise UserError(
            f"The weights {_some(sorted(wrong))} of '{name}' do not fit its config.json: take both from one model."
        )
    return sorted(new)


def _about_head(name: str, new: list[str], theirs: tuple[str, ...], ours: tuple[str, ...]) -> Iterator[str]:
    """What is to be said of the head that a classifier starts with."""
    trained_for = f"'{name}' tells apart {_some(theirs)}; here it is {_some(ours)}"
    if new:
        other = f": {trained_for}" if len(theirs) != len(ours) else ""
        yield f"The classification head is a new one ({_some(new)}){other}."
    elif theirs != ours:
        yield f"The classification head is that of other labels: {trained_for}."


def _some(names: Sequence[str]) -> str:
    """The first names, and how many others there are."""
    few = ", ".join(names[:3])
    return few + (f" and {len(names) - 3} more" if len(names) > 3 else "")


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
    if device().type == "cuda":
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
    _check_rate(dropout)
    if width % heads:
        raise UserError(f"A width of {width} cannot be divided among {heads} heads: choose a multiple of {heads}.")


def _check_rate(dropout: float) -> None:
    if not 0.0 <= dropout < 1.0:
        raise UserError(f"A dropout of {dropout} is no rate: choose one from 0 to below 1.")
