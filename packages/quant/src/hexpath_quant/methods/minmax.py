"""Ranges from the least and greatest value seen."""

from __future__ import annotations

from aimet_torch.common.defs import QuantScheme

SAYS = "least and greatest value seen; fast, exact for what it saw, hurt by outliers"
PAPER = "Jacob et al., Quantization and Training of Neural Networks, CVPR 2018"
SCHEME = QuantScheme.min_max
PERCENTILE: float | None = None
