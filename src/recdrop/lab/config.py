"""What a run is: frozen, checked values. Nothing here imports torch.

How they are changed, compared and refused: `recdrop.lab.settings`.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    model_validator,
)

Accuracy = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=3e38)]  # float32 ends at 3.4e38
Start = Annotated[float, Field(gt=0, le=1e38)]  # half of what is drawn from
Count = Annotated[int, Field(ge=1, le=10**9)]
Column = Annotated[int, Field(ge=1, le=1_000)] | str | None
Width = Annotated[int, Field(ge=1, le=65_536)]
Scale = Literal["quick", "small", "tenth", "paper"]
TaskName = Literal["temporal-order", "word-lm", "char-lm", "ner", "sentiment"]
UNNAMED = "run"  # the name of a run that was given none


class Record(BaseModel):
    """A frozen record: unknown keys, NaN, infinities and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    def _conflicts(self) -> Iterator[str]:
        """What of the values, each in its range, does not go together."""
        yield from ()

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if told := list(self._conflicts()):
            raise ValueError("; ".join(told))
        return self


# ---------------------------------------------------------------------------------- data and model


class TemporalOrderData(Record):
    """Sequences with two marked bits; positions count from 0.

    Attributes:
        length: Steps of a sequence.
        low: Last position of the first marker, which starts at 0; the second starts here.
        high: Last position of the second marker.
        collide: Whether both markers may fall on ``low``, as in the authors' code; else the second
            starts at ``low + 1``.
        train: Sequences of the fixed training set, whole batches.
        test: Sequences of the test set.
        batch: Sequences per update, over all processes.
    """

    length: Annotated[int, Field(ge=3, le=100_000)]
    low: Annotated[int, Field(ge=0)]
    high: Annotated[int, Field(ge=0)]
    collide: bool = True
    train: Count = 6_400
    test: Count = 10_000
    batch: Count = 32

    def _conflicts(self) -> Iterator[str]:
        first = self.low if self.collide else self.low + 1
        if not first <= self.high < self.length:
            yield (
                f"the second marker needs {first} <= high < length, "
                f"got high {self.high}, length {self.length}"
            )
        if self.train % self.batch:
            yield f"train must be whole batches of {self.batch} sequences, got {self.train}"


class TextData(Record):
    """A text as parallel streams, read window by window with the state carried along.

    Attributes:
        symbols: What the text is made of: ``"words"`` between blanks, each line ended by ``<eos>``;
            ``"characters"``, every one of them, line feeds included; or ``"auto"``: words in a word
            model; in a character model characters, unless each of the first thousand words is a
            single one (Mikolov's character files), where the blanks between them mean nothing.
        batch: Streams side by side, over all processes.
        window: Steps that gradients flow back through, T.
        stride: Each stream is read once more from every multiple of this within the first window,
            as further rows: window / stride rows for each stream (the authors' RNN). None: once.
        resets: So many times an epoch, evenly spread, the carried state is set to zero.
        vocabulary: Most symbols that are told apart, ``<eos>`` and ``<unk>`` among them; None: all.
        min_count: Symbols that the training text has less often become ``<unk>``.
        unknown: Whether there is an ``<unk>`` for symbols that the vocabulary lacks; without one,
            a text that needs it is refused.
        share: Part of the training text that is trained on, from its start. The vocabulary is that
            of the whole.
    """

    symbols: Literal["words", "characters", "auto"] = "words"
    batch: Annotated[int, Field(ge=1, le=100_000)] = 32
    window: Annotated[int, Field(ge=1, le=100_000)] = 35
    stride: Count | None = None
    resets: Count = 1
    vocabulary: Annotated[int, Field(ge=3, le=10**7)] | None = None
    min_count: Count = 1
    unknown: bool = True
    share: Annotated[float, Field(gt=0, le=1)] = 1.0

    def _conflicts(self) -> Iterator[str]:
        if self.stride is not None and self.window % self.stride:
            yield f"stride must divide window {self.window}, got {self.stride}"
        if not self.unknown and (self.vocabulary is not None or self.min_count > 1):
            yield "a cut vocabulary (vocabulary, min_count) needs unknown = true"


