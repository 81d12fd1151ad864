"""What one inference costs: one record, whatever the backend that found it.

An estimate has a value with bounds; a measurement has a distribution over iterations. Neither is ever written
as the other: `latency.source` says which it is, and what ran on an emulator is called `emulated`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from hexpath_deploy.backends import Request, backend
from hexpath_deploy.files import write_json

SCHEMA = 1
ESTIMATE, MEASURED, EMULATED = "estimate", "measured", "emulated"


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one inference, batch 1, without pre- and postprocessing.

    `value_ms` is the estimate, or the median of measured times. An estimate brings `low_ms` and `high_ms`,
    a measurement mean, p50, p99, min and max over `iterations` runs after `warm_up` others; `timed` says what
    lies between start and stop, `accelerator_ms` what the NPU itself reports.
    """

    value_ms: float
    source: str
    target: str
    low_ms: float | None = None
    high_ms: float | None = None
    missing_ops: int | None = None
    proxy: str | None = None
    mean_ms: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    iterations: int | None = None
    warm_up: int | None = None
    accelerator_ms: float | None = None
    timed: str | None = None
    tools: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """DDR traffic of one inference in MB (1e6 bytes): input and weights, fill and spill, output."""

    input_mb: float
    fill_mb: float
    spill_mb: float
    output_mb: float

    @property
    def total_mb(self) -> float:
        """All of it."""
        return self.input_mb + self.fill_mb + self.spill_mb + self.output_mb

    def for_record(self) -> dict[str, Any]:
        """Return the record's three entries."""
        return {"ddr_mb": self.total_mb, "spill_mb": self.spill_mb, "ddr": present(self)}


@dataclass(frozen=True, kw_only=True)
class HubJob:
    """A job of Qualcomm AI Hub: what it did, its id, and the page that shows it."""

    kind: str
    id: str
    url: str


@dataclass(frozen=True, kw_only=True)
class ByIo:
    """The estimate for one kind of tensors at the graph's border."""

    latency: Latency
    traffic: Traffic

    def for_record(self) -> dict[str, Any]:
        """Return the record's entry."""
        return {"latency": present(self.latency), **self.traffic.for_record()}


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The record; what a backend does not give is absent, never null.

    `op_cycles` maps an operator to its cycles in one inference, `device` holds what the board says of itself,
    `artifact_sha256` the compiled bits that ran, `rows` all that an estimate says, `load_ms` and `compile_ms`
    what happens once.
    """

    backend: str
    model: str
    model_sha256: str
    latency: Latency
    options: Mapping[str, Any]
    tools: Mapping[str, str]
    seconds: float = 0.0
    traffic: Traffic | None = None
    peak_memory_mb: float | None = None
    cycles: Mapping[str, float] | None = None
    op_cycles: Mapping[str, float] = field(default_factory=dict)
    compute_units: Mapping[str, int] = field(default_factory=dict)
    load_ms: float | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    by_io: Mapping[str, ByIo] = field(default_factory=dict)
    artifact_sha256: str | None = None
    device: Mapping[str, Any] = field(default_factory=dict)
    jobs: tuple[HubJob, ...] = ()
    proxy_why: str | None = None
    notes: tuple[str, ...] = ()

    def for_record(self) -> dict[str, Any]:
        """Return the JSON object that `profile` writes."""
        nested = {"latency", "traffic", "by_io", "jobs"}
        record = {"schema": SCHEMA, **present(self, leave=nested), "latency": present(self.latency)}
        if self.traffic is not None:
            record |= self.traffic.for_record()
        if self.by_io:
            record["by_io"] = {io: each.for_record() for io, each in self.by_io.items()}
        if self.jobs:
            record["jobs"] = [present(job) for job in self.jobs]
        return record


def present(value: Any, *, leave: set[str] = frozenset()) -> dict[str, Any]:  # type: ignore[assignment]
    """Return the fields of a record that hold something, as JSON has them."""
    found = {each.name: getattr(value, each.name) for each in fields(value) if each.name not in leave}
    return {
        name: dict(item) if isinstance(item, Mapping) else list(item) if isinstance(item, tuple) else item
        for name, item in found.items()
        if item is not None and item != {} and item != ()
    }


def measured(
    times_ms: Sequence[float],
    *,
    target: str,
    warm_up: int,
    timed: str,
    tools: Mapping[str, str],
    source: str = MEASURED,
    accelerator_ms: float | None = None,
) -> Latency:
    """Return the latency that repeated runs show; the median is its value, p99 is interpolated linearly.

    Raises:
        ValueError: there is no run.
    """
    import numpy as np

    if not times_ms:
        raise ValueError("no run was timed")
    p50_ms, p99_ms = (round(float(each), 4) for each in np.percentile(times_ms, (50, 99)))
    return Latency(
        value_ms=p50_ms,
        source=source,
        target=target,
        mean_ms=round(float(np.mean(times_ms)), 4),
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        min_ms=round(min(times_ms), 4),
        max_ms=round(max(times_ms), 4),
        iterations=len(times_ms),
        warm_up=warm_up,
        accelerator_ms=accelerator_ms,
        timed=timed,
        tools=tools,
    )


def profile(request: Request, *, name: str, out: Path) -> dict[str, Any]:
    """Let the backend `name` profile a model, write the record `out`, and return it.

    Raises:
        OptionError: no such backend, or options that it cannot use; else as the backend says.
    """
    began = time.monotonic()
    found = backend(name).profile(request)
    record = replace(found, seconds=round(time.monotonic() - began, 2)).for_record()
    write_json(out, record)
    shutil.rmtree(request.work, ignore_errors=True)
    return record


def work_path(out: Path) -> Path:
    """Return the folder in which an interrupted profile finds its jobs again; removed in the end."""
    return out.with_name(f"{out.name}.work")


def raw_path(out: Path) -> Path:
    """Return the folder beside a record that keeps what the device sent."""
    return out.with_name(f"{out.stem}.raw")
