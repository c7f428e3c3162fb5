"""The Triton backend: ``recdrop::triton_scan``, its packed twin, and gradients, for NVIDIA GPUs.

Triton is imported when the first call runs, never before.
"""

from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from recdrop.backends import ops
from recdrop.backends.call import Recurrence, Scan, autocast_dtype
from recdrop.backends.stack import run_stack
from recdrop.backends.triton.width import wide
from recdrop.transforms import transformed

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MOST_UNITS = 23_168  # the largest multiple of 16 whose square is below 2^31 / 4


@torch.compiler.assume_constant_result  # Dynamo cannot look for modules or a card
def missing() -> str | None:
    """Why this backend cannot run anything here, or None."""
    if find_spec("triton") is None:
        return "Triton is not installed (pip install triton)"
    if torch.version.hip is not None:
        return f"it needs an NVIDIA GPU, this torch is built for AMD's (ROCm {torch.version.hip})"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    return None


def why_not(call: Recurrence) -> str | None:
    """What this backend lacks for a call."""
    if (absent := missing()) is not None:
        return absent
    if call.x.device.type != "cuda":
        return f"it runs on CUDA devices, the input is on {call.x.device}"
    if (old := _too_old(call.x.device)) is not None:
        return old
    return why_not_anywhere(call)


@torch.compiler.assume_constant_result
def _too_old(device: torch.device) -> str | None:
    """Triton's own minimum; older cards multiply neither bfloat16 nor TF32."""
    card = torch.cuda.get_device_properties(device)
    if card.major >= 8:
        return None
    return f"it needs compute capability 8.0, the {card.name} has {card.major}.{card.minor}"


def why_not_anywhere(call: Recurrence) -> str | None:
    """What the kernels lack for a call, on whatever device."""
    if transformed():
        return "it has no rules for the transforms of torch.func, nor for forward-mode derivatives"
    dtype = autocast_dtype(call.x) or call.x.dtype
    if dtype not in _DTYPES:
        return f"it computes in float32, bfloat16 or float16, the input is {dtype}"
    if call.is_projected:
        return "it has no projection (proj_size)"
    if call.state[0].shape[-1] > _MOST_UNITS:
        return f"it counts a layer's recurrent weights in 32 bits, which ends at H = {_MOST_UNITS}"
    if call.x.numel() == 0:
        return "it has nothing for an empty batch"
    batch, hidden = call.state[-1].shape[1:]
    if 4 * batch * (hidden + 15) >= 2**31:
        return f"it counts a step's units in 32 bits, too few for {batch} rows of {hidden}"
    return None


def run(call: Recurrence) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a whole call."""
    lower = autocast_dtype(call.x)
    if lower is None:
        return run_stack(call, _run_scan)
    output, state = run_stack(call.to(lower), _run_scan)
    # As torch: its cuDNN layers are all lower; on a CPU see stack.py.
    if call.x.is_cuda or (call.cell == "lstm" and call.batch_sizes is None):
        return output, state
    return output.to(call.state[0].dtype), tuple(s.to(call.state[0].dtype) for s in state)


def _run_scan(part: Scan) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    packed = part.call.batch_sizes is not None
    return ops.scan(part, "triton_packed_scan" if packed else "triton_scan")


def _scan(*args: Any) -> tuple[Tensor, ...]:
    from recdrop.backends.triton import launch

    with _device_of(args[0]), _as_given(args[0]):
        return tuple(launch.scan(*args))


def _scan_backward(*args: Any) -> tuple[Tensor, ...]:
    from recdrop.backends.triton import launch

    with _device_of(args[3]), _as_given(args[3]):
        return tuple(launch.scan_backward(*args))


def _device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, whatever the tensors' own."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _as_given(x: Tensor) -> AbstractContextManager[Any]:
    """Products in the tensors' type, whatever autocast says when a backward pass is asked for."""
    return torch.autocast(x.device.type, enabled=False)


_LIBRARY = torch.library.Library("recdrop", "FRAGMENT")
ops.define("triton_scan", wide)
# Which rows run at a step the host reads once: in a replayed CUDA graph they would be those of the
# batch that was captured. torch.compile leaves this operator out of its graphs.
ops.define("triton_packed_scan", wide, tags=(torch.Tag.cudagraph_unsafe,))
for name in ("triton_scan", "triton_packed_scan"):
    for device in ("CUDA", "CPU"):  # on the CPU only Triton's interpreter runs the kernels
        _LIBRARY.impl(name, _scan, device)
        _LIBRARY.impl(f"{name}_backward", _scan_backward, device)
