"""Which launches a shape gets: tiles, programs, and whether one launch runs all steps."""

from dataclasses import dataclass

# Bytes of recurrent weights that a program keeps on its chip: more, and the compiler spills.
_KEPT = 32 * 1024
# Tiles that a program takes in a step. With more, we expect that a step takes longer than launching
# one; no card has measured it.
_TURNS = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """How a shape is run.

    Attributes:
        rows: Of the batch, in a program's tile.
        units: Of the state, in a program's tile; a multiple of 4, as one draw serves four units.
        depth: Of the product, taken at a time.
        programs: Of a launch.
        turns: Tiles that each of them takes, one after the other.
        persistent: Whether one launch runs all steps, its programs waiting for each other between
            them; else every step is a launch.
        keep: Whether each program reads its tile's recurrent weights once, for all steps.
        warps: Of a program.
    """

    rows: int
    units: int
    depth: int
    programs: int
    turns: int
    persistent: bool
    keep: bool
    warps: int

    @classmethod
    def of(
        cls,
        batch: int,
        hidden: int,
        gates: int,
        item: int,
        processors: int,
        *,
        untied: bool = False,
        ieee: bool = False,
    ) -> "Plan":
        """The plan for a shape.

        Persistent means that the card holds all programs at once, for none may wait for one that
        has not begun: there are no more than processors, and each takes up to 8 tiles in turn. A
        shape with more tiles runs a launch for each step, each tile a program of its own. That one
        launch of all steps is faster than a loop of launches in a CUDA graph is an expectation, not
        measured.

        Args:
            batch: B.
            hidden: H, a multiple of 16.
            gates: G.
            item: Bytes of a weight.
            processors: Of the card.
            untied: Whether each gate multiplies a view of its own, which takes registers.
            ieee: Whether products are float32's without tensor cores. Then no weights are kept: a
                product that is no loop becomes a block of code at which Triton's LLVM gives up.
        """
        rows = 16 if batch <= 16 else 32
        units = 16
        # Of untied views a large tile's registers are spilled.
        if tiles(batch, rows) * tiles(hidden, units) > processors and not untied:
            units = 32
        total = tiles(batch, rows) * tiles(hidden, units)
        persistent = total <= _TURNS * processors
        programs = min(total, processors) if persistent else total
        turns = tiles(total, programs)
        whole = _power_of_two(hidden)
        keep = persistent and turns == 1 and not ieee and gates * whole * units * item <= _KEPT
        depth = whole if keep else min(128 // item if units == 16 else 32, whole)
        warps = 8 if keep or rows == 32 else 4  # fewer, and registers are spilled
        return cls(rows, units, depth, programs, turns, persistent, keep, warps)


def _power_of_two(n: int) -> int:
    return max(16, 1 << (n - 1).bit_length())


def tiles(n: int, size: int) -> int:
    """How many tiles of a size cover n."""
    return -(-n // size)
