"""An audit as text for the terminal."""

from __future__ import annotations

import textwrap
from itertools import groupby

from hexpath_quant.audit.findings import Audit, Finding, Severity

WIDTH = 100
MOST_EACH = 4


def table(audit: Audit) -> str:
    """Return the findings, severest first, by rule with its remedy, and the verdict; JSON has all of them."""
    lines: list[str] = []
    for (severity, rule), group in groupby(audit.findings, key=lambda f: (f.severity, f.rule)):
        lines += _of_one_rule(severity, rule, list(group))
    counts = {s: sum(f.severity is s for f in audit.findings) for s in Severity}
    told = ", ".join(f"{counts[s]} {s}" for s in reversed(Severity) if counts[s]) or "nothing found"
    verdict = f"{audit.model} at {audit.plan}: {str(audit.verdict).upper()} ({told};"
    lines.append(f"{verdict} {audit.operators} operators, ranges of {audit.images} images)")
    return "\n".join(lines)


def _of_one_rule(severity: Severity, rule: str, found: list[Finding]) -> list[str]:
    lines = [f"{severity}: {rule}"]
    for finding in found[:MOST_EACH]:
        lines += _wrapped(f"{finding.where}: {finding.reason}", first="  - ", rest="    ")
    if len(found) > MOST_EACH:
        lines.append(f"  - and {len(found) - MOST_EACH} more")
    for remedy in dict.fromkeys(finding.remedy for finding in found):
        lines += _wrapped(f"remedy: {remedy}", first="  ", rest="  ")
    return lines


def _wrapped(text: str, *, first: str, rest: str) -> list[str]:
    whole = {"break_long_words": False, "break_on_hyphens": False}  # paths stay in one piece
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=rest, **whole)  # type: ignore[arg-type]
