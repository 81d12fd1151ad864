"""Build the networks whose latency Qualcomm publishes, for `hexpath-deploy fidelity`, without a download.

Weights are random: latency does not depend on them (encodings, calibrated on few images, matter a little).
YOLO11n comes from our own commands with 80 classes and Ultralytics' single output.
SegFormer-B0 comes from transformers and ONNX Runtime's quantizer.
Files are named NETWORK-PRECISION.onnx. What is there is not built again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PLANS = ("w8a8", "w8a16")


def main() -> None:
    """Build what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the models")
    parser.add_argument("--work", type=Path, required=True, help="folder for everything on the way there")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.work.mkdir(parents=True, exist_ok=True)
    yolo(args.out, work=args.work / "yolo11n")
    segformer(args.out, work=args.work / "segformer")


def yolo(out: Path, *, work: Path) -> None:
    """YOLO11n at 640 with 80 classes: FP16 and the two integer plans."""
    names = {plan: out / f"yolo11n-640-{plan}.onnx" for plan in ("fp16", *PLANS)}
    if all(path.exists() for path in names.values()):
        return
    data, checkpoint = work / "eighty.yaml", work / "train" / "model.safetensors"
    if not checkpoint.exists():
        command("data", "generate", work / "data", "--train", 16, "--val", 4)
        eighty_classes(work / "data" / "data.yaml", data)
        outputs = ("--out", work / "train", "--work", work / "work", "--epochs", 1)
        command("models", "train", "--model", "yolo11n", "--data", data, *outputs)
    common = ("--data", data, "--out")
    command("models", "export", checkpoint, "--head", "plain", "--imgsz", 640, *common, work / "fp16")
    shutil.copyfile(work / "fp16" / "model.onnx", names["fp16"])
    for plan in PLANS:
        options = ("--option", "head=plain", "--option", "imgsz=640", "--plan", plan, "--calibration", 4)
        task = ("--task", "yolo-detect", "--checkpoint", checkpoint)
        command("quant", "ptq", *task, *options, *common, work / plan)
        shutil.copyfile(work / plan / "model.onnx", names[plan])


def eighty_classes(source: Path, target: Path) -> None:
    """Write a data.yaml with COCO's number of classes beside the images."""
    head = source.read_text().split("names:")[0].replace("path: .", f"path: {source.parent.resolve()}")
    target.write_text(head + "names:\n" + "".join(f"  {index}: class{index}\n" for index in range(80)))


def command(package: str, *words: Any) -> None:
    """Run one of our commands."""
    program = Path(sys.executable).with_name(f"hexpath-{package}")
    subprocess.run([str(program), *map(str, words)], check=True)


def segformer(out: Path, *, work: Path) -> None:
    """SegFormer-B0 at 512 with 150 classes: FP16 and the two integer plans."""
    names = {plan: out / f"segformer-b0-512-{plan}.onnx" for plan in ("fp16", *PLANS)}
    if all(path.exists() for path in names.values()):
        return
    work.mkdir(parents=True, exist_ok=True)
    if not names["fp16"].exists():
        export_segformer(names["fp16"])
    fused = work / "fused.onnx"
    fuse(names["fp16"], fused)
    for plan in PLANS:
        quantize_segformer(fused, names[plan], plan=plan)


def export_segformer(path: Path) -> None:
    """Export transformers' network, logits at a quarter of the image; opset 20 keeps GELU one operator."""
    import torch
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = SegformerForSemanticSegmentation(SegformerConfig(num_labels=150))

        def forward(self, images: torch.Tensor) -> Any:
            return self.network(pixel_values=images).logits

    torch.manual_seed(0)
    torch.onnx.export(
        Logits().eval(),
        (torch.rand(1, 3, 512, 512),),
        str(path),
        input_names=["images"],
        output_names=["logits"],
        opset_version=20,
        dynamo=False,
    )


def fuse(source: Path, target: Path) -> None:
    """Let ONNX Runtime fold constants and make Gemm of MatMul and Add, as the NPU wants it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def quantize_segformer(source: Path, target: Path, *, plan: str) -> None:
    """Quantize with ONNX Runtime's settings for QNN; layer norms' gammas must be asymmetric uint8."""
    import numpy as np
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

    class Noise(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.images: Iterator[Any] = iter(
                np.random.default_rng(0).random((1, 1, 3, 512, 512), np.float32)
            )

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.images, None)
            return None if image is None else {"images": image}

    gammas = [node.input[1] for node in onnx.load(source).graph.node if node.op_type == "LayerNormalization"]
    config = get_qnn_qdq_config(
        str(source),
        Noise(),
        activation_type=QuantType.QUInt8 if plan == "w8a8" else QuantType.QUInt16,
        weight_type=QuantType.QUInt8,
        init_overrides={name: [{"quant_type": QuantType.QUInt8, "symmetric": False}] for name in gammas},
    )
    quantize(str(source), str(target), config)


if __name__ == "__main__":
    main()
