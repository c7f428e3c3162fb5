"""Which of `torch.func`'s transforms see into the calls of this moment."""

import torch
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad


def under_vmap() -> bool:
    """Whether ``vmap`` does."""
    return _transforms()[0]


def transformed(*, by_grad: bool = True) -> bool:
    """Whether any does, or forward-mode differentiation.

    Args:
        by_grad: Whether ``grad``, ``vjp`` and ``jacrev`` count.
    """
    vmap, grad, other = _transforms()
    return vmap or other or (by_grad and grad)


# Dynamo cannot trace this, but enters the transforms of what it traces, and guards its graphs by
# them.
@torch.compiler.assume_constant_result
def _transforms() -> tuple[bool, bool, bool]:
    """Whether ``vmap`` does, whether ``grad`` does, whether another does."""
    forward_mode = forward_ad._current_level >= 0
    if not torch._C._are_functorch_transforms_active():
        return False, False, forward_mode
    kinds = {each.key() for each in get_interpreter_stack() or ()}
    others = kinds - {TransformType.Vmap, TransformType.Grad}
    return TransformType.Vmap in kinds, TransformType.Grad in kinds, bool(others) or forward_mode
