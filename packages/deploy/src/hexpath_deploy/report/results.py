"""Reading `results.json` and holding it against its schema.

The schema is `hexpath_deploy/schema/results-1.json` (JSON Schema, draft 2020-12). What a schema cannot say
(rows unique, names that refer to rows, finite numbers) is checked here as well.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from hexpath_deploy.errors import ResultsError

SCHEMA_VERSION = 1


@cache
def schema() -> dict[str, Any]:
    """The schema of the record, as published with this package."""
    text = (
        resources.files("hexpath_deploy").joinpath(f"schema/results-{SCHEMA_VERSION}.json").read_text("utf-8")
    )
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def load(path: Path) -> dict[str, Any]:
    """Read and check a `results.json`.

    Raises:
        ResultsError: there is no such file, it is no JSON, or a field is wrong.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultsError(f"no such file: {path}; `hexpath-deploy record` writes it") from None
    except (IsADirectoryError, PermissionError) as error:
        raise ResultsError(f"{path} cannot be read: {error.strerror}; name the results.json itself") from None
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path} is no UTF-8 text (byte {error.start}); write it again") from None
    except json.JSONDecodeError as error:
        raise ResultsError(f"{path}, line {error.lineno}: no JSON ({error.msg}); write it again") from None
    try:
        validate(results)
    except ResultsError as error:
        raise ResultsError(f"{path}: {error}") from None
    return dict(results)


def validate(results: Any) -> None:
    """Check a record; the message names the field, what stands there and what was expected.

    Raises:
        ResultsError: on the first field that is wrong.
    """
    # jsonschema takes 0.2 s to import: not in --help.
    from jsonschema import Draft202012Validator

    _check_version(results)
    validator = Draft202012Validator(schema())
    found = sorted(
        validator.iter_errors(results), key=lambda error: [str(part) for part in error.absolute_path]
    )
    if found:
        raise ResultsError(_explain(found[0]))
    _check_finite(results)
    _check_rows(results)
    _check_references(results)


def _check_version(results: Any) -> None:
    if not isinstance(results, dict):
        raise ResultsError(
            f"the record is a {type(results).__name__}; expected an object with schema, results, ..."
        )
    version = results.get("schema")
    if version is not None and version != SCHEMA_VERSION:
        raise ResultsError(
            f"schema is {version!r}; this version of hexpath-deploy reads schema {SCHEMA_VERSION}"
        )


def field(path: Sequence[str | int]) -> str:
    """`results[2].latency.value_ms` for `("results", 2, "latency", "value_ms")`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the record"


def _explain(error: Any) -> str:
    where = field(list(error.absolute_path))
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        return f"{where} has an unknown field {_unknown(error)}"
    if error.instance is None:
        return f"{where} is null; leave out what did not run"
    if error.validator == "required":
        return f"{where} lacks {error.message.split(' is a ')[0]}"
    if error.validator == "anyOf":
        return f"{where} has neither metrics nor latency; leave out a row whose stages did not run"
    if error.validator == "enum":
        return f"{where} is {error.instance!r}; expected one of {', '.join(map(str, error.validator_value))}"
    return f"{where}: {error.message[:200]}"


def _unknown(error: Any) -> str:
    known = list(error.schema.get("properties", {}))
    name = next(key for key in error.instance if key not in known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"{name!r}; did you mean {near[0]!r}?" if near else f"{name!r}; known: {', '.join(sorted(known))}"


def _numbers(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], float]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, (*path, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _numbers(item, (*path, index))
    elif isinstance(value, float):
        yield path, value


def _check_finite(results: Mapping[str, Any]) -> None:
    for path, value in _numbers(results, ()):
        if not math.isfinite(value):
            raise ResultsError(f"{field(path)} is {value}; a figure is finite or left out")


def _check_rows(results: Mapping[str, Any]) -> None:
    seen: dict[tuple[str, str], int] = {}
    for index, row in enumerate(results["results"]):
        key = (row["id"], row.get("evaluated_on", "nothing"))
        if key in seen:
            raise ResultsError(
                f"results[{index}] repeats results[{seen[key]}]: id {key[0]!r} evaluated on {key[1]}"
            )
        seen[key] = index
        bounds = row.get("latency", {})
        low, high = bounds.get("low_ms", 0.0), bounds.get("high_ms", math.inf)
        if bounds and not low <= bounds["value_ms"] <= high:
            raise ResultsError(
                f"results[{index}].latency: {bounds['value_ms']} ms lies outside {low} to {high} ms"
            )


def _check_references(results: Mapping[str, Any]) -> None:
    ids = [row["id"] for row in results["results"]]
    named = [(name, results[name]) for name in ("headline", "against") if name in results]
    for index, sample in enumerate(results.get("samples", [])):
        named += [
            (f"samples[{index}].boxes[{n}].id", box["id"]) for n, box in enumerate(sample.get("boxes", []))
        ]
    for index, entry in enumerate(results.get("masks", {}).get("images", [])):
        named += [(f"masks.images[{index}].found[{n}].id", one["id"]) for n, one in enumerate(entry["found"])]
    for where, name in named:
        if name not in ids:
            near = difflib.get_close_matches(name, ids, n=1)
            hint = (
                f"did you mean {near[0]!r}?"
                if near
                else f"there are {', '.join(dict.fromkeys(ids)) or 'none'}"
            )
            raise ResultsError(f"{where} names no row: {name!r}; {hint}")
