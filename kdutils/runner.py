"""Notebooks executed headlessly by papermill, and the registry of papers.

>>> execute("r_drop", preset="demo", seeds=[1, 2, 3])

A notebook gets its parameters from papermill; names it does not know are refused before it starts. The executed
copy and a `status.json` lie under `runs/<paper>/<preset>-<digest>/`; a finished one is not executed again unless
the notebook or its parameters changed, and training that is finished is loaded in any case.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import logging
import os
import pkgutil
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import kdutils.papers
from kdutils.core.errors import Paused, UserError, unknown
from kdutils.core.files import HOME, digest, exclusive, file_digest, read_json, write_json, write_text


def runs_folder() -> str:
    """Where notebooks keep their runs: $KDUTILS_RUNS, or the folder runs/ beside kdutils, as seen from here."""
    return os.environ.get("KDUTILS_RUNS") or os.path.relpath(HOME / "runs")


def names() -> list[str]:
    """The papers that have a module, in the order of their notebooks."""
    found = [module.name for module in pkgutil.iter_modules(kdutils.papers.__path__)]
    return sorted(found, key=lambda name: str(notebook_of(name) or name))


def load(name: str) -> ModuleType:
    """The module of a paper. Raises UserError for one that does not exist."""
    if name not in names():
        raise unknown("paper", name, names())
    return importlib.import_module(f"kdutils.papers.{name}")


def notebook_of(name: str) -> Path | None:
    """The notebook of a paper (`notebooks/NN_<name>.ipynb`), or None where the notebooks are not installed."""
    return next(iter(sorted((HOME / "notebooks").glob(f"[0-9][0-9]_{name}.ipynb"))), None)


def all_notebooks() -> list[Path]:
    """Every notebook of the suite, in order."""
    return sorted((HOME / "notebooks").glob("[0-9][0-9]_*.ipynb"))


# --- notebooks ---------------------------------------------------------------------------------------------------


def execute(
    name: str,
    preset: str = "demo",
    seeds: Sequence[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    tasks: Sequence[str] | None = None,
    runs: str | Path = "runs",
    max_minutes: float = 0.0,
) -> Path:
    """Executes a paper's notebook and returns the executed copy.

    With `seeds`, one process a seed and then, if there are several, one that puts together what those computed;
    without, one process with the notebook's own seeds. Raises UserError before anything runs for a bad parameter, and
    after it for a failure, in the words of the notebook; Paused when the time guard stopped it.
    """
    # torch, which a list of the papers does without
    from kdutils.study.experiment import FOLDERS, checked_seeds, resolve

    paper, notebook = load(name), notebook_of(name)
    if notebook is None:
        raise UserError(f"There is no notebook of '{name}' beside kdutils: clone the repository, or use 'train'.")
    overrides, left = dict(overrides or {}), countdown(max_minutes)
    settings = resolve(paper.EXPERIMENTS, preset, overrides, tasks)
    for key in overrides:  # a notebook is executed in its own folder, where a relative path would mean another place
        task, _, setting = key.rpartition(".")
        if setting in FOLDERS:
            overrides[key] = next(one[setting] for of, one in settings.items() if task in ("", of) and setting in one)
    parameters = {"preset": preset, "runs": str(Path(runs).resolve())}
    parameters |= {"overrides": overrides} if overrides else {}
    parameters |= {"tasks": list(tasks)} if tasks else {}
    label = digest({task: one.digest for task, one in settings.items()})[:8]
    folder = Path(runs) / name / f"{preset}-{label}"

    def one(file_name: str, **more: Any) -> Path:
        limit = {"max_minutes": left()} if max_minutes else {}
        return run_notebook(notebook, {**parameters, **more, **limit}, folder / file_name)

    if seeds is None:
        return one(notebook.name)
    executed = [one(f"seed-{seed}.ipynb", seeds=[seed]) for seed in checked_seeds(seeds)]
    return one(notebook.name, seeds=list(seeds)) if len(executed) > 1 else executed[0]


def countdown(minutes: float) -> Callable[[], float]:
    """A function that says how many of these minutes are left from now on: never 0, which would mean no limit.

    With 0 minutes there is no limit and it always says 0. Raises UserError for less, or for what is not a number.
    """
    if not minutes >= 0:
        raise UserError(f"max_minutes must be 0, which means no limit, or more, not {minutes}.")
    started = time.monotonic()
    return lambda: max(round(minutes - (time.monotonic() - started) / 60, 4), 1e-4) if minutes else 0.0


def run_notebook(notebook: Path, parameters: Mapping[str, Any], output: Path) -> Path:
    """Executes one notebook into `output` in a kernel of its own, unless that is done already."""
    check_parameters(notebook, parameters)
    status_file = output.with_suffix(".status.json")
    lasting = {name: value for name, value in parameters.items() if name != "max_minutes"}
    wanted = {"notebook": output.name, "source": file_digest(notebook), "parameters": lasting}
    if output.exists() and _is_done(status_file, wanted):
        print(f"{output}: finished already")
        return output
    started = time.monotonic()
    print(f"{notebook.name}: running{_in_words(parameters)}", flush=True)
    with exclusive(output.parent / f".{output.stem}"):
        write_json(status_file, {**wanted, "status": "running"})  # it stays when the runner is killed
        try:
            _papermill(notebook, output, parameters)
        except UserError as error:
            state = "paused" if isinstance(error, Paused) else "failed"
            write_json(status_file, {**wanted, "status": state, "minutes": _minutes(started), "error": str(error)})
            raise
        write_json(status_file, {**wanted, "status": "ok", "minutes": _minutes(started)})
    print(f"{output}: done in {_minutes(started):.1f} min", flush=True)
    return output


def own_parameters(name: str) -> dict[str, list]:
    """The tasks, arms and seeds that a paper's notebook takes where none are named."""
    known = _parameters(notebook) if (notebook := notebook_of(name)) else {}
    return {key: ast.literal_eval(known[key]["default"]) for key in ("tasks", "arms", "seeds") if key in known}


