"""Progress on stderr: plain lines, rare enough for a log file."""

from __future__ import annotations

import sys
import time

EVERY_SECONDS = 10.0


def say(text: str) -> None:
    """Write one line to stderr."""
    print(f"hexpath-quant: {text}", file=sys.stderr, flush=True)


class Ticker:
    """Says how far a loop is: every 10 s in a log, every second on a terminal.

    The time left is extrapolated from behind the first step, which often waits for workers to start.
    """

    def __init__(self, *, total: int, label: str) -> None:
        self.total, self.label = total, label
        self.last = time.monotonic()
        self.first: tuple[int, float] | None = None  # steps done, and when
        self.every = 1.0 if sys.stderr.isatty() else EVERY_SECONDS

    def tick(self, done: int, *, note: str = "") -> None:
        """Report that ``done`` steps are done, if it is time to."""
        now = time.monotonic()
        begun, since = self.first = self.first or (done, now)
        if now - self.last >= self.every and done < self.total:
            self.last = now
            pace = (now - since) / (done - begun) if done > begun else None
            left = "" if pace is None else f", {pace * (self.total - done):.0f} s left"
            say(f"{self.label}: {done}/{self.total}{left}{note and ', ' + note}")
