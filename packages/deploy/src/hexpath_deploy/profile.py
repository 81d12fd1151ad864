"""Qualcomm's latency estimate of a model, with both kinds of I/O where both exist."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from hexpath_deploy.files import write_json
from hexpath_deploy.hexagon import toolchain
from hexpath_deploy.hexagon.estimate import MB, Estimate
from hexpath_deploy.hexagon.local import LIMIT_S, estimates_by_io
from hexpath_deploy.hexagon.options import IO, Options, choose
from hexpath_deploy.model import Model, read_model
from hexpath_deploy.targets import Target, estimated_by, target


def profile(
    path: Path,
    *,
    target_name: str,
    out: Path,
    io: str | None = None,
    optimization: int = 3,
    fp16: bool = False,
    limit_s: float = LIMIT_S,
) -> dict[str, Any]:
    """Estimate one inference on a target, write the record `out`, and return it.

    Raises:
        EstimateError: the target has neither an estimate nor a proxy; else as compiling.
    """
    began = time.monotonic()
    wanted = target(target_name)
    on = estimated_by(wanted)
    toolchain.require()
    model = read_model(path)
    options = choose(model, wanted, io=io, optimization=optimization, fp16=fp16)
    variants = {kind: replace(options, io=kind) for kind in IO} if model.quantized else {options.io: options}
    found = estimates_by_io(model, target=on, options=variants, limit_s=limit_s)
    record = record_of(model, wanted=wanted, on=on, options=options, found=found)
    record["seconds"] = round(time.monotonic() - began, 2)
    write_json(out, record)
    warn_missing(found[options.io], path)
    return record


def record_of(
    model: Model, *, wanted: Target, on: Target, options: Options, found: dict[str, Estimate]
) -> dict[str, Any]:
    """Return what the estimate says, for people and for the record."""
    main = found[options.io]
    record: dict[str, Any] = {
        "schema": 1,
        "model": str(model.path),
        "model_sha256": model.sha256,
        "options": options.as_dict(),
        "latency": latency(main, wanted=wanted, on=on),
        **traffic(main),
        "cycles": {"value": main.cycles, "low": main.cycles_low, "high": main.cycles_high},
        "rows": main.rows,
        "by_io": {
            io: {"latency": latency(each, wanted=wanted, on=on), **traffic(each)}
            for io, each in found.items()
        },
        "tools": toolchain.versions(),
    }
    if on is not wanted and wanted.proxy_why:
        record["proxy_why"] = wanted.proxy_why
    return record


def latency(found: Estimate, *, wanted: Target, on: Target) -> dict[str, Any]:
    """Return an estimate as the record wants it: with its bounds, its source and its target."""
    entry: dict[str, Any] = {
        "value_ms": found.value_ms,
        "low_ms": found.low_ms,
        "high_ms": found.high_ms,
        "source": "estimate",
        "target": wanted.name,
        "missing_ops": found.missing_ops,
        "tools": toolchain.versions(),
    }
    return entry if on is wanted else entry | {"proxy": on.name}


def traffic(found: Estimate) -> dict[str, Any]:
    """Return the DDR traffic of one inference in MB."""
    kinds = {
        "input_mb": "Input Fill",
        "fill_mb": "Intermediate Fill",
        "spill_mb": "Intermediate Spill",
        "output_mb": "Output Spill",
    }
    return {
        "ddr_mb": found.ddr_mb,
        "spill_mb": found.spill_mb,
        "ddr": {name: found.ddr_bytes.get(kind, 0) / MB for name, kind in kinds.items()},
    }


def warn_missing(found: Estimate, path: Path) -> None:
    """Say so when the estimate leaves operators out."""
    if found.missing_ops:
        print(
            f"hexpath-deploy: warning: the estimate of {path} leaves out {found.missing_ops} operators "
            "without a "
            "known cost: it is too low",
            file=sys.stderr,
        )
