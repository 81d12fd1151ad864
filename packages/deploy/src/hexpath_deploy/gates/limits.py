"""gates.toml: the limits, and which gates may stay without a figure."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from hexpath_deploy.errors import GatesFileError, nearest

BEST_F1, PASSING = "best-f1", "passing"
RULES = (BEST_F1, PASSING)
# Of each gate: which side its limit is on, its options beside the common ones, and their types.
SIDES = {
    "latency_ms": "max",
    "size_mb": "max",
    "memory_mb": "max",
    "recall": "min",
    "precision": "min",
    "night_map50": "min",
    "false_positives_per_image": "max",
    "class_iou": "min",
    "night_miou": "min",
    "scenes": "min",
    "cpu_operators": "max",
    "agreement_db": "min",
    "map_loss": "max",
    "class_map_loss": "max",
    "mask_map_loss": "max",
    "class_mask_map_loss": "max",
    "miou_loss": "max",
    "class_iou_loss": "max",
    "class_collapse": "min",
}
PER_CLASS = (
    "recall",
    "precision",
    "class_iou",
    "class_map_loss",
    "class_mask_map_loss",
    "class_iou_loss",
    "class_collapse",
)
# Gates of some tasks only; all others hold for every task.
BOXES, MASKS, PIXELS = ("detect", "segment"), ("segment",), ("semantic",)
TASKS = {
    "recall": BOXES,
    "precision": BOXES,
    "night_map50": BOXES,
    "false_positives_per_image": BOXES,
    "map_loss": BOXES,
    "class_map_loss": BOXES,
    "mask_map_loss": MASKS,
    "class_mask_map_loss": MASKS,
    "class_iou": PIXELS,
    "night_miou": PIXELS,
    "miou_loss": PIXELS,
    "class_iou_loss": PIXELS,
}
OPTIONS: dict[str, dict[str, type]] = {
    "latency_ms": {"host_factor": float},
    "night_map50": {"times": list, "images": int},
    "night_miou": {"times": list, "images": int},
}
COMMON = ("required", "reason")


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One table of the file: `side` is `max` or `min`; `classes` are limits of single classes."""

    gate: str
    side: str
    value: float
    required: bool = True
    reason: str = ""
    classes: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def of(self, subject: str) -> float:
        """Return the limit of a class, or the common one."""
        return self.classes.get(subject, self.value)

    def holds(self, figure: float, subject: str) -> bool:
        """Say whether a figure is within the limit."""
        return figure <= self.of(subject) if self.side == "max" else figure >= self.of(subject)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The whole file. `threshold` is a score, or `best-f1`; `iou` the overlap of a match."""

    path: str
    threshold: float | str
    iou: float
    gates: Mapping[str, Limit]

    def of_task(self, task: str) -> tuple[Limit, ...]:
        """Return the limits of the gates that hold for a task; of an unknown task, those of a detector.

        Raises:
            GatesFileError: one of them is missing: none may be forgotten.
        """
        wanted = gates_of(task)
        missing = [name for name in wanted if name not in self.gates]
        if missing:
            raise GatesFileError(
                f"{self.path} has no [{missing[0]}]: give every gate of task '{task}' a limit; one that "
                "cannot have a figure here is waived by required = false and a reason"
            )
        return tuple(self.gates[name] for name in wanted)


def gates_of(task: str) -> tuple[str, ...]:
    """Return the names of the gates that hold for a task."""
    known = task if task in {*BOXES, *PIXELS} else "detect"
    return tuple(name for name in SIDES if known in TASKS.get(name, (known,)))


def read_limits(path: Path | None, *, threshold: str | None = None) -> Limits:
    """Read gates.toml; without a path the one of this package. `threshold` takes the place of the file's.

    Raises:
        GatesFileError: no such file, no TOML, a gate is unknown, or a value is of the wrong type.
    """
    where = str(path) if path is not None else "the package's gates.toml"
    try:
        source = path if path is not None else files("hexpath_deploy.gates").joinpath("gates.toml")
        data = tomllib.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GatesFileError(f"no such gates file {path}: leave --gates away for the package's own") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GatesFileError(f"{where} is no TOML ({error})") from error
    general = data.pop("general", {})
    check_keys(general, ("threshold", "iou"), where=f"{where}, [general]")
    check_keys(data, SIDES, where=where)
    return Limits(
        path=where,
        threshold=threshold_of(
            general.get("threshold", 0.25) if threshold is None else number_or_name(threshold), where=where
        ),
        iou=share(general.get("iou", 0.5), where=f"{where}, [general] iou"),
        gates={name: read_gate(name, data[name], where=f"{where}, [{name}]") for name in data},
    )


def check_keys(table: Mapping[str, Any], known: Any, *, where: str) -> None:
    """Refuse unknown keys, offering the nearest."""
    for key in table:
        if key not in known:
            raise GatesFileError(f"{where}: unknown '{key}'{nearest(key, known)}")


def read_gate(name: str, table: Any, *, where: str) -> Limit:
    """Read one table."""
    if not isinstance(table, dict):
        raise GatesFileError(f"{where}: expected a table with {SIDES[name]} = NUMBER, found {table!r}")
    side, options = SIDES[name], OPTIONS.get(name, {})
    check_keys(table, (side, *COMMON, *options, *(("classes",) if name in PER_CLASS else ())), where=where)
    if side not in table:
        raise GatesFileError(f"{where}: '{side}' is missing")
    required, reason = table.get("required", True), table.get("reason", "")
    if not isinstance(required, bool) or not isinstance(reason, str):
        raise GatesFileError(f"{where}: required is true or false, reason a text")
    if not required and not reason.strip():
        raise GatesFileError(f'{where}: required = false needs a reason = "..."')
    return Limit(
        gate=name,
        side=side,
        value=number(table[side], where=f"{where} {side}"),
        required=required,
        reason=reason,
        classes={
            kind: number(value, where=f"{where} classes.{kind}")
            for kind, value in table.get("classes", {}).items()
        },
        options={
            key: option(table[key], kind, where=f"{where} {key}")
            for key, kind in options.items()
            if key in table
        },
    )


def number(value: Any, *, where: str) -> float:
    """Return a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:
        raise GatesFileError(f"{where}: expected a number, found {value!r}")
    return float(value)


def option(value: Any, kind: type, *, where: str) -> Any:
    """Return an option of the type that it must have."""
    if kind is float:
        return number(value, where=where)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise GatesFileError(f"{where}: expected {kind.__name__}, found {value!r}")
    return value


def share(value: Any, *, where: str) -> float:
    """Return a number above 0 and below 1."""
    found = number(value, where=where)
    if not 0 < found < 1:
        raise GatesFileError(f"{where}: {found} does not lie between 0 and 1")
    return found


def number_or_name(text: str) -> float | str:
    """Return a number of the command line as such."""
    try:
        return float(text)
    except ValueError:
        return text


def threshold_of(value: Any, *, where: str) -> float | str:
    """Return the score threshold, or the name of the rule that picks it."""
    if isinstance(value, str):
        if value not in RULES:
            raise GatesFileError(
                f"{where}, [general] threshold: '{value}' is no number{nearest(value, RULES)}"
            )
        return value
    return share(value, where=f"{where}, [general] threshold")
