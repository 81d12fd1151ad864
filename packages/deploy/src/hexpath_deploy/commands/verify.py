"""`hexpath-deploy verify`: is a bundle what it was when it was made?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("verify", help="hold a bundle against its checksums, and unpack it safely")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="its folder or zip")
    parser.add_argument(
        "--extract", type=Path, metavar="DIR", help="folder to unpack into, once it is verified"
    )


def run(args: argparse.Namespace) -> int:
    """Verify, unpack, and say how much was checked."""
    from hexpath_deploy.bundle.archive import extract, verify

    names = extract(args.bundle, out=args.extract) if args.extract else verify(args.bundle)
    print(f"{args.bundle}: {len(names)} files as in SHA256SUMS")
    return 0
