"""Checkpoints: whole or absent, and known to be intact before they are used.

``checkpoints/step-000000829`` holds ``weights.safetensors`` (the net), ``state.safetensors`` (all
else that is made of tensors), ``progress.json`` and, written last, ``manifest.json`` with the size
and SHA-256 of the three: a flipped bit passes unnoticed through safetensors, but not through that.
The manifest has a SHA-256 of its own, and one of the run's ``config.json`` and ``data.json``, so
that no net is trained on under other settings than those it began with. A folder is written under
another name, flushed to the disk and renamed.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from pydantic import ValidationError
from pydantic_core import from_json
from safetensors import SafetensorError
from torch import Tensor

from recdrop.lab.config import Count, Record
from recdrop.lab.errors import BadInput
from recdrop.lab.records import Progress
from recdrop.lab.settings import faults
from recdrop.lab.storage import flush_folder, storage, write_through

Tensors = dict[str, Tensor]

_WEIGHTS, _STATE, _PROGRESS, _MANIFEST = (
    "weights.safetensors",
    "state.safetensors",
    "progress.json",
    "manifest.json",
)
_KEPT = 2  # newest: where one is damaged, the other serves


class Damaged(Exception):
    """A checkpoint is not what was written; the message names the file."""


class Checkpoint(NamedTuple):
    """One checkpoint in memory.

    Attributes:
        weights: Of the net.
        state: Everything else made of tensors.
        progress: Where training was.
    """

    weights: Tensors
    state: Tensors
    progress: Progress


class _File(Record):
    bytes: int
    sha256: str


class _Manifest(Record):
    """Of checkpoints that older versions wrote, ``run`` and ``sha256`` are not known."""

    schema_version: Count
    run: str | None = None
    files: dict[str, _File]
    sha256: str | None = None  # of all the rest, see `seal`


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: The run's folder; its ``config.json`` and ``data.json`` are there from the start.

    Raises:
        StorageFailed: The system refused to read those two.
    """

    def __init__(self, directory: Path) -> None:
        self.folder = directory / "checkpoints"
        self._run = _digest(directory / "config.json", directory / "data.json")

    def save(self, checkpoint: Checkpoint) -> None:
        """Write one and remove those that nothing needs any more.

        Raises:
            StorageFailed: The system refused; what had been there still is.
        """
        update = checkpoint.progress.update
        contents = {
            _WEIGHTS: safetensors.torch.save(checkpoint.weights),
            _STATE: safetensors.torch.save(checkpoint.state),
            _PROGRESS: checkpoint.progress.model_dump_json(indent=2).encode(),
        }
        files = {
            name: _File(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            for name, content in contents.items()
        }
        manifest = _Manifest(schema_version=1, run=self._run, files=files).model_dump()
        manifest["sha256"] = seal(manifest)
        contents[_MANIFEST] = json.dumps(manifest, indent=2).encode()
        target = self._at(update)
        temporary = target.with_suffix(".tmp")
        with storage(target, needed=sum(map(len, contents.values()))):
            self.folder.mkdir(exist_ok=True)
            flush_folder(self.folder.parent)
            _fill(temporary, contents)
            self._remove(target)  # after a crash behind its last update
            temporary.rename(target)
            flush_folder(self.folder)
            self._prune()

    def newest(self, *, clean: bool) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that is intact together with the best one that it builds on.

        Args:
            clean: Whether to remove damaged ones and what interrupted writes left, which only the
                process that holds the run's lock may.

        Returns:
            The checkpoint, if there is any, and what was wrong with newer ones, one line each.

        Raises:
            BadInput: A newer recdrop or another run wrote one.
            StorageFailed: The system refused to read.
        """
        told: list[str] = []
        with storage(self.folder):
            for leftover in self.folder.glob("*.tmp") if clean else ():
                shutil.rmtree(leftover)
        for update in sorted(self._updates(), reverse=True):
            try:
                checkpoint = self.load(update)
                best = checkpoint.progress.best_update
                if best is not None and best != update:
                    self.load(best)
            except Damaged as error:
                told.append(str(error))
                with storage(self.folder):
                    if clean:
                        self._remove(self._at(update))
                continue
            return checkpoint, told
        return None, told

    def load(self, update: int) -> Checkpoint:
        """A checkpoint, checked.

        Raises:
            Damaged: It is not there whole.
            BadInput: A newer recdrop or another run wrote it.
            StorageFailed: The system refused to read.
        """
        folder = self._at(update)
        try:
            manifest = self._manifest(folder)
            contents = {name: _read(folder / name) for name in (_WEIGHTS, _STATE, _PROGRESS)}
            for name, content in contents.items():
                told = manifest.files.get(name)
                if told is None or told.sha256 != hashlib.sha256(content).hexdigest():
                    raise Damaged(f"{folder / name}: its SHA-256 is not the manifest's")
            progress = Progress.model_validate_json(contents[_PROGRESS])
            if progress.update != update:
                raise Damaged(f"{folder}: what is in it is of update {progress.update}")
            return Checkpoint(
                safetensors.torch.load(contents[_WEIGHTS]),
                safetensors.torch.load(contents[_STATE]),
                progress,
            )
        except ValidationError as error:
            raise Damaged(f"{folder}: {'; '.join(faults(error))}") from None
        except SafetensorError as error:
            raise Damaged(f"{folder}: {error}") from None

    def _manifest(self, folder: Path) -> _Manifest:
        content = _read(folder / _MANIFEST)
        try:
            told = from_json(content)
            intact = isinstance(told, dict) and told.get("sha256") in (None, seal(told))
        except ValueError as error:
            raise Damaged(f"{folder / _MANIFEST}: {error}") from None
        if not intact:
            raise Damaged(f"{folder / _MANIFEST}: its SHA-256 is not its own")
        schema = told.get("schema_version")
        if isinstance(schema, int) and schema > 1:
            raise BadInput(
                f"{folder}: written by a newer recdrop (schema {schema}, this one knows 1); "
                "go on with that one"
            )
        manifest = _Manifest.model_validate_json(content)
        if manifest.run not in (None, self._run):
            raise BadInput(
                f"{folder}: it is of another run, or config.json or data.json has been changed "
                "since it was written; put them back as they were, or choose another folder"
            )
        return manifest

    def _at(self, update: int) -> Path:
        return self.folder / f"step-{update:09d}"

    def _updates(self) -> Iterator[int]:
        with storage(self.folder):
            names = [path.name for path in self.folder.glob("step-*")]
        return (int(name[5:]) for name in names if name[5:].isdecimal())

    def _prune(self) -> None:
        newest = sorted(self._updates(), reverse=True)
        needed = {self._best(update) for update in newest[:_KEPT]}
        for update in newest[_KEPT:]:
            if update not in needed:
                self._remove(self._at(update))

    def _best(self, update: int) -> int | None:
        """The best net's update, as a checkpoint that may be damaged tells it."""
        try:
            content = _read(self._at(update) / _PROGRESS)
            return Progress.model_validate_json(content).best_update
        except (Damaged, ValidationError):
            return None

    def _remove(self, folder: Path) -> None:
        if folder.exists():
            gone = folder.rename(folder.with_suffix(".old.tmp"))
            shutil.rmtree(gone)


def seal(manifest: dict[str, Any]) -> str:
    """SHA-256, in hexadecimal, of a manifest without its own."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _digest(*paths: Path) -> str:
    """SHA-256, in hexadecimal, of files one after another; one that is missing is empty."""
    digest = hashlib.sha256()
    for path in paths:
        with storage(path), suppress(FileNotFoundError):
            digest.update(path.read_bytes())
        digest.update(b"\0")
    return digest.hexdigest()


def _fill(folder: Path, contents: dict[str, bytes]) -> None:
    """Make a folder of files that are on the disk for good; nothing stays of what was refused."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
        for name, content in contents.items():
            write_through(folder / name, [content])
        flush_folder(folder)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _read(path: Path) -> bytes:
    with storage(path):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise Damaged(f"{path}: it is missing") from None
