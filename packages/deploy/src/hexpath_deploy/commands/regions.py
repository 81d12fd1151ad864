"""`hexpath-deploy regions`: what each region costs at each precision."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("regions", help="cost table: region x precision, in context, in ms and MB")
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="a w8a8 QDQ model, of any task")
    parser.add_argument("--target", required=True, help="device, see hexpath-deploy targets")
    parser.add_argument("--out", required=True, type=Path, metavar="F", help="JSON to write")
    parser.add_argument(
        "--precisions", default="w8a16,fp16", help="of w8a16, w4a8, w4a16, fp16 (default w8a16,fp16)"
    )
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="where compiled costs are kept (default: OUT.cache)"
    )
    parser.add_argument("--workers", type=int, default=2, help="compilers side by side (default 2)")
    parser.add_argument(
        "--plans", type=int, default=40, help="random plans to check the table by (default 40)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random plans")
    parser.add_argument(
        "--isolated", action="store_true", help="also compile each region cut out, to show what that is worth"
    )
    parser.add_argument("--optimization", type=int, default=3, choices=(1, 2, 3), help="of the compiler")
    parser.add_argument(
        "--io", default="quantized", choices=("quantized", "float"), help="at the graph's border"
    )
    parser.add_argument("--time-limit", type=float, default=1800.0, metavar="SECONDS", help="per compilation")


def run(args: argparse.Namespace) -> int:
    """Measure and print the table."""
    from hexpath_deploy.errors import OptionError
    from hexpath_deploy.regions.precision import parse_precisions
    from hexpath_deploy.regions.table import build, open_bench
    from hexpath_deploy.regions.text import as_text

    precisions = parse_precisions(args.precisions)
    if args.workers < 1 or args.plans < 1:
        raise OptionError(f"--workers {args.workers} --plans {args.plans}: both must be at least 1")
    bench = open_bench(
        args.model,
        target_name=args.target,
        cache=args.cache or args.out.with_name(f"{args.out.name}.cache"),
        io=args.io,
        optimization=args.optimization,
        limit_s=args.time_limit,
    )
    table = build(
        bench,
        target_name=args.target,
        precisions=precisions,
        out=args.out,
        workers=args.workers,
        plans=args.plans,
        seed=args.seed,
        isolated=args.isolated,
    )
    print(as_text(table))
    return 0
