"""Draw the plots of docs/benchmarks and write their tables, from the JSON files in results.

``python -m benchmarks.draw`` replaces what stands between the markers of docs/benchmarks/cpu.md and
of gpu.md; the words around them are kept.
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
<!-- end -->

## Against torch without recurrent dropout

<!-- ratios -->
<!-- end -->

## How time grows

<!-- growth -->
<!-- end -->

## Where it goes

The floor is the sum of the matrix products that no pass can do without, each by the fastest of
`torch.mm`, step by step where it must be, and our own product, which takes all steps at once as no
recurrence could. What is left of a pass with nothing dropped is the cell and its traffic. The masks
are the difference to a pass with this paper's dropout, per step.

<!-- floor -->
<!-- end -->

## Against other libraries

All at rate 0.25, bound to the same cores. Keras and Flax have no update site; each has the scheme
that it offers.

<!-- peers -->
<!-- end -->
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Draw and write everything that there are results of."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.draw", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "benchmarks")
    args = parser.parse_args(argv)
    args.docs.mkdir(parents=True, exist_ok=True)
    cpu, growth, floor, peers = (
        load(args.results, name) for name in ("cpu", "growth", "floor", "peers")
    )
    pictures = plots.ratios(cpu, args.docs) + plots.growth(growth, args.docs)
    pictures += plots.floor(floor, args.docs)
    page = args.docs / "cpu.md"
    text = page.read_text(encoding="utf-8") if page.exists() else PAGE
    for section, table, reports in (
        ("machine", tables.machines, [*cpu, *growth, *floor, *peers]),
        ("ratios", tables.ratios, cpu),
        ("growth", tables.growth, growth),
        ("floor", tables.floor, floor),
        ("peers", tables.peers, peers),
    ):
        shown = [p for p in pictures if p.stem.startswith(section)]
        images = [f"![{p.stem}]({p.name})" for p in shown]
        body = "\n\n".join([*images, table(reports)]) if reports else "Not measured yet."
        text = fill(text, section, body)
    page.write_text(text, encoding="utf-8")
    gpu, other = load(args.results, "gpu"), args.docs / "gpu.md"
    cards = plots.gpu(gpu, args.docs)
    if gpu and other.exists():
        images = [f"![{p.stem}]({p.name})" for p in cards]
        body = "\n\n".join([*images, tables.gpu(gpu)])
        other.write_text(fill(other.read_text(encoding="utf-8"), "gpu", body), encoding="utf-8")
    print(f"written: {page} and {len(pictures) + len(cards)} plots")


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
