"""Several processes on one run: the same weights everywhere, exact to resume, none left hanging.

F8 of our list. Most pairs of processes are forked here, which spares them the imports; those that
torchrun starts are slow.
"""

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from recdrop.lab import world as rooms
from recdrop.lab.checkpoint import Checkpoints
from recdrop.lab.config import LanguageModel, Schedule, Sgd, TextData
from recdrop.lab.errors import BadInput, LabError
from recdrop.lab.runs import read_rows, run_cell
from recdrop.lab.signals import stop_signals
from recdrop.lab.storage import locked
from recdrop.lab.tasks import prepare
from recdrop.lab.tasks.net import place
from recdrop.lab.train import Interrupted
from recdrop.lab.world import World
from tests.lab.test_runs import result_of, wait_for
from tests.lab.tiny import (
    DATA,
    LOCK,
    TASKS,
    endless_run,
    tiny_model,
    tiny_of,
    tiny_run,
    tiny_words,
    write_text,
)

RECDROP = Path(sys.executable).with_name("recdrop")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Pair:
    """Two processes that each do `work()` and end with its exit code.

    What one has to tell it returns: a value for JSON, found in `told` once both have ended.
    """

    def __init__(self, folder, work):
        self.folder, self.exit_codes = folder, [None, None]
        folder.mkdir(parents=True, exist_ok=True)
        for earlier in folder.glob("told-*"):
            earlier.unlink()
        port = free_port()
        self.pids = [self._fork(rank, port, work) for rank in (0, 1)]

    def _fork(self, rank, port, work):
        child = os.fork()
        if child:
            return child
        try:
            signal.alarm(120)  # none outlives a test that failed
            torch.set_num_threads(1)
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}
            os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
            (self.folder / f"told-{rank}").write_text(json.dumps(work()))
            os._exit(0)
        except LabError as error:
            (self.folder / f"told-{rank}").write_text(json.dumps(str(error)))
            os._exit(error.exit_code)
        except Interrupted:
            os._exit(143)
        except BaseException:
            (self.folder / f"told-{rank}").write_text(json.dumps(traceback.format_exc()))
        finally:
            os._exit(99)

    def send(self, number, *ranks):
        for rank in ranks:
            os.kill(self.pids[rank], number)

    def wait(self, seconds=60):
        """Both exit codes, negative for a signal; whoever is still there then is killed."""
        deadline = time.monotonic() + seconds
        while None in self.exit_codes:
            for rank, pid in enumerate(self.pids):
                if self.exit_codes[rank] is None:
                    done, status = os.waitpid(pid, os.WNOHANG)
                    if done:
                        self.exit_codes[rank] = os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                left = [p for p, code in zip(self.pids, self.exit_codes, strict=True) if not code]
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                raise AssertionError(f"{left} hang; exit codes {self.exit_codes}, {self.told()}")
            time.sleep(0.005)
        return self.exit_codes

    def told(self):
        files = [self.folder / f"told-{rank}" for rank in (0, 1)]
        return [json.loads(file.read_text()) if file.exists() else None for file in files]


def together(folder, work):
    """What both processes told, once both have succeeded."""
    pair = Pair(folder, work)
    assert pair.wait() == [0, 0], pair.told()
    return pair.told()


def cell(folder, run, text=None, **options):
    """Work that trains a run, and tells what its outcome was; signals stop it."""

    def work():
        with stop_signals() as stopping:
            result = run_cell(folder, run, text, stopping=stopping, **options)
        return result.model_dump(mode="json")["outcome"]

    return work


# ------------------------------------------------------------------------------- the same training


def watched_cell(folder, run, text=None, **options):
    """Work that tells the weights' digest after each update, and its own share's nats before it."""

    def work():
        digests, nats = [], []

        def stepped(optimiser, *_):
            parameters = optimiser.param_groups[0]["params"]
            bits = b"".join(p.detach().numpy().tobytes() for p in parameters)
            digests.append(hashlib.sha256(bits).hexdigest())

        class Watched(World):
            def sum(self, numbers):
                mine = list(numbers)
                nats.extend(mine[:1] if len(mine) == 3 else [])
                return super().sum(mine)

        register_optimizer_step_post_hook(stepped)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("recdrop.lab.runs.World", Watched)
            run_cell(folder, run, text, **options)
        return digests, nats

    return work


