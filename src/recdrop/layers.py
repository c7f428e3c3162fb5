"""`RNN`, `LSTM`, `GRU`: torch.nn's layers with dropout inside the recurrence.

They subclass `torch.nn.RNNBase`, so parameters, their names, initialisation, flattening, copying
and checkpoints are torch's own.
"""

from typing import TYPE_CHECKING, Any, overload

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from recdrop import functional
from recdrop._types import ActivationName, Cell
from recdrop.backends import checked_name
from recdrop.backends.call import Recurrence
from recdrop.dropout import RecurrentDropout, as_specs
from recdrop.functional import RecurrentDropoutArg
from recdrop.rng import Owner


class _RecurrentLayer(nn.RNNBase):
    """What the three layers share: options, checks, and the way to a `Recurrence` and back."""

    cell: Cell
    activation: ActivationName
    reset_after: bool = True

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        *args: Any,
        recurrent_dropout: RecurrentDropoutArg,
        backend: str,
        **kwargs: Any,
    ) -> None:
        if not isinstance(num_layers, int):
            raise TypeError(f"num_layers should be of type int, got: {type(num_layers).__name__}")
        super().__init__(mode, input_size, hidden_size, num_layers, *args, **kwargs)
        self._owner = Owner()
        self.recurrent_dropout = recurrent_dropout
        self.backend = backend

    @property
    def recurrent_dropout(self) -> tuple[RecurrentDropout, ...]:
        """The specs in use, distinct sites; may be assigned whatever the constructor takes."""
        return self._recurrent_dropout

    @recurrent_dropout.setter
    def recurrent_dropout(self, value: RecurrentDropoutArg) -> None:
        self._recurrent_dropout = as_specs(value, self.cell)

    @property
    def backend(self) -> str:
        """``"auto"``, or the name of the backend that must run this layer."""
        return self._backend

    @backend.setter
    def backend(self, name: str) -> None:
        self._backend = checked_name(name)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        del state["_owner"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._owner = Owner()  # a copy is another object to hold_masks

    def extra_repr(self) -> str:
        """What differs from the defaults."""
        parts = [super().extra_repr()]
        if self.activation != "tanh":
            name = "nonlinearity" if self.cell == "rnn" else "activation"
            parts.append(f"{name}={self.activation!r}")
        if not self.reset_after:
            parts.append("reset_after=False")
        if self._recurrent_dropout:
            specs = self._recurrent_dropout
            parts.append(f"recurrent_dropout={specs[0] if len(specs) == 1 else specs}")
        if self._backend != "auto":
            parts.append(f"backend={self._backend!r}")
        return ", ".join(parts)

    def recurrence(self, input: Tensor | PackedSequence, hx: Any = None) -> Recurrence:
        """The checked call for an input, without a key: time-major, batched, rows sorted.

        Args:
            input: As for the layer.
            hx: As for the layer.
        """
        name = type(self).__name__
        batch_sizes = rows = None
        unbatched = False
        if isinstance(input, PackedSequence):
            x, batch_sizes, rows, _ = input
            batch = int(batch_sizes[0])
        elif isinstance(input, Tensor):
            if input.ndim not in (2, 3):
                raise ValueError(
                    f"{name}: Expected input to be 2D or 3D, got {input.ndim}D instead"
                )
            unbatched = input.ndim == 2
            x = input.unsqueeze(1) if unbatched else input
            if self.batch_first and not unbatched:
                x = x.transpose(0, 1)
            batch = x.shape[1]
        else:
            raise TypeError(
                f"{name}: expected input to be a Tensor or a PackedSequence, "
                f"got {type(input).__module__}.{type(input).__qualname__}"
            )
        state = self._initial_state(x, batch) if hx is None else self._given_state(hx, unbatched)
        if rows is not None and hx is not None:
            for s in state:  # before sorting, which would pick rows of a larger state in silence
                if s.shape[1] != batch:
                    raise RuntimeError(
                        f"{name}: Expected an initial state of {batch} rows, as the packed batch "
                        f"has, got {s.shape[1]}"
                    )
            state = tuple(s.index_select(1, rows) for s in state)
        return functional.recurrence(
            self.cell,
            x,
            state,
            [getattr(self, weight) for weight in self._flat_weights_names],
            activation=self.activation,
            reset_after=self.reset_after,
            bias=self.bias,
            num_layers=self.num_layers,
            dropout=self.dropout,
            bidirectional=self.bidirectional,
            training=self.training,
            recurrent_dropout=self._recurrent_dropout,
            batch_sizes=batch_sizes,
            rows=rows,
        )

    def _initial_state(self, x: Tensor, batch: int) -> tuple[Tensor, ...]:
        stacked = self.num_layers * (2 if self.bidirectional else 1)
        widths = (self.proj_size or self.hidden_size, self.hidden_size)
        parts = 2 if self.cell == "lstm" else 1
        return tuple(x.new_zeros(stacked, batch, width) for width in widths[:parts])

    def _given_state(self, hx: Any, unbatched: bool) -> tuple[Tensor, ...]:
        state = tuple(hx) if isinstance(hx, tuple | list) else (hx,)
        wanted = ("h_0", "c_0") if self.cell == "lstm" else ("h_0",)
        if len(state) != len(wanted) or not all(isinstance(s, Tensor) for s in state):
            raise TypeError(
                f"{type(self).__name__}: expected hx to be {' and '.join(wanted)} as "
                f"{'a pair of tensors' if len(wanted) == 2 else 'one tensor'}, "
                f"got {[type(s).__name__ for s in state]}"
            )
        dims = 2 if unbatched else 3
        for part, s in zip(wanted, state, strict=True):
            if s.ndim != dims:
                kind = "unbatched 2-D" if unbatched else "batched 3-D"
                raise RuntimeError(
                    f"For {kind} input, {part} should also be {dims}-D but got {s.ndim}-D tensor"
                )
        return tuple(s.unsqueeze(1) for s in state) if unbatched else state

    def _run(self, input: Any, hx: Any) -> tuple[Any, tuple[Tensor, ...]]:
        call = self.recurrence(input, hx)
        output, state = functional.run(call, backend=self._backend, owner=self._owner)
        if isinstance(input, PackedSequence):
            _, batch_sizes, rows, unsort = input
            if unsort is not None:
                state = tuple(s.index_select(1, unsort) for s in state)
            return PackedSequence(output, batch_sizes, rows, unsort), state
        if input.ndim == 2:
            return output.squeeze(1), tuple(s.squeeze(1) for s in state)
        return (output.transpose(0, 1) if self.batch_first else output), state


class RNN(_RecurrentLayer):
    """`torch.nn.RNN` with dropout on h_{t-1}, Eqs. 1-2.

    Arguments, parameters, inputs and outputs are torch's, and so are their positions; new are:

    Args:
        recurrent_dropout: A rate, or a `RecurrentDropout` with ``site="hidden"``.
        backend: ``"auto"`` or the name of a backend, which then never falls back.

    Shapes:
        input [T, B, I], [B, T, I] with ``batch_first``, [T, I] unbatched, or a PackedSequence; h_0
        and h_n [L * D, B, H]; output [T, B, D * H] in the input's layout.

    Raises:
        TypeError: An option or input of another type.
        ValueError: An option out of range, or input of another dtype or number of dimensions.
        RuntimeError: Input or state of another shape.
        BackendUnsupported: A named backend cannot run this.

    Example:
        >>> rnn = RNN(8, 16, recurrent_dropout=0.25)
        >>> output, h_n = rnn(torch.randn(5, 3, 8))
    """

    cell: Cell = "rnn"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: ActivationName = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        recurrent_dropout: RecurrentDropoutArg = 0.0,
        backend: str = "auto",
    ) -> None:
        _check_activation("nonlinearity", nonlinearity)
        super().__init__(
            f"RNN_{nonlinearity.upper()}",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
            recurrent_dropout=recurrent_dropout,
            backend=backend,
        )
        self.activation = nonlinearity

    @property
    def nonlinearity(self) -> ActivationName:
        """What `torch.nn.RNN` calls f."""
        return self.activation

    if TYPE_CHECKING:

        @overload
        def __call__(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]: ...
        @overload
        def __call__(
            self, input: PackedSequence, hx: Tensor | None = None
        ) -> tuple[PackedSequence, Tensor]: ...
        def __call__(self, input: Any, hx: Any = None) -> Any:
            """Typed stand-in of `torch.nn.Module.__call__`."""

    def forward(self, input: Any, hx: Tensor | None = None) -> Any:
        """Output and final h; see the class."""
        output, (h_n,) = self._run(input, hx)
        return output, h_n


