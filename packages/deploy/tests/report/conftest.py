"""The fixture run as a folder, and its record as a value that a test may change."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import fixture_run


@pytest.fixture
def record() -> dict[str, Any]:
    return fixture_run.results()


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    fixture_run.write_run(folder)
    return folder
