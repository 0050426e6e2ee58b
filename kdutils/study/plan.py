"""What an experiment costs, counted before anything is trained: work, memory, and minutes on several machines.

>>> plan = planned(EXPERIMENTS[0], settings, seeds=3)
>>> plan.minutes("T4")                                    # of all seeds together
31.2
>>> pandas.DataFrame(plan.table())                        # an arm a row; plan.assumptions are sentences

Every arm takes one real training step, one evaluation and one test with its own method, on a real model of the right
shape with random weights, but on a few rows that stand for all: what is counted there is scaled to the rows of the
data. Nothing is fetched: sizes of data and models of the hub, and rates of GPUs, are those of `plan.json`.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, GenerationConfig

from kdutils.core.errors import UserError
from kdutils.core.machine import threads
from kdutils.core.settings import Settings
from kdutils.data import batches as b
from kdutils.data.corpora import CARVED_MOST, CARVED_SHARE, ORDER, Corpus
from kdutils.data.readers import ROW_MEMORY
from kdutils.models import build
from kdutils.models.forward import mode
from kdutils.study import exams
from kdutils.study.experiment import Arm, Experiment, Trial, plain
from kdutils.tasks.base import Task
from kdutils.tasks.scores import GREEDY_TOKENS, SEARCHED, _special_ids
from kdutils.training.loop import evaluation_context
from kdutils.training.method import Method, Step

# --- what is taken for granted ---------------------------------------------------------------------------------------

FACTS = json.loads(Path(__file__).with_name("plan.json").read_text("utf-8"))
GPUS = FACTS["gpus"]
ASSUMED = {name: one["value"] for name, one in FACTS["assumed"].items()}
UNTRAINED = "untrained"  # the name of a teacher that would be trained first

# --- counting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What a computation takes: floating-point operations, operations started, seconds here, bytes of the optimiser."""

    flops: float = 0.0
    launches: float = 0.0
    seconds: float = 0.0
    traffic: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + z for a, z in zip(vars(self).values(), vars(other).values(), strict=True)))

    def times(self, cells: float, batches: float | None = None) -> Cost:
        """So many times the cells, in so many times the batches; by default in as many."""
        batches = cells if batches is None else batches
        return Cost(self.flops * cells, self.launches * batches, self.seconds * cells, self.traffic * batches)

    def minutes(self, machine: str, width: int) -> float:
        """Here, or on a GPU, where that counts which takes longer: to start the operations, or to compute them."""
        if machine == "here":
            return self.seconds / 60
        peak, bandwidth = GPUS[machine].values()
        share = ASSUMED["largest_share"] * width / (width + ASSUMED["balance"] * peak / bandwidth)
        return max(self.launches * ASSUMED["launch"], self.flops / (peak * share) + self.traffic / bandwidth) / 60


