from recdrop import functional as functional
from recdrop import memory as memory
from recdrop import rng as rng
from recdrop import testing as testing
from recdrop.conversion import convert as convert
from recdrop.conversion import explain_backend as explain_backend
from recdrop.conversion import from_torch as from_torch
from recdrop.conversion import to_torch as to_torch
from recdrop.dropout import RecurrentDropout as RecurrentDropout
from recdrop.errors import BackendUnsupported as BackendUnsupported
from recdrop.layers import GRU as GRU
from recdrop.layers import LSTM as LSTM
from recdrop.layers import RNN as RNN
from recdrop.monte_carlo import mc_dropout as mc_dropout
from recdrop.rng import hold_masks as hold_masks

__version__: str
