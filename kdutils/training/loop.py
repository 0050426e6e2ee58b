"""One training loop for every paper, on accelerate.

>>> fitted = fit(model, RDrop(alpha=5.0), batches, Recipe(updates=400), evaluate=scores, folder="runs/try")

A paper contributes a `Method` (see `kdutils.training.method`); the loop contributes everything else: precision,
accumulation, clipping, evaluation, checkpoints, resuming, the time guard. Called again with the same folder, `fit`
goes on where it was; on a CPU the result is the same to the last bit as that of a run that was never interrupted.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from transformers import get_scheduler

from kdutils.core.errors import Paused, UserError, unknown
from kdutils.core.files import explained, make_folder, read_json, write_text
from kdutils.core.machine import choose_precision
from kdutils.core.processes import processes, share
from kdutils.core.progress import progress
from kdutils.models.forward import mode
from kdutils.training.checkpoints import Checkpoints, load_weights, save_weights, seeded
from kdutils.training.method import BatchPlan, Method, Step

TENSORS = {"optimizer", "scheduler", "scaler", "method", "window"}  # what a checkpoint holds beside the weights
SCHEDULES = ("inverse_sqrt", "linear", "cosine", "constant_with_warmup")


@dataclass(frozen=True)
class Recipe:
    """How a model is trained, whatever the method: the optimiser, its schedule, and when to evaluate."""

    updates: int = 400  # 0: the model is taken as it is
    behind: int = 0  # updates of an earlier stage, after which the schedule of the learning rate goes on
    ahead: int = 0  # updates of a later stage, up to whose end the schedule goes
    learning_rate: float = 3e-3
    head_learning_rate: float = 0.0  # of what a pretrained model has new, its head; 0: the same
    warmup: int = 40  # updates
    schedule: str = "inverse_sqrt"  # one of SCHEDULES
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 1e-4
    clip: float = 0.0  # largest norm of the gradient; 0 means no clipping
    accumulation: int = 1  # batches an update, over all processes; they share each one where there are too few
    eval_every: int = 100  # updates; 0: at the end of every epoch of the data
    log_every: int = 20
    checkpoint_every: int = 200
    patience: int = 0  # evaluations without improvement before stopping; 0 means never
    monitor: str = "loss"  # the validation score that picks the best weights
    larger_is_better: bool = False
    precision: str = "auto"  # auto, fp32, bf16, fp16
    tracker: str = ""  # one of accelerate's own, such as tensorboard or wandb; none by default

    def __post_init__(self) -> None:
        """Refuses what cannot be trained, before anything is computed or written."""
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)
        choose_precision("cpu", self.precision)
        if self.precision == "fp16" and processes().device.type == "cpu":
            raise UserError("precision is fp16, which needs a GPU: choose auto, fp32 or bf16 on a CPU.")
        for name in ("accumulation", "log_every", "checkpoint_every"):
            if not 1 <= getattr(self, name) < math.inf:  # so that NaN is refused too
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1.")
        rates = ("learning_rate", "head_learning_rate", "weight_decay", "clip")
        for name in (*rates, "updates", "behind", "ahead", "warmup", "patience", "eval_every"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}: it must be finite and not negative.")


@dataclass
class Fitted:
    """What `fit` returns; with a folder, the model itself then holds the best weights, else the last."""

    history: list[dict[str, Any]]
    best: dict[str, Any]  # {"update": int, "file": str, **scores} of the best evaluation
    updates: int
    seconds: float
    resumed_at: int  # the update it went on from; 0 for a run in one piece
    last: dict[str, float] = field(default_factory=dict)  # what `finish` found; {} where the last weights are the best


def fit(
    model: nn.Module,
    method: Method,
    batches: BatchPlan,
    recipe: Recipe,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    folder: str | Path | None = None,
    identity: str = "",
    until: float | None = None,
    description: str = "training",
    finish: Callable[[nn.Module], dict[str, float]] | None = None,
) -> Fitted:
    """Trains `model` in place and returns its history; with a `folder`, resumes what is there.

    evaluate: validation scores of the model, called every `eval_every` updates in evaluation mode and in a frozen
    random state, so that looking more often does not change the training. identity: a digest of the settings; a
    checkpoint of other settings is refused. until: a `time.monotonic()` moment; when it has passed, a checkpoint is
    written and Paused is raised; it needs a folder. finish: called once at the end, when the model still holds the last
    weights and others were better, so that both can be tested. Raises UserError when the loss or a weight is no
    longer a number: before anything is looked at, kept or returned.
    """
    if until is not None and not folder:
        raise UserError("A time limit needs a folder, in which the run is kept: give fit a folder.")
    loop = _Loop(model, method, batches, recipe, evaluate, Path(folder) if folder else None, identity, description)
    return loop.run(until, finish)


@dataclass
class _Position:
    """Everything about a run's progress that JSON can hold."""

    update: int = 0
    epoch: int = 0
    index: int = 0
    seconds: float = 0.0
    best: dict[str, Any] = field(default_factory=dict)
    stale: int = 0  # evaluations since the best