class _Launches(TorchDispatchMode):
    """Counts the operations that a GPU would have to be given; views are none."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


class Meter:
    """Counts what is computed while it runs, or takes the time; what stands for more is weighted."""

    def __init__(self) -> None:
        self.timing, self.read, self.extra = False, Cost, Cost()

    @contextlib.contextmanager
    def weighted(self, cells: float, batches: float) -> Iterator[None]:
        """What happens inside stands for so many times the cells, in so many batches."""
        before = self.read()
        yield
        self.extra += (self.read() + before.times(-1)).times(cells - 1, batches - 1)

    def cost(self, run: Callable[[], Any], timed: bool, context: contextlib.AbstractContextManager) -> Cost:
        """Runs it once and counts; then, if timed, once to warm up and three times against the clock, in a context.

        The quickest of the three counts, by the time that processors spent on it, for a machine may have other work.
        """
        with _Launches() as launches, FlopCounterMode(display=False) as flops, sdpa_kernel(SDPBackend.MATH):
            # by plain matrix products, for the counter overlooks the fused attention of a CPU
            found = self._during(run, lambda: Cost(flops.get_total_flops(), launches.count))
        if timed:
            self.timing, cores = True, torch.get_num_threads()
            with context:
                trials = [self._during(run, lambda: Cost(seconds=time.process_time() / cores)) for _ in range(4)]
            self.timing, found = False, found + min(trials[1:], key=lambda cost: cost.seconds)
        return found

    def _during(self, run: Callable[[], Any], read: Callable[[], Cost]) -> Cost:
        self.read, self.extra, before = read, Cost(), read()
        run()
        return read() + before.times(-1) + self.extra


# --- an outline of a task --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """Of a split: rows, batches of an epoch, their padded cells, and tokens, all of the longer sides."""

    rows: float
    batches: float
    cells: float
    tokens: float


class _Few:
    """The batches of a split: a small one that stands for the first of them, and again for all others."""

    def __init__(self, batch: b.Batch, meter: Meter, size: Size) -> None:
        self.one, self.meter, self.batches = batch, meter, size.batches
        sides = [batch[name] for name in ("input_ids", "decoder_input_ids") if name in batch]
        self.fuller = size.cells / size.batches / max(side.numel() for side in sides)  # is a true batch

    def __iter__(self) -> Iterator[b.Batch]:
        for batches in filter(None, (1, self.batches - 1)):
            with self.meter.weighted(self.fuller * batches, batches):
                yield self.one


class _Words:
    """What is asked of a tokenizer where there is no text."""

    pad_token_id, bos_token_id, eos_token_id, unk_token_id, mask_token_id = all_special_ids = [*range(5)]

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def convert_tokens_to_ids(self, tags: list[str]) -> list[int]:
        return [5] * len(tags)


class _Outline:
    """Mixed into a task: its model has random weights, a split is a few rows, and translations are only counted.

    config: of the model to build, where the settings do not say; tokenizer: one that is there already.
    """

    def __init__(self, settings: Settings, config: Any = None, tokenizer: Any = None) -> None:
        self.meter, self.decoded, self.notes, self.config, self.given = Meter(), 0, (), config, tokenizer
        # known: what was counted once for all alike
        self.settings, self.known, data = settings, {}, str(settings.data).removeprefix(ORDER)
        if data.startswith("demo") or Path(data.partition("{pair}")[0]).is_dir():
            started = time.process_time()
            super().__init__(settings)
            self.prepared = time.process_time() - started
            self.split_sizes = {split: self._size(split) for split in self.examples}
            self.text = sum(len(str(row)) + ROW_MEMORY for rows in self.corpus.splits.values() for row in rows)
            self.said = f"{data}: counted."
        else:
            self._assume(self._looked_up(), FACTS["models"].get(settings.get("model"), {}))
            ids = sum(size.tokens for size in self.split_sizes.values()) * (2 if self.kind == "translation" else 1)
            self.prepared = ids / ASSUMED["tokenised"]
        if self.kind == "masked_lm":  # a teacher that would be trained first has the shape of the settings
            self.settings = settings.changed(model=settings.model or UNTRAINED)
            started = time.process_time()
            for split in ("validation", "test"):
                self.truth(self.model(0), split)  # takes the grammar its time, once
            self.prepared += time.process_time() - started

    def _looked_up(self) -> dict[str, Any]:
        """Of a set of the hub: what is known of it; a split that is missing is made as `kdutils.data.corpora` does."""
        address = str(self.settings.data).removeprefix(ORDER).removeprefix("hub:").partition("@")[0]
        known = next((one for name, one in FACTS["data"].items() if address.startswith(name)), None)
        if known is None:
            some = ", ".join(FACTS["data"])
            raise UserError(f"The size of '{address}' is not known here: give a folder, or one of {some}.")
        self.said = f"{address}: {known['source']}."
        train, validation, test = known["rows"]
        carved = min(CARVED_MOST, int(train * CARVED_SHARE))
        whole = validation and test
        return known if whole else {**known, "rows": [train - carved, carved, test or validation or carved]}

    def _assume(self, known: dict[str, Any], shape: dict[str, int]) -> None:
        """A few rows of the mean length for each split, in place of data that are not at hand."""
        s, languages, (most, *held) = self.settings, self.settings.get("languages") or [""], known["rows"]
        asked = s.train_rows if isinstance(s.train_rows, list) else [s.train_rows]
        asked = asked * (len(languages) // len(asked))
        counts = {"train": s.get("epoch_rows") or sum(min(n or most, most) for n in asked)}
        counts |= {
            split: min(s[f"{split}_rows"] or n, n) * len(languages)
            for split, n in zip(("validation", "test"), held, strict=True)
        }
        words = shape.get("vocab_size") or getattr(self.config, "vocab_size", 0) or s.vocab_size
        self.tokenizer, self.text = _Words(words), (known["bytes"] + ROW_MEMORY) * max(counts["train"], most)
        self.examples, self.split_sizes, splits = {}, {}, {}
        for split, n in counts.items():
            length = known["tokens"][split != "train"]
            pieces = max(1.0, length / s.max_length + ASSUMED["part"]) if self.kind == "masked_lm" else 1.0
            length = max(4, round(min(length / pieces, s.max_length)))
            self.examples[split] = b.Examples([self._row(length, languages[0])] * min(n, 128))
            cells = n * pieces * length
            batches = n * pieces / s.batch_size if "batch_size" in s else cells / s.max_tokens
            self.split_sizes[split] = Size(n * pieces, math.ceil(batches), cells, cells)
            rows = [{"src": "a", "tgt": "a", "language": one} for one in languages] if split != "train" else []
            splits[split] = rows * (n // len(languages))
        labels = ("score",) if self.name == "regression" else ("0", "1")
        self.corpus = Corpus(str(s.data), self.kind, splits, labels, ("", ""))

    def _row(self, length: int, language: str) -> dict[str, Any]:
        ids = [5 + i % 16 for i in range(length)]
        if self.kind == "translation":
            return {"source": ids, "target": ids, **({"language": language} if language else {})}
        return {"input_ids": ids, **({"label": 0} if self.kind == "classification" else {})}

    def _size(self, split: str) -> Size:
        batches = self.training_batches(0) if split == "train" else super().fixed_batches(split)
        plan, lengths = batches.plan(0), batches.lengths
        cells = sum(len(rows) * max(lengths[i] for i in rows) for rows in plan)
        return Size(len(lengths), len(plan), cells, sum(lengths))

    def _tokenizer(self) -> Any:
        """The one of the task; for a model that is not at hand one that is trained here on the same texts."""
        name = build.located(self.settings.get("model") or self.settings.get("tokenizer") or "")
        if self.given or not (self.config or name and not Path(name).is_dir()):
            return self.given or super()._tokenizer()
        texts = (str(text) for row in self.corpus.splits["train"] for text in row.values())
        return b.train_tokenizer(texts, FACTS["models"]["bert-base-uncased"]["vocab_size"])

    def fixed_batches(self, split: str, rows: int | None = None, language: str = "") -> _Few:
        return self.few(split, self.collate(), rows)

    def few(self, split: str, collate: Any, rows: int | None = None) -> _Few:
        """The batches of a split, or of its first rows: one of mean lengths, as large as can be counted in seconds."""
        size, lengths = self.split_sizes[split], [max(one) for one in self.examples[split].lengths()]
        mean = sum(lengths) / len(lengths)
        near = sorted(range(len(lengths)), key=lambda i: abs(lengths[i] - mean))
        operations = ASSUMED["timed" if self.meter.timing else "counted"]
        cells = min(size.cells / size.batches, operations / 6 / build.parameter_count(self.model(0)))
        chosen = [self.examples[split][i] for i in near[: max(1, int(cells // mean))]]
        draws = (torch.Generator().manual_seed(0),) if self.kind == "masked_lm" else ()
        part = min(1.0, (rows or size.rows) / size.rows)
        share = Size(size.rows * part, max(1, round(size.batches * part)), size.cells * part, size.tokens * part)
        return _Few(collate(chosen, *draws), self.meter, share)

    def model(self, seed: int) -> nn.Module:
        """A model of the right shape with random weights, the same one whoever asks."""
        if "model" not in self.known:
            self.known["model"] = self._model()
        return self.known["model"]

    def _model(self) -> nn.Module:
        name = self.settings.get("model") or ""
        if self.config or Path(build.located(name) or UNTRAINED).is_dir():
            kind = AutoModelForMaskedLM if self.kind == "masked_lm" else AutoModelForSequenceClassification
            # trained in float32, whatever it is kept in
            return kind.from_config(self.config or build.load_config(name), dtype=torch.float32)
        if name not in ("", UNTRAINED, *FACTS["models"]):
            some = ", ".join(FACTS["models"])
            raise UserError(f"The shape of '{name}' is not known here: give its folder, or one of {some}.")
        if self.kind == "translation":
            return super()._model()
        known = {"vocab_size": len(self.tokenizer), **FACTS["models"].get(name, {})}
        shape = {**self._shape(), **known, "max_length": max(512, self.settings.max_length)}
        if self.kind == "masked_lm":
            return build.masked_lm(**shape)
        return build.classifier(labels=self.corpus.labels, **shape)

    def translate(self, model: nn.Module, texts: list[str], beams: int | None = None, language: str = "") -> list[str]:
        """Counts what the translations of texts would take, and returns the texts."""
        beams, sources = beams or self.settings.beams, [one[0] for one in self.examples["test"].lengths()]
        mean, timing = sum(sources) / len(sources), self.meter.timing
        together = max(1, int(GREEDY_TOKENS // mean)) if beams == 1 else SEARCHED
        rows = min(together, len(texts), 16 if timing else 2)
        self.decoded += len(texts) * (not timing)
        for tokens in {2, 10} if (beams, rows, timing, 10) not in self.known else ():  # one shape, one cost for all
            ids, options = torch.full((rows, round(mean)), 5), {"max_new_tokens": tokens, "min_new_tokens": tokens}
            config = GenerationConfig(num_beams=beams, do_sample=False, **options, **_special_ids(model))
            for _ in range(1 + timing):  # once to warm up
                before = self.meter.read()
                with self.meter.weighted(0, 0), mode(model, training=False), torch.no_grad():
                    model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
                self.known[beams, rows, timing, tokens] = self.meter.read() + before.times(-1)
        early, late = (self.known[beams, rows, timing, tokens] for tokens in (2, 10))
        steps = min(ASSUMED["slope"] * mean + ASSUMED["offset"], self.settings.max_length - 1)
        one = early + (late + early.times(-1)).times((steps - 2) / 8)
        self.meter.extra += one.times(len(texts) / rows, math.ceil(len(texts) / together) * ASSUMED["generated"])
        return texts


def _outline(task: type[Task], settings: Settings, config: Any = None, tokenizer: Any = None) -> Any:
    return type("Outline", (_Outline, task), {})(settings, config, tokenizer)


# --- the plan --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArmPlan:
    """One arm at one seed, in plain numbers; costs are of all updates, all evaluations, all tests."""

    name: str
    updates: int
    passes: float  # over the training data
    evaluations: int
    greedy: int  # validation sentences translated greedily, over all evaluations
    searched: int  # test sentences translated with the beams of the settings
    finetunings: float  # of the exams, each task and repetition one
    train: Cost
    look: Cost  # evaluations, tests, and an exam that trains nothing
    exams: Cost
    teachers: Cost  # those that are trained for this arm at every seed, without their evaluations
    gpu_gb: float  # weights, gradients, Adam's moments, what a batch keeps for its backward pass

    def minutes(self, machine: str, width: int) -> float:
        """Minutes of one seed."""
        return sum(part.minutes(machine, width) for part in (self.train, self.look, self.exams, self.teachers))


@dataclass(frozen=True)
class Plan:
    """An experiment under one preset, in plain numbers."""

    experiment: str
    preset: str
    seeds: int
    width: int
    arms: tuple[ArmPlan, ...]
    shared: Cost  # a teacher that is trained once, for all seeds
    main_gb: float
    preparing: float  # minutes until the data are tokenised, once a process
    assumptions: tuple[str, ...]

    @property
    def machines(self) -> list[str]:
        """The GPUs, and "here" where it was timed."""
        return [*GPUS, *(["here"] if any(arm.look.seconds for arm in self.arms) else [])]

    @property
    def gpu_gb(self) -> float:
        return max(arm.gpu_gb for arm in self.arms)

    def minutes(self, machine: str, seeds: int | None = None) -> float:
        """Minutes of so many seeds, by default of all that are planned, with what is done once."""
        a_seed = sum(arm.minutes(machine, self.width) for arm in self.arms)
        return self.preparing + self.shared.minutes(machine, self.width) + a_seed * (seeds or self.seeds)

    def table(self) -> list[dict[str, Any]]:
        """The arms as rows for a pandas.DataFrame: counts, gigabytes, minutes of one seed on each machine."""
        return [
            {
                "arm": arm.name, "updates": arm.updates, "passes": round(arm.passes, 1),
                "PFLOP": float(f"{(arm.train + arm.look + arm.exams + arm.teachers).flops / 1e15:.3g}"),
                "evaluations": arm.evaluations, "greedy": arm.greedy, "searched": arm.searched,
                "fine-tunings": round(arm.finetunings, 1), "GPU GB": round(arm.gpu_gb, 1),
                **{name: float(f"{arm.minutes(name, self.width):.3g}") for name in self.machines},
            }
            for arm in self.arms
        ]  # fmt: skip

    def text(self) -> str:
        """The table without what nobody does, the memory, and the totals in minutes."""
        import pandas as pd  # heavy, and needed here only

        table = pd.DataFrame(self.table()).set_index("arm")
        lines = [f"{self.experiment}, preset {self.preset}; minutes of one seed", table.loc[:, table.any()].to_string()]
        return "\n".join(
            [*lines, f"main memory {self.main_gb:.1f} GB, GPU memory {self.gpu_gb:.1f} GB", *totals([self])]
        )


def totals(plans: Sequence[Plan]) -> list[str]:
    """Two lines: what experiments take together for one seed, and for all of them, in minutes."""
    return [
        f"{words}, minutes: "
        + ", ".join(f"{name} {sum(one.minutes(name, seeds) for one in plans):.3g}" for name in plans[0].machines)
        for words, seeds in (("one seed", 1), (f"{plans[0].seeds} seeds", None))
    ]


def planned(
    experiment: Experiment, settings: Settings, seeds: int = 3, arms: Sequence[str] | None = None, timed: bool = True
) -> Plan:
    """Counts what an experiment takes under its settings; trains nothing and fetches nothing.

    timed: also takes three steps of each arm on this machine, for its minutes. Raises UserError for a model or a data
    set of the hub that is not in `plan.json`, and for settings that the arms themselves refuse.
    """
    with threads(settings.threads), torch.random.fork_rng():
        task, shared = _outline(experiment.task, settings), Cost()
        chosen = experiment.chosen(arms)
        found = tuple(_arm(experiment, arm, task, timed) for arm in chosen)
        if task.kind == "masked_lm" and not settings.model:  # trained here first, by kdutils.study.teachers
            teacher, looks = task.model(0).requires_grad_(True), 10
            shared = _step(task, Method(), teacher, timed)[0].times(settings.teacher_updates)
            with torch.no_grad(), mode(teacher, training=False):
                score = lambda: (task.validate(teacher), task.truth(teacher, "validation"))  # noqa: E731
                shared += task.meter.cost(score, timed, contextlib.nullcontext()).times(looks)
    config, sizes, size = task.model(0).config, task.split_sizes.values(), task.split_sizes["train"]
    ids = sum(one.tokens for one in sizes) * (2 if task.kind == "translation" else 1)
    held = ASSUMED["texts"] * task.text + ASSUMED["row_bytes"] * sum(one.rows for one in sizes)
    held += 4 * ids + 8 * build.parameter_count(task.model(0))
    data = (f"{experiment.name}: {size.rows:,.0f} training rows, {size.tokens:,.0f} tokens of the longer side, "
            f"{size.batches:,.0f} batches.")  # fmt: skip
    said = [data, f"Data: {task.said}", *(f"Exam: {words}" for words in task.known.get("exams", ()))]
    said += [f"{arm.name} rests on {', '.join(arm.needs)}, so that their rows are part of its cost."
             for arm in chosen if arm.needs]  # fmt: skip
    said += [one["why"] for one in FACTS["assumed"].values() if "why" in one]
    width = getattr(config, "hidden_size", 0) or config.d_model
    main_gb, preparing = ASSUMED["process_gb"] + held / 1e9, (task.prepared + task.known.get("prepared", 0.0)) / 60
    return Plan(experiment.name, settings.preset, seeds, width, found, shared, main_gb, preparing, tuple(said))


def _step(task: Any, method: Method, model: nn.Module, timed: bool) -> tuple[Cost, float]:
    """What a batch and its update take, and the bytes that the batch keeps for its backward pass."""
    networks, collate, kept = [model, *method.modules().values()], task.training_collate(), {}
    weights = [one for one in nn.ModuleList(networks).parameters() if one.requires_grad]  # once, where they share some
    optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=True)
    nn.ModuleList(networks).train()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def update() -> None:
        few = task.few("train", collate)
        counts = {name: max(1, n) for name, n in method.count(few.one).items()}
        with task.meter.weighted(few.fuller, 1):
            method.loss(model, few.one, counts, Step(1, 1, 0, False))["loss"].backward()
        if task.meter.timing:  # a few operations for all weights together
            optimizer.step()
        optimizer.zero_grad()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        cost = task.meter.cost(update, False, contextlib.nullcontext())
    for one in weights:
        kept.pop(one.untyped_storage().data_ptr(), None)
    if timed:
        cost = task.meter.cost(update, True, evaluation_context(task.settings.precision, model))
    traffic = ASSUMED["optimizer_bytes"] * sum(one.numel() for one in weights)
    return replace(cost, traffic=traffic), sum(kept.values()) * task.few("train", collate).fuller


class _Imagined(Trial):
    """A trial of which no arm is trained: the model of another one is a random network of the task's shape."""

    def model_of(self, arm: str) -> nn.Module:
        self.check_need(arm)
        return copy.deepcopy(self.task.model(0))


