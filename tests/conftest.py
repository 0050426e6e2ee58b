"""What every test file shares: no test touches the network; those on real data skip where there is none."""

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before a library of the hub is imported

from accelerate import PartialState

from tests.corpus_files import labelled, pairs, write
from tests.pretend_gpu import gpu  # noqa: F401

torch.set_num_threads(1)  # the tensors are tiny, and on a busy machine threads wait for each other
PartialState(cpu=True)  # what is promised to the last bit is promised for the CPU, also where there is a GPU


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real data sets: KDUTILS_DATA, or shared/data beside the checkout."""
    named = os.environ.get("KDUTILS_DATA")
    if named:
        assert Path(named).is_dir(), f"KDUTILS_DATA is {named}, which is not a folder."
        return Path(named)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not beside.is_dir():
        pytest.skip("There are no real data sets here: set KDUTILS_DATA to the folder that holds them.")
    return beside


@pytest.fixture
def translation_folder(tmp_path: Path) -> Path:
    """A folder of German-English files."""
    for split, n, start in [("train", 40, 0), ("validation", 5, 100), ("test", 6, 200)]:
        write(tmp_path / f"tiny/de-en.{split}.jsonl.gz", pairs(n, start))
    return tmp_path / "tiny"


@pytest.fixture
def classification_folder(tmp_path: Path) -> Path:
    """A folder of texts with the labels 0 and 1 in turn."""
    for split, n, start in [("train", 40, 0), ("validation", 5, 100), ("test", 6, 200)]:
        write(tmp_path / f"mood/{split}.jsonl", labelled(n, start=start))
    return tmp_path / "mood"


@pytest.fixture(scope="module")
def few_questions():
    """One question of the truth a split: the grammar takes its time for each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdutils.tasks.masked_lm.QUESTIONS", 1)
        yield


@pytest.fixture
def same_draws():
    """torch's random numbers begin at the same place in every test."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# Files that train, and take longest: they come first, so that no process is still at one when the others have ended.
LONGEST = (
    "*/test_on_a_gpu.py",
    "training/test_checkpoints.py",
    "training/*.py",
    "papers/*/test_experiment.py",
    "study/*.py",
    "tasks/*.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what must run apart and puts it first, then the files of LONGEST in their order; marks select afterwards.

    Autograd asks once in a process which devices there are: a pretend GPU must come before any backward pass.
    """
    for item in items:
        if "gpu" in getattr(item, "fixturenames", ()):
            item.add_marker("apart")

    def order(item: pytest.Item) -> int:
        if item.get_closest_marker("apart"):
            return -1
        return next((n for n, pattern in enumerate(LONGEST) if item.path.match(pattern)), len(LONGEST))

    items.sort(key=order)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Names of tests that are the same in every process: no address of a function, no bytes that hold a time."""
    if isinstance(val, bytes):
        return "bytes"
    return val.__name__ if callable(val) and hasattr(val, "__name__") else None
