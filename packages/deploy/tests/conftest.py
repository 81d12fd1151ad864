from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))


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


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Models and data of the squares detector; `compiled` is filled by the fixture of that name."""
    import squares
    from onnxruntime.quantization import QuantType

    folder = tmp_path_factory.mktemp("made, it's ö")
    float_model = squares.save_raw(folder / "float.onnx")
    model = squares.quantize(float_model, folder / "w8a8.onnx")
    model16 = squares.quantize(float_model, folder / "w8a16.onnx", activations=QuantType.QUInt16)
    recorded = record(model, folder / "recorded.npz")
    return Made(
        folder,
        float_model,
        model,
        model16,
        squares.save_scenes(folder / "data"),
        recorded,
        folder / "compiled",
    )


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


@pytest.fixture(scope="session")
def compiled(made: Made) -> Path:
    """The w8a8 model, compiled with quantized I/O."""
    from hexpath_deploy.cli import main

    needs_toolchain()
    arguments = ["compile", str(made.model), "--target", "qcs9075", "--out", str(made.compiled)]
    assert main(arguments) == 0
    return made.compiled


def needs_toolchain() -> None:
    """Skip where Qualcomm's toolchain does not exist."""
    from hexpath_deploy.errors import ToolchainMissingError
    from hexpath_deploy.hexagon.toolchain import require

    try:
        require()
    except ToolchainMissingError as error:
        pytest.skip(str(error))


def read(path: Path) -> dict[str, object]:
    """Read JSON."""
    return json.loads(path.read_text())
