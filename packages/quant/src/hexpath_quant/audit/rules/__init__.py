"""The rules of the audit: modules that meet one Protocol and stand in one dict.

To add one: write a module with ``SAYS`` and ``check``, and list it here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from hexpath_quant.audit.findings import Finding
from hexpath_quant.audit.network import Network
from hexpath_quant.audit.rules import (
    concat,
    decode,
    division,
    epsilon,
    layer_norm,
    operators,
    overflow,
    residual,
    resize,
    softmax,
    tails,
    weights,
)
from hexpath_quant.plans import Plan


class Rule(Protocol):
    """A rule.

    Attributes:
        SAYS: one line for ``hexpath-quant rules``.
    """

    SAYS: str

    def check(self, network: Network, *, plan: Plan) -> Iterator[Finding]:
        """Yield what is wrong with ``network`` at ``plan``'s bits."""


RULES: dict[str, Rule] = {
    "division": division,
    "epsilon": epsilon,
    "concat": concat,
    "decode": decode,
    "softmax": softmax,
    "layer_norm": layer_norm,
    "weights": weights,
    "tails": tails,
    "residual": residual,
    "resize": resize,
    "overflow": overflow,
    "operators": operators,
}
