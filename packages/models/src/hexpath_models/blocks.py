"""Ultralytics' building blocks as static modules: no shape read from a tensor, each pooling step its own.

A block that is neither in `static_blocks()` nor in `plain_blocks()` is refused by prepare: whether it can be
traced was not tried.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class SplitC2f(nn.Module):
    """C2f and C3k2 with a split of fixed sizes in place of `list(chunk)`."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.cv1, self.cv2, self.m, self.c = source.cv1, source.cv2, source.m, source.c

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 (N, C2, H, W) for float32 (N, C1, H, W)."""
        parts = torch.split(self.cv1(x), [self.c, self.c], 1)
        kept = [parts[0], parts[1]]
        for block in self.m:
            kept.append(block(kept[-1]))
        return self.cv2(torch.cat(kept, 1))  # type: ignore[no-any-return]


class StaticSPPF(nn.Module):
    """SPPF with one pooling module a step: a module that runs three times has one range for three tensors."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.cv1, self.cv2 = source.cv1, source.cv2
        self.m = nn.ModuleList(copy.deepcopy(source.m) for _ in range(getattr(source, "n", 3)))
        self.add = getattr(source, "add", False)

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 (N, C2, H, W) for float32 (N, C1, H, W)."""
        kept = [self.cv1(x)]
        for pool in self.m:
            kept.append(pool(kept[-1]))
        y = self.cv2(torch.cat(kept, 1))
        return y + x if self.add else y  # type: ignore[no-any-return]


class StaticC2PSA(nn.Module):
    """C2PSA with an indexed split."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.cv1, self.cv2, self.m, self.c = source.cv1, source.cv2, source.m, source.c

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 (N, C, H, W) for float32 (N, C, H, W)."""
        parts = torch.split(self.cv1(x), [self.c, self.c], 1)
        return self.cv2(torch.cat([parts[0], self.m(parts[1])], 1))  # type: ignore[no-any-return]


class StaticAttention(nn.Module):
    """Multi-head self-attention over the H x W positions of a feature map of known size."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.qkv, self.proj, self.pe = source.qkv, source.proj, source.pe
        self.num_heads, self.key_dim, self.head_dim = source.num_heads, source.key_dim, source.head_dim
        self.scale = source.scale
        self.softmax = nn.Softmax(dim=-1)
        self.height, self.width = source.static_size

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 (N, C, H, W) for float32 (N, C, H, W)."""
        sizes = [self.key_dim, self.key_dim, self.head_dim]
        positions = self.height * self.width
        qkv = self.qkv(x).reshape(-1, self.num_heads, sum(sizes), positions)
        parts = torch.split(qkv, sizes, 2)
        query, key, value = parts[0] * self.scale, parts[1], parts[2]
        weights = self.softmax(torch.matmul(query.transpose(2, 3), key))
        channels = self.num_heads * self.head_dim
        mixed = torch.matmul(value, weights.transpose(2, 3)).reshape(-1, channels, self.height, self.width)
        position = self.pe(value.reshape(-1, channels, self.height, self.width))
        return self.proj(mixed + position)  # type: ignore[no-any-return]


class StaticPSA(nn.Module):
    """PSA (YOLOv10) with an indexed split."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.cv1, self.cv2, self.attn, self.ffn = source.cv1, source.cv2, source.attn, source.ffn
        self.c = source.c

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 (N, C, H, W) for float32 (N, C, H, W)."""
        parts = torch.split(self.cv1(x), [self.c, self.c], 1)
        attended = parts[1] + self.attn(parts[1])
        return self.cv2(torch.cat([parts[0], attended + self.ffn(attended)], 1))  # type: ignore[no-any-return]


class StaticELAN(nn.Module):
    """RepNCSPELAN4 and ELAN1 (YOLOv9) with a split of fixed sizes."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3, self.cv4 = source.cv1, source.cv2, source.cv3, source.cv4
        self.c = source.c

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 (N, C2, H, W) for float32 (N, C1, H, W)."""
        parts = torch.split(self.cv1(x), [self.c, self.c], 1)
        third = self.cv2(parts[1])
        return self.cv4(torch.cat([parts[0], parts[1], third, self.cv3(third)], 1))  # type: ignore[no-any-return]


class StaticAConv(nn.Module):
    """AConv (YOLOv9) with its pooling as a module."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.pool, self.cv1 = _mean_of_four(), source.cv1

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 (N, C2, H/2, W/2) for float32 (N, C1, H, W)."""
        return self.cv1(self.pool(x))  # type: ignore[no-any-return]


class StaticADown(nn.Module):
    """ADown (YOLOv9) with an indexed split and its poolings as modules."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.pool, self.cv1, self.cv2 = _mean_of_four(), source.cv1, source.cv2
        self.half = source.cv1.conv.in_channels
        self.largest = nn.MaxPool2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 (N, C2, H/2, W/2) for float32 (N, C1, H, W)."""
        parts = torch.split(self.pool(x), [self.half, self.half], 1)
        return torch.cat([self.cv1(parts[0]), self.cv2(self.largest(parts[1]))], 1)


def _mean_of_four() -> nn.AvgPool2d:
    return nn.AvgPool2d(2, 1, 0, False, True)


class StaticRepConv(nn.Module):
    """RepConv without an identity branch: Ultralytics adds the number 0 in its place."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.conv1, self.conv2, self.bn, self.act = source.conv1, source.conv2, source.bn, source.act

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 (N, C2, H, W) for float32 (N, C1, H, W)."""
        y = self.conv1(x) + self.conv2(x)
        return self.act(y if self.bn is None else y + self.bn(x))  # type: ignore[no-any-return]


class StaticProto26(nn.Module):
    """YOLO26's prototypes without the semantic branch, which only training uses."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.feat_refine, self.feat_fuse = source.feat_refine, source.feat_fuse
        self.cv1, self.upsample, self.cv2, self.cv3 = source.cv1, source.upsample, source.cv2, source.cv3
        self.grow = nn.ModuleList(
            nn.Upsample(scale_factor=float(2 ** (i + 1)), mode="nearest")
            for i in range(len(self.feat_refine))
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return float32 (N, 32, H/4, W/4) for the features of all levels, finest first."""
        fused = features[0]
        for feature, refine, grow in zip(features[1:], self.feat_refine, self.grow, strict=True):
            fused = fused + grow(refine(feature))
        return self.cv3(self.cv2(self.upsample(self.cv1(self.feat_fuse(fused)))))  # type: ignore[no-any-return]


def static_blocks() -> dict[type, Callable[[Any], nn.Module]]:
    """Return what replaces which of Ultralytics' blocks."""
    from ultralytics.nn.modules import C2PSA, ELAN1, PSA, SPPF, AConv, ADown, C2f, C2fCIB, C3k2, RepNCSPELAN4
    from ultralytics.nn.modules.block import Attention, Proto26
    from ultralytics.nn.modules.conv import RepConv

    return {
        **dict.fromkeys((C2f, C3k2, C2fCIB), SplitC2f),
        **dict.fromkeys((RepNCSPELAN4, ELAN1), StaticELAN),
        SPPF: StaticSPPF,
        C2PSA: StaticC2PSA,
        PSA: StaticPSA,
        Attention: StaticAttention,
        AConv: StaticAConv,
        ADown: StaticADown,
        RepConv: StaticRepConv,
        Proto26: StaticProto26,
    }


def plain_blocks() -> set[type]:
    """Return Ultralytics' blocks that are static as they are."""
    from ultralytics.nn.modules import block, conv

    names = "Bottleneck C3 C3k PSABlock CIB RepVGGDW SCDown SPPELAN SPP RepCSP RepBottleneck DFL Proto"
    return {
        *(getattr(block, name) for name in names.split()),
        *(getattr(conv, name) for name in ("Conv", "DWConv", "Concat")),
    }
