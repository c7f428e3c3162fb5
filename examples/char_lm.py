"""Character language model on any text file, with and without recurrent dropout, side by side.

python examples/char_lm.py FILE [--rate 0.25] [--hidden 512] [--epochs 14] [--json curves.json]
"""

import argparse
import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

import recdrop


class CharLM(nn.Module):
    """Embedding, recdrop.LSTM, linear; ``rate`` is all that differs between the two nets."""

    def __init__(self, symbols: int, hidden: int, rate: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, 64)
        self.lstm = recdrop.LSTM(64, hidden, recurrent_dropout=rate)
        self.out = nn.Linear(hidden, symbols)

    def forward(self, ids: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple:
        """Logits [T, B, V] and the state for the next window."""
        h, state = self.lstm(self.embed(ids), state)
        return self.out(h), state


def bits(net: CharLM, text: Tensor, optimiser: torch.optim.Optimizer | None = None) -> float:
    """Mean bits per character of text [N, B], windows of 64; trains if there is an optimiser."""
    net.train(optimiser is not None)
    state, total = None, 0.0
    for x, y in zip(text[:-1].split(64), text[1:].split(64), strict=True):
        with torch.set_grad_enabled(optimiser is not None):
            logits, state = net(x, state)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
        state = tuple(s.detach() for s in state)
        if optimiser is not None:
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
        total += loss.item() * y.numel()
    return total / text[1:].numel() / math.log(2)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("file", type=Path)
parser.add_argument("--rate", type=float, default=0.25)
parser.add_argument("--hidden", type=int, default=512)
parser.add_argument("--epochs", type=int, default=14)
parser.add_argument("--json", type=Path, help="where to write the curves")
args = parser.parse_args()

try:
    text = args.file.read_text(encoding="utf-8")
except (OSError, UnicodeDecodeError) as error:
    parser.exit(2, f"{args.file}: {error}\n")
least = 32 * 11  # of 11 characters a stream 9 are trained on, and 2 make one prediction
if len(text) < least:
    parser.exit(2, f"{args.file} has {len(text)} characters, expected {least} or more\n")
symbols = {s: i for i, s in enumerate(sorted(set(text)))}
ids = torch.tensor([symbols[s] for s in text])
streams = ids[: len(ids) // 32 * 32].view(32, -1).T  # 32 contiguous streams, [N, 32]
train, valid = streams.tensor_split((int(0.9 * len(streams)),))
curves = {}
for rate in (0.0, args.rate):
    torch.manual_seed(0)
    net = CharLM(len(symbols), args.hidden, rate)
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    for epoch in range(1, args.epochs + 1):
        point = {"epoch": epoch, "train": bits(net, train, optimiser), "valid": bits(net, valid)}
        print(f"rate {rate:g}", *(f"{k} {v:.4g}" for k, v in point.items()), sep="  ", flush=True)
        curves.setdefault(str(rate), []).append(point)
if args.json:
    args.json.write_text(json.dumps(curves, indent=1) + "\n")
