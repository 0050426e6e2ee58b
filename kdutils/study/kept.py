"""Train once, export, keep, load ever after: a folder for every network that a run trains.

>>> if kept.result(folder) is None:                                    # not finished yet
...     kept.train(model, method, batches, recipe, folder, seed=1, evaluate=task.validate)
...     kept.export(folder, model, task.tokenizer)
...     kept.keep(folder, {"metrics": task.test(model)})
>>> model = kept.load(folder, "masked_lm")

`result.json` is written last: where it stands, everything that it speaks of is there and whole. It holds a digest of
each exported file, so that one that changed afterwards is noticed when it is loaded.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdutils.core.files import exclusive, make_folder, read_json, write_json
from kdutils.core.machine import threads
from kdutils.core.processes import main_process, processes
from kdutils.data.tokens import save_tokenizer
from kdutils.models import build
from kdutils.training.checkpoints import (
    check_weights,
    clear_run,
    load_weights,
    save_weights,
    seeded,
    weights_digest,
    writing,
)
from kdutils.training.loop import Fitted, Recipe, fit
from kdutils.training.method import BatchPlan, Method


def result(folder: Path) -> dict[str, Any] | None:
    """What was kept in a folder, or None where nothing is finished."""
    file = folder / "result.json"
    return read_json(file) if file.exists() else None


def once(folder: Path, make: Callable[[], None], what: str, until: float | None = None) -> None:
    """Calls `make`, which finishes the folder, unless it is finished; one who comes while another is at it waits.

    what: for the message of those who wait, "the teacher"; until: the time.monotonic() moment up to which they do.
    """
    if _is_missing(folder):
        patience = math.inf if until is None else until - time.monotonic()
        wait = {"wait": patience, "note": f"Waiting for {what}, which another run trains"}
        with exclusive(folder, **wait) if main_process() else contextlib.nullcontext():
            if _is_missing(folder):  # else another run has trained it meanwhile
                make()


def _is_missing(folder: Path) -> bool:
    """Whether the first process finds nothing finished there; all processes must do the same thing next."""
    return broadcast_object_list([result(folder) is None])[0]


def train(
    model: nn.Module, method: Method, batches: BatchPlan, recipe: Recipe, folder: Path, *, seed: int, cores: int = 0,
    **options: Any,
) -> Fitted:  # fmt: skip
    """`fit` in a folder, from a random state that the seed alone decides, on so many CPU cores (0: all)."""
    with seeded(seed), threads(cores):
        return fit(model, method, batches, recipe, folder=folder, **options)


def export(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    beside: Mapping[str, nn.Module] | None = None,
) -> None:
    """Writes the model and its tokenizer to `folder / "model"`, as plain transformers load them.

    Their `pipeline(..., truncation=True)` and `generate()` know the model's length from it. beside: networks that were
    trained with it; their weights go to `folder / "beside"`.
    """
    if main_process():
        longest = getattr(model.config, "max_position_embeddings", 0)
        if model.can_generate() and longest:
            model.generation_config.max_new_tokens = longest - 1  # else `generate()` stops after 20 tokens
        with writing(folder), build.quiet():
            model.save_pretrained(folder / "model")
        save_tokenizer(tokenizer, folder / "model", longest)
        shutil.rmtree(folder / "beside", ignore_errors=True)  # half-written files of a process that was killed
        for name, network in (beside or {}).items():
            save_weights(network, make_folder(folder / "beside") / f"{name}.safetensors")
    processes().wait_for_everyone()


def keep(folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes the result, after everything that it speaks of, and then drops what only the training needed."""
    if main_process():
        write_json(folder / "result.json", {**facts, "weights": weights_digest(folder, "model", "beside")})
        clear_run(folder)
    processes().wait_for_everyone()


def load(folder: Path, kind: str) -> PreTrainedModel:
    """The model that was exported to a finished folder, in evaluation mode, as plain transformers load it.

    Raises UserError when its weights are not those that were trained.
    """
    check_weights(folder, (result(folder) or {}).get("weights") or {})
    if main_process():
        clear_run(folder)  # what was left by a process that was killed before it came to that
    return build.pretrained(str(folder / "model"), kind).eval()


def load_beside(folder: Path, networks: Mapping[str, nn.Module]) -> None:
    """Puts the weights of the networks that were exported beside a model into `networks`, which have their shapes."""
    check_weights(folder, (result(folder) or {}).get("weights") or {})
    for name, network in networks.items():
        load_weights(network.eval(), folder / "beside" / f"{name}.safetensors")
