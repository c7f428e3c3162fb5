"""Drop-in RNN, LSTM and GRU for PyTorch with dropout inside the recurrence.

The names below are the whole public API. They are resolved on first use, so that importing recdrop
(and ``recdrop --help``) does not import torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "GRU": "layers",
    "LSTM": "layers",
    "RNN": "layers",
    "RecurrentDropout": "dropout",
    "BackendUnsupported": "errors",
    "convert": "conversion",
    "explain_backend": "conversion",
    "from_torch": "conversion",
    "to_torch": "conversion",
    "hold_masks": "rng",
    "mc_dropout": "monte_carlo",
    "functional": None,
    "memory": None,
    "rng": None,
    "testing": None,
}

__all__ = [*_HOME, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name where it lives (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOME[name]
    module = import_module(f"{__name__}.{home or name}")
    value = module if home is None else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
