"""`hexpath-deploy profile`: what one inference costs, estimated here or measured on a device."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hexpath_deploy.commands.arguments import add_compiling, add_model, cache_of
from hexpath_deploy.commands.board_arguments import add_board, add_hub, add_measuring, board_of, hub_of


def add_parser(subparsers: Any) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "profile", help="latency and traffic of one inference, estimated or measured"
    )
    add_model(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="F", help="JSON to write")
    parser.add_argument(
        "--backend",
        default="local",
        help="local (default): estimate; device: a board; aihub: a hosted device",
    )
    parser.add_argument(
        "--compiled", type=Path, metavar="DIR", help="folder that compile wrote (device, aihub)"
    )
    add_compiling(parser, target_required=False)
    add_measuring(parser)
    add_board(parser)
    add_hub(parser)


def run(args: argparse.Namespace) -> int:
    """Profile and print a summary."""
    from hexpath_deploy.backends import Request
    from hexpath_deploy.profile import profile, raw_path, work_path

    request = Request(
        model=args.model,
        work=work_path(args.out),
        raw=raw_path(args.out),
        target=args.target,
        compiled=args.compiled,
        io=args.io,
        optimization=args.optimization,
        fp16=args.fp16,
        limit_s=args.time_limit,
        board=board_of(args),
        hub=hub_of(args),
        cache=cache_of(args),
    )
    record = profile(request, name=args.backend, out=args.out)
    if "by_io" in record:
        for io, entry in record["by_io"].items():
            print(estimated(entry, io=io))
    else:
        print(timed(record))
    return 0


def estimated(entry: dict[str, Any], *, io: str) -> str:
    """Return an estimate in one line."""
    found = entry["latency"]
    proxy = f" (estimated as {found['proxy']})" if "proxy" in found else ""
    return (
        f"{found['target']}{proxy}, {io} I/O: {found['value_ms']:.2f} ms estimated "
        f"({found['low_ms']:.2f} to {found['high_ms']:.2f}), {entry['ddr_mb']:.2f} MB DDR, "
        f"{entry['spill_mb']:.2f} MB spilled"
    )


def timed(record: dict[str, Any]) -> str:
    """Return a measurement in one line."""
    found = record["latency"]
    spread = (
        f" (mean {found['mean_ms']:.2f}, p99 {found['p99_ms']:.2f}, {found['min_ms']:.2f} to "
        f"{found['max_ms']:.2f}, {found['iterations']} runs)"
        if "mean_ms" in found
        else ""
    )
    memory = f", {record['peak_memory_mb']:.0f} MB" if "peak_memory_mb" in record else ""
    jobs = "".join(f"\n  {job['kind']}: {job['url']}" for job in record.get("jobs", []))
    where = record["device"].get("name", record["device"]["address"])
    return f"{found['target']} ({where}): {found['value_ms']:.2f} ms {found['source']}{spread}{memory}{jobs}"
