"""`hexpath-deploy agree`: does the compiled artifact compute what the model computes?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hexpath_deploy.commands.arguments import add_model


def add_parser(subparsers: Any) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("agree", help="compare model, compiled artifact and recorded simulation")
    add_model(parser)
    parser.add_argument(
        "--compiled", required=True, type=Path, metavar="DIR", help="folder that compile wrote"
    )
    parser.add_argument(
        "--recorded", required=True, type=Path, metavar="F", help="recorded.npz of the export"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="F", help="JSON to write, also on failure")
    parser.add_argument(
        "--min-sqnr-db",
        type=float,
        metavar="X",
        help="lowest SQNR that passes (default: 20 for 8-bit outputs, 30 for 16-bit and float)",
    )
    parser.add_argument(
        "--examples", type=int, metavar="N", help="of those recorded, the first N (default: all)"
    )
    parser.add_argument("--workers", type=int, default=2, help="emulator processes (default 2)")
    parser.add_argument(
        "--verdict-only",
        action="store_true",
        help="exit 0 when outputs disagree; the verdict stands in the file",
    )


def run(args: argparse.Namespace) -> int:
    """Compare and print a table."""
    from hexpath_deploy.agree import agree

    record = agree(
        args.model,
        compiled=args.compiled,
        recorded=args.recorded,
        out=args.out,
        min_sqnr_db=args.min_sqnr_db,
        limit=args.examples,
        workers=args.workers,
        verdict_only=args.verdict_only,
    )
    for pair, rows in record["comparisons"].items():
        for row in rows:
            if "problem" in row:
                print(f"{pair} {row['name']}: {row['problem']}")
                continue
            figure = f"{row['sqnr_db']:.1f} dB" if "sqnr_db" in row else "identical"
            print(
                f"{pair} {row['name']}: {figure}, cosine {row['cosine']:.6f}, at most "
                f"{row['max_abs']:.4g} apart"
            )
    return 0
