"""Progress where somebody watches and where nobody does."""

from __future__ import annotations

import io
import sys
import types

import pytest

from kdutils.core import progress as p


@pytest.fixture
def quiet_environment(monkeypatch):
    monkeypatch.delenv("KDUTILS_HEADLESS", raising=False)
    return monkeypatch


def pretend_kernel(patch, **attributes):
    shell = types.SimpleNamespace(kernel=types.SimpleNamespace(**attributes))
    patch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))


def test_the_variable_decides_where_it_is_set(quiet_environment):
    assert not p.headless()
    for value, expected in [("1", True), ("true", True), ("0", False), ("no", False), ("False", False)]:
        quiet_environment.setenv("KDUTILS_HEADLESS", value)
        assert p.headless() is expected


def test_a_kernel_that_may_not_ask_is_headless(quiet_environment):
    pretend_kernel(quiet_environment, _allow_stdin=False)
    assert p.headless()
    quiet_environment.setenv("KDUTILS_HEADLESS", "0")
    assert not p.headless()
    quiet_environment.delenv("KDUTILS_HEADLESS")
    quiet_environment.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    assert not p.headless()
    quiet_environment.delitem(sys.modules, "google.colab")
    pretend_kernel(quiet_environment, _allow_stdin=True)
    assert not p.headless()
    quiet_environment.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not p.headless()


def test_headless_progress_is_plain_lines_now_and_then(quiet_environment, monkeypatch):
    quiet_environment.setenv("KDUTILS_HEADLESS", "1")
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    with p.progress(10, "training") as bar:
        for _ in range(10):
            bar.update(1)
    assert out.getvalue() == ""  # shorter than 20 seconds: not a line
    clock = iter(range(0, 10_000, 9))
    with p.progress(10, "training", initial=4) as bar:
        bar._time, bar.delay, bar.miniters = lambda: next(clock), 0, 1
        bar.start_t = bar.last_print_t = 0
        for _ in range(6):
            bar.set_postfix_str("loss 1.5", refresh=False)
            bar.update(1)
    lines = out.getvalue().splitlines()
    assert 1 <= len(lines) <= 3 and all(line.startswith("training:") and "loss 1.5" in line for line in lines)
    assert not any(code in out.getvalue() for code in ("\r", "\x1b"))


def test_progress_in_a_pipe_is_silent(quiet_environment, capfd):
    with p.progress(3, "training") as bar:
        bar.update(3)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_a_bar_of_unknown_length(quiet_environment):
    quiet_environment.setenv("KDUTILS_HEADLESS", "1")
    with p.progress(None, "reading") as bar:
        bar.update(5)
    assert bar.n == 5
