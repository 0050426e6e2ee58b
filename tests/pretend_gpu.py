"""A pretend CUDA device: tensors that say "cuda" and are computed by the CPU, for machines without a GPU.

Faults of a program that is written on a CPU and run on a GPU are mostly faults of bookkeeping: a batch left on the CPU,
a generator of the wrong device, `.numpy()` on a device tensor, a random state that a checkpoint forgets. None of them
needs a GPU to be found; each needs a device whose tensors refuse to mix with those of the CPU. This file makes one in
an ordinary CPU build of torch. A small C++ library (pretend_gpu.cpp), compiled once and kept, registers with torch's
own dispatcher what a CUDA build would register: an allocator, a device guard, hooks, a generator and, in place of
kernels, a fallback that checks the devices of its arguments, lets the CPU compute on the same memory and says that the
result lies on the GPU.
Autograd, autocast, views, `to`, `item`, `numpy`, serialisation and error messages are therefore torch's real ones.

    python tests/pretend_gpu.py --capability 7.5 -m kdutils train r_drop --seeds 1   # a module, as with python -m
    python tests/pretend_gpu.py --capability 9.0 script.py argument                  # a script
    python tests/pretend_gpu.py --capability 7.5 --notebook notebooks/03_r_drop.ipynb --set 'seeds=[1]'
    python tests/pretend_gpu.py --children --capability 7.5 -m kdutils run r_drop    # kernels and subprocesses as well

In a test, by the fixture that every test file has from conftest.py; it skips where there is no C++ compiler:

    def test_training_on_a_t4(gpu):
        gpu(7, 5)                                  # from here to the end of the test torch sees a T4
        assert torch.zeros(2, device="cuda").is_cuda

What it shows
- tensors of two devices in one operation (0-dim CPU numbers and CPU indices may, as on CUDA), the wrong kind of
  generator, numpy() of a device tensor, CPU-only assumptions, what is chosen for compute capability 7.5 or 9.0;
- half precision: autocast takes torch's CUDA lists, float16 overflows at 65504, accelerate's GradScaler skips steps;
- random numbers: the device has its own generator with CUDA's 16-byte state (seed, offset), so a resume that restores
  only the CPU's state differs; results of a rerun are equal to the last bit;
- the count of allocated bytes and its peak: of torch's tensors, without a caching allocator's rounding; a limit
  (`--memory 2`, in GiB) raises torch.OutOfMemoryError; how often the host waits for the device (`report()`, "stops":
  .item(), .tolist(), .cpu(), nonzero() and their like).
What it cannot show
- speed; real memory (workspaces, fragmentation, the context); races between streams; pinned memory; kernels that only
  a GPU has (fused attention takes the mathematical path); device-side assertions (an index out of range is refused at
  once, by the CPU's message); numbers: sums are rounded as the CPU rounds them, and where the CPU has no float16 kernel
  the operation is computed in float32 and rounded (`report()` names these). Several GPUs and torch.compile are absent.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState

NAMES = {(7, 5): "Tesla T4 (pretend)", (8, 0): "NVIDIA A100 (pretend)", (9, 0): "NVIDIA H100 (pretend)"}

CPP = Path(__file__).with_suffix(".cpp").read_text(encoding="utf-8")


# --- the library -----------------------------------------------------------------------------------------------------


def compiler() -> str:
    return os.environ.get("CXX", "g++")


def _device() -> types.ModuleType:
    """The compiled library, built on the first call on this machine (one to two minutes) and kept for later ones."""
    if "pretend_gpu_device" in sys.modules:
        return sys.modules["pretend_gpu_device"]
    if torch.version.cuda or torch.version.hip:
        raise RuntimeError("A pretend GPU needs the CPU build of torch; this one was built for real ones.")
    site, python = Path(torch.__file__).parent, sysconfig.get_paths()["include"]
    named = hashlib.sha256(f"{CPP}{torch.__version__}{site}{sys.version}".encode()).hexdigest()[:16]
    kept = Path(os.environ.get("PRETEND_GPU_CACHE") or Path.home() / ".cache/pretend_gpu") / named
    library = kept / "pretend_gpu_device.so"
    if not library.exists():
        kept.mkdir(parents=True, exist_ok=True)
        (kept / "device.cpp").write_text(CPP, encoding="utf-8")
        half_made = kept / f"{os.getpid()}.so"
        print(f"pretend_gpu: compiling {library}, once", file=sys.stderr)
        command = [
            compiler(), "-std=c++20", "-O1", "-fPIC", "-shared", "-w", str(kept / "device.cpp"),
            "-DTORCH_EXTENSION_NAME=pretend_gpu_device", "-D_GLIBCXX_USE_CXX11_ABI=1",
            f"-I{site}/include", f"-I{site}/include/torch/csrc/api/include", f"-I{python}", "-o", str(half_made),
            f"-L{site}/lib", "-ltorch_cpu", "-ltorch_python", "-lc10", "-ltorch", f"-Wl,-rpath,{site}/lib",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError("The library does not compile with this torch:\n" + done.stderr[-4000:])
        half_made.replace(library)
    spec = importlib.util.spec_from_file_location("pretend_gpu_device", library)
    module = importlib.util.module_from_spec(spec)
    sys.modules["pretend_gpu_device"] = module
    spec.loader.exec_module(module)
    return module


# --- torch.cuda ------------------------------------------------------------------------------------------------------

_changed: list[tuple[Any, str, bool, Any]] = []  # (where, name, whether it was there, what it was)


def _change(where: Any, **attributes: Any) -> None:
    for name, value in attributes.items():
        _changed.append((where, name, name in vars(where), vars(where).get(name)))
        setattr(where, name, value)


def _new_storage(cls: type, *args: Any, device: Any = None, **options: Any) -> Any:
    """torch.UntypedStorage(size, device="cuda"), which a CPU build refuses; torch.load and copy.deepcopy ask for it."""
    if device is not None and torch.device(device).type == "cuda":
        return torch.empty(args[0] if args else 0, dtype=torch.uint8, device=device).untyped_storage()
    options |= {} if device is None else {"device": device}
    return torch._C.StorageBase.__new__(cls, *args, **options)


class _Stream:
    """The one queue of the device, which is always empty: the CPU has already computed."""

    device, stream_id, device_index, device_type, cuda_stream, priority = torch.device("cuda", 0), 0, 0, 1, 0, 0

    def __init__(self, *args: Any, **options: Any) -> None: ...
    def wait_event(self, event: Any) -> None: ...
    def wait_stream(self, stream: Any) -> None: ...
    def synchronize(self) -> None: ...
    def query(self) -> bool:
        return True

    def record_event(self, event: Any = None) -> Any:
        return event or _Event()


class _Event:
    """A moment that has always passed."""

    def __init__(self, *args: Any, **options: Any) -> None: ...
    def record(self, stream: Any = None) -> None: ...
    def wait(self, stream: Any = None) -> None: ...
    def synchronize(self) -> None: ...
    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Any) -> float:
        return 0.0


def install(capability: tuple[int, int] = (7, 5), memory: float = 15.0, name: str = "") -> types.ModuleType:
    """From here on torch sees one GPU of this compute capability, with so many GiB; `remove` takes it out again."""
    remove()
    device = _device()
    total = int(memory * 2**30)
    device.exchange_hooks(True)
    device.set_limit(total)
    device.reset_peak()
    properties = types.SimpleNamespace(
        name=name or NAMES.get(capability, "GPU (pretend)"), major=capability[0], minor=capability[1],
        total_memory=total, multi_processor_count=40, warp_size=32, is_integrated=0, is_multi_gpu_board=0,
        regs_per_multiprocessor=65536, max_threads_per_multi_processor=1024, L2_cache_size=4 * 2**20,
        gcnArchName="", uuid="pretend", pci_bus_id=0, pci_device_id=0, pci_domain_id=0,
    )  # fmt: skip

    def statistics(_: int) -> dict[str, Any]:
        now, most = device.allocated(), device.peak()
        bytes_ = {"all": {"current": now, "peak": most, "allocated": most, "freed": most - now}}
        return {"allocated_bytes": bytes_, "reserved_bytes": bytes_, "active_bytes": bytes_, "num_ooms": 0}

    nothing = lambda *args, **options: None  # noqa: E731
    zero = lambda *args, **options: 0  # noqa: E731
    _change(
        torch._C, _has_cuda=True, _cuda_init=nothing, _cuda_getDeviceCount=lambda: 1, _cuda_getDevice=zero,
        _cuda_setDevice=nothing, _cuda_synchronize=nothing, _cuda_emptyCache=nothing, _cuda_ipc_collect=nothing,
        _cuda_memoryStats=statistics, _cuda_resetPeakMemoryStats=lambda _: device.reset_peak(),
        _cuda_resetAccumulatedMemoryStats=nothing, _cuda_getCurrentRawStream=zero,
        _cuda_hasPrimaryContext=lambda _: True,
        _cuda_getArchFlags=lambda: f"sm_{capability[0]}{capability[1]}", _cuda_getAllocatorBackend=lambda: "native",
        _cuda_setMemoryFraction=nothing, _cuda_set_sync_debug_mode=nothing, _cuda_get_sync_debug_mode=zero,
        _cuda_getCompiledVersion=lambda: 12080,
    )  # fmt: skip
    runtime = types.SimpleNamespace(
        cudaMemGetInfo=lambda _: (total - device.allocated(), total), cudaGetErrorString=str, cudaError=int
    )
    stream = _Stream()
    _change(
        torch.cuda, _cudart=runtime, _exchange_device=zero, _maybe_exchange_device=zero, _cached_device_count=1,
        default_generators=(device.default_generator(),), _get_device_properties=lambda _: properties,
        _device_count_nvml=lambda: 1, Stream=_Stream, Event=_Event, current_stream=lambda _=None: stream,
        default_stream=lambda _=None: stream, set_stream=nothing,
        stream=lambda _: contextlib.nullcontext(),
    )  # fmt: skip
    _change(torch.version, cuda="12.8")
    _change(torch.UntypedStorage, __new__=_new_storage)
    _change(torch.cuda, _initialized=torch.cuda._initialized, _queued_calls=list(torch.cuda._queued_calls))
    _forget()
    torch.cuda.init()
    return device


def remove() -> None:
    """Takes the GPU out: torch says again that there is none."""
    if _changed:
        _device().exchange_hooks(False)
        _device().set_limit(0)
        for where, name, there, value in reversed(_changed):
            if there:
                setattr(where, name, value)
            else:
                delattr(where, name)
        _changed.clear()
        _forget()


def _forget() -> None:
    """Libraries remember which device they found; now they look again."""
    torch.cuda._check_bf16_tensor_supported.cache_clear()
    for module in ("transformers.utils.import_utils", "accelerate.utils.imports", "accelerate.utils.environment"):
        for function in vars(sys.modules.get(module, object)).copy().values() if module in sys.modules else ():
            if callable(getattr(function, "cache_clear", None)):
                function.cache_clear()
    state = sys.modules.get("accelerate.state")
    if state is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)


def report() -> dict[str, Any]:
    """What happened on the device: bytes, stops of the queue, operations that were computed in a wider format."""
    device = _device()
    return {
        "peak_mb": round(device.peak() / 2**20, 2), "allocated_mb": round(device.allocated() / 2**20, 2),
        "stops": device.stops(), "widened": device.widened(),
    }  # fmt: skip


def skip_without_compiler() -> None:
    if torch.version.cuda or torch.version.hip or not shutil.which(compiler()):
        pytest.skip("A pretend GPU needs a CPU build of torch and a C++ compiler.")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """`gpu(7, 5)` or `gpu(9, 0, memory=0.5)`: from there to the end of the test, torch sees such a GPU."""
    skip_without_compiler()
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    yield lambda major=7, minor=5, **options: install((major, minor), **options)
    remove()
    PartialState(cpu=True)  # as conftest.py has it


# --- the command line ------------------------------------------------------------------------------------------------


def run_notebook(path: Path, settings: list[str], keep_going: bool = False) -> int:
    """Runs the code cells in this process, with settings after the cell tagged "parameters"; the number of failures."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.display_formatter.active_types = shell.display_formatter.format_types  # so that pictures are drawn
    os.chdir(path.parent)
    sys.path.insert(0, str(path.parent))
    failures = 0
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] != "code":
            continue
        outcome = shell.run_cell("".join(cell["source"]), store_history=False)
        if "parameters" in cell["metadata"].get("tags", []):
            shell.run_cell("\n".join(settings), store_history=False)
        if not outcome.success:
            failures += 1
            error = outcome.error_before_exec or outcome.error_in_exec
            print(f"\npretend_gpu: {path.name}, cell {number}: {type(error).__name__}: {error}", flush=True)
            if not keep_going:
                break
    return failures


