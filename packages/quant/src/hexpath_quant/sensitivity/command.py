"""``hexpath-quant sensitivity``."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from hexpath_quant.errors import UnknownNameError
from hexpath_quant.files import write_atomic

ALL = "all"


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "sensitivity", help="what each layer, region and class loses when it is quantized"
    )
    parser.add_argument("--task", required=True, help="installed task, e.g. yolo-detect")
    parser.add_argument("--checkpoint", required=True, type=Path, help="model.safetensors")
    parser.add_argument("--data", required=True, type=Path, help="data.yaml")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="for the task")
    parser.add_argument(
        "--plan",
        default="w8a8",
        help="plans, by comma: the first by layer and region, others by region (default: %(default)s)",
    )
    parser.add_argument("--method", default="minmax", help="see `hexpath-quant methods`")
    parser.add_argument(
        "--calibration", type=int, default=64, metavar="N", help="images (default: %(default)s)"
    )
    parser.add_argument("--regions", type=Path, help="YAML that names regions: region -> module prefixes")
    parser.add_argument("--images", type=int, metavar="N", help="validation images to score (default: all)")
    parser.add_argument(
        "--sample", type=int, default=4, metavar="N", help="images for SQNR and estimates (default: 4)"
    )
    parser.add_argument(
        "--confirm",
        default="24",
        metavar="N",
        help="layers to score: the worst by estimate and a quarter as many others; 'all'; 0: only what"
        " `plan` needs (default: 24)",
    )
    parser.add_argument(
        "--share",
        type=float,
        default=0.2,
        help="alarm for a class that loses more of its metric (default: 0.2)",
    )
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one a core)")
    parser.add_argument("--out", required=True, type=Path, help="JSON file to write")
    parser.add_argument("--work", type=Path, help="folder of finished results (default: OUT.work)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Check names and paths, build the task, analyze, print, write, track."""
    from hexpath_quant.cli import check_paths, parse_options
    from hexpath_quant.methods import find_method
    from hexpath_quant.plans import parse_plan
    from hexpath_quant.regions import read_overrides
    from hexpath_quant.task import load_task

    plans = tuple(args.plan.split(","))
    for plan in plans:
        parse_plan(plan)
    find_method(args.method)
    confirm = parse_confirm(args.confirm)
    overrides = read_overrides(args.regions) if args.regions else {}
    options = parse_options(args.option)
    check_paths(checkpoint=args.checkpoint, data=args.data, out=args.out.parent)
    from hexpath_quant.sensitivity.analysis import Analysis, Settings
    from hexpath_quant.sensitivity.log import log_tables
    from hexpath_quant.sensitivity.table import table

    settings = Settings(
        plans=plans,
        method=args.method,
        calibration=args.calibration,
        images=args.images,
        sample=args.sample,
        confirm=confirm,
        share=args.share,
        workers=args.workers or _cores(),
    )
    task = load_task(name=args.task, checkpoint=args.checkpoint, data=args.data, options=options)
    work = args.work or args.out.with_name(args.out.name + ".work")
    record = Analysis(task, settings=settings, work=work, overrides=overrides).run()
    print(table(record))
    write_atomic(args.out, json.dumps(record, indent=1) + "\n")
    log_tables(record, folder=work)


def parse_confirm(text: str) -> int | None:
    """Return the number of layers, None for all.

    Raises:
        UnknownNameError: neither a number nor 'all'.
    """
    if text == ALL:
        return None
    if not text.isdigit():
        raise UnknownNameError(f"--confirm '{text}' is neither a number nor 'all'")
    return int(text)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