@pytest.mark.parametrize("task", TASKS)
def test_all_processes_have_the_same_weights_after_every_update(tmp_path, task):
    """Of those with two stages also in the second, which begins with the best net of the first."""
    run, data, files = tiny_of(task, tmp_path)
    work = watched_cell(tmp_path / "run", run, data, files=files)
    (first, own), (second, others) = together(tmp_path, work)
    assert first == second
    assert len(set(first)) == len(first) > 20
    assert own != others
    scores = json.loads((tmp_path / "run" / "result.json").read_text())["outcome"]["scores"]
    assert ("valid_stage1" in scores) is (task in ("ner", "sentiment"))


@pytest.mark.parametrize("task", ["ner", "sentiment"])
def test_two_processes_go_on_to_the_same_bits_wherever_a_stage_ends(tmp_path, task):
    run, data, files = tiny_of(task, tmp_path)
    together(tmp_path, cell(tmp_path / "whole", run, data, files=files))
    folder, source, kills = tmp_path / "parts", random.Random(1), 0
    for rows in (2, 7, 9, 11):
        pair = Pair(tmp_path, cell(folder, run, data, files=files, save_every=0.0))
        wait_for(
            lambda rows=rows: len(read_rows(folder)) >= rows or (folder / "result.json").exists()
        )
        pair.send(signal.SIGKILL, *source.choice([(0, 1), (0,), (1,)]))
        kills += min(pair.wait()) == -signal.SIGKILL
    assert kills
    together(tmp_path, cell(folder, run, data, files=files))
    assert result_of(folder) == result_of(tmp_path / "whole")


def test_masks_differ_from_process_to_process(tmp_path):
    """Every row of this text is the same, so that only masks can make a difference."""
    text = write_text(tmp_path / "text")
    (text / "train.txt").write_text("a bit of text with\n" * 40)
    data = TextData(batch=4, window=6)
    nothing = LanguageModel(embedding=6, hidden=7, init_range=0.3)
    for model, same in ((tiny_words().model, False), (nothing, True)):
        work = watched_cell(tmp_path / f"run {same}", tiny_words(data=data, model=model), text)
        (_, own), (_, others) = together(tmp_path, work)
        assert (own[0] == others[0]) is same
        assert (own == others) is same


def test_two_processes_do_what_one_does(tmp_path):
    """Without dropout, within rounding."""
    model = tiny_words().model.model_copy(
        update={"dropout_in": 0.0, "dropout_out": 0.0, "recurrent_dropout": ()}
    )
    text = write_text(tmp_path / "text")
    strided = TextData(batch=2, window=6, stride=3)
    for name, run, data in (
        ("words", tiny_words(model=model), text),
        ("strided", tiny_words(model=model, data=strided), text),
        ("order", tiny_run(model=tiny_model(), optim=Sgd(lr=0.5, clip_norm=0.1)), None),
    ):
        alone, shared = tmp_path / f"{name} alone", tmp_path / f"{name} shared"
        expected = run_cell(alone, run, data).outcome
        told, _ = together(tmp_path, cell(shared, run, data))
        assert told["scores"] == pytest.approx(expected.scores, rel=1e-5)
        one, other = read_rows(alone), read_rows(shared)
        assert [(r.update, r.split, r.lr) for r in one] == [
            (r.update, r.split, r.lr) for r in other
        ]
        assert [r.loss for r in one] == pytest.approx([r.loss for r in other], rel=1e-5)
        ours, theirs = (Checkpoints(f).newest(clean=False)[0] for f in (alone, shared))
        assert ours is not None
        assert theirs is not None
        for key, weight in ours.weights.items():
            torch.testing.assert_close(theirs.weights[key], weight, rtol=1e-4, atol=1e-6)


def test_the_leading_process_alone_writes_and_tells(tmp_path):
    leader, helper = together(tmp_path, cell(tmp_path / "run", tiny_run()))
    assert set(helper["scores"]) == {"train"}
    assert json.loads((tmp_path / "run" / "result.json").read_text())["outcome"] == leader
    again = together(tmp_path, cell(tmp_path / "run", tiny_run()))
    assert again == [leader, leader]


# -------------------------------------------------------------------------------------- going on


@pytest.fixture
def whole(tmp_path):
    """A run of two processes, uninterrupted, and its text."""
    text = write_text(tmp_path / "text", lines=120)
    together(tmp_path, cell(tmp_path / "whole", tiny_words(), text))
    return tmp_path / "whole", text


