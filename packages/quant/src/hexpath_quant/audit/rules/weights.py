"""Weights after folding: channels of unlike size under one scale, and noise of the rounding."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hexpath_quant.audit.findings import Finding, Severity
from hexpath_quant.audit.network import Network, Op
from hexpath_quant.plans import Plan

SAYS = "weights that one scale a tensor, or 4 bits, cannot hold after batch norms are folded"

LOST_STEPS = 4.0
WARNING_SHARE, SEVERE_SHARE = 0.05, 0.25
SQNR_LIMIT_DB = 15.0


def check(network: Network, *, plan: Plan) -> Iterator[Finding]:
    """Yield findings for the weights of convolutions and linear layers."""
    for op in network.of_kind("convolution", "linear"):
        if op.weight is None:
            continue
        yield from _spread(op, weight=op.weight, plan=plan)
        yield from _noise(op, weight=op.weight, plan=plan)


def _spread(op: Op, *, weight: Tensor, plan: Plan) -> Iterator[Finding]:
    if plan.per_channel:
        return
    peaks = weight.flatten(1).abs().amax(1)
    step = float(peaks.max()) / (2 ** (plan.weight_bits - 1) - 1)
    lost = float((peaks < LOST_STEPS * step).float().mean())
    if lost > WARNING_SHARE:
        yield Finding(
            rule="weights",
            where=op.name,
            figure=lost,
            limit=WARNING_SHARE,
            reason=f"{lost:.0%} of the channels peak below {LOST_STEPS:.0f} steps of the tensor's scale",
            remedy="use one scale a channel (a plan without -per-tensor), or cross-layer equalization",
            severity=Severity.SEVERE if lost > SEVERE_SHARE else Severity.WARNING,
        )


def _noise(op: Op, *, weight: Tensor, plan: Plan) -> Iterator[Finding]:
    figure = sqnr_db(weight, bits=plan.weight_bits, per_channel=plan.per_channel)
    if figure < SQNR_LIMIT_DB:
        yield Finding(
            rule="weights",
            where=op.name,
            figure=figure,
            limit=SQNR_LIMIT_DB,
            reason=f"rounding to {plan.weight_bits} bits leaves {figure:.1f} dB of the weights",
            remedy="quantization-aware training (hexpath-quant qat), or 8-bit weights here",
            severity=Severity.WARNING,
        )


def sqnr_db(weight: Tensor, *, bits: int, per_channel: bool) -> float:
    """Return signal to rounding noise of symmetric min-max quantization, in dB."""
    top = 2 ** (bits - 1) - 1
    peaks = weight.flatten(1).abs().amax(1) if per_channel else weight.abs().max().expand(len(weight))
    scale = (peaks / top).clamp_min(1e-30).reshape(-1, *[1] * (weight.dim() - 1))
    noise = ((weight / scale).round() * scale - weight).square().sum()
    return float(10 * torch.log10(weight.square().sum().clamp_min(1e-30) / noise.clamp_min(1e-30)))
