"""Reading what Qualcomm's tools write; recorded/README.md says which file is recorded, and which made up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from hexpath_deploy.board import netrun, ortqnn, viewer
from hexpath_deploy.board.raw import find_raw, read_raw, tensor_of
from hexpath_deploy.board.settings import BoardSettings
from hexpath_deploy.errors import BoardRunError

RECORDED = Path(__file__).parent / "recorded"


def test_profile_viewer() -> None:
    text = (RECORDED / "qnn-profile-viewer.csv").read_text()
    settings = BoardSettings(device="adb", warm_up=1, iterations=2)
    found = netrun.measured(text, settings=settings, what="p.csv", tools=netrun.version_of(text))
    assert found.times_ms == (2.952, 3.052), "the warm-up does not count"
    assert found.accelerator_ms == pytest.approx(2.342)
    assert found.accelerator_cycles == 141002
    assert found.op_cycles == {"/model.0/conv/Conv": 12002, "/model.22/Concat, axis 1": 0}
    assert found.tools == {"qairt-on-board": "2.47.0.260601104522"}


def test_fewer_runs_than_warm_up() -> None:
    text = (RECORDED / "qnn-profile-viewer.csv").read_text()
    settings = BoardSettings(device="adb", warm_up=10, duration_s=1)
    found = netrun.measured(text, settings=settings, what="p.csv", tools={})
    assert (found.times_ms, found.warm_up) == ((3.052,), 2)
    assert "only 2 runs of warm-up" in found.notes[0]


def test_onnxruntime_qnn() -> None:
    found = viewer.read_csv((RECORDED / "onnxruntime-qnn.csv").read_text(), what="p.csv")
    assert found.accelerator_ms(skip=0) == pytest.approx((60.073 + 70.016) / 2)
    assert found.accelerator_cycles(skip=1) == 6378836
    cycles = found.mean_op_cycles(skip=1)
    assert cycles["score8_token_45"] == 718955
    assert cycles["Input"] == 1219
    assert len(cycles) == 16


def test_estimates_are_no_measurement() -> None:
    text = (Path(__file__).parents[1] / "golden" / "profile.csv").read_text()
    with pytest.raises(BoardRunError, match=r"p\.csv holds no inference"):
        viewer.read_csv(text, what="p.csv")


@pytest.mark.parametrize("text", ["", "nothing to see", "Execute Stats (Average):\n"])
def test_no_profile(text: str) -> None:
    with pytest.raises(BoardRunError, match=r"p\.csv is no profile of Qualcomm's tools"):
        viewer.read_csv(text, what="p.csv")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"times_ms": [1]}', '{"times_ms": ["x"], "peak_rss_mb": 1, "versions": {}}']
)
def test_result_of_our_script_is_not_whole(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(BoardRunError, match="is not what our script writes"):
        ortqnn.measured(tmp_path, settings=BoardSettings(device="adb"))


def test_result_of_our_script(tmp_path: Path) -> None:
    result = {"times_ms": [1.5, 2], "peak_rss_mb": 33.1, "versions": {"onnxruntime": "1.31.1"}}
    (tmp_path / "result.json").write_text(json.dumps(result))
    (tmp_path / "profile.csv").write_text((RECORDED / "onnxruntime-qnn.csv").read_text())
    found = ortqnn.measured(tmp_path, settings=BoardSettings(device="adb", warm_up=1))
    assert (found.times_ms, found.peak_memory_mb) == ((1.5, 2.0), 33.1)
    assert found.tools == {"onnxruntime-on-board": "1.31.1"}
    assert found.op_cycles["box8_token_39"] == 42224
    assert found.accelerator_ms == pytest.approx(70.016)


def test_raw_tensors(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("boxes", onnx.TensorProto.FLOAT, [1, 2, 3])
    shape, dtype = tensor_of(value)
    expected = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    for kind in (np.float32, np.float16):
        expected.astype(kind).tofile(tmp_path / "boxes.raw")
        np.testing.assert_array_equal(read_raw(tmp_path / "boxes.raw", shape=shape, dtype=dtype), expected)
    (tmp_path / "boxes.raw").write_bytes(b"abc")
    with pytest.raises(BoardRunError, match=r"boxes\.raw has 3 bytes, expected 24 \(float32 \[1, 2, 3\]\)"):
        read_raw(tmp_path / "boxes.raw", shape=shape, dtype=dtype)


def test_output_files_by_name(tmp_path: Path) -> None:
    for name in ("boxes_native.raw", "_head_out.raw"):
        (tmp_path / name).touch()
    assert find_raw(tmp_path, "boxes").name == "boxes_native.raw"
    assert find_raw(tmp_path, "/head/out").name == "_head_out.raw"
    with pytest.raises(
        BoardRunError, match=r"output 'scores' did not come back: .* holds _head_out\.raw, boxes_nat"
    ):
        find_raw(tmp_path, "scores")