class LSTM(_RecurrentLayer):
    """`torch.nn.LSTM` with dropout at the update, the hidden state or the memory, Eqs. 4-9.

    Arguments, parameters, inputs and outputs are torch's, and so are their positions; new are:

    Args:
        recurrent_dropout: A rate (this paper's scheme, per step), a `RecurrentDropout`, or several
            with distinct sites.
        activation: f of Eqs. 4 and 6: ``"tanh"`` or ``"relu"``.
        backend: ``"auto"`` or the name of a backend, which then never falls back.

    Shapes:
        input [T, B, I], [B, T, I] with ``batch_first``, [T, I] unbatched, or a PackedSequence; h_0
        and h_n [L * D, B, W], c_0 and c_n [L * D, B, H]; output [T, B, D * W] in the input's
        layout, with W = ``proj_size`` or else H.

    Raises:
        TypeError: An option or input of another type.
        ValueError: An option out of range, or input of another dtype or number of dimensions.
        RuntimeError: Input or state of another shape.
        BackendUnsupported: A named backend cannot run this.

    Example:
        >>> gal = RecurrentDropout(0.25, site="hidden", sampling="sequence")
        >>> lstm = LSTM(8, 16, recurrent_dropout=(RecurrentDropout(0.25), gal))
        >>> output, (h_n, c_n) = lstm(torch.randn(5, 3, 8))
    """

    cell: Cell = "lstm"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        recurrent_dropout: RecurrentDropoutArg = 0.0,
        activation: ActivationName = "tanh",
        backend: str = "auto",
    ) -> None:
        _check_activation("activation", activation)
        super().__init__(
            "LSTM",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device=device,
            dtype=dtype,
            recurrent_dropout=recurrent_dropout,
            backend=backend,
        )
        self.activation = activation

    if TYPE_CHECKING:

        @overload
        def __call__(
            self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
        ) -> tuple[Tensor, tuple[Tensor, Tensor]]: ...
        @overload
        def __call__(
            self, input: PackedSequence, hx: tuple[Tensor, Tensor] | None = None
        ) -> tuple[PackedSequence, tuple[Tensor, Tensor]]: ...
        def __call__(self, input: Any, hx: Any = None) -> Any:
            """Typed stand-in of `torch.nn.Module.__call__`."""

    def forward(self, input: Any, hx: tuple[Tensor, Tensor] | None = None) -> Any:
        """Output, and final h and c; see the class."""
        return self._run(input, hx)


