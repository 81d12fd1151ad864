"""The subcommand `hexpath-data terrain`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_terrain(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="NAME=FOLDER",
        help="rellis3d, rugd, goose, cityscapes, camvid, kust4k or generated, and where it was unpacked",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--mapping", type=Path, metavar="FILE", help="in place of ours; with one source")
    parser.add_argument("--limit", type=int, help="images of each split of each source (default: all)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from hexpath_data.errors import ParameterError
    from hexpath_data.terrain.convert import Source, convert

    if arguments.mapping is not None and len(arguments.sources) > 1:
        raise ParameterError(f"--mapping belongs to one dataset, {len(arguments.sources)} are given")
    if arguments.limit is not None and arguments.limit < 1:
        raise ParameterError(f"--limit is {arguments.limit}, it must be at least 1")
    sources = []
    for text in arguments.sources:
        name, equals, folder = text.partition("=")
        if not equals or not folder:
            raise ParameterError(f"'{text}' is not NAME=FOLDER, e.g. rellis3d=Rellis-3D")
        sources.append(Source(dataset=name, root=Path(folder), mapping=arguments.mapping))
    summary = convert(sources, out=arguments.out, limit=arguments.limit)
    for name, entry in summary["sources"].items():
        shares = ", ".join(f"{kind} {share:.1%}" for kind, share in entry["share"].items())
        print(f"{name}: {entry['images']['train']} train, {entry['images']['val']} val; {shares}")
    print(f"{arguments.out / 'data.yaml'}: fingerprint {summary['fingerprint'][:19]}")
    return 0
