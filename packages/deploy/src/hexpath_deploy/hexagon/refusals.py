"""Which operators the NPU refused, and why, from the log of Qualcomm's provider.

Without verbose logging the log names the operators only. The verbose log says for each one
`Validation FAILED ... REASON : ...`, and where the HTP itself refused it, which data types it was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

UNSUPPORTED = re.compile(r"Unsupported nodes in QNN EP: (.*)")
NODE = re.compile(r"\{ name: (.*?), type: (.*?) \}")
FAILED = re.compile(
    r"Validation FAILED for \d+ nodes in OrtNodeUnit \((?P<type>[^)]*)\) :\n(?P<rest>(?:\t.*\n?)+)"
)
MEMBER = re.compile(r"\tOperator type: (?P<type>\S+) Node name: (?P<name>.*?) Node index: \d+")
REASON = re.compile(r"\tREASON : (?P<why>.*)")
VALIDATION = re.compile(r"Validation (?:PASSED|FAILED) for \d+ nodes in OrtNodeUnit")
SECOND = re.compile(r"\.(?=\w+ node `).*")  # two messages without a space between
COMPLAINT = re.compile(r"<E> (?P<told>.*)")
REQUESTED = re.compile(r"Requested I/O datatype set:\s*\n(?P<types>(?:\s+(?:in|out)\[\d+\]:.*\n)+)")
SLOT = re.compile(r"(in|out)\[\d+\]:(?:QNN_DATATYPE_)?(\w+)")
VAGUE = "Failed to add node."
BORDER = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An operator of the model that the NPU cannot run; `why` is empty where the toolchain does not tell."""

    type: str
    name: str
    why: str = ""


def read_refusals(log: str) -> list[Refusal]:
    """Return every refused operator once, in the order of the log."""
    reasons = read_reasons(log)
    named = [(kind, name) for line in UNSUPPORTED.findall(log) for name, kind in NODE.findall(line)]
    # A quantized operator comes with its Q and DQ nodes; when those alone are named, it was them.
    named = [entry for entry in named if entry[0] not in BORDER] or named or list(reasons)
    return [
        Refusal(type=kind, name=name, why=reasons.get((kind, name), ""))
        for kind, name in dict.fromkeys(named)
    ]


def read_reasons(log: str) -> dict[tuple[str, str], str]:
    """Return the reason by (type, name) of the operators whose validation failed."""
    found: dict[tuple[str, str], str] = {}
    for match in FAILED.finditer(log):
        told = REASON.search(match["rest"])
        why = SECOND.sub("", told["why"].strip()) if told else ""
        if why in ("", VAGUE):
            before = log[: match.start()]
            last = max((other.end() for other in VALIDATION.finditer(before)), default=0)
            why = complaint(before[last:]) or why
        for member in MEMBER.finditer(match["rest"]):
            if member["type"] == match["type"]:
                found.setdefault((member["type"], member["name"]), why.rstrip("."))
    return found


def complaint(log: str) -> str:
    """Return the HTP's own complaint in the part of the log that is about one operator."""
    told = COMPLAINT.search(log)
    if told is None:
        return ""
    sentence = told["told"].split(". ")[0].strip()
    types = REQUESTED.search(log)
    return sentence + (f": {signature(types['types'])}" if types else "")


def signature(types: str) -> str:
    """Return requested data types such as `UFIXED_POINT_8, SFIXED_POINT_8 -> UFIXED_POINT_8`."""
    slots = SLOT.findall(types)
    given, made = (", ".join(kind for side, kind in slots if side == wanted) for wanted in ("in", "out"))
    return f"{given} -> {made}"


def explain(refused: Iterable[Refusal]) -> str:
    """Return all refused operators in one line, those of one type and reason together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for each in refused:
        groups.setdefault((each.type, each.why), []).append(f"'{each.name}'")
    return "; ".join(
        f"{kind} {', '.join(names)}" + (f" ({why})" if why else "") for (kind, why), names in groups.items()
    )
