"""Progress on stderr: plain lines, rare enough for a log file."""

from __future__ import annotations

import sys
import time

EVERY_SECONDS = 10.0


def say(text: str) -> None:
    """Write one line to stderr."""
    print(f"hexpath-quant: {text}", file=sys.stderr, flush=True)


class Ticker:
    """Says how far a loop is: every 10 s in a log, every second on a terminal."""

    def __init__(self, *, total: int, label: str) -> None:
        self.total, self.label = total, label
        self.start = self.last = time.monotonic()
        self.every = 1.0 if sys.stderr.isatty() else EVERY_SECONDS

    def tick(self, done: int, *, note: str = "") -> None:
        """Report that ``done`` steps are done, if it is time to."""
        now = time.monotonic()
        if now - self.last >= self.every and done < self.total:
            self.last = now
            left = (now - self.start) / max(done, 1) * (self.total - done)
            say(f"{self.label}: {done}/{self.total}, {left:.0f} s left{note and ', ' + note}")