def _unit(experiment: Experiment, arm: Arm, task: Any, trains: bool, timed: bool) -> tuple:
    """What an update, an evaluation, a test and an exam take; the sentences that the three translate; GB; the shape."""
    s, step, kept = task.settings, Cost(), 0.0
    trial = _Imagined(task, arm.name, 0, Path(arm.name), Path(), needs=arm.needs)
    method, again, first = arm.method(s), 1.0, "updates" in arm.besides(s)
    model = task.model(0) if first else arm.start(trial)
    if first:  # what is trained first is not there to be asked: what the arm says of its cost must do
        method, again = plain(s), method.passes
    elif arm.teacher:
        method.teacher = arm.teacher(trial).eval().requires_grad_(False)
    method.attach(model)
    names = ("loss", "smoothed_loss", *(f"smoothed_loss_{one}" for one in s.get("languages", ())))
    for _ in range(3):  # evaluations in which nothing gets better: whoever is to teach does so afterwards
        method.after_evaluation(model, dict.fromkeys(names, 1.0), Step(1, 1, 0, False))
    for _ in range(round(3 * method.passes)):  # updates: who is taught by earlier selves has one for each forward pass
        method.after_update(model, Step(1, 1, 0, False))
    if trains:
        step, kept = _step(task, method, model, timed)

    def scores(score: Callable[[nn.Module], Any], split: str) -> None:
        method.extra_scores(model, task.fixed_batches(split)), score(model)

    runs = [
        lambda: (scores(task.validate, "validation"), experiment.extra_scores(task, model)),
        lambda: scores(task.test, "test"),
        # `_exam` counts fine-tunings; networks that an arm trains besides are not there to sit an exam
        lambda: None if "downstream" in s or arm.besides(s) else experiment.exam(replace(trial, method=method), model),
    ]
    costs, sentences = [], []
    for run in runs:
        before = task.decoded
        with torch.no_grad(), mode(model, training=False):
            costs.append(task.meter.cost(run, timed, evaluation_context(s.precision, model)))
        sentences.append(task.decoded - before)
    networks = nn.ModuleList([model, *method.modules().values()] if trains else [])
    trained = sum(p.numel() for p in networks.parameters() if p.requires_grad)
    # a teacher that is not there to be asked is a network like the model
    frozen = build.parameter_count(model if method.teacher is None else method.teacher) if arm.teacher else 0
    held = again * (16 * trained + kept) + 4 * frozen + method.held_bytes()
    gpu_gb = ASSUMED["context_gb"] + ASSUMED["fragments"] * held / 1e9
    return step.times(again), *costs, sentences, gpu_gb, model.config


