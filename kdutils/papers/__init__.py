"""One folder a paper: objective, method, experiment, claims, and what no other paper needs.

>>> from kdutils.papers import r_drop
>>> r_drop.TITLE                                    # at once
>>> r_drop.r_drop_loss, r_drop.EXPERIMENTS          # imports the module that has the name, and torch with it
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def names_in(package: str, *modules: str) -> Callable[[str], Any]:
    """The `__getattr__` of a paper's package: a name is looked up in its modules when it is first asked for."""

    def find(name: str) -> Any:
        for module in modules if not name.startswith("__") else ():
            found = importlib.import_module(f"{package}.{module}")
            if name == module or hasattr(found, name):
                return found if name == module else getattr(found, name)
        raise AttributeError(f"{package} has no '{name}' in its modules {', '.join(modules)}")

    return find
