"""Backend `local`: Qualcomm's latency estimate on this machine, with both kinds of I/O where both exist."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from hexpath_deploy.backends import Request
from hexpath_deploy.errors import OptionError
from hexpath_deploy.hexagon import toolchain
from hexpath_deploy.hexagon.estimate import MB, Estimate
from hexpath_deploy.hexagon.local import estimates_by_io
from hexpath_deploy.hexagon.options import IO, choose
from hexpath_deploy.model import read_model
from hexpath_deploy.profile import ESTIMATE, ByIo, Latency, Profile, Traffic
from hexpath_deploy.targets import Target, estimated_by, target


def profile(request: Request) -> Profile:
    """Estimate one inference on a target.

    Raises:
        EstimateError: the target has neither an estimate nor a proxy; else as compiling.
    """
    if request.target is None:
        raise OptionError("--backend local estimates for a device: name it with --target")
    wanted = target(request.target)
    on = estimated_by(wanted)
    toolchain.require()
    model = read_model(request.model)
    options = choose(model, wanted, io=request.io, optimization=request.optimization, fp16=request.fp16)
    variants = {kind: replace(options, io=kind) for kind in IO} if model.quantized else {options.io: options}
    found = estimates_by_io(model, target=on, options=variants, limit_s=request.limit_s, cache=request.cache)
    main = found[options.io]
    warn_missing(main, request.model)
    return Profile(
        backend="local",
        model=str(model.path),
        model_sha256=model.sha256,
        latency=latency(main, wanted=wanted, on=on),
        options=options.as_dict(),
        tools=toolchain.versions(),
        traffic=traffic(main),
        cycles={"value": main.cycles, "low": main.cycles_low, "high": main.cycles_high},
        rows=main.rows,
        by_io={
            io: ByIo(latency=latency(each, wanted=wanted, on=on), traffic=traffic(each))
            for io, each in found.items()
        },
        proxy_why=wanted.proxy_why if on is not wanted else None,
    )


def latency(found: Estimate, *, wanted: Target, on: Target) -> Latency:
    """Return an estimate with its bounds, its source and its target."""
    return Latency(
        value_ms=found.value_ms,
        low_ms=found.low_ms,
        high_ms=found.high_ms,
        source=ESTIMATE,
        target=wanted.name,
        missing_ops=found.missing_ops,
        tools=toolchain.versions(),
        proxy=None if on is wanted else on.name,
    )


def traffic(found: Estimate) -> Traffic:
    """Return the DDR traffic of one inference."""
    kinds = {
        "input_mb": "Input Fill",
        "fill_mb": "Intermediate Fill",
        "spill_mb": "Intermediate Spill",
        "output_mb": "Output Spill",
    }
    return Traffic(**{name: found.ddr_bytes.get(kind, 0) / MB for name, kind in kinds.items()})


def warn_missing(found: Estimate, path: Path) -> None:
    """Say so when the estimate leaves operators out."""
    if found.missing_ops:
        print(
            f"hexpath-deploy: warning: the estimate of {path} leaves out {found.missing_ops} operators "
            "without a known cost: it is too low",
            file=sys.stderr,
        )
