"""The tables of docs/benchmarks/cpu.md, as Markdown, from the reports."""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.timing import geometric_mean

Report = dict[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def machines(reports: list[Report]) -> str:
    """Where and when: one line for each different machine, day and code."""
    lines: dict[str, list[str]] = {}
    for report in reports:
        m = report["machine"]
        commit = m["commit"] or "unknown"
        what = (
            f"{m['cpu']}, {m['cores']} cores, {', '.join(m['instruction_sets'])}; "
            f"torch {m['torch']} ({m['torch_capability']}), Python {m['python']}; "
            f"{m['date'][:10]}, commit {commit[:9]}{' and changes' if commit[-1] == '+' else ''}"
        )
        others = m["cores_used_by_others"]
        busy = "unknown" if others is None else f"{others:.2f}"
        lines.setdefault(what, []).append(f"{busy} ({report['program']}, {_threads(report)})")
    return "\n".join(
        f"- {what}. Cores that other processes used meanwhile: {', '.join(used)}."
        for what, used in lines.items()
    )


def ratios(reports: list[Report]) -> str:
    """The summary beside its targets, then every ratio, for each number of threads."""
    blocks = []
    for report in reports:
        blocks += [f"### {_threads(report)}", _summary(report)]
        for cell in dict.fromkeys(result["cell"] for result in report["results"]):
            results = [r for r in report["results"] if r["cell"] == cell]
            blocks.append(_cell(cell, results))
    return "\n\n".join(blocks)


def _summary(report: Report) -> str:
    head = ["", "geometric mean", "target", "worst", "target", "worst at"]
    rows = [
        [
            s["cell"],
            f"**{s['mean']:.2f}**",
            f"{s['mean_target']:.2f}",
            f"**{s['worst']:.2f}**",
            "" if s["worst_target"] is None else f"{s['worst_target']:.2f}",
            s["worst_at"],
        ]
        for s in report["summary"]
    ]
    return table(head, rows)


def _cell(cell: str, results: list[Report]) -> str:
    names = [f"{v['site']}, {v['sampling']}" for v in results[0]["variants"]]
    rows = [
        [
            f"{r['case']} ({', '.join(str(n) for n in r['shape'].values())})",
            f"{r['stock']['min'] * 1e3:.2f}",
            *(f"{v['ratio']:.2f}" for v in r["variants"]),
            f"{geometric_mean(v['ratio'] for v in r['variants']):.2f}",
        ]
        for r in results
    ]
    return table([f"{cell} (T, B, I, H)", "torch, ms", *names, "mean"], rows)


def growth(reports: list[Report]) -> str:
    """Each point of each axis; a limit that is passed is bold."""
    blocks = []
    for report in reports:
        limit = report["limit"]
        powers = ", ".join(f"{axis}: {power:.2f}" for axis, power in report["exponents"].items())
        base = ", ".join(f"{name} = {size}" for name, size in report["settings"]["base"].items())
        rows = [
            [
                f"{p['axis']} = {p['size']}",
                f"{p['stock']['min'] * 1e3:.2f}",
                f"{p['ours']['min'] * 1e3:.2f}",
                f"{p['ours']['ratio']:.2f}" if p["ours"]["ratio"] <= limit else _bold(p),
            ]
            for p in report["points"]
        ]
        blocks += [
            f"### {_threads(report)}",
            f"All else as in the word LM ({base}). Worst ratio {report['worst']:.2f}, limit "
            f"{limit}. Over the upper half of an axis time grows like size to the power of: "
            f"{powers}.",
            table(["", "torch, ms", "recdrop, ms", "ratio"], rows),
        ]
    return "\n\n".join(blocks)


def floor(reports: list[Report]) -> str:
    """The parts of a pass in milliseconds."""
    blocks = []
    for report in reports:
        results = report["results"]
        rows = [
            [part_name(name, results[0]), *(f"{r['parts'][name] * 1e3:.2f}" for r in results)]
            for name in results[0]["parts"]
        ]
        rows += [
            ["**whole pass**", *(f"**{r['measured']['update'] * 1e3:.2f}**" for r in results)],
            ["floor of the products", *(f"{sum(r['floor'].values()) * 1e3:.2f}" for r in results)],
            ["torch without dropout", *(f"{r['measured']['stock'] * 1e3:.2f}" for r in results)],
        ]
        head = ["ms", *(r["case"] for r in results)]
        blocks += [f"### {_threads(report)}", table(head, rows)]
    return "\n\n".join(blocks)


def part_name(name: str, result: Report) -> str:
    """What a part of a pass is called: products by what they are the product of."""
    return f"products: {name}" if name in result["floor"] else name


def gpu(reports: list[Report]) -> str:
    """For each card: what it is, then cuDNN's time and what ours and the others are beside it."""
    blocks = []
    for report in reports:
        m = report["machine"]
        rows = []
        for r in report["results"]:
            stock, *ours = r["timings"].values()
            shape = ", ".join(str(n) for n in r["shape"].values())
            rows.append(
                [
                    f"{r['cell']}, {r['case']} ({shape}), {r['dtype']}",
                    f"{stock['min'] * 1e3:.3f}",
                    *(f"{timing['ratio']:.2f}" for timing in ours),
                    f"{r['limit'] / stock['min']:.2f}",
                    f"{r['python_loop'] / ours[0]['min']:.0f}",
                ]
            )
        schemes = [f"{site}, {how}" for site, how in report["schemes"]]
        blocks += [
            f"### {m['gpu']}",
            f"{m.get('nvidia_smi')}; CUDA {m.get('cuda')}, cuDNN {m.get('cudnn')}, torch "
            f"{m['torch']}, Triton {m.get('triton')}; {m['date'][:10]}, commit {m['commit']}. "
            f"{report['settings']['passes']} passes in a row.",
            table(["cell, case (T, B, I, H)", "cuDNN, ms", *schemes, "limit", "loop / ours"], rows),
        ]
    return "\n\n".join(blocks)


def peers(reports: list[Report]) -> str:
    """Milliseconds, and the ratio to torch's layer, which drops nothing."""
    blocks = []
    for report in reports:
        results = report["results"]
        names = dict.fromkeys(name for r in results for name in r["timings"])
        rows = []
        for name in names:
            timings = [r["timings"].get(name) for r in results]
            scheme = next(t["scheme"] for t in timings if t)
            cells = [f"{t['min'] * 1e3:.2f} ({t['ratio']:.2f})" if t else "" for t in timings]
            rows.append([f"{name}: {scheme}" if scheme else f"torch.nn.LSTM ({name})", *cells])
        versions = ", ".join(f"{k} {v}" for k, v in report["machine"]["packages"].items())
        head = ["ms (ratio to torch)", *(_case(r) for r in results)]
        blocks += [f"### {_threads(report)}", f"Versions: {versions}.", table(head, rows)]
    return "\n\n".join(blocks)


def _case(result: Report) -> str:
    return f"{result['case']} ({', '.join(str(n) for n in result['shape'].values())})"


def _bold(point: Report) -> str:
    return f"**{point['ours']['ratio']:.2f}**"


def _threads(report: Report) -> str:
    count = report["machine"]["threads"]
    return "1 thread" if count == 1 else f"{count} threads"
