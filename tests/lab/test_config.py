import math

import pytest
from pydantic import ValidationError

from recdrop.lab.config import (
    Dropout,
    Run,
    Schedule,
    Sgd,
    StopRule,
    TemporalOrderData,
    differences,
    faults,
)
from tests.lab.tiny import DATA, MOON, OURS, tiny_run


def test_a_run_survives_json():
    run = tiny_run(
        optim=Sgd(lr=0.1),
        dropout=(OURS, MOON),
        schedule=Schedule(
            max_updates=4, window=2, evaluate_every=2, stop=StopRule(train_accuracy=1)
        ),
    )
    assert Run.model_validate_json(run.model_dump_json()) == run


def test_all_faults_are_told_at_once_with_place_and_value():
    with pytest.raises(ValidationError) as caught:
        Run.model_validate(
            {
                "name": "Not a folder/../x",
                "scale": "quick",
                "data": {"length": 6, "low": -1, "high": 4},
                "model": {"hidden": 10**12, "init_range": math.nan, "output_init_range": 0.1},
                "dropout": ({"rate": 1.0, "site": "cell", "sampling": "step", "rescale": "test"},),
                "optim": {"kind": "adam", "lr": math.inf},
                "schedule": {"max_updates": True, "window": 1, "evaluate_every": 1, "epochs": 3},
                "seed": -1,
            }
        )
    told = faults(caught.value)
    places = {line.partition(":")[0] for line in told}
    assert places == {
        "name",
        "data.low",
        "model.hidden",
        "model.init_range",
        "dropout.0.rate",
        "dropout.0.site",
        "optim.adam.lr",
        "schedule.max_updates",
        "schedule.epochs",
        "seed",
    }
    assert any(line.startswith("dropout.0.rate") and line.endswith("got 1.0") for line in told)


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


@pytest.mark.parametrize("field", ["max_updates", "evaluate_every"])
def test_a_schedule_is_whole_windows(field: str):
    with pytest.raises(ValidationError, match=f"{field} must be whole windows of 4 updates, got 6"):
        Schedule(**({"max_updates": 8, "window": 4, "evaluate_every": 4} | {field: 6}))


def test_each_site_is_taken_once():
    again = Dropout(rate=0.1, site="update", sampling="sequence", rescale="train")
    with pytest.raises(ValidationError, match="each site once"):
        tiny_run(dropout=(OURS, again))


def test_runs_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        tiny_run().seed = 4  # pyright: ignore[reportAttributeAccessIssue]


def test_differences_name_the_fields():
    other = tiny_run(
        seed=4,
        data=TemporalOrderData(**(DATA.model_dump() | {"collide": False})),
        dropout=(OURS, MOON),
    )
    told = differences(tiny_run(), other)
    assert "seed: stored 3, asked 4" in told
    assert "data.collide: stored True, asked False" in told
    assert "dropout.1.site: stored None, asked 'state'" in told
    assert len(told) == 6
    assert differences(other, other) == []
