"""Build the networks whose latency Qualcomm publishes, for `hexpath-deploy fidelity`, without a download.

Weights are random: latency does not depend on them (encodings, calibrated on few images, matter a little).
What is published returns boxes and scores apart, already decoded, and a segmentation network's logits at its
own stride: so do these. YOLO and DDRNet come from our own commands; SegFormer-B0 from transformers, ResNet-50
and ViT from torchvision, these three through ONNX Runtime's quantizer.
Files are named NETWORK-PRECISION.onnx. What is there is not built again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

YOLOS = ("yolo11n", "yolo11n-seg", "yolo26n", "yolo26n-seg")
CITYSCAPES = 19
# An Ultralytics .pt file as training would leave it: random weights, batch statistics that are not trivial.
RANDOM_YOLO = """
import sys
from hexpath_models.environment import offline
offline()
import torch
from ultralytics.nn.tasks import DetectionModel, SegmentationModel
name, path = sys.argv[1:]
torch.manual_seed(0)
model = (SegmentationModel if name.endswith("-seg") else DetectionModel)(f"{name}.yaml", nc=80, verbose=False)
for module in model.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.running_mean.normal_(0, 0.1)
        module.running_var.uniform_(0.5, 1.5)
model.names = {index: f"class{index}" for index in range(80)}
model.args = {"imgsz": 640}
torch.save({"epoch": -1, "model": model.half(), "ema": None, "train_args": {"imgsz": 640}}, path)
"""


def main() -> None:
    """Build what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the models")
    parser.add_argument("--work", type=Path, required=True, help="folder for everything on the way there")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.work.mkdir(parents=True, exist_ok=True)
    for name in YOLOS:
        plans = ("w8a8", "w8a16") if name == "yolo11n" else ("w8a16",)
        yolo(args.out, name=name, plans=plans, work=args.work / name)
    ddrnet(args.out, work=args.work / "ddrnet")
    for name, size, plans, make in (
        ("segformer-b0-512", 512, ("w8a8", "w8a16"), segformer_b0),
        ("resnet50-224", 224, ("w8a8",), resnet50),
        ("vit-b16-224", 224, ("w8a8", "w8a16"), vit_b16),
    ):
        by_ort(args.out, name=name, size=size, plans=plans, make=make)


def yolo(out: Path, *, name: str, plans: tuple[str, ...], work: Path) -> None:
    """A YOLO at 640 with 80 classes: FP16, and integer plans."""
    wanted = {plan: out / f"{name}-640-{plan}.onnx" for plan in ("fp16", *plans)}
    if all(path.exists() for path in wanted.values()):
        return
    data, checkpoint = work / "eighty.yaml", work / "model.safetensors"
    if not checkpoint.exists():
        command("data", "generate", work / "data", "--train", 16, "--val", 4, "--labels", "segments")
        eighty_classes(work / "data" / "data.yaml", data)
        subprocess.run([sys.executable, "-c", RANDOM_YOLO, name, str(work / "random.pt")], check=True)
        command("models", "import", work / "random.pt", "--data", data, "--out", checkpoint)
    task = ("--task", "yolo", "--checkpoint", checkpoint, "--option", "head=decoded")
    flags = ("--head", "decoded", "--imgsz", 640)
    build(wanted, checkpoint=checkpoint, data=data, export=flags, task=task, work=work)


def ddrnet(out: Path, *, work: Path) -> None:
    """DDRNet23-Slim at 1024x2048 with Cityscapes' number of classes and logits at 1/8: FP16 and w8a8."""
    name = "ddrnet23-slim-1024x2048"
    wanted = {plan: out / f"{name}-{plan}.onnx" for plan in ("fp16", "w8a8")}
    if all(path.exists() for path in wanted.values()):
        return
    data, checkpoint = work / "data" / "data.yaml", work / "train" / "model.safetensors"
    if not checkpoint.exists():
        random_masks(data)
        outputs = ("--out", work / "train", "--work", work / "training", "--epochs", 1, "--imgsz", "64x128")
        command("models", "train", "--model", "ddrnet23_slim", "--data", data, *outputs)
    task = ("--task", "semantic", "--checkpoint", checkpoint, "--option", "imgsz=1024x2048")
    flags = ("--imgsz", "1024x2048")
    build(wanted, checkpoint=checkpoint, data=data, export=flags, task=task, work=work)


