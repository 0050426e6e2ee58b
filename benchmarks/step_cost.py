"""What a training step of a method costs, as a multiple of the plain step measured in the same run.

    python benchmarks/step_cost.py r_drop                 # prints a table, writes benchmarks/r_drop.json
    python benchmarks/step_cost.py r_drop --width 512 --layers 6 --vocabulary 10000 --tokens 4096
    python benchmarks/step_cost.py intra_distillation --set passes_form=recomputed

A step is: loss, backward, optimiser, those of networks trained beside the model included, in the precision that
training has on this device. The floor is the method's `passes`: forward-and-backward passes over the batch. DistilBERT
is counted in the measured shape (`masked_lm_floor`), since the plain step projects 15 % of the positions onto
the vocabulary and a distilling one all of them, for the student and for the teacher. Plain and method steps alternate,
so that a slow moment of the machine hits both; the median of the ratios is reported with its quartiles. Memory is the
most that a process of its own held above what it held before its first step (on a GPU: that tensors took; elsewhere
this needs Linux), and what the method itself holds, such as a network's earlier selves.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import DistilBertForMaskedLM

from kdutils import runner
from kdutils.core import machine
from kdutils.core.files import write_json
from kdutils.core.settings import Settings, parse_assignments
from kdutils.data.batches import collate_classification, collate_translation
from kdutils.models import build
from kdutils.papers.cbbgca.cmlm import CMLM
from kdutils.papers.cbbgca.method import CBBGCA
from kdutils.papers.distilbert.student import student_config
from kdutils.papers.tutor_kd import student as tutored
from kdutils.papers.tutor_kd.method import TutorKD
from kdutils.study.experiment import Experiment, plain
from kdutils.training.method import Method, SquaredError, Step

HERE = Path(__file__).parent
PLAIN = "plain"  # what all arms are measured against


def main() -> None:
    options = arguments()
    paper = runner.load(options.paper)
    if options.arm:
        print(json.dumps(memory(paper, options)))
        return
    rows = [row for experiment in paper.EXPERIMENTS for row in measure(experiment, options)]
    show(rows)
    device = machine.device_name().split(",")[0].replace(" ", "-").lower()
    shape = {name: getattr(options, name) for name in SHAPE}
    record = {"shape": shape, "precision": machine.choose_precision(width=options.width)[1], "rows": rows}
    label = "-".join([options.paper, *parse_assignments(options.set).values(), device])
    write_json(HERE / f"{label}.json", {**record, "provenance": machine.provenance()})


def measure(experiment: Experiment, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each arm with a method of its own, against the plain one; of the paper's own and its variants one."""
    settings = settings_of(experiment, options)
    kept = {arm.name: arm.method(settings) for arm in experiment.arms}
    if experiment.paper in kept:  # the others of its class are variants of it
        first = {type(method): name for name, method in reversed(kept.items())}
        first[type(kept[experiment.paper])] = experiment.paper
        kept = {name: kept[name] for name in first.values()}
    methods = {name: method for name, method in kept.items() if type(method) not in (Method, SquaredError)}
    plain_memory, rows = peak(experiment, PLAIN, options), []
    for name, method in methods.items():
        steppers = [stepper(experiment, one, options) for one in (method_of(experiment, PLAIN, settings), method)]
        ratios, seconds = ratio(*steppers, options.repeats)
        quartiles = statistics.quantiles(ratios, n=4)
        rows.append(
            {
                "task": experiment.name,
                "method": name,
                "floor": masked_lm_floor(options) if experiment.paper == "distilbert" else method.passes,
                "plain_ms": 1000 * seconds,
                "time": statistics.median(ratios),
                "time_quartiles": [quartiles[0], quartiles[2]],
                "memory": peak(experiment, name, options) / plain_memory,
                "plain_mb": plain_memory,
            }  # fmt: skip
        )
    return rows


def settings_of(experiment: Experiment, options: argparse.Namespace) -> Settings:
    """Those of the demo with what was changed; of Tutor-KD in the measured shape too, for its `passes` count it."""
    settings = experiment.settings.resolve("demo", parse_assignments(options.set))
    if experiment.paper != "tutor_kd":
        return settings
    shape = {**shape_of(options, 2 * options.layers), "vocab_size": options.vocabulary, "mask_probability": 0.15}
    return settings.changed(model="", student_layers=options.layers, **shape)


