"""`hexpath-deploy log RESULTS.json`: the same facts to Weights & Biases."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "log", help="log results.json to Weights & Biases (offline unless a key is set)"
    )
    parser.add_argument("results", type=Path, metavar="RESULTS.json")
    parser.add_argument(
        "--report", type=Path, metavar="report.html", help="default: report.html beside the record"
    )
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="where W&B keeps its files (default: beside the record)"
    )


def run(args: argparse.Namespace) -> int:
    """Check the record, log it, say where it went."""
    from hexpath_deploy.report.results import load
    from hexpath_deploy.report.tracking import close, log

    results = load(args.results)
    folder = args.results.resolve().parent
    report = args.report or folder / "report.html"
    logged = log(
        results, path=args.results, report=report if report.is_file() else None, folder=args.dir or folder
    )
    close()
    print(f"wandb: {logged.mode}, project {logged.project}, {logged.place}")
    if logged.mode == "offline":
        print("wandb: nothing was sent; `wandb sync` with that folder sends it")
    return 0
