"""Checkpoints: whole or absent, damage found before use (F2-F4, B4 of our list)."""

import json
import os
import random
import signal
import time

import pytest
import torch

from recdrop.lab.checkpoint import Checkpoint, Checkpoints, Damaged, seal
from recdrop.lab.errors import BadInput, StorageFailed
from recdrop.lab.records import Progress


def checkpoint(update, best=None, size=100):
    values = torch.arange(size, dtype=torch.float32) + update
    state = {"0.rng": torch.get_rng_state(), "optimiser.0.step": torch.tensor(float(update))}
    return Checkpoint({"w": values}, state, Progress(lr=0.1, update=update, best_update=best))


def same(one, other):
    return one.progress == other.progress and all(
        torch.equal(one.weights[k], other.weights[k]) for k in other.weights
    )


def test_what_was_saved_comes_back(tmp_path):
    kept = Checkpoints(tmp_path)
    assert kept.newest(clean=True) == (None, [])
    kept.save(checkpoint(3))
    found, told = kept.newest(clean=True)
    assert found is not None
    assert told == []
    assert same(found, checkpoint(3))
    assert found.state["optimiser.0.step"] == 3
    names = sorted(path.name for path in (kept.folder / "step-000000003").iterdir())
    assert names == ["manifest.json", "progress.json", "state.safetensors", "weights.safetensors"]


def test_the_newest_two_and_the_best_are_kept(tmp_path):
    kept = Checkpoints(tmp_path)
    for update in range(1, 7):
        kept.save(checkpoint(update, best=2 if update >= 2 else 1))
    names = sorted(path.name for path in kept.folder.iterdir())
    assert names == ["step-000000002", "step-000000005", "step-000000006"]


def test_saving_an_update_again_replaces_it(tmp_path):
    kept = Checkpoints(tmp_path)
    kept.save(checkpoint(4, size=10))
    kept.save(checkpoint(4, size=20))
    assert len(kept.load(4).weights["w"]) == 20


def damaged(tmp_path, way, seed):
    """A folder with two checkpoints of which the newer one is damaged."""
    tmp_path.mkdir()
    kept = Checkpoints(tmp_path)
    kept.save(checkpoint(1, size=3_000))
    kept.save(checkpoint(2, size=3_000))
    source = random.Random(seed)
    file = source.choice(sorted((kept.folder / "step-000000002").iterdir()))
    content = bytearray(file.read_bytes())
    if way == "flip":
        content[source.randrange(len(content))] ^= 1 << source.randrange(8)
    elif way == "cut":
        del content[source.randrange(len(content)) :]
    elif way == "zero":
        start = source.randrange(max(1, len(content) - 4096))
        block = content[start : start + 4096]
        if not any(block):
            block[:1] = content[start : start + 1] = b"\1"  # already zero: change it otherwise
        else:
            content[start : start + 4096] = bytes(len(block))
    if way == "gone":
        file.unlink()
    elif way == "swapped":
        other = kept.folder / "step-000000001" / file.name
        if file.name == "manifest.json":
            file.unlink()
        file.write_bytes(other.read_bytes())
    else:
        file.write_bytes(bytes(content))
    return kept, file


def check_damage(folder, way, seed):
    kept, file = damaged(folder, way, seed)
    found, told = kept.newest(clean=True)
    unharmed = found is not None and found.progress.update == 2
    if unharmed:  # only where the change meant nothing, such as a blank in the manifest's JSON
        assert file.name == "manifest.json"
        assert same(found, checkpoint(2, size=3_000))
    else:
        assert found is not None
        assert same(found, checkpoint(1, size=3_000))
        assert "step-000000002" in told[0]


DAMAGE = {"flip": 1_000, "cut": 300, "zero": 300, "gone": 20, "swapped": 20}  # full counts, F3


@pytest.mark.parametrize("way", DAMAGE)
def test_damage_is_found_and_the_one_before_is_taken(tmp_path, way):
    for seed in range(DAMAGE[way] // 10):
        check_damage(tmp_path / str(seed), way, seed)


@pytest.mark.slow
@pytest.mark.parametrize("way", DAMAGE)
def test_damage_is_found_every_time(tmp_path, way):
    for seed in range(DAMAGE[way]):
        check_damage(tmp_path / str(seed), way, 10_000 + seed)


def test_a_damaged_best_makes_a_checkpoint_useless(tmp_path):
    kept = Checkpoints(tmp_path)
    kept.save(checkpoint(1, best=1))
    kept.save(checkpoint(2, best=1))
    (kept.folder / "step-000000001" / "weights.safetensors").write_bytes(b"x")
    found, told = kept.newest(clean=False)
    assert found is None
    assert len(told) == 2
    assert all("step-000000001" in line for line in told)
    assert len(list(kept.folder.iterdir())) == 2  # nothing was removed
    kept.newest(clean=True)
    assert list(kept.folder.iterdir()) == []


def test_leftovers_of_interrupted_writes_are_removed(tmp_path):
    kept = Checkpoints(tmp_path)
    kept.save(checkpoint(1))
    (kept.folder / "step-000000002.tmp").mkdir()
    (kept.folder / "step-000000002.tmp" / "weights.safetensors").write_bytes(b"half")
    found, _ = kept.newest(clean=True)
    assert found is not None
    assert [path.name for path in kept.folder.iterdir()] == ["step-000000001"]


def resealed(path, **changes):
    """Change a manifest as one who knows its seal."""
    manifest = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(manifest | {"sha256": seal(manifest)}))


