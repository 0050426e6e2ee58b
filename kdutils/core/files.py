"""Files that are never half written: atomic text and JSON, digests, one writer to a folder.

>>> write_json("runs/demo/metrics.json", {"bleu": 31.4})
>>> with exclusive("runs/demo"):
...     ...  # a second process that tries the same gets a UserError
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from kdutils.core.errors import UserError

HOME = Path(__file__).resolve().parents[2]  # the folder with notebooks/ and results/

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None


@contextlib.contextmanager
def explained(path: str | os.PathLike) -> Iterator[None]:
    """Turns the operating system's refusals (disk full, read-only, no permission) into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(_sentence(error, path)) from error
    except ValueError as error:
        if "null" not in str(error):
            raise
        raise UserError(f"{str(path)!r} is no path, because a zero byte is in it.") from error


def _sentence(error: OSError, path: str | os.PathLike) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"The disk is full at {path}: free some space and run the same command again; finished work is kept."
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{path} cannot be written (read-only or no permission): choose another folder with --runs."
    if isinstance(error, FileNotFoundError):
        return f"{path} does not exist: check the path."
    if isinstance(error, IsADirectoryError):
        return f"{path} is a folder, where a file should be: move it out of the way and run again."
    if error.errno == errno.ENAMETOOLONG:
        return f"The path {str(path)[:60]}... is too long for this system: choose a shorter one."
    if isinstance(error, NotADirectoryError | FileExistsError):
        return f"{path} cannot be a folder because a file stands in its way: choose another folder with --runs."
    return f"{path} could not be read or written ({error.strerror or error})."


def make_folder(path: str | os.PathLike) -> Path:
    """Creates a folder with its parents and returns it."""
    with explained(path):
        Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on a clean exit it is flushed to the disk and renamed to it.

    Whoever reads `path` sees the old content or the new, never a part, however the process ends.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explained(path):
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def sync(path: str | os.PathLike) -> None:
    """Waits until the content of a file has reached the disk."""
    with open(path, "r+b") as stream:  # Windows syncs only what is open for writing
        os.fsync(stream.fileno())


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes JSON atomically, indented, with a stable order of keys as given."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=True) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Reads JSON. Raises UserError when the file is missing or is not JSON that can be written again."""
    with explained(path):
        content = Path(path).read_bytes()
    try:
        value = json.loads(content.decode("utf-8"))
        if b"\\u" in content:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair is no text
        return value
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path} is not valid JSON ({reason}): delete it and run again.") from error


def digest(*parts: Any) -> str:
    """SHA-256, as 64 hexadecimal digits, of bytes, strings or anything that JSON can hold."""
    total = hashlib.sha256()
    for part in parts:
        if not isinstance(part, bytes):
            part = part if isinstance(part, str) else json.dumps(part, sort_keys=True, ensure_ascii=False)
            part = part.encode("utf-8")
        total.update(len(part).to_bytes(8, "big"))  # so that ("ab", "c") and ("a", "bc") differ
        total.update(part)
    return total.hexdigest()


def file_digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def shown_path(path: str | os.PathLike) -> str:
    """A path as seen from here; as it is where no way leads there from here, as to another drive of Windows."""
    try:
        return os.path.relpath(path)
    except (ValueError, OSError):  # OSError: the folder that we are in was deleted
        return str(path)


@contextlib.contextmanager
def exclusive(folder: str | os.PathLike, wait: float = 0.0, note: str = "") -> Iterator[Path]:
    """Holds `folder` for one writer; the lock falls with the process, so a killed run leaves none behind.

    Where the file system has no locks that fall, as on some networks, a file marks the folder as held; a killed run
    may leave it behind, and the message says so. wait: seconds to wait while another process holds the folder; a line
    says once that it waits, and for what (`note`). Raises UserError when the folder is still held then.
    """
    folder = make_folder(folder)
    falls = _has_flock(folder)
    lock = filelock.FileLock(folder / ".lock") if falls else filelock.SoftFileLock(folder / ".held")
    with explained(lock.lock_file):
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if wait > 0:
                print(note or f"Waiting for another run that writes into {shown_path(folder)}", flush=True)
            try:
                lock.acquire(timeout=max(0.0, min(wait, 1e7)), poll_interval=0.2)  # below 0 is for ever
            except filelock.Timeout as error:
                left = "" if falls else f"; if none is at work there, because it was killed, delete {lock.lock_file}"
                raise UserError(
                    f"Another run is writing into {folder}: wait for it to end, or choose another folder with "
                    f"--runs{left}."
                ) from error
    try:
        yield folder
    finally:
        lock.release()


def _has_flock(folder: Path) -> bool:
    """Whether this file system locks files so that a lock falls with its process; asked with a file of its own."""
    if fcntl is None:
        return True  # Windows has another kind, which does
    probe = folder / f".{os.getpid()}.probe"
    with explained(probe):
        try:
            with open(probe, "w") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EIO)
        finally:
            probe.unlink(missing_ok=True)
    return True
