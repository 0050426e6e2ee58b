"""What a notebook needs besides the science: set-up, sources, proofs of agreement, widgets, exercises.

>>> for batch in progress(batches, "Reading"): ...            # a bar for people, lines for logs
>>> show_source(r_drop_loss)                                  # the code that trains, under its equation
>>> agree("Eq. (4)", by_hand, fast, logits, targets)          # the same value, the same gradient
>>> play(draw, {"alpha": 1.0}, alt="...", alpha=(0, 5, 0.5))  # a static figure, and sliders where they work
>>> check("3.1", answer, expected=2.0, hint="...")            # an exercise; never stops a run

IPython and ipywidgets are imported only where they are used, so a machine without Jupyter can import this.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import inspect
import math
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import kdutils.progress
from kdutils import __version__, plots
from kdutils.errors import UserError

REPOSITORY = "https://github.com/kd-notebooks/kdutils"

# The set-up cell of every notebook, to the letter. It runs before kdutils can be imported.
BOOTSTRAP = f"""\
# On Colab this installs what is missing, changes nothing that is there, and fetches kdutils.
import importlib.metadata
import importlib.util
import pathlib
import subprocess
import sys
import tempfile

names = "torch transformers datasets accelerate tokenizers safetensors sacrebleu sklearn scipy numpy pandas"
names = [*names.split(), "matplotlib", "seaborn", "ipywidgets", "filelock", "tqdm"]
missing = [name for name in names if importlib.util.find_spec(name) is None]
if "torch" in missing:
    raise ImportError("PyTorch is missing: run `make env` in the folder of kdutils, or install torch first.")
if missing:
    packages = [name.replace("sklearn", "scikit-learn") for name in names if name not in missing]
    constraints = pathlib.Path(tempfile.mkdtemp(), "constraints.txt")
    constraints.write_text("\\n".join(f"{{p}}=={{importlib.metadata.version(p)}}" for p in packages))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
    subprocess.run(pip + [name.replace("sklearn", "scikit-learn") for name in missing], check=True)
    importlib.invalidate_caches()
if getattr(importlib.util.find_spec("kdutils"), "origin", None) is None:
    home = pathlib.Path.cwd().parent
    if not (home / "kdutils" / "__init__.py").exists():
        home = pathlib.Path("kdutils-v{__version__}").absolute()
        if not home.exists():
            clone = ["git", "clone", "--quiet", "--depth", "1", "--branch", "v{__version__}"]
            subprocess.run([*clone, "{REPOSITORY}", str(home)], check=True)
    sys.path.insert(0, str(home))

from kdutils.notebook import print_environment

