"""What a run on a board brought back, whichever tool ran it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """`times_ms` of each inference that counts, in order; `timed` says between which two points.

    `op_cycles` maps an operator to its cycles in the mean inference; `accelerator_ms` is the median time that
    the NPU itself reports.
    """

    times_ms: tuple[float, ...]
    warm_up: int
    timed: str
    tools: Mapping[str, str] = field(default_factory=dict)
    accelerator_ms: float | None = None
    accelerator_cycles: float | None = None
    op_cycles: Mapping[str, float] = field(default_factory=dict)
    peak_memory_mb: float | None = None
    notes: tuple[str, ...] = ()
