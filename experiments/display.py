"""What a person sees while an experiment runs: one line a finished stage, one live line for those at work."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from stage import MARK

STEPS = re.compile(r"^(\d+) of (\d+) steps")
TOTAL = re.compile(r"^total\s+(\d+)$")
QUIET_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A stage that failed: its exit status, the last line it said, its log."""

    stage: str
    code: int
    message: str
    log: str


class Display:
    """Reads Snakemake's merged output line by line; keeps it in a log, shows the stages' events.

    On a terminal the running stages share one line that is rewritten; elsewhere each running stage prints a
    line every 20 seconds at most.
    """

    def __init__(self, *, title: str, log: Path, out: TextIO = sys.stderr) -> None:
        self.title, self.out = title, out
        self.log = log.open("w")
        self.start = time.monotonic()
        self.done, self.total = 0, 0
        self.running: dict[str, str] = {}
        self.shown: dict[str, float] = {}
        self.failed: list[Failure] = []
        self.live = out.isatty()

    def feed(self, line: str) -> None:
        if line.startswith(MARK):
            self.event(json.loads(line[len(MARK) :]))
            return
        self.log.write(line)
        self.log.flush()
        if found := TOTAL.match(line.strip()):
            self.total = int(found[1])
            self.say(f"{self.title}: {self.total} stages to run")
        elif found := STEPS.match(line):
            self.done, self.total = int(found[1]), int(found[2])

    def event(self, event: dict[str, Any]) -> None:
        stage = event["stage"]
        if event["event"] == "start":
            self.running[stage] = ""
            self.shown[stage] = time.monotonic()
        elif event["event"] == "line":
            self.running[stage] = event["text"]
            self.progress(stage)
        elif event["event"] == "done":
            self.running.pop(stage, None)
            self.done += 1
            self.say(f"{stage:<28} done in {event['seconds']:.0f} s")
        else:
            self.running.pop(stage, None)
            self.failed.append(
                Failure(stage=stage, code=event["code"], message=event["text"], log=event["log"])
            )
        self.rewrite()

    def progress(self, stage: str) -> None:
        """Off a terminal: what a long stage last said, now and then."""
        now = time.monotonic()
        if not self.live and now - self.shown.get(stage, 0) > QUIET_S:
            self.shown[stage] = now
            self.say(f"{stage:<28} {self.running[stage]}")

    def say(self, text: str) -> None:
        clear = "\r\x1b[K" if self.live else ""
        print(f"{clear}[{self.clock()}] {self.count()} {text}", file=self.out, flush=True)

    def rewrite(self) -> None:
        if self.live and self.running:
            width = shutil.get_terminal_size().columns - 1
            text = f"[{self.clock()}] {self.count()} " + " | ".join(
                f"{s}: {t}" if t else s for s, t in self.running.items()
            )
            print(f"\r\x1b[K{text[:width]}", end="", file=self.out, flush=True)

    def clock(self) -> str:
        seconds = int(time.monotonic() - self.start)
        return f"{seconds // 60:02d}:{seconds % 60:02d}"

    def count(self) -> str:
        return f"{self.done:>2}/{self.total}"

    def close(self) -> None:
        if self.live:
            print("\r\x1b[K", end="", file=self.out, flush=True)
        self.log.close()
