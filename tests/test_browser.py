"""SegFormer in a browser: the folder of `hexpath-models browser`, and what Chromium computes from it.

The second part needs npm with its registry and Chromium; it is skipped where one of them is missing.
"""

from __future__ import annotations

import base64
import http.server
import io
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from hexpath_models.browser.compare import class_map
from hexpath_models.browser.folder import INPUT

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "packages" / "models" / "tests"))
from made_masks import write_checkpoint, write_masks  # noqa: E402

FILES = {"fp32": "model.onnx", "q8": "model_quantized.onnx"}


def hexpath(*argv: object) -> None:
    tool = Path(sys.executable).with_name(str(argv[0]))
    done = subprocess.run([tool, *map(str, argv[1:])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SegFormer with random weights at 96x128, float and w8a8."""
    work = tmp_path_factory.mktemp("browser")
    data = write_masks(work / "data")
    checkpoint = write_checkpoint(work / "model.safetensors", model="segformer_b0")
    given = ("--data", data, "--option", "imgsz=96x128", "--out")
    hexpath(
        "hexpath-models", "export", checkpoint, "--data", data, "--imgsz", "96x128", "--out", work / "float"
    )
    plan = ("--plan", "w8a8", "--method", "minmax", "--calibration", "8")
    hexpath(
        "hexpath-quant", "ptq", "--task", "semantic", "--checkpoint", checkpoint, *plan, *given, work / "int8"
    )
    models = (work / "float" / "model.onnx", work / "int8" / "model.onnx")
    hexpath("hexpath-models", "browser", *models, "--data", data, "--images", 2, "--out", work / "out")
    return work / "out"


def test_the_folder_is_what_transformers_reads(folder: Path) -> None:
    from transformers import AutoConfig, AutoImageProcessor

    place = folder / "models" / "segformer_b0"
    config = AutoConfig.from_pretrained(place)
    assert (config.model_type, config.id2label) == ("segformer", {0: "ground", 1: "red", 2: "blue"})
    image = Image.open(folder / "sample.png")
    assert image.size == (128, 96)
    pixels = AutoImageProcessor.from_pretrained(place, use_fast=False)(image, return_tensors="np")[
        "pixel_values"
    ]
    np.testing.assert_allclose(pixels[0], np.asarray(image).transpose(2, 0, 1) / 255, atol=1e-6)
    for name in FILES.values():
        session = onnxruntime.InferenceSession(place / "onnx" / name)
        assert [value.name for value in (*session.get_inputs(), *session.get_outputs())] == [INPUT, "logits"]


def test_what_it_tells_of_both_files(folder: Path) -> None:
    told = json.loads((folder / "browser.json").read_text())
    assert told["model"] == "segformer_b0"
    assert told["files"]["model_quantized.onnx"]["bytes"] < 0.4 * told["files"]["model.onnx"]["bytes"]
    assert all(facts["cpu_ms"] > 0 for facts in told["files"].values())
    assert 0.5 < told["equal_pixels"] <= 1


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """The folder, with Transformers.js in it, served on localhost."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm on this machine: the page is not run")
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0", "--fetch-timeout=20000"]
    done = subprocess.run([npm, "install", *options], cwd=folder, capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"npm brings no Transformers.js here: {done.stderr.strip().splitlines()[-1:]}")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/index.html"
        server.shutdown()


@pytest.mark.parametrize("dtype", FILES)
def test_chromium_finds_the_classes_that_onnx_runtime_finds(
    folder: Path, address: str, tmp_path: Path, dtype: str
) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine: the page is not run")
    quiet = [
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    # No other machine can be reached: every name resolves to nothing.
    alone = [
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={tmp_path}/profile",
    ]
    shown = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=900000", "--dump-dom"]
    command = [chromium, *shown, *quiet, *alone, f"{address}?dtype={dtype}"]
    page = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    assert 'data-state="done"' in page, re.findall(r'<p id="status".*?</p>', page)
    found = re.search(r'id="save"[^>]*href="data:image/png;base64,([^"]+)"', page)
    assert found is not None
    classes = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB"))[..., 0]
    session = onnxruntime.InferenceSession(folder / "models" / "segformer_b0" / "onnx" / FILES[dtype])
    image = np.asarray(Image.open(folder / "sample.png")).transpose(2, 0, 1)
    expected = class_map(session, image, input_name=INPUT)
    assert len(np.unique(expected)) > 1, "one class everywhere would prove nothing"
    assert (classes == expected).mean() > 0.995
