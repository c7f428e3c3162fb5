"""Draw the plots of docs/benchmarks and write their tables, from the JSON files in results.

``python -m benchmarks.draw`` replaces what stands between the markers of docs/benchmarks/cpu.md and
of gpu.md; the words around them are kept, and so is what there are no results of.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import plots, tables
from benchmarks.machine import RESULTS, ROOT

PAGE = """\
# On a CPU

What recurrent dropout costs: seconds of forward and backward (gradients of the input and of every
parameter) of recdrop's layers at rate 0.25, divided by those of torch's layer of the same cell
**without** any recurrent dropout. Below 1 is faster than torch.

```sh
python -m benchmarks.run      # the ratios          python -m benchmarks.growth   # over H, B, T
python -m benchmarks.floor    # where time goes     python -m benchmarks.peers    # other libraries
python -m benchmarks.draw     # this page
```

Before anything is timed, each configuration must agree with the float64 reference at a small size,
with torch's layer at the timed size and nothing dropped, and with the reference under the same
masks. Then all contenders of a line run in turns in one process, in a new order each round, one
process for each number of threads; the ratio is that of the minima over at least 15 rounds.

<!-- machine -->

Not measured yet.

<!-- end -->

## Against torch without recurrent dropout

<!-- ratios -->

Not measured yet.

<!-- end -->

## How time grows

<!-- growth -->

Not measured yet.

<!-- end -->

## Where it goes

The floor is the sum of the matrix products that no pass can do without, each by the fastest of
`torch.mm`, step by step where it must be, and our own product, which takes all steps at once as no
recurrence could. What is left of a pass with nothing dropped is the cell and its traffic. The masks
are the difference to a pass with this paper's dropout, per step.

<!-- floor -->

Not measured yet.

<!-- end -->

## Against other libraries

All at rate 0.25, bound to the same cores. Keras and Flax have no update site; each has the scheme
that it offers.

<!-- peers -->

Not measured yet.

<!-- end -->
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Draw and write everything that there are results of."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.draw", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "benchmarks")
    args = parser.parse_args(argv)
    args.docs.mkdir(parents=True, exist_ok=True)
    _cpu(args.results, args.docs)
    _gpu(args.results, args.docs)


def _cpu(results: Path, docs: Path) -> None:
    """The page of the CPU: whole, as one list of machines is of all its figures, or a new one."""
    page = docs / "cpu.md"
    reports = {name: load(results, name) for name in ("cpu", "growth", "floor", "peers")}
    missing = [name for name, found in reports.items() if not found]
    if len(missing) == len(reports) or (missing and page.exists()):
        print(f"{page} is left alone: no reports of {', '.join(missing)} in {results}")
        return
    cpu, growth, floor, peers = reports.values()
    pictures = plots.ratios(cpu, docs) + plots.growth(growth, docs) + plots.floor(floor, docs)
    text = page.read_text(encoding="utf-8") if page.exists() else PAGE
    for section, table, found in (
        ("machine", tables.machines, [*cpu, *growth, *floor, *peers]),
        ("ratios", tables.ratios, cpu),
        ("growth", tables.growth, growth),
        ("floor", tables.floor, floor),
        ("peers", tables.peers, peers),
    ):
        if found:
            shown = [picture for picture in pictures if picture.stem.startswith(section)]
            text = fill(text, section, _body(shown, table(found)))
    page.write_text(text, encoding="utf-8")
    print(f"written: {page} and {len(pictures)} plots")


def _gpu(results: Path, docs: Path) -> None:
    """The page of the cards, each section by itself: every card's own lines name it."""
    page = docs / "gpu.md"
    for section, draw, table in (
        ("gpu", None, tables.gpu),
        ("gpu_growth", plots.gpu_growth, tables.gpu_growth),
        ("gpu_lab", None, tables.gpu_lab),
    ):
        found = load(results, section)
        if not found:
            continue
        pictures = draw(found, docs) if draw else []
        text = fill(page.read_text(encoding="utf-8"), section, _body(pictures, table(found)))
        page.write_text(text, encoding="utf-8")
        print(f"written: {page}, {section}, and {len(pictures)} plots")


def _body(pictures: Sequence[Path], table: str) -> str:
    return "\n\n".join([*(f"![{p.stem}]({p.name})" for p in pictures), table])


def load(folder: Path, program: str) -> list[dict[str, Any]]:
    """The reports of one program, which each then names, fewest threads first."""
    texts = [path.read_text(encoding="utf-8") for path in folder.glob(f"{program}-*.json")]
    found = [json.loads(text) | {"program": program} for text in texts]
    return sorted(found, key=lambda report: report["machine"]["threads"])


def fill(text: str, section: str, body: str) -> str:
    """The page with a section's part between the markers replaced.

    Raises:
        ValueError: The page has no such markers, or has them twice.
    """
    pattern = rf"(<!-- {section} -->\n).*?(<!-- end -->)"
    filled, count = re.subn(pattern, lambda m: f"{m[1]}\n{body}\n\n{m[2]}", text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"the page has the marker <!-- {section} --> {count} times, not once")
    return filled


if __name__ == "__main__":
    main()
