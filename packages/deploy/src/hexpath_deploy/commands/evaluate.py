"""`hexpath-deploy evaluate`: accuracy of the exported model, or of the artifact on emulator or board."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hexpath_deploy.commands.arguments import add_model
from hexpath_deploy.commands.board_arguments import add_board, board_of

LABELS = {
    "map50": "mAP50",
    "map": "mAP50-95",
    "mask_map50": "mask mAP50",
    "mask_map": "mask mAP50-95",
    "miou": "mIoU",
    "iou": "IoU",
    "pixel_accuracy": "pixel accuracy",
}


def add_parser(subparsers: Any) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("evaluate", help="score a model on a dataset")
    add_model(parser)
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--coco", type=Path, metavar="F", help="COCO JSON of the split: boxes, instance masks")
    data.add_argument("--data", type=Path, metavar="DATA.yaml", help="images and semantic masks")
    parser.add_argument("--split", default="val", help="of DATA.yaml (default val)")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="F", help="JSON to write; what was found beside it"
    )
    parser.add_argument("--backend", default="ort", help="ort (default), emulator or device")
    parser.add_argument(
        "--compiled", type=Path, metavar="DIR", help="folder that compile wrote, for emulator and device"
    )
    parser.add_argument(
        "--images", type=int, metavar="N", help="evenly spread sample (default: all; emulator: 32)"
    )
    parser.add_argument(
        "--masks", type=Path, metavar="DIR", help="write the class mask found in each image here, as PNG"
    )
    parser.add_argument("--workers", type=int, default=2, help="emulator processes (default 2)")
    parser.add_argument(
        "--threads", type=int, help="images side by side on ONNX Runtime (default: a core each)"
    )
    parser.add_argument(
        "--time-limit",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="of one emulated image (default 600)",
    )
    add_board(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the figures."""
    from hexpath_deploy.evaluate import Evaluation, evaluate

    images = args.images if args.images is not None or args.backend != "emulator" else 32
    record = evaluate(
        Evaluation(
            model=args.model,
            coco=args.coco,
            data=args.data,
            split=args.split,
            backend=args.backend,
            compiled=args.compiled,
            images=images,
            workers=args.workers,
            threads=args.threads,
            limit_s=args.time_limit,
            board=board_of(args),
            masks=args.masks,
        ),
        out=args.out,
    )
    for name, figures in {"all": record["metrics"], **record["per_class"]}.items():
        print(f"{name}: {', '.join(f'{LABELS[key]} {value:.4f}' for key, value in figures.items())}")
    print(
        f"{record['images']} images ({record['sample']}) on {record['evaluated_on']} in "
        f"{record['seconds']:.1f} s"
    )
    host = record["host_ms"]
    print(
        f"on this CPU ({host['cpu']}): preprocess {host['preprocess']:.2f} ms, postprocess "
        f"{host['postprocess']:.2f} ms (median)"
    )
    return 0