def build(
    wanted: dict[str, Path],
    *,
    checkpoint: Path,
    data: Path,
    export: tuple[Any, ...],
    task: tuple[Any, ...],
    work: Path,
) -> None:
    """Export a checkpoint as float and quantize it by each integer plan, with our own commands."""
    for plan, path in wanted.items():
        if path.exists():
            continue
        common = ("--data", data, "--out", work / plan)
        if plan == "fp16":
            command("models", "export", checkpoint, *export, *common)
        else:
            size = ("--option", "imgsz=640") if "yolo" in task else ()
            command("quant", "ptq", *task, *size, "--plan", plan, "--calibration", 4, *common)
        shutil.copyfile(work / plan / "model.onnx", path)


def eighty_classes(source: Path, target: Path) -> None:
    """Write a data.yaml with COCO's number of classes beside the images."""
    head = source.read_text().split("names:")[0].replace("path: .", f"path: {source.parent.resolve()}")
    target.write_text(head + "names:\n" + "".join(f"  {index}: class{index}\n" for index in range(80)))


def random_masks(data: Path) -> None:
    """Write a data.yaml with a few images of noise, and masks of all classes."""
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (data.parent / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(4):
            pixels = noise.integers(0, 256, (128, 256, 3), np.uint8)
            mask = noise.integers(0, CITYSCAPES, (128, 256), np.uint8)
            Image.fromarray(pixels).save(data.parent / "images" / split / f"{index}.png")
            Image.fromarray(mask).save(data.parent / "masks" / split / f"{index}.png")
    lines = ["path: .", "train: images/train", "val: images/val", "ignore: 255"]
    lines += ["masks: {train: masks/train, val: masks/val}", "names:"]
    lines += [f"  {index}: class{index}" for index in range(CITYSCAPES)]
    data.write_text("\n".join(lines) + "\n")


def command(package: str, *words: Any) -> None:
    """Run one of our commands."""
    program = Path(sys.executable).with_name(f"hexpath-{package}")
    subprocess.run([str(program), *map(str, words)], check=True)


def by_ort(out: Path, *, name: str, size: int, plans: tuple[str, ...], make: Callable[[], nn.Module]) -> None:
    """A network that takes a square image: FP16, and integer plans by ONNX Runtime's quantizer."""
    wanted = {plan: out / f"{name}-{plan}.onnx" for plan in ("fp16", *plans)}
    if all(path.exists() for path in wanted.values()):
        return
    if not wanted["fp16"].exists():
        export_float(make, wanted["fp16"], size=size)
    fused = out / f"{name}.fused"
    fuse(wanted["fp16"], fused)
    for plan in plans:
        quantize(fused, wanted[plan], plan=plan, size=size)
    fused.unlink()


def segformer_b0() -> nn.Module:
    """transformers' network with 150 classes, logits at a quarter of the image."""
    import torch
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = SegformerForSemanticSegmentation(SegformerConfig(num_labels=150))

        def forward(self, images: torch.Tensor) -> Any:
            return self.network(pixel_values=images).logits

    return Logits()


def resnet50() -> nn.Module:
    """torchvision's ResNet-50, 1000 classes."""
    from torchvision.models import resnet50 as network

    made: nn.Module = network(weights=None)
    return made


def vit_b16() -> nn.Module:
    """torchvision's ViT-B/16, 1000 classes."""
    from torchvision.models import vit_b_16

    made: nn.Module = vit_b_16(weights=None)
    return made


def export_float(make: Callable[[], nn.Module], path: Path, *, size: int) -> None:
    """Export with random weights; opset 20 keeps GELU one operator."""
    import torch

    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)
    torch.onnx.export(
        make().eval(),
        (torch.rand(1, 3, size, size),),
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


def quantize(source: Path, target: Path, *, plan: str, size: int) -> None:
    """Quantize with ONNX Runtime's settings for QNN; layer norms' gammas must be asymmetric uint8."""
    import numpy as np
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType
    from onnxruntime.quantization import quantize as quantize_static
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

    class Noise(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.images: Iterator[Any] = iter(
                np.random.default_rng(0).random((1, 1, 3, size, size), np.float32)
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
    quantize_static(str(source), str(target), config)


if __name__ == "__main__":
    main()
