"""Builds the book into build/book/: `python -m book`, or `make book`, which installs what it needs first.

python -m book                  # all of it; what has not changed is not built again
python -m book 03_r_drop losses # these notebooks and wings only, into build/book-part/, while you write
"""

from __future__ import annotations

import importlib.util
import sys

from book import sources
from kdutils.core.errors import UserError

BUILD = sources.ROOT / "build"


def main(only: list[str]) -> None:
    missing = [name for name in ("sphinx", "myst_nb", "sphinx_book_theme") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"The book needs {', '.join(missing)}: run `make book`, or `pip install -r requirements-book.txt` first."
        )
    name = "book-part" if only else "book"
    source, target = BUILD / f"{name}-sources", BUILD / name
    sources.write(source, only)

    from sphinx.cmd.build import build_main

    strict = [] if only else ["--fail-on-warning"]  # of a part, links into the rest lead nowhere
    places = ["-c", str(sources.BOOK), "-d", str(BUILD / f"{name}-doctrees"), str(source), str(target)]
    if build_main(["-q", "-b", "html", "--keep-going", *strict, *places]):
        raise UserError("The book has the faults that are listed above: mend them where they stand, then build again.")
    print(f"The book is {target / 'index.html'}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"{error}")
