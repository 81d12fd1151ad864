"""What an audit says: findings with a figure, a limit, a reason and a remedy, and one verdict a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """note: worth knowing; warning: may cost accuracy; severe: expect a collapse."""

    NOTE = "note"
    WARNING = "warning"
    SEVERE = "severe"


class Verdict(StrEnum):
    """safe: notes at most; risky: a warning; unsafe: something severe."""

    SAFE = "safe"
    RISKY = "risky"
    UNSAFE = "unsafe"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One risk.

    Attributes:
        rule: name of the rule.
        where: operator.
        figure: what was measured, in the unit that ``reason`` tells.
        limit: what ``figure`` was held against.
        reason: one sentence with the figures.
        remedy: what to do.
    """

    rule: str
    where: str
    figure: float
    limit: float
    reason: str
    remedy: str
    severity: Severity


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The findings of one model, severest first."""

    model: str
    plan: str
    images: int
    operators: int
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """The model's verdict."""
        return verdict(self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the audit as written to JSON."""
        return {
            "schema": 1,
            "model": self.model,
            "plan": self.plan,
            "images": self.images,
            "operators": self.operators,
            "verdict": str(self.verdict),
            "findings": [{**asdict(f), "severity": str(f.severity)} for f in self.findings],
        }


def verdict(findings: Sequence[Finding]) -> Verdict:
    """Return unsafe for any severe finding, risky for any warning, else safe."""
    found = {finding.severity for finding in findings}
    if Severity.SEVERE in found:
        return Verdict.UNSAFE
    return Verdict.RISKY if Severity.WARNING in found else Verdict.SAFE


def severest_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Sort by severity, keeping the order of the network within one."""
    order = [Severity.SEVERE, Severity.WARNING, Severity.NOTE]
    return tuple(sorted(findings, key=lambda finding: order.index(finding.severity)))
