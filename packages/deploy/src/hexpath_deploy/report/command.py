"""`hexpath-deploy report RESULTS.json --out report.html`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("report", help="write one self-contained HTML file from results.json")
    parser.add_argument("results", type=Path, metavar="RESULTS.json")
    parser.add_argument("--out", type=Path, required=True, metavar="report.html")
    parser.add_argument(
        "--against", metavar="ID", help="plan that speedups refer to (default: the record's, else fp16)"
    )
    parser.add_argument(
        "--score-threshold", type=float, default=0.25, help="boxes below are not drawn (default 0.25)"
    )
    parser.add_argument(
        "--without-files", action="store_true", help="leave out curves, images and the dataset card"
    )


def run(args: argparse.Namespace) -> int:
    """Check the record, render it, write the file."""
    from hexpath_deploy.files import write_atomic
    from hexpath_deploy.report.document import render
    from hexpath_deploy.report.results import load

    results = load(args.results)
    html = render(
        results,
        root=args.results.resolve().parent,
        against=args.against,
        score_threshold=args.score_threshold,
        files=not args.without_files,
    )
    write_atomic(args.out, html)
    print(f"report: {args.out} ({len(html.encode()) / 1e6:.1f} MB)")
    return 0
