"""How runs are changed, compared, and refused with every fault at once."""

import json
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from recdrop.lab.config import Record, Run, TaskName, parse_run
from recdrop.lab.errors import BadInput

_TAGS = {*get_args(TaskName), "sgd", "adam", "rmsprop", "plateau", "exponential"}


def changed(run: Run, *layers: dict[str, Any]) -> Run:
    """A run with some values replaced, checked as a whole.

    Args:
        run: The start.
        layers: Nested tables of replacements, later ones over earlier ones. Where a table changes
            its ``kind``, nothing of the old kind is kept.

    Raises:
        BadInput: With every fault, its place and what was given.
    """
    values = run.model_dump(mode="json")
    for layer in layers:
        values = _merged(values, layer)
    try:
        return parse_run(json.dumps(values))
    except ValidationError as error:
        raise BadInput("\n".join(faults(error, run))) from None


def settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Nested tables of ``key.of.a.table=value``, each value TOML, or else taken as a string.

    Raises:
        BadInput: Some are no such pairs; all are told.
    """
    import tomllib

    tables: dict[str, Any] = {}
    told = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        path = [part.strip() for part in key.split(".")]
        if not equals or not all(path):
            told.append(f"--set {pair}: expected KEY=VALUE, such as model.hidden=64")
            continue
        try:
            parsed = tomllib.loads(f"value = {value}")
            parsed = parsed["value"] if len(parsed) == 1 else value
        except (ValueError, RecursionError):  # no TOML, or a number too long
            parsed = value.strip()
        table: Any = parsed
        for part in reversed(path):
            table = {part: table}
        tables = _merged(tables, table)
    if told:
        raise BadInput("\n".join(told))
    return tables


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            kind = before.get("kind")
            # Pairs of the command line come in any order: without a kind yet nothing is dropped.
            another = kind is not None and value.get("kind", kind) != kind
            merged[key] = value if another else _merged(before, value)
        else:
            merged[key] = value
    return merged


def ending_in(key: str, run: Run) -> list[str]:
    """Settings, such as ``model.hidden``, that are or end in a key."""
    places = []
    for name, value in run.model_dump(mode="json", exclude={"task", "table", "scale"}).items():
        places += [f"{name}.{part}" for part in value] if isinstance(value, dict) else [name]
    return [place for place in places if f".{place}".endswith(f".{key}")]


def faults(error: ValidationError, run: Run | None = None) -> list[str]:
    """Every fault of a record as one line: place, what is wrong, what was given.

    Args:
        error: Of the record.
        run: One whose settings may have been meant.
    """
    lines = []
    for fault in error.errors(include_url=False):
        place = ".".join(str(part) for part in fault["loc"] if part not in _TAGS)
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "union_tag_not_found":
            named = fault.get("ctx", {}).get("discriminator", "kind").strip("'")
            message = f"no {named} is named"
        if fault["type"] == "extra_forbidden":
            meant = _meant(place, run)
            message = "no such key" + (f", did you mean {' or '.join(meant)}?" if meant else "")
        complete = fault["type"] == "value_error" or isinstance(fault["input"], dict | Record)
        told = message if complete else f"{message}, got {_short(fault['input'])}"
        lines.append(f"{place}: {told}" if place else told)
    return lines


def _meant(place: str, run: Run | None) -> list[str]:
    """Keys spelt so elsewhere in the run, or else one spelt nearly so."""
    key = place.rpartition(".")[2]
    close = get_close_matches(key, _known_keys(), n=1)
    elsewhere = ending_in(close[0], run) if close and run is not None else []
    if elsewhere and (close == [key] or place == key):
        return elsewhere
    return [one for one in close if one != key]


def _short(value: Any) -> str:
    told = repr(value)
    return told if len(told) <= 60 else f"{told[:57]}..."


def _known_keys() -> Sequence[str]:
    def below(record: type[BaseModel]) -> Iterable[str]:
        yield from record.model_fields
        for child in record.__subclasses__():
            yield from below(child)

    return sorted(set(below(Record)))


def differences(stored: Run, asked: Run) -> list[str]:
    """What differs between two runs, one line for each field."""
    old, new = _flat(stored.model_dump(mode="json")), _flat(asked.model_dump(mode="json"))
    return [
        f"{place}: stored {old.get(place)!r}, asked {new.get(place)!r}"
        for place in sorted(old.keys() | new.keys())
        if old.get(place) != new.get(place)
    ]


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {place: value}
    parts = [_flat(item, f"{place}.{key}" if place else str(key)) for key, item in items]
    return {k: v for part in parts for k, v in part.items()}
