"""A problem so small that a training takes a fraction of a second, and processes that die in the middle of one.

>>> fitted = train(folder, "r_drop")          # the same numbers whenever and wherever it is called
>>> started().run(train_and_tell, folder=str(folder), method="r_drop", kill_at=17)
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import functools
import importlib
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # bit for bit is promised for the CPU
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # these processes fork

import torch
from torch import nn

from kdutils.core.errors import UserError
from kdutils.core.files import digest, exclusive, write_json
from kdutils.data.batches import Batches, collate_translation
from kdutils.losses.divergences import kl_divergence, label_smoothed_nll
from kdutils.models.build import translation_model
from kdutils.models.forward import counted_logits
from kdutils.papers import seer_forcing
from kdutils.papers.r_drop.experiment import EXPERIMENTS
from kdutils.papers.r_drop.method import RDrop
from kdutils.papers.seer_forcing.method import SeerForcing
from kdutils.study.experiment import resolve
from kdutils.study.running import run
from kdutils.tasks import masked_lm
from kdutils.tasks.scores import dropout_scores, token_scores
from kdutils.training.checkpoints import Checkpoints, save_weights, seeded
from kdutils.training.loop import Fitted, Recipe, fit
from kdutils.training.method import Method

VOCABULARY = 24
HOME = Path(__file__).resolve().parents[1]

# What an experiment needs at least, for those who go through `study.running.run`.
SMALL = {
    "train_rows": 40, "validation_rows": 10, "test_rows": 10, "updates": 6, "warmup": 2, "eval_every": 2,
    "log_every": 2, "checkpoint_every": 3, "width": 16, "heads": 2, "layers": 1, "feedforward": 16, "precision": "fp32",
    "threads": 1,
}  # fmt: skip


# --- the problem -------------------------------------------------------------------------------------------------


def examples(n: int = 40, seed: int = 0) -> list[dict[str, list[int]]]:
    """Sentences of 2 to 6 words and their translation: every word has one, and the order is turned round."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(n):
        length = int(torch.randint(2, 7, (), generator=draw))
        words = torch.randint(5, VOCABULARY, (length,), generator=draw).tolist()
        rows.append({"source": [*words, 2], "target": [28 - w for w in reversed(words)] + [2]})
    return rows


def batches(n: int = 40, seed: int = 0, **budget: Any) -> Batches:
    return Batches(examples(n), collate_translation(), seed=seed, **(budget or {"max_tokens": 40}))


