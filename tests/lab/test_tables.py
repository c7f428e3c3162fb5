"""Tables 2 and 3, Figure 2, the claims and the presets, against the paper's own numbers."""

import json
import math

import pytest

from recdrop.lab.config import (
    ExponentialDecay,
    LanguageModelRun,
    PlateauDecay,
    RmsProp,
    parse_run,
)
from recdrop.lab.errors import BadInput
from recdrop.lab.paper import figure2, table1, table2, table3, table4, table5
from recdrop.lab.paper.claims import CLAIMS
from recdrop.lab.paper.grid import number
from recdrop.lab.paper.judging import judge, printed_scores
from recdrop.lab.paper.presets import PRESETS
from tests.lab.benchmark_data import benchmark

TABLES = {
    module.TABLE.key: module.TABLE for module in (table1, table2, table3, table4, table5, figure2)
}
MODULES = {"table2": table2, "table3": table3, "figure2": figure2}


def stored(name: str):
    """A file of the paper's numbers, transcribed apart from the code."""
    return json.loads(benchmark(f"paper/{name}").read_text())


def cell(table, name: str):
    (found,) = (c for c in table.cells([]) if c.name == name)
    return found


@pytest.mark.parametrize(
    ("module", "key"), [(table2, "table2_word_ptb_ppl"), (table3, "table3_char_ptb_bpc")]
)
def test_every_number_of_the_paper(module, key: str):
    rows = stored("tables.json")[key]
    wanted = {}
    for half, end in (("no_forward", ""), ("forward", "-forward")):
        for rate, sampling, *scores in rows[half]:
            for place, scheme in enumerate(("moon", "gal", "ours")):
                how = f"{scheme}-{sampling.removeprefix('per-')}-{100 * rate:g}" if rate else "none"
                valid, test = scores[2 * place : 2 * place + 2]
                wanted[how + end] = {"valid": valid, "test": test}
    assert len(wanted) == 26
    printed = {n: {k: float(v) for k, v in of.items()} for n, of in module.PRINTED.items()}
    assert printed == wanted


def test_every_number_of_table_1():
    rows = stored("tables.json")["table1_temporal_order_acc"]
    for sampling in ("step", "sequence"):
        for column, text in zip(rows["columns"], rows[f"per-{sampling}"], strict=True):
            *schemes, span, measure = column.replace("gal_and_ours", "gal ours").split("_")
            for scheme in schemes[0].split():
                assert table1.PRINTED[f"{scheme}-{sampling}-{span}"][measure] == text


def test_every_number_of_tables_4_and_5():
    of_stage = stored("tables.json")["table4_conll2003_f1"]
    for place, net in enumerate(("rnn", "lstm", "gru"), 1):
        for row, rate in enumerate(("none", "25")):
            numbers = [of_stage[stage][row][place] for stage in ("5_word", "15_word")]
            assert [100 * number(text) for text in table4.PRINTED[f"{net}-{rate}"]] == (
                pytest.approx(numbers)
            )
    of_net = stored("tables.json")["table5_twitter_f1"]
    headings = list(table5.TABLE.measures.values())
    assert headings == of_net["columns"][1:]
    for net in ("rnn", "lstm", "gru"):
        for row, rate in enumerate(("none", "25")):
            assert list(table5.PRINTED[f"{net}-{rate}"]) == of_net[net.upper()][row][1:]


@pytest.mark.parametrize(
    ("module", "site", "sampling"), [(table4, "update", "sequence"), (table5, "update", "step")]
)
def test_the_six_cells_of_tables_4_and_5(module, site, sampling):
    assert [c.name for c in module.cells()] == list(module.PRINTED)
    for c in module.cells():
        run = module.run(c, "paper", 3)
        assert (run.name, run.seed, run.model.cell) == (c.name, 3, c.net)
        assert (run.model.activation, run.model.dropout_in, run.model.dropout_out) == (
            "relu", 0.2, 0.5,
        )  # fmt: skip
        if c.rate:
            (drop,) = run.model.recurrent_dropout
            assert (drop.rate, drop.sampling, drop.rescale) == (0.25, sampling, "test")
            assert drop.site == ("hidden" if c.net == "rnn" else site)
        else:
            assert run.model.recurrent_dropout == ()
    with pytest.raises(ValueError, match="scale"):
        module.run(module.cells()[0], "tenth")


