"""Facts of the dataset card, for the report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hexpath_deploy.errors import ReportError

MOST_FACTS = 40


def facts(dataset: Mapping[str, Any], *, root: Path) -> list[tuple[str, str]]:
    """Name and value of what the card states; lists and nested tables are summed up, at most 40 in all.

    Raises:
        ReportError: the card is missing or no JSON object.
    """
    if "card" not in dataset:
        return []
    path = root / dataset["card"]
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"dataset.card: {path} cannot be read ({error})") from None
    if not isinstance(card, dict):
        raise ReportError(f"dataset.card: {path} holds a {type(card).__name__}; expected an object")
    return [pair for pair in _flat(card, prefix="") if pair[0] != "fingerprint"][:MOST_FACTS]


def _flat(value: Mapping[str, Any], *, prefix: str) -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(item, Mapping):
            scalars = all(not isinstance(inner, Mapping | list) for inner in item.values())
            if scalars and item:
                yield (
                    name,
                    ", ".join(f"{inner}: {_text(figure)}" for inner, figure in list(item.items())[:12]),
                )
            else:
                yield from _flat(item, prefix=f"{name}, ")
        elif isinstance(item, list):
            short = len(item) <= 6 and all(isinstance(inner, str | int | float) for inner in item)
            yield name, ", ".join(map(_text, item)) if short and item else f"{len(item)} entries"
        elif item is not None:
            yield name, _text(item)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
