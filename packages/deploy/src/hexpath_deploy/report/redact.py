"""Keeps secrets of the environment and of configurations out of every file that is written."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

SECRET_NAME = re.compile(r"(^|[_.-])(api_?key|key|token|secret|password|passwd|credentials?)$", re.IGNORECASE)
REMOVED = "[removed]"
# Shorter values (a "1", a "true") would take innocent text with them.
SHORTEST = 8


def secrets(environ: Mapping[str, str] | None = None) -> list[str]:
    """Values of environment variables whose names say that they are secret, longest first."""
    every = os.environ if environ is None else environ
    found = {value for name, value in every.items() if SECRET_NAME.search(name) and len(value) >= SHORTEST}
    return sorted(found, key=len, reverse=True)


def redact_text(text: str, *, environ: Mapping[str, str] | None = None) -> str:
    """`text` without the values of secret environment variables."""
    for value in secrets(environ):
        text = text.replace(value, REMOVED)
    return text


def redact(value: Any, *, environ: Mapping[str, str] | None = None) -> Any:
    """A copy of JSON-like `value` without fields of secret names and without secret values."""
    if isinstance(value, Mapping):
        return {
            redact_text(str(key), environ=environ): REMOVED
            if SECRET_NAME.search(str(key)) and isinstance(item, str)
            else redact(item, environ=environ)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item, environ=environ) for item in value]
    return redact_text(value, environ=environ) if isinstance(value, str) else value
