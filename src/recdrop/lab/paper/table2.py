"""Table 2: word perplexity on Penn Treebank of Moon et al., Gal and this paper.

Sources are labelled as in `recdrop.lab.paper.grid`.
"""

from recdrop.lab.config import (
    LanguageModel,
    LanguageModelRun,
    PlateauDecay,
    Scale,
    Schedule,
    Sgd,
    TextData,
)
from recdrop.lab.paper import language_models
from recdrop.lab.paper.grid import Table, TableName
from recdrop.lab.paper.language_models import FORWARD, TENTH_NOTE, Cell, cells, printed, scaled

# P, Table 2. Valid and test of Moon, Gal, ours.
PRINTED = printed("""
    none                   130.0 125.2   130.0 125.2   130.0 125.2
    step-25                113.0 108.7   119.8 114.2   106.1 100.0
    step-50                124.0 116.5   118.3 112.5   102.8 98.0
    sequence-25            121.0 113.0   120.5 114.0   106.3 100.7
    sequence-50            137.7 126.2   125.2 117.9   103.2 96.8
    none-forward           94.1 89.5     94.1 89.5     94.1 89.5
    step-25-forward        113.5 105.8   92.9 88.4     91.6 87.0
    step-50-forward        140.6 130.1   98.6 92.5     100.6 95.5
    sequence-25-forward    105.7 99.9    94.5 89.7     92.4 87.6
    sequence-50-forward    125.4 117.4   98.4 92.5     107.8 101.8
""")


def run(
    cell: Cell,
    scale: Scale,
    seed: int = 0,
    *,
    max_epochs: int | None = None,
    table: TableName = "table2",
) -> LanguageModelRun:
    """A cell as a run.

    Args:
        cell: The cell.
        scale: The paper's protocol, or the same on the first tenth of the text.
        seed: Start of its random streams; P and C fix none.
        max_epochs: Stop here even if the protocol goes on; reports say so.
        table: Figure 2 is run as this table is.

    Raises:
        ValueError: There is no such scale.
    """
    dropout_in, dropout_out = FORWARD[cell.forward]
    return scaled(
        LanguageModelRun(
            task="word-lm",
            name=cell.name,
            table=table,
            scale=scale,
            data=TextData(
                symbols="words",  # P, Mikolov's files
                batch=32,  # P
                window=35,  # P, C
                resets=1,  # ours: C means to reset as well, but its reset does nothing to an LSTM
            ),
            model=LanguageModel(
                cell="lstm",
                embedding=256,  # C, layer_size; P does not say
                hidden=256,  # P
                init_range=0.05,  # P, C; biases too, none for forgetting
                recurrent_dropout=cell.dropout,
                dropout_in=dropout_in,
                dropout_out=dropout_out,
            ),
            optim=Sgd(
                lr=1.0,  # P, C
                clip_norm=10.0,  # P, C, over all parameters together
                decay=PlateauDecay(divide_by=1.5),  # P, C; on no new best (C)
            ),
            schedule=Schedule(
                epochs=100,  # C; P does not say
                keep="best",  # ours: only this gives Table 2's baseline (Figure 2 ends at 142.9)
                min_lr=1e-4,  # ours: nothing moves any more
            ),
            seed=seed,
        ),
        max_epochs=max_epochs,
    )


READS = {
    "train": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
    "valid": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
    "test": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
}  # Mikolov's files

TABLE = Table(
    key="table2",
    title="Table 2: perplexity of words, Penn Treebank",
    score="perplexity",
    measures={"valid": "valid", "test": "test"},
    cells=lambda _: cells(),
    printed=lambda cell: PRINTED.get(cell.name, {}),
    run=run,
    scales={"tenth": TENTH_NOTE},
    reads=READS,
    notes=language_models.notes(cells()),
)
