"""The command `hexpath-data`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hexpath_data.errors import DataError
from hexpath_data.terrain.command import add_terrain

if TYPE_CHECKING:
    from hexpath_data.checks import Problem, Report

INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit code; `errors.py` lists the codes."""
    arguments = build_parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except DataError as error:
        print(f"hexpath-data: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("hexpath-data: interrupted; nothing half written was left", file=sys.stderr)
        return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(prog="hexpath-data", description="Generate, check, describe datasets.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_generate(commands.add_parser("generate", help="generate aerial scenes in Ultralytics layout"))
    _add_check(commands.add_parser("check", help="find everything that is broken in a dataset"))
    _add_card(commands.add_parser("card", help="check a dataset, then write its card and COCO files"))
    _add_select(commands.add_parser("select", help="choose images to calibrate a quantizer with"))
    add_terrain(
        commands.add_parser("terrain", help="bring masks of other datasets into the terrain ontology")
    )
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    parser.add_argument("--train", type=int, default=400, help="images in train (default 400)")
    parser.add_argument("--val", type=int, default=100, help="images in val (default 100)")
    parser.add_argument("--size", type=int, default=320, help="image side in pixels (default 320)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default 0)")
    parser.add_argument(
        "--labels", default="boxes", help="boxes, or segments: polygons for instance masks (default boxes)"
    )
    parser.add_argument("--workers", type=int, default=_cores(), help="processes (default: one per core)")
    parser.set_defaults(run=_run_generate)


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA.yaml")
    parser.add_argument("--limit", type=int, default=0, help="problems to print (default: all)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write all problems as JSON")
    parser.set_defaults(run=_run_check)


def _add_card(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA.yaml")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--limit", type=int, default=20, help="print at most this many problems (default 20)")
    parser.set_defaults(run=_run_card)


def _add_select(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA.yaml")
    parser.add_argument("--count", type=int, default=64, help="images (default 64)")
    parser.add_argument("--method", default="cover", help="cover, first, random or spread (default cover)")
    parser.add_argument("--split", default="train", help="default train")
    parser.add_argument("--seed", type=int, default=0, help="of the method random (default 0)")
    parser.add_argument("--out", type=Path, required=True, metavar="LIST.txt", help="one image a line")
    parser.set_defaults(run=_run_select)


def _run_generate(arguments: argparse.Namespace) -> int:
    from hexpath_data.generator import Parameters, generate, is_complete

    parameters = Parameters(
        train=arguments.train,
        val=arguments.val,
        size=arguments.size,
        seed=arguments.seed,
        labels=arguments.labels,
    )
    if is_complete(arguments.out, parameters=parameters):
        print(f"{arguments.out / 'data.yaml'}: complete, nothing to do")
        return 0
    made = generate(
        arguments.out,
        train=parameters.train,
        val=parameters.val,
        size=parameters.size,
        seed=parameters.seed,
        labels=parameters.labels,
        workers=arguments.workers,
    )
    print(f"{made}: {parameters.train} train and {parameters.val} val images")
    return 0


def _run_check(arguments: argparse.Namespace) -> int:
    from hexpath_data.checks import check

    report = check(arguments.data)
    _tell(report, limit=arguments.limit)
    if arguments.report is not None:
        _write_report(report, path=arguments.report)
    report.require_ok()
    print(_summary(report))
    return 0


def _run_card(arguments: argparse.Namespace) -> int:
    from hexpath_data.card import MARKER, card_of, save_card
    from hexpath_data.checks import check
    from hexpath_data.files import refuse_foreign
    from hexpath_data.masks import has_masks, write_mask_card

    if has_masks(arguments.data):
        card = write_mask_card(arguments.data, out=arguments.out)
        counts = ", ".join(f"{count} {split}" for split, count in card["images"].items())
        print(f"{arguments.out}/data.yaml: {counts} images, fingerprint {card['fingerprint'][:19]}")
        return 0
    refuse_foreign(arguments.out, marker=MARKER)
    report = check(arguments.data)
    _tell(report, limit=arguments.limit)
    report.require_ok()
    made = save_card(card_of(report), out=arguments.out)
    print(f"{made}: {_summary(report)}")
    return 0


def _run_select(arguments: argparse.Namespace) -> int:
    from hexpath_data.dataset import read_dataset
    from hexpath_data.selection import select, write_list

    dataset = read_dataset(arguments.data)
    found = select(
        dataset, count=arguments.count, method=arguments.method, split=arguments.split, seed=arguments.seed
    )
    write_list(found, path=arguments.out, root=dataset.root)
    one = found.coverage
    print(
        f"{arguments.out}: {len(found.images)} of {found.of} {arguments.split} images by {arguments.method};"
        f" farthest image {one.radius:.2f} (random {one.random_radius:.2f}),"
        f" mean {one.mean:.2f} (random {one.random_mean:.2f}) from the nearest selected one"
    )
    return 0


def _tell(report: Report, *, limit: int) -> None:
    problems: Sequence[Problem] = (*report.errors, *report.warnings)
    shown = problems[:limit] if limit > 0 else problems
    for problem in shown:
        print(problem, file=sys.stderr)
    if len(shown) < len(problems):
        left = len(problems) - len(shown)
        command = f"hexpath-data check {report.dataset.yaml_path}"
        print(f"... and {left} more; `{command}` lists all", file=sys.stderr)


def _write_report(report: Report, *, path: Path) -> None:
    from hexpath_data.files import write_atomic

    rows = [
        {
            "severity": "error" if problem.error else "warning",
            "kind": problem.kind,
            "path": str(problem.path),
            "line": problem.line,
            "message": problem.message,
        }
        for problem in report.problems
    ]
    write_atomic(path, json.dumps({"schema": 1, "problems": rows}, indent=1) + "\n")


def _summary(report: Report) -> str:
    counts = ", ".join(f"{len(images)} {split}" for split, images in report.images.items())
    return f"{counts} images, {len(report.warnings)} warnings, fingerprint {report.fingerprint[:19]}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
