"""Configurations: every fault at once, with its place and what was given (B1 of our list)."""

import itertools
import math

import pytest
from pydantic import ValidationError

from recdrop.lab.config import (
    Dropout,
    LanguageModel,
    Schedule,
    Sgd,
    StopRule,
    TemporalOrderData,
    TextData,
    parse_run,
)
from recdrop.lab.errors import BadInput
from recdrop.lab.paper import table4
from recdrop.lab.paper.presets import PRESETS
from recdrop.lab.settings import changed, differences, settings
from tests.lab.tiny import DATA, GAL, MOON, OURS, tiny_model, tiny_run, tiny_words


@pytest.mark.parametrize(
    "run",
    [
        tiny_run(
            optim=Sgd(lr=0.1),
            model=tiny_model(OURS, MOON),
            schedule=Schedule(epochs=4, stop=StopRule(train_score=1)),
        ),
        tiny_words(),
    ],
)
def test_a_run_survives_json(run):
    assert parse_run(run.model_dump_json()) == run


def test_all_faults_are_told_at_once_with_place_and_value():
    with pytest.raises(BadInput) as caught:
        changed(
            tiny_run(),
            {
                "name": "Not a folder/../x",
                "data": {"low": -1, "high": 4, "lenght": 3},
                "model": {
                    "hidden": 10**30,
                    "init_range": math.nan,
                    "recurrent_dropout": [{"rate": 1.0, "site": "cell"}],
                },
                "optim": {"lr": math.inf, "clip_nrom": 3.0, "decay": {"kind": "plateau"}},
                "schedule": {"epochs": True, "log_every": 2.5},
                "seed": -1,
            },
        )
    told = str(caught.value).split("\n")
    places = {line.partition(":")[0] for line in told}
    assert places == {
        "name",
        "data.low",
        "data.lenght",
        "model.hidden",
        "model.init_range",
        "model.recurrent_dropout.0.rate",
        "model.recurrent_dropout.0.site",
        "optim.lr",
        "optim.clip_nrom",
        "optim.decay.divide_by",
        "schedule.epochs",
        "schedule.log_every",
        "seed",
    }
    assert "data.lenght: no such key, did you mean length?, got 3" in told
    assert "optim.clip_nrom: no such key, did you mean clip_norm?, got 3.0" in told
    assert any(line.endswith("got 1.0") for line in told)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"high": 6}, "high 6, length 6"),
        ({"low": 5, "high": 4}, "needs 5 <= high"),
        ({"low": 4, "high": 4, "collide": False}, "needs 5 <= high"),
        ({"train": 33}, "whole batches of 8"),
    ],
)
def test_markers_and_batches_must_fit(changes: dict, told: str):
    with pytest.raises(ValidationError, match=told):
        TemporalOrderData(**(DATA.model_dump() | changes))


def test_markers_may_share_their_only_position():
    assert TemporalOrderData(length=6, low=4, high=4).collide


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"window": 35, "stride": 6}, "stride must divide window 35, got 6"),
        ({"unknown": False, "vocabulary": 100}, "needs unknown = true"),
        ({"unknown": False, "min_count": 2}, "needs unknown = true"),
        ({"share": 0.0}, "greater than 0"),
    ],
)
def test_conflicts_in_a_text(changes: dict, told: str):
    with pytest.raises(ValidationError, match=told):
        TextData(**changes)


def test_all_conflicts_of_a_table_are_told_at_once():
    """Of values that are each in range."""
    with pytest.raises(BadInput) as caught:
        changed(
            tiny_words(),
            {
                "data": {"window": 35, "stride": 6, "unknown": False, "min_count": 2},
                "model": {"cell": "rnn", "recurrent_dropout": 0.5, "dropout_between": 0.5},
                "optim": {"lr": -1},
            },
        )
    told = str(caught.value)
    for fault in (
        "data: stride must divide window 35, got 6; a cut vocabulary",
        "model: dropout_between = 0.5 needs layers = 2 or more",
        "optim.lr: ",
    ):
        assert fault in told
    both = [{"rate": 0.1}, {"rate": 0.1, "sampling": "sequence", "tied": False}]
    told = "each site once.*; tied = false goes with site hidden.*; dropout_between = 0.5 needs"
    with pytest.raises(BadInput, match=told):
        changed(tiny_words(), {"model": {"recurrent_dropout": both, "dropout_between": 0.5}})


def test_a_number_is_the_papers_scheme_per_step():
    short = changed(tiny_words(), {"model": {"recurrent_dropout": 0.25}})
    assert short.model.recurrent_dropout == (Dropout(rate=0.25),)
    none = changed(tiny_words(), {"model": {"recurrent_dropout": 0}})
    assert none.model.recurrent_dropout == ()
    rnn = changed(tiny_words(), {"model": {"recurrent_dropout": 0.25, "cell": "rnn"}})
    assert rnn.model.recurrent_dropout == (Dropout(rate=0.25, site="hidden"),)
    for wrong in (1.0, -0.1, True, "much"):
        with pytest.raises(BadInput, match="recurrent_dropout"):
            changed(tiny_words(), {"model": {"recurrent_dropout": wrong}})


