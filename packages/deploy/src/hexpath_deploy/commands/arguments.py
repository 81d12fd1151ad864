"""Arguments that subcommands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hexpath_deploy.hexagon.cache import JobCache


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
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="where compiled graphs are kept (default: $HEXPATH_CACHE, else hexpath in the user's cache)",
    )
    parser.add_argument("--no-cache", action="store_true", help="compile anew, and keep nothing")


def cache_of(args: argparse.Namespace) -> JobCache | None:
    """Return the cache of compiled graphs, or None."""
    from hexpath_deploy.hexagon.cache import JobCache, cache_folder

    return None if args.no_cache else JobCache(folder=cache_folder(args.cache))
