"""The processes of a launch: how many train together, which of them writes, and what each takes of a batch.

>>> if main_process():
...     write_json("result.json", result)
"""

from __future__ import annotations

import os

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor

from kdutils.core.errors import UserError

# What accelerate reads behind the back of the settings, and what leaves the training as it is
HARMLESS = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    "ACCELERATE_DYNAMO_BACKEND": "no",
    "ACCELERATE_USE_DEEPSPEED": "false",
    "ACCELERATE_USE_FSDP": "false",
    "ACCELERATE_USE_MEGATRON_LM": "false",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "false",
}
SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")  # as the launchers call it


def processes() -> PartialState:
    """What accelerate found: `num_processes` that train together, `process_index`, `is_main_process`, `device`.

    Raises UserError where a variable of accelerate would change the training, and where a launch asked for several
    processes that would each train the whole by itself, into one folder.
    """
    for name, harmless in HARMLESS.items():
        if os.environ.get(name, harmless).lower() != harmless:
            raise UserError(
                f"{name} is {os.environ[name]}, which would change the training unseen by its settings: unset it."
            )
    try:
        state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    except (ValueError, RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"The processes of this launch cannot train together ({reason}).") from error
    asked = [os.environ[name] for name in SIZES if name in os.environ]
    if asked and str(state.num_processes) not in asked:
        raise UserError(
            f"The launch asked for {asked[0]} processes, but each would train the whole by itself: on CPUs set "
            "ACCELERATE_USE_CPU=1, on GPUs launch at most one process for each."
        )
    return state


def main_process() -> bool:
    """Whether this process writes the results: the first of those that train together, or the only one."""
    return processes().is_main_process


def share(batch: dict[str, Tensor], rank: int, world: int) -> tuple[dict[str, Tensor], int]:
    """The rows rank, rank + world, ... of a batch of `kdutils.data.batches`, and 1; where there is none, one and 0.

    Whoever is left without a row must pass the model all the same, because the processes average their gradients; the
    0 is what its loss then counts. Tensors of B rows are cut, those of one row a token follow; others stay whole.
    """
    rows = len(batch["input_ids"])
    kept = torch.arange(rank, rows, world) if rank < rows else torch.zeros(1, dtype=torch.long)
    by_cell = [name for name in ("tokens", "positions") if name in batch]  # flat indices into B*T
    whole = {*by_cell, "target_words", *(["targets"] if by_cell else [])}
    by_row = (name for name, value in batch.items() if isinstance(value, Tensor) and value.shape[:1] == (rows,))
    mine = {**batch, **{name: batch[name][kept] for name in by_row if name not in whole}}
    for name in by_cell:
        row, column = batch[name] // batch["labels"].shape[1], batch[name] % batch["labels"].shape[1]
        place = torch.full((rows,), -1).scatter(0, kept, torch.arange(len(kept)))[row]  # of its row among those kept
        mine[name] = (place * batch["labels"].shape[1] + column)[place >= 0]
        if name == "positions":
            mine["targets"] = batch["targets"][place >= 0]
    if "asked" in batch:
        mine["asked"] = torch.searchsorted(mine["tokens"], mine["positions"]).tolist()
    return mine, int(rank < rows)
