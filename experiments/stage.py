"""Run one command as a stage: its output into a log file, its progress to whoever reads our stdout.

    python experiments/stage.py NAME [--threads N] [--image NAME [--network]] -- COMMAND ARG ...

With an image, the command runs in a container of it, which ends when this process does. Each event is one
line of JSON behind an ASCII record separator, which run.py tells apart from Snakemake's own output and shows.
The exit status is the command's own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import containers

MARK = "\x1e"
LOGS = Path("logs")
# What libraries say besides: warnings with their source line, dated log records. It stays in the log.
NOISE = re.compile(r"Warning|^\s|^/|^\d{4}-\d\d-\d\d ")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--image", help="a name in docker/images.toml")
    parser.add_argument("--network", action="store_true", help="the stage may want one")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    # train/models/yolo11n/ of a matrix is told as train/yolo11n, train/ of a single model as train
    args.name = args.name.replace("models/", "").strip("/")
    log = LOGS / f"{args.name.replace('/', '-')}.log"
    log.parent.mkdir(exist_ok=True)
    emit(args.name, event="start")
    start = time.monotonic()
    code, last = run(args, log)
    if code:
        emit(
            args.name,
            event="failed",
            code=code,
            text=last or f"{args.command[0]} ended with status {code}",
            log=str(log.resolve()),
        )
    else:
        emit(args.name, event="done", seconds=round(time.monotonic() - start, 1))
    return code


def run(args: argparse.Namespace, log: Path) -> tuple[int, str]:
    """Run the command; return its exit status and the last line it said."""
    env = dict(os.environ) | {"OMP_NUM_THREADS": str(args.threads), "PYTHONUNBUFFERED": "1"}
    env |= {"WANDB_NAME": args.name, "WANDB_JOB_TYPE": args.name.split("/")[0]}
    line = contained(args, env) if args.image else args.command
    last = ""
    with log.open("w") as file:
        file.write(f"$ {' '.join(args.command)}\n")
        process = subprocess.Popen(
            line,
            env=env,
            stdin=subprocess.PIPE if args.image else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            file.flush()
            if line.strip():
                last = line.strip()[:1000]
                if not NOISE.search(line):
                    emit(args.name, event="line", text=last)
        return process.wait(), last


def contained(args: argparse.Namespace, env: Mapping[str, str]) -> list[str]:
    """The command in a container, by what run.py found out about the images."""
    return containers.run_command(
        args.command,
        image=json.loads(env["HEXPATH_IMAGES"])[args.image],
        name=f"hexpath-{args.name.replace('/', '-')}-{os.getpid()}",
        network=args.network and env.get("HEXPATH_NETWORK") == "1",
        mounts=json.loads(env["HEXPATH_MOUNTS"]),
        env=env,
        cwd=Path.cwd(),
    )


def emit(stage: str, **event: object) -> None:
    sys.stdout.write(MARK + json.dumps({"stage": stage} | event) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
