"""What the documents say is true: code runs, links lead somewhere, the worked example is right."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from recdrop import rng
from tests.oracles import philox

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_the_example_of_the_readme_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    names = {}
    exec(code, names)  # noqa: S102  our own page
    assert names["logits"].shape == (20, 32, 9)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "has 0 characters, expected 352 or more"),
        (b"a" * 351, "has 351 characters, expected 352 or more"),
        (b"caf\xe9" * 200, "can't decode byte 0xe9 in position 3"),
        (None, "No such file"),
    ],
)
def test_the_example_refuses_a_file_in_one_line(content, told, tmp_path, monkeypatch, capsys):
    path = tmp_path / "own.txt"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["char_lm.py", str(path)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "examples" / "char_lm.py"), run_name="__main__")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_the_example_trains_on_the_least_that_it_takes(tmp_path, monkeypatch, capsys):
    path = tmp_path / "own.txt"
    path.write_bytes(b"ab" * 176)
    monkeypatch.setattr(sys, "argv", ["", str(path), "--hidden", "2", "--epochs", "1"])
    runpy.run_path(str(ROOT / "examples" / "char_lm.py"), run_name="__main__")
    assert capsys.readouterr().out.count("valid") == 2


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_worked_example_of_masks():
    page = (ROOT / "docs" / "masks.md").read_text()
    key = 0x0123456789ABCDEF
    assert f"key `{key:#018x}`" in page
    assert rng.threshold(0.25) == 3221225472
    words = philox.philox4x32_10((1, 5, 2, 29), (key & 0xFFFFFFFF, key >> 32))
    assert " ".join(f"{w:#010x}" for w in words) in page
    for t, label in ((5, "units 0-7 |"), (0, "one mask per sequence (t left out) |")):
        kept = rng.keep_mask(
            torch.tensor(key),
            0.25,
            "hidden",
            layer=3,
            direction=1,
            steps=torch.tensor([t]),
            rows=torch.tensor([2]),
            units=8,
        )
        bits = [str(int(k)) for k in kept.flatten()]
        assert f"{label} `{' '.join(bits[:4])}  {' '.join(bits[4:])}` |" in page


def test_the_equations_table_names_real_functions_and_tests():
    import recdrop

    page = (ROOT / "docs" / "equations.md").read_text()
    for name in re.findall(r"`memory\.(\w+)`", page):
        assert hasattr(recdrop.memory, name), name
    tests = "".join(p.read_text() for p in (ROOT / "tests").glob("test_*.py"))
    for file, name in re.findall(r"`(test_\w+)::(test_\w+)", page):
        assert (ROOT / "tests" / f"{file}.py").exists()
        assert f"def {name.rstrip('_')}" in tests, name