class GRU(_RecurrentLayer):
    """`torch.nn.GRU`, or the paper's GRU, with dropout inside the recurrence, Eqs. 10-13.

    Arguments, parameters, inputs and outputs are torch's, and so are their positions; new are:

    Args:
        recurrent_dropout: A rate (this paper's scheme, per step), a `RecurrentDropout`, or several
            with distinct sites.
        activation: f of Eq. 11: ``"tanh"`` or ``"relu"``.
        reset_after: True: torch's and cuDNN's GRU. False: the paper's, which resets h before the
            product and whose z opens the update. The same weights mean different functions.
        backend: ``"auto"`` or the name of a backend, which then never falls back.

    Shapes:
        input [T, B, I], [B, T, I] with ``batch_first``, [T, I] unbatched, or a PackedSequence; h_0
        and h_n [L * D, B, H]; output [T, B, D * H] in the input's layout.

    Raises:
        TypeError: An option or input of another type.
        ValueError: An option out of range, or input of another dtype or number of dimensions.
        RuntimeError: Input or state of another shape.
        BackendUnsupported: A named backend cannot run this.

    Example:
        >>> gru = GRU(8, 16, recurrent_dropout=0.25, reset_after=False)
        >>> output, h_n = gru(torch.randn(5, 3, 8))
    """

    cell: Cell = "gru"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        recurrent_dropout: RecurrentDropoutArg = 0.0,
        activation: ActivationName = "tanh",
        reset_after: bool = True,
        backend: str = "auto",
    ) -> None:
        _check_activation("activation", activation)
        if not isinstance(reset_after, bool):
            raise TypeError(
                f"reset_after should be of type bool, got: {type(reset_after).__name__}"
            )
        super().__init__(
            "GRU",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
            recurrent_dropout=recurrent_dropout,
            backend=backend,
        )
        self.activation = activation
        self.reset_after = reset_after

    if TYPE_CHECKING:

        @overload
        def __call__(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]: ...
        @overload
        def __call__(
            self, input: PackedSequence, hx: Tensor | None = None
        ) -> tuple[PackedSequence, Tensor]: ...
        def __call__(self, input: Any, hx: Any = None) -> Any:
            """Typed stand-in of `torch.nn.Module.__call__`."""

    def forward(self, input: Any, hx: Tensor | None = None) -> Any:
        """Output and final h; see the class."""
        output, (h_n,) = self._run(input, hx)
        return output, h_n


def _check_activation(name: str, value: object) -> None:
    if value not in ("tanh", "relu"):
        raise ValueError(f"Unknown {name} {value!r}. Select from 'tanh' or 'relu'.")
