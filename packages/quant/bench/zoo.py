"""Does `quantize` take networks that nobody here wrote? torchvision's, random weights, wholly onto the NPU.

    nox -s bench -- zoo [--names=resnet18,vit_b_16] [--plans=w8a8,w8a16] [--out=FOLDER]

torchvision is no dependency of hexpath-quant, nor is hexpath-deploy: this script needs both beside it (the
environment of the experiments has them). A network that fails is a row that says why, and exit code 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import run
from typing import Any

import torch
from torch import Tensor, nn

from hexpath_quant import quantize
from hexpath_quant.errors import QuantError


class OnlyMasks(nn.Module):
    """torchvision's segmentation networks return a dict."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Return the class scores, float32 (B, classes, H, W)."""
        found: Tensor = self.net(images)["out"]
        return found


@dataclass(frozen=True, kw_only=True)
class Entry:
    """How to build a network, and the side of the square images that it gets."""

    build: Callable[[], nn.Module]
    size: int = 96


def plain(name: str, **options: Any) -> Callable[[], nn.Module]:
    """Return a function that builds one of torchvision's classifiers with random weights."""

    def build() -> nn.Module:
        from torchvision import models

        net: nn.Module = models.get_model(name, weights=None, **options)
        return net

    return build


def masks(name: str) -> Callable[[], nn.Module]:
    """Return a function that builds one of torchvision's segmentation networks with random weights."""
    inner = plain(name, weights_backbone=None, num_classes=7, aux_loss=False)
    return lambda: OnlyMasks(inner())


ZOO: dict[str, Entry] = {
    "mobilenet_v2": Entry(build=plain("mobilenet_v2")),
    "mobilenet_v3_small": Entry(build=plain("mobilenet_v3_small")),
    "resnet18": Entry(build=plain("resnet18")),
    "efficientnet_b0": Entry(build=plain("efficientnet_b0")),
    "regnet_y_400mf": Entry(build=plain("regnet_y_400mf")),
    "shufflenet_v2_x0_5": Entry(build=plain("shufflenet_v2_x0_5")),
    "squeezenet1_1": Entry(build=plain("squeezenet1_1")),
    "densenet121": Entry(build=plain("densenet121")),
    "convnext_tiny": Entry(build=plain("convnext_tiny")),
    "mnasnet0_5": Entry(build=plain("mnasnet0_5")),
    "googlenet": Entry(build=plain("googlenet", aux_logits=False, init_weights=False)),
    "inception_v3": Entry(build=plain("inception_v3", aux_logits=False, init_weights=False), size=128),
    "vit_b_16": Entry(build=plain("vit_b_16", image_size=64), size=64),
    "swin_t": Entry(build=plain("swin_t"), size=64),
    "deeplabv3_mobilenet_v3_large": Entry(build=masks("deeplabv3_mobilenet_v3_large"), size=128),
    "lraspp_mobilenet_v3_large": Entry(
        build=lambda: OnlyMasks(plain("lraspp_mobilenet_v3_large", weights_backbone=None, num_classes=7)()),
        size=128,
    ),
    "fcn_resnet50": Entry(build=masks("fcn_resnet50"), size=64),
}


def images(count: int, *, size: int) -> Tensor:
    """Return smooth noise, float32 (count, 3, size, size) in [0, 1]."""
    coarse = torch.rand(count, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(coarse, size=(size, size), mode="bilinear").clamp(0, 1)


def settled(net: nn.Module, *, size: int) -> nn.Module:
    """Return the network in eval mode with batch-norm statistics of the images: random ones blow up."""
    net.train()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    with torch.no_grad():
        net(images(8, size=size))
    return net.eval()


def row(name: str, *, plan: str, out: Path) -> tuple[str, bool]:
    """Quantize and compile one network; returns the row of the table, and whether all went well."""
    entry, start = ZOO[name], time.perf_counter()
    torch.manual_seed(0)
    net = settled(entry.build(), size=entry.size)
    calibration = [images(8, size=entry.size)]
    try:
        agreement = quantize(net, calibration=calibration, plan=plan, out=out)
    except QuantError as error:
        return f"| {name} | {entry.size} | {plan} | {type(error).__name__}: {error} | | | |", False
    quantized_s = time.perf_counter() - start
    command = [sys.executable, "-m", "hexpath_deploy", "compile", str(out / "model.onnx")]
    done = run(
        [*command, "--target", "qcs9075", "--out", str(out / "compiled")],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return f"| {name} | {entry.size} | {plan} | {done.stderr.strip()[-600:]} | | | |", False
    with torch.no_grad():
        wanted = net(calibration[0][:4])
    noise_db = fidelity(out / "recorded.npz", wanted=wanted)
    return (
        f"| {name} | {entry.size} | {plan} | {noise_db:.1f} | {min(agreement.values()):.1f} | "
        f"{compiled(out / 'compiled')} | {quantized_s:.0f} |",
        True,
    )


def fidelity(recorded: Path, *, wanted: Tensor) -> float:
    """Return the SQNR in dB of the quantized output against the float network's."""
    import numpy as np

    with np.load(recorded) as stored:
        found = torch.from_numpy(stored["output0"])
    return float(10 * torch.log10(wanted.square().sum() / (wanted - found).square().sum()))


def compiled(folder: Path) -> str:
    """Return operators on the NPU, those in float, and the estimate, as cells."""
    import json

    card = json.loads((folder / "compile.json").read_text())
    return f"{card['npu_ops']} | {card['float_ops']} | {card['estimates']['quantized']['value_ms']:.2f}"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", default=",".join(ZOO), help="default: all, %(default)s")
    parser.add_argument("--plans", default="w8a8,w8a16")
    parser.add_argument("--out", type=Path, help="keep the models here")
    args, _ = parser.parse_known_args()  # nox gives every benchmark a checkpoint and a dataset
    print("| network | side | plan | SQNR dB | file/sim dB | NPU ops | float ops | est. ms | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.names.split(","):
            for plan in args.plans.split(","):
                text, ok = row(name, plan=plan, out=(args.out or Path(scratch)) / f"{name}-{plan}")
                print(text, flush=True)
                failed += not ok
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
