"""Inside the aimet image: versions, hexpath-models' task, and a three-layer net quantized and exported."""

from __future__ import annotations

import tempfile
from importlib import metadata
from pathlib import Path

import onnx
import torch

from hexpath_quant import quantize


def main() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1)
    ).eval()
    with tempfile.TemporaryDirectory() as scratch:
        agreement_db = quantize(
            model, calibration=[torch.rand(4, 3, 32, 32)], plan="w8a8", out=Path(scratch) / "q"
        )
        nodes = onnx.load(Path(scratch) / "q" / "model.onnx").graph.node
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= {node.op_type for node in nodes}
    assert min(agreement_db.values()) > 20
    (task,) = metadata.entry_points(group="hexpath.tasks", name="yolo-detect")
    assert callable(task.load())
    tools = {name: metadata.version(name) for name in ("hexpath-quant", "torch", "aimet-torch")}
    print(f"aimet: quantized and exported a three-layer net, {agreement_db} dB; {tools}")


if __name__ == "__main__":
    main()
