"""`hexpath-deploy targets`: list the devices, or one of them."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("targets", help="list the devices that can be compiled for")
    parser.add_argument(
        "name", nargs="?", metavar="TARGET", help="only this one, with the source of each figure"
    )
    parser.add_argument("--json", action="store_true", help="with the source of each figure, as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from hexpath_deploy import targets

    chosen = [targets.target(args.name)] if args.name else list(targets.targets().values())
    if args.json:
        print(json.dumps([asdict(entry) for entry in chosen], indent=1))
    elif args.name:
        print(targets.details(chosen[0]))
    else:
        print(targets.table(chosen))
    return 0