def test_a_newer_schema_is_refused_and_kept(tmp_path):
    kept = Checkpoints(tmp_path)
    kept.save(checkpoint(1))
    path = kept.folder / "step-000000001" / "manifest.json"
    resealed(path, schema_version=2, news="")
    with pytest.raises(BadInput, match="newer recdrop"):
        kept.newest(clean=True)
    assert path.exists()


@pytest.mark.parametrize("every", [31, pytest.param(1, marks=pytest.mark.slow)])
def test_every_bit_of_a_manifest_counts(tmp_path, every):
    kept = Checkpoints(tmp_path)
    kept.save(checkpoint(1))
    path = kept.folder / "step-000000001" / "manifest.json"
    content = path.read_bytes()
    meaning = json.loads(content)
    for bit in range(0, len(content) * 8, every):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(flipped))
        try:
            kept.load(1)
        except Damaged:
            continue
        assert json.loads(flipped) == meaning  # one blank for another


def test_a_checkpoint_that_was_written_before_manifests_named_their_run_is_read(tmp_path):
    kept = Checkpoints(tmp_path)
    kept.save(checkpoint(1))
    path = kept.folder / "step-000000001" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["run"], manifest["sha256"]
    path.write_text(json.dumps(manifest))
    assert same(kept.load(1), checkpoint(1))


@pytest.mark.parametrize("content", ["", "[1]", "[" * 100_000, '{"a": ' + "9" * 5_000 + "}", "{}"])
def test_a_manifest_that_is_none_is_damage(tmp_path, content):
    kept = Checkpoints(tmp_path)
    kept.save(checkpoint(1))
    (kept.folder / "step-000000001" / "manifest.json").write_text(content)
    with pytest.raises(Damaged, match="step-000000001"):
        kept.load(1)


@pytest.mark.parametrize("name", ["config.json", "data.json"])
def test_a_checkpoint_of_another_run_is_refused_and_kept(tmp_path, name):
    (tmp_path / name).write_text("one")
    Checkpoints(tmp_path).save(checkpoint(1))
    assert Checkpoints(tmp_path).newest(clean=True)[0] is not None
    (tmp_path / name).write_text("other")
    with pytest.raises(BadInput, match=r"step-000000001: it is of another run, or config\.json"):
        Checkpoints(tmp_path).newest(clean=True)
    (tmp_path / name).write_text("one")
    assert Checkpoints(tmp_path).newest(clean=True)[0] is not None


def test_a_checkpoint_under_another_ones_name_is_damaged(tmp_path):
    kept = Checkpoints(tmp_path)
    kept.save(checkpoint(1))
    (kept.folder / "step-000000001").rename(kept.folder / "step-000000009")
    with pytest.raises(Damaged, match=r"step-000000009: what is in it is of update 1"):
        kept.load(9)


def test_the_newest_but_one_keeps_the_best_that_it_builds_on(tmp_path):
    kept = Checkpoints(tmp_path)
    for update, best in ((2, 2), (3, 2), (4, 2), (5, 5)):
        kept.save(checkpoint(update, best=best))
    (kept.folder / "step-000000005" / "state.safetensors").unlink()
    found, _ = kept.newest(clean=True)
    assert found is not None
    assert same(found, checkpoint(4, best=2))
    kept.save(checkpoint(5, best=5))
    kept.save(checkpoint(6, best=5))
    names = sorted(path.name for path in kept.folder.iterdir())
    assert names == ["step-000000005", "step-000000006"]


def test_a_huge_header_or_a_pickle_is_damage_not_a_crash(tmp_path):
    kept = Checkpoints(tmp_path)
    kept.save(checkpoint(1))
    weights = kept.folder / "step-000000001" / "weights.safetensors"
    for content in (b"\xff" * 8 + b"{}", b"\x80\x04cos\nsystem\n(S'true'\ntR.", b""):
        weights.write_bytes(content)
        with pytest.raises(Damaged, match=r"weights\.safetensors"):
            kept.load(1)


def test_a_full_disk_is_told_with_what_is_needed_and_the_old_one_stays(tmp_path, monkeypatch):
    kept = Checkpoints(tmp_path)
    kept.save(checkpoint(1))

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(StorageFailed, match=r"No space left .*bytes needed, .*bytes free"):
            kept.save(checkpoint(2))
    found, told = kept.newest(clean=True)
    assert found is not None
    assert same(found, checkpoint(1))
    assert told == []


def saver(folder):
    """A process that saves one checkpoint after the other; its number."""
    child = os.fork()
    if child:
        return child
    try:
        kept = Checkpoints(folder)
        for update in range(1, 10**6):
            kept.save(checkpoint(update, best=update - update % 7 or None, size=20_000))
    finally:
        os._exit(1)


def kills(tmp_path, times):
    for number in range(times):
        folder = tmp_path / str(number)
        folder.mkdir()
        child = saver(folder)
        time.sleep(0.02 + random.Random(number).random() * 0.1)
        before = max(Checkpoints(folder)._updates(), default=0)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        found, told = Checkpoints(folder).newest(clean=True)
        assert told == []
        assert not list(folder.rglob("*.tmp"))
        assert (found.progress.update if found else 0) >= before


def test_kill_9_inside_a_save_loses_nothing_that_was_there(tmp_path):
    kills(tmp_path, 20)


@pytest.mark.slow
def test_kill_9_inside_a_save_200_times(tmp_path):
    kills(tmp_path, 200)
