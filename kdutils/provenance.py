"""What a result must carry to be believed: commit, versions, device, time, memory.

>>> provenance()["device"]
'cpu, 2 threads'
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from kdutils import __version__

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "sacrebleu", "numpy")


def provenance() -> dict[str, Any]:
    """Commit of the code, versions, device, command line and date (UTC) of this process."""
    return {
        "commit": commit(),
        "kdutils": __version__,
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "device": device_name(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def device_name() -> str:
    """The device that training uses, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu, {torch.get_num_threads()} threads"


def commit() -> str:
    """The commit of the code, with "+changes" if files differ from it; "unknown" outside a git checkout."""
    here = Path(__file__).resolve().parent
    ours = _git(here, "ls-files", "__init__.py")  # else the checkout around a virtual environment would answer
    found = _git(here, "rev-parse", "--short=12", "HEAD") if ours else ""
    if not found:
        return "unknown"
    return found + ("+changes" if _git(here, "status", "--porcelain", "--", str(here)) else "")


def reset_peak_memory() -> None:
    """Starts a new measurement of the peak memory (GPU only: the system counts a process's whole life)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb() -> float:
    """Megabytes: the most that tensors held on the GPU, or the most that the process held on a CPU machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _git(folder: Path, *arguments: str) -> str:
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set in a hook, for another repository
    quiet = {name: value for name, value in os.environ.items() if name not in elsewhere}
    quiet["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, env=quiet)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
