"""`hexpath-deploy summary RESULTS.json`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("summary", help="print the results table")
    parser.add_argument("results", type=Path, metavar="RESULTS.json")


def run(args: argparse.Namespace) -> int:
    """Check the record and print it; colours only on a terminal, and not with NO_COLOR."""
    import sys

    from hexpath_deploy.report.redact import redact
    from hexpath_deploy.report.results import load
    from hexpath_deploy.report.terminal import summary, wants_colour

    print(summary(redact(load(args.results)), colour=wants_colour(sys.stdout)))
    return 0
