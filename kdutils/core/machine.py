"""The machine: its device, the versions on it, the precision and memory it has, and what is missing (`doctor`).

>>> provenance()["device"]                 # what a result must carry to be believed
'cpu, 2 threads'
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement

from kdutils import __version__
from kdutils.core.errors import unknown
from kdutils.core.files import explained
from kdutils.core.setup import installed_version, requirements

# their versions decide the numbers, so every record names them
DECISIVE = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "sacrebleu", "numpy")
# of what the package's metadata asks for, what most of it does without
ONLY_FOR = {"datasets": "data of the hub", "ipywidgets": "notebooks"}
Finding = tuple[str, str, str]  # what, "ok" | "missing" | "note", in words


# --- the device ---------------------------------------------------------------------------------------------------


def device() -> torch.device:
    """Where training computes: what accelerate has chosen, so also the CPU beside a GPU with ACCELERATE_USE_CPU."""
    from kdutils.core.processes import processes

    return processes().device


def device_name() -> str:
    """The device that training uses, in words."""
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    name = {"cpu": "cpu", "mps": "Apple GPU (mps)"}.get(device().type, device().type)
    return f"{name}, {threads} thread{'s' * (threads != 1)}"


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """torch computes with so many CPU threads inside; 0 leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


WIDE = 256  # size of hidden states from which native bfloat16 makes a training step on a CPU faster; at 64 it is slower


def choose_precision(on: torch.device | str | None = None, wanted: str = "auto", width: int = 0) -> tuple[str, str]:
    """("no" | "bf16" | "fp16", why), in accelerate's words, for a device (default: that of training) and a wish.

    width: size of the model's hidden states, where it is known; it decides on a CPU that has bfloat16 natively.
    """
    names = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
    if wanted != "auto":
        if wanted not in names:
            raise unknown("precision", wanted, ["auto", *names])
        return names[wanted], "as asked for"
    kind = torch.device(on).type if on else device().type
    native = native_bfloat16() if kind == "cpu" else ""
    if native and width >= WIDE:
        return "bf16", f"bfloat16: there is no GPU, but this CPU has it in hardware ({native}), and the model is wide"
    if native:
        return "no", (
            f"float32: there is no GPU; from a width of {WIDE} up it is bfloat16, which this CPU has in hardware "
            f"({native})"
        )
    if kind != "cuda":
        return "no", "float32: there is no GPU, and half precision gains nothing on most CPUs"
    major, minor = torch.cuda.get_device_capability()
    if major >= 8:
        return "bf16", f"bfloat16: compute capability {major}.{minor} has it in hardware, and it needs no loss scaling"
    return "fp16", f"float16 with loss scaling: compute capability {major}.{minor} has no fast bfloat16"


def native_bfloat16() -> str:
    """The instructions by which this CPU multiplies matrices in bfloat16, or "" where it has none."""
    known = {"AMX": "_is_amx_tile_supported", "AVX512-BF16": "_is_avx512_bf16_supported"}  # no public name as yet
    return next((name for name, asks in known.items() if getattr(torch.cpu, asks, bool)()), "")


# --- memory -------------------------------------------------------------------------------------------------------


def reset_peak_memory() -> None:
    """Starts a new measurement of the peak memory (GPU only: the system counts a process's whole life)."""
    gc.collect()  # what was trained before may still be held, by reference cycles
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb() -> float:
    """Megabytes: the most that tensors held on the GPU, or the most that the process held on a CPU machine."""
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


# --- where a result comes from ------------------------------------------------------------------------------------