def test_each_site_is_taken_once_and_a_plain_rnn_has_one():
    again = Dropout(rate=0.1, site="update", sampling="sequence", rescale="train")
    with pytest.raises(ValidationError, match="each site once"):
        tiny_model(OURS, again)
    with pytest.raises(ValidationError, match="site hidden only"):
        LanguageModel(cell="rnn", embedding=3, hidden=3, init_range=1, recurrent_dropout=(OURS,))
    with pytest.raises(ValidationError, match="tied = false goes with site hidden"):
        tiny_model(Dropout(rate=0.1, tied=False))


def test_a_stage_that_never_begins_is_a_conflict_but_in_a_table():
    """Those of `recdrop reproduce` may be shortened, stored ones among them."""
    own = PRESETS["ner"]["paper"]
    with pytest.raises(BadInput, match=r"schedule\.epochs: 2 with data\.chunks whose last begin"):
        changed(own, {"schedule": {"epochs": 2}})
    one_stage = {"schedule": {"epochs": 2}, "data": {"chunks": [{"words": 5}]}}
    assert changed(own, one_stage).schedule.epochs == 2
    for cell in table4.cells():
        short = table4.run(cell, "paper", max_epochs=2)
        assert (short.schedule.epochs, short.data.chunks[-1].after) == (2, 25)
        assert parse_run(short.model_dump_json()) == short


def test_runs_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        tiny_run().seed = 4  # pyright: ignore[reportAttributeAccessIssue]


def test_settings_are_toml_values_or_words():
    assert settings(
        ["model.hidden=64", "model.cell=gru", 'name="x-1"', "data.share = 0.5", "seed=1", "seed=2"]
    ) == {
        "model": {"hidden": 64, "cell": "gru"},
        "name": "x-1",
        "data": {"share": 0.5},
        "seed": 2,
    }
    drops = settings(['model.recurrent_dropout=[{rate=0.5, site="hidden"}]'])
    (drop,) = changed(tiny_words(), drops).model.recurrent_dropout
    assert (drop.rate, drop.site) == (0.5, "hidden")
    with pytest.raises(BadInput) as caught:
        settings(["model.hidden", "=3", "a..b=1", "seed=3"])
    assert str(caught.value).count("expected KEY=VALUE") == 3


def test_a_value_cannot_smuggle_in_other_keys():
    with pytest.raises(BadInput, match="seed"):
        changed(tiny_run(), settings(["seed=1\nname='x'"]))


def test_layers_go_over_each_other_and_another_kind_starts_anew():
    run = changed(tiny_words(), {"optim": {"lr": 0.25}}, settings(["optim.lr=0.125"]))
    assert run.optim.lr == 0.125
    assert run.optim.clip_norm == 1.0
    adam = changed(tiny_words(), {"optim": {"kind": "adam", "lr": 0.001}})
    assert (adam.optim.kind, adam.optim.clip_norm, adam.optim.decay) == ("adam", None, None)
    with pytest.raises(BadInput, match=r"optim\.lr: Field required"):
        changed(tiny_words(), {"optim": {"kind": "adam"}})
    with pytest.raises(BadInput, match="data: "):
        changed(tiny_words(), {"data": 3})


def test_settings_of_another_kind_may_come_in_any_order():
    pairs = ["optim.lr=0.5", "optim.kind=sgd", "optim.clip_norm=3"]
    for order in itertools.permutations(pairs):
        optim = changed(tiny_run(), settings(order)).optim
        assert (optim.kind, optim.lr, optim.clip_norm) == ("sgd", 0.5, 3.0)


def test_a_value_of_any_length_is_no_riddle():
    with pytest.raises(BadInput, match="seed"):
        changed(tiny_run(), settings([f"seed={'9' * 5000}"]))


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("hidden", "no such key, did you mean model.hidden?, got 3"),
        ("optim.hidden", "no such key, did you mean model.hidden?, got 3"),
        ("hiden", "no such key, did you mean model.hidden?, got 3"),
        ("model.hiden", "no such key, did you mean hidden?, got 3"),
        ("words", "no such key, got 3"),  # of data.chunks
    ],
)
def test_an_unknown_key_is_told_with_those_that_may_be_meant(key, told):
    with pytest.raises(BadInput) as caught:
        changed(PRESETS["ner"]["small"], settings([f"{key}=3"]))
    assert str(caught.value) == f"{key}: {told}"


def test_differences_name_the_fields():
    other = tiny_run(
        seed=4,
        data=TemporalOrderData(**(DATA.model_dump() | {"collide": False})),
        model=tiny_model(OURS, GAL),
    )
    told = differences(tiny_run(), other)
    assert "seed: stored 3, asked 4" in told
    assert "data.collide: stored True, asked False" in told
    assert "model.recurrent_dropout.1.site: stored None, asked 'hidden'" in told
    assert len(told) == 7
    assert differences(other, other) == []