def _for_children(arguments: argparse.Namespace) -> None:
    """Every Python that this process starts installs the same GPU, by a sitecustomize on its path."""
    folder = Path(tempfile.mkdtemp(prefix="pretend_gpu-"))
    major, minor = arguments.capability
    (folder / "sitecustomize.py").write_text(
        f"import os, sys\nsys.path.append({str(Path(__file__).resolve().parent)!r})\n"
        "if os.environ.get('CUDA_VISIBLE_DEVICES', '0') not in ('', '-1'):\n"
        f"    import pretend_gpu\n    pretend_gpu.install(({major}, {minor}), memory={arguments.memory})\n"
    )
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a program on a pretend GPU.", allow_abbrev=False)
    parser.add_argument("--capability", default="7.5", type=lambda text: tuple(map(int, text.split("."))))
    parser.add_argument("--memory", default=15.0, type=float, help="GiB")
    parser.add_argument("--cpu", action="store_true", help="the same without the GPU, to compare")
    parser.add_argument("--children", action="store_true", help="for the Python processes that the program starts too")
    parser.add_argument("--report", action="store_true", help="say at the end what happened on the device")
    parser.add_argument("--notebook", type=Path, help="run the code of a notebook in this process")
    parser.add_argument("--set", nargs="*", default=[], help="with --notebook: lines run after the parameters")
    parser.add_argument("--keep-going", action="store_true", help="with --notebook: go on after a cell that fails")
    parser.add_argument("-m", dest="module", help="run a module; what follows is its own")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="a script and its arguments")
    own, rest = sys.argv[1:], []
    if "-m" in own:  # whatever follows the module is not for this parser
        place = own.index("-m") + 2
        own, rest = own[:place], own[place:]
    arguments = parser.parse_args(own)
    if not arguments.cpu:
        install(arguments.capability, arguments.memory)
    if arguments.children and not arguments.cpu:
        _for_children(arguments)
    sys.modules["pretend_gpu"] = sys.modules["__main__"]
    try:
        if arguments.notebook:
            return run_notebook(arguments.notebook.resolve(), arguments.set, arguments.keep_going)
        if arguments.module:
            sys.argv = [arguments.module, *rest]
            sys.path[0] = os.getcwd()
            runpy.run_module(arguments.module, run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments.rest
            sys.path[0] = str(Path(arguments.rest[0]).resolve().parent)
            runpy.run_path(arguments.rest[0], run_name="__main__")
    finally:
        if arguments.report:
            print(f"pretend_gpu: {report()}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
