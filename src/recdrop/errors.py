"""The one error class of ours; a caller's mistake raises what `torch.nn` raises for it."""


class BackendUnsupported(RuntimeError):
    """A backend that was asked for by name cannot run this call.

    The message is one sentence that says what the backend needs and what it got. It is never raised
    with ``backend="auto"``, which takes the first backend without an objection.
    """
