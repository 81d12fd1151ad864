"""Precision plans: how many bits the weights and the activations of a network get.

A plan is frozen data. One plan holds for a whole network; a mapping from region to plan
can stand beside it later without a change here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hexpath_quant.errors import UnknownNameError, unknown_name

GRANULARITIES = ("per-channel", "per-tensor")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Integer precisions of one network.

    Attributes:
        weight_bits: of convolution, linear and norm weights; biases are int32.
        activation_bits: of every tensor between two operators.
        per_channel: one weight scale an output channel, else one a tensor.
        symmetric_weights: zero point 0, as Hexagon's convolutions want it.
    """

    weight_bits: int
    activation_bits: int
    per_channel: bool = True
    symmetric_weights: bool = True

    @property
    def name(self) -> str:
        """The plan as it is written: ``w8a8``, ``w4a8-per-tensor``."""
        return f"w{self.weight_bits}a{self.activation_bits}" + ("" if self.per_channel else "-per-tensor")


PLANS: dict[str, Plan] = {
    "w8a8": Plan(weight_bits=8, activation_bits=8),
    "w8a16": Plan(weight_bits=8, activation_bits=16),
    "w4a8": Plan(weight_bits=4, activation_bits=8),
    "w4a16": Plan(weight_bits=4, activation_bits=16),
}

SAYS = {
    "w8a8": "the fastest on Hexagon; enough for most convolutional networks",
    "w8a16": "16-bit activations: close to float, two to three times slower than w8a8",
    "w4a8": "half the weights' size; needs qat",
    "w4a16": "half the weights' size with 16-bit activations",
}


def parse_plan(text: str) -> Plan:
    """Read ``w8a8`` or ``w8a8-per-tensor``.

    Raises:
        UnknownNameError: no such plan; the message offers the nearest.
    """
    base, _, granularity = text.partition("-")
    if base in ("fp32", "fp16"):
        raise UnknownNameError(
            f"plan '{base}' is not quantized here; export the float model and compile that"
        )
    if base not in PLANS:
        known = [*PLANS, *(f"{name}-per-tensor" for name in PLANS)]
        raise unknown_name(kind="plan", name=text, known=known)
    if granularity and granularity not in GRANULARITIES:
        raise unknown_name(kind="weight granularity", name=granularity, known=GRANULARITIES)
    return replace(PLANS[base], per_channel=granularity != "per-tensor")