def test_table_4s_protocol():
    run = table4.run(cell(table4.TABLE, "lstm-25"), "paper")
    assert [(c.words, c.after) for c in run.data.chunks] == [(5, 0), (15, 25)]
    assert (run.schedule.epochs, run.model.hidden, run.model.window) == (35, 1024, 5)
    assert isinstance(run.optim.decay, ExponentialDecay)
    assert run.optim.decay.factor == 0.99
    assert table4.run(cell(table4.TABLE, "lstm-25"), "small").model.hidden == 256
    assert isinstance(run.optim, RmsProp)
    assert (run.optim.lr, run.optim.rho, run.optim.eps) == (0.01, 0.9, 1e-3)
    assert (run.optim.clip_norm, run.data.batch, run.schedule.keep) == (10.0, 32, "best")
    assert (run.model.capitals, run.model.tune, run.model.layers) == (True, False, 1)
    assert not table4.run(cell(table4.TABLE, "gru-25"), "paper").model.reset_after


def test_table_5s_protocol():
    run = table5.run(cell(table5.TABLE, "lstm-25"), "paper")
    assert (run.model.hidden, run.model.layers, run.model.bidirectional) == (500, 1, False)
    assert (run.schedule.epochs, run.data.pretraining, run.data.layout) == (26, 1, "semeval")
    assert isinstance(run.optim, RmsProp)
    assert (run.optim.lr, run.optim.rho, run.optim.eps) == (0.001, 0.9, 1e-3)
    assert isinstance(run.optim.decay, ExponentialDecay)
    assert run.optim.decay.factor == 0.99
    assert (run.schedule.keep, run.data.texts) == ("best", "tweets")


@pytest.mark.parametrize("module", [table2, table3])
def test_the_grid_is_the_papers_26_cells_and_combined_ones(module):
    names = [c.name for c in module.cells()]
    assert len(names) == len(set(names)) == 29
    assert {c.name for c in module.cells() if not c.beyond} == set(module.PRINTED)
    beyond = [c for c in module.cells() if c.beyond]
    assert beyond[0].name == "ours-gal-step-25-forward"
    for c in beyond:
        ours, gal = c.dropout
        assert (ours.site, ours.sampling) == ("update", c.sampling)
        assert (gal.site, gal.sampling, gal.rate) == ("hidden", "sequence", ours.rate)
        assert c.forward
        assert "not in the paper" in c.block


@pytest.mark.parametrize(
    ("name", "site", "sampling", "rate", "forward"),
    [
        ("moon-step-50", "state", "step", 0.5, False),
        ("gal-sequence-25-forward", "hidden", "sequence", 0.25, True),
        ("ours-step-25", "update", "step", 0.25, False),
    ],
)
def test_what_a_cell_drops(name: str, site: str, sampling: str, rate: float, forward: bool):
    for table in (table2, table3):
        model = table.run(cell(table.TABLE, name), "paper").model
        (drop,) = model.recurrent_dropout
        # Eq. 3 inside the recurrence, inverted around it: the paper mixes the two
        assert (drop.site, drop.sampling, drop.rate, drop.rescale) == (site, sampling, rate, "test")
        assert drop.tied
        assert (model.dropout_in, model.dropout_out) == ((0.2, 0.5) if forward else (0, 0))


@pytest.mark.parametrize("name", ["none", "none-forward"])
def test_baselines_drop_nothing_inside(name: str):
    run = table2.run(cell(table2.TABLE, name), "paper")
    assert run.model.recurrent_dropout == ()
    assert run.model.dropout_out == (0.5 if "forward" in name else 0)


@pytest.mark.parametrize("module", [table1, table2, table3, figure2])
def test_every_cell_at_every_scale_is_a_run_that_can_be_stored(module):
    for scale in ("paper", *module.TABLE.scales):
        for c in module.cells():
            run = module.run(c, scale, 7)
            assert parse_run(run.model_dump_json()) == run
            assert (run.name, run.table, run.scale, run.seed) == (
                c.name, module.TABLE.key, scale, 7,
            )  # fmt: skip


def test_the_protocol_of_words():
    run = table2.run(cell(table2.TABLE, "ours-step-25-forward"), "paper")
    assert (run.task, run.data.symbols, run.data.batch, run.data.window) == (
        "word-lm", "words", 32, 35,
    )  # fmt: skip
    assert (run.model.cell, run.model.embedding, run.model.hidden) == ("lstm", 256, 256)
    assert run.model.init_range == 0.05
    assert (run.optim.kind, run.optim.lr, run.optim.clip_norm) == ("sgd", 1.0, 10.0)
    assert run.optim.decay == PlateauDecay(divide_by=1.5)
    schedule = run.schedule
    assert (schedule.epochs, schedule.keep, schedule.min_lr) == (100, "best", 1e-4)
    assert (run.data.share, schedule.patience) == (1.0, None)