class _Loop:
    def __init__(self, model, method, batches, recipe, evaluate, folder, identity, description) -> None:
        self.method, self.batches, self.recipe, self.evaluate = method, batches, recipe, evaluate
        self.folder, self.identity, self.description = folder, identity, description
        self.accelerator = _accelerator(recipe, folder, _width(model))
        self.world, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.at, self.history, self.resumed_at = _Position(), [], 0
        self.window = _Window()
        self._prepare(model)
        self.checkpoints = None
        if folder:
            self.checkpoints = Checkpoints(folder / "checkpoints", self.rank, self.accelerator.wait_for_everyone)
            self._resume()

    def _prepare(self, model: nn.Module) -> None:
        self.plain = model.to(self.accelerator.device)
        if self.method.teacher is not None:
            self.method.teacher.to(self.accelerator.device).eval().requires_grad_(False)
        self.method.attach(self.plain)
        extras = self.method.modules()  # of any name but "model"
        modules = (model, *(extra.to(self.accelerator.device) for extra in extras.values()))
        unique = {id(p): p for module in modules for p in module.parameters()}  # networks may share some
        self.trained = [p for p in unique.values() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            _groups(self.trained, self.plain, self.recipe), lr=self.recipe.learning_rate, betas=self.recipe.betas,
            fused=self.accelerator.device.type in ("cpu", "cuda"),
        )  # fmt: skip
        # accelerate's wrapper steps a scheduler once a process; ours counts updates, so it stays unwrapped
        whole = self.recipe.behind + self.recipe.updates + self.recipe.ahead
        self.scheduler = get_scheduler(self.recipe.schedule, optimizer, self.recipe.warmup, whole)
        if self.recipe.behind:
            with warnings.catch_warnings():  # torch would have the optimizer step first
                warnings.simplefilter("ignore")
                self.scheduler.step(self.recipe.behind)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        # accelerate would turn half-precision logits into float32, the largest tensor of the step, twice over;
        # the objectives raise the precision slice by slice instead, so autocast is entered here by hand
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.saved = {"model": self.plain, **extras}
        self.scale = self.accelerator.scaler.get_scale() if self.accelerator.scaler else 1.0

    # --- the run ---------------------------------------------------------------------------------------------

    def run(self, until: float | None, finish: Callable[[nn.Module], dict[str, float]] | None = None) -> Fitted:
        recipe, started = self.recipe, time.monotonic() - self.at.seconds
        if recipe.updates == 0:
            return self._as_it_is()
        nn.ModuleList(self.saved.values()).train()
        with progress(recipe.updates, self.description, self.at.update) as bar, self._tracking():
            while self.at.update < recipe.updates and not 0 < recipe.patience <= self.at.stale:
                with enough_memory("train on this batch"):
                    self._update()
                self.at.seconds = time.monotonic() - started
                update = self.at.update
                if update % recipe.log_every == 0 or update == recipe.updates:
                    bar.set_postfix_str(self._log_training(), refresh=False)
                if self.evaluate and (update == recipe.updates or self._is_time_to_evaluate()):
                    self._evaluate()
                bar.update(1)
                paused = until is not None and update < recipe.updates and self._late(until)
                if self.checkpoints and (paused or update % recipe.checkpoint_every == 0 or update == recipe.updates):
                    self._save()
                if paused:
                    raise Paused(self._how_to_go_on())
        self._check_numbers()
        last: dict[str, float] = {}
        if finish and self.at.best and self.at.best["update"] != self.at.update:
            with seeded(0), mode(self.plain, training=False):
                last = finish(self.plain)
        for name, file in self._best_files().items():
            load_weights(self.saved[name], file)
        return Fitted(self.history, self.at.best, self.at.update, self.at.seconds, self.resumed_at, last)

    def _as_it_is(self) -> Fitted:
        """Nothing is trained: a finished network takes part in a comparison, and is looked at once."""
        scores = self.scores() if self.evaluate else {}
        self.history = [{"update": 0, "epoch": 0, "kind": "eval", **scores, "seconds": 0.0}] if scores else []
        self._rewrite_history()
        return Fitted(self.history, {"update": 0, **scores} if scores else {}, 0, 0.0, 0)

    def _update(self) -> None:
        """One optimiser step over `accumulation` batches."""
        step = self._step(self.at.update + 1)
        mine = self._mine(self._take(self.recipe.accumulation))
        counts = self._counts(mine)
        for number, (batch, weight) in enumerate(mine, start=1):
            batch = {k: v.to(self.accelerator.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            with self._local(number < len(mine)), self.accelerator.autocast():
                terms = self.method.loss(self.model, batch, counts, step)
                terms = terms if weight else {name: 0.0 * term for name, term in terms.items()}
                self.accelerator.backward(terms["loss"] * self.world)  # processes average their gradients
            self.window.add(terms if step.logged else {"loss": terms["loss"]}, self.accelerator.device)
        self._share_gradients()
        if self.recipe.clip:
            self.accelerator.clip_grad_norm_(self.trained, self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.window.updates += 1
        self.at.update += 1
        if self._has_stepped():
            self.scheduler.step()
            self.method.after_update(self.plain, step)

    def _has_stepped(self) -> bool:
        """Whether the weights were changed: under a loss scale an update with an overflown gradient is skipped.

        The fused optimiser skips it on the device, where accelerate does not notice; the scale that falls tells.
        """
        if not self.accelerator.scaler:
            return True
        before, self.scale = self.scale, self.accelerator.scaler.get_scale()
        return self.scale >= before > 0

    def _mine(self, places: list[tuple[int, int]]) -> list[tuple[dict[str, Tensor], int]]:
        """This process's part of an update's batches: every so many-th, or of each its rows; with what it counts."""
        if self.recipe.accumulation % self.world:
            return [share(self.batches.batch(*place), self.rank, self.world) for place in places]
        return [(self.batches.batch(*place), 1) for place in places[self.rank :: self.world]]

    def _take(self, count: int) -> list[tuple[int, int]]:
        """The next (epoch, index) places of the data; the plan of an epoch is a pure function of its number."""
        places = []
        for _ in range(count):
            if self.at.index >= self._batches_in(self.at.epoch):
                self.at.epoch, self.at.index = self.at.epoch + 1, 0
            places.append((self.at.epoch, self.at.index))
            self.at.index += 1
        return places

    def _batches_in(self, epoch: int) -> int:
        if getattr(self, "_planned", None) is None or self._planned[0] != epoch:
            self._planned = (epoch, len(self.batches.plan(epoch)))
        return self._planned[1]

    def _is_time_to_evaluate(self) -> bool:
        if self.recipe.eval_every:
            return self.at.update % self.recipe.eval_every == 0
        crossed = self.at.epoch > 0 and self.at.index < self.recipe.accumulation  # an update over the end of an epoch
        return crossed or self.at.index >= self._batches_in(self.at.epoch)

    def _step(self, update: int) -> Step:
        logged = update % self.recipe.log_every == 0 or update == self.recipe.updates
        return Step(update, self.recipe.updates, self.at.epoch, logged)

    def _counts(self, mine: list[tuple[dict[str, Tensor], int]]) -> dict[str, int]:
        """What the whole update counts, over its batches and over all processes; at least 1."""
        total: dict[str, int] = {}
        for batch, weight in mine:
            for name, count in self.method.count(batch).items():
                total[name] = total.get(name, 0) + count * weight
        if self.world > 1:
            summed = torch.tensor(list(total.values()), device=self.accelerator.device)
            total = dict(zip(total, self.accelerator.reduce(summed, "sum").tolist(), strict=True))
        return {name: max(int(count), 1) for name, count in total.items()}

    def _local(self, more: bool) -> contextlib.AbstractContextManager:
        """No exchange of gradients between processes while more batches of this update follow."""
        return self.accelerator.no_sync(self.model) if more and self.world > 1 else contextlib.nullcontext()

    def _share_gradients(self) -> None:
        """Averages the gradients of the networks beside the model; accelerate does it for the model alone."""
        own = {id(p) for p in self.plain.parameters()}
        for p in self.trained if self.world > 1 else ():
            if id(p) not in own:
                p.grad = self.accelerator.reduce(torch.zeros_like(p) if p.grad is None else p.grad, "mean")

    def _late(self, until: float) -> bool:
        """Whether the time is over for any process: all must stop after the same update."""
        late = torch.tensor(float(time.monotonic() >= until), device=self.accelerator.device)
        return bool(self.accelerator.reduce(late, "sum") if self.world > 1 else late)

    # --- evaluating ------------------------------------------------------------------------------------------

    def _log_training(self) -> str:
        means = self.window.means(self.accelerator, self.world)
        if not math.isfinite(means["loss"]):
            raise self._no_number()
        self._record("train", {**means, "learning_rate": self.scheduler.get_last_lr()[0]})
        return f"loss {means['loss']:.3f}"

    def _check_numbers(self) -> None:
        """Raises UserError when the loss since the last line or a weight is no number; the host waits once."""
        held = [parameter for network in self.saved.values() for parameter in network.parameters()]
        held += [self.window.sums["loss"]] if self.window.sums else []
        bad = torch.stack([each.isfinite().all() for each in held]).logical_not().any().float()
        if self.accelerator.reduce(bad, "sum") if self.world > 1 else bad:
            raise self._no_number()

    def _no_number(self) -> UserError:
        return UserError(
            f"The loss of {self.description} is no longer a number at update {self.at.update}: lower the "
            "learning_rate, raise the warmup, or clip the gradient (clip=1.0)."
        )

    def _evaluate(self) -> None:
        self._check_numbers()
        scores = self.scores()
        if self.recipe.monitor not in scores:
            raise unknown("validation score to monitor", self.recipe.monitor, scores)
        self._record("eval", scores)
        better = scores[self.recipe.monitor] * (-1 if self.recipe.larger_is_better else 1)
        self.at.stale += 1
        if better < self.at.best.get("order", float("inf")):
            self.at.stale = 0
            file = f"best-{self.at.update:08d}.safetensors"
            self.at.best = {**scores, "update": self.at.update, "file": file, "order": better}
            for name, path in self._best_files().items() if self.accelerator.is_main_process else ():
                save_weights(self.saved[name], path)
        self.method.after_evaluation(self.plain, scores, self._step(self.at.update))

    def _best_files(self) -> dict[str, Path]:
        """Where the best weights lie: those of the model, and of each network beside it as it was at that moment."""
        if not self.folder or not self.at.best:
            return {}
        stem = (self.folder / self.at.best["file"]).with_suffix("")
        return {name: Path(f"{stem}{'' if name == 'model' else '.' + name}.safetensors") for name in self.saved}

    def scores(self) -> dict[str, float]:
        """The validation scores; the training's random state and the modes of its modules are left as they were."""
        with seeded(0), mode(self.plain, training=False), self.accelerator.autocast(), enough_memory("evaluate"):
            return {name: float(score) for name, score in self.evaluate(self.plain).items()}

    def _record(self, kind: str, numbers: dict[str, float]) -> None:
        row = {"update": self.at.update, "epoch": self.at.epoch, "kind": kind, **numbers}
        row["seconds"] = round(self.at.seconds, 3)
        self.history.append(row)
        if self.recipe.tracker:
            self.accelerator.log({f"{kind}/{k}": v for k, v in numbers.items()}, step=self.at.update)
        if self.folder and self.accelerator.is_main_process:
            with explained(self.folder), open(self.folder / "history.jsonl", "a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")

    @contextlib.contextmanager
    def _tracking(self) -> Iterator[None]:
        if self.recipe.tracker:
            self.accelerator.init_trackers("kdutils", config={k: str(v) for k, v in vars(self.recipe).items()})
        try:
            yield
        finally:
            if self.recipe.tracker:
                self.accelerator.end_training()

    # --- stopping and going on -------------------------------------------------------------------------------

    def _save(self) -> None:
        self._check_numbers()
        if self.world > 1:
            self.window.share(self.accelerator)
        tensors = {  # of the names in TENSORS
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},
            "method": self.method.state(),
            "window": vars(self.window),
        }
        facts = {"identity": self.identity, "at": vars(self.at), "history": self.history}
        self.checkpoints.save(self.at.update, self.saved, tensors, facts, needs=self._best_files().values())
        self._drop_old_bests()

    def _drop_old_bests(self) -> None:
        """Keeps the best weights that some kept checkpoint still points to."""
        if self.accelerator.is_main_process:
            named = set()  # best-00000400, of the model and of those beside it
            for path in self.checkpoints.finished():
                with contextlib.suppress(UserError, KeyError, TypeError):  # a damaged one, which needs none
                    named.add(str(read_json(path / "facts.json")["at"]["best"]["file"]).partition(".")[0])
            for file in (*self.folder.glob("best-*.safetensors"), *self.folder.glob(".best-*.tmp")):
                if file.name.partition(".")[0] not in named:  # a killed process left those with a temporary name
                    file.unlink(missing_ok=True)

    def _resume(self) -> None:
        newest = self.checkpoints.newest(self._is_sound)
        if newest is None:
            self.checkpoints.drop_after(None)
            self._rewrite_history()
            return
        if read_json(newest / "facts.json")["identity"] != self.identity:
            raise UserError(f"{self.folder} holds a run with other settings: choose another folder, or delete it.")
        self.checkpoints.drop_after(newest)
        try:
            self._take_up(*self.checkpoints.load(newest, self.saved))
        except (ValueError, TypeError, KeyError, RuntimeError, IndexError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            raise UserError(f"{newest} cannot be gone on from ({reason}): delete it and run again.") from error
        self._rewrite_history()

    def _is_sound(self, path: Path) -> bool:
        """Whether a checkpoint holds what a run has written; anything may be raised where it does not."""
        tensors, facts = self.checkpoints.read(path)
        at = _Position(**facts["at"])
        kinds = [(at.update, int), (at.epoch, int), (at.index, int), (at.stale, int), (at.seconds, int | float)]
        kinds += [(facts["identity"], str), (at.best, dict), (facts["history"], list)]
        kinds += [(at.best["file"], str), (at.best["order"], int | float)] if at.best else []
        kinds += [(value, dict) for value in (*facts["history"], tensors["window"]["sums"])]
        named = path.name == f"update-{at.update:08d}"
        return named and tensors.keys() >= TENSORS and all(isinstance(value, kind) for value, kind in kinds)

    def _take_up(self, tensors: dict[str, Any], facts: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(tensors["optimizer"])
        self.scheduler.load_state_dict(tensors["scheduler"])
        if self.accelerator.scaler and tensors["scaler"]:
            self.accelerator.scaler.load_state_dict(tensors["scaler"])
            self.scale = self.accelerator.scaler.get_scale()
        self.method.restore(tensors["method"])
        self.window = _Window(updates=tensors["window"]["updates"])
        self.window.add(tensors["window"]["sums"], self.accelerator.device)
        self.at, self.history = _Position(**facts["at"]), facts["history"]
        self.resumed_at = self.at.update

    def _rewrite_history(self) -> None:
        """Lines that were written after the checkpoint are written again by the resumed run."""
        if self.folder and self.accelerator.is_main_process:
            write_text(self.folder / "history.jsonl", "".join(json.dumps(row) + "\n" for row in self.history))

    def _how_to_go_on(self) -> str:
        return (
            f"Paused {self.description} after update {self.at.update} of {self.recipe.updates} because max_minutes "
            f"are over; everything is saved in {self.folder}: run the same again to go on."
        )


@dataclass
class _Window:
    """Sums of the loss terms since the last log line, kept on the device until somebody asks."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    updates: int = 0

    def add(self, terms: dict[str, Tensor], device: torch.device) -> None:
        for name, term in terms.items():
            term = term.detach().to(device).float()  # a term may have been computed on the CPU
            self.sums[name] = term + self.sums[name] if name in self.sums else term

    def share(self, accelerator: Accelerator) -> None:
        """Gives every process an equal part of the sums: the first writes the checkpoint, and all will read it."""
        self.sums = {name: accelerator.reduce(total.clone(), "mean") for name, total in self.sums.items()}

    def means(self, accelerator: Accelerator, world: int) -> dict[str, float]:
        """The loss averaged over the updates, the other terms as they were in the last one; then starts anew."""
        stacked = torch.stack([*self.sums.values()])
        if world > 1:
            stacked = accelerator.reduce(stacked, "sum")
        means = dict(zip(self.sums, stacked.tolist(), strict=True))
        means["loss"] /= self.updates
        self.sums, self.updates = {}, 0
        return means


def _width(model: nn.Module | None) -> int:
    """Size of a model's hidden states; 0 where it does not say."""
    return getattr(getattr(model, "config", None), "hidden_size", 0)


def _accelerator(recipe: Recipe, folder: Path | None, width: int) -> Accelerator:
    AcceleratorState._reset_state(reset_partial_state=False)  # else the first run's precision binds all later ones
    precision, _ = choose_precision(processes().device, recipe.precision, width)
    try:
        return Accelerator(
            mixed_precision=precision,
            log_with=recipe.tracker or None,
            project_dir=str(make_folder(folder)) if folder and recipe.tracker else None,
        )
    except ValueError as error:
        raise UserError(f"This machine cannot train as asked: {error}") from error


@contextlib.contextmanager
def evaluation_context(precision: str = "auto", model: nn.Module | None = None) -> Iterator[None]:
    """Scores that are computed inside have the precision of `fit`'s evaluations; too little memory is one sentence.

    precision: that of the recipe; model: the one that is scored, whose width counts on some CPUs. A test of a trained
    model can then be compared with its validation.
    """
    device = processes().device.type
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(choose_precision(device, precision, _width(model))[0])
    with torch.autocast(device, kind, enabled=kind is not None), enough_memory("evaluate"):
        yield


@contextlib.contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Turns the GPU's or the system's refusal of more memory into a UserError; `what` was it needed for?"""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is one of the latter
        if isinstance(error, torch.OutOfMemoryError):
            total = torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else 0
            where = f"The GPU's memory ({total:.0f} GiB)"
        elif isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            where = "The main memory"
        else:
            raise
        raise UserError(
            f"{where} is too small to {what}: halve max_tokens or batch_size and double accumulation, which is the "
            "same update in more pieces."
        ) from error


def _groups(parameters: list[nn.Parameter], model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Matrices decay; biases and layer-norm vectors do not. The head may learn at a rate of its own."""
    rate, head = recipe.head_learning_rate, set()
    if rate:
        body = {id(p) for p in model.base_model.parameters()}
        head = {id(p) for p in model.parameters()} - body
    groups = []
    for of_head, lr in ((False, recipe.learning_rate), (True, rate)):
        chosen = [p for p in parameters if (id(p) in head) == of_head]
        matrices, vectors = ([p for p in chosen if (p.ndim > 1) == wanted] for wanted in (True, False))
        groups += [{"params": matrices, "lr": lr, "weight_decay": recipe.weight_decay}]
        groups += [{"params": vectors, "lr": lr, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]] if rate else groups[:2]