class _WordsData(Record):
    """Rows of words that belong together: sentences, tweets.

    Attributes:
        batch: Rows per update, over all processes.
        min_count: Words that the training texts have less often are not known, where their vectors
            are learned.
        more_vectors: Of given vectors, so many of the first ones are kept for words that none of
            the texts has.
    """

    batch: Annotated[int, Field(ge=1, le=100_000)] = 32
    min_count: Count = 1
    more_vectors: Annotated[int, Field(ge=0, le=10**8)] = 50_000


class Chunks(Record):
    """Pieces of sentences to train on.

    Attributes:
        words: Of a piece; each sentence is cut anew every epoch, its first piece being of a random
            length. None: whole sentences.
        after: So many epochs are over when these begin, from the best net so far.
    """

    words: Count | None = None
    after: Annotated[int, Field(ge=0)] = 0


class TaggedData(_WordsData):
    """Sentences with a tag for each word.

    Attributes:
        column: Of the tags, counted from 1, or back from -1, the last.
        scheme: Of the tags that the net learns and writes, whatever the files have.
        chunks: What is trained on, stage by stage.
    """

    column: Annotated[int, Field(ge=-1_000, le=1_000)] = -1
    scheme: Literal["iob1", "iob2", "iobes"] = "iob2"
    chunks: Annotated[tuple[Chunks, ...], Field(strict=False)] = (Chunks(),)

    def _conflicts(self) -> Iterator[str]:
        starts = [stage.after for stage in self.chunks]
        if starts[:1] != [0] or starts != sorted(set(starts)):
            yield f"chunks: after must start at 0 and rise, got {starts}"
        if self.column == 0:
            yield "column counts from 1, or back from -1, got 0"


class LabelledData(_WordsData):
    """Texts with a label each.

    Attributes:
        texts: How they become words: ``"tweets"`` as `recdrop.lab.tweets` says, ``"words"`` between
            blanks.
        text_column: Name or number, from 1, of the column with the text; None: recognised.
        label_column: The same of the labels.
        layout: ``"files"``: train, valid and test files, or one that is split; ``"semeval"``: the
            paper's, of a folder of SemEval's files.
        pretraining: Epochs on weak labels, where such are given, before the others.
    """

    texts: Literal["tweets", "words"] = "tweets"
    text_column: Column = None
    label_column: Column = None
    layout: Literal["files", "semeval"] = "files"
    pretraining: Count = 1


class Dropout(Record):
    """One `recdrop.RecurrentDropout`, field by field."""

    rate: Rate
    site: Literal["update", "hidden", "state"] = "update"
    sampling: Literal["step", "sequence"] = "step"
    rescale: Literal["train", "test"] = "train"
    tied: bool = True


class _Recurrent(Record):
    """What every net has: dropout inside its recurrence, each site once.

    A number in place of the list is `recdrop`'s own shorthand: the paper's scheme, per step; none
    is an empty list.
    """

    # Not strict: what the validator below has seen is no longer JSON to pydantic, and its lists
    # would not do for a tuple.
    recurrent_dropout: Annotated[tuple[Dropout, ...], Field(strict=False)] = ()

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, given: Any) -> Any:
        rate = given.get("recurrent_dropout") if isinstance(given, dict) else None
        if isinstance(given, dict) and "recurrent_dropout" in given and rate is None:
            return given | {"recurrent_dropout": []}
        if isinstance(rate, bool) or not isinstance(rate, int | float):
            return given
        site = "hidden" if given.get("cell") == "rnn" else "update"
        return given | {"recurrent_dropout": [{"rate": rate, "site": site}] if rate else []}

    def _conflicts(self) -> Iterator[str]:
        sites = [drop.site for drop in self.recurrent_dropout]
        if len(set(sites)) < len(sites):
            yield f"recurrent_dropout takes each site once, got {sites}"
        for drop in self.recurrent_dropout:
            if not drop.tied and drop.site != "hidden":
                yield f"tied = false goes with site hidden, got site {drop.site}"


