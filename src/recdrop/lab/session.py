"""One run or one text in this process, told on the console."""

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from recdrop.lab.config import Run
from recdrop.lab.console import complain, console, say
from recdrop.lab.environment import DeviceName
from recdrop.lab.errors import BadInput
from recdrop.lab.generation import generate
from recdrop.lab.progress import Ledger, LiveView, PlainView, view
from recdrop.lab.records import Event, Progress, Result, Row
from recdrop.lab.runs import Watcher, run_cell
from recdrop.lab.signals import Stopped, stop_signals
from recdrop.lab.train import Interrupted
from recdrop.lab.trained import Trained
from recdrop.lab.vocabulary import UNKNOWN, decode_text, encode_line
from recdrop.lab.world import World

_REFRESH = 0.2  # seconds between two looks at the display


class _Shown(Watcher):
    """Shows a run's progress."""

    def __init__(
        self, run: Run, ledger: Ledger, display: PlainView | LiveView, out: Console
    ) -> None:
        self.run, self.ledger, self.display, self.out = run, ledger, display, out
        self.shown = 0.0
        self.begun = False

    def read(self, notes: Sequence[str]) -> None:
        for note in notes:
            say(self.out, note)

    def prepared(self, run: Run, steps: int, progress: Progress) -> None:
        self.begun = True
        if progress.update:
            say(self.out, f"going on from update {progress.update:,}, epoch {progress.epoch + 1}")
        self.ledger.heard(run, Event(steps=steps, update=progress.update))

    def updated(self, progress: Progress) -> None:
        if time.monotonic() - self.shown >= _REFRESH:
            self.shown = time.monotonic()
            self.ledger.heard(self.run, Event(update=progress.update))
            self.display.refresh()

    def row(self, row: Row) -> None:
        self.ledger.heard(self.run, Event(update=row.update, row=row))

    def warned(self, message: str) -> None:
        self.ledger.heard(self.run, Event(warning=message))
        self.display.refresh()

    def close(self) -> None:
        """Nothing more comes."""


class _Board(_Shown):
    """Writes what TensorBoard shows, too."""

    def __init__(self, folder: Path, *shown: Any) -> None:
        super().__init__(*shown)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise BadInput("--tensorboard needs: pip install 'recdrop[tensorboard]'") from None
        self.open = lambda update: SummaryWriter(str(folder / "tensorboard"), purge_step=update)

    def prepared(self, run: Run, steps: int, progress: Progress) -> None:
        super().prepared(run, steps, progress)
        self.writer = self.open(progress.update + 1)

    def row(self, row: Row) -> None:
        super().row(row)
        for name in ("loss", "score", "lr"):
            self.writer.add_scalar(f"{row.split}/{name}", getattr(row, name), row.update)
        self.writer.flush()

    def close(self) -> None:
        if self.begun:
            self.writer.close()


def train_here(
    folder: Path,
    run: Run,
    data: Path | None,
    files: Mapping[str, Path],
    *,
    device: DeviceName = "cpu",
    tensorboard: bool = False,
) -> Result | None:
    """Train a run in this process, and in torchrun's others with it, with progress shown.

    Returns:
        What it came to; None in a process that only helps.

    Raises:
        Stopped: A signal came; the run is saved.
        LabError: See `recdrop.lab.runs.run_cell`.
    """
    leads = World().leads
    out = console() if leads else Console(quiet=True)
    ledger = Ledger([run], 1)
    ledger.started(run)
    with stop_signals() as stopping, view(ledger, out) as display:
        shown = (run, ledger, display, out)
        watcher = _Board(folder, *shown) if tensorboard and leads else _Shown(*shown)
        try:
            result = run_cell(
                folder, run, data, files=files, device=device, watcher=watcher, stopping=stopping
            )
        except Interrupted as error:
            told = f"{error}; saved, the same command goes on"
            raise Stopped(stopping.number or signal.SIGTERM, told) from None
        finally:
            watcher.close()
        display.refresh()
        if not watcher.begun:
            say(out, "finished before, nothing was trained")
    return result if leads else None


def write_text(
    trained: Trained,
    prompt: str,
    *,
    length: int,
    temperature: float,
    top_k: int | None,
    seed: int,
) -> Iterator[str]:
    """The prompt and what the model writes after it, piece by piece.

    Raises:
        BadInput: The prompt is not text; and see `recdrop.lab.generation.generate`.
    """
    vocabulary = trained.vocabulary
    try:
        prompt.encode()
    except UnicodeEncodeError:  # bytes that were none came through as halves of characters
        raise BadInput("the prompt is not UTF-8") from None
    ids = encode_line(prompt, vocabulary)
    lacked = ids.count(vocabulary.unknown) if vocabulary.unknown is not None else 0
    if lacked:
        complain(f"{lacked} of {len(ids)} symbols of the prompt are read as {UNKNOWN}")
    written = generate(
        trained.net,
        ids,
        length,
        temperature=temperature,
        top_k=top_k,
        generator=torch.Generator().manual_seed(seed),
        start=vocabulary.start,
        unknown=vocabulary.unknown,
    )
    yield prompt
    before = ids[-1:]
    for symbol in written:  # what stands between two symbols depends on both
        yield decode_text([*before, symbol], vocabulary)[len(decode_text(before, vocabulary)) :]
        before = [symbol]
