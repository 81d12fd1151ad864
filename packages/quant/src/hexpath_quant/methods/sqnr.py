"""Ranges with the least noise: clipping and rounding weighed against each other (TF-enhanced)."""

from __future__ import annotations

from aimet_torch.common.defs import QuantScheme

SAYS = "the range with the best signal-to-noise ratio over a histogram; for low bits"
PAPER = "AIMET, quantization scheme TF-enhanced (SQNR)"
SCHEME = QuantScheme.post_training_tf_enhanced
PERCENTILE: float | None = None
