"""The data of the reproductions, which lie beside the checkout and are never part of it."""

from pathlib import Path

import pytest

_SHARED = Path(__file__).parents[3] / "shared"


def benchmark(name: str) -> Path:
    """A file or folder of them; a test that needs it is skipped, and says so, where it is not."""
    path = _SHARED / name
    if not path.exists():
        pytest.skip("no data")
    return path