def test_the_protocol_of_characters():
    run = table3.run(cell(table3.TABLE, "ours-step-25"), "paper")
    assert (run.task, run.data.symbols, run.data.batch, run.data.window) == (
        "char-lm", "auto", 32, 100,
    )  # fmt: skip
    assert not run.data.unknown
    assert (run.model.embedding, run.model.hidden, run.model.init_range) == (256, 1024, 0.01)
    assert (run.optim.kind, run.optim.lr, run.optim.clip_norm) == ("adam", 0.001, 10.0)
    assert run.optim.decay == ExponentialDecay(factor=0.97, start=10)
    assert (run.schedule.epochs, run.schedule.keep) == (50, "best")


@pytest.mark.parametrize("key", sorted(MODULES))
def test_tenth_is_the_same_on_a_tenth_of_the_text(key: str):
    module = MODULES[key]
    for c in module.cells():
        whole, tenth = module.run(c, "paper"), module.run(c, "tenth")
        assert (tenth.data.share, tenth.schedule.patience) == (0.1, 5)
        assert whole.model == tenth.model
        assert whole.optim == tenth.optim
        assert whole.schedule.epochs == tenth.schedule.epochs
    with pytest.raises(ValueError, match="paper and tenth, got quick"):
        module.run(module.cells()[0], "quick")


def test_fewer_epochs():
    for module in MODULES.values():
        assert module.run(module.cells()[0], "tenth", max_epochs=3).schedule.epochs == 3
        with pytest.raises(BadInput, match="got -1"):
            module.run(module.cells()[0], "tenth", max_epochs=-1)


def test_figure_2_is_two_cells_of_table_2_for_37_epochs():
    assert [c.name for c in figure2.cells()] == ["none", "ours-step-25"]
    for c in figure2.cells():
        ours, theirs = figure2.run(c, "paper"), table2.run(c, "paper", max_epochs=37)
        assert ours == theirs.model_copy(update={"table": "figure2"})


def test_the_papers_curves_are_what_was_read_off_the_picture():
    curves, picture = figure2.papers_curves(), stored("figure2.json")
    for name, key in (("none", "nodrop"), ("ours-step-25", "drop")):
        for split in ("train", "valid"):
            ours, theirs = curves[name][split], picture[f"{split}_{key}"]
            assert len(ours.nats) == len(theirs)
            for epoch, nats, (x, y) in zip(ours.epochs, ours.nats, theirs, strict=True):
                assert epoch == pytest.approx(x / 800, abs=5e-4)
                assert nats == pytest.approx(y, abs=6e-5)


def test_the_numbers_of_figure_2_are_those_of_its_curves():
    for name, of_split in figure2.papers_curves().items():
        nats = of_split["valid"].nats
        printed = figure2.PRINTED[name]
        assert math.exp(min(nats)) == pytest.approx(float(printed["valid"]), abs=0.06)
        assert math.exp(nats[-1]) == pytest.approx(float(printed["valid_last"]), abs=0.06)


# ---------------------------------------------------------------------------------------- claims

# By hand from the tables; the reading of each is in the claims themselves.
PRINTED_VERDICTS = {
    "table1": [True, True, True],
    "table2": [True, False, True, True, True, True, False, True, False, False, False],
    "table3": [True, False, False, True],
    "table4": [True, True, False],
    "table5": [False, True, False, True],
}


@pytest.mark.parametrize("key", sorted(PRINTED_VERDICTS))
def test_claims_on_the_papers_own_numbers(key: str):
    table = TABLES[key]
    verdicts = [judge(c, table, printed_scores(table)) for c in CLAIMS if c.table == key]
    assert [verdict.holds for verdict in verdicts] == PRINTED_VERDICTS[key]


def claim(key: str, words: str):
    (found,) = (c for c in CLAIMS if c.table == key and words in c.text)
    return found


def test_the_numbers_behind_a_claim_are_told():
    printed = printed_scores(table2.TABLE)
    half = judge(claim("table2", "directly” (Moon), with forward"), table2.TABLE, printed)
    assert half.told == "113.5 ≥ 105.7; 140.6 ≥ 125.4"
    gaps = judge(claim("table2", "more than 30 points"), table2.TABLE, printed)
    assert gaps.told == "140.6 - 100.6; 137.7 - 103.2"


@pytest.mark.parametrize(
    ("key", "words", "told"),
    [
        ("table4", "larger on short", "+0.88 > +0.83; +1.10 > +0.76; +0.70 > +0.66"),
        (
            "table4",
            "larger for the LSTM",
            "+1.10 > +0.88; +1.10 > +0.70; +0.76 ≤ +0.83; +0.76 > +0.66",
        ),
        ("table5", "best net has", "59.35% < 61.35%"),
        (
            "table5",
            "all sets but Twitter15",
            "69.11% ≥ 69.04%; 71.39% < 72.10%; 68.90% < 69.65%; 67.11% ≥ 65.73%; 53.80% < 54.77%",
        ),
        (
            "table5",
            "hurts the plain RNN",
            "66.35% < 67.54%; 67.70% < 71.20%; 59.91% ≥ 59.35%; 67.76% < 68.90%; "
            "64.46% < 64.51%; 48.74% < 53.58%",
        ),
    ],
)
def test_the_comparisons_of_tables_4_and_5(key: str, words: str, told: str):
    table = TABLES[key]
    assert judge(claim(key, words), table, printed_scores(table)).told == told


