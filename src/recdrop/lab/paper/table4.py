"""Table 4: F1 of named entities, CoNLL-2003, by RNN, LSTM and GRU with and without dropout.

There is no public code of it by the authors, and the paper leaves much open. Sources are labelled
as in `recdrop.lab.paper.grid`.
"""

from recdrop.lab.config import (
    Chunks,
    NerRun,
    Scale,
    Schedule,
    TaggedData,
    Tagger,
)
from recdrop.lab.paper import word_nets
from recdrop.lab.paper.grid import Table, stopped
from recdrop.lab.paper.word_nets import Cell, rmsprop

# P, Table 4: F1 of the test set after either stage.
PRINTED = {
    "rnn-none": ("85.60%", "86.12%"),
    "rnn-25": ("86.48%", "86.95%"),
    "lstm-none": ("85.32%", "86.12%"),
    "lstm-25": ("86.42%", "86.88%"),
    "gru-none": ("86.00%", "86.44%"),
    "gru-25": ("86.70%", "87.10%"),
}
_MEASURES = {"test_stage1": "5-word pieces", "test": "then 15-word pieces"}


def cells() -> tuple[Cell, ...]:
    """The paper's six cells, each with both of its numbers."""
    return word_nets.cells("sequence")  # P


def run(cell: Cell, scale: Scale, seed: int = 0, *, max_epochs: int | None = None) -> NerRun:
    """A cell as a run.

    Args:
        cell: The cell.
        scale: The paper's protocol, or the same with a net of 256 units.
        seed: Start of its random streams; P fixes none.
        max_epochs: Stop here even if the protocol goes on; reports say so.

    Raises:
        ValueError: There is no such scale.
    """
    if scale not in ("paper", "small"):
        raise ValueError(f"table4 has the scales paper and small, got {scale}")
    whole = NerRun(
        name=cell.name,
        table="table4",
        scale=scale,
        data=TaggedData(
            scheme="iob2",  # ours
            batch=32,  # ours
            chunks=(Chunks(words=5), Chunks(words=15, after=25)),  # P; from the best net, ours
            more_vectors=0,  # only what the three sets have
        ),
        model=Tagger(
            cell=cell.net,
            reset_after=False,  # P, Eq. 11
            activation="relu",  # P
            embedding=100,  # without vectors, which is not the paper's
            hidden=1024 if scale == "paper" else 256,  # P
            init_range=0.05,  # ours, as in Table 2
            window=5,  # P
            capitals=True,  # P, which does not say how; five kinds, ours
            recurrent_dropout=cell.dropout,
            dropout_in=0.2,  # P
            dropout_out=0.5,  # P
        ),
        optim=rmsprop(0.01),  # P
        schedule=Schedule(
            epochs=35,  # P, 25 and 10
            log_every=500,
            keep="best",  # P, the best F1 of the validation set, in each stage
        ),
        seed=seed,
    )
    return whole if max_epochs is None else stopped(whole, max_epochs)


TABLE = Table(
    key="table4",
    title="Table 4: F1 of named entities, CoNLL-2003, test set",
    score="F1",
    measures=_MEASURES,
    cells=lambda _: cells(),
    printed=lambda cell: dict(zip(_MEASURES, PRINTED[cell.name], strict=True)),
    run=run,
    scales={"small": "small scale: nets of 256 units, not the paper's 1,024"},
    reads={
        "train": "eac0822f501353f265383ddf1edb0dcd42a1b6eefd3e383d7074db98c38eb41c",  # eng.train
        "valid": "aedc4ccbd1ae9795feaa0e86fe72d195b0258abed9d705b630d1c889276fac1e",  # eng.testa
        "test": "0632f32c090ef31c223135b7fee3187a7cf8e65c4015c7866bb7783428cdd9a6",  # eng.testb
        "vectors": None,
    },
    notes=(
        "each stage's net is that of its best look at validation; whole sentences are tagged",
        "the vectors are not the paper's: what can be compared is what recurrent dropout gains",
    ),
)
