"""Runs to start from: ``recdrop train TASK --preset NAME``.

Sources are labelled as in `recdrop.lab.paper.grid`.
"""

from typing import Any

from recdrop.lab.config import (
    Adam,
    Classifier,
    Dropout,
    LabelledData,
    LanguageModel,
    LanguageModelRun,
    NerRun,
    Run,
    Schedule,
    SentimentRun,
    TaggedData,
    Tagger,
    TaskName,
    TextData,
)
from recdrop.lab.paper import language_models, table1, table2, table3, table4, table5
from recdrop.lab.settings import changed


def _own(run: Run, **layers: Any) -> Run:
    """A table's run as a user's own: reports must not take another text for the paper's."""
    return changed(run, {"table": None, "scale": None, "name": "run"}, layers)


def _language_model(name: str) -> language_models.Cell:
    return next(cell for cell in language_models.cells() if cell.name == name)


_SHORT = next(cell for cell in table1.cells() if cell.name == "ours-step-short")
_WORDS = table2.run(_language_model("ours-step-25-forward"), "paper")  # P, the best of Table 2
_CHARACTERS = table3.run(_language_model("ours-step-25"), "paper")  # P, the best of Table 3

# C: main.py's settings of the two cells that only the paper's first version reports.
_GRU = _own(
    _WORDS,
    data={"window": 35, "resets": 2},
    model={"cell": "gru", "reset_after": False},  # C, P: Eq. 11
    optim={"lr": 0.1, "clip_norm": 20.0},
)
_RNN = _own(
    _WORDS,
    data={"window": 15, "stride": 5, "resets": 2},
    model={
        "cell": "rnn",
        "recurrent_dropout": [  # C, P: Eq. 2
            {"rate": 0.25, "site": "hidden", "sampling": "step", "rescale": "test"}
        ],
    },
    optim={"lr": 0.05, "clip_norm": 30.0},
    # The rate starts at a twentieth of the LSTM's, and so does the end.
    schedule={"min_lr": 5e-6},
)

# Ours throughout: a text of a megabyte in about five minutes.
_SMALL = LanguageModelRun(
    task="char-lm",
    data=TextData(symbols="auto", batch=32, window=64),
    model=LanguageModel(
        cell="lstm",
        embedding=64,
        hidden=512,
        init_range=0.08,
        recurrent_dropout=(Dropout(rate=0.25),),  # update, per step, inverted
    ),
    optim=Adam(lr=0.002, clip_norm=50.0),
    schedule=Schedule(epochs=8),
)
_SMALL_WORDS = LanguageModelRun(
    task="word-lm",
    data=TextData(batch=32, window=35, vocabulary=10_000, min_count=2),
    model=LanguageModel(
        cell="lstm",
        embedding=256,
        hidden=256,
        init_range=0.05,
        dropout_in=0.2,
        dropout_out=0.5,
        recurrent_dropout=(Dropout(rate=0.25),),
    ),
    optim=Adam(lr=0.002, clip_norm=50.0),
    schedule=Schedule(epochs=10, patience=2),
)

# Ours: a tagger as one would have it today, and the same for texts.
_TAGGER = NerRun(
    data=TaggedData(min_count=2),
    model=Tagger(
        cell="lstm",
        bidirectional=True,
        embedding=100,
        hidden=200,
        init_range=0.1,
        dropout_in=0.25,
        dropout_out=0.5,
        recurrent_dropout=(Dropout(rate=0.25, sampling="sequence"),),
    ),
    optim=Adam(lr=0.002, clip_norm=5.0),
    schedule=Schedule(epochs=30, patience=5),
)
_CLASSIFIER = SentimentRun(
    data=LabelledData(min_count=2),
    model=Classifier(
        cell="lstm",
        bidirectional=True,
        embedding=100,
        hidden=100,
        init_range=0.1,
        dropout_in=0.25,
        dropout_out=0.5,
        recurrent_dropout=(Dropout(rate=0.25),),
    ),
    optim=Adam(lr=0.002, clip_norm=5.0),
    schedule=Schedule(epochs=20, patience=3),
)
_NAMES = next(cell for cell in table4.cells() if cell.name == "lstm-25")
_TWEETS = next(cell for cell in table5.cells() if cell.name == "lstm-25")

PRESETS: dict[TaskName, dict[str, Run]] = {
    "word-lm": {"small": _SMALL_WORDS, "paper": _own(_WORDS), "paper-gru": _GRU, "paper-rnn": _RNN},
    "char-lm": {"small": _SMALL, "paper": _own(_CHARACTERS)},
    "ner": {
        "small": _TAGGER,
        "paper": _own(table4.run(_NAMES, "paper"), data={"more_vectors": 50_000}),
    },
    "sentiment": {
        "small": _CLASSIFIER,
        "paper": _own(
            table5.run(_TWEETS, "paper"), data={"more_vectors": 50_000, "layout": "files"}
        ),
    },
    "temporal-order": {"quick": _own(table1.run(_SHORT, "quick"))},
}
"""By task and name; a task's first is what it takes unless told."""
