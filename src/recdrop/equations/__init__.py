"""The paper's equations as pure step functions, one short file for each cell.

Every step takes ``(pre_x, prev, weights, drop, f)``: the input projection of one step plus bias,
the last state, the recurrent weights, the dropout factors of this step, and the activation; it
returns the new state. No loops over time and no devices here: the reference backend runs these
functions, and every kernel mirrors them name by name.
"""

from recdrop.equations.gru import gru_paper_step, gru_step
from recdrop.equations.lstm import lstm_step
from recdrop.equations.rnn import rnn_step

__all__ = ["gru_paper_step", "gru_step", "lstm_step", "rnn_step"]
