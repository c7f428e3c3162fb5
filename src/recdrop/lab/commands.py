"""``recdrop train``, ``evaluate``, ``generate`` and ``report``."""

import json
import math
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from pydantic import BaseModel, ConfigDict, Field

from recdrop.lab.config import Run, TaskName
from recdrop.lab.console import (
    complain,
    console,
    counted,
    say,
    standard_input,
    standard_output,
)
from recdrop.lab.environment import DeviceName
from recdrop.lab.errors import BadInput
from recdrop.lab.labelling import evaluate_classifier, evaluate_tagger, read_lines
from recdrop.lab.paper.presets import PRESETS
from recdrop.lab.settings import changed, settings

if TYPE_CHECKING:
    from torch import Tensor

    from recdrop.lab.records import Result
    from recdrop.lab.trained import Trained


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


# ------------------------------------------------------------------------------------------- train


class TrainOptions(_Options):
    """What `train` takes."""

    data: Path | None = None
    """A folder with train.txt, valid.txt and test.txt (or Mikolov's names; of ner and sentiment
    see the manual), or one file, which is split 90/5/5."""
    vectors: Path | None = None
    """Of ner and sentiment: vectors of words, as word2vec, GloVe or recdrop vectors write them;
    without any they are learned."""
    pretrain: Path | None = None
    """Of sentiment: weakly labelled texts to learn from first."""
    column: int | None = None
    """Of ner: the tags' column, from 1, or back from -1; short for --set data.column=N."""
    text_column: str | None = None
    """Of sentiment: the text's column, by name or number; short for --set data.text_column=…."""
    label_column: str | None = None
    """Of sentiment: the label's column, likewise."""
    out: Path | None = None
    """The run's folder. Default: out/TASK."""
    preset: str | None = None
    """Where the settings start from; `--preset help` lists them."""
    config: Path | None = None
    """A TOML file of settings, over the preset's."""
    set: Annotated[list[str], Parameter(negative="", show_default=False)] = Field(
        default_factory=list
    )
    """One setting, such as model.hidden=64, over the file's; may be repeated. none unsets."""
    device: DeviceName = "cpu"
    """Where to train; cuda, an NVIDIA GPU, needs Triton for recurrent dropout."""
    tensorboard: Annotated[bool, Parameter(negative="")] = False
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

    files = {"vectors": options.vectors, "pretrain": options.pretrain}
    given = {name: path for name, path in files.items() if path is not None}
    result = train_here(
        folder,
        run,
        options.data,
        given,
        device=options.device,
        tensorboard=options.tensorboard,
    )
    if result is not None:
        _tell_result(folder, task, result)
    return 0


def configured(task: TaskName, options: TrainOptions) -> Run | None:
    """The run that the options describe; None if the presets are asked for.

    Raises:
        BadInput: With every fault at once; but where the preset or the file is one, values are not
            checked yet.
    """
    presets = PRESETS[task]
    name = options.preset or next(iter(presets))
    if name == "help":
        return None
    told = [] if name in presets else [f"--preset {name}: {task} has {', '.join(presets)}, help"]
    file, unread = _toml(options.config)
    given, wrong = _settings(task, options)
    layers = [_as_json(file), _as_json(given)]
    told += [*unread, *wrong, *(fault for layer in layers for fault in _reserved(layer, task))]
    if name in presets and not unread:  # else nobody knows what the values go over
        try:
            run = changed(presets[name], *layers)
        except BadInput as error:
            told.append(str(error))
        else:
            if not told:
                return run
    for name in ("data", "vectors", "pretrain"):  # else it is told once it is read
        path = getattr(options, name)
        if path is not None and not path.exists():
            told.append(f"--{name} {path}: no such file or folder")
    raise BadInput("\n".join(told))


_COLUMNS = {"column": "ner", "text_column": "sentiment", "label_column": "sentiment"}
_COLUMN_OPTIONS = {"ner": "--column", "sentiment": "--text-column and --label-column"}


def _settings(task: TaskName, options: TrainOptions) -> tuple[dict[str, Any], list[str]]:
    """What ``--set`` and its short forms say, and what of it says nothing."""
    pairs, told = [], []
    for pair in options.set:
        try:
            settings([pair])
        except BadInput as error:
            told.append(str(error))
        else:
            pairs.append(pair)
    for name, of in _COLUMNS.items():
        value = getattr(options, name)
        if value is not None and of != task:
            told.append(f"--{name.replace('_', '-')}: only {of} has it")
        elif value is not None:
            pairs.append(f"data.{name}={json.dumps(value, ensure_ascii=False)}")
    return settings(pairs), told


