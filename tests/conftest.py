"""Shapes of the equations are checked, uninitialised memory is poisoned, threads are few.

Triton's kernels run in its interpreter, where no GPU is needed: it reads its switch when it is
imported, which torch may do at any time.
"""

import os
from importlib.util import find_spec

import pytest

if find_spec("jaxtyping") and find_spec("beartype"):  # a machine lent for its card may have neither
    import jaxtyping

    jaxtyping.install_import_hook("recdrop.equations", "beartype.beartype")
os.environ.setdefault("TRITON_INTERPRET", "1")  # 0 for benchmarks/gpu.sh

import torch


@pytest.fixture(autouse=True)
def _same_start():
    # With deterministic algorithms torch fills uninitialised memory with NaN.
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.set_num_threads(1)
    torch.manual_seed(0)
