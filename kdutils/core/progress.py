"""Progress of long work: a bar where somebody watches, one line now and then where nobody does.

>>> with progress(400, "r_drop, seed 1") as bar:
...     bar.update(1)
"""

from __future__ import annotations

import math
import os
import sys

from tqdm import tqdm


def headless(outside: bool = False) -> bool:
    """Whether nobody watches: under papermill, nbval and nbconvert; KDUTILS_HEADLESS=1 or 0 decides where set.

    A front end with a person before it lets a cell ask for input; a runner does not. `outside`: what is said where
    there is no notebook at all.
    """
    if os.environ.get("KDUTILS_HEADLESS"):
        return os.environ["KDUTILS_HEADLESS"].lower() not in ("0", "false", "no")
    kernel = getattr(shell(), "kernel", None)
    if kernel is None:
        return outside
    return not (getattr(kernel, "_allow_stdin", False) or "google.colab" in sys.modules)


def progress(total: int | None, description: str, initial: int = 0) -> tqdm:
    """A tqdm bar for `total` steps that vanishes when it is done.

    In a notebook it is a widget; in a terminal a line that redraws itself; headless, one plain line on the
    standard output every 20 seconds, which reads well in an executed notebook and in a log file.
    """
    options = {"total": total, "desc": description, "initial": initial, "leave": False}
    if headless():
        return _Lines(**options, file=sys.stdout, mininterval=20.0, delay=20.0, ascii=True, ncols=100)
    if shell() is not None and shell().__class__.__name__ != "TerminalInteractiveShell":
        from tqdm.auto import tqdm as notebook_tqdm

        return notebook_tqdm(**options, dynamic_ncols=True)
    return tqdm(**options, dynamic_ncols=True, mininterval=0.5, delay=0.5, disable=not sys.stderr.isatty())


class _Lines(tqdm):
    """A bar that is printed line under line instead of over itself, and leaves without a trace of control codes."""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        text = self.__str__() if msg is None else msg
        if text.strip():
            self.fp.write(text.strip() + "\n")
        return True

    def close(self) -> None:
        self.delay = math.inf  # else tqdm draws once more to wipe the line
        super().close()


def shell() -> object | None:
    """The IPython shell, or None. A shell that was never imported is not running."""
    return getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