def _parameters(notebook: Path) -> dict[str, Any]:
    papermill = _installed_papermill()
    try:
        return papermill.inspect_notebook(str(notebook))
    except Exception as error:  # damaged in whatever way
        raise UserError(f"{notebook} is not a notebook that can be run ({_first_line(error)}).") from error


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Raises UserError for a parameter that the notebook does not have; papermill itself would only warn."""
    known = _parameters(notebook)
    for name in parameters:
        if name not in known:
            raise unknown("parameter", name, known)


def refresh(notebook: Path) -> None:
    """Executes a committed notebook with its default parameters and puts the tidied result in its place.

    The executed copy lies under `refresh/` in the folder of runs; the notebook of one that fails stays as it is.
    """
    check_parameters(notebook, {})
    output = Path(runs_folder()).resolve() / "refresh" / notebook.name
    with exclusive(output.parent):
        _papermill(notebook, output, {})
        write_text(notebook, _tidied(output))


def _tidied(executed: Path) -> str:
    import nbformat

    from kdutils.notebook.reading import tidy

    return nbformat.writes(tidy(nbformat.read(executed, as_version=4))).rstrip("\n") + "\n"


def _installed_papermill() -> ModuleType:
    try:
        return importlib.import_module("papermill")
    except ImportError as error:
        raise UserError(
            f"Notebooks are executed by papermill, which cannot be imported ({error}): pip install papermill "
            "ipykernel, or use 'train', which needs no notebook."
        ) from error


def _is_done(status_file: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether this notebook was executed to its end with these parameters. A damaged status says no."""
    try:
        status = dict(read_json(status_file))
    except (UserError, TypeError, ValueError):
        return False
    return status.get("status") == "ok" and {key: status.get(key) for key in wanted} == wanted


def _papermill(notebook: Path, output: Path, parameters: Mapping[str, Any]) -> None:
    papermill = _installed_papermill()
    output.parent.mkdir(parents=True, exist_ok=True)
    with _headless():
        try:
            papermill.execute_notebook(
                str(notebook), str(output), parameters=dict(parameters), cwd=str(notebook.parent),
                kernel_name="python3", progress_bar=False, store_widget_state=False, coalesce_streams=True,
                extra_arguments=["--log-level=CRITICAL"],  # else the kernel warns about its transport
                stdout_file=_HowFar(),
            )  # fmt: skip
        except papermill.PapermillExecutionError as error:
            raise _translated(error, notebook, output) from None
        except Exception as error:  # no kernel to start, one that died: still one sentence
            raise UserError(f"{notebook.name} could not be run: {_reason(error)}; see {output}.") from error


class _HowFar:
    """What a kernel prints, of which the lines that tell how far it is are passed on: a notebook takes minutes."""

    def write(self, text: str) -> None:
        for line in text.splitlines():
            if re.search(r"\d%\||, seed \d+: |trained in \d|^Waiting", line):
                print(f"  {line.strip()}", flush=True)

    def flush(self) -> None:
        """Every line was flushed."""


def _translated(error: Any, notebook: Path, output: Path) -> UserError:
    """The notebook's own sentence where it has one; otherwise which cell failed and where to look."""
    if error.ename == "Paused":
        return Paused(error.evalue)
    if error.ename == "UserError":
        return UserError(error.evalue)
    why = f"{error.ename}: {_first_line(error.evalue)}"
    return UserError(f"{notebook.name} failed in cell [{error.exec_count}] with {why}; see {output}.")


def _reason(error: Exception) -> str:
    if type(error).__name__ == "DeadKernelError":
        return "its kernel died, perhaps for want of memory"
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: Any) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), "no message")


@contextlib.contextmanager
def _headless() -> Iterator[None]:
    """The kernel inherits these: no widgets, and the right to import this very kdutils. Papermill keeps quiet."""
    before, logger = dict(os.environ), logging.getLogger("papermill")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    os.environ["KDUTILS_HEADLESS"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HOME), before.get("PYTHONPATH", "")]))
    if before.get("KDUTILS_RUNS"):  # the kernel starts in another folder
        os.environ["KDUTILS_RUNS"] = str(Path(before["KDUTILS_RUNS"]).resolve())
    try:
        yield
    finally:
        logger.setLevel(level)
        os.environ.clear()
        os.environ.update(before)


def _in_words(parameters: Mapping[str, Any]) -> str:
    return "".join(f", {name}={value}" for name, value in parameters.items() if name != "runs")


def _minutes(started: float) -> float:
    return round((time.monotonic() - started) / 60, 2)
