"""A network's earlier selves: the last K parameter sets that are older than the present one, and their exact mean.

>>> window = Window(model, size=5)
>>> window.push(model)                     # after every update
>>> window.average_into(teacher)           # a `Flat` of the same shapes
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from kdutils.core.errors import UserError


class Flat:
    """All parameters of a network behind one another in a single tensor, `copies` times: (P,), or (copies, P).

    One kernel reads or writes them all. `views` are the parameters, by name, on the same memory.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, copies: int = 0) -> None:
        parameters = dict(model.named_parameters())  # tied ones once
        one = next(iter(parameters.values()))
        sizes = [parameter.numel() for parameter in parameters.values()]
        self.data = one.new_zeros((copies, sum(sizes)) if copies else (sum(sizes),))
        pieces = self.data.split(sizes, dim=-1)
        self.views = {
            name: piece.view((*self.data.shape[:-1], *parameter.shape))
            for (name, parameter), piece in zip(parameters.items(), pieces, strict=True)
        }

    @torch.no_grad()
    def take(self, model: nn.Module) -> None:
        """Copies the network's parameters in."""
        torch._foreach_copy_([*self.views.values()], [p.detach() for p in model.parameters()])


class Mean:
    """The mean of parameter sets that come and go, from a sum that forgets none of their digits.

    The sum is held in float64, where sums of a few thousand float32 numbers of similar size have no rounding at all:
    what leaves it takes away exactly what it brought, so that nothing builds up however long a run is. A new set costs
    the same whatever the number of sets.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        place = "cpu" if device.type == "mps" else device  # Apple's GPU has no float64
        self.total, self.count = torch.zeros(size, dtype=torch.float64, device=place), 0

    def add(self, flat: Tensor) -> None:
        for total, one in _pieces(self.total, flat):
            total += one.to(total.device)
        self.count += 1

    def remove(self, flat: Tensor) -> None:
        for total, one in _pieces(self.total, flat):
            total -= one.to(total.device)
        self.count -= 1

    def write(self, flat: Tensor) -> None:
        """The mean, rounded once."""
        for total, one in _pieces(self.total, flat):
            one.copy_(total / self.count)


def _pieces(total: Tensor, flat: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both in pieces that a CPU's cache holds, where a sum of two types is made in another copy; on a GPU in one."""
    size = 2**17 if flat.device.type == "cpu" else max(flat.numel(), 1)
    return zip(total.split(size), flat.split(size), strict=True)


class Window:
    """Eq. (6): theta_{t-1} to theta_{t-K}, where theta_t is the network that is trained now; strictly older ones.

    size: K; 0 for all of them, K = T - 1, of which only the mean is held. Before there are K, those that exist count,
    the starting point among them; before the first update there is none. Memory: K + 1 sets (of one size 0), and a sum
    in float64 where there is more than one to add up. Raises UserError for a negative size.
    """

    def __init__(self, model: nn.Module, size: int, averaged: bool = True) -> None:
        if size < 0:
            raise UserError(f"A window of {size} earlier selves makes no sense: choose at least 1, or 0 for all.")
        self.size, self.pushed = size, 0
        self.present = Flat(model)  # theta_t: the next to grow old
        self.present.take(model)
        self.older = Flat(model, size) if size else None
        elements = self.present.data.numel()
        self.mean = Mean(elements, self.present.data.device) if averaged and size != 1 else None

    def __len__(self) -> int:
        """How many earlier selves there are in it."""
        return min(self.pushed, self.size or self.pushed)

    @torch.no_grad()
    def push(self, model: nn.Module) -> None:
        """After an update: the network has become another, and what it was joins the window, its oldest leaves."""
        if self.older is not None:
            slot = self.older.data[self.pushed % self.size]
            if self.mean and self.pushed >= self.size:
                self.mean.remove(slot)
            slot.copy_(self.present.data)
        if self.mean:
            self.mean.add(self.present.data)
        self.pushed += 1
        self.present.take(model)

    @torch.no_grad()
    def average_into(self, flat: Flat) -> None:
        """Writes the mean of the earlier selves, of which there must be one."""
        if self.mean:
            self.mean.write(flat.data)
        else:
            flat.data.copy_(self.older.data[: len(self)].mean(0) if len(self) > 1 else self.older.data[0])

    def stacked(self) -> dict[str, Tensor]:
        """The parameters of all earlier selves in the window, (K, ...) each, by name; not in the order of their age."""
        return {name: view[: len(self)] for name, view in self.older.views.items()}

    def sets(self) -> Iterator[Tensor]:
        """The parameter sets (P,) in the window, from the oldest to the youngest."""
        first = self.pushed - len(self)
        return (self.older.data[number % self.size] for number in range(first, self.pushed))

    def bytes(self) -> int:
        """What the window takes in memory."""
        held = [self.present.data, self.older and self.older.data, self.mean and self.mean.total]
        return sum(one.nbytes for one in held if isinstance(one, Tensor))

    def state(self) -> dict[str, Any]:
        mean = {"total": self.mean.total, "count": self.mean.count} if self.mean else {}
        older = {"older": self.older.data} if self.older else {}
        return {"pushed": self.pushed, "present": self.present.data, **older, **mean}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        self.pushed = state["pushed"]
        self.present.data.copy_(state["present"])
        if self.older:
            self.older.data.copy_(state["older"])
        if self.mean:
            self.mean.total.copy_(state["total"])
            self.mean.count = state["count"]
