"""What notebooks show: set-up, sources, proofs of agreement, exercises; figures, tables and the board beside them."""

from kdutils.core.machine import print_environment
from kdutils.core.setup import colab_url
from kdutils.notebook.agree import agree
from kdutils.notebook.exercises import check, score
from kdutils.notebook.reading import play, progress, read_parameters, show_source

__all__ = [
    "agree",
    "check",
    "colab_url",
    "play",
    "print_environment",
    "progress",
    "read_parameters",
    "score",
    "show_source",
]
