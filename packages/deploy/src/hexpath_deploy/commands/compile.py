"""`hexpath-deploy compile`: a context binary and a DLC."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hexpath_deploy.commands.arguments import add_compiling, add_model, cache_of


def add_parser(subparsers: Any) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("compile", help="compile a model for devices: context binary, DLC, census")
    add_model(parser)
    add_compiling(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write")


def run(args: argparse.Namespace) -> int:
    """Compile and print a summary."""
    from hexpath_deploy.agree import verify_pair
    from hexpath_deploy.hexagon.local import compile_for_all, compile_model
    from hexpath_deploy.hexagon.options import choose
    from hexpath_deploy.hexagon.toolchain import require
    from hexpath_deploy.model import read_model
    from hexpath_deploy.targets import several

    wanted = several(args.target)
    require()
    model = read_model(args.model)
    verify_pair(model)
    for each in wanted:
        options = choose(model, each, io=args.io, optimization=args.optimization, fp16=args.fp16)
    limit_s, cache = args.time_limit, cache_of(args)
    if len(wanted) == 1:
        card = compile_model(
            model, target=wanted[0], options=options, out=args.out, limit_s=limit_s, cache=cache
        )
        print(describe(args.out, card))
        return 0
    cards = compile_for_all(
        model, targets=wanted, options=options, out=args.out, limit_s=limit_s, cache=cache
    )
    for name, card in cards.items():
        print(describe(args.out / name, card))
    return 0


def describe(out: Path, card: dict[str, Any]) -> str:
    """Return what was compiled, in a line, and the estimate, where there is one."""
    text = (
        f"{out}: {card['npu_ops']} operators on the NPU, none on the CPU, {card['float_ops']} in float; "
        f"{card['size_mb']:.2f} MB for {card['target']}, {card['options']['io']} I/O, "
        f"in {card['seconds']:.1f} s{' from the cache' if 'context' in card['from_cache'] else ''}"
    )
    found = card.get("estimates", {})
    for io, each in found.items():
        text += f"; {each['value_ms']:.2f} ms estimated with {io} I/O"
    if len(found) == 2:
        saved = found["float"]["value_ms"] - found["quantized"]["value_ms"]
        text += f": quantized I/O saves {saved:.2f} ms"
    return text
