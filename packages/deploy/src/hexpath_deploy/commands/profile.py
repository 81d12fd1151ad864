"""`hexpath-deploy profile`: Qualcomm's latency estimate."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hexpath_deploy.commands.arguments import add_compiling, add_model


def add_parser(subparsers: Any) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("profile", help="estimate latency and DDR traffic on a device")
    add_model(parser)
    add_compiling(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="F", help="JSON to write")


def run(args: argparse.Namespace) -> int:
    """Estimate and print a summary."""
    from hexpath_deploy.profile import profile

    record = profile(
        args.model,
        target_name=args.target,
        out=args.out,
        io=args.io,
        optimization=args.optimization,
        fp16=args.fp16,
        limit_s=args.time_limit,
    )
    for io, entry in record["by_io"].items():
        found = entry["latency"]
        proxy = f" (estimated as {found['proxy']})" if "proxy" in found else ""
        print(
            f"{found['target']}{proxy}, {io} I/O: {found['value_ms']:.2f} ms estimated "
            f"({found['low_ms']:.2f} to {found['high_ms']:.2f}), {entry['ddr_mb']:.2f} MB DDR, "
            f"{entry['spill_mb']:.2f} MB spilled"
        )
    return 0
