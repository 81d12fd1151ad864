"""`hexpath-deploy fidelity`: how far estimates are from published device figures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

TARGETS = "qcs9075,qcs8550"


def add_parser(subparsers: Any) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "fidelity", help="estimates against published device figures; without models: what this version found"
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NETWORK-PRECISION=FILE",
        help="compare this model, such as yolo11n-640-w8a8=model.onnx; may be given again",
    )
    parser.add_argument(
        "--models", type=Path, metavar="DIR", help="all files NETWORK-PRECISION.onnx of a folder"
    )
    parser.add_argument("--targets", default=TARGETS, help=f"devices (default {TARGETS})")
    parser.add_argument("--out", type=Path, metavar="F", help="JSON to write")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where compiled costs are kept")
    parser.add_argument("--time-limit", type=float, default=1800.0, metavar="SECONDS", help="per compilation")


def run(args: argparse.Namespace) -> int:
    """Compare, or show what is known, and print the table."""
    import tempfile

    from hexpath_deploy.fidelity.measured import measured
    from hexpath_deploy.fidelity.text import as_text
    from hexpath_deploy.files import write_json

    if not args.model and not args.models:
        found = measured()
    else:
        from hexpath_deploy.fidelity.compare import compare, parse_candidates

        with tempfile.TemporaryDirectory(prefix="hexpath-") as scratch:
            found = compare(
                parse_candidates(args.model, folder=args.models),
                targets=[name.strip() for name in args.targets.split(",") if name.strip()],
                cache=args.cache or Path(scratch),
                limit_s=args.time_limit,
            )
    if args.out:
        write_json(args.out, found)
    print(as_text(found))
    return 0
