"""The lab: the paper's experiments as runnable values; uses only the library's public names."""

from importlib.util import find_spec

_NEEDED = ("cyclopts", "jinja2", "matplotlib", "numpy", "pydantic", "rich", "safetensors", "scipy")

if missing := [name for name in _NEEDED if find_spec(name) is None]:
    raise ImportError(
        f"recdrop's lab needs {', '.join(missing)}, which the library alone does not: "
        "pip install 'recdrop[lab]'"
    )
