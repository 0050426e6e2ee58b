"""Checkpoints that are whole or absent: written aside, flushed, renamed; verified when read.

A checkpoint is a folder `update-00000400` with safetensors for the weights, tensors and numbers for the rest
(read with `weights_only=True`, so a file can run no code), and a manifest of SHA-256 digests written last. A
process killed while it writes leaves only a folder with a temporary name; a file that was cut short later does
not match its digest, and the checkpoint before it is used.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from kdutils.core.errors import UserError
from kdutils.core.files import explained, file_digest, make_folder, read_json, replacing, shown_path, sync, write_json
from kdutils.core.machine import device

KEEP = 2  # the newest may be damaged, the one before it is the way back


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes a model's weights as safetensors, atomically; tied ones once. Equal weights give equal bytes."""
    with writing(path), replacing(path) as temporary:
        _save(model, temporary)


def _save(model: nn.Module, path: Path) -> None:
    save_model(model, str(path))
    with open(path, "r+b") as stream:  # safetensors names tied weights in any order
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        header |= {key: dict(sorted(value.items())) for key, value in header.items() if key == "__metadata__"}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
        if len(text) <= size:
            stream.seek(8)
            stream.write(text.ljust(size))


def load_weights(model: nn.Module, path: Path) -> None:
    """Reads weights that `save_weights` wrote into a model of the same shape, in place."""
    try:
        with explained(path):
            load_model(model, str(path), device="cpu")
    except (SafetensorError, RuntimeError) as error:  # cut short, or the weights of another model
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} does not hold this model's weights ({reason}): delete it and run again.") from error


def weights_digest(folder: Path, *inside: str) -> dict[str, str]:
    """{path in the folder: SHA-256} of all files of an exported model, or of some folders in it; hidden ones apart."""
    found = sorted(file for part in inside or (".",) for file in (folder / part).rglob("[!.]*") if file.is_file())
    with explained(folder):
        return {file.relative_to(folder).as_posix(): file_digest(file) for file in found}


def check_weights(folder: Path, digests: Mapping[str, str]) -> None:
    """Raises UserError when a file is missing or is no longer what `weights_digest` found in the folder."""
    for name, digest in digests.items():
        try:
            same = file_digest(folder / name) == digest
        except (OSError, ValueError):
            same = False
        if not same:
            where = shown_path(folder)
            raise UserError(f"{folder / name} is missing or damaged: delete the folder {where} and run again.")


class Checkpoints:
    """The checkpoints of one training run, in one folder."""

    def __init__(self, folder: Path, rank: int = 0, wait=lambda: None) -> None:
        """`rank` and `wait` are the process's number and barrier when several processes train together."""
        self.folder, self.rank, self.wait = make_folder(folder), rank, wait

    def save(
        self,
        update: int,
        modules: dict[str, nn.Module],
        tensors: dict[str, Any],
        facts: dict[str, Any],
        needs: Iterable[Path] = (),
    ) -> None:
        """Writes one checkpoint and drops all but the newest KEEP.

        modules: weights by name; tensors: nested containers of tensors and numbers; facts: what JSON can hold;
        needs: files elsewhere without which it is of no use. Every process adds the state of its own random
        generators.
        """
        final = self.folder / f"update-{update:08d}"
        aside = self.folder / f".{final.name}.tmp"
        try:
            with writing(self.folder):
                if self.rank == 0:
                    shutil.rmtree(aside, ignore_errors=True)
                    aside.mkdir()
                self.wait()
                torch.save(random_state(), aside / f"random-{self.rank}.pt")
                self.wait()
                if self.rank == 0:
                    self._write(aside, modules, tensors, facts, needs)
                    shutil.rmtree(final, ignore_errors=True)
                    os.replace(aside, final)
                    for old in self.finished()[:-KEEP]:
                        shutil.rmtree(old, ignore_errors=True)
        except UserError:
            shutil.rmtree(aside, ignore_errors=True)  # a full disk needs the room
            raise
        self.wait()

    def _write(self, aside: Path, modules, tensors, facts, needs: Iterable[Path]) -> None:
        for name, module in modules.items():
            _save(module, aside / f"{name}.safetensors")
        torch.save(tensors, aside / "training.pt")
        write_json(aside / "facts.json", facts)
        for file in aside.iterdir():
            sync(file)
        files = [*sorted(aside.iterdir()), *needs]
        names = (Path(os.path.relpath(file, aside)).as_posix() for file in files)
        write_json(aside / "manifest.json", dict(zip(names, map(file_digest, files), strict=True)))

    def finished(self) -> list[Path]:
        """The finished checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("update-*") if path.is_dir())

    def newest(self, sound: Callable[[Path], bool] = lambda path: True) -> Path | None:
        """The newest checkpoint whose files are all intact, or None. Damaged ones are passed over.

        So are those that are not `sound`, or at which it raises: whole files may hold what no run has written.
        """
        return next((path for path in reversed(self.finished()) if intact(path, sound)), None)

    def drop_after(self, path: Path | None) -> None:
        """Deletes what a killed process left half written, and what is newer than `path` (None: all) and so damaged."""
        damaged = [newer for newer in self.finished() if path is None or newer.name > path.name]
        for folder in (*damaged, *self.folder.glob(".update-*.tmp")) if self.rank == 0 else ():
            shutil.rmtree(folder, ignore_errors=True)

    def load(self, path: Path, modules: dict[str, nn.Module]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Restores the modules and the random generators in place; returns (tensors, facts)."""
        for name, module in modules.items():
            load_weights(module, path / f"{name}.safetensors")
        own = path / f"random-{self.rank}.pt"
        if own.exists():  # a run that goes on with more processes than before has no state for the new ones
            set_random_state(torch.load(own, map_location="cpu", weights_only=True))
        return self.read(path)

    def read(self, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """(tensors, facts) of a checkpoint, without restoring anything."""
        tensors = torch.load(path / "training.pt", map_location="cpu", weights_only=True)
        return tensors, read_json(path / "facts.json")

    def clear(self) -> None:
        """Deletes all checkpoints: the run is finished and its result is on the disk."""
        if self.rank == 0:
            shutil.rmtree(self.folder, ignore_errors=True)


def clear_run(folder: Path) -> None:
    """Deletes what a finished run needs no more: its checkpoints and its best weights, which were exported."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for weights in (*folder.glob("best-*.safetensors"), *folder.glob(".best-*.tmp")):
        weights.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """A disk that refuses is one sentence, whichever of the libraries noticed it."""
    try:
        with explained(path):
            yield
    except (SafetensorError, RuntimeError) as error:  # what safetensors and torch make of a full disk
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} could not be written ({reason}): free some space and run the same again.") from error


def intact(path: Path, sound: Callable[[Path], bool] = lambda path: True) -> bool:
    """Whether every file of a checkpoint is there with the content that its manifest names, and `sound` accepts it."""
    try:
        manifest = read_json(path / "manifest.json")
        whole = all(file_digest(path / name) == digest for name, digest in manifest.items())
        return whole and sound(path)
    except Exception:  # any damage at all, in whatever form, means that this one cannot be used
        return False


def random_state() -> dict[str, Any]:
    """The state of every random generator of this process, as tensors and plain numbers."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if device().type == "cuda" else [],
        "python": (version, list(internal), gauss),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Puts back what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and device().type == "cuda" and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Every random generator starts from `seed` inside, and is as it was before afterwards."""
    before = random_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        set_random_state(before)