class TemporalOrderModel(_Recurrent):
    """One LSTM layer and a linear readout of its last h.

    Attributes:
        hidden: Units of the layer.
        init_range: Its weights and biases start uniform in ±this.
        output_init_range: The readout's start uniform in ±this.
        recurrent_dropout: Inside the recurrence.
    """

    hidden: Width
    init_range: Start
    output_init_range: Start


class _Layers(_Recurrent):
    """Embedding, recurrent layers, a linear layer.

    Attributes:
        cell: Which layer.
        reset_after: Of a GRU: torch's (true) or the paper's (false).
        embedding: Width of the embedding.
        hidden: Units of each layer.
        layers: Layers on each other.
        init_range: Everything, biases included, starts uniform in ±this.
        dropout_in: Forward dropout of the embedding's output, inverted, fresh at every step.
        dropout_between: The same of each layer's output but the last one's.
        dropout_out: The same of the last layer's output.
        recurrent_dropout: Inside the recurrence.
    """

    cell: Literal["rnn", "lstm", "gru"] = "lstm"
    reset_after: bool = True
    embedding: Width
    hidden: Width
    layers: Annotated[int, Field(ge=1, le=100)] = 1
    init_range: Start
    dropout_in: Rate = 0.0
    dropout_between: Rate = 0.0
    dropout_out: Rate = 0.0

    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        if self.cell == "rnn" and any(drop.site != "hidden" for drop in self.recurrent_dropout):
            yield "a plain RNN has the site hidden only"
        if self.layers == 1 and self.dropout_between:
            yield f"dropout_between = {self.dropout_between:g} needs layers = 2 or more"


class LanguageModel(_Layers):
    """Embedding, recurrent layers, a linear layer over the vocabulary."""


class _WordNet(_Layers):
    """The same over words whose vectors may be given.

    Attributes:
        activation: Of the candidate, and of an LSTM's c on its way out (the equations' f).
        bidirectional: Whether there is a layer from each end.
        tune: Whether given vectors are trained on; without any given they are learned, of width
            ``embedding``.
    """

    activation: Literal["tanh", "relu"] = "tanh"
    bidirectional: bool = False
    tune: bool = False


class Tagger(_WordNet):
    """A tag for each word.

    Attributes:
        window: Words that a step sees, itself in the middle.
        capitals: Whether it also sees how each is written: small, Capitalised, CAPITALS, mIxed,
            with a digit.
    """

    window: Annotated[int, Field(ge=1, le=99)] = 5
    capitals: bool = True

    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        if self.window % 2 == 0:
            yield f"window must be odd, got {self.window}"


class Classifier(_WordNet):
    """A label for each text, from its last step (and its first one's from the other end)."""


# ------------------------------------------------------------------------------------ how to train


class PlateauDecay(Record):
    """Divide the learning rate after each look at the watched set that is no new best."""

    kind: Literal["plateau"] = "plateau"
    divide_by: Annotated[float, Field(gt=1)]


class ExponentialDecay(Record):
    """Multiply the learning rate after every epoch, the first one being epoch ``start``."""

    kind: Literal["exponential"] = "exponential"
    factor: Annotated[float, Field(gt=0, lt=1)]
    start: Count = 1


class _Optimiser(Record):
    """What every optimiser has.

    Attributes:
        lr: Learning rate.
        clip_norm: Largest L2 norm of all gradients together; None does not clip.
        decay: How the learning rate falls.
    """

    lr: Positive
    clip_norm: Positive | None = None
    decay: Annotated[PlateauDecay | ExponentialDecay, Field(discriminator="kind")] | None = None


class Sgd(_Optimiser):
    """Plain stochastic gradient descent."""

    kind: Literal["sgd"] = "sgd"


class Adam(_Optimiser):
    """Adam with torch's defaults for everything else."""

    kind: Literal["adam"] = "adam"


