"""Targets as data: which devices there are, and what is known of each."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from hexpath_deploy.errors import EstimateError, UnknownTargetError, nearest

WORDS = {True: "yes", False: "no", None: "unknown"}
FIGURES = ("soc_model", "hexagon", "vtcm_mib", "npus", "tops", "fp16", "estimate")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A device with a Hexagon NPU. What has no source is None, never a guess.

    `sources` maps each figure's name to the document that it comes from.
    """

    name: str
    title: str
    soc_model: int
    aliases: tuple[str, ...] = ()
    hexagon: str | None = None
    vtcm_mib: int | None = None
    npus: int | None = None
    tops: float | None = None
    fp16: bool | None = None
    estimate: bool = False
    proxy: str | None = None
    proxy_why: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)


@cache
def targets() -> dict[str, Target]:
    """Return all targets by name, in the order of the data file."""
    data = tomllib.loads(files("hexpath_deploy").joinpath("targets.toml").read_text(encoding="utf-8"))
    return {
        name: parse(name=name, entry=entry, sources=data["sources"])
        for name, entry in data["targets"].items()
    }


def parse(*, name: str, entry: dict[str, Any], sources: Mapping[str, str]) -> Target:
    """Make one target of its table.

    Unknown keys and unknown sources are programming errors of the data file.
    """
    documents = {figure: sources[key] for figure, key in entry["sources"].items()}
    return Target(**{**entry, "name": name, "aliases": tuple(entry["aliases"]), "sources": documents})


def target(name: str) -> Target:
    """Return the target of that name or alias, in any case.

    Raises:
        UnknownTargetError: no such target; the message offers the nearest.
    """
    known = {alias: entry for entry in targets().values() for alias in (entry.name, *entry.aliases)}
    try:
        return known[name.lower()]
    except KeyError:
        raise UnknownTargetError(f"unknown target '{name}'{nearest(name, known)}") from None


def several(names: str) -> tuple[Target, ...]:
    """Return the targets of names with commas between, each once.

    Raises:
        UnknownTargetError: one of them is unknown, or none is given.
    """
    listed = [name.strip() for name in names.split(",") if name.strip()]
    found = {entry.name: entry for entry in map(target, listed or [names])}
    return tuple(found.values())


def estimated_by(wanted: Target) -> Target:
    """Return the target whose estimate holds for `wanted`: itself, or its proxy.

    Raises:
        EstimateError: there is neither.
    """
    if wanted.estimate:
        return wanted
    if wanted.proxy is not None:
        return targets()[wanted.proxy]
    able = ", ".join(entry.name for entry in targets().values() if entry.estimate)
    raise EstimateError(
        f"Qualcomm's compiler gives no latency estimate for {wanted.name} (soc_model "
        f"{wanted.soc_model}) and no "
        f"proxy is known: measure on the device, or estimate for one of {able}"
    )


def details(entry: Target) -> str:
    """Return one target with the source of each figure, a line each."""
    lines = [f"{entry.name}: {entry.title}"]
    if entry.aliases:
        lines.append(f"  also called {', '.join(entry.aliases)}")
    for figure in FIGURES:
        value = getattr(entry, figure)
        told = WORDS.get(value, value) if value is None or isinstance(value, bool) else value
        source = f"  [{entry.sources[figure]}]" if figure in entry.sources else ""
        lines.append(f"  {figure:9} {told}{source}")
    if entry.proxy is not None:
        lines.append(f"  estimated by {entry.proxy}: {entry.proxy_why}")
    return "\n".join(lines)


def table(chosen: Iterable[Target]) -> str:
    """Return targets as a text table."""
    head = ("target", "device", *FIGURES, "aliases")
    rows = [head, *(cells(entry) for entry in chosen)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def cells(entry: Target) -> tuple[str, ...]:
    """Return one row of the table."""
    estimate = "yes" if entry.estimate else f"by {entry.proxy}" if entry.proxy else "no"
    figures = (entry.hexagon, entry.vtcm_mib, entry.npus, entry.tops)
    return (
        entry.name,
        entry.title,
        str(entry.soc_model),
        *("?" if figure is None else str(figure) for figure in figures),
        "?" if entry.fp16 is None else WORDS[entry.fp16],
        estimate,
        ", ".join(entry.aliases),
    )
