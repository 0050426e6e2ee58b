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


@contextlib.contextmanager
def explained(path: str | os.PathLike) -> Iterator[None]:
    """Turns the operating system's refusals (disk full, read-only, no permission) into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(_sentence(error, path)) from error


def _sentence(error: OSError, path: str | os.PathLike) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"The disk is full at {path}: free some space and run the same command again; finished work is kept."
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{path} cannot be written (read-only or no permission): choose another folder with --runs."
    if isinstance(error, FileNotFoundError):
        return f"{path} does not exist: check the path."
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
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes JSON atomically, indented, with a stable order of keys as given."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=True) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Reads JSON. Raises UserError when the file is missing or is not JSON."""
    try:
        with explained(path):
            return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): delete it and run again.") from error


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


@contextlib.contextmanager
def exclusive(folder: str | os.PathLike) -> Iterator[Path]:
    """Holds `folder` for one writer; the lock falls with the process, so a killed run leaves none behind.

    Raises UserError at once when another process holds it.
    """
    folder = make_folder(folder)
    lock = filelock.FileLock(folder / ".lock")
    with explained(folder / ".lock"):
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise UserError(
                f"Another run is writing into {folder}: wait for it to end, or choose another folder with --runs."
            ) from error
    try:
        yield folder
    finally:
        lock.release()