def model(dropout: float = 0.1, seed: int = 0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return translation_model(
            VOCABULARY, width=16, layers=1, heads=2, feedforward=16, dropout=dropout, max_length=16
        )


def recipe(**changes: Any) -> Recipe:
    small = {"updates": 12, "accumulation": 2, "warmup": 3, "learning_rate": 0.01, "clip": 1.0, "precision": "fp32"}
    looks = {"eval_every": 2, "log_every": 2, "checkpoint_every": 3}
    return Recipe(**{**small, **looks, **changes})


def scores(current: nn.Module) -> dict[str, float]:
    """Scores on rows that are not trained on; they draw random numbers, as a paper's may."""
    return {**token_scores(current, held_out()), "kl": dropout_scores(current, held_out())["kl"]}


def held_out() -> Batches:
    return Batches(examples(12, seed=1), collate_translation(), batch_size=6, shuffle=False)


class Averaged(Method):
    """A student beside the average of its own past and a second network: all that a method may have to restore."""

    def __init__(self) -> None:
        super().__init__(epsilon=0.1)
        self.weight, self.losses = 1.0, []

    def attach(self, model: nn.Module) -> None:
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
        self.head = nn.Linear(VOCABULARY, VOCABULARY)

    def modules(self) -> dict[str, nn.Module]:
        return {"head": self.head}

    def loss(self, model, batch, counts, step):
        logits = counted_logits(model, batch)
        with torch.no_grad():
            fixed = counted_logits(self.teacher, batch)
        divergence = kl_divergence(fixed, logits, reduction="sum")
        second = label_smoothed_nll(self.head(logits), batch["targets"], reduction="sum")
        total = label_smoothed_nll(logits, batch["targets"], self.epsilon, reduction="sum") + second
        return {
            "loss": (total + self.weight * divergence) / counts["targets"],
            "kl": divergence.detach() / counts["targets"],
        }

    @torch.no_grad()
    def after_update(self, model, step) -> None:
        for mean, new in zip(self.teacher.parameters(), model.parameters(), strict=True):
            mean.lerp_(new, 0.2)

    def after_evaluation(self, model, scores, step) -> None:
        self.losses.append(scores["loss"])
        self.weight *= 0.9

    def state(self) -> dict[str, Any]:
        return {"teacher": self.teacher.state_dict(), "weight": self.weight, "losses": self.losses}

    def restore(self, state: dict[str, Any]) -> None:
        self.teacher.load_state_dict(state["teacher"])
        self.weight, self.losses = state["weight"], state["losses"]


METHODS: dict[str, Callable[[], Method]] = {
    "baseline": Method,
    "r_drop": lambda: RDrop(alpha=2.0, k=2, epsilon=0.1),
    "averaged": Averaged,
}
# with networks beside the model that are looked at in every evaluation
BESIDE: dict[str, Callable[[], Method]] = {
    "seer_forcing": SeerForcing,
    "adversarial": lambda: SeerForcing(alpha=0.25, transfer="adversarial"),
}


def train(folder: str | Path | None, method: str | Method = "baseline", dropout: float = 0.1, **changes: Any) -> Fitted:
    """Trains the same model on the same batches from the same random state; `.model` is what came out."""
    chosen = {**METHODS, **BESIDE}[method]() if isinstance(method, str) else method
    options = {name: changes.pop(name) for name in ("until", "identity", "evaluate") if name in changes}
    options.setdefault("evaluate", lambda net: {**scores(net), **chosen.extra_scores(net, held_out())})
    with seeded(7):
        net = model(dropout)
        fitted = fit(net, chosen, batches(), recipe(**changes), folder=folder, **options)
    fitted.model, fitted.method = net, chosen
    return fitted


class InOrder:
    """Batches of given examples in the order given: a stream whose pieces can be glued."""

    def __init__(self, *groups: list[int]) -> None:
        self.groups, self.rows, self.collate = groups, examples(), collate_translation()

    def plan(self, epoch):
        return list(self.groups)

    def batch(self, epoch, index):
        return self.collate([self.rows[i] for i in self.groups[index]])


def fitted(method, plan, dropout=0.0, dtype=torch.float32, **changes):
    """Trains a new model on the batches of `plan`, without dropout unless asked; one batch an update."""
    net = model(dropout).to(dtype)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        result = fit(net, method, plan, recipe(**{"accumulation": 1, **changes}))
    result.model = net
    return result


def timeless(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A history without its seconds: what two runs of the same must agree on to the last bit."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def weights(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def assert_same_weights(one: nn.Module, other: nn.Module, **tolerance: float) -> None:
    close = {"rtol": 0.0, "atol": 0.0, **tolerance}
    for (name, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, **close, msg=lambda text, name=name: f"{name}: {text}")


def fingerprint(net: nn.Module) -> str:
    """One word for all weights. (The files will not do: safetensors writes the names of tied weights in any order.)"""
    return digest(*(part for name, tensor in net.state_dict().items() for part in (name, tensor.numpy().tobytes())))


def one_sentence(error: BaseException | str) -> str:
    """The message, which must be one line that ends like a sentence."""
    text = str(error)
    assert text and "\n" not in text and text.endswith("."), text
    return text


# --- processes that are killed -----------------------------------------------------------------------------------

# Everything through which a checkpoint, the best weights or the history reach the disk.
EVENTS = (
    "kdutils.training.checkpoints:save_model", "torch:save", "kdutils.training.checkpoints:file_digest",
    "kdutils.core.files:sync", "os:replace", "shutil:rmtree", "kdutils.training.loop:_Loop._update",
)  # fmt: skip


def train_and_tell(folder: str, method: str = "baseline", kill_at: int = 0, **changes: Any) -> None:
    """Trains, and writes what came out beside the run; with `kill_at`, dies at the so many-th event."""
    events = _die_at(kill_at)
    fitted = train(folder, method, **changes)
    modules = {"model": fitted.model, **fitted.method.modules()}
    state = fitted.method.state()
    if "teacher" in state:
        modules["teacher"], state["teacher"] = fitted.method.teacher, ""
    found = {"weights": {name: fingerprint(module) for name, module in modules.items()}, "state": state}
    found |= {"scores": scores(fitted.model), "best": fitted.best, "history": timeless(fitted.history)}
    write_json(told(folder), {"found": found, "resumed_at": fitted.resumed_at, "events": events})


def told(folder: str | Path) -> Path:
    """Where `train_and_tell` leaves its numbers: beside the folder of the run, which holds only what `fit` wrote."""
    return Path(folder).with_suffix(".json")


def fill_the_disk(folder: str, kilobytes: int) -> None:
    """No file may grow beyond so much: that is one sentence about the disk, and what there was before stays."""
    place = Path(folder)
    Checkpoints(place).save(1, {}, {}, {})
    save_weights(nn.Linear(2, 2), place / "best.safetensors")
    before = sorted(place.rglob("[!.]*"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * kilobytes, 1024 * kilobytes))
    for write in (
        lambda: save_weights(model(), place / "best.safetensors"),
        lambda: Checkpoints(place).save(2, {"model": model()}, {}, {}),
        lambda: Checkpoints(place).save(2, {}, {"much": torch.zeros(5000)}, {}),
        lambda: Checkpoints(place).save(2, {}, {}, {"much": "x" * 5000}),
        lambda: train(place / "run"),
    ):
        try:
            write()
        except UserError as error:
            text = one_sentence(error)
            assert "free some space" in text, text
        else:
            raise AssertionError("it was written")
    shutil.rmtree(place / "run", ignore_errors=True)
    assert sorted(place.rglob("[!.]*")) == before, sorted(place.rglob("*"))
    assert Checkpoints(place).newest().name == "update-00000001"


def hold_the_folder(folder: str) -> None:
    """Holds the lock of a folder until it is killed, and counts on in a file there."""
    with exclusive(folder):
        for number in itertools.count():
            (Path(folder) / "held").write_text(str(number))
            time.sleep(0.01)


def write_without_end(path: str) -> None:
    """Writes one large file again and again until it is killed."""
    for number in itertools.count():
        write_json(path, {"number": number, "text": str(number % 10) * 20_000})


def run_an_experiment(runs: str, arms: list[str], changes: dict[str, Any]) -> None:
    """R-Drop's classification experiment, for seed 1."""
    settings = resolve(EXPERIMENTS, "demo", changes)["classification"]
    run(EXPERIMENTS[1], settings, [1], runs, arms)


def run_seer_forcing(
    runs: str, arms: list[str], changes: dict[str, Any], events: list[str] | None = None, kill_at: int = 0
) -> None:
    """Seer Forcing's experiment for seed 1; with `kill_at`, dies at the so many-th of the events."""
    _die_at(kill_at, events)
    experiment = seer_forcing.EXPERIMENTS[0]
    run(experiment, resolve([experiment], "demo", changes)["translation"], [1], runs, arms)


def _die_at(number: int, places: list[str] | None = None) -> list[str]:
    """Counts every call of EVENTS, or of others; at the wanted one the process dies, half way through a writing."""
    events: list[str] = []
    for place in places or EVENTS:
        module, _, path = place.partition(":")
        *owners, name = path.split(".")
        owner = functools.reduce(getattr, owners, importlib.import_module(module))
        setattr(owner, name, _counted(getattr(owner, name), place, events, number))
    return events


def _counted(original: Callable, place: str, events: list[str], number: int) -> Callable:
    def call(*arguments: Any, **options: Any) -> Any:
        events.append(place)
        if len(events) == number:
            if place.endswith(("save_model", "torch:save")):
                original(*arguments, **options)
                os.truncate(arguments[1], os.path.getsize(arguments[1]) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    return call


class Processes:
    """Runs functions of this file in new processes; torch is imported once for all of them."""

    def __init__(self) -> None:
        self.children: list[int] = []
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(HOME)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from tests import tiny; tiny.serve()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HOME, env=environment,
        )  # fmt: skip

    def close(self) -> None:
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()

    def run(self, function: Callable, **options: Any) -> int:
        """The exit status of the process: 0, or minus the signal that killed it."""
        return self.ask({"function": function.__name__, **options})

    def start(self, function: Callable, **options: Any) -> int:
        """Starts it without waiting; returns its process id."""
        self.children.append(self.ask({"function": function.__name__, "background": True, **options}))
        return self.children[-1]

    def ask(self, job: dict[str, Any]) -> int:
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@functools.cache
def started() -> Processes:
    """The processes that all test files share."""
    processes = Processes()
    atexit.register(processes.close)
    return processes


def killed(function: Callable, kill_at: int, event: str = EVENTS[-1], **options: Any) -> None:
    """Runs a function of any test file in a process of its own, which is killed at the so many-th call of `event`."""
    job = {"module": function.__module__, "name": function.__name__, "kill_at": kill_at, "event": event, **options}
    assert started().run(die_in, **job) == -signal.SIGKILL


def die_in(module: str, name: str, kill_at: int, event: str, **options: Any) -> None:
    masked_lm.QUESTIONS = 1  # the grammar takes its time for each
    _die_at(kill_at, [event])
    getattr(importlib.import_module(module), name)(**options)


def serve() -> None:
    """Forks one process for every line of the standard input, and prints how it ended."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for line in sys.stdin:
        job = json.loads(line)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # those in the background that were killed meanwhile
                pass
        background = job.pop("background", False)
        child = os.fork()
        if not child:
            _become(job)
        print(child if background else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(job: dict[str, Any]) -> None:
    os.dup2(2, 1)  # the answers go through the standard output
    signal.alarm(60)
    try:
        globals()[job.pop("function")](**job)
        sys.stderr.flush()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
