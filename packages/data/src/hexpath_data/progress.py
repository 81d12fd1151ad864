"""Progress on stderr: a line that rewrites itself on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], *, total: int, what: str, stream: TextIO | None = None) -> Iterator[T]:
    """Yield from `items`, telling `stream` (stderr) how many of `total` are done."""
    out = stream or sys.stderr
    terminal = out.isatty()
    every_s = 0.2 if terminal else 10.0
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= every_s or (terminal and done == total):
            last = now
            _tell(out, f"{what}: {done}/{total}", rewrite=terminal, final=done == total)


def _tell(out: TextIO, text: str, *, rewrite: bool, final: bool) -> None:
    out.write(f"\r{text}" if rewrite else f"{text}\n")
    if rewrite and final:
        out.write("\n")
    out.flush()
