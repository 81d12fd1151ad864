from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from made import Made, needs_toolchain, record


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Never the user's cache; what one test compiled serves the others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEXPATH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


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


@pytest.fixture(scope="session")
def compiled(made: Made) -> Path:
    """The w8a8 model, compiled with quantized I/O."""
    from hexpath_deploy.cli import main

    needs_toolchain()
    arguments = ["compile", str(made.model), "--target", "qcs9075", "--out", str(made.compiled)]
    assert main(arguments) == 0
    return made.compiled
