"""Draw char_lm.svg from char_lm.json: both nets of examples/char_lm.py.

Run as ``python docs/reproduction/draw_char_lm.py``.
"""

import json
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
BLUE, ORANGE = "#0072B2", "#D55E00"


def main() -> None:
    """Validation curves solid, training curves dashed."""
    mpl.rcParams |= {"svg.hashsalt": "recdrop", "svg.fonttype": "none", "font.size": 10}
    curves = json.loads((HERE / "char_lm.json").read_text())
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for (rate, points), colour, marker in zip(curves.items(), (ORANGE, BLUE), "os", strict=True):
        epochs = [p["epoch"] for p in points]
        name = f"recurrent dropout {rate}" if float(rate) else "no dropout"
        for kind, line in (("valid", "-"), ("train", "--")):
            axes.plot(
                epochs,
                [p[kind] for p in points],
                line,
                color=colour,
                marker=marker if kind == "valid" else None,
                ms=4,
                lw=1.6,
                label=f"{name}, {'validation' if kind == 'valid' else 'training (masks on)'}",
            )
    axes.set_xlabel("epoch")
    axes.set_ylabel("bits per character")
    axes.set_title("tinyshakespeare, LSTM 512", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(HERE / "char_lm.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
