"""Which symbol comes next? Words in perplexity (Table 2, Figure 2), characters in bits (Table 3).

Layout and loss of training are the authors' (stas-semeniuta/drop-rnn @fec39a29); evaluation counts
every symbol of a text once, and `paper_style` gives the authors' own figure beside it.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

import recdrop
from recdrop.lab.config import LanguageModel, LanguageModelRun
from recdrop.lab.console import counted
from recdrop.lab.errors import BadInput
from recdrop.lab.output_layer import cross_entropies, cross_entropy_sum
from recdrop.lab.tasks.net import ForwardDropout, deterministic, recurrent_layers, uniform_start
from recdrop.lab.tasks.streams import Streams, read_rows, training_streams
from recdrop.lab.tasks.task import Abandoned, Measured, Part, Stopping, never, stream

if TYPE_CHECKING:
    from recdrop.lab.text import Corpus

State = tuple[Tensor, ...]  # (h,) or (h, c), each [layers, B, H]

_EPS = 1e-6  # added to every probability by the authors' CrossEntropy, which then sum to 1 + V eps
_MOST_NATS = 700.0  # exp of it is still a float


class LanguageModelNet(nn.Module):
    """Embedding, recurrent layers, a linear layer over the vocabulary.

    Args:
        vocabulary_size: Symbols, V.
        model: Everything else.

    Shapes:
        symbols int64 [T, B]; state as `State`, None for zero; returns logits [T, B, V] and the
        state after the last step.
    """

    def __init__(self, vocabulary_size: int, model: LanguageModel) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, model.embedding)
        self.dropout_in = ForwardDropout(model.dropout_in)
        self.rnn: nn.RNNBase = recurrent_layers(model, model.embedding)
        self.dropout_out = ForwardDropout(model.dropout_out)
        self.output = nn.Linear(model.hidden, vocabulary_size)

    def __call__(self, symbols: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Typed `nn.Module.__call__`."""
        return super().__call__(symbols, state)

    def forward(self, symbols: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Logits and the new state; see the class."""
        hidden, state = self.hidden(symbols, state)
        return self.output(hidden), state

    def hidden(self, symbols: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """What the output layer sees, [T, B, H], and the new state.

        The output layer itself is better done together with its loss; see `output_layer`.
        """
        given = state[0] if state is not None and len(state) == 1 else state
        output, last = self.rnn(self.dropout_in(self.embedding(symbols)), given)
        return self.dropout_out(output), last if isinstance(last, tuple) else (last,)

    def zero_state(self, rows: int) -> State:
        """The state before a text begins."""
        shape = (self.rnn.num_layers, rows, self.rnn.hidden_size)
        parts = 2 if isinstance(self.rnn, recdrop.LSTM) else 1
        return tuple(self.output.weight.new_zeros(shape) for _ in range(parts))

    def nats(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy of every prediction, [T * B], without a graph.

        Args:
            hidden: [T, B, H], from `hidden`.
            targets: int64 [T, B].
        """
        weight, bias = self.output.weight, self.output.bias
        return cross_entropies(hidden.flatten(0, 1), weight, bias, targets.flatten())

    @property
    def device(self) -> torch.device:
        """Where the net is."""
        return self.output.weight.device


def initialise(net: LanguageModelNet, model: LanguageModel, generator: Generator) -> None:
    """Everything uniform in ±``init_range``, one bias of the two zero; see `uniform_start`."""
    uniform_start(net, model.init_range, generator)


class LanguageModelTask:
    """The net and its text; a `recdrop.lab.tasks.task.Task`.

    Args:
        run: What to train.
        corpus: Its vocabulary and the three texts.
        rank: Of this process.
        size: Number of processes; each takes its share of the rows.

    Raises:
        BadInput: The streams cannot be shared equally, or a text is too short.
    """

    stages: Sequence[int] = ()
    watched = "valid"
    higher_is_better = False

    def __init__(
        self, run: LanguageModelRun, corpus: "Corpus", rank: int = 0, size: int = 1
    ) -> None:
        data = run.data
        if data.batch % size:
            raise BadInput(f"data.batch: {data.batch} streams cannot be shared by {size} processes")
        whole = training_streams(corpus.train, data)
        self.run, self.corpus, self.steps = run, corpus, whole.windows
        self.all_rows, self.unread = len(whole.starts), whole.unread
        self.rows = self.all_rows // size
        self._streams = whole._replace(starts=whole.starts[rank * self.rows :][: self.rows])
        resets = min(data.resets, self.steps)
        self._resets = {k * self.steps // resets for k in range(resets)}
        self._start = corpus.vocabulary.start
        for name, tokens in (("validation text", corpus.valid), ("test text", corpus.test)):
            _check_long_enough(name, tokens, self._start)
        self.net = LanguageModelNet(len(corpus.vocabulary), run.model)
        initialise(self.net, run.model, stream(run.seed, "start"))
        self._state = self.net.zero_state(self.rows)

    def begin(self, epoch: int) -> None:
        """Start from zero; the order of a text is always the same."""
        self._state = self.net.zero_state(self.rows)

    def part(self, step: int) -> Part:
        """One window; the objective is summed over time and averaged over rows, as the authors'."""
        if step in self._resets:
            self._state = self.net.zero_state(self.rows)
        inputs, targets = (
            x.to(self.net.device, non_blocking=True) for x in self._streams.read(step)
        )
        hidden, state = self.net.hidden(inputs, self._state)
        self._state = tuple(s.detach() for s in state)
        layer = self.net.output
        objective = cross_entropy_sum(
            hidden.flatten(0, 1), layer.weight, layer.bias, targets.flatten(), 1 / self.rows
        )
        return Part(objective, objective.detach() * self.rows, targets.numel())

    def score(self, nats: float, count: int, right: int = 0) -> float:
        """Perplexity of words, bits of a character."""
        loss = nats / count
        return math.exp(min(loss, _MOST_NATS)) if self._of_words else loss / math.log(2)

    def look(self, stopping: Stopping = never) -> Measured:
        """The validation text, every symbol of it."""
        return self._measure(self.corpus.valid, stopping)

    def conclude(self, stopping: Stopping = never) -> dict[str, float]:
        """Scores of both texts; of words also the authors' own, where a text fills a window."""
        texts = {"valid": self.corpus.valid, "test": self.corpus.test}
        scores = {name: self._measure(tokens, stopping).score for name, tokens in texts.items()}
        if self._of_words:
            window = self.run.data.window
            most = paper_windows(len(texts["valid"]), self.all_rows, window)
            for name, tokens in texts.items():
                if min(most, paper_windows(len(tokens), self.all_rows, window)) > 0:
                    scores[f"{name}_paper_style"] = paper_style(
                        self.net, tokens, self.all_rows, window, most, stopping=stopping
                    )
        return scores

    def carried(self) -> dict[str, Tensor]:
        """The state of this process's rows."""
        return dict(zip("hc", self._state, strict=False))

    def carry(self, tensors: dict[str, Tensor]) -> None:
        """Take `carried`'s state back.

        Raises:
            KeyError: A tensor is missing.
            ValueError: One has the wrong shape.
        """
        state = []
        for name, own in self.carried().items():
            if tensors[name].shape != own.shape:
                raise ValueError(
                    f"the carried {name} has the shape {list(tensors[name].shape)}, "
                    f"expected {list(own.shape)}"
                )
            state.append(tensors[name].to(own))
        self._state = tuple(state)

    @property
    def _of_words(self) -> bool:
        return self.run.task == "word-lm"

    def _measure(self, tokens: Tensor, stopping: Stopping) -> Measured:
        data = self.run.data
        nats, count = evaluate(
            self.net, tokens, data.batch, data.window, self._start, stopping=stopping
        )
        return Measured(nats / count, self.score(nats, count))


def evaluate(
    net: LanguageModelNet,
    tokens: Tensor,
    streams: int,
    window: int,
    start: int | None,
    *,
    stopping: Stopping = never,
) -> tuple[float, int]:
    """Cross entropy of a whole text by the deterministic net: every symbol is predicted once.

    The text is cut into contiguous streams whose lengths differ by at most one. Each begins with a
    zero state and its own predecessor, the first one with the start symbol; one stream is exact,
    more are faster.

    Args:
        net: Left in the mode it was in.
        tokens: int64 [N].
        streams: Rows side by side; fewer where the text has fewer predictions.
        window: Steps at a time; the result depends on it by rounding only.
        start: `Vocabulary.start`; with None the first symbol is not predicted, and does not count.
        stopping: Asked at every window.

    Returns:
        Nats, and the number of predictions: N, or N - 1 without a start symbol.

    Raises:
        BadInput: There is nothing to predict.
        Abandoned: ``stopping`` said so.
    """
    _check_long_enough("text", tokens, start)
    text = tokens if start is None else torch.cat([tokens.new_tensor([start]), tokens])
    text = text.to(net.device)
    count = len(text) - 1
    rows = min(streams, count)
    shortest, longer = divmod(count, rows)
    numbers = torch.arange(rows, device=text.device)
    starts = numbers * shortest + numbers.clamp(max=longer)  # the first ones are the longer ones
    spans = [(first, min(window, shortest - first), rows) for first in range(0, shortest, window)]
    spans += [(shortest, 1, longer)] if longer else []
    nats, state = 0.0, net.zero_state(rows)
    with deterministic(net):
        for first, steps, among in spans:
            if stopping():
                raise Abandoned
            inputs, targets = read_rows(text, starts[:among], first, steps)
            hidden, state = net.hidden(inputs, tuple(s[:, :among].contiguous() for s in state))
            nats += net.nats(hidden, targets).sum(dtype=torch.float64).item()
    return nats, count


def paper_windows(length: int, rows: int, window: int) -> int:
    """Windows of each row in the authors' layout, which drops the last ``window`` symbols."""
    return max(0, length - window) // (rows * window)


def paper_style(
    net: LanguageModelNet,
    tokens: Tensor,
    rows: int,
    window: int,
    windows_at_most: int | None = None,
    *,
    stopping: Stopping = never,
) -> float:
    """The authors' perplexity: the mean over batches of exp of the batch's mean cross entropy.

    It differs from `evaluate`'s: that mean lies above; 1e-6 is added to each probability, which
    lowers it; the text is cut to whole windows, and the test text to as many as validation has.
    As there the state goes from window to window; unlike there it begins at zero.

    Args:
        net: Left in the mode it was in.
        tokens: int64 [N].
        rows: Streams side by side; the authors' 32, or 96 of their RNN.
        window: Steps of a batch.
        windows_at_most: No more than these; None for all.
        stopping: Asked at every window.

    Raises:
        BadInput: The text does not fill one window.
        Abandoned: ``stopping`` said so.
    """
    windows = paper_windows(len(tokens), rows, window)
    if windows < 1:
        raise BadInput(
            f"the text has {counted(len(tokens), 'symbol')}; {counted(rows, 'stream')} of a window "
            f"of {window} in the paper's style need {(rows + 1) * window:,}: give more text"
        )
    tokens = tokens.to(net.device)
    starts = torch.arange(rows, device=net.device) * (windows * window)
    layout = Streams(tokens, starts, window, windows)
    most = windows if windows_at_most is None else min(windows, windows_at_most)
    with deterministic(net):
        means = list(_paper_batches(net, layout, most, stopping))
    return sum(map(math.exp, means)) / len(means)


def _paper_batches(
    net: LanguageModelNet, layout: Streams, windows: int, stopping: Stopping
) -> Iterator[float]:
    """Mean of -log(probability + 1e-6) of each batch."""
    state = net.zero_state(len(layout.starts))
    for step in range(windows):
        if stopping():
            raise Abandoned
        inputs, targets = layout.read(step)
        hidden, state = net.hidden(inputs, state)
        probabilities = net.nats(hidden, targets).neg().exp()
        yield -(probabilities + _EPS).log().mean(dtype=torch.float64).item()


def _check_long_enough(name: str, tokens: Tensor, start: int | None) -> None:
    needed = 1 if start is not None else 2
    if len(tokens) < needed:
        raise BadInput(
            f"the {name} has {counted(len(tokens), 'symbol')}, evaluation needs {needed}: give "
            "more text"
        )
