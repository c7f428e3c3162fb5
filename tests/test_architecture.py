"""Who may import whom, what is public, and what must not be in the code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import recdrop

SOURCE = Path(recdrop.__file__).parent

# Left may be imported by right, never the other way round.
ORDER = [
    {"_types", "errors", "transforms"},
    {"dropout"},
    {"rng"},
    {"equations"},
    {"backends"},
    {"checks"},
    {"functional"},
    {"layers"},
    {"conversion", "memory", "monte_carlo", "testing"},
    {"__init__"},
    {"__main__", "lab"},
]
LAB_ORDER = [
    {"environment", "errors"},
    {"config", "console", "signals", "world"},
    {"label_scores", "settings"},
    {"records", "storage", "vocabulary"},
    {"files"},
    {"labelled_tables"},
    {"checkpoint", "conll", "labelled", "output_layer", "text", "tweets", "vector_formats"},
    {"vectors"},
    {"skipgram", "words"},
    {"tasks"},
    {"generation", "train"},
    {"progress", "runs"},
    {"trained", "paper"},
    {"predict"},
    {"drawing", "results"},
    {"figures", "wording"},
    {"other_runs"},
    {"calibration", "report", "session", "sweep", "worker"},
    {"labelling"},
    {"commands", "reproduce", "vector_commands"},
    {"cli"},
]


def room(parts):
    """The top-level room of a module path below recdrop."""
    return parts[0] if parts else "__init__"


def modules():
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        yield path, parts[:-1] if parts[-1] == "__init__" else parts


def imports(path):
    """Everything that a file imports, dotted."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:  # relative: a neighbour
                continue
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if _is_module(whole) else str(node.module)


def _is_module(dotted):
    path = SOURCE.parent / Path(*dotted.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def rank(order, name):
    (found,) = (i for i, rooms in enumerate(order) if name in rooms)
    return found


def test_import_directions():
    wrong = []
    for path, parts in modules():
        mine = rank(ORDER, room(parts))
        for name in imports(path):
            head, *rest = name.split(".")
            if head != "recdrop" or not rest or rest[0] == room(parts):
                continue
            if rank(ORDER, rest[0]) >= mine:
                wrong.append(f"{path.relative_to(SOURCE)} imports {name}")
    assert wrong == []


def test_import_directions_inside_the_lab():
    wrong = []
    for path, parts in modules():
        if parts[:1] != ("lab",) or len(parts) == 1:
            continue
        mine = rank(LAB_ORDER, parts[1])
        for name in imports(path):
            inside = name.split(".")[2:3]
            other = name.startswith("recdrop.lab.") and inside[0] != parts[1]
            if other and rank(LAB_ORDER, inside[0]) >= mine:
                wrong.append(f"{path.relative_to(SOURCE)} imports {name}")
    assert wrong == []


def test_the_lab_uses_only_public_names_of_the_library():
    wrong = []
    for path, parts in modules():
        if parts[:1] == ("lab",):
            wrong += [
                f"{path.relative_to(SOURCE)} imports {name}"
                for name in imports(path)
                if name.split(".")[0] == "recdrop" and name.split(".")[1:2] not in ([], ["lab"])
            ]
    assert wrong == []


def test_imports_are_absolute():
    for path, _ in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.ImportFrom) or node.level == 0, path


def test_equations_use_only_torch_and_types():
    for path in (SOURCE / "equations").glob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] == "torch" or name.startswith(
                ("recdrop._types", "recdrop.equations")
            ), f"{path.name} imports {name}"


def test_oracles_import_nothing_of_ours():
    for path in (Path(__file__).parent / "oracles").glob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] not in ("recdrop", "torch"), f"{path.name} imports {name}"


def test_the_library_needs_torch_only():
    for path, parts in modules():
        allowed = {"torch", "recdrop", "jaxtyping"} | sys.stdlib_module_names
        if parts[:2] == ("backends", "triton"):
            allowed |= {"triton"}
        if parts[:1] != ("lab",):
            for name in imports(path):
                assert name.split(".")[0] in allowed, f"{path.name} imports {name}"


def test_it_imports_without_jaxtyping():
    code = "import sys; sys.modules['jaxtyping'] = None; import recdrop; recdrop.LSTM(2, 3)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_api():
    assert sorted(recdrop.__all__) == [
        "BackendUnsupported",
        "GRU",
        "LSTM",
        "RNN",
        "RecurrentDropout",
        "__version__",
        "convert",
        "explain_backend",
        "from_torch",
        "functional",
        "hold_masks",
        "mc_dropout",
        "memory",
        "rng",
        "testing",
        "to_torch",
    ]
    for name in recdrop.__all__:
        assert getattr(recdrop, name) is not None
    assert dir(recdrop) == sorted(recdrop.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Lstm'"):
        recdrop.Lstm  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]  it must fail


def test_the_stub_names_the_same_api():
    stub = ast.parse((SOURCE / "__init__.pyi").read_text())
    names = {a.asname for n in stub.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert names | {"__version__"} == set(recdrop.__all__)


def test_triton_is_not_imported_before_a_kernel_runs():
    code = """
import sys
sys.modules["triton"] = None
import torch, recdrop
layer = recdrop.LSTM(2, 3, recurrent_dropout=0.4)
layer(torch.zeros(2, 1, 2))
recdrop.explain_backend(layer, torch.zeros(2, 1, 2))
assert "recdrop.backends.triton.kernels" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_does_not_import_torch():
    code = "import sys, recdrop; assert 'torch' not in sys.modules; recdrop.LSTM"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_dangerous_or_loose_in_the_source():
    banned = {"pickle", "marshal", "shelve", "yaml"}
    for path, _ in modules():
        tree = ast.parse(path.read_text())
        assert banned.isdisjoint(n.split(".")[0] for n in imports(path)), path
        for node in ast.walk(tree):
            assert not isinstance(node, ast.Assert), f"{path}:{node.lineno} assert"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), f"{path}:{node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                loads = node.func.attr == "load" and getattr(node.func.value, "id", "") == "torch"
                safe = any(k.arg == "weights_only" for k in node.keywords)
                assert not loads or safe, f"{path}:{node.lineno} torch.load"


def test_no_environment_switches_in_the_library():
    for path, parts in modules():
        if parts[:1] != ("lab",):
            assert "environ" not in path.read_text(), path


def test_the_doctor_reports_without_extras():
    code = (
        "import sys\n"
        "for m in ('cyclopts', 'pydantic', 'matplotlib', 'rich', 'numpy'): sys.modules[m] = None\n"
        "import runpy; runpy.run_module('recdrop', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True
    )
    for part in ("recdrop", "torch", "threads", "GPU", "stock", "reference"):
        assert part in done.stdout
