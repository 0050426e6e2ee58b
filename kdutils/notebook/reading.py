"""What a notebook needs besides the science: set-up, bars, the sources that it shows, widgets.

>>> for batch in progress(batches, "Reading"): ...            # a bar for people, lines for logs
>>> show_source(r_drop_loss)                                  # the code that trains, under its equation
>>> play(draw, {"alpha": 1.0}, alt="...", alpha=(0, 5, 0.5))  # a static figure, and sliders where they work

IPython and ipywidgets are imported only where they are used, so a machine without Jupyter can import this.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from kdutils.core import progress as bars
from kdutils.core.errors import UserError, unknown
from kdutils.notebook import plots
from kdutils.study.experiment import checked_seeds

# the parameters of the notebooks, and what they are
KINDS = {
    "preset": str,
    "tasks": list,
    "arms": list,
    "seeds": list,
    "overrides": dict,
    "runs": str,
    "results": str,
    "max_minutes": float,
}


# --- where we are -------------------------------------------------------------------------------------------


def is_headless(choice: bool | None = None) -> bool:
    """Whether nobody can move a slider: True under papermill, nbval, nbconvert and outside a notebook.

    `choice` decides when it is given, then the environment variable KDUTILS_HEADLESS (1 or 0), then the kernel.
    """
    return choice if choice is not None else bars.headless(outside=True)


def progress(over: Iterable | int, description: str = "") -> tqdm:
    """The bar of `kdutils.core.progress` over an iterable, or over `range(over)`: iterate over what it returns."""
    iterable = range(over) if isinstance(over, int) else over
    bar = bars.progress(len(iterable) if hasattr(iterable, "__len__") else None, description)
    bar.iterable = iterable
    return bar


def read_parameters(names: dict[str, Any]) -> None:
    """Reads and checks a notebook's parameters in its `globals()`, in the cell after them, before anything is computed.

    A command line gives texts: `seeds` "[1, 2]" or 1, `tasks` "translation", `overrides` '{"alpha": 1}', `max_minutes`
    "5" become what they stand for. Raises UserError for a value of another kind, and for a parameter that papermill
    was given and the notebook does not have: papermill itself warns and runs the default.
    """
    known = [name for name in KINDS if name in names]
    for cell in (getattr(bars.shell(), "user_ns", None) or {}).get("In", []):
        if cell.startswith("# Parameters\n"):  # papermill's own cell
            given = [part.targets[0].id for part in ast.parse(cell).body if isinstance(part, ast.Assign)]
            for name in given:
                if name not in known:
                    raise unknown("parameter", name, known)
    for name in known:
        names[name] = _as(KINDS[name], name, names[name])
    if "seeds" in known:
        checked_seeds(names["seeds"])


def _as(kind: type, name: str, value: Any) -> Any:
    """A parameter as what it stands for."""
    if isinstance(value, str) and kind is not str:
        try:
            value = json.loads(value)
        except ValueError:
            value = [value] if kind is list else value
    if kind is list:
        value = [*value] if isinstance(value, list | tuple) else [value]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or value != value:
        such = {
            list: "a list, such as [1, 2]",
            dict: "a dictionary, such as {'alpha': 1}",
            float: "a number",
            str: "text",
        }
        raise UserError(f"The parameter '{name}' takes {such[kind]}, not {value!r}.")
    return value


# --- showing ------------------------------------------------------------------------------------------------


def _display(data: dict[str, str], metadata: dict[str, Any]) -> None:
    """Sends one output in several formats; outside IPython the text alone is printed."""
    if bars.shell() is None:
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
        if hasattr(control, "style"):
            control.style.description_width = "initial"  # the whole name of a setting, not its first letters
    display(panel)


# --- the committed form -------------------------------------------------------------------------------------


BAR = re.compile(r"\d%\|.*\| [\d,]+/[\d,]+ \[")  # a line of tqdm, half-way: says nothing once the cell has ended


def tidy(notebook: Any) -> Any:
    """Turns an executed notebook (an nbformat node), in place, into the form that is committed; returns it.

    Takes out what differs from run to run or from machine to machine and what keeps GitHub from rendering:
    widget state and views, the runner's timings, cells it injected, bars half-way or cleared, the name of a local
    kernel, and the second copy of a figure whose HTML holds it already.
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
            for output in cell.outputs:
                if output.output_type == "stream":
                    output.text = "".join(filter(lambda line: not BAR.search(line), output.text.splitlines(True)))
            cell.outputs = [output for output in cell.outputs if not _disposable(output)]
            count += cell.execution_count is not None
            cell.execution_count = count if cell.execution_count is not None else None
            for output in cell.outputs:
                if output.get("data", {}).get("text/html", "").startswith("<img "):
                    output.data.pop("image/png", None)
                    output.metadata.pop("image/png", None)
                if "execution_count" in output:
                    output["execution_count"] = cell.execution_count
    return notebook


def _disposable(output: Any) -> bool:
    """A widget without its kernel, or a stream that holds nothing but a bar that was wiped."""
    if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
        return True
    return output.output_type == "stream" and not output.text.strip()
