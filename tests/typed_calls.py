"""What pyright must infer of a call; checked by pyright, imported by nobody."""

from typing import assert_type

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import recdrop


def check(x: Tensor, packed: PackedSequence, h: Tensor) -> None:
    """Calls are typed, not Any as `torch.nn.Module.__call__` is."""
    lstm, gru, rnn = recdrop.LSTM(3, 5), recdrop.GRU(3, 5), recdrop.RNN(3, 5)
    assert_type(lstm(x), tuple[Tensor, tuple[Tensor, Tensor]])
    assert_type(lstm(packed, (h, h)), tuple[PackedSequence, tuple[Tensor, Tensor]])
    assert_type(gru(x, h), tuple[Tensor, Tensor])
    assert_type(gru(packed), tuple[PackedSequence, Tensor])
    assert_type(rnn(x), tuple[Tensor, Tensor])
    assert_type(recdrop.from_torch(nn.LSTM(3, 5)), recdrop.LSTM)
    assert_type(recdrop.from_torch(nn.GRU(3, 5)), recdrop.GRU)
    assert_type(lstm.recurrent_dropout, tuple[recdrop.RecurrentDropout, ...])
