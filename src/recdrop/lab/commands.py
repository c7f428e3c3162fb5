"""``recdrop train``, ``evaluate``, ``generate`` and ``report``."""

import math
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from pydantic import BaseModel, ConfigDict, Field

from recdrop.lab.config import Run, TaskName, changed, settings
from recdrop.lab.console import console, say
from recdrop.lab.errors import BadInput
from recdrop.lab.paper.presets import PRESETS

if TYPE_CHECKING:
    from recdrop.lab.records import Result
    from recdrop.lab.trained import Trained


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


# ------------------------------------------------------------------------------------------- train


class TrainOptions(_Options):
    """What `train` takes."""

    data: Path | None = None
    """A folder with train.txt, valid.txt and test.txt (or Mikolov's names), or one text file, which
    is split 90/5/5."""
    out: Path | None = None
    """The run's folder. Default: out/TASK."""
    preset: str | None = None
    """Where the settings start from; `--preset help` lists them."""
    config: Path | None = None
    """A TOML file of settings, over the preset's."""
    set: Annotated[list[str], Parameter(negative="")] = Field(default_factory=list)
    """One setting, such as model.hidden=64, over the file's; may be repeated."""
    tensorboard: bool = False
    """Write RUN/tensorboard as well (needs recdrop[tensorboard])."""


def train(
    task: TaskName, /, *, options: Annotated[TrainOptions | None, Parameter(name="*")] = None
):
    """Train a model, or go on where the same command was stopped.

    Parameters
    ----------
    task
        What to learn.
    """
    options = options or TrainOptions()
    run = configured(task, options)
    if run is None:
        return _list_presets(task)
    folder = options.out or Path("out") / task
    from recdrop.lab.session import train_here

    result = train_here(folder, run, options.data, tensorboard=options.tensorboard)
    if result is not None:
        _tell_result(folder, result)
    return 0


def configured(task: TaskName, options: TrainOptions) -> Run | None:
    """The run that the options describe; None if the presets are asked for.

    Raises:
        BadInput: With every fault at once.
    """
    presets = PRESETS[task]
    name = options.preset or next(iter(presets))
    if name == "help":
        return None
    if name not in presets:
        raise BadInput(f"--preset {name}: {task} has {', '.join(presets)}")
    return changed(presets[name], _toml(options.config), settings(options.set))


def _toml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"--config {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"--config {path}: not TOML: {error}") from None


def _list_presets(task: TaskName) -> int:
    for number, (name, run) in enumerate(PRESETS[task].items()):
        say(console(), f"{name}{'' if number else ' (default)'}: {run.model_dump_json()}")
    return 0


def _tell_result(folder: Path, result: "Result") -> None:
    from recdrop.lab.progress import duration

    outcome, out = result.outcome, console()
    ended = {"epochs": "all epochs", "min_lr": "the smallest learning rate", "rule": "its rule"}
    why = ended.get(outcome.stopped_by, "patience")
    kept = f", kept: update {outcome.best_update:,}" if outcome.best_update else ""
    say(out, f"{outcome.updates:,} updates, ended by {why}{kept}, {duration(result.seconds)}")
    say(out, ", ".join(f"{name} {score:.5g}" for name, score in sorted(outcome.scores.items())))
    say(out, f"Run: {folder}")


# ------------------------------------------------------------------------------- evaluate, generate


class EvaluateOptions(_Options):
    """What `evaluate` takes."""

    data: Path
    """A text file."""
    streams: Annotated[int | None, Field(ge=1, le=100_000)] = None
    """Parts read side by side, each from a zero state. Default: the run's batch; 1 is exact."""
    paper_style: bool = False
    """Also the authors' own number: mean of each batch's perplexity, eps 1e-6, text cut to whole
    windows."""


def evaluate(run: Path, /, *, options: Annotated[EvaluateOptions, Parameter(name="*")]):
    """Perplexity, or bits per character, of a text.

    Parameters
    ----------
    run
        Folder of a trained language model.
    """
    from recdrop.lab.tasks.language_model import evaluate as measure
    from recdrop.lab.tasks.language_model import paper_style
    from recdrop.lab.text import read_text
    from recdrop.lab.trained import open_trained

    trained = open_trained(run)
    data = trained.run.data
    tokens = read_text(options.data, trained.vocabulary)
    out = console()
    streams = min(options.streams or data.batch, len(tokens))
    nats, count = measure(trained.net, tokens, streams, data.window, trained.vocabulary.start)
    say(out, f"{run}: the net after {trained.update:,} updates")
    say(out, f"{_figure(trained, nats / count)} on all {count:,} tokens of {options.data}")
    if options.paper_style:
        rows = data.batch * (data.window // (data.stride or data.window))
        score = paper_style(trained.net, tokens, rows, data.window)
        say(out, f"paper style: perplexity {score:.4g}")
    return 0


def _figure(trained: "Trained", loss: float) -> str:
    if trained.run.task == "char-lm":
        return f"{loss / math.log(2):.4f} bits per character"
    return f"perplexity {math.exp(min(loss, 700.0)):.4g}"


class GenerateOptions(_Options):
    """What `generate` takes."""

    prompt: str | None = None
    """Text to go on from. Without it, each line of standard input is one."""
    length: Annotated[int, Field(ge=1, le=10**7)] = 200
    """Symbols to write."""
    temperature: Annotated[float, Field(ge=0, le=1_000)] = 0.8
    """0 takes the likeliest symbol; 1 samples from the model as it is; more is wilder."""
    top_k: Annotated[int | None, Field(ge=1)] = None
    """Sample from so many likeliest symbols only."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """The same seed writes the same text."""


def generate(
    run: Path, /, *, options: Annotated[GenerateOptions | None, Parameter(name="*")] = None
):
    """Write text, symbol by symbol.

    Parameters
    ----------
    run
        Folder of a trained language model.
    """
    from recdrop.lab.session import write_text
    from recdrop.lab.trained import open_trained

    options = options or GenerateOptions()
    trained = open_trained(run)
    prompts = _asked() if options.prompt is None else [options.prompt]
    for number, prompt in enumerate(prompts):
        pieces = write_text(
            trained,
            prompt,
            length=options.length,
            temperature=options.temperature,
            top_k=options.top_k,
            seed=options.seed + number,
        )
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
    return 0


def _asked():
    """Lines of standard input, with a sign that one is awaited where somebody sits there."""
    while True:
        if sys.stdin.isatty():
            sys.stdout.write("> ")
            sys.stdout.flush()
        line = sys.stdin.readline()
        if not line:
            return
        yield line.rstrip("\n")


# ------------------------------------------------------------------------------------------ report


def report(directory: Path, /):
    """Everything that was trained below a folder as one page, report.html, and report.md.

    Parameters
    ----------
    directory
        A folder with runs in it, at any depth.
    """
    from recdrop.lab.report import gather, write

    for path in write(directory, gather(directory)):
        say(console(), f"Written: {path}")
    return 0
