"""Shapes of the equations are checked, uninitialised memory is poisoned, threads are few.

Triton's kernels run in its interpreter, where no GPU is needed: it reads its switch when it is
imported, which torch may do at any time.
"""

import os

import pytest

if os.environ.setdefault("TRITON_INTERPRET", "1") != "0":  # 0: benchmarks/gpu.sh, which needs less
    import jaxtyping

    jaxtyping.install_import_hook("recdrop.equations", "beartype.beartype")

import torch


@pytest.fixture(autouse=True)
def _same_start():
    # With deterministic algorithms torch fills uninitialised memory with NaN.
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.set_num_threads(1)
    torch.manual_seed(0)
