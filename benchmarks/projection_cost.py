"""What the soft targets of a batch cost when all logits stand in memory, and when they come in slices.

    python benchmarks/projection_cost.py              # prints a table, writes benchmarks/distilbert-projection-cpu.json

Three ways to the same loss from the same hidden states of a padded batch, forward and backward: `all`, which projects
every position of student and teacher, padding included, and then selects; `slices`, `kdutils.losses.projection` over
the positions that are not padding; and `masked`, the same over the masked positions only (`restrict_to_mask`). Time is
the median; memory is the most that a process of its own held above what it held before (on a GPU: that tensors
took). The precision is that of training on this device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import step_cost
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdutils.core import machine
from kdutils.core.files import write_json
from kdutils.losses.projection import projected_losses

HERE = Path(__file__).parent
WAYS = ("all", "slices", "masked")
SHAPE = ("rows", "length", "width", "vocabulary")
TEMPERATURE, SOFT, HARD = 2.0, 5.0, 2.0


def main() -> None:
    options = arguments()
    if options.way:
        print(json.dumps(memory(options)))
        return
    rows = [{"way": way, "ms": seconds(way, options) * 1000, "mb": peak(way, options)} for way in WAYS]
    for row in rows:
        print(f"{row['way']:8}{row['ms']:10.0f} ms{row['mb']:10.0f} MB")
    device = machine.device_name().split(",")[0].replace(" ", "-").lower()
    shape = {name: getattr(options, name) for name in SHAPE}
    record = {"shape": shape, "precision": machine.choose_precision(width=options.width)[1]}
    record |= {"real_tokens": int(make(options)[0].sum()), "rows": rows}
    write_json(HERE / f"distilbert-projection-{device}.json", {**record, "provenance": machine.provenance()})


def make(options: argparse.Namespace) -> tuple[Tensor, ...]:
    """A mask with a quarter of padding, targets at 15 % of the rest, hidden states and heads of both models."""
    torch.manual_seed(0)
    device = machine.device()
    lengths = torch.linspace(options.length / 2, options.length, options.rows).round()
    mask = torch.arange(options.length)[None] < lengths[:, None]
    targets = torch.randint(options.vocabulary, mask.shape)
    targets[~mask | (torch.rand(mask.shape) > 0.15)] = -100
    hidden = [torch.randn(*mask.shape, options.width, device=device) for _ in range(2)]
    heads = [nn.Linear(options.width, options.vocabulary, device=device) for _ in range(2)]
    return mask.to(device), targets.to(device), *hidden, *heads


def stepper(way: str, options: argparse.Namespace) -> Callable[[], None]:
    mask, targets, ours, theirs, head, teacher_head = make(options)
    ours.requires_grad_()
    teacher_head.requires_grad_(False)

    def everything() -> Tensor:
        with torch.no_grad():
            teacher = teacher_head(theirs)
        logits = head(ours)
        student, teacher = logits[mask], teacher[mask]
        soft = F.kl_div(
            F.log_softmax(student / TEMPERATURE, -1), F.softmax(teacher / TEMPERATURE, -1), reduction="batchmean"
        )
        hard = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return SOFT * TEMPERATURE**2 * soft + HARD * hard

    def slices(where: Tensor) -> Callable[[], Tensor]:
        places = where.flatten().nonzero()[:, 0]  # a batch tells them, and what is asked
        wanted = targets.flatten()[places]
        asked = (wanted >= 0).nonzero()[:, 0].tolist()
        weights = {"soft": SOFT / len(places), "hard": HARD / len(asked), "temperature": TEMPERATURE, "asked": asked}

        def loss() -> Tensor:
            hidden, their_hidden = (one.flatten(0, 1)[places] for one in (ours, theirs))
            return projected_losses(hidden, head, their_hidden, teacher_head, wanted, **weights)[0]

        return loss

    loss = everything if way == "all" else slices(mask if way == "slices" else targets >= 0)
    accelerate = step_cost.accelerator(options)

    def step() -> None:
        with accelerate.autocast():
            accelerate.backward(loss())
        head.zero_grad()
        ours.grad = None
        if mask.device.type == "cuda":
            torch.cuda.synchronize()

    return step


def seconds(way: str, options: argparse.Namespace) -> float:
    step = stepper(way, options)
    return statistics.median([step_cost.timed(step) for _ in range(options.repeats + 1)][1:])


def peak(way: str, options: argparse.Namespace) -> float:
    """Megabytes that the step needs, measured in a fresh process."""
    command = [sys.executable, __file__, "--way", way]
    command += [text for name in SHAPE for text in (f"--{name}", str(getattr(options, name)))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def memory(options: argparse.Namespace) -> float:
    return step_cost.above(stepper(options.way, options), 1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocabulary", type=int, default=30522)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--way", default="", help=argparse.SUPPRESS)  # set in the processes that measure memory
    return parser.parse_args()


if __name__ == "__main__":
    main()
