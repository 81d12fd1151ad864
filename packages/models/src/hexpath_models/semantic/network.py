"""A segmentation network as it is deployed: its own normalization is the first layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SemanticNetwork(nn.Module):
    """`net` behind (x - mean) / std.

    mean, std: of each colour channel, in [0, 1] units, as `net` was trained with. The normalization is one
    frozen depthwise 1x1 convolution: one operator on the NPU, with a weight scale for each channel.
    """

    def __init__(
        self, net: nn.Module, *, mean: tuple[float, float, float], std: tuple[float, float, float]
    ) -> None:
        super().__init__()
        self.normalize = nn.Conv2d(3, 3, 1, groups=3)
        center, spread = torch.tensor(mean), torch.tensor(std)
        self.normalize.weight.data.copy_((1 / spread).reshape(3, 1, 1, 1))
        self.normalize.bias.data.copy_(-center / spread)  # type: ignore[union-attr]
        self.normalize.requires_grad_(False)
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """RGB (B, 3, H, W) in [0, 1] to logits (B, classes, H/stride, W/stride)."""
        return (self.net(self.normalize(images)),)
