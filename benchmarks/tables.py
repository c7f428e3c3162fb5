"""The tables of docs/benchmarks, as Markdown, from the reports."""

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
                _judged(f"{p['ours']['ratio']:.2f}", p["ours"]["ratio"] <= limit),
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
    """For each card cuDNN's time and what ours and the others are beside it; misses are bold."""
    blocks = []
    for report in reports:
        target, loop_target = report["target"], report["loop_target"]
        judged = [_judgements(r, target, loop_target) for r in report["results"]]
        rows = [_on_card(r, own) for r, own in zip(report["results"], judged, strict=True)]
        schemes = [f"{site}, {how}" for site, how in report["schemes"]]
        head = ["cell, case (T, B, I, H)", "cuDNN, ms", *schemes, "loop / ours", "limit"]
        missed = [met for own in judged for _, met in own].count(False)
        blocks += [
            f"### {report['machine']['gpu']}",
            f"{_card(report['machine'])} {report['settings']['passes']} passes in a row. "
            f"**Bold** is a target missed ({missed} of {sum(map(len, judged))}): more than "
            f"{target} times cuDNN's time, or less than {loop_target:g} times as fast as the loop "
            "in Python. In a CUDA graph: the first scheme, as planned and with a launch for each "
            "step.",
            table([*head, "cuDNN in a graph, ms", "ours in a graph", "a launch a step"], rows),
        ]
    return "\n\n".join(blocks)


def _judgements(result: Report, target: float, loop_target: float) -> list[tuple[str, bool]]:
    """Each scheme's ratio and the loop's factor, and whether they are what was asked for."""
    _, *ours = result["timings"].values()
    factor = result["python_loop"] / ours[0]["min"]
    ratios = [(f"{timing['ratio']:.2f}", timing["ratio"] <= target) for timing in ours]
    return [*ratios, (f"{factor:.1f}", factor >= loop_target)]


def _on_card(result: Report, judged: list[tuple[str, bool]]) -> list[str]:
    stock, graph = result["timings"]["stock"], result["graph"]
    replayed = ["not captured" if isinstance(graph, str) else "not timed"] * 3
    if isinstance(graph, dict):
        theirs, *ours = graph.values()
        replayed = [f"{theirs['min'] * 1e3:.3f}", *(f"{own['ratio']:.2f}" for own in ours)]
    return [
        f"{result['cell']}, {_case(result)}, {result['dtype']}",
        f"{stock['min'] * 1e3:.3f}",
        *(_judged(figure, met) for figure, met in judged),
        f"{result['limit'] / stock['min']:.2f}",
        *replayed,
    ]


def gpu_growth(reports: list[Report]) -> str:
    """Each point of each axis on each card; a limit that is passed is bold."""
    blocks = []
    for report in reports:
        limit, base = report["limit"], report["settings"]["base"]
        rows = [
            [
                f"{p['axis']} = {p['size']}, {p['dtype']}",
                f"{p['stock']['min'] * 1e3:.3f}",
                f"{p['ours']['min'] * 1e3:.3f}",
                _judged(f"{p['ours']['ratio']:.2f}", p["ours"]["ratio"] <= limit),
            ]
            for p in report["points"]
        ]
        blocks += [
            f"### {report['machine']['gpu']}",
            f"{_card(report['machine'])} All else as in the word LM "
            f"({', '.join(f'{name} = {size}' for name, size in base.items())}).",
            table(["", "cuDNN, ms", "recdrop, ms", "ratio"], rows),
        ]
    return "\n\n".join(blocks)


def gpu_lab(reports: list[Report]) -> str:
    """An epoch on each device, then the sweeps, for each card."""
    blocks = []
    for report in reports:
        first = report["sweeps"][0] if report["sweeps"] else {}
        m = report["machine"]
        train = report["sources"]["train"]
        blocks += [
            f"### {m['gpu']}",
            f"{_card(m)} {m['cpu']}, {m['cores']} cores; MPS {'runs' if m['mps'] else 'is off'}. "
            f"Training text `{train['name']}`, {train['tokens']:,} words, SHA-256 "
            f"{train['sha256'][:12]}…",
            table(
                ["cell", "updates/s", "an epoch, s", "the first, s", "validation, s", "perplexity"],
                [_epoch(found) for found in report["epochs"]],
            ),
            table(
                ["workers", "cells", "all, s", "epochs/s", "of the first's", "an epoch, s"],
                [
                    [
                        f"{s['workers']}",
                        f"{s['cells']}",
                        f"{s['seconds']:.1f}",
                        f"{s['rate']:.3f}",
                        f"{s['rate'] / first['rate']:.2f}",
                        f"{s['epoch_of_a_cell']:.2f}",
                    ]
                    for s in report["sweeps"]
                ],
            ),
        ]
        if "table2" in report:
            whole = report["table2"]
            blocks.append(
                f"At the best of these all {whole['cells']} cells of Table 2, {whole['epochs']:,} "
                f"epochs at most, would take {whole['hours_at_most']:.2f} hours or less, the "
                "starts of their processes aside."
            )
    return "\n\n".join(blocks)


def _epoch(found: Report) -> list[str]:
    first, last = found["epochs"][0], found["epochs"][-1]
    where = found["device"] if found["device"] == "cuda" else f"CPU, {_counted(found['threads'])}"
    return [
        f"{found['cell']} ({where})",
        f"{found['updates'] / last['train']:.1f}",
        f"{last['train']:.2f}",
        f"{first['train']:.2f}",
        f"{last['look']:.2f}",
        f"{last['perplexity']:.1f} after {len(found['epochs'])}",
    ]


def _card(m: Report) -> str:
    return (
        f"{m.get('nvidia_smi')}; CUDA {m.get('cuda')}, cuDNN {m.get('cudnn')}, torch {m['torch']}, "
        f"Triton {m.get('triton')}; {m['date'][:10]}, commit {m['commit']}."
    )


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


def _judged(figure: str, met: bool) -> str:
    return figure if met else f"**{figure}**"


def _threads(report: Report) -> str:
    return _counted(report["machine"]["threads"])


def _counted(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"
