"""What the tests share; the fixtures themselves stand in conftest.py."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class Made:
    """What a session makes once: models, data, a recording, and a compiled artifact."""

    folder: Path
    float_model: Path
    model: Path
    model16: Path
    coco: Path
    recorded: Path
    compiled: Path


def record(model: Path, path: Path, *, count: int = 2) -> Path:
    """Write a recorded pair as an exporting stage does; here ONNX Runtime plays the simulation."""
    import squares

    from hexpath_deploy.model import read_model
    from hexpath_deploy.ort import OrtNetwork

    images = squares.batch(count)
    network = OrtNetwork(read_model(model), threads=1)
    rows = [network.run(image[None]) for image in images]
    np.savez(path, images=images, **{name: np.concatenate([row[name] for row in rows]) for name in rows[0]})
    return path


def needs_toolchain() -> None:
    """Skip where Qualcomm's toolchain does not exist."""
    from hexpath_deploy.errors import ToolchainMissingError
    from hexpath_deploy.hexagon.toolchain import require

    try:
        require()
    except ToolchainMissingError as error:
        pytest.skip(str(error))


def read(path: Path) -> dict[str, Any]:
    """Read JSON."""
    return json.loads(path.read_text())
