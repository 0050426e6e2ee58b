"""Files are whole or as they were before, and a folder has one writer."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from pathlib import Path

import pytest

from kdutils.core import files
from kdutils.core.errors import Paused, UserError, unknown
from tests.tiny import hold_the_folder, one_sentence, started, write_without_end


@pytest.fixture
def processes():
    return started()


def refuse(number: int):
    def raise_error(*arguments, **options):
        raise OSError(number, os.strerror(number))

    return raise_error


# ---------------------------------------------------------------- atomic writing


def test_text_and_json_come_back(tmp_path):
    value = {"ä": [1, 2.5, None, True, "한국어"], "z": {}, "a": 1}
    files.write_json(tmp_path / "new/folder/value.json", value)
    assert files.read_json(tmp_path / "new/folder/value.json") == value
    text = (tmp_path / "new/folder/value.json").read_text(encoding="utf-8")
    assert "한국어" in text and text.endswith("\n") and list(json.loads(text)) == ["ä", "z", "a"]
    files.write_text(tmp_path / "t.txt", "ein\nzwei €")
    assert (tmp_path / "t.txt").read_bytes() == "ein\nzwei €".encode()
    assert os.listdir(tmp_path / "new/folder") == ["value.json"]


def test_a_value_that_json_cannot_hold_leaves_the_old_file(tmp_path):
    files.write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "a.json", {"set": {1}})
    assert files.read_json(tmp_path / "a.json") == 1 and os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    "place", ["pathlib.Path.write_text", "kdutils.core.files.os.fsync", "kdutils.core.files.os.replace"]
)
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "disk is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "cannot be written"),
        (errno.EIO, "could not be read or written"),
    ],
)
def test_a_disk_that_refuses_is_one_sentence_and_the_old_content_stays(place, number, words, tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(place, refuse(number))
        with pytest.raises(UserError, match=words) as caught:
            files.write_json(path, "new")
    assert str(path) in one_sentence(caught.value)
    assert files.read_json(path) == "old" and os.listdir(tmp_path) == ["a.json"]


def test_a_file_in_the_way_of_a_folder(tmp_path):
    (tmp_path / "runs").write_text("I am a file.")
    for write in (
        lambda: files.write_text(tmp_path / "runs/a/b.txt", "x"),
        lambda: files.write_text(tmp_path / "runs/b.txt", "x"),
        lambda: files.make_folder(tmp_path / "runs"),
        lambda: files.exclusive(tmp_path / "runs").__enter__(),
    ):
        with pytest.raises(UserError, match="a file stands in its way") as caught:
            write()
        one_sentence(caught.value)
    assert (tmp_path / "runs").read_text() == "I am a file."


def test_a_folder_in_the_way_of_a_file(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(UserError) as caught:
        files.write_json(tmp_path / "a.json", 1)
    one_sentence(caught.value)
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="cannot be written"):
            files.write_text(tmp_path / "a.txt", "x")
    finally:
        tmp_path.chmod(0o700)


def test_reading_what_is_not_there_or_not_json(tmp_path):
    with pytest.raises(UserError, match="does not exist") as caught:
        files.read_json(tmp_path / "a.json")
    one_sentence(caught.value)
    (tmp_path / "a.json").write_text('{"half": ')
    with pytest.raises(UserError, match="not valid JSON") as caught:
        files.read_json(tmp_path / "a.json")
    one_sentence(caught.value)
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not valid JSON"):
        files.read_json(tmp_path / "b.json")


def test_a_reader_never_sees_a_part_however_often_the_writer_is_killed(processes, tmp_path):
    path = tmp_path / "much.json"
    for _ in range(3):
        writer = processes.start(write_without_end, path=str(path))
        wait_for(path.exists)
        for _ in range(10):
            value = files.read_json(path)
            assert value["text"] == str(value["number"] % 10) * 20_000
        os.kill(writer, signal.SIGKILL)
        files.read_json(path)


# ---------------------------------------------------------------- digests


def test_a_digest_tells_parts_apart_and_does_not_mind_the_order_of_keys():
    assert files.digest("ab", "c") != files.digest("a", "bc") != files.digest("abc")
    assert files.digest({"a": 1, "b": [2]}) == files.digest({"b": [2], "a": 1})
    assert files.digest(b"ab") == files.digest("ab") and len(files.digest("x")) == 64
    assert files.digest() != files.digest("") and files.digest(1) != files.digest(1.5)


def test_a_file_digest_is_that_of_its_bytes(tmp_path):
    import hashlib

    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert files.file_digest(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


# ---------------------------------------------------------------- one writer


def wait_for(what, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.01)


def test_a_second_process_is_refused_and_the_first_goes_on(processes, tmp_path):
    holder = processes.start(hold_the_folder, folder=str(tmp_path / "run"))
    wait_for((tmp_path / "run/held").exists)
    for _ in range(2):
        with pytest.raises(UserError, match="Another run is writing into") as caught, files.exclusive(tmp_path / "run"):
            raise AssertionError("both are inside")
        assert str(tmp_path / "run") in one_sentence(caught.value)
    counted = int((tmp_path / "run/held").read_text())
    wait_for(lambda: int((tmp_path / "run/held").read_text() or 0) > counted)  # it is still at work
    with files.exclusive(tmp_path / "other"):
        pass
    os.kill(holder, signal.SIGKILL)
    wait_for(lambda: can_hold(tmp_path / "run"))


def can_hold(folder: Path) -> bool:
    try:
        with files.exclusive(folder):
            return True
    except UserError:
        return False


def test_the_lock_is_free_after_the_block_and_after_an_error_in_it(tmp_path):
    with files.exclusive(tmp_path) as folder:
        assert folder == tmp_path
        assert not can_hold(tmp_path)  # nor twice in one process: two notebooks of one kernel
    with pytest.raises(ZeroDivisionError), files.exclusive(tmp_path):
        raise ZeroDivisionError
    assert can_hold(tmp_path)


def test_an_error_inside_the_block_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), files.exclusive(tmp_path):
        (tmp_path / "missing").read_text()


# ---------------------------------------------------------------- the sentences


def test_an_unknown_name_gets_the_nearest_one():
    assert str(unknown("preset", "dmeo", ["demo", "study"])) == (
        "There is no preset 'dmeo'. Did you mean 'demo'? Known: demo, study."
    )
    assert str(unknown("arm", "xyz", [])) == "There is no arm 'xyz'. Known: none."
    assert str(unknown("seed", 3, [1, 2])) == "There is no seed '3'. Known: 1, 2."


def test_a_notebook_shows_the_sentence_alone():
    assert UserError("Do this.")._render_traceback_() == ["UserError: Do this."]
    assert Paused("Later.")._render_traceback_() == ["Paused: Later."]
