"""Snapshots of a network's past: any number of frozen copies, of which one at a time takes room on the device.

>>> copies = FrozenCopies()
>>> copies.keep("epoch 1", model)
>>> network = copies.network("epoch 1", model)                    # on the device, in evaluation mode
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from kdutils.core.machine import device


class FrozenCopies:
    """Weights of a network at several moments, by name, in half precision in the main memory.

    One network on the device, made when the first is needed, takes the weights of whoever is asked for, so any number
    of copies costs the memory of one there. It computes in half precision on a GPU and in float32 elsewhere, in
    evaluation mode, and has no gradient.
    """

    def __init__(self) -> None:
        self.weights: dict[str, dict[str, Tensor]] = {}
        self.seat: nn.Module | None = None
        self.seated = ""

    @torch.no_grad()
    def keep(self, name: str, model: nn.Module) -> None:
        """Copies the model's weights under a name, tied ones once."""
        halves = {key: one.detach().to("cpu", torch.float16, copy=True) for key, one in model.named_parameters()}
        self.weights[name] = _pinned(halves, next(model.parameters()).is_cuda)
        self.seated = "" if self.seated == name else self.seated

    def keep_only(self, names: Iterable[str]) -> None:
        """Forgets all other copies."""
        wanted = set(names)
        self.weights = {name: weights for name, weights in self.weights.items() if name in wanted}

    @torch.no_grad()
    def network(self, name: str, like: nn.Module) -> nn.Module:
        """The network on the device with these weights; `like` shows its shape. The next call changes it."""
        if self.seat is None:
            plain = like.module if hasattr(like, "module") else like  # under data parallelism
            self.seat = copy.deepcopy(plain).eval().requires_grad_(False)
            if next(plain.parameters()).is_cuda:
                self.seat.half()
        if self.seated != name:
            for key, parameter in self.seat.named_parameters():
                parameter.copy_(self.weights[name][key], non_blocking=True)
            self.seated = name
        return self.seat

    def megabytes(self) -> dict[str, float]:
        """What the copies take in the main memory, and the network on the device."""
        host = sum(one.nbytes for weights in self.weights.values() for one in weights.values())
        device = sum(one.nbytes for one in self.seat.parameters()) if self.seat is not None else 0
        return {"host": host / 2**20, "device": device / 2**20}

    def state(self) -> dict[str, Any]:
        return self.weights

    def restore(self, state: dict[str, Any]) -> None:
        on_gpu = device().type == "cuda"
        self.weights, self.seated = {name: _pinned(weights, on_gpu) for name, weights in state.items()}, ""


def _pinned(weights: dict[str, Tensor], on_gpu: bool) -> dict[str, Tensor]:
    """The same tensors where a GPU can fetch them by itself, if it will."""
    return {key: one.pin_memory() if on_gpu else one for key, one in weights.items()}
