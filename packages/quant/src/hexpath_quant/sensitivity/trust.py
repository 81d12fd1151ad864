"""How well each cheap estimate orders what really happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scipy.stats import spearmanr

ESTIMATES: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    "fisher": lambda entry: entry.get("fisher"),
    "diagonal": lambda entry: entry.get("diagonal"),
    "sqnr": lambda entry: -entry["sqnr_db"] if "sqnr_db" in entry else None,
    "sqnr_without": lambda entry: entry.get("sqnr_gain_db"),
}
TRUTHS = ("drop_alone", "gain_without")
FEWEST = 4


def trust(entries: Sequence[Mapping[str, Any]], *, plan: str) -> list[dict[str, Any]]:
    """Return Spearman's rank correlation of each estimate with each true effect, layers and regions apart."""
    found = []
    for kind in ("layer", "region"):
        rows = [e for e in entries if e["kind"] == kind and e["plan"] == plan and e["part"] == "both"]
        for truth in TRUTHS:
            for name, estimate in ESTIMATES.items():
                pairs = [(estimate(e), e[truth]) for e in rows if truth in e]
                known = [(a, b) for a, b in pairs if a is not None]
                if len(known) < FEWEST or len({b for _, b in known}) < 2 or len({a for a, _ in known}) < 2:
                    continue
                rank = float(spearmanr(*zip(*known, strict=True)).statistic)
                found.append(
                    {"kind": kind, "estimate": name, "truth": truth, "spearman": rank, "n": len(known)}
                )
    return found