def test_a_signal_to_one_process_stops_both_and_they_go_on_to_the_same_bits(tmp_path, whole):
    folder, text = tmp_path / "parts", whole[1]
    for rows, rank in ((2, 0), (5, 1)):
        pair = Pair(tmp_path, cell(folder, tiny_words(), text))
        wait_for(lambda rows=rows: len(read_rows(folder)) >= rows)
        pair.send(signal.SIGTERM, rank)
        assert pair.wait() == [143, 143], pair.told()
    assert not (folder / "result.json").exists()
    together(tmp_path, cell(folder, tiny_words(), text))
    assert result_of(folder) == result_of(whole[0])


def killed_at_random(tmp_path, whole, times, seed):
    """Returns how many of the kills came before the run was through."""
    source, folder, kills = random.Random(seed), tmp_path / f"parts {seed}", 0
    for _ in range(times):
        wanted = len(read_rows(folder)) + source.randrange(3)
        pair = Pair(tmp_path, cell(folder, tiny_words(), whole[1], save_every=0.05))
        wait_for(
            lambda rows=wanted: len(read_rows(folder)) >= rows or (folder / "result.json").exists()
        )
        pair.send(signal.SIGKILL, *source.choice([(0, 1), (1, 0), (0,), (1,)]))
        kills += min(pair.wait()) == -signal.SIGKILL
    together(tmp_path, cell(folder, tiny_words(), whole[1]))
    assert result_of(folder) == result_of(whole[0])
    assert not list(folder.rglob("*.tmp"))
    return kills


def test_killed_processes_go_on_to_the_same_bits(tmp_path, whole):
    assert killed_at_random(tmp_path, whole, 5, 1) > 0


@pytest.mark.slow
def test_processes_killed_50_times_go_on_to_the_same_bits(tmp_path, whole):
    kills, seed = 0, 10
    while kills < 50:
        kills, seed = kills + killed_at_random(tmp_path, whole, 5, seed), seed + 1


def test_another_number_of_processes_is_refused(tmp_path, whole):
    (whole[0] / "result.json").unlink()
    with pytest.raises(BadInput, match="begun by 2 processes, .* as many, not with 1"):
        run_cell(whole[0], tiny_words(), whole[1])
    alone, asked = tmp_path / "alone", iter([False, True])
    with pytest.raises(Interrupted):
        run_cell(alone, tiny_words(), whole[1], stopping=lambda: next(asked))
    pair = Pair(tmp_path, cell(alone, tiny_words(), whole[1]))
    assert pair.wait() == [2, 2]
    assert all("begun by 1 processes" in told for told in pair.told())


# -------------------------------------------------------------------------------- nobody is left


def lost(message):
    return "another process of this run ended or hangs; the same command goes on" in message


@pytest.mark.parametrize("rank", [0, 1])
def test_one_killed_ends_the_other(tmp_path, rank):
    pair = Pair(tmp_path, cell(tmp_path / "run", endless_run()))
    wait_for(lambda: read_rows(tmp_path / "run"))
    pair.send(signal.SIGKILL, rank)
    assert pair.wait()[rank] == -signal.SIGKILL
    assert pair.exit_codes[1 - rank] == 1
    assert lost(pair.told()[1 - rank])


def test_one_that_hangs_ends_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(rooms, "_PATIENCE", rooms.timedelta(seconds=3))
    pair = Pair(tmp_path, cell(tmp_path / "run", endless_run()))
    wait_for(lambda: read_rows(tmp_path / "run"))
    pair.send(signal.SIGSTOP, 1)
    wait_for(lambda: (tmp_path / "told-0").exists())
    pair.send(signal.SIGKILL, 1)
    assert pair.wait() == [1, -signal.SIGKILL]
    assert lost(pair.told()[0])


@pytest.mark.parametrize("task", ["words", "order"])
def test_a_batch_that_cannot_be_shared_is_refused_by_both(tmp_path, task):
    run = tiny_words(data=TextData(batch=3, window=6))
    data = write_text(tmp_path / "text")
    if task == "order":
        run, data = tiny_run(data=DATA.model_copy(update={"batch": 1})), None
    pair = Pair(tmp_path, cell(tmp_path / "run", run, data))
    assert pair.wait() == [2, 2]
    assert all("cannot be shared by 2 processes" in told for told in pair.told())


