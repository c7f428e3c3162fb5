"""The stock backend: torch's own oneDNN or cuDNN layer, where the recurrence drops nothing."""

from torch import _VF, Tensor

from recdrop.backends.call import Recurrence
from recdrop.transforms import transformed


def why_not(call: Recurrence) -> str | None:
    """What torch's own layer lacks for this call."""
    if call.acting:
        sites = ", ".join(f"{spec.site} at rate {spec.rate:g}" for spec in call.acting)
        mode = "training" if call.training else "evaluation (rescale='test')"
        return (
            f"torch's own layers have no dropout inside the recurrence; in {mode} this has {sites}"
        )
    if not call.is_stock:
        what = "reset_after=False" if not call.reset_after else f"activation={call.activation!r}"
        return f"torch's own {call.cell.upper()} has no {what}"
    if transformed(by_grad=False):
        return "torch's own layers have no rules for vmap, nor for forward-mode derivatives"
    return None


def run(call: Recurrence) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a whole call by torch's own kernel: the same function that `torch.nn` calls."""
    name = f"rnn_{call.activation}" if call.cell == "rnn" else call.cell
    state = call.state if call.cell == "lstm" else call.state[0]
    rest = (
        list(call.weights),
        call.bias,
        call.num_layers,
        call.dropout,
        call.training,
        call.bidirectional,
    )
    kernel = getattr(_VF, name)
    if call.batch_sizes is None:
        output, *final = kernel(call.x, state, *rest, False)
    else:
        output, *final = kernel(call.x, call.batch_sizes, state, *rest)
    return output, tuple(final)