def test_claims_of_tables_4_and_5_turn_with_the_scores():
    """Whatever holds on the paper's numbers fails on the same with both rates exchanged."""
    for key, words in (
        ("table4", "improves every net"),
        ("table4", "larger on short"),
        ("table5", "best net has"),
        ("table5", "hurts the plain RNN"),
    ):
        scores = printed_scores(TABLES[key])
        nets = ("rnn", "lstm", "gru")
        turned = {f"{n}-none": scores[f"{n}-25"] for n in nets}
        turned |= {f"{n}-25": scores[f"{n}-none"] for n in nets}
        assert judge(claim(key, words), TABLES[key], scores).holds
        assert judge(claim(key, words), TABLES[key], turned).holds is False


def test_a_claim_follows_the_scores():
    scores = printed_scores(table3.TABLE)
    only = claim("table3", "only one that improves")
    assert judge(only, table3.TABLE, scores).holds
    better_gal = scores | {"gal-step-25-forward": {"valid": 1.361, "test": 1.3}}
    assert judge(only, table3.TABLE, better_gal).holds is False
    worse_ours = scores | {"ours-step-25-forward": {"valid": 1.362, "test": 1.3}}
    assert judge(only, table3.TABLE, worse_ours).holds is False


def test_a_claim_whose_cells_are_missing_is_left_open():
    for c in CLAIMS:
        scores = printed_scores(TABLES[c.table])
        assert judge(c, TABLES[c.table], {}).holds is None
        needed = [name for name in scores if _open_without(c, scores, name)]
        assert needed
    c = claim("table2", "forward dropout yields")
    told = judge(c, table2.TABLE, {"none-forward": {"valid": 1.0}}).told
    assert told == "missing: moon-step-25, moon-step-50, moon-sequence-25 and 9 more"


def _open_without(c, scores, name: str) -> bool:
    rest = {k: v for k, v in scores.items() if k != name}
    return judge(c, TABLES[c.table], rest).holds is None


@pytest.mark.parametrize(
    ("text", "value"), [("100%", 1.0), ("<25%", 0.25), ("130.0", 130.0), ("1.301", 1.301)]
)
def test_printed_numbers(text: str, value: float):
    assert number(text) == value


# --------------------------------------------------------------------------------------- presets


def test_presets_are_a_users_own_runs():
    assert {task: list(of_task) for task, of_task in PRESETS.items()} == {
        "word-lm": ["small", "paper", "paper-gru", "paper-rnn"],
        "char-lm": ["small", "paper"],
        "ner": ["small", "paper"],
        "sentiment": ["small", "paper"],
        "temporal-order": ["quick"],
    }
    for task, of_task in PRESETS.items():
        for run in of_task.values():
            assert run.task == task
            assert (run.table, run.scale) == (None, None)
            assert parse_run(run.model_dump_json()) == run


def test_the_authors_settings_of_other_cells():
    gru, rnn = PRESETS["word-lm"]["paper-gru"], PRESETS["word-lm"]["paper-rnn"]
    assert isinstance(gru, LanguageModelRun)
    assert isinstance(rnn, LanguageModelRun)
    assert (gru.model.cell, gru.model.reset_after) == ("gru", False)
    assert (gru.optim.clip_norm, gru.optim.lr, gru.data.window, gru.data.resets) == (20, 0.1, 35, 2)
    assert (rnn.optim.clip_norm, rnn.optim.lr, rnn.data.window, rnn.data.resets) == (
        30, 0.05, 15, 2,
    )  # fmt: skip
    assert rnn.data.stride == 5
    assert [drop.site for drop in rnn.model.recurrent_dropout] == ["hidden"]
    assert [drop.rescale for drop in rnn.model.recurrent_dropout] == ["test"]


@pytest.mark.parametrize("task", ["char-lm", "word-lm"])
def test_the_small_presets_drop_inside_their_recurrence(task):
    run = PRESETS[task]["small"]
    assert isinstance(run, LanguageModelRun)
    (drop,) = run.model.recurrent_dropout
    assert (drop.rate, drop.site, drop.rescale) == (0.25, "update", "train")
    assert run.data.unknown
