"""`RecurrentDropout` and what a layer makes of its argument."""

import dataclasses
import fractions
import pickle

import numpy as np
import pytest
import torch

from recdrop import LSTM, RNN, RecurrentDropout
from recdrop.dropout import as_specs


def test_defaults_are_the_papers_scheme_per_step():
    spec = RecurrentDropout(0.25)
    assert (spec.site, spec.sampling, spec.rescale, spec.tied) == ("update", "step", "train", True)


@pytest.mark.parametrize(
    ("site", "rescale"), [("update", "train"), ("hidden", "train"), ("state", "test")]
)
def test_default_rescale_depends_on_the_site(site, rescale):
    assert RecurrentDropout(0.5, site).rescale == rescale
    assert RecurrentDropout(0.5, site) == RecurrentDropout(0.5, site, rescale=rescale)


def test_it_is_a_value():
    a, b = RecurrentDropout(0.5), RecurrentDropout(0.5, "update")
    assert len({a, b}) == 1
    assert pickle.loads(pickle.dumps(a)) == a  # noqa: S301  our own bytes
    assert eval(repr(a)) == a  # noqa: S307  the repr is the constructor call
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.rate = 0.1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("rate", [0, 0.5, np.float32(0.25), fractions.Fraction(1, 3)])
def test_numbers_are_rates(rate):
    assert RecurrentDropout(rate).rate == float(rate)
    assert type(RecurrentDropout(rate).rate) is float


@pytest.mark.parametrize("rate", [-0.1, 1, 1.0, 1.5, float("nan"), float("inf"), True, "0.5", None])
def test_bad_rates(rate):
    with pytest.raises(ValueError, match=r"rate must be a number in \[0, 1\).*got "):
        RecurrentDropout(rate)


@pytest.mark.parametrize(
    "bad",
    [
        {"site": "cell"},
        {"sampling": "batch"},
        {"rescale": "inverted"},
        {"tied": 1},
        {"tied": "yes"},
        {"site": None},
    ],
)
def test_bad_options_say_what_is_allowed(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=f"{name} must be one of .*got "):
        RecurrentDropout(0.5, **bad)


def test_untied_is_for_the_hidden_site():
    with pytest.raises(ValueError, match="site='hidden'"):
        RecurrentDropout(0.5, "update", tied=False)


def test_inverted_state_dropout_warns_and_the_default_does_not():
    with pytest.warns(UserWarning, match="grow like 0.5"):
        RecurrentDropout(0.5, "state", rescale="train")
    RecurrentDropout(0.5, "state")
    RecurrentDropout(0.0, "state", rescale="train")


def test_a_number_is_the_papers_scheme_and_for_an_rnn_the_hidden_site():
    assert as_specs(0.3, "lstm") == (RecurrentDropout(0.3, "update"),)
    assert as_specs(0.3, "gru") == (RecurrentDropout(0.3, "update"),)
    assert as_specs(0.3, "rnn") == (RecurrentDropout(0.3, "hidden"),)
    assert as_specs(0, "lstm") == ()
    assert as_specs((), "lstm") == ()


def test_several_specs_need_distinct_sites():
    specs = [RecurrentDropout(0.3), RecurrentDropout(0.2, "hidden", "sequence")]
    assert as_specs(specs, "lstm") == tuple(specs)
    with pytest.raises(ValueError, match="each site once"):
        as_specs([specs[0], specs[0]], "lstm")


@pytest.mark.parametrize("site", ["update", "state"])
def test_an_rnn_has_only_the_hidden_site(site):
    with pytest.raises(ValueError, match=f"hidden.*{site}"):
        RNN(2, 3, recurrent_dropout=RecurrentDropout(0.5, site))


@pytest.mark.parametrize(
    "value", ["0.5", None, [0.5], object(), {"rate": 0.5}, {}, b"", torch.tensor(0.5)]
)
def test_other_types_are_refused(value):
    with pytest.raises(TypeError, match="recurrent_dropout must"):
        LSTM(2, 3, recurrent_dropout=value)


def test_it_may_be_assigned_later_and_is_checked_then():
    lstm = LSTM(2, 3)
    lstm.recurrent_dropout = 0.5
    assert lstm.recurrent_dropout == (RecurrentDropout(0.5),)
    for bad in (1.0, True):
        with pytest.raises(ValueError, match="recurrent_dropout"):
            lstm.recurrent_dropout = bad
    assert lstm.recurrent_dropout == (RecurrentDropout(0.5),)
    lstm.recurrent_dropout = 0
    assert lstm.recurrent_dropout == ()