def _toml(path: Path | None) -> tuple[dict[str, Any], list[str]]:
    """What a file says, and why it cannot be read."""
    if path is None:
        return {}, []
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig")), []
    except OSError as error:
        return {}, [f"--config {path}: {error.strerror}"]
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, a number of many digits
        return {}, [f"--config {path}: not TOML: {error}"]


def _as_json(value: Any) -> Any:
    """TOML's values as JSON's: ``"none"`` is null, for which TOML has no word; a date is a text."""
    if isinstance(value, dict):
        return {key: _as_json(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_as_json(one) for one in value]
    if isinstance(value, date | time):
        return str(value)
    return None if value == "none" else value


def _reserved(layer: dict[str, Any], task: TaskName) -> Iterator[str]:
    """What settings ask for that is not theirs; it is taken out of them."""
    asked = layer.pop("task", task)
    if asked != task:
        yield f"task: the command says {task}, the settings {asked!r}"
    for key in ("table", "scale"):
        if layer.pop(key, None) is not None:
            yield f"{key}: only recdrop reproduce trains for the paper's tables"


def _list_presets(task: TaskName) -> int:
    out = console()
    say(out, "# Each is a file for --config; each line also goes with --set.")
    for number, (name, run) in enumerate(PRESETS[task].items()):
        say(out, f"\n# {name}{'' if number else ' (default)'}")
        values = run.model_dump(mode="json", exclude={"task", "table", "scale"})
        for key, value in sorted(values.items(), key=lambda item: isinstance(item[1], dict)):
            parts = value if isinstance(value, dict) else {"": value}
            for part, one in sorted(parts.items(), key=lambda item: item[0] != "kind"):
                say(out, f"{key}{'.' if part else ''}{part} = {_as_toml(one)}")
    return 0


def _as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_as_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_as_toml, value)) + "]"
    return json.dumps("none" if value is None else value)


def _tell_result(folder: Path, task: TaskName, result: "Result") -> None:
    from recdrop.lab.progress import MEASURES, duration, own_measure

    outcome, out, measure = result.outcome, console(), MEASURES[task]
    ended = {"epochs": "all epochs", "min_lr": "the smallest learning rate", "rule": "its rule"}
    why = ended.get(outcome.stopped_by, "patience")
    kept = f", kept: update {outcome.best_update:,}" if outcome.best_update else ""
    say(
        out,
        f"{counted(outcome.updates, 'update')}, ended by {why}{kept}, {duration(result.seconds)}",
    )
    scores: dict[str, list[str]] = {measure.short: []}
    for name, score in sorted(outcome.scores.items()):
        what = own_measure(name) or measure.short
        of = name.replace(f"_{what}", "")
        scores.setdefault(what, []).append(f"{of} {measure.told(score)}")
    for what, told in scores.items():
        say(out, f"{what}: {', '.join(told)}")
    say(out, f"Run: {folder}")


# ------------------------------------------------------------------------------- evaluate, generate


class EvaluateOptions(_Options):
    """What `evaluate` takes."""

    data: Path
    """One file, as for training."""
    column: int | None = None
    """Of a tagger: the tags' column, from 1, or back from -1. Default: the run's."""
    text_column: str | None = None
    """Of a classifier: the text's column, by name or number. Default: the run's."""
    label_column: str | None = None
    """Of a classifier: the label's column, likewise."""
    streams: Annotated[int | None, Field(ge=1, le=100_000)] = None
    """Parts read side by side, each from a zero state. Default: the run's batch; 1 is exact."""
    paper_style: Annotated[bool, Parameter(negative="")] = False
    """Also the authors' own number: mean of each batch's perplexity, eps 1e-6, text cut to whole
    windows."""