def test_what_stops_the_leader_stops_the_other(tmp_path):
    with locked(tmp_path / "taken"):
        pair = Pair(tmp_path, cell(tmp_path / "taken", tiny_run()))
        assert pair.wait() == [2, 1]
    assert "is in use by" in pair.told()[0]
    assert lost(pair.told()[1])
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "step-000000008.tmp").write_text("")  # is no folder
    (folder / "lock").write_text(LOCK)
    pair = Pair(tmp_path, cell(folder, tiny_run()))
    assert pair.wait() == [4, 1]
    assert lost(pair.told()[1])


def test_what_stops_the_other_stops_the_leader(tmp_path):
    text = write_text(tmp_path / "text")

    def work():
        data = tmp_path / "nowhere" if os.environ["RANK"] == "1" else text
        return cell(tmp_path / "run", tiny_words(), data)()

    pair = Pair(tmp_path, work)
    assert pair.wait() == [1, 2]
    assert lost(pair.told()[0])


def test_divergence_is_found_by_both(tmp_path):
    run = tiny_run(model=tiny_model(init_range=1e38, output_init_range=1e38))
    pair = Pair(tmp_path, cell(tmp_path / "run", run))
    assert pair.wait() == [3, 3]
    assert json.loads((tmp_path / "run" / "failed.json").read_text())["kind"] == "diverged"


# ----------------------------------------------------------------------------------- where they are


def listening():
    """Addresses and ports that this process listens on, as the kernel writes them."""
    own = set()
    for handle in Path("/proc/self/fd").iterdir():
        try:
            own.add(os.readlink(handle))
        except FileNotFoundError:
            continue  # that of the listing itself
    rows = []
    for table in ("tcp", "tcp6"):
        rows += [
            line.split() for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]
        ]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own]


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="no /proc")
def test_processes_of_one_machine_listen_on_loopback_only(tmp_path):
    def work():
        with World() as world:
            world.sum([1.0])
            port = f":{int(os.environ['MASTER_PORT']):04X}"  # torch's own store
            places = [place for place in listening() if not place.endswith(port)]
            return os.environ["GLOO_SOCKET_IFNAME"], places

    for interface, places in together(tmp_path, work):
        assert interface.startswith("lo")
        assert places
        assert all(place.startswith("0100007F:") for place in places)


