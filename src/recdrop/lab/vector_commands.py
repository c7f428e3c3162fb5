"""``recdrop vectors train`` and ``vectors show``."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.status import Status

from recdrop.lab.config import Count
from recdrop.lab.console import console, counted, say
from recdrop.lab.errors import BadInput, StorageFailed

if TYPE_CHECKING:
    from recdrop.lab.skipgram import Position

_INTERVAL = 10.0  # seconds between two lines where the output is no terminal


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


# ------------------------------------------------------------------------------------------- train


class TrainOptions(_Options):
    """What `train` takes; the numbers are `recdrop.lab.skipgram.SkipGram`'s."""

    text: Annotated[list[Path], Parameter(negative="", consume_multiple=True)] = Field(min_length=1)
    """Text files in UTF-8, one sentence or paragraph a line."""
    out: Path
    """The file to write, safetensors."""
    width: Annotated[int, Field(ge=1, le=4_096)] = 100
    """Numbers of a vector."""
    window: Annotated[int, Field(ge=1, le=100)] = 5
    """Words to each side at most."""
    negatives: Annotated[int, Field(ge=1, le=1_000)] = 5
    """Drawn words for each pair."""
    min_count: Count = 5
    """Words that the texts have less often get no vector."""
    subsample: Annotated[float, Field(ge=0, le=1)] = 1e-3
    """Share of the text above which words are thinned out; 0: none are."""
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 5
    """Times that the texts are read."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.025
    """At the start; it falls to zero."""
    lowercase: bool = True
    """Read in lower case; a word without a vector is looked up so."""
    tokens: Literal["blanks", "newswire", "tweets"] = "blanks"
    """Words are what stands between blanks; newswire splits punctuation from raw text, tweets as
    `recdrop train sentiment` does."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of everything drawn."""


def train(*, options: Annotated[TrainOptions, Parameter(name="*")]):
    """Train word vectors on texts: skip-gram with negative sampling.

    The file is written at the end, whole. Ctrl-C loses what has been trained, and nothing else.
    """
    _free(options.out)
    from recdrop.lab.progress import duration
    from recdrop.lab.skipgram import SkipGram, train_vectors
    from recdrop.lab.vectors import save_vectors

    out, settings = console(), SkipGram(**options.model_dump(exclude={"text", "out"}))
    say(out, "The file is written at the end; Ctrl-C loses what has been trained.")
    with out.status("reading") as status:
        told = _Told(out, status, settings.epochs)
        vectors = train_vectors(options.text, settings, told)
    save_vectors(options.out, vectors)
    read = f"{counted(told.total, 'word')} in {counted(settings.epochs, 'epoch')}"
    say(out, f"{read}, {duration(told.seconds)}")
    say(out, f"{len(vectors):,} different words, width {vectors.width}")
    say(out, f"Written: {options.out}")
    return 0


def _free(path: Path) -> None:
    """Refuse early what could not be written at the end."""
    from recdrop.lab.storage import make_folder

    if path.exists():
        raise BadInput(f"--out {path} is there already; choose another or remove it")
    make_folder(path.parent)
    if not os.access(path.parent, os.W_OK):
        raise StorageFailed(f"--out {path}: its folder cannot be written to")


class _Told:
    """Tell how far training is: at once on a terminal, a line every ten seconds elsewhere.

    Attributes:
        total: Words to be read in all epochs, once it is known.
    """

    def __init__(self, out: Console, status: Status, epochs: int) -> None:
        self._out, self._status, self._epochs = out, status, epochs
        self._start: float | None = None
        self._last = 0.0
        self.total = 0

    @property
    def seconds(self) -> float:
        """Since the texts were read."""
        return 0.0 if self._start is None else time.monotonic() - self._start

    def __call__(self, position: "Position") -> None:
        """Hear of a position."""
        from recdrop.lab.progress import duration

        if self._start is None:
            self._start, self.total = time.monotonic(), position.total
        if not position.done or not self.seconds:
            return
        rate = position.done / self.seconds
        epoch = min(self._epochs, 1 + position.done * self._epochs // position.total)
        left = duration((position.total - position.done) / rate)
        told = f"epoch {epoch} of {self._epochs}, {rate:,.0f} words/s, about {left} left"
        self._status.update(told)
        if not self._out.is_terminal and self.seconds - self._last >= _INTERVAL:
            self._last = self.seconds
            say(self._out, f"{self.seconds:.0f} s: {told}")


# -------------------------------------------------------------------------------------------- show


class ShowOptions(_Options):
    """What `show` takes."""

    near: Annotated[list[str], Parameter(negative="", show_default=False)] = Field(
        default_factory=list
    )
    """Also the words nearest to this one, by cosine; may be repeated."""
    count: Annotated[int, Field(ge=1, le=1_000)] = 10
    """How many."""


def show(file: Path, /, *, options: Annotated[ShowOptions | None, Parameter(name="*")] = None):
    """What is in a file of word vectors, and which words are near another.

    Parameters
    ----------
    file
        word2vec text or binary, GloVe text, or what `vectors train` has written.
    """
    from recdrop.lab.vectors import nearest, read_vectors

    options, out, vectors = options or ShowOptions(), console(), read_vectors(file)
    near = {word: nearest(word, vectors, options.count) for word in options.near}
    say(out, f"{counted(len(vectors), 'word')}, width {vectors.width}, SHA-256 {vectors.sha256}")
    for note in vectors.notes:
        say(out, note)
    for word, found in near.items():
        say(out, f"{word}: {', '.join(f'{one} {cosine:.2f}' for one, cosine in found)}")
    return 0
