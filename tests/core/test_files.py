"""Files are whole or as they were before, and a folder has one writer."""

from __future__ import annotations

import errno
import json
import ntpath
import os
import signal
import threading
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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"a": "\\ud800"}', "surrogates"),
        (b'"\xed\xa0\x80"', "can't decode"),
        (b"", "Expecting value"),
        (b"9" * 5000, "not valid JSON"),
    ],
)
def test_json_that_is_none_is_one_sentence(content, words, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        files.read_json(tmp_path / "a.json")
    assert "delete it and run again" in one_sentence(caught.value)


def test_json_with_escaped_letters_is_read(tmp_path):
    (tmp_path / "a.json").write_text('["\\u00e4", "\\ud83d\\ude00"]')
    assert files.read_json(tmp_path / "a.json") == ["ä", "😀"]


@pytest.mark.parametrize(
    ("name", "words"), [("folder", "is a folder"), ("x" * 5000, "too long"), ("a\0b", "zero byte")]
)
def test_a_path_that_is_no_file_is_one_sentence(name, words, tmp_path):
    (tmp_path / "folder").mkdir()
    for use in (files.read_json, lambda path: files.write_json(path, 1)):
        with pytest.raises(UserError, match=words) as caught:
            use(tmp_path / name)
        assert len(one_sentence(caught.value)) < 300


def test_a_file_is_synced_by_a_handle_that_may_write(tmp_path, monkeypatch):
    """As on Windows, where os.fsync refuses any other."""
    fcntl, real = pytest.importorskip("fcntl"), os.fsync

    def fsync(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        return real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    files.write_json(tmp_path / "a.json", [1])
    assert files.read_json(tmp_path / "a.json") == [1]


def test_a_path_is_shown_from_here_or_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files.shown_path(tmp_path / "runs/a") == os.path.join("runs", "a")
    with monkeypatch.context() as patch:
        patch.setattr(files.os.path, "relpath", lambda path: ntpath.relpath(str(path), "C:\\here"))
        assert files.shown_path("D:\\runs") == "D:\\runs"
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert files.shown_path(tmp_path / "runs") == str(tmp_path / "runs")


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


def test_a_waiting_process_says_so_once_and_goes_in_when_the_folder_is_free(tmp_path, capsys):
    with files.exclusive(tmp_path, wait=5):
        assert capsys.readouterr().out == ""  # nobody to wait for
    lock = files.exclusive(tmp_path)
    lock.__enter__()
    threading.Timer(0.5, lambda: lock.__exit__(None, None, None)).start()
    with files.exclusive(tmp_path, wait=20, note="Waiting for the teacher of another run"):
        assert capsys.readouterr().out == "Waiting for the teacher of another run\n"


def test_whoever_waited_long_enough_is_refused(tmp_path, capsys):
    started = time.monotonic()
    with (
        files.exclusive(tmp_path),
        pytest.raises(UserError, match="Another run is writing into"),
        files.exclusive(tmp_path, wait=0.3),
    ):
        raise AssertionError("both are inside")
    assert 0.3 <= time.monotonic() - started < 10 and "Waiting for another run" in capsys.readouterr().out


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO], ids=errno.errorcode.get)
def test_without_locks_that_fall_a_file_holds_the_folder_and_the_message_names_it(number, tmp_path, monkeypatch):
    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", refuse(number))
    with files.exclusive(tmp_path):
        (held,) = tmp_path.glob(".*")
        assert not can_hold(tmp_path)
    assert can_hold(tmp_path) and not list(tmp_path.glob(".*"))
    held.write_text("1\nanother-machine\n")  # left behind by a process that was killed on another machine
    os.utime(held, (1, 1))
    with pytest.raises(UserError, match="Another run is writing into") as caught, files.exclusive(tmp_path, wait=0.2):
        raise AssertionError("both are inside")
    assert f"if none is at work there, because it was killed, delete {held}." in one_sentence(caught.value)
    held.unlink()
    assert can_hold(tmp_path)


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
