"""Run one command as a stage: its output into a log file, its progress to whoever reads our stdout.

    python experiments/stage.py NAME [--threads N] -- COMMAND ARG ...

Each event is one line of JSON behind an ASCII record separator, which run.py tells apart from Snakemake's
own output and shows. The exit status is the command's own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

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
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
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
    last = ""
    with log.open("w") as file:
        file.write(f"$ {' '.join(args.command)}\n")
        process = subprocess.Popen(
            args.command,
            env=env,
            stdin=subprocess.DEVNULL,
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


def emit(stage: str, **event: object) -> None:
    sys.stdout.write(MARK + json.dumps({"stage": stage} | event) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
