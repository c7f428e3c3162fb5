"""Shapes of the equations are checked, uninitialised memory is poisoned, threads are few."""

import jaxtyping
import pytest

jaxtyping.install_import_hook("recdrop.equations", "beartype.beartype")

import torch  # noqa: E402  after the hook, which must come before recdrop


@pytest.fixture(autouse=True)
def _same_start():
    # With deterministic algorithms torch fills uninitialised memory with NaN.
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.set_num_threads(1)
    torch.manual_seed(0)