def method_of(experiment: Experiment, name: str, settings: Settings) -> Method:
    """The method of an arm; the plain one is the baseline's, without the ensemble that some have beside it."""
    method = experiment.arm("baseline" if name == PLAIN else name).method(settings)
    return method if name != PLAIN or type(method) in (Method, SquaredError) else plain(settings)


def stepper(experiment: Experiment, method: Method, options: argparse.Namespace) -> Callable[[], None]:
    """A function that takes one training step on a fixed batch of random tokens."""
    torch.manual_seed(0)
    device = machine.device()
    kind = experiment.task.kind
    model = make_model(kind, options)
    if kind == "masked_lm":
        teacher = build.masked_lm(options.vocabulary, **shape_of(options, 2 * options.layers))
        method.teacher = teacher.to(device).eval().requires_grad_(False)
        if experiment.paper == "tutor_kd":
            judges = isinstance(method, TutorKD) and method.logits == "modified"
            make = tutored.judging_student if judges else tutored.predicting_student
            model = make(tutored.student_config(teacher.config, options.layers), seed=0)
    model = model.to(device).train()
    if isinstance(method, CBBGCA):  # untrained, so that every word is selected: the most that its teacher is asked for
        method.teacher = CMLM(make_model(kind, options)).to(device).eval().requires_grad_(False)
    batch = random_batch(kind, options)
    scores, languages = defaultdict(float), experiment.settings.resolve("demo").get("languages")
    if languages:
        scores.update({f"smoothed_loss_{language}": 0.0 for language in languages})
        batch |= {"language": languages[0], "target_words": torch.ones(options.vocabulary, dtype=torch.bool)}
    batch = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    method.attach(model)
    for _ in range(3):  # of one quality: who teaches after evaluations that bring nothing new, teaches now
        method.after_evaluation(model, scores, Step(1, 1, 0, logged=False))
    late = Step(100, 100, 0, logged=False)  # a weight that grows over the updates is at its height
    for _ in range(round(3 * method.passes)):  # who is taught by earlier selves has one for each forward pass
        method.after_update(model, late)
    take = update((model, *method.modules().values()), options, lambda: method.after_update(model, late))
    return lambda: take(lambda: method.loss(model, batch, method.count(batch), late)["loss"])


def accelerator(options: argparse.Namespace) -> Accelerator:
    """Autocast and loss scale, as training has them on this device for a model of this width."""
    return Accelerator(mixed_precision=machine.choose_precision(width=options.width)[0])


def update(
    modules: Iterable[torch.nn.Module], options: argparse.Namespace, after: Callable[[], None] = lambda: None
) -> Callable[[Callable[[], torch.Tensor]], None]:
    """A function that takes one optimiser step of these networks by a loss that it is told how to compute."""
    shared = torch.nn.ModuleList(modules)  # each parameter once, where networks share some
    trained = [p for p in shared.parameters() if p.requires_grad]
    accelerate = accelerator(options)
    optimizer = accelerate.prepare(torch.optim.AdamW(trained, lr=1e-4, fused=True))

    def take(loss: Callable[[], torch.Tensor]) -> None:
        with accelerate.autocast():
            accelerate.backward(loss())
        optimizer.step()
        optimizer.zero_grad()
        after()
        if machine.device().type == "cuda":
            torch.cuda.synchronize()

    return take


def shape_of(options: argparse.Namespace, layers: int) -> dict[str, int]:
    return {"width": options.width, "layers": layers, "heads": options.heads, "feedforward": 4 * options.width}


def make_model(kind: str, options: argparse.Namespace) -> torch.nn.Module:
    """An untrained model; for masked LM the student, a DistilBERT under a teacher of twice as many layers."""
    shape = shape_of(options, options.layers)
    if kind == "translation":
        return build.translation_model(options.vocabulary, **shape)
    if kind == "classification":
        return build.classifier(options.vocabulary, ("negative", "positive"), **shape)
    teacher = build.masked_lm(options.vocabulary, **shape).config
    return DistilBertForMaskedLM(student_config(teacher, options.layers))


