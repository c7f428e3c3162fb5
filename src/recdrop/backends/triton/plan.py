"""Which launches a shape gets: tiles, programs, and whether one launch runs all steps."""

from dataclasses import dataclass

# Tiles that a program takes in a step. With more, we expect that a step takes longer than launching
# one; no card has measured it.
MOST_TURNS = 8
# Gates of the product with h, up to a power of 2 as Triton has it.
_PRODUCTS = {"rnn": 1, "lstm": 4, "gru": 4, "gru_paper": 2}


@dataclass(frozen=True, slots=True)
class Plan:
    """How a shape is run.

    Attributes:
        rows: Of the batch, in a program's tile.
        units: Of the state, in a program's tile.
        programs: Of a launch.
        turns: Tiles that each of them takes, one after the other.
        persistent: Whether one launch runs all steps, its programs waiting for each other between
            them; else every step is a launch.
        whole: H up to a power of 2.
        part: Of H, that a product takes at a time where no weights are kept.
        keeps: Whether forward and backward each read a program's recurrent weights once, for all
            steps.
    """

    rows: int
    units: int
    programs: int
    turns: int
    persistent: bool
    whole: int
    part: int
    keeps: tuple[bool, bool]

    @classmethod
    def of(
        cls,
        batch: int,
        hidden: int,
        cell: str,
        item: int,
        processors: int,
        shared: int,
        *,
        untied: bool = False,
        ieee: bool = False,
    ) -> "Plan":
        """The plan for a shape.

        Persistent means that the card holds all programs at once, for none may wait for one that
        has not begun: there are no more than processors, and each takes up to 8 tiles in turn. A
        shape with more tiles runs a launch for each step, each tile a program of its own. That one
        launch of all steps is faster than a loop of launches in a CUDA graph is an expectation, not
        measured. Tiles are as small as they may be without turns: a program reads its rows of h at
        every step, and kept weights once, whatever its rows.

        Args:
            batch: B.
            hidden: H, a multiple of 16.
            cell: rnn, lstm, gru or gru_paper.
            item: Bytes of a weight.
            processors: Of the card.
            shared: Bytes of shared memory that a program may have.
            untied: Whether each gate multiplies a view of its own.
            ieee: Whether products are float32's without tensor cores. Then no weights are kept: a
                product that is no loop becomes a block of code at which Triton's LLVM gives up.
        """
        sizes = [(16, 16), (32, 16), (32, 32)] if batch > 16 else [(16, 16), (16, 32)]
        counts = [tiles(batch, rows) * tiles(hidden, units) for rows, units in sizes]
        fits = [n for n in counts if n <= processors]
        total = fits[0] if fits else counts[-1]
        rows, units = sizes[counts.index(total)]
        persistent = total <= MOST_TURNS * processors
        programs = min(total, processors) if persistent else total
        turns = tiles(total, programs)
        whole = 1 << (hidden - 1).bit_length()
        part = min(128 // item, whole)
        # Of shared memory, for each of H: both operands of the product, and the weights of the
        # paper's candidate. All else finds its place where the first operand was.
        products, candidate = _PRODUCTS[cell], units if cell == "gru_paper" else 0
        batch_of_gates = products * (rows + units) + candidate
        side_by_side = rows + products * units + candidate
        room = shared // (whole * item) if persistent and turns == 1 and not ieee else 0
        keeps = (batch_of_gates if untied else side_by_side) <= room, batch_of_gates <= room
        return cls(rows, units, programs, turns, persistent, whole, part, keeps)

    def launch(self, *, backward: bool) -> dict[str, int]:
        """What a kernel is told of it."""
        keep = self.keeps[backward]
        return {
            "TURNS": self.turns,
            "PERSISTENT": self.persistent,
            "KEEP": keep,
            "BB": self.rows,
            "BU": self.units,
            "BK": self.whole if keep else self.part,
            "num_warps": 8 if keep or self.rows == 32 else 4,
            "num_stages": 3,  # loads in flight
        }


def tiles(n: int, size: int) -> int:
    """How many tiles of a size cover n."""
    return -(-n // size)
