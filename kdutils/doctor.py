"""What this machine can run, and what is missing: `python -m kdutils doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from kdutils.training import choose_precision

NEEDED = ("torch", "transformers", "accelerate", "tokenizers", "safetensors", "sacrebleu", "scikit-learn",
          "scipy", "numpy", "pandas", "matplotlib", "seaborn", "filelock", "tqdm")  # fmt: skip
NOTEBOOKS = ("jupyterlab", "papermill", "ipykernel", "ipywidgets")
Finding = tuple[str, str, str]  # what, "ok" | "missing" | "note", in words


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
    for package in NEEDED:
        version = _version(package)
        yield package, "ok" if version else "missing", version or f"pip install {package}"
    for package in NOTEBOOKS:
        version = _version(package)
        yield package, "ok" if version else "note", version or f"only for notebooks: pip install {package}"
    version = _version("datasets")
    yield "datasets", "ok" if version else "note", version or "only for data of the hub: pip install datasets"


def _device() -> Iterator[Finding]:
    precision, reason = choose_precision()
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
    yield "precision", "ok", reason


def _disk(runs: Path) -> Iterator[Finding]:
    place = next(path for path in (runs.resolve(), *runs.resolve().parents) if path.exists())
    if not place.is_dir():
        yield "runs folder", "missing", f"{place} is a file: choose another with --runs"
        return
    free = shutil.disk_usage(place).free / 2**30
    yield "disk", "ok" if free > 1 else "note", f"{free:.1f} GiB free at {place}"
    try:
        with tempfile.TemporaryFile(dir=place):
            yield "runs folder", "ok", f"{runs} can be written"
    except OSError:
        yield "runs folder", "missing", f"{place} cannot be written: choose another with --runs"


def _hub() -> Iterator[Finding]:
    cache = Path(os.environ.get("HF_HOME", os.path.expanduser("~/.cache/huggingface")))  # also where nobody has a home
    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    words = f"cache at {cache}" + (" (nothing in it yet)" if not cache.exists() else "")
    yield "hub", "note", words + ("; offline by HF_HUB_OFFLINE" if offline else "; used by study and paper only")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