def provenance() -> dict[str, Any]:
    """Commit of the code, versions, device and date (UTC) of this process."""
    return {
        "commit": commit(),
        "kdutils": __version__,
        "python": platform.python_version(),
        "versions": versions(),
        "device": device_name(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def print_environment() -> None:
    """Prints three lines: the versions, the device, and the precision that it gets with the reason."""
    found = {"kdutils": __version__, "Python": platform.python_version(), **versions()}
    print(f"Versions:  {', '.join(f'{name} {version}' for name, version in found.items())}")
    print(f"Device:    {device_name()}")
    print(f"Precision: {choose_precision()[1]}")  # the reason begins with the name of the number format


def versions() -> dict[str, str]:
    """The versions of the packages that decide the numbers, of those that are installed."""
    return {name: version for name in DECISIVE if (version := installed_version(name))}


def commit() -> str:
    """The commit of the code, with "+changes" if files differ from it; "unknown" outside a git checkout."""
    here = Path(__file__).resolve().parents[1]
    ours = _git(here, "ls-files", "__init__.py")  # else the checkout around a virtual environment would answer
    found = _git(here, "rev-parse", "--short=12", "HEAD") if ours else ""
    if not found:
        return "unknown"
    return found + ("+changes" if _git(here, "status", "--porcelain", "--", str(here)) else "")


def _git(folder: Path, *arguments: str) -> str:
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set in a hook, for another repository
    quiet = {name: value for name, value in os.environ.items() if name not in elsewhere}
    quiet["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, env=quiet)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


# --- the doctor ---------------------------------------------------------------------------------------------------


def examine(runs: str | Path = "runs") -> bool:
    """Prints one line a finding; True when everything that training needs is there."""
    findings = [*_python(), *_packages(), *_device(), *_disk(Path(runs)), *_hub()]
    for what, state, words in findings:
        print(f"{state:8} {what:13} {words}")
    return all(state != "missing" for _, state, _ in findings)


def _python() -> Iterator[Finding]:
    fine = sys.version_info >= (3, 11)
    yield "Python", "ok" if fine else "missing", platform.python_version() + ("" if fine else ": 3.11 is needed")


def _packages() -> Iterator[Finding]:
    asked = [(Requirement(text), "") for text in requirements()]
    asked += [(Requirement(text), "notebooks") for text in requirements("notebooks")]
    for wanted, only_for in asked:
        version, ask = installed_version(wanted.name), f"pip install '{wanted.name}{wanted.specifier}'"
        only_for = only_for or ONLY_FOR.get(wanted.name, "")
        why = f"only for {only_for}: " if only_for else ""
        if version and wanted.specifier.contains(version, prereleases=True):
            yield wanted.name, "ok", version
        elif version:
            yield wanted.name, "note" if only_for else "missing", f"{version} is not {wanted.specifier}: {why}{ask}"
        else:
            yield wanted.name, "note" if only_for else "missing", why + ask


def _device() -> Iterator[Finding]:
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            memory = properties.total_memory / 2**30
            small = "; lower max_tokens or batch_size for study if memory runs out"
            words = "; demo and study fit" if memory > 12 else small
            yield f"GPU {index}", "ok", f"{properties.name}, {memory:.0f} GiB{words}"
    else:
        yield "GPU", "note", "none: the demo preset runs on the CPU, study wants a GPU such as Colab's T4"
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    words = f"{cores} core{'s' * (cores != 1)}, torch uses {threads} thread{'s' * (threads != 1)}"
    yield "CPU", "ok", words
    yield "precision", "ok", choose_precision()[1]


def _disk(runs: Path) -> Iterator[Finding]:
    with explained(runs):  # a path may be too long even to be looked at
        folder = next(path for path in (runs.resolve(), *runs.resolve().parents) if path.exists())
    if not folder.is_dir():
        yield "runs folder", "missing", f"{folder} is a file: choose another with --runs"
        return
    free = shutil.disk_usage(folder).free / 2**30
    yield "disk", "ok" if free > 1 else "note", f"{free:.1f} GiB free at {folder}"
    try:
        with tempfile.TemporaryFile(dir=folder):
            yield "runs folder", "ok", f"{runs} can be written"
    except OSError:
        yield "runs folder", "missing", f"{folder} cannot be written: choose another with --runs"


def _hub() -> Iterator[Finding]:
    cache = Path(os.environ.get("HF_HOME", os.path.expanduser("~/.cache/huggingface")))  # also where nobody has a home
    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    words = f"cache at {cache}" + (" (nothing in it yet)" if not cache.exists() else "")
    yield "hub", "note", words + ("; offline by HF_HUB_OFFLINE" if offline else "; used by study and paper only")
