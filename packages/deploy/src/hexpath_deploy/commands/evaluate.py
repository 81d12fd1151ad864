"""`hexpath-deploy evaluate`: mAP of the exported model, or of the compiled artifact on the emulator."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hexpath_deploy.commands.arguments import add_model


def add_parser(subparsers: Any) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("evaluate", help="score a model on a COCO file")
    add_model(parser)
    parser.add_argument("--coco", required=True, type=Path, metavar="F", help="COCO JSON of the split")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="F", help="JSON to write; detections beside it"
    )
    parser.add_argument("--backend", default="ort", help="ort (default) or emulator")
    parser.add_argument(
        "--compiled", type=Path, metavar="DIR", help="folder that compile wrote, for the emulator"
    )
    parser.add_argument(
        "--images", type=int, metavar="N", help="evenly spread sample (default: all; emulator: 32)"
    )
    parser.add_argument("--workers", type=int, default=2, help="emulator processes (default 2)")
    parser.add_argument("--threads", type=int, help="of ONNX Runtime (default: all cores)")
    parser.add_argument(
        "--time-limit",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="of one emulated image (default 600)",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the figures."""
    from hexpath_deploy.evaluate import Evaluation, evaluate

    images = args.images if args.images is not None or args.backend != "emulator" else 32
    record = evaluate(
        Evaluation(
            model=args.model,
            coco=args.coco,
            backend=args.backend,
            compiled=args.compiled,
            images=images,
            workers=args.workers,
            threads=args.threads,
            limit_s=args.time_limit,
        ),
        out=args.out,
    )
    for name, figures in {"all": record["metrics"], **record["per_class"]}.items():
        print(f"{name}: mAP50 {figures['map50']:.4f}, mAP50-95 {figures['map']:.4f}")
    print(
        f"{record['images']} images ({record['sample']}) on {record['evaluated_on']} in "
        f"{record['seconds']:.1f} s"
    )
    return 0
