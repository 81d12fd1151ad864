"""How far outputs are from the float network's: sums over batches, then SQNR and cosine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

NONE_DB = 300.0  # no difference at all
LOST_DB = -300.0  # NaN or infinity in an output: a division by what was rounded to 0


@dataclass(kw_only=True)
class Noise:
    """Sums of squares and products, one entry an output."""

    signal: list[float] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)
    product: list[float] = field(default_factory=list)
    power: list[float] = field(default_factory=list)

    def add(self, *, reference: Sequence[Tensor], found: Sequence[Tensor]) -> None:
        """Take in the outputs of one batch."""
        if not self.signal:
            self.signal, self.noise, self.product, self.power = ([0.0] * len(reference) for _ in range(4))
        for index, (a, b) in enumerate(zip(reference, found, strict=True)):
            self.signal[index] += float(a.square().sum())
            self.noise[index] += float((a - b).square().sum())
            self.product[index] += float((a * b).sum())
            self.power[index] += float(b.square().sum())

    @property
    def ratio(self) -> float:
        """Noise over signal, the mean over the outputs: none drowns the others by its range."""
        pairs = list(zip(self.noise, self.signal, strict=True))
        return sum(n / max(s, 1e-30) for n, s in pairs) / max(len(pairs), 1)

    @property
    def sqnr_db(self) -> float:
        """-10 log10 of the ratio; LOST_DB where it is not finite."""
        if not math.isfinite(self.ratio):
            return LOST_DB
        return NONE_DB if self.ratio == 0 else -10 * math.log10(self.ratio)

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the outputs, the mean over the outputs; 0 of one that is not finite."""
        found = [
            p / max(math.sqrt(s * q), 1e-30)
            for p, s, q in zip(self.product, self.signal, self.power, strict=True)
        ]
        return sum(value for value in found if math.isfinite(value)) / max(len(found), 1)
