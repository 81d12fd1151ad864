"""Finished results on disk, one JSON line each, so that an interrupted analysis goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """Results by key; a journal of another question is begun anew.

    Args:
        path: of the file.
        question: fingerprint of everything that the results depend on.
    """

    def __init__(self, path: Path, *, question: str) -> None:
        self.path = path
        self.results: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self._read(question):
            self.results = {}
            path.write_text(json.dumps({"question": question}) + "\n")

    def __contains__(self, key: str) -> bool:
        return key in self.results

    def __getitem__(self, key: str) -> Any:
        return self.results[key]

    def add(self, key: str, result: Any) -> None:
        """Write one result, at once."""
        self.results[key] = result
        with self.path.open("a") as stream:
            stream.write(json.dumps({"key": key, "result": result}) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _read(self, question: str) -> bool:
        """Take over what is there; a line that a kill cut off ends the reading, and is cut away."""
        if not self.path.exists():
            return False
        whole = b""
        for number, line in enumerate(self.path.read_bytes().splitlines(keepends=True)):
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if number == 0 and entry.get("question") != question:
                return False
            if number:
                self.results[entry["key"]] = entry["result"]
            whole += line
        if whole:
            self.path.write_bytes(whole)
        return bool(whole)
