"""Progress of long work: a bar where somebody watches, one line now and then where nobody does.

>>> with progress(400, "r_drop, seed 1") as bar:
...     bar.update(1)
"""

from __future__ import annotations

import os
import sys

from tqdm import tqdm


def headless() -> bool:
    """Whether nobody watches: the runner sets KDUTILS_HEADLESS=1 for the notebooks it executes."""
    return os.environ.get("KDUTILS_HEADLESS", "") not in ("", "0")


def progress(total: int, description: str, initial: int = 0) -> tqdm:
    """A tqdm bar for `total` steps that vanishes when it is done.

    In a notebook it is a widget; in a terminal a line that redraws itself; headless, a plain line on the standard
    output every 20 seconds, which stays readable in an executed notebook and in a log file.
    """
    options = {"total": total, "desc": description, "initial": initial, "leave": False, "dynamic_ncols": True}
    if headless():
        return tqdm(**{**options, "dynamic_ncols": False}, file=sys.stdout, mininterval=20.0, delay=20.0, ascii=True)
    if _in_notebook():
        from tqdm.auto import tqdm as notebook_tqdm

        return notebook_tqdm(**options)
    return tqdm(**options, mininterval=0.5, delay=0.5, disable=not sys.stderr.isatty())


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and shell.__class__.__name__ != "TerminalInteractiveShell"
