"""Arguments of what runs on a board or on AI Hub; profile and evaluate share the board's."""

from __future__ import annotations

import argparse
from pathlib import Path

from hexpath_deploy.backends.hub_settings import ITERATIONS, HubSettings
from hexpath_deploy.board.settings import LIMIT_S, PERFORMANCE_MODES, RUNNERS, BoardSettings


def add_board(parser: argparse.ArgumentParser) -> None:
    """Add how to reach a board and what to run there."""
    group = parser.add_argument_group("on a board (--backend device)")
    group.add_argument("--device", metavar="ADDRESS", help="adb, adb:SERIAL or ssh://user@host[:port]")
    group.add_argument("--runner", choices=RUNNERS, help="default: the first that the board has")
    group.add_argument(
        "--performance", choices=PERFORMANCE_MODES, default="burst", help="mode of the NPU (default burst)"
    )
    group.add_argument(
        "--board-dir", metavar="DIR", help="our folder there (/tmp/hexpath; Android: /data/local/tmp/hexpath)"
    )
    group.add_argument(
        "--board-sdk", metavar="DIR", help="QAIRT SDK there, or a folder with qnn-net-run and its libraries"
    )
    group.add_argument(
        "--board-python", metavar="P", default="python3", help="with onnxruntime-qnn (python3)"
    )
    group.add_argument(
        "--board-limit",
        type=float,
        default=LIMIT_S,
        metavar="SECONDS",
        help=f"of one run there (default {LIMIT_S:g})",
    )
    group.add_argument("--identity", type=Path, metavar="F", help="ssh: private key")
    group.add_argument(
        "--known-hosts", type=Path, metavar="F", help="ssh: file that holds the board's host key"
    )
    group.add_argument("--emulated-board", action="store_true", help=argparse.SUPPRESS)


def board_of(args: argparse.Namespace) -> BoardSettings | None:
    """Return the board's settings, or None without `--device`."""
    if args.device is None:
        return None
    return BoardSettings(
        device=args.device,
        runner=args.runner,
        performance=args.performance,
        iterations=getattr(args, "iterations", ITERATIONS),
        warm_up=getattr(args, "warm_up", 0),
        duration_s=getattr(args, "duration", None),
        profiling=getattr(args, "profiling", "basic"),
        folder=args.board_dir,
        sdk=args.board_sdk,
        python=args.board_python,
        identity=args.identity,
        known_hosts=args.known_hosts,
        limit_s=args.board_limit,
        emulated=args.emulated_board,
    )


def add_measuring(parser: argparse.ArgumentParser) -> None:
    """Add how often to run."""
    group = parser.add_argument_group("measuring (device, aihub)")
    group.add_argument(
        "--iterations", type=int, default=ITERATIONS, metavar="N", help=f"default {ITERATIONS}"
    )
    group.add_argument(
        "--warm-up", type=int, default=10, metavar="N", help="runs before those (device; default 10)"
    )
    group.add_argument("--duration", type=float, metavar="SECONDS", help="instead of a count (device)")
    group.add_argument(
        "--profiling",
        choices=("basic", "detailed"),
        default="basic",
        help="detailed: cycles by operator (device)",
    )


def add_hub(parser: argparse.ArgumentParser) -> None:
    """Add how to use AI Hub."""
    group = parser.add_argument_group("on Qualcomm AI Hub (--backend aihub)")
    group.add_argument(
        "--hub-device", metavar="NAME", help="AI Hub's name of a device (default: the target's)"
    )
    group.add_argument(
        "--hub-options",
        default="",
        metavar="TEXT",
        help="more options of the compile job: --hub-options='--...'",
    )
    group.add_argument("--link", action="store_true", help="compile to a DLC and link it")
    group.add_argument("--job", metavar="ID", help="go on with this job")
    group.add_argument(
        "--job-limit", type=float, default=3600.0, metavar="SECONDS", help="of one job (default 3600)"
    )


def hub_of(args: argparse.Namespace) -> HubSettings:
    """Return AI Hub's settings."""
    return HubSettings(
        device=args.hub_device,
        link=args.link,
        job=args.job,
        options=args.hub_options,
        iterations=args.iterations,
        limit_s=args.job_limit,
    )
