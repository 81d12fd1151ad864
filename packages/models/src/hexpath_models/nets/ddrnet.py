"""DDRNet23-Slim: two branches, one at 1/8 of the image all the way, that exchange features twice.

Paper: Hong, Pan, Sun, Jia, "Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of
Road Scenes", arXiv:2101.06085. Modules have the names of the authors' weights (without the auxiliary head).

Shapes, for an image (B, 3, H, W) and c = 32 channels:
    1/4   (B,   c, H/4,  W/4)   layer1
    1/8   (B,  2c, H/8,  W/8)   layer2, and the high branch: layer3_, layer4_, (B, 4c) after layer5_
    1/16  (B,  4c, H/16, W/16)  layer3
    1/32  (B,  8c, H/32, W/32)  layer4
    1/64  (B, 16c, H/64, W/64)  layer5, then spp to (B, 4c)
    logits (B, classes, H/8, W/8)

For the NPU:
- logits stay at 1/8. Upsampling a map a class to the full image there costs more than the network itself; do
  it bilinearly (align_corners=False) outside, or take the argmax first.
- spp pools with kernels 5, 9, 17 and the whole map at 1/64: small maps, cheap. In FP16 and INT16 the Hexagon
  emulator computes the 9x9 stride 4 pooling wrong (4 dB); compile and export write it as a convolution there.
- spp and the head normalize before they convolve, so these batch norms cannot be folded into a convolution;
  the ones behind a pooling or a sum remain as operators.
- H and W need not be multiples of 64 (544 is not): maps are resized to each other's size, never by a factor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 8
SPP_POOLS = ((5, 2, 2), (9, 4, 4), (17, 8, 8))  # kernel, stride, padding


def _conv(inputs: int, outputs: int, size: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Resize (B, C, h, w) bilinearly to the height and width of `like`."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the last block of a stage leaves its sum without ReLU."""

    def __init__(self, inputs: int, width: int, *, stride: int = 1, relu: bool = True) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, width, 3, stride=stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3), nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)
        self.inner, self.outer = nn.ReLU(), nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, width, h/stride, w/stride)."""
        y = self.bn2(self.conv2(self.inner(self.bn1(self.conv1(x)))))
        return self.outer(y + self.downsample(x))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 to twice the width, and a shortcut; no ReLU behind the sum."""

    def __init__(self, inputs: int, width: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride=stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, 2 * width, 1), nn.BatchNorm2d(2 * width)
        self.downsample = _shortcut(inputs, 2 * width, stride)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, 2 width, h/stride, w/stride)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        return self.bn3(self.conv3(y)) + self.downsample(x)  # type: ignore[no-any-return]


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(_conv(inputs, outputs, 1, stride=stride), nn.BatchNorm2d(outputs))


def _stage(inputs: int, width: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(BasicBlock(inputs, width, stride=stride), BasicBlock(width, width, relu=False))


def _norm_relu_conv(inputs: int, outputs: int, size: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(inputs), nn.ReLU(), _conv(inputs, outputs, size)]


class PyramidPooling(nn.Module):
    """The paper's DAPPM: averages over growing windows, each refined together with the one before."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.scale0 = nn.Sequential(*_norm_relu_conv(inputs, width, 1))
        pools = [nn.AvgPool2d(kernel, stride, padding) for kernel, stride, padding in SPP_POOLS]
        for index, pool in enumerate([*pools, nn.AdaptiveAvgPool2d(1)], 1):
            self.add_module(f"scale{index}", nn.Sequential(pool, *_norm_relu_conv(inputs, width, 1)))
            self.add_module(f"process{index}", nn.Sequential(*_norm_relu_conv(width, width, 3)))
        self.compression = nn.Sequential(*_norm_relu_conv(5 * width, outputs, 1))
        self.shortcut = nn.Sequential(*_norm_relu_conv(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h, w)."""
        maps = [self.scale0(x)]
        for index in range(1, 5):
            pooled = resize(self.get_submodule(f"scale{index}")(x), x)
            maps.append(self.get_submodule(f"process{index}")(pooled + maps[-1]))
        return self.compression(torch.cat(maps, 1)) + self.shortcut(x)  # type: ignore[no-any-return]


class Head(nn.Module):
    """Normalize, 3x3, normalize, 1x1 to the classes."""

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, width, 3)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, classes, 1)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, classes, h, w)."""
        x = self.conv1(self.relu1(self.bn1(x)))
        return self.conv2(self.relu2(self.bn2(x)))  # type: ignore[no-any-return]


class DDRNet(nn.Module):
    """DDRNet23; `width` 32 is the slim one.

    classes: of the logits; width: channels of the first stage; spp: of each pooled scale; head: of the head.
    """

    head_keys = ("final_layer.conv2.weight", "final_layer.conv2.bias")
    head_modules = ("final_layer",)

    def __init__(self, *, classes: int, width: int = 32, spp: int = 128, head: int = 64) -> None:
        super().__init__()
        c, high = width, 2 * width
        self.conv1 = nn.Sequential(
            *(nn.Conv2d(3, c, 3, 2, 1), nn.BatchNorm2d(c), nn.ReLU()),
            *(nn.Conv2d(c, c, 3, 2, 1), nn.BatchNorm2d(c), nn.ReLU()),
        )
        self.layer1, self.layer2 = _stage(c, c), _stage(c, 2 * c, stride=2)
        self.layer3, self.layer4 = _stage(2 * c, 4 * c, stride=2), _stage(4 * c, 8 * c, stride=2)
        self.layer3_, self.layer4_ = _stage(2 * c, high), _stage(high, high)
        self.compression3 = nn.Sequential(_conv(4 * c, high, 1), nn.BatchNorm2d(high))
        self.compression4 = nn.Sequential(_conv(8 * c, high, 1), nn.BatchNorm2d(high))
        self.down3 = nn.Sequential(_conv(high, 4 * c, 3, stride=2), nn.BatchNorm2d(4 * c))
        self.down4 = nn.Sequential(
            *(_conv(high, 4 * c, 3, stride=2), nn.BatchNorm2d(4 * c), nn.ReLU()),
            *(_conv(4 * c, 8 * c, 3, stride=2), nn.BatchNorm2d(8 * c)),
        )
        self.layer5_ = nn.Sequential(Bottleneck(high, high))
        self.layer5 = nn.Sequential(Bottleneck(8 * c, 8 * c, stride=2))
        self.spp = PyramidPooling(16 * c, spp, 4 * c)
        self.final_layer = Head(4 * c, head, classes)
        self.relu = nn.ReLU()
        _initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalized, to logits (B, classes, H/8, W/8)."""
        eighth = self.relu(self.layer2(self.relu(self.layer1(self.conv1(images)))))
        low, high = self.layer3(eighth), self.layer3_(eighth)
        compressed = self.compression3(self.relu(low))
        low = low + self.down3(self.relu(high))
        high = high + resize(compressed, high)

        low, high = self.layer4(self.relu(low)), self.layer4_(self.relu(high))
        compressed = self.compression4(self.relu(low))
        low = low + self.down4(self.relu(high))
        high = high + resize(compressed, high)

        high = self.layer5_(self.relu(high))
        low = self.spp(self.layer5(self.relu(low)))
        return self.final_layer(resize(low, high) + high)  # type: ignore[no-any-return]


def _initialize(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def ddrnet23_slim(*, classes: int) -> DDRNet:
    """Return DDRNet23-Slim with random weights."""
    return DDRNet(classes=classes)
