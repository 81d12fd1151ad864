"""`hexpath-deploy record`: results.json of the stages' files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("record", help="assemble results.json from the files of the stages")
    parser.add_argument("spec", type=Path, metavar="SPEC.json", help="what belongs together, see the README")
    parser.add_argument("--out", required=True, type=Path, metavar="F", help="results.json to write")


def run(args: argparse.Namespace) -> int:
    """Assemble and say how much."""
    from hexpath_deploy.record import record

    found = record(args.spec, out=args.out)
    print(f"{args.out}: {len(found['results'])} rows")
    return 0