class RmsProp(_Optimiser):
    """RMSProp.

    Attributes:
        rho: Decay of the mean of squares.
        eps: Added to its root.
    """

    kind: Literal["rmsprop"] = "rmsprop"
    rho: Annotated[float, Field(gt=0, lt=1)] = 0.9
    eps: Positive = 1e-6


class StopRule(Record):
    """End where the training batches themselves are mastered.

    Attributes:
        train_score: What a row of training metrics, masks on, must reach.
        rows: So many rows in a row must reach it.
        score: What the deterministic net must then reach on the watched set, if anything.
    """

    train_score: float
    rows: Count = 1
    score: float | None = None


class Schedule(Record):
    """How long to train, and how often to look.

    Attributes:
        epochs: Passes over the training set at most.
        log_every: Updates that one row of training metrics is the mean of; the last row of an epoch
            may be shorter. Loss and score are those of the batches before their updates, masks on:
            they cost nothing.
        evaluate_every: Epochs between two looks at the watched set; one more at the end.
        keep: Which net is the run's: that of the best look (by score, of equal scores by loss), or
            the last.
        patience: End after so many looks in a row without a new best; None never.
        min_lr: End when the learning rate has fallen below; None never.
        stop: One more rule; None for none.
    """

    epochs: Count
    log_every: Count = 100
    evaluate_every: Count = 1
    keep: Literal["best", "last"] = "best"
    patience: Count | None = None
    min_lr: Positive | None = None
    stop: StopRule | None = None


# ---------------------------------------------------------------------------------------- the runs


def _named(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"expected letters a-z, digits, single dashes between, got {name!r}")
    return name


class _Run(Record):
    """What every run has: the same value gives the same bits on one machine and thread count.

    Attributes:
        name: Cell of a table, or any other; letters, digits and dashes, for it names a folder.
        table: Table or figure of the paper that it belongs to, if any.
        scale: Of the protocol of such a run; reports say which.
        optim: The optimiser.
        schedule: How long.
        seed: Start of every random stream.
    """

    name: Annotated[str, Field(max_length=100), AfterValidator(_named)] = UNNAMED
    table: Literal["table1", "table2", "table3", "table4", "table5", "figure2"] | None = None
    scale: Scale | None = None
    optim: Annotated[Sgd | Adam | RmsProp, Field(discriminator="kind")]
    schedule: Schedule
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class TemporalOrderRun(_Run):
    """Which two bits were marked, and in which order?"""

    task: Literal["temporal-order"] = "temporal-order"
    data: TemporalOrderData
    model: TemporalOrderModel


class LanguageModelRun(_Run):
    """Which symbol comes next? Measured in perplexity of words, or in bits per character."""

    task: Literal["word-lm", "char-lm"]
    data: TextData
    model: LanguageModel


class NerRun(_Run):
    """Which words are names, and of what? Measured in F1 of entities."""

    task: Literal["ner"] = "ner"
    data: TaggedData
    model: Tagger

    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        last = self.data.chunks[-1].after
        # A table's run may be shortened on purpose, and its report says so.
        if self.table is None and self.schedule.epochs <= last:
            yield (
                f"schedule.epochs: {self.schedule.epochs} with data.chunks whose last begin after "
                f"{last} leaves no epoch for them; give more, or fewer chunks"
            )


class SentimentRun(_Run):
    """What does a text feel? Measured in the mean F1 of positive and negative."""

    task: Literal["sentiment"] = "sentiment"
    data: LabelledData
    model: Classifier


Run = Annotated[
    TemporalOrderRun | LanguageModelRun | NerRun | SentimentRun, Field(discriminator="task")
]
_RUN: TypeAdapter[Run] = TypeAdapter(Run)


def parse_run(text: str | bytes) -> Run:
    """A run from JSON.

    Raises:
        pydantic.ValidationError: It is none; see `recdrop.lab.settings.faults`.
    """
    return _RUN.validate_json(text)
