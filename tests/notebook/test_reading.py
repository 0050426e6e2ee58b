"""The notebooks' helpers: set-up cell, sources, agreement, play, exercises, the form that is committed."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest
import torch
from matplotlib.figure import Figure
from nbclient import NotebookClient

from kdutils import notebook
from kdutils.core.errors import UserError
from kdutils.losses.divergences import symmetric_kl
from kdutils.notebook import agree, exercises, plots, reading
from tests.tiny import one_sentence

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_wish(monkeypatch):
    monkeypatch.delenv("KDUTILS_HEADLESS", raising=False)


def test_the_module_needs_no_jupyter():
    code = (
        "import sys; sys.modules.update(IPython=None, ipywidgets=None, ipykernel=None, nbformat=None);"
        "from kdutils import notebook; notebook.show_source(notebook.score)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "def score() -> None:" in done.stdout


def test_the_environment_is_printed_in_three_lines(capsys):
    notebook.print_environment()
    versions, device, precision = capsys.readouterr().out.splitlines()
    assert (
        f"torch {torch.__version__}" in versions and "thread" in device and precision.startswith("Precision: float32")
    )


# --- headless -----------------------------------------------------------------------------------------------


def test_a_choice_goes_before_the_variable_and_the_variable_before_the_kernel(monkeypatch):
    assert reading.is_headless()  # pytest is no notebook
    monkeypatch.setenv("KDUTILS_HEADLESS", "0")
    assert not reading.is_headless()
    assert reading.is_headless(True)
    monkeypatch.setenv("KDUTILS_HEADLESS", "1")
    assert reading.is_headless() and not reading.is_headless(False)


@pytest.mark.parametrize("asks", [True, False])
def test_a_kernel_that_may_ask_has_a_person_before_it(monkeypatch, asks):
    shell = types.SimpleNamespace(kernel=types.SimpleNamespace(_allow_stdin=asks))
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert reading.is_headless() is not asks


@pytest.mark.parametrize("over", [3, [0, 1, 2]])
def test_progress_hands_on_every_item_and_leaves_nothing_behind(monkeypatch, capsys, over):
    monkeypatch.setenv("KDUTILS_HEADLESS", "1")
    assert list(reading.progress(over, "Reading")) == [0, 1, 2]
    assert list(reading.progress(iter([5]), "Reading")) == [5]
    with reading.progress(2) as bar:
        bar.update(2)
    assert capsys.readouterr() == ("", "")


# --- sources ------------------------------------------------------------------------------------------------


@pytest.fixture
def sent(monkeypatch) -> list:
    """What would go to a front end: (data, metadata) of every output."""
    outputs: list = []
    monkeypatch.setattr(reading, "_display", lambda data, metadata: outputs.append((data, metadata)))
    return outputs


def test_show_source_has_caption_code_and_a_memory_of_what_it_shows(sent):
    reading.show_source(symmetric_kl)
    ((data, metadata),) = sent
    lines = (ROOT / "kdutils/losses/divergences.py").read_text(encoding="utf-8").split("\n")
    line = next(number for number, text in enumerate(lines) if text.startswith("def symmetric_kl("))
    assert data["text/markdown"].startswith(f"`kdutils.losses.divergences`, line {line + 1}:\n\n```python\ndef symm")
    assert data["text/plain"].startswith(f"kdutils.losses.divergences, line {line + 1}:\n\ndef symmetric_kl(")
    assert metadata == {"kdutils": {"source": "kdutils.losses.divergences:symmetric_kl"}}
    assert str(ROOT) not in str(data)


def test_show_source_keeps_a_docstring_with_a_code_block_in_one_piece(sent):
    def fenced():
        """
        ```python
        ```
        """

    reading.show_source(fenced)
    assert sent[0][0]["text/markdown"].count("````") == 2


def test_show_source_refuses_what_has_no_source(sent):
    with pytest.raises(UserError, match="no Python source"):
        reading.show_source(len)


# --- agreement ----------------------------------------------------------------------------------------------

LOGITS = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])
TARGETS = torch.tensor([1, 2])


def by_hand(logits, targets):
    return -sum(torch.log_softmax(row, -1)[t] for row, t in zip(logits, targets, strict=True)) / len(targets)


def test_agree_prints_one_line(capsys):
    agree("Eq. (1)", by_hand, torch.nn.functional.cross_entropy, LOGITS, TARGETS)
    number = r"\d\.\de[+-]\d\d"
    value = by_hand(LOGITS.double(), TARGETS).item()
    expected = (
        rf"Eq\. \(1\): value {value:.4f} agrees \(difference {number}\), "
        rf"gradient agrees \(largest difference {number}\)\n"
    )
    assert re.fullmatch(expected, capsys.readouterr().out)


def test_agree_refuses_another_value_and_names_both_numbers():
    with pytest.raises(AssertionError, match=r"Eq. \(1\): the value is 6\.0.* by hand and 6\.000000001.* they differ"):
        agree("Eq. (1)", lambda x: x.sum(), lambda x: x.sum() + 1e-9, torch.ones(6))


def test_agree_refuses_another_gradient_behind_the_same_value():
    def half_detached(x, y):
        return (x * y.detach()).sum()

    with pytest.raises(AssertionError, match="gradient of floating-point input 2 is 1.0 by hand and 0.0"):
        agree("Eq. (2)", lambda x, y: (x * y).sum(), half_detached, torch.ones(2), torch.ones(2))


def test_agree_refuses_not_a_number_and_another_shape():
    with pytest.raises(AssertionError, match="nan"):
        agree("Eq. (3)", lambda x: x.sum() * torch.nan, lambda x: x.sum() * torch.nan, torch.ones(2))
    with pytest.raises(AssertionError, match=r"shape \(2,\) by hand and \(\)"):
        agree("Eq. (3)", lambda x: x, lambda x: x.sum(), torch.ones(2))


def test_agree_compares_entry_by_entry_and_in_float64(capsys):
    agree("Eq. (4)", lambda x: x.exp(), torch.exp, LOGITS)
    assert "of shape (2, 3) agrees (difference 0.0e+00)" in capsys.readouterr().out
    agree("Eq. (4)", lambda x: x.new_tensor(0.0), lambda x: 0.0 * x.sum().double(), LOGITS.half())
    seen = []
    agree("Eq. (4)", lambda x: seen.append(x.dtype) or x.sum(), torch.sum, LOGITS)
    assert seen == [torch.float64] and LOGITS.grad is None


def test_agree_gives_each_form_its_own_copies():
    def destroys(x, targets):
        targets.zero_()
        return x.sum()

    agree("Eq. (5)", destroys, lambda x, targets: x.sum() * (targets.sum() == 3), LOGITS, TARGETS)
    assert TARGETS.tolist() == [1, 2]


def test_agree_needs_something_to_differentiate():
    with pytest.raises(UserError, match="no floating-point tensor"):
        agree("Eq. (6)", torch.sum, torch.sum, TARGETS)


# --- play ---------------------------------------------------------------------------------------------------


def draw(alpha: float, smooth: bool) -> Figure:
    figure = Figure()
    figure.add_subplot().plot([0, alpha])
    return figure


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(plots, "show", lambda figure, alt: texts.append(alt))
    return texts


def test_play_is_static_where_nobody_can_move_a_slider(shown):
    panels = [{"alpha": 1.0, "smooth": True}, {"alpha": 2.0, "smooth": False}]
    reading.play(draw, panels, alt="A line to {alpha}", alpha=(0.0, 5.0), smooth=True)
    assert shown == ["A line to 1.0", "A line to 2.0"]


def test_play_adds_sliders_in_a_live_kernel(shown, monkeypatch):
    import IPython.display
    import ipywidgets

    panels: list = []
    monkeypatch.setattr(IPython.display, "display", panels.append)
    static = {"alpha": 1.0, "smooth": True}
    reading.play(draw, static, alt="A line", headless=False, alpha=(0.0, 5.0, 0.5), smooth=True)
    assert shown[0] == "A line"
    (panel,) = panels
    slider, box = panel.children[:2]
    assert isinstance(slider, ipywidgets.FloatSlider) and slider.max == 5.0 and not slider.continuous_update
    assert isinstance(box, ipywidgets.Checkbox)


def test_play_refuses_static_values_that_do_not_fit_the_controls(shown):
    with pytest.raises(UserError, match="alpha, beta and the controls alpha"):
        reading.play(draw, {"alpha": 1.0, "beta": 2.0}, alt="A line", alpha=(0, 5))
    assert shown == []


# --- parameters ----------------------------------------------------------------------------------------------


def typed(monkeypatch, injected: str = "", **names) -> dict:
    """The globals of a notebook after its parameters were read, as if papermill had injected a cell."""
    shell = types.SimpleNamespace(user_ns={"In": ["", "preset = 'demo'", injected]})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    reading.read_parameters(names)
    return names


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("seeds", "[1, 2]", [1, 2]), ("seeds", 1, [1]), ("seeds", "3", [3]), ("seeds", (4, 5), [4, 5]),
        ("tasks", "translation", ["translation"]), ("tasks", '["translation"]', ["translation"]),
        ("overrides", '{"alpha": 1}', {"alpha": 1}), ("max_minutes", "5", 5.0), ("max_minutes", 2, 2.0),
        ("runs", "somewhere", "somewhere"), ("preset", "study", "study"),
    ],
)  # fmt: skip
def test_parameters_are_read_as_what_they_stand_for(monkeypatch, name, given, read):
    found = typed(monkeypatch, **{name: given})[name]
    assert found == read and type(found) is type(read)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("max_minutes", "abc"), ("max_minutes", float("nan")), ("max_minutes", True), ("overrides", "alpha=1"),
        ("overrides", [1]), ("runs", 3), ("preset", None), ("overrides", "[1"),
    ],
)  # fmt: skip
def test_parameters_of_another_kind_are_refused_in_one_sentence(monkeypatch, name, given):
    with pytest.raises(UserError) as caught:
        typed(monkeypatch, **{name: given})
    assert one_sentence(caught.value).startswith(f"The parameter '{name}' takes ")


def test_a_parameter_that_the_notebook_does_not_have_is_refused(monkeypatch):
    names = {"preset": "demo", "seeds": [1], "fetch": ["left by another cell"]}
    assert typed(monkeypatch, "# Parameters\nseeds = [1]\n", **names) == names
    with pytest.raises(UserError) as caught:
        typed(monkeypatch, "# Parameters\nseeds = [1]\nalpha = 1\n", **names)
    assert one_sentence(caught.value).startswith("There is no parameter 'alpha'. Known: preset, seeds.")
    with pytest.raises(UserError, match="no parameter 'sedes'. Did you mean 'seeds'"):
        typed(monkeypatch, "# Parameters\nsedes = [1]\n", **names)


# --- exercises ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected", "verdict"),
    [
        (None, 2.0, "not answered yet"),
        (..., lambda f: f(1), "not answered yet"),
        (2.0004, 2.0, "correct"),
        (2.1, 2.0, "not yet. Look at Eq. (4)"),
        (torch.tensor([1.0, 2.0], requires_grad=True), [1, 2], "correct"),
        (torch.zeros(2), 0.0, "not yet. A single number is wanted, the answer has shape (2,). Look at Eq. (4)."),
        ([1, 2], [1, 2, 3], "not yet. Shape (3,) is wanted, the answer has shape (2,)."),
        (0.439, 0.43944, "correct"),
        (0.44, 0.43944, "correct"),
        (0.43, 0.43944, "not yet. Look"),
        (torch.tensor(0.43944, dtype=torch.float32), 0.4394449154, "correct"),
        (0.0032, 0.00318, "correct"),
        (0.0033, 0.00318, "not yet. Look"),
        (1.2, 1.25, "not yet. Look"),
        (0.0, 0.004, "not yet. Look"),
        (960.5, 960.0, "correct"),
        (8, 7, "not yet. Look"),
        ((4, 5), [4, 5], "correct"),
        ("teacher", "teacher", "correct"),
        (1, True, "correct"),
        (lambda x: x + 1, lambda f: f(1) == 2, "correct"),
        (lambda x: x / 0, lambda f: f(1) == 2, "not yet. Checking it raised ZeroDivisionError: division by"),
        ("two", 2.0, "not yet"),
        (object(), {"a": 1}, "not yet"),
    ],
)
def test_check_never_raises(capsys, answer, expected, verdict):
    exercises.check("3.1", answer, expected, hint="Look at Eq. (4).")
    out = capsys.readouterr().out
    assert out.startswith(f"Exercise 3.1: {verdict}") and out.count("\n") == 1


def test_score_counts_the_last_answer_to_each_exercise(capsys, monkeypatch):
    monkeypatch.setattr(exercises, "_answered", {})
    for exercise, answer in [("a", None), ("b", 1), ("b", 2), ("c", 1)]:
        exercises.check(exercise, answer, 2)
    exercises.score()
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 2 exercises tried are correct."


def test_an_exercise_without_an_expected_value_is_one_of_a_paper():
    for name in ("r_drop.alhpa", "r_drop", "nobody.alpha"):
        with pytest.raises(UserError) as caught:
            exercises.check(name, 4)
        assert one_sentence(caught.value).startswith(f"There is no exercise '{name}'.")


def test_score_counts_the_exercises_of_a_paper_too(capsys, monkeypatch):
    monkeypatch.setattr(exercises, "_answered", {})
    for answer in (..., 3, 4):
        exercises.check("r_drop.alpha", answer)
    exercises.score()
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 1 exercises tried are correct."


# --- the committed form; all of it in a real kernel ---------------------------------------------------------


def code(source: str, *tags: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


def test_tidy_takes_out_what_differs_from_run_to_run():
    node = nbformat.v4.new_notebook(cells=[code("1", "parameters"), code("2", "injected-parameters"), code("3")])
    for number, cell in enumerate(node.cells, start=4):
        cell.execution_count = number
        cell.metadata.update(papermill={"duration": 1}, execution={"iopub.status.busy": "now"})
    node.metadata.update(papermill={}, widgets={}, kernelspec={"name": "mine", "display_name": "Mine"})
    wiped = nbformat.v4.new_output("stream", name="stdout", text="\r        \r")
    view = nbformat.v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}})
    kept = nbformat.v4.new_output("execute_result", {"text/plain": "3"}, execution_count=6)
    node.cells[-1].outputs = [wiped, view, kept]
    tidied = reading.tidy(node)
    assert [cell.source for cell in tidied.cells] == ["1", "3"]
    assert [cell.execution_count for cell in tidied.cells] == [1, 2]
    assert tidied.cells[-1].outputs == [{**kept, "execution_count": 2}]
    assert tidied.cells[0].metadata == {"tags": ["parameters"]}
    assert set(tidied.metadata) == {"kernelspec", "language_info"}
    assert tidied.metadata.kernelspec.display_name == "Python 3"


def test_tidy_leaves_no_bar_half_way():
    bar = "lssd, seed 1:  92%|#####4  | 1,109/1,200 [00:30<00:02, 33.34it/s, loss 3.259]\n"
    told = "trained in 36 s: 92% | 3/4 [of it]\n"
    node = nbformat.v4.new_notebook(cells=[code("1"), code("2")])
    for cell, text in zip(node.cells, (bar + told, bar), strict=True):
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
    kept, gone = (cell.outputs for cell in reading.tidy(node).cells)
    assert [output.text for output in kept] == [told] and gone == []


@pytest.mark.skipif(importlib.util.find_spec("ipykernel") is None, reason="needs ipykernel")
def test_in_a_kernel_that_a_runner_started():
    sources = [
        "from matplotlib.figure import Figure\nfrom kdutils import notebook",
        "from kdutils.losses.divergences import kl_divergence",
        "notebook.show_source(kl_divergence)",
        "notebook.play(lambda alpha: Figure(), {'alpha': 1}, alt='Empty at {alpha}', alpha=(0, 5))",
        "from kdutils.notebook.reading import is_headless; print(is_headless())",
    ]
    node = nbformat.v4.new_notebook(cells=[code(source) for source in sources])
    NotebookClient(node, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    *_, source, figure, headless = (cell.outputs for cell in node.cells)
    assert source[0].metadata.kdutils.source == "kdutils.losses.divergences:kl_divergence"
    assert len(figure) == 1 and figure[0].metadata["image/png"].alt == "Empty at 1"
    assert headless[0].text == "True\n"
