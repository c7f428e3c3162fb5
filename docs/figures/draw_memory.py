"""Draw docs/figures/memory.svg: how much of an input a memory retains, per scheme.

An LSTM whose gates are forced open and whose recurrent products are cut, so that only dropout can
make it forget. Run as ``python docs/figures/draw_memory.py``.
"""

import warnings
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import torch
from matplotlib import pyplot as plt

import recdrop
from recdrop import RecurrentDropout
from recdrop.memory import Retention, retention_curve

KEEP, STEPS, UNITS = 0.75, 21, 1024
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#555555"  # Okabe and Ito's colour-blind-safe set


def open_lstm(spec: RecurrentDropout) -> recdrop.LSTM:
    """An LSTM with gates i, f, o at 1 and g a function of x alone."""
    lstm = recdrop.LSTM(1, UNITS, recurrent_dropout=spec, dtype=torch.float64)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.zero_()
        for gate in (0, 1, 3):
            lstm.get_parameter("bias_ih_l0")[gate * UNITS : (gate + 1) * UNITS] = 50.0
        lstm.get_parameter("weight_ih_l0")[2 * UNITS : 3 * UNITS] = 0.1
    return lstm


def curve(site: str, rescale: str) -> Retention:
    """R(k) of such an LSTM."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the blow-up is what is drawn
        spec = RecurrentDropout(1 - KEEP, site, "step", rescale)  # pyright: ignore[reportArgumentType]
    return retention_curve(open_lstm(spec), torch.zeros(STEPS, 8, 1).double(), keys=32)


def main() -> None:
    """Draw both panels."""
    mpl.rcParams |= {"svg.hashsalt": "recdrop", "svg.fonttype": "none", "font.size": 10}
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    k = torch.arange(STEPS)
    left.plot(k, curve("update", "test").evaluation, color=BLUE, lw=2, label="update (this paper)")
    left.plot(
        k, curve("state", "test").evaluation, "o", color=ORANGE, ms=5, label="state (Moon et al.)"
    )
    left.plot(k, KEEP**k, "--", color=GREY, lw=1, label=r"keep$^k$, Eq. 17")
    left.set_title('in evaluation, rescale="test" (Eq. 3)', fontsize=10)
    left.set_ylim(0, 1.1)
    update, state = curve("update", "train"), curve("state", "train")
    right.plot(k, update.train_rms, color=BLUE, lw=2, label="update (this paper)")
    right.plot(k, state.train_rms, "o", color=ORANGE, ms=5, label="state (Moon et al.)")
    right.plot(k, KEEP ** (-k / 2), "--", color=GREY, lw=1, label=r"keep$^{-k/2}$")
    right.set_title('in training, rescale="train" (Eq. 18), RMS over masks', fontsize=10)
    right.set_yscale("log")
    right.set_ylim(0.5, 30)
    right.set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
    right.minorticks_off()
    for axes in (left, right):
        axes.set_xlabel("k, steps since the input")
        axes.set_ylabel("R(k), left of the input in c")
        axes.set_xticks(range(0, STEPS, 5))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.legend(frameon=False)
    figure.suptitle(f"What an LSTM with open gates remembers; masks per step, keep = {KEEP:g}")
    figure.savefig(Path(__file__).with_name("memory.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
