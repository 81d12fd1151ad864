"""A small net with everything a YOLO has, and a task around it; no ultralytics, no files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 32


class Block(nn.Module):
    """Convolution, batch norm, one SiLU shared by two calls, residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.act(self.bn2(self.conv2(self.act(self.bn1(self.conv1(x))))))


class Net(nn.Module):
    """Stem, split, concat, pooling, attention, upsampling, two outputs."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.SiLU()
        )
        self.block = Block(width // 2)
        self.mix = nn.Conv2d(width + width // 2, width, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.down = nn.Conv2d(2 * width, width, 3, stride=2, padding=1)
        self.drop = nn.Dropout(0.5)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj = nn.Conv2d(width, width, 1)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.boxes = nn.Conv2d(2 * width, 4, 1)
        self.scores = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.stem(x).chunk(2, 1)
        x = F.silu(self.mix(torch.cat((a, b, self.block(b)), 1)))
        fine = torch.cat((x, self.pool(x)), 1)
        coarse = self.drop(F.silu(self.down(fine)))
        n, c, h, w = coarse.shape
        q, k, v = self.qkv(coarse).view(n, 3 * c, h * w).split((c, c, c), 1)
        weights = ((q.transpose(1, 2) @ k) * c**-0.5).softmax(-1)
        coarse = coarse + self.proj((v @ weights.transpose(1, 2)).view(n, c, h, w))
        return self.boxes(torch.cat((self.up(coarse), x), 1)), self.scores(coarse)


def trained_net(seed: int = 0) -> Net:
    """Return a net whose batch norms have seen data, so that folding them means something."""
    torch.manual_seed(seed)
    net = Net().train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        for index in range(5):
            net(images(8, seed=index))
    return net.eval()


def images(count: int, *, seed: int) -> Tensor:
    """Return float32 (count, 3, SIDE, SIDE) in [0, 1]: smooth random pictures."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, 8, 8, generator=generator)
    return F.interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False).clamp(0, 1)


class SmallTask:
    """Imitate a teacher's outputs; the score is minus the error, mapped to (0, 1]."""

    name = "small"
    input_names = ("images",)
    output_names = ("boxes", "scores")
    metadata: ClassVar = {
        "task": "detect",
        "hexpath.schema": "1",
        "hexpath.outputs": '{"format": "yolo-raw"}',
    }

    def __init__(self, *, batches: int = 6, poison: bool = False) -> None:
        self.teacher = trained_net()
        self.example = images(1, seed=100)
        self.batches, self.poison = batches, poison

    def float_model(self) -> nn.Module:
        return trained_net()

    def calibration(self, count: int) -> Iterator[Tensor]:
        for start in range(0, count, 4):
            yield images(min(4, count - start), seed=200 + start)

    def samples(self, count: int) -> Tensor:
        return images(count, seed=300)

    def training(self, *, batch: int, epoch: int, seed: int) -> Iterator[Any]:
        for index in range(self.batches):
            pictures = images(batch, seed=seed * 1000 + epoch * 100 + index)
            with torch.no_grad():
                wanted = self.teacher(pictures)
            yield pictures, wanted

    def steps(self, batch: int) -> int:
        return self.batches

    def images(self, batch: Any) -> Tensor:
        pictures: Tensor = batch[0]
        return pictures

    def loss(self, outputs: tuple[Tensor, ...], batch: Any) -> Tensor:
        if self.poison:
            return outputs[0].sum() * float("nan")
        return sum(F.mse_loss(a, b) for a, b in zip(outputs, batch[1], strict=True))  # type: ignore[return-value]

    def evaluate(self, forward: Callable[[Tensor], tuple[Tensor, ...]]) -> dict[str, float]:
        pictures = images(16, seed=400)
        with torch.no_grad():
            wanted = self.teacher(pictures)
        error = sum(float(F.mse_loss(a, b)) for a, b in zip(forward(pictures), wanted, strict=True))
        return {"map": 1 / (1 + 100 * error), "error": error}


def small_task(*, checkpoint: Any, data: Any, options: Any) -> SmallTask:
    """Entry-point factory, as an installed task has."""
    return SmallTask(poison=options.get("poison") == "yes")
