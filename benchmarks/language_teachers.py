"""What language teachers cost as the languages grow in number: time of a step, memory on the device and beside it.

    python benchmarks/language_teachers.py                 # prints a table, writes benchmarks/lssd-teachers-cpu.json
    python benchmarks/language_teachers.py --width 512 --layers 6 --tokens 8192

Every language has a teacher of its own (the dearest case: none shares a copy), and the batches take the languages in
turn, so each step fetches another teacher's weights. Plain and distilling steps alternate in one process; the median of
their ratios is reported with its quartiles. Memory is counted from the tensors: the copies in the main memory, the one
network on the device, and what keeping all teachers on the device in the student's precision would take.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from pathlib import Path
from typing import Any

import torch
from step_cost import SHAPE, add_shape, random_batch, ratio, shape_of, update

from kdutils.core import machine
from kdutils.core.files import write_json
from kdutils.models import build
from kdutils.papers.lssd.method import LSSD
from kdutils.training.method import Method, Step

HERE, LANGUAGES = Path(__file__).parent, (1, 2, 4, 8, 16)


def main() -> None:
    options = arguments()
    rows = [measure(count, options) for count in LANGUAGES]
    print(f"{'languages':>10}{'time':>8}{'quartiles':>16}{'copies, MB':>12}{'device, MB':>12}{'all there, MB':>15}")
    for row in rows:
        low, high = row["time_quartiles"]
        quartiles = f"{low:.2f} to {high:.2f}"
        print(f"{row['languages']:>10}{row['time']:>8.2f}{quartiles:>16}{row['copies_mb']:>12.1f}"
              f"{row['device_mb']:>12.1f}{row['all_on_device_mb']:>15.1f}")  # fmt: skip
    device = machine.device_name().split(",")[0].replace(" ", "-").lower()
    shape = {name: getattr(options, name) for name in SHAPE}
    record = {"shape": shape, "precision": machine.choose_precision(width=options.width)[1], "rows": rows}
    write_json(HERE / f"lssd-teachers-{device}.json", {**record, "provenance": machine.provenance()})


def measure(count: int, options: argparse.Namespace) -> dict[str, Any]:
    """The cost with so many languages, each of which has a teacher of its own."""
    torch.manual_seed(0)
    device = machine.device()
    languages = [f"language {number}" for number in range(count)]
    model = build.translation_model(options.vocabulary, **shape_of(options, options.layers)).to(device).train()
    batch = {name: tensor.to(device) for name, tensor in random_batch("translation", options).items()}
    taught, turn = LSSD(languages, alpha=2.0, kind="adaptive", level="sentence"), itertools.cycle(languages)
    taught.attach(model)
    for epoch in range(count + 2):  # language i is best in epoch i + 1, the first in the first
        scores = {f"smoothed_loss_{one}": float(epoch != number) for number, one in enumerate(languages)}
        taught.after_evaluation(model, scores, Step(1, 1, epoch, logged=False))
    steppers = [stepper(model, batch, method, turn, options) for method in (Method(0.1, "others"), taught)]
    ratios, seconds = ratio(*steppers, options.repeats)
    quartiles, memory = statistics.quantiles(ratios, n=4), taught.copies.megabytes()
    whole = sum(parameter.nbytes for parameter in model.parameters()) / 2**20
    return {
        "languages": count, "time": statistics.median(ratios), "time_quartiles": [quartiles[0], quartiles[2]],
        "plain_ms": 1000 * seconds, "copies": len(taught.copies.weights), "copies_mb": memory["host"],
        "device_mb": memory["device"], "all_on_device_mb": count * whole,
    }  # fmt: skip


def stepper(
    model: torch.nn.Module, batch: dict[str, Any], method: Method, turn: itertools.cycle, options: argparse.Namespace
):
    """A function that takes one training step, on a batch of the next language."""
    take = update([model], options)

    def loss() -> torch.Tensor:
        one = {**batch, "language": next(turn)}
        return method.loss(model, one, method.count(one), Step(1, 1, 0, logged=False))["loss"]

    return lambda: take(loss)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
