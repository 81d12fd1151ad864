"""Post-training methods: modules that meet one Protocol and stand in one dict; `+` composes them.

To add one: write a module with ``SAYS``, ``PAPER`` and what its kind has (see ``steps``), and list it here.
"""

from __future__ import annotations

from typing import Any

from hexpath_quant.errors import UnknownNameError, unknown_name
from hexpath_quant.methods import (
    adaround,
    bias_correction,
    bn_reestimation,
    cle,
    minmax,
    percentile,
    sqnr,
)
from hexpath_quant.methods.steps import Batches, Method, Recipe

__all__ = ["METHODS", "Batches", "Method", "Recipe", "find_method"]

METHODS: dict[str, Method] = {
    "minmax": minmax,
    "percentile": percentile,
    "sqnr": sqnr,
    "cle": cle,
    "adaround": adaround,
    "bn-reestimation": bn_reestimation,
    "bias-correction": bias_correction,
}


def find_method(name: str) -> Recipe:
    """Return the method called ``name``, or composed of several: ``cle+sqnr+bias-correction``.

    Without one that observes ranges, these are `minmax`.

    Raises:
        UnknownNameError: no such method (the message offers the nearest), or two that observe ranges.
    """
    parts = name.split("+")
    for part in parts:
        if part not in METHODS:
            raise unknown_name(kind="method", name=part, known=METHODS)
    steps: list[Any] = [METHODS[part] for part in parts]
    ranges = [step for step in steps if hasattr(step, "SCHEME")]
    if len(ranges) > 1 or len(set(parts)) < len(parts):
        raise UnknownNameError(
            f"method '{name}' names a step twice, or two that observe ranges; take one of minmax,"
            " percentile and sqnr"
        )
    return Recipe(
        before=tuple(step for step in steps if hasattr(step, "equalize")),
        ranges=ranges[0] if ranges else METHODS["minmax"],  # type: ignore[arg-type]
        behind=tuple(step for step in steps if hasattr(step, "correct")),
    )
