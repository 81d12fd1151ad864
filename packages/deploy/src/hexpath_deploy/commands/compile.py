"""`hexpath-deploy compile`: a context binary and a DLC."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hexpath_deploy.commands.arguments import add_compiling, add_model


def add_parser(subparsers: Any) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "compile", help="compile a model for a device: context binary, DLC, census"
    )
    add_model(parser)
    add_compiling(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write")


def run(args: argparse.Namespace) -> int:
    """Compile and print a summary."""
    from hexpath_deploy.agree import verify_pair
    from hexpath_deploy.hexagon.local import compile_model
    from hexpath_deploy.hexagon.options import choose
    from hexpath_deploy.hexagon.toolchain import require
    from hexpath_deploy.model import read_model
    from hexpath_deploy.targets import target

    wanted = target(args.target)
    require()
    model = read_model(args.model)
    verify_pair(model)
    options = choose(model, wanted, io=args.io, optimization=args.optimization, fp16=args.fp16)
    card = compile_model(model, target=wanted, options=options, out=args.out, limit_s=args.time_limit)
    print(
        f"{args.out}: {card['npu_ops']} operators on the NPU, none on the CPU, {card['float_ops']} in float; "
        f"{card['size_mb']:.2f} MB for {wanted.name}, {options.io} I/O, in {card['seconds']:.1f} s"
    )
    return 0
