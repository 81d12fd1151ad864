"""Ranges that leave out the rarest values on both sides."""

from __future__ import annotations

from aimet_torch.common.defs import QuantScheme

SAYS = "leaves out the rarest 0.01% on each side; for activations with outliers"
PAPER = "McKinstry et al., Discovering Low-Precision Networks, 2018"
SCHEME = QuantScheme.post_training_percentile
PERCENTILE: float | None = 99.99