def masked_lm_floor(options: argparse.Namespace) -> float:
    """Matrix products of a distilling step over those of a plain one: student three times, teacher once.

    The plain step projects the 15 % of positions that are asked for, the other one every position of both models.
    """
    layer = 12 * options.width**2  # of the encoder: attention and a feed-forward of four times the width
    student, teacher = options.layers * layer, 2 * options.layers * layer
    head = options.vocabulary * options.width
    return (3 * (student + head) + teacher + head) / (3 * (student + 0.15 * head))


def random_batch(kind: str, options: argparse.Namespace) -> dict[str, torch.Tensor]:
    length, rows = 32, max(1, options.tokens // 32)
    ids = torch.randint(5, options.vocabulary, (2, rows, length)).tolist()
    if kind == "translation":
        return collate_translation()([{"source": s, "target": t} for s, t in zip(*ids, strict=True)])
    if kind == "classification":
        return collate_classification()([{"input_ids": s, "label": i % 2} for i, s in enumerate(ids[0])])
    inputs = torch.tensor(ids[0])
    positions = torch.randperm(inputs.numel())[: round(0.15 * inputs.numel())].sort().values
    targets = inputs.flatten()[positions]
    labels = torch.full_like(inputs, -100).flatten().index_put((positions,), targets).reshape(inputs.shape)
    shared = {"input_ids": inputs, "attention_mask": torch.ones_like(inputs), "labels": labels}
    told = {"tokens": torch.arange(inputs.numel()), "asked": positions.tolist()}
    return {**shared, "positions": positions, "targets": targets, **told}


def ratio(plain: Callable[[], None], method: Callable[[], None], repeats: int) -> tuple[list[float], float]:
    """Method over plain, pair by pair, after a warm-up; and the median plain step in seconds."""
    pairs = [(timed(plain), timed(method)) for _ in range(repeats + 2)][2:]
    return [b / a for a, b in pairs], statistics.median(a for a, _ in pairs)


def timed(step: Callable[[], None]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def peak(experiment: Experiment, arm: str, options: argparse.Namespace) -> float:
    """Megabytes that the steps of an arm need, measured in a fresh process."""
    command = [sys.executable, __file__, options.paper, "--arm", arm, "--task", experiment.name]
    command += [text for name in SHAPE for text in (f"--{name}", str(getattr(options, name)))]
    command += ["--set", *options.set]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def memory(paper: Any, options: argparse.Namespace) -> float:
    experiment = next(e for e in paper.EXPERIMENTS if e.name == options.task)
    method = method_of(experiment, options.arm, settings_of(experiment, options))
    return above(stepper(experiment, method, options), 3) + method.held_bytes() / 2**20


def above(step: Callable[[], None], times: int) -> float:
    """Megabytes that so many steps hold at most, above what is held before the first."""
    on_gpu = machine.device().type == "cuda"
    if on_gpu:
        machine.reset_peak_memory()
        before = torch.cuda.memory_allocated() / 2**20
    else:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts anew
        before = resident("VmRSS")
    for _ in range(times):
        step()
    return (machine.peak_memory_mb() if on_gpu else resident("VmHWM")) - before


def resident(name: str) -> float:
    """A line of the process's memory accounts, in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'task':16}{'method':10}{'floor':>7}{'time':>8}{'quartiles':>16}{'memory':>9}{'plain step':>22}")
    for row in rows:
        low, high = row["time_quartiles"]
        plain = f"{row['plain_ms']:.0f} ms, {row['plain_mb']:.0f} MB"
        quartiles = f"{low:.2f} to {high:.2f}"
        print(
            f"{row['task']:16}{row['method']:10}{row['floor']:7.2f}{row['time']:8.2f}{quartiles:>16}"
            f"{row['memory']:9.2f}{plain:>22}"
        )


SHAPE = ("width", "layers", "heads", "vocabulary", "tokens")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paper")
    add_shape(parser)
    parser.add_argument("--set", nargs="*", default=[], help="settings, such as passes_form=recomputed")
    parser.add_argument("--arm", default="", help=argparse.SUPPRESS)  # set in the processes that measure memory
    parser.add_argument("--task", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def add_shape(parser: argparse.ArgumentParser) -> None:
    """The options of all benchmarks of steps: the size of the model and of the batch, and how often to measure."""
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--tokens", type=int, default=1024, help="of a batch, on each side")
    parser.add_argument("--repeats", type=int, default=15)


if __name__ == "__main__":
    main()
