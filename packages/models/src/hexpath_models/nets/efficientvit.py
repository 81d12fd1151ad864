"""EfficientViT-B1 for segmentation: convolutions, and linear attention with a ReLU kernel at 1/16 and 1/32.

Paper: Cai, Li, Hu, Gan, Han, "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense
Prediction", ICCV 2023, arXiv:2205.14756. Modules have the names of the authors' weights.

Shapes, for an image (B, 3, H, W):
    1/2   (B,  16, H/2,  W/2)   input_stem
    1/4   (B,  32, H/4,  W/4)   stages.0
    1/8   (B,  64, H/8,  W/8)   stages.1
    1/16  (B, 128, H/16, W/16)  stages.2, 8 heads of d = 16 at each of two scales
    1/32  (B, 256, H/32, W/32)  stages.3, 16 heads of d = 16 at each of two scales
    attention, N = h w tokens: q, k, v (B, heads, d, N);  v k^T (B, heads, d, d)
    logits (B, classes, H/8, W/8)

For the NPU:
- there is no softmax here. The output is num / (den + epsilon) with num = (v k^T) q and den = sum(k) q,
  sums over N tokens of products of ReLUs: num has reached 4.6e6 and den 3e5 in one network (random weights,
  512x512). The authors compute both in one product and slice: `Attention.JOINT`. One 8-bit scale for both
  turns den into a few steps, epsilon (1e-15) into 0, and FP16 overflows.
- `Attention.SPLIT` is the same function up to epsilon: k is scaled by 1/N, and num and den are tensors
  of their own, each with a scale that fits it. `floor` is added to den and keeps it away from 0; it is in
  units of SPLIT's den (JOINT adds N times as much) and changes the function, so train or calibrate with it.
- all heads share a tensor's 8-bit scale and differ in range: `equalize.py` brings them onto one.
- each step of the attention is a module with a name (`key_values`, `numerator`, `denominator`, ...), so that
  a precision plan can name it.
- Hardswish stays one operator; ONNX Runtime's basic optimizations would split it.
- the head's 2x and 4x upsampling is bicubic in the authors' code, which the NPU has no operator for.
  `Upsampling.BILINEAR` is close; train with it when the network is meant for the NPU.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 8
EPSILON = 1e-15
WIDTHS, DEPTHS = (16, 32, 64, 128, 256), (1, 2, 3, 3, 4)
HEAD_DIM, HEAD_WIDTH, HEAD_DEPTH, EXPAND = 16, 64, 3, 4


class Attention(StrEnum):
    """How numerator and denominator are computed."""

    JOINT = "joint"
    SPLIT = "split"


class Upsampling(StrEnum):
    """How the head brings 1/16 and 1/32 to 1/8."""

    BICUBIC = "bicubic"
    BILINEAR = "bilinear"


class ConvLayer(nn.Module):
    """Convolution, optional batch norm (then no bias), optional Hardswish."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        norm: bool = True,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=bias)
        self.norm = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        self.act = nn.Hardswish() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h/stride, w/stride)."""
        return self.act(self.norm(self.conv(x)))  # type: ignore[no-any-return]


class DSConv(nn.Module):
    """Depthwise 3x3, then 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depth_conv = ConvLayer(channels, channels, 3, groups=channels)
        self.point_conv = ConvLayer(channels, channels, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        return self.point_conv(self.depth_conv(x))  # type: ignore[no-any-return]


class MBConv(nn.Module):
    """1x1 up, depthwise 3x3, 1x1 down; `norms` False: only the last has a batch norm, the others a bias."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, norms: bool = True) -> None:
        super().__init__()
        wide = inputs * EXPAND
        self.inverted_conv = ConvLayer(inputs, wide, norm=norms, bias=not norms)
        self.depth_conv = ConvLayer(wide, wide, 3, stride=stride, groups=wide, norm=norms, bias=not norms)
        self.point_conv = ConvLayer(wide, outputs, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h/stride, w/stride)."""
        return self.point_conv(self.depth_conv(self.inverted_conv(x)))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """x + main(x)."""

    def __init__(self, main: nn.Module) -> None:
        super().__init__()
        self.main = main

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        return self.main(x) + x  # type: ignore[no-any-return]


class Plain(nn.Module):
    """main(x): where the resolution changes there is no shortcut."""

    def __init__(self, main: nn.Module) -> None:
        super().__init__()
        self.main = main

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h/2, w/2)."""
        return self.main(x)  # type: ignore[no-any-return]


class Step(nn.Module):
    """A function of tensors under a module's name, for plans and analyses that go by names."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the function's value."""
        return self.function(*tensors)


def _key_values(k: Tensor, v: Tensor) -> Tensor:
    return torch.matmul(v, k.transpose(-1, -2))


def _key_sum(k: Tensor) -> Tensor:
    return torch.sum(k, -1, True).transpose(-1, -2)


def _joined(k: Tensor, v: Tensor) -> Tensor:
    # The authors get sum(k) from a row of ones under v; a padding's shape is not static in an exported graph.
    return torch.cat([_key_values(k, v), _key_sum(k)], 2)


class LinearAttention(nn.Module):
    """The paper's multi-scale linear attention (LiteMLA) over one map.

    attention, floor: see the head of this file.
    """

    def __init__(self, channels: int, *, attention: Attention = Attention.JOINT, floor: float = 0.0) -> None:
        super().__init__()
        self.attention, self.floor = attention, floor
        wide = 3 * channels
        self.heads = 2 * channels // HEAD_DIM  # of both scales
        self.qkv = ConvLayer(channels, wide, norm=False, act=False)
        self.aggreg = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(wide, wide, 5, padding=2, groups=wide, bias=False),
                    nn.Conv2d(wide, wide, 1, groups=wide // HEAD_DIM, bias=False),
                )
            ]
        )
        self.relu_q, self.relu_k = nn.ReLU(), nn.ReLU()
        joint = attention is Attention.JOINT
        self.key_values = Step(_joined if joint else _key_values)
        self.key_sum = nn.Identity() if joint else Step(_key_sum)
        self.numerator, self.denominator = Step(torch.matmul), nn.Identity() if joint else Step(torch.matmul)
        self.padded, self.quotient = Step(torch.add), Step(torch.div)
        self.proj = ConvLayer(2 * channels, channels, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        height, width = x.shape[-2], x.shape[-1]
        q, k, v = self.heads_of(self.qkv(x))
        products = self._joint if self.attention is Attention.JOINT else self._split
        num, den, floor = products(q, k, v, tokens=height * width)
        mixed = self.quotient(num, self.padded(den, floor + EPSILON))
        return self.proj(mixed.reshape(-1, self.heads * HEAD_DIM, height, width))  # type: ignore[no-any-return]

    def heads_of(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3 C, h, w) to q, k (both behind the ReLU) and v of both scales, (B, heads, d, N) each."""
        both = torch.cat([qkv, self.aggreg[0](qkv)], 1)
        tokens = both.reshape(-1, self.heads, 3 * HEAD_DIM, qkv.shape[-2] * qkv.shape[-1])
        q, k, v = torch.split(tokens, [HEAD_DIM, HEAD_DIM, HEAD_DIM], 2)
        return self.relu_q(q), self.relu_k(k), v

    def _joint(self, q: Tensor, k: Tensor, v: Tensor, *, tokens: int) -> tuple[Tensor, Tensor, float]:
        """As the authors: den is the last row of the product with num, one tensor."""
        num, den = torch.split(self.numerator(self.key_values(k, v), q), [HEAD_DIM, 1], 2)
        return num, den, self.floor * tokens if self.floor else 0.0

    def _split(self, q: Tensor, k: Tensor, v: Tensor, *, tokens: int) -> tuple[Tensor, Tensor, float]:
        """The same over N, apart."""
        k = k * (1.0 / tokens)
        num = self.numerator(self.key_values(k, v), q)
        return num, self.denominator(self.key_sum(k), q), self.floor


