"""`hexpath-deploy gate`: the release gates."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("gate", help="judge a model by the release gates")
    files = {
        "eval": "evaluation of the artifact (emulator or device)",
        "fp32": "evaluation of the float model, on ONNX Runtime",
        "host": "evaluation whose times of pre- and postprocessing count (default: that of --eval)",
        "profile": "latency record",
        "agree": "agreement record",
        "meta": "JSON lines with file_name and time_of_day, where the COCO file has none",
    }
    for name, text in files.items():
        parser.add_argument(f"--{name}", type=Path, metavar="F", help=text)
    parser.add_argument("--compiled", type=Path, metavar="DIR", help="folder that compile wrote")
    parser.add_argument(
        "--gates", type=Path, metavar="TOML", help="limits (default: the package's gates.toml)"
    )
    parser.add_argument(
        "--threshold", metavar="X", help="in place of the file's: a score, best-f1 or passing"
    )
    parser.add_argument("--print-gates", action="store_true", help="print the package's gates.toml and stop")
    parser.add_argument("--out", type=Path, metavar="F", help="verdict to write, JSON")
    parser.add_argument("--judged", type=Path, metavar="F", help="show a verdict that was written before")
    parser.add_argument("--explain", action="store_true", help="say what would make each failed gate pass")
    parser.add_argument(
        "--verdict-only", action="store_true", help="exit 0 whatever the verdict; it stands in the file"
    )


def run(args: argparse.Namespace) -> int:
    """Judge, print the table, and end with the verdict's exit code."""
    from hexpath_deploy.errors import OptionError
    from hexpath_deploy.gates.evidence import Files
    from hexpath_deploy.gates.judge import judge, read_verdict, refuse, table

    if args.print_gates:
        return print_gates()
    if args.judged is None and args.out is None:
        raise OptionError("gate needs --out for the verdict, or --judged for one that was written before")
    if args.judged is not None:
        record = read_verdict(args.judged)
    else:
        card = args.compiled / "compile.json" if args.compiled else None
        files = Files(
            evaluation=args.eval,
            fp32=args.fp32,
            host=args.host,
            compiled=card,
            profile=args.profile,
            agree=args.agree,
            meta=args.meta,
        )
        record = judge(files, gates=args.gates, out=args.out, threshold=args.threshold)
    print(table(record, advice=args.explain))
    if not args.verdict_only:
        refuse(record, path=args.judged or args.out)
    return 0


def print_gates() -> int:
    """Print the default limits, to be copied and changed."""
    from importlib.resources import files

    print(files("hexpath_deploy.gates").joinpath("gates.toml").read_text(encoding="utf-8"), end="")
    return 0
