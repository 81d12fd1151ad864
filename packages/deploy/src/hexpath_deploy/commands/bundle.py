"""`hexpath-deploy bundle`: everything that goes to the device, in one folder and one zip."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hexpath_deploy.commands.arguments import add_model


def add_parser(subparsers: Any) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("bundle", help="pack a model for its devices, with card and checksums")
    add_model(parser)
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="folder to write; DIR.zip beside it"
    )
    parser.add_argument(
        "--compiled",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder that compile wrote; a target each",
    )
    parser.add_argument(
        "--profile", type=Path, action="append", default=[], metavar="F", help="latency record"
    )
    parser.add_argument("--gates", type=Path, metavar="F", help="verdict that gate wrote")
    parser.add_argument("--eval", type=Path, metavar="F", help="evaluation of the artifact")
    parser.add_argument("--fp32", type=Path, metavar="F", help="evaluation of the float model")
    parser.add_argument("--quant-card", type=Path, metavar="F", help="quant.json")
    parser.add_argument("--data-card", type=Path, metavar="F", help="card.json of the dataset")
    parser.add_argument("--facts", type=Path, metavar="F", help="JSON object on the training, for the card")
    parser.add_argument("--report", type=Path, metavar="F", help="report.html to put in")
    parser.add_argument("--model-licence", metavar="F|NAME", help="licence of the model: a file, or a name")
    parser.add_argument("--data-licence", metavar="F|NAME", help="licence of the data")
    parser.add_argument(
        "--confidence", type=float, metavar="X", help="threshold of postprocess.json (default: the gates')"
    )
    parser.add_argument(
        "--unreleased",
        action="store_true",
        help="pack it though gates failed or were not judged; the card says so",
    )


def run(args: argparse.Namespace) -> int:
    """Pack and say where it lies."""
    from hexpath_deploy.bundle.pack import Contents, bundle

    card = bundle(
        Contents(
            model=args.model,
            compiled=args.compiled,
            evaluation=args.eval,
            fp32=args.fp32,
            profiles=args.profile,
            gates=args.gates,
            quant_card=args.quant_card,
            data_card=args.data_card,
            facts=args.facts,
            report=args.report,
            model_licence=args.model_licence,
            data_licence=args.data_licence,
            confidence=args.confidence,
            unreleased=args.unreleased,
        ),
        out=args.out,
    )
    archive = args.out.with_name(args.out.name + ".zip")
    state = "released" if card["released"] else f"NOT RELEASED, {card['gates']['reason']}"
    print(f"{args.out} and {archive} ({archive.stat().st_size / 1e6:.1f} MB): {state}")
    return 0
