"""What a tensor was seen to hold, kept small: ends, power, channel peaks and a sample of its values."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

SAMPLE_A_BATCH = 16_384


@dataclass(kw_only=True)
class Stats:
    """Of one float tensor over all observed images.

    Attributes:
        low, high: least and greatest value.
        square, count: sum of squares, number of values.
        peaks: greatest absolute value of each channel (axis 1 of images and maps, else the last axis).
        values: evenly spaced sample, float32 (n,).
    """

    low: float = float("inf")
    high: float = float("-inf")
    square: float = 0.0
    count: int = 0
    peaks: Tensor = field(default_factory=lambda: torch.zeros(0))
    samples: list[Tensor] = field(default_factory=list)

    def add(self, x: Tensor) -> None:
        """Observe one more tensor of the same kind."""
        x = x.detach().float()
        if not x.numel():
            return
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        self.square += float(x.square().sum(dtype=torch.float64))
        self.count += x.numel()
        peaks = _channel_peaks(x)
        same = self.peaks.shape == peaks.shape
        self.peaks = torch.maximum(self.peaks, peaks) if same else peaks
        flat = x.flatten()
        self.samples.append(flat[:: max(1, flat.numel() // SAMPLE_A_BATCH)].clone())

    @property
    def peak(self) -> float:
        """Greatest absolute value."""
        return max(abs(self.low), abs(self.high))

    @property
    def rms(self) -> float:
        """Root of the mean square."""
        return float((self.square / max(self.count, 1)) ** 0.5)

    @property
    def values(self) -> Tensor:
        """The sampled values."""
        return torch.cat(self.samples)

    def step(self, bits: int) -> float:
        """The step of an asymmetric grid of ``bits`` that spans the values and zero."""
        return max((max(self.high, 0.0) - min(self.low, 0.0)) / (2**bits - 1), 1e-30)

    def quantile(self, share: float) -> float:
        """Quantile of the absolute values."""
        return float(torch.quantile(self.values.abs()[:1_000_000], share))


def _channel_peaks(x: Tensor) -> Tensor:
    if x.dim() < 2:
        return x.abs().max().reshape(1)
    axis = 1 if x.dim() >= 4 else x.dim() - 1
    return x.abs().amax(dim=[d for d in range(x.dim()) if d != axis])
