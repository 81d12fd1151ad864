"""Post-training methods: modules that meet one Protocol and stand in one dict.

To add one: write a module with the three names of ``Method`` and list it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor, nn

from hexpath_quant.errors import unknown_name
from hexpath_quant.methods import cle, minmax, percentile, sqnr
from hexpath_quant.plans import Plan

Batches = Callable[[], Iterator[Tensor]]


class Method(Protocol):
    """A post-training method.

    Attributes:
        SAYS: one line for ``hexpath-quant methods``.
        PAPER: where it comes from.
    """

    SAYS: str
    PAPER: str

    def quantize(
        self,
        prepared: nn.Module,
        *,
        example: Tensor,
        plan: Plan,
        batches: Batches,
        input_range: tuple[float, float] | None,
    ) -> QuantizationSimModel:
        """Return a calibrated simulation of ``prepared``; ``batches`` starts anew at each call."""


METHODS: dict[str, Method] = {
    "minmax": minmax,
    "percentile": percentile,
    "sqnr": sqnr,
    "cle": cle,
}


def find_method(name: str) -> Method:
    """Return the method called ``name``.

    Raises:
        UnknownNameError: no such method; the message offers the nearest.
    """
    if name not in METHODS:
        raise unknown_name(kind="method", name=name, known=METHODS)
    return METHODS[name]
