"""Which of `torch.func`'s transforms see into the calls of this moment."""

import torch
from torch._C._functorch import TransformType, get_interpreter_stack

GRAD = TransformType.Grad


def transforms() -> list[TransformType]:
    """Those that are active, outermost first; none while a graph is traced, which has its own."""
    if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
        return []
    return [each.key() for each in get_interpreter_stack() or ()]


def under_vmap() -> bool:
    """Whether one of them is ``vmap``."""
    return any(kind == TransformType.Vmap for kind in transforms())