print_environment()
"""


def colab_url(name: str) -> str:
    """The address that opens notebook `name` ("03_r_drop.ipynb") in Colab, as its badge links to."""
    owner_and_name = REPOSITORY.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{owner_and_name}/blob/main/notebooks/{name}"


# --- where we are -------------------------------------------------------------------------------------------


def is_headless(choice: bool | None = None) -> bool:
    """Whether nobody can move a slider: True under papermill, nbval, nbconvert and outside a notebook.

    `choice` decides when it is given, then the environment variable KDUTILS_HEADLESS (1 or 0), then the
    kernel: a front end with a person before it lets a cell ask for input, a runner does not.
    """
    if choice is not None:
        return choice
    if os.environ.get("KDUTILS_HEADLESS"):
        return os.environ["KDUTILS_HEADLESS"].lower() not in ("0", "false", "no")
    return not (getattr(_kernel(), "_allow_stdin", False) or "google.colab" in sys.modules)


def _shell() -> Any:
    """The IPython shell, or None. A shell that was never imported is not running."""
    return getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()


def _kernel() -> Any:
    return getattr(_shell(), "kernel", None)


def _versions() -> str:
    """The versions that decide the numbers; packages that are not installed are left out."""
    found = [f"kdutils {__version__}", f"Python {platform.python_version()}"]
    for package in ("torch", "transformers", "datasets", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(found)


def _device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _device_text(device: torch.device) -> str:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB"
    threads = torch.get_num_threads()
    name = {"cpu": "CPU", "mps": "Apple GPU (mps)"}[device.type]
    return f"{name}, {threads} thread{'s' * (threads != 1)}"


def environment_line() -> str:
    """Versions, device and threads in one line, for logs and reports."""
    return f"{_versions()}; {_device_text(_device())}"


def print_environment() -> None:
    """Prints three lines: the versions, the device, and the precision that it gets with the reason."""
    from kdutils.training import choose_precision

    device = _device()
    _, reason = choose_precision(device)  # the reason begins with the name of the number format
    print(f"Versions:  {_versions()}")
    print(f"Device:    {_device_text(device)}")
    print(f"Precision: {reason}")


def progress(over: Iterable | int, description: str = "") -> tqdm:
    """The bar of `kdutils.progress` over an iterable, or over `range(over)`: iterate over what it returns."""
    iterable = range(over) if isinstance(over, int) else over
    bar = kdutils.progress.progress(len(iterable) if hasattr(iterable, "__len__") else None, description)
    bar.iterable = iterable
    return bar


# --- showing ------------------------------------------------------------------------------------------------


def _display(data: dict[str, str], metadata: dict[str, Any]) -> None:
    """Sends one output in several formats; outside IPython the text alone is printed."""
    if _shell() is None:
        print(data["text/plain"])
        return
    from IPython.display import display

    display(data, metadata=metadata, raw=True)


def show_source(thing: Callable | type) -> None:
    """Displays the source of a function or class as it is installed, under the name of its module and line.

    The output remembers what it shows, so that a test can tell when a saved notebook has fallen behind.
    Raises UserError for something without Python source.
    """
    try:
        lines, first = inspect.getsourcelines(thing)
    except (OSError, TypeError) as error:
        raise UserError(f"{thing!r} has no Python source to show: give a function or a class.") from error
    source = "".join(lines).rstrip()
    thing = inspect.unwrap(thing)
    fence = "````" if "```" in source else "```"
    caption = f"{thing.__module__}, line {first}"
    data = {
        "text/markdown": f"`{thing.__module__}`, line {first}:\n\n{fence}python\n{source}\n{fence}",
        "text/plain": f"{caption}:\n\n{source}",
    }
    _display(data, {"kdutils": {"source": f"{thing.__module__}:{thing.__qualname__}"}})


def play(
    function: Callable[..., Any],
    static: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    alt: str,
    headless: bool | None = None,
    **controls: Any,
) -> None:
    """Draws `function` at the `static` values, and below it with a slider for every control where they work.

    `function(**values)` returns a matplotlib figure. `static` is one dict of values or several, one figure
    each: what readers without a kernel see. `controls` are what ipywidgets' `interact` takes: (low, high,
    step), a list of choices, a bool or a widget. `alt` may name values: "Softmax at a temperature of {t}".
    Raises UserError when `static` does not give every control a value.
    """
    panels = [static] if isinstance(static, Mapping) else list(static)
    for values in panels:
        if set(values) != set(controls):
            raise UserError(
                f"The static values name {', '.join(values) or 'nothing'} and the controls "
                f"{', '.join(controls) or 'nothing'}: give the same names to both."
            )

    def draw(**values: Any) -> None:
        plots.show(function(**values), alt.format(**values))

    for values in panels:
        draw(**values)
    if is_headless(headless) or importlib.util.find_spec("ipywidgets") is None:
        return
    import ipywidgets
    from IPython.display import display

    panel = ipywidgets.interactive(draw, **controls)
    for control in panel.children:
        if hasattr(control, "continuous_update"):
            control.continuous_update = False  # redraw when the slider is let go, not at every pixel
    display(panel)


# --- one objective, written twice ---------------------------------------------------------------------------


def agree(
    name: str, transparent: Callable, fast: Callable, *inputs: Any, rtol: float = 1e-12, atol: float = 1e-14
) -> None:
    """Asserts that two forms of one objective have the same value and the same gradient, and prints so.

    Both are called with copies of `inputs`. Floating-point tensors become float64 leaves whose gradients are
    compared (none at all counts as zero); everything else, such as integer targets and masks, is passed as it
    is. Results of any shape are compared entry by entry, and their gradients through a fixed weighted sum.
    Two numbers agree when they differ by at most `atol` plus `rtol` times the largest entry of the two.
    Raises AssertionError with both numbers where they do not, UserError when no input has a gradient.
    """
    if not any(_differentiable(value) for value in inputs):
        raise UserError(f"{name} has no floating-point tensor among its inputs: give the logits as a tensor.")
    value, gradients = _value_and_gradients(transparent, inputs)
    fast_value, fast_gradients = _value_and_gradients(fast, inputs)
    apart = _difference(f"{name}: the value", value, fast_value, rtol, atol)
    furthest = 0.0
    for number, (ours, theirs) in enumerate(zip(gradients, fast_gradients, strict=True), start=1):
        where = f"{name}: the gradient of floating-point input {number}"
        furthest = max(furthest, _difference(where, ours, theirs, rtol, atol))
    shown = f"{value.item():.4f}" if value.numel() == 1 else f"of shape {tuple(value.shape)}"
    print(f"{name}: value {shown} agrees (difference {apart:.1e}), gradient agrees (largest difference {furthest:.1e})")


def _differentiable(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _value_and_gradients(function: Callable, inputs: Sequence) -> tuple[Tensor, list[Tensor]]:
    """The value on copies of the inputs, and one gradient for each floating-point input."""
    copies = [value.detach().clone() if isinstance(value, Tensor) else value for value in inputs]
    copies = [value.double().requires_grad_() if _differentiable(value) else value for value in copies]
    value = torch.as_tensor(function(*copies))
    leaves = [copy for copy in copies if _differentiable(copy)]
    if value.requires_grad:
        weights = torch.linspace(1.0, 2.0, value.numel(), dtype=value.dtype).reshape(value.shape)
        (value * weights.to(value.device)).sum().backward()
    return value.detach(), [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]


def _difference(what: str, ours: Tensor, theirs: Tensor, rtol: float, atol: float) -> float:
    """The largest difference of two tensors; AssertionError when it is more than rounding or not a number."""
    if ours.shape != theirs.shape:
        raise AssertionError(f"{what} has shape {tuple(ours.shape)} by hand and {tuple(theirs.shape)} in the module")
    if ours.numel() == 0:
        return 0.0
    apart = (ours - theirs).abs()
    allowed = atol + rtol * float(torch.maximum(ours.abs().max(), theirs.abs().max()))
    worst = int(apart.nan_to_num(nan=math.inf).argmax())
    furthest = float(apart.flatten()[worst])
    if not furthest <= allowed:  # written so that NaN fails
        one, other = float(ours.flatten()[worst]), float(theirs.flatten()[worst])
        raise AssertionError(
            f"{what} is {one!r} by hand and {other!r} in the module: "
            f"they differ by {furthest:.1e}, more than rounding ({allowed:.1e})"
        )
    return furthest


# --- exercises ----------------------------------------------------------------------------------------------

_answered: dict[str, bool] = {}


def check(exercise: str, answer: Any, expected: Any, hint: str = "", rtol: float = 1e-3) -> None:
    """Prints whether an answer is right; it never raises, so that an unanswered notebook runs to its end.

    An `answer` that is None or ... counts as not given yet. `expected` is the value itself (numbers and
    arrays are compared to `rtol`) or a predicate that gets the answer. `hint` is printed with a wrong one.
    """
    if answer is None or answer is ...:
        print(f"Exercise {exercise}: not answered yet.")
        return
    try:
        right = bool(expected(answer)) if callable(expected) else _equal(answer, expected, rtol)
        why = hint
    except Exception as error:  # the answer may be any code at all
        right, why = False, f"Checking it raised {type(error).__name__}: {error}. {hint}"
    _answered[exercise] = right
    print(f"Exercise {exercise}: " + ("correct." if right else f"not yet. {why}".rstrip()))


def _equal(answer: Any, expected: Any, rtol: float) -> bool:
    if isinstance(expected, str | bool | Mapping | set):
        return answer == expected
    answer, expected = _array(answer), _array(expected)
    if answer.shape != expected.shape:
        raise ValueError(f"the answer has shape {answer.shape}, expected is {expected.shape}")
    if answer.dtype.kind in "iufcb" and expected.dtype.kind in "iufcb":
        return bool(np.allclose(answer, expected, rtol=rtol, atol=rtol * 1e-3))
    return bool((answer == expected).all())


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)


def score() -> None:
    """Prints how many of the exercises tried in this kernel are right."""
    print(f"{sum(_answered.values())} of {len(_answered)} exercises tried are correct.")


# --- the committed form -------------------------------------------------------------------------------------


def tidy(notebook: Any) -> Any:
    """Turns an executed notebook (an nbformat node), in place, into the form that is committed; returns it.

    Takes out what differs from run to run or from machine to machine and what keeps GitHub from rendering:
    widget state and views, the runner's timings, cells it injected, cleared bars, the name of a local kernel.
    """
    for key in ("widgets", "papermill", "toc", "vscode"):
        notebook.metadata.pop(key, None)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    count = 0
    for cell in notebook.cells:
        for key in ("papermill", "execution", "collapsed", "scrolled", "outputId", "colab"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _disposable(output)]
            count += cell.execution_count is not None
            cell.execution_count = count if cell.execution_count is not None else None
            for output in cell.outputs:
                if "execution_count" in output:
                    output["execution_count"] = cell.execution_count
    return notebook


def _disposable(output: Any) -> bool:
    """A widget without its kernel, or a stream that holds nothing but a bar that was wiped."""
    if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
        return True
    return output.output_type == "stream" and not output.text.strip()
