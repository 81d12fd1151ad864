"""The comparison that ships with this version, `measured.json`: what reports quote beside an estimate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def measured() -> Mapping[str, Any]:
    """Return the shipped comparison, as `compare` made it."""
    text = files("hexpath_deploy.fidelity").joinpath("measured.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def complete(row: Mapping[str, Any]) -> bool:
    """Say whether a row has an estimate that leaves no operator out: any other says nothing of the error."""
    return "estimate" in row and not row["estimate"].get("missing_ops")
