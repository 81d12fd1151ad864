"""The precisions that a region can have, and what they mean for its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hexpath_deploy.errors import OptionError, nearest


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Bits of weights and of activations; None is float, which the NPU computes as FP16."""

    name: str
    weight_bits: int | None
    activation_bits: int | None


BASE = "w8a8"
PRECISIONS = {
    entry.name: entry
    for entry in (
        Precision(name="w8a8", weight_bits=8, activation_bits=8),
        Precision(name="w8a16", weight_bits=8, activation_bits=16),
        Precision(name="w4a8", weight_bits=4, activation_bits=8),
        Precision(name="w4a16", weight_bits=4, activation_bits=16),
        Precision(name="fp16", weight_bits=None, activation_bits=None),
    )
}
DEFAULT = ("w8a16", "fp16")


def parse_precisions(text: str) -> tuple[str, ...]:
    """Read a list such as ``w8a16,fp16``; the base, which costs nothing more than itself, is left out.

    Raises:
        OptionError: a precision is unknown, or none is left.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in PRECISIONS:
            raise OptionError(f"unknown precision '{name}'{nearest(name, PRECISIONS)}")
    wanted = tuple(dict.fromkeys(name for name in names if name != BASE))
    if not wanted:
        raise OptionError(f"--precisions '{text}' names none beside {BASE}: give for example w8a16,fp16")
    return wanted


def check_plan(plan: Mapping[str, str], *, regions: Sequence[str]) -> dict[str, str]:
    """Return the plan without what is at the base precision anyway, in the order of the regions.

    Raises:
        OptionError: a region or a precision is unknown.
    """
    for region, precision in plan.items():
        if region not in regions:
            raise OptionError(f"unknown region '{region}'{nearest(region, regions)}")
        if precision not in PRECISIONS:
            raise OptionError(
                f"region '{region}': unknown precision '{precision}'{nearest(precision, PRECISIONS)}"
            )
    return {region: plan[region] for region in regions if plan.get(region, BASE) != BASE}