def _arm(experiment: Experiment, arm: Arm, task: Any, timed: bool) -> ArmPlan:
    s, size, key = task.settings, task.split_sizes["train"], (arm.method, arm.start, arm.teacher)
    recipe, besides = task.recipe(**arm.recipe(s)), arm.besides(s)
    if key not in task.known:  # a baseline and one with more updates are the same
        task.known[key] = _unit(experiment, arm, task, recipe.updates > 0, timed)
    step, look, test, exam, sentences, gpu_gb, config = task.known[key]
    batches, sat = recipe.updates * recipe.accumulation, besides.get("exams", 1.0) if "downstream" in s else 0.0
    looks = math.ceil(recipe.updates / (recipe.eval_every or max(1, size.batches // recipe.accumulation))) or 1
    tests = 2 if looks > 1 else 1  # of the weights that the validation chose, and of the last
    return ArmPlan(
        name=arm.name, updates=recipe.updates, passes=batches / size.batches, evaluations=looks,
        greedy=sentences[0] * looks, searched=sentences[1] * tests + sentences[2],
        finetunings=sat * len(s.get("downstream", ())) * s.get("downstream_seeds", 0), train=step.times(batches),
        look=look.times(looks) + test.times(tests) + exam,
        exams=_exam(task, config, timed).times(sat) if sat else Cost(),
        teachers=step.times(besides.get("updates", 0) * recipe.accumulation / arm.method(s).passes),  # plain steps
        gpu_gb=gpu_gb,
    )  # fmt: skip


def _exam(task: Any, config: Any, timed: bool) -> Cost:
    """What one exam of an encoder takes: its fine-tunings, counted on the first task and scaled to the others."""
    s, total, key = task.settings, Cost(), (config.model_type, config.hidden_size, config.num_hidden_layers)
    if key not in task.known:
        words = None if isinstance(task.tokenizer, _Words) else task.tokenizer
        outlines = [_outline(exams.exam_class(d), exams.exam_settings("", d, s), config, words) for d in s.downstream]
        first, model = outlines[0], outlines[0].model(0)
        step, asked = _step(first, first.method(), model, timed)[0], first.split_sizes
        with torch.no_grad():
            look = first.meter.cost(lambda: first.validate(model), timed, evaluation_context(s.precision, model))
        for sizes in (own.split_sizes for own in outlines):
            n, cells = s.downstream_epochs * sizes["train"].batches, s.downstream_epochs * sizes["train"].cells
            total += step.times(cells * asked["train"].batches / asked["train"].cells, n)
            for split, looks in (("validation", s.downstream_epochs), ("test", 1)):
                counted, size = asked["validation"], sizes[split]
                total += look.times(looks * size.cells / counted.cells, looks * size.batches / counted.batches)
        task.known |= {key: total.times(s.downstream_seeds), "exams": [own.said for own in outlines]}
        task.known["prepared"] = max(task.known.get("prepared", 0.0), sum(own.prepared for own in outlines))
    return task.known[key]
