"""Compiles what the Triton backend would launch, for GPUs that are not here; a line each.

Run without TRITON_INTERPRET. The backend's own host code runs, on tensors without memory; only the
launches are replaced, by Triton's compiler for an architecture and what cuobjdump says of the
result.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from recdrop import RecurrentDropout, backends
from recdrop.backends.triton import launch
from recdrop.testing import Case, make_call

TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
OPTIONS = ("num_warps", "num_stages")
WIDE = re.compile(r"ld\.global\S*\.v[24]\.b32|cp\.async\S* .*, 0x(8|10),")  # 8 or 16 bytes
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Compiler:
    """Stands where a kernel stands; each distinct launch is compiled once."""

    def __init__(self, kernel, architecture, found):
        self.kernel, self.architecture, self.found = kernel, architecture, found

    def __getitem__(self, grid):
        return self.launch

    def launch(self, **arguments):
        options = {name: arguments.pop(name) for name in OPTIONS if name in arguments}
        options["launch_cooperative_grid"] = bool(arguments.get("PERSISTENT"))
        source = self.source(arguments)
        seen = (self.kernel.__name__, repr(source.signature), repr(source.constants))
        if seen in self.found:
            return
        target = GPUTarget("cuda", self.architecture, 32)
        compiled = triton.compile(source, target=target, options=options)
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            said = subprocess.run(
                [CUOBJDUMP, "-res-usage", file.name], check=True, capture_output=True, text=True
            ).stdout
        use = {name: int(re.search(rf"{name}:(\d+)", said)[1]) for name in ("REG", "STACK")}
        self.found[seen] = {
            "kernel": self.kernel.__name__,
            "shared": compiled.metadata.shared,
            "registers": use["REG"],
            "stack": use["STACK"],
            "wide_loads": len(WIDE.findall(compiled.asm["ptx"])),
        }

    def source(self, arguments):
        constants = {p.name for p in self.kernel.params if p.is_constexpr}
        specialised = {p.name for p in self.kernel.params if not p.do_not_specialize}
        names = self.kernel.arg_names
        signature, values, attributes = {}, {}, {}
        for at, name in enumerate(names):
            value = arguments[name]
            if name in constants or (name in specialised and type(value) is int and value == 1):
                signature[name], values[at,] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                signature[name] = TYPES[value.dtype]
                if value.data_ptr() % 16 == 0:
                    attributes[at,] = [["tt.divisibility", 16]]
            elif isinstance(value, float):
                signature[name] = "fp32"
            else:
                signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
                if name in specialised and value % 16 == 0:
                    attributes[at,] = [["tt.divisibility", 16]]
        return ASTSource(self.kernel, signature, values, attributes)


def called(cell, batch, hidden, tied, variant):
    """A call with every site of a cell acting, of one of three variants.

    dense: a mask for each step, tanh, biases. packed: a mask for a sequence, relu, no biases, and
    time runs backwards. evaluation: every site scales, for ``rescale="test"``.
    """
    sampling = "sequence" if variant == "packed" else "step"
    rescale = "test" if variant == "evaluation" else None
    drops = [RecurrentDropout(0.4, "hidden", sampling, rescale, tied)]
    if not cell.startswith("rnn"):
        sites = ((0.3, "update"), (0.2, "state"))
        drops += [RecurrentDropout(rate, site, sampling, rescale) for rate, site in sites]
    packed = variant == "packed"
    return make_call(
        Case(
            2,
            batch,
            16,
            hidden,
            lengths=(2, *[1] * (batch - 1)) if packed else None,
            bias=not packed,
        ),
        cell.removesuffix("_paper"),
        drops,
        activation="relu" if packed else "tanh",
        reset_after=not cell.endswith("_paper"),
        training=variant != "evaluation",
    )


def main(architecture, shared, processors, dtype, cell, batch, hidden, tied, variant="dense"):
    """Forward and backward of one layer and direction; see `called`."""
    found = {}
    launch.processors = lambda device: processors
    launch.shared_memory = lambda device: shared
    torch.backends.cudnn.rnn.fp32_precision = "ieee" if dtype == "ieee" else "tf32"
    real = launch.kernels
    for name in ("forward", "backward", "see"):
        setattr(real, name, Compiler(getattr(real, name), architecture, found))
    call = called(cell, batch, hidden, tied, variant)
    to = torch.float32 if dtype == "ieee" else getattr(torch, dtype)
    x, state, weights = (
        tuple(t.to("meta", to) for t in part) for part in ((call.x,), call.state, call.weights)
    )
    part = backends.call.Scan(
        call, x[0].reshape(-1, call.x.shape[-1]), tuple(s[0] for s in state),
        backends.call.LayerWeights(*weights), 0, int(variant == "packed"),
    )  # fmt: skip
    c0 = part.state[1] if cell == "lstm" else None
    at = (part.x, part.state[0], c0, *part.weights, call.batch_sizes, call.rows, call.key)
    how = backends.ops.config(part)
    h, h_n, c_n, gates, inner = launch.scan(*at, *how)
    grads = (h, h_n, c_n if cell == "lstm" else None)
    launch.scan_backward(*grads, *at, h, gates, inner, *how, True)
    return list(found.values())


for asked in json.loads(sys.argv[1]):
    print(json.dumps(main(**asked)), flush=True)
    for kernel in ("forward", "backward", "see"):
        setattr(launch.kernels, kernel, getattr(launch.kernels, kernel).kernel)
