"""Arguments that subcommands share."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the model."""
    parser.add_argument(
        "model", type=Path, metavar="MODEL.onnx", help="a detector with hexpath's or Ultralytics' metadata"
    )


def add_compiling(parser: argparse.ArgumentParser, *, target_required: bool = True) -> None:
    """Add what compile and profile share."""
    parser.add_argument(
        "--target", required=target_required, help="device, see hexpath-deploy targets (compile: T,T)"
    )
    parser.add_argument("--fp16", action="store_true", help="run a float model as FP16")
    parser.add_argument(
        "--optimization", type=int, default=3, choices=(1, 2, 3), help="of the compiler (default 3)"
    )
    parser.add_argument(
        "--io",
        choices=("quantized", "float"),
        help="tensors at the graph's border (default: quantized for a QDQ model, else float)",
    )
    parser.add_argument(
        "--time-limit", type=float, default=1800.0, metavar="SECONDS", help="per step (default 1800)"
    )