def test_the_device_is_the_gpu_of_the_local_rank(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert World().device == torch.device("cpu")  # a GPU is taken where it is asked for
    world = World("cuda")
    assert world.device == torch.device("cuda", 1)
    with pytest.raises(BadInput, match="this machine has 1 GPUs, one for each process"):
        world.__enter__()


@pytest.mark.parametrize(
    "variables",
    [{"WORLD_SIZE": "2"}, {"RANK": "x"}, {"RANK": "1"}, {"RANK": "2", "WORLD_SIZE": "2"}],
)
def test_variables_that_are_not_torchruns_are_told(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    told = ", ".join(f"{name}={value}" for name, value in variables.items())
    with pytest.raises(BadInput, match=f"{told}, which is not as torchrun sets them"):
        World()


def test_a_machine_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match="torch sees no NVIDIA GPU.*--device cpu"):
        World("cuda").__enter__()


@pytest.mark.parametrize("task", TASKS)
def test_an_update_reads_nothing_back_from_its_device(task, tmp_path):
    """On a device without values: whoever waits for one fails, as does who forgets to move some."""
    given = tiny_of(task, tmp_path, short=True)
    world = World()
    world.device = torch.device("meta")
    trained = prepare(given.run, given.data, given.files, world).task
    trained.begin(0)
    for step in range(2):
        part = trained.part(step)
        part.objective.backward()
        told = (part.nats, part.right)
        assert all(t.device == world.device for t in told if isinstance(t, torch.Tensor))
    assert {p.device for p in trained.net.parameters()} == {world.device}


@pytest.mark.parametrize("task", TASKS)
def test_on_a_gpu_the_librarys_kernels_run_what_is_dropped(task, tmp_path, monkeypatch):
    given = tiny_of(task, tmp_path, short=True)
    net = prepare(given.run, given.data, given.files, World()).task.net
    monkeypatch.setattr(nn.Module, "to", lambda net, device: net)
    layers = [m for m in net.modules() if isinstance(m, nn.RNNBase)]
    assert layers
    place(net, torch.device("cpu"))
    assert {layer.backend for layer in layers} == {"auto"}
    place(net, torch.device("cuda"))
    assert {layer.backend for layer in layers} == {"triton"}
    layers[0].recurrent_dropout = 0.0
    place(net, torch.device("cuda"))
    assert layers[0].backend == "auto"


def test_a_device_that_cannot_run_the_net_is_told(tmp_path, monkeypatch):
    """Such as a GPU where Triton is missing."""
    monkeypatch.setattr("recdrop.lab.tasks.place", lambda net, device: placed(net))

    def placed(net):
        net.lstm.backend = "triton"

    with pytest.raises(BadInput, match="--device cpu: backend='triton': .*; --device cpu trains"):
        run_cell(tmp_path, tiny_run())


# ---------------------------------------------------------------------------------------- torchrun


def torchrun(log, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), "--no-python"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        return subprocess.Popen(
            [*command, *map(str, arguments)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def ranks_of(agent):
    """Process ids of torchrun's workers, by rank."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == agent.pid:
                variables = (process / "environ").read_bytes().split(b"\0")
                (rank,) = (int(v[5:]) for v in variables if v.startswith(b"RANK="))
                found[rank] = int(process.name)
        except (OSError, ValueError):
            continue  # gone meanwhile, or not ready
    return found


def settings(run):
    """The command line's settings of a run of the tiny words."""
    data, model, schedule = run.data, run.model, run.schedule
    pairs = {
        "data.batch": data.batch,
        "data.window": data.window,
        "model.hidden": model.hidden,
        "model.embedding": model.embedding,
        "schedule.epochs": schedule.epochs,
        "schedule.log_every": schedule.log_every,
    }
    return [part for key, value in pairs.items() for part in ("--set", f"{key}={value}")]


def command(folder, text, run):
    return [RECDROP, "train", "word-lm", "--data", text, "--out", folder, *settings(run)]


@pytest.mark.slow
def test_the_command_line_under_torchrun(tmp_path):
    text, log = write_text(tmp_path / "text"), tmp_path / "log"
    folder, run = tmp_path / "run", tiny_words()
    process = torchrun(log, *command(folder, text, run))
    assert process.wait(120) == 0, log.read_text()
    assert log.read_text().count(f"Run: {folder}") == 1
    found, told = Checkpoints(folder).newest(clean=False)
    assert found is not None
    assert (found.progress.processes, found.progress.update, told) == (2, 51, [])
    assert {"0.rng", "1.rng", "1.carry.h"} <= found.state.keys()
    (folder / "result.json").unlink()
    alone = subprocess.run(
        [*map(str, command(folder, text, run))], capture_output=True, text=True, check=False
    )
    assert alone.returncode == 2
    assert "begun by 2 processes" in alone.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("rank", [0, 1])
def test_under_torchrun_all_are_gone_within_a_minute(tmp_path, number, rank):
    text, log, folder = write_text(tmp_path / "text"), tmp_path / "log", tmp_path / "run"
    run = tiny_words(schedule=Schedule(epochs=1_000_000, log_every=1))
    agent = torchrun(log, *command(folder, text, run))
    wait_for(lambda: len(read_rows(folder)) > 3, 120)
    workers = ranks_of(agent)
    assert set(workers) == {0, 1}
    begun = time.monotonic()
    os.kill(workers[rank], number)
    try:
        assert agent.wait(60) != 0
    finally:
        for pid in workers.values():
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGKILL)
                pytest.fail(f"process {pid} is still there after {time.monotonic() - begun:.0f} s")
    assert time.monotonic() - begun < 60


@pytest.mark.slow
def test_torchrun_that_is_stopped_stops_all_and_goes_on(tmp_path):
    text, log, folder = write_text(tmp_path / "text"), tmp_path / "log", tmp_path / "run"
    run = tiny_words(schedule=Schedule(epochs=40, log_every=5))
    process = torchrun(log, *command(tmp_path / "whole", text, run))
    assert process.wait(300) == 0, log.read_text()
    for number in (signal.SIGTERM, signal.SIGINT):
        rows = len(read_rows(folder))
        agent = torchrun(log, *command(folder, text, run))
        wait_for(lambda rows=rows: len(read_rows(folder)) > rows, 120)
        agent.send_signal(number)
        assert agent.wait(60) != 0
        assert "saved, the same command goes on" in log.read_text()
    assert torchrun(log, *command(folder, text, run)).wait(300) == 0
    assert result_of(folder) == result_of(tmp_path / "whole")