def evaluate(run: Path, /, *, options: Annotated[EvaluateOptions, Parameter(name="*")]):
    """Scores of a file: perplexity, bits per character, F1 of entities or labels.

    Parameters
    ----------
    run
        Folder of a trained net.
    """
    from recdrop.lab.progress import predictions
    from recdrop.lab.tasks.language_model import evaluate as measure
    from recdrop.lab.text import read_text, unknown_in
    from recdrop.lab.trained import open_trained, task_of
    from recdrop.lab.vocabulary import UNKNOWN

    task = task_of(run)
    if options.data.is_dir() and task != "sentiment":
        raise BadInput(f"--data {options.data} is a folder; give one file, such as its test text")
    refused = [
        f"--{name.replace('_', '-')}"
        for name, of in _COLUMNS.items()
        if of != task and getattr(options, name) is not None
    ]
    hint = f"; it has {_COLUMN_OPTIONS[task]}" if refused and task in _COLUMN_OPTIONS else ""
    if task in ("ner", "sentiment"):
        refused += ["--streams"] * (options.streams is not None)
        refused += ["--paper-style"] * options.paper_style
    if refused:
        raise BadInput(f"{' and '.join(refused)}: a run of {task} has no such thing{hint}")
    if task == "ner":
        return evaluate_tagger(run, options.data, options.column)
    if task == "sentiment":
        return evaluate_classifier(run, options.data, options.text_column, options.label_column)
    trained = open_trained(run)
    data = trained.run.data
    tokens = read_text(options.data, trained.vocabulary)
    out = console()
    streams = min(options.streams or data.batch, len(tokens))
    nats, count = measure(trained.net, tokens, streams, data.window, trained.vocabulary.start)
    say(out, f"{run}: the net after {counted(trained.update, 'update')}")
    told = f"{_figure(trained, nats / count)} on all {count:,} {predictions(trained.run)[1]}"
    lacked = unknown_in(tokens, trained.vocabulary)
    told += f", {lacked:,} of them {UNKNOWN}" if lacked else ""
    say(out, f"{told}, of {options.data}")
    if options.paper_style:
        say(out, f"paper style: {_paper_style(trained, tokens)}")
    return 0


def _paper_style(trained: "Trained", tokens: "Tensor") -> str:
    """The authors' own number; the text is cut to as many windows as validation had."""
    from recdrop.lab.tasks.language_model import paper_style, paper_windows

    data = trained.run.data
    rows = data.batch * (data.window // (data.stride or data.window))
    windows = paper_windows(len(tokens), rows, data.window)
    if trained.validated_on is not None:
        windows = min(windows, paper_windows(trained.validated_on, rows, data.window))
    if not windows:
        raise BadInput(
            f"--paper-style: {counted(rows, 'stream')} of a window of {data.window} need a text, "
            f"and a validation text, of {(rows + 1) * data.window:,} symbols"
        )
    score = paper_style(trained.net, tokens, rows, data.window, windows)
    told = f"{_figure(trained, math.log(score))}, {counted(windows, 'window')}"
    return f"{told} of {data.window} x {rows}"


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
    out = standard_output()
    prompts = _asked() if options.prompt is None else [options.prompt]
    for number, prompt in enumerate(prompts):
        pieces = write_text(
            trained,
            prompt,
            length=options.length,
            temperature=options.temperature,
            top_k=options.top_k,
            seed=(options.seed + number) % 2**63,
        )
        try:
            for piece in pieces:
                out.write(piece)
                out.flush()
        except BadInput as error:
            if options.prompt is not None or not standard_input("--prompt").isatty():
                raise
            complain(str(error))  # whoever sits there can ask again
        else:
            out.write("\n")
    return 0


def _asked() -> Iterator[str]:
    """Lines of standard input, with a sign that one is awaited where somebody sits there."""
    out = standard_output()
    if not (standard_input("--prompt").isatty() and out.isatty()):
        for lines in read_lines(None, "prompts, one a line"):
            yield from lines
        return
    with suppress(ImportError):  # where there is one, `input` lets lines be edited
        import readline  # noqa: F401  its import is its effect
    while True:
        try:
            yield input("> ")
        except EOFError:
            out.write("\n")
            return
        except UnicodeDecodeError as error:
            raise BadInput(f"standard input is not UTF-8: {error.reason}") from None


# ------------------------------------------------------------------------------------------ report


class ReportOptions(_Options):
    """What `report` takes."""

    out: Path | None = None
    """Folder for the page and its pictures. Default: the one with the runs."""


def report(
    directory: Path, /, *, options: Annotated[ReportOptions | None, Parameter(name="*")] = None
):
    """Everything that was trained below a folder as one page, report.html, and report.md.

    Parameters
    ----------
    directory
        A folder with runs in it, at any depth.
    """
    from recdrop.lab.report import gather, write

    folder = options.out if options and options.out else directory
    for path in write(folder, gather(directory)):
        say(console(), f"Written: {path}")
    return 0
