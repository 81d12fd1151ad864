"""A progress line on stderr: redrawn on a terminal, every ten seconds in a log."""

from __future__ import annotations

import sys
import time


class Progress:
    """Call it with (done, total)."""

    def __init__(self, label: str, *, every_s: float = 10.0) -> None:
        self.label = label
        self.live = sys.stderr.isatty()
        self.every_s = 0.2 if self.live else every_s
        self.began = self.last = time.monotonic()
        self.closed = False

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done, when enough time has passed or all are."""
        now = time.monotonic()
        if self.closed or (done < total and now - self.last < self.every_s):
            return
        self.last, self.closed = now, done >= total
        end = "\n" if self.closed or not self.live else ""
        start = "\r" if self.live else ""
        print(
            f"{start}{self.label}: {done}/{total} in {now - self.began:.0f} s",
            end=end,
            file=sys.stderr,
            flush=True,
        )