class EfficientViTBlock(nn.Module):
    """Attention over the map, then an MBConv, each with a shortcut."""

    def __init__(self, channels: int, *, attention: Attention, floor: float) -> None:
        super().__init__()
        self.context_module = Residual(LinearAttention(channels, attention=attention, floor=floor))
        self.local_module = Residual(MBConv(channels, channels, norms=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        return self.local_module(self.context_module(x))  # type: ignore[no-any-return]


class Chain(nn.Module):
    """Modules one behind the other, under the authors' name `op_list`."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.op_list = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        """Apply each in turn."""
        for module in self.op_list:
            x = module(x)
        return x


class Backbone(nn.Module):
    """Stem and four stages; gives the last three stages' maps."""

    def __init__(self, *, attention: Attention, floor: float) -> None:
        super().__init__()
        stem, *widths = WIDTHS
        blocks = [Residual(DSConv(stem)) for _ in range(DEPTHS[0])]
        self.input_stem = Chain(ConvLayer(3, stem, 3, stride=2), *blocks)
        stages: list[nn.Module] = []
        for index, (width, depth) in enumerate(zip(widths, DEPTHS[1:], strict=True)):
            attends, inputs = index >= 2, WIDTHS[index]
            first = Plain(MBConv(inputs, width, stride=2, norms=not attends))
            if attends:
                rest = [EfficientViTBlock(width, attention=attention, floor=floor) for _ in range(depth)]
                stages.append(Chain(first, *rest))
            else:
                stages.append(Chain(first, *(Residual(MBConv(width, width)) for _ in range(depth - 1))))
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) to maps at 1/8, 1/16, 1/32."""
        quarter = self.stages[0](self.input_stem(images))
        eighth = self.stages[1](quarter)
        sixteenth = self.stages[2](eighth)
        return eighth, sixteenth, self.stages[3](sixteenth)


class SegHead(nn.Module):
    """1x1 of each map to 64 channels at 1/8, summed; three MBConv; 1x1 up, 1x1 to the classes."""

    def __init__(self, classes: int, *, upsampling: Upsampling) -> None:
        super().__init__()
        self.mode = str(upsampling)
        self.input_ops = nn.ModuleList(
            [
                Chain(ConvLayer(WIDTHS[4], HEAD_WIDTH, act=False)),
                Chain(ConvLayer(WIDTHS[3], HEAD_WIDTH, act=False)),
                ConvLayer(WIDTHS[2], HEAD_WIDTH, act=False),
            ]
        )
        self.middle = Chain(*(Residual(MBConv(HEAD_WIDTH, HEAD_WIDTH)) for _ in range(HEAD_DEPTH)))
        wide = HEAD_WIDTH * EXPAND
        last = ConvLayer(wide, classes, bias=True, norm=False, act=False)
        self.output_ops = nn.ModuleList([Chain(ConvLayer(HEAD_WIDTH, wide), last)])

    def forward(self, eighth: Tensor, sixteenth: Tensor, thirtysecond: Tensor) -> Tensor:
        """Return logits (B, classes, H/8, W/8)."""
        fine = self.input_ops[2](eighth)
        size = fine.shape[-2:]
        coarse = [self.input_ops[0](thirtysecond), self.input_ops[1](sixteenth)]
        up = [F.interpolate(x, size=size, mode=self.mode, align_corners=False) for x in coarse]
        return self.output_ops[0](self.middle(up[0] + up[1] + fine))  # type: ignore[no-any-return]


class EfficientViTSeg(nn.Module):
    """EfficientViT-B1 with its segmentation head."""

    head_keys = ("head.output_ops.0.op_list.1.conv.weight", "head.output_ops.0.op_list.1.conv.bias")
    head_modules = ("head",)

    def __init__(
        self,
        *,
        classes: int,
        attention: Attention = Attention.JOINT,
        floor: float = 0.0,
        upsampling: Upsampling = Upsampling.BICUBIC,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(attention=attention, floor=floor)
        self.head = SegHead(classes, upsampling=upsampling)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalized, to logits (B, classes, H/8, W/8)."""
        eighth, sixteenth, thirtysecond = self.backbone(images)
        return self.head(eighth, sixteenth, thirtysecond)  # type: ignore[no-any-return]


def efficientvit_seg_b1(
    *,
    classes: int,
    attention: Attention = Attention.JOINT,
    floor: float = 0.0,
    upsampling: Upsampling = Upsampling.BICUBIC,
) -> EfficientViTSeg:
    """Return EfficientViT-B1-seg with random weights."""
    return EfficientViTSeg(classes=classes, attention=attention, floor=floor, upsampling=upsampling)
